; The thread pool. `dlc_parallel` runs %fn(%args, begin, end) over the ranges [k*grain, min(n, (k+1)*grain)) of [0, n)
; on all threads, the caller included, and returns when all ranges are done.
;
; All threads share one 32-bit word, @state: a generation (16 bits), an `open` bit and the count of workers inside. The
; caller writes the job, bumps the generation and opens; a worker enters by incrementing the word with a
; compare-and-swap, which fails if the job was closed meanwhile. When the caller finds no more ranges it closes the job
; and waits for the count to fall to 0. So a worker that is late (asleep, or preempted) is simply not waited for, and
; none can be inside when the next job is written.
;
; A range is taken from an atomic counter. Idle workers spin for `$spin` nanoseconds, since waking a sleeper takes 100
; us and kernels follow each other in microseconds; then they sleep on the state word (futex; elsewhere than Linux they
; poll).
;
; A caller that finds the pool taken (by another Python thread, or by itself further up the stack) runs its whole range
; alone: that cannot deadlock, and with all threads busy it is not slower.
;
; threads.py computes the placeholders: bits of @state (`$open`, `$count`, ...), and what differs between operating
; systems and processors (`$declarations`, `$pause`, `$sleep`, `$wake`, `$clock`, `$setmask`, `$faults`).

;! pool
; Each on its own pair of cache lines, so that taking a range does not slow the threads that watch the state.
%job_t = type { ptr, ptr, i64, i64 }
@state = internal global i32 0, align 128            ; generation:16, open:1, workers inside:15
@next = internal global i64 0, align 128             ; the next range to take
@job = internal global %job_t zeroinitializer, align 128   ; fn, args, n, grain
@lock = internal global i32 0, align 128             ; 1: a job is running, or the pool is being changed
@sleepers = internal global i32 0, align 128         ; workers asleep, or about to look once more and sleep
@epoch = internal global i32 0, align 128            ; workers of an older epoch go home
@limit = internal global i32 1                       ; threads to use, the caller included
@spawned = internal global i32 0                     ; workers of this epoch; guarded by the lock
@refused = internal global i1 false                  ; the system gave fewer workers than wanted: do not ask again

$declarations
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(i64)
declare i32 @pthread_attr_init(ptr)
declare i32 @pthread_attr_setstacksize(ptr, i64)
declare i32 @pthread_attr_destroy(ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @sigfillset(ptr)
declare i32 @sigdelset(ptr, i32)
declare i32 @sched_yield()
declare i32 @clock_gettime(i32, ptr)
declare i64 @llvm.smax.i64(i64, i64)
declare i64 @llvm.smin.i64(i64, i64)

define void @dlc_parallel(ptr %fn, ptr %args, i64 %n, i64 %grain_asked) nounwind {
entry:
  %grain = call i64 @llvm.smax.i64(i64 %grain_asked, i64 1)
  %empty = icmp sle i64 %n, 0
  br i1 %empty, label %done, label %not_empty
not_empty:
  %one_range = icmp sle i64 %n, %grain
  %threads = load atomic i32, ptr @limit monotonic, align 4
  %one_thread = icmp sle i32 %threads, 1
  %direct = or i1 %one_range, %one_thread
  br i1 %direct, label %alone, label %try_look
try_look:
  %held = load atomic i32, ptr @lock monotonic, align 4
  %busy = icmp ne i32 %held, 0
  br i1 %busy, label %alone, label %try_take
try_take:
  %taken = atomicrmw xchg ptr @lock, i32 1 acquire
  %lost = icmp ne i32 %taken, 0
  br i1 %lost, label %alone, label %owner
owner:
  call void @spawn_missing()
  %workers = load i32, ptr @spawned
  %nobody = icmp eq i32 %workers, 0
  br i1 %nobody, label %owner_alone, label %publish
owner_alone:
  store atomic i32 0, ptr @lock release, align 4
  br label %alone
alone:
  call void %fn(ptr %args, i64 0, i64 %n)
  br label %done
publish:
  store ptr %fn, ptr @job
  store ptr %args, ptr getelementptr (%job_t, ptr @job, i32 0, i32 1)
  store i64 %n, ptr getelementptr (%job_t, ptr @job, i32 0, i32 2)
  store i64 %grain, ptr getelementptr (%job_t, ptr @job, i32 0, i32 3)
  store atomic i64 1, ptr @next monotonic, align 8   ; the caller keeps range 0
  %closed = load atomic i32, ptr @state monotonic, align 4
  %bumped = add i32 %closed, $next_generation
  %opened = or i32 %bumped, $open
  ; Sequentially consistent, as is the sleeper's count: either we see the sleeper, or it sees the job.
  %before = atomicrmw xchg ptr @state, i32 %opened seq_cst
  %asleep = load atomic i32, ptr @sleepers seq_cst, align 4
  %any_asleep = icmp ne i32 %asleep, 0
  br i1 %any_asleep, label %wake_some, label %work
wake_some:
  %less_one = sub i64 %n, 1
  %useful = sdiv i64 %less_one, %grain
  %useful_32 = call i64 @llvm.smin.i64(i64 %useful, i64 $count)
  %wanted = trunc i64 %useful_32 to i32
  call void @wake(i32 %wanted)
  br label %work
work:
  call void %fn(ptr %args, i64 0, i64 %grain)
  call void @take_ranges(ptr %fn, ptr %args, i64 %n, i64 %grain)
  %at_close = atomicrmw and ptr @state, i32 $not_open acq_rel
  %inside_at_close = and i32 %at_close, $count
  %quiet = icmp eq i32 %inside_at_close, 0
  br i1 %quiet, label %release, label %join
join:
  %tries = phi i32 [ 0, %work ], [ %tries_next, %join_again ]
  %now = load atomic i32, ptr @state acquire, align 4
  %inside = and i32 %now, $count
  %joined = icmp eq i32 %inside, 0
  br i1 %joined, label %release, label %join_wait
join_wait:
  $pause
  %tries_next = add i32 %tries, 1
  %patient = icmp ult i32 %tries, 2000
  br i1 %patient, label %join_again, label %join_yield
join_yield:                                            ; perhaps the worker waits for our processor
  call i32 @sched_yield()
  br label %join_again
join_again:
  br label %join
release:
  store atomic i32 0, ptr @lock release, align 4
  br label %done
done:
  ret void
}

define internal void @take_ranges(ptr %fn, ptr %args, i64 %n, i64 %grain) nounwind {
entry:
  br label %next_range
next_range:
  %k = atomicrmw add ptr @next, i64 1 monotonic
  %begin = mul i64 %k, %grain
  %over = icmp sge i64 %begin, %n
  br i1 %over, label %done, label %run
run:
  %whole_end = add i64 %begin, %grain
  %end = call i64 @llvm.smin.i64(i64 %whole_end, i64 %n)
  call void %fn(ptr %args, i64 %begin, i64 %end)
  br label %next_range
done:
  ret void
}

define internal ptr @worker(ptr %epoch_arg) nounwind {
entry:
  %epoch_int = ptrtoint ptr %epoch_arg to i64
  %mine = trunc i64 %epoch_int to i32
  br label %idle
idle:                                                  ; %seen: the generation already worked on (1: none)
  %seen = phi i32 [ 1, %entry ], [ %seen, %up ], [ %generation_done, %leave ]
  %start = call i64 @nanoseconds()
  %deadline = add i64 %start, $spin
  br label %watch
watch:
  %looks = phi i32 [ 0, %idle ], [ %looks_next, %watch_pause ], [ %looks, %enter ], [ 1, %watch_clock ]
  %s = load atomic i32, ptr @state acquire, align 4
  %has_job = call i1 @is_news(i32 %s, i32 %seen)
  br i1 %has_job, label %enter, label %nothing
nothing:
  %looks_next = add i32 %looks, 1
  %look_round = and i32 %looks_next, 31
  %time_to_check = icmp eq i32 %look_round, 0
  br i1 %time_to_check, label %check, label %watch_pause
watch_pause:
  $pause
  br label %watch
check:
  %epoch_now = load atomic i32, ptr @epoch acquire, align 4
  %old = icmp ne i32 %epoch_now, %mine
  br i1 %old, label %home, label %watch_clock
watch_clock:
  %t = call i64 @nanoseconds()
  %tired = icmp sgt i64 %t, %deadline
  br i1 %tired, label %lie_down, label %watch
lie_down:
  %c0 = atomicrmw add ptr @sleepers, i32 1 seq_cst
  %seen_state = load atomic i32, ptr @state seq_cst, align 4
  %epoch_last = load atomic i32, ptr @epoch seq_cst, align 4   ; after the state: who ends the epoch bumps it first
  %still_mine = icmp eq i32 %epoch_last, %mine
  %came = call i1 @is_news(i32 %seen_state, i32 %seen)
  %not_came = xor i1 %came, true
  %may_sleep = and i1 %still_mine, %not_came
  br i1 %may_sleep, label %sleep, label %woken
sleep:
  $sleep
  ; Whoever wakes us has counted us out already: until we run again, others must not spend a system call on us.
  %counted_out = icmp eq i64 %slept, 0
  br i1 %counted_out, label %up, label %woken
woken:
  %c1 = atomicrmw sub ptr @sleepers, i32 1 seq_cst
  br label %up
up:
  %epoch_woken = load atomic i32, ptr @epoch acquire, align 4
  %go_home = icmp ne i32 %epoch_woken, %mine
  br i1 %go_home, label %home, label %idle
enter:
  %entered = add i32 %s, 1
  %swap = cmpxchg ptr @state, i32 %s, i32 %entered acq_rel monotonic
  %ok = extractvalue { i32, i1 } %swap, 1
  br i1 %ok, label %inside, label %watch
inside:
  %fn = load ptr, ptr @job
  %args = load ptr, ptr getelementptr (%job_t, ptr @job, i32 0, i32 1)
  %n = load i64, ptr getelementptr (%job_t, ptr @job, i32 0, i32 2)
  %grain = load i64, ptr getelementptr (%job_t, ptr @job, i32 0, i32 3)
  call void @take_ranges(ptr %fn, ptr %args, i64 %n, i64 %grain)
  %generation_done = and i32 %s, $generation
  br label %leave
leave:
  %c2 = atomicrmw sub ptr @state, i32 1 release
  br label %idle
home:
  ret ptr null
}

; Whether this state is an open job of another generation than the one seen.
define internal i1 @is_news(i32 %s, i32 %seen) alwaysinline nounwind {
  %open_bit = and i32 %s, $open
  %is_open = icmp ne i32 %open_bit, 0
  %generation = and i32 %s, $generation
  %is_other = icmp ne i32 %generation, %seen
  %news = and i1 %is_open, %is_other
  ret i1 %news
}

define internal i64 @nanoseconds() nounwind {
  %time = alloca { i64, i64 }
  %rc = call i32 @clock_gettime(i32 $clock, ptr %time)
  %seconds = load i64, ptr %time
  %rest_p = getelementptr { i64, i64 }, ptr %time, i32 0, i32 1
  %rest = load i64, ptr %rest_p
  %scaled = mul i64 %seconds, 1000000000
  %sum = add i64 %scaled, %rest
  ret i64 %sum
}

define internal void @wake(i32 %count) noinline nounwind {
  $wake
  %woke_32 = trunc i64 %woke to i32
  %c = atomicrmw sub ptr @sleepers, i32 %woke_32 seq_cst
  ret void
}

; Create the workers that the limit asks for. The caller holds the lock.
define internal void @spawn_missing() noinline nounwind {
entry:
  %have0 = load i32, ptr @spawned
  %threads = load atomic i32, ptr @limit monotonic, align 4
  %want = sub i32 %threads, 1
  %missing = icmp slt i32 %have0, %want
  %refused0 = load i1, ptr @refused
  %hopeful = xor i1 %refused0, true
  %create = and i1 %missing, %hopeful
  br i1 %create, label %prepare, label %done
prepare:
  %attributes = alloca [128 x i8], align 16
  %blocked = alloca [128 x i8], align 16
  %blocked_before = alloca [128 x i8], align 16
  %thread = alloca i64
  %r0 = call i32 @pthread_attr_init(ptr %attributes)
  %r1 = call i32 @pthread_attr_setstacksize(ptr %attributes, i64 8388608)
  %r2 = call i32 @sigfillset(ptr %blocked)
$faults
  %r3 = call i32 @pthread_sigmask(i32 $setmask, ptr %blocked, ptr %blocked_before)
  %epoch_now = load atomic i32, ptr @epoch monotonic, align 4
  %epoch_int = zext i32 %epoch_now to i64
  %epoch_arg = inttoptr i64 %epoch_int to ptr
  br label %one
one:
  %have = phi i32 [ %have0, %prepare ], [ %have_next, %made ]
  %enough = icmp sge i32 %have, %want
  br i1 %enough, label %restore, label %make
make:
  %rc = call i32 @pthread_create(ptr %thread, ptr %attributes, ptr @worker, ptr %epoch_arg)
  %failed = icmp ne i32 %rc, 0
  br i1 %failed, label %refuse, label %made
made:
  %id = load i64, ptr %thread
  %r4 = call i32 @pthread_detach(i64 %id)
  %have_next = add i32 %have, 1
  br label %one
refuse:
  store i1 true, ptr @refused
  br label %restore
restore:
  store i32 %have, ptr @spawned
  %r5 = call i32 @pthread_sigmask(i32 $setmask, ptr %blocked_before, ptr null)
  %r6 = call i32 @pthread_attr_destroy(ptr %attributes)
  br label %done
done:
  ret void
}

; Waits for a running job. Fewer threads: all workers go home, and the next job creates those it needs.
define void @dlc_pool_set_threads(i32 %threads) nounwind {
entry:
  br label %try
try:
  %taken = atomicrmw xchg ptr @lock, i32 1 acquire
  %lost = icmp ne i32 %taken, 0
  br i1 %lost, label %wait, label %owner
wait:
  %r = call i32 @sched_yield()
  br label %try
owner:
  store atomic i32 %threads, ptr @limit monotonic, align 4
  store i1 false, ptr @refused
  %have = load i32, ptr @spawned
  %too_many = icmp sge i32 %have, %threads
  br i1 %too_many, label %dismiss, label %done
dismiss:
  store i32 0, ptr @spawned
  %e = atomicrmw add ptr @epoch, i32 1 seq_cst
  %s = atomicrmw add ptr @state, i32 $next_generation seq_cst
  call void @wake(i32 $count)
  br label %done
done:
  store atomic i32 0, ptr @lock release, align 4
  ret void
}

; In a forked child: no workers, no job, nobody asleep.
define void @dlc_pool_reset() nounwind {
  store i32 0, ptr @spawned
  store i1 false, ptr @refused
  store atomic i32 0, ptr @sleepers seq_cst, align 4
  %e = atomicrmw add ptr @epoch, i32 1 seq_cst
  store atomic i32 0, ptr @state seq_cst, align 4
  store atomic i32 0, ptr @lock seq_cst, align 4
  ret void
}
