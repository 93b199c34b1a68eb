; A flow: pieces of launches, run in an order that lets each start when those that it depends on are done.
;
;   dlc_flows   clears the counters of a flow and lets every thread run dlc_flow
;   dlc_flow    one thread: its own list first, then what others have left; alone it runs all pieces in their order
;   dlc_ready   whether the launches that a piece depends on are done
;   dlc_piece   runs a piece and counts it as done for its launch
;   dlc_claim   whether the claim is this thread's
;   dlc_steal   takes a piece of another thread that can start
;
; The lists of a flow are words: where the list of each thread begins (and the last one ends), then for each list the
; numbers of its pieces, filled up with -1 to whole cache lines. The claim of the entry at such a place has the same
; place among the claims.
;
; `$width` is the most arguments that a thread finds for itself, `$pause` the instruction of a thread that waits, and
; `$call` calls %function for the tasks of a piece. Upper-case placeholders are constants of tables.py.

;! task_graph
$declare_pause
declare i32 @sched_yield()

define internal void @dlc_flows(
    ptr %frame, i64 %first, i64 %count, i64 %lists, i64 %launches, i64 %threads) nounwind {
entry:
  %start = getelementptr $PIECE, ptr @dlc_pieces, i64 %first
  %piecesp = getelementptr i64, ptr %frame, i64 $PIECES
  store ptr %start, ptr %piecesp, align 8
  %countp = getelementptr i64, ptr %frame, i64 $COUNT
  store i64 %count, ptr %countp, align 8
  %own = getelementptr i64, ptr @dlc_lists, i64 %lists
  %listsp = getelementptr i64, ptr %frame, i64 $LISTS
  store ptr %own, ptr %listsp, align 8
  %threadsp = getelementptr i64, ptr %frame, i64 $THREADS
  store i64 %threads, ptr %threadsp, align 8
  %done_at = getelementptr i64, ptr %frame, i64 $DONE
  %done = load ptr, ptr %done_at, align 8
  %counters = mul i64 %launches, $LINE
  %claims = getelementptr i64, ptr %done, i64 %counters
  %claimsp = getelementptr i64, ptr %frame, i64 $CLAIMS
  store ptr %claims, ptr %claimsp, align 8
  %lastp = getelementptr i64, ptr %own, i64 %threads
  %entries = load i64, ptr %lastp, align 8
  %words = add i64 %counters, %entries
  br label %clear
clear:
  %w = phi i64 [ 0, %entry ], [ %next, %clear ]
  %word = getelementptr i64, ptr %done, i64 %w
  store atomic i64 0, ptr %word monotonic, align 8
  %next = add i64 %w, 1
  %more = icmp slt i64 %next, %words
  br i1 %more, label %clear, label %fork
fork:
  call void @dlc_parallel(ptr @dlc_flow, ptr %frame, i64 %threads, i64 1)
  ret void
}

define internal i1 @dlc_ready(ptr %frame, i64 %k) nounwind {
entry:
  %pieces_at = getelementptr i64, ptr %frame, i64 $PIECES
  %pieces = load ptr, ptr %pieces_at, align 8
  %done_at = getelementptr i64, ptr %frame, i64 $DONE
  %done = load ptr, ptr %done_at, align 8
  %piece = getelementptr $PIECE, ptr %pieces, i64 %k
  %waitp = getelementptr $PIECE, ptr %piece, i64 0, i32 8
  %wait = load i64, ptr %waitp, align 8
  %enoughp = getelementptr $PIECE, ptr %piece, i64 0, i32 9
  %enough = load i64, ptr %enoughp, align 8
  br label %check
check:
  %w = phi i64 [ %wait, %entry ], [ %w_next, %look ]
  %open = icmp slt i64 %w, %enough
  br i1 %open, label %look, label %yes
look:
  %entryp = getelementptr $WAIT, ptr @dlc_waits, i64 %w
  %other = load i64, ptr %entryp, align 8
  %neededp = getelementptr $WAIT, ptr %entryp, i64 0, i32 1
  %needed = load i64, ptr %neededp, align 8
  %counter = getelementptr i64, ptr %done, i64 %other
  %now = load atomic i64, ptr %counter acquire, align 8
  %there = icmp sge i64 %now, %needed
  %w_next = add i64 %w, 1
  br i1 %there, label %check, label %no
yes:
  ret i1 true
no:
  ret i1 false
}

define internal void @dlc_piece(ptr %frame, i64 %k) nounwind {
entry:
  %mine = alloca [$width x ptr], align 64
  %args_at = getelementptr i64, ptr %frame, i64 $ARGS
  %args = load ptr, ptr %args_at, align 8
  %pieces_at = getelementptr i64, ptr %frame, i64 $PIECES
  %pieces = load ptr, ptr %pieces_at, align 8
  %done_at = getelementptr i64, ptr %frame, i64 $DONE
  %done = load ptr, ptr %done_at, align 8
  %piece = getelementptr $PIECE, ptr %pieces, i64 %k
  %function = load ptr, ptr %piece, align 8
  %firstp = getelementptr $PIECE, ptr %piece, i64 0, i32 1
  %first = load i64, ptr %firstp, align 8
  %countp = getelementptr $PIECE, ptr %piece, i64 0, i32 2
  %count = load i64, ptr %countp, align 8
  %depthp = getelementptr $PIECE, ptr %piece, i64 0, i32 3
  %depth = load i64, ptr %depthp, align 8
  %fromp = getelementptr $PIECE, ptr %piece, i64 0, i32 4
  %from = load i64, ptr %fromp, align 8
  %top = getelementptr $PIECE, ptr %piece, i64 0, i32 5
  %to = load i64, ptr %top, align 8
  %numberp = getelementptr $PIECE, ptr %piece, i64 0, i32 6
  %number = load i64, ptr %numberp, align 8
  %placep = getelementptr $PIECE, ptr %piece, i64 0, i32 7
  %place = load i64, ptr %placep, align 8
  %given = icmp eq i64 %count, 0
  br i1 %given, label %shared, label %own
shared:
  %there = getelementptr ptr, ptr %args, i64 %first
  br label %run
own:
  call void @dlc_arguments(ptr %mine, ptr %frame, i64 %first, i64 %count, i64 %depth)
  br label %run
run:
  %arguments = phi ptr [ %there, %shared ], [ %mine, %own ]
$call
  %counter = getelementptr i64, ptr %done, i64 %place
  %ignored_count = atomicrmw add ptr %counter, i64 1 release, align 8
  ret void
}

define internal i1 @dlc_claim(ptr %claim) nounwind {
  %before = atomicrmw xchg ptr %claim, i64 1 monotonic, align 8
  %won = icmp eq i64 %before, 0
  ret i1 %won
}

; 0: every piece is claimed, 1: one was run, 2: none can start
define internal i64 @dlc_steal(ptr %frame) nounwind {
entry:
  %lists_at = getelementptr i64, ptr %frame, i64 $LISTS
  %lists = load ptr, ptr %lists_at, align 8
  %claims_at = getelementptr i64, ptr %frame, i64 $CLAIMS
  %claims = load ptr, ptr %claims_at, align 8
  %threads_at = getelementptr i64, ptr %frame, i64 $THREADS
  %threads = load i64, ptr %threads_at, align 8
  %lastp = getelementptr i64, ptr %lists, i64 %threads
  %last = load i64, ptr %lastp, align 8
  %numbers = getelementptr i64, ptr %lastp, i64 1
  br label %next
next:
  %j = phi i64 [ 0, %entry ], [ %j_next, %skip ]
  %left = phi i64 [ 0, %entry ], [ %left_next, %skip ]
  %inside = icmp slt i64 %j, %last
  br i1 %inside, label %look, label %nothing
look:
  %j_next = add i64 %j, 1
  %kp = getelementptr i64, ptr %numbers, i64 %j
  %k = load i64, ptr %kp, align 8
  %real = icmp sge i64 %k, 0
  br i1 %real, label %claimed, label %skip
claimed:
  %claim = getelementptr i64, ptr %claims, i64 %j
  %taken = load atomic i64, ptr %claim monotonic, align 8
  %free = icmp eq i64 %taken, 0
  br i1 %free, label %able, label %skip
able:
  %can = call i1 @dlc_ready(ptr %frame, i64 %k)
  br i1 %can, label %try, label %skip
try:
  %won = call i1 @dlc_claim(ptr %claim)
  br i1 %won, label %run, label %skip
run:
  call void @dlc_piece(ptr %frame, i64 %k)
  ret i64 1
skip:
  %left_next = phi i64 [ %left, %look ], [ %left, %claimed ], [ 2, %able ], [ %left, %try ]
  br label %next
nothing:
  ret i64 %left
}

define internal void @dlc_flow(ptr %frame, i64 %thread, i64 %end) nounwind {
entry:
  %all_at = getelementptr i64, ptr %frame, i64 $COUNT
  %all = load i64, ptr %all_at, align 8
  %lists_at = getelementptr i64, ptr %frame, i64 $LISTS
  %lists = load ptr, ptr %lists_at, align 8
  %claims_at = getelementptr i64, ptr %frame, i64 $CLAIMS
  %claims = load ptr, ptr %claims_at, align 8
  %threads_at = getelementptr i64, ptr %frame, i64 $THREADS
  %threads = load i64, ptr %threads_at, align 8
  %beyond = sub i64 %end, %thread
  %alone = icmp sgt i64 %beyond, 1
  br i1 %alone, label %one, label %several
one:
  %k_alone = phi i64 [ 0, %entry ], [ %k_next, %one ]
  call void @dlc_piece(ptr %frame, i64 %k_alone)
  %k_next = add i64 %k_alone, 1
  %k_more = icmp slt i64 %k_next, %all
  br i1 %k_more, label %one, label %leave
several:
  %startp = getelementptr i64, ptr %lists, i64 %thread
  %start = load i64, ptr %startp, align 8
  %stopp = getelementptr i64, ptr %startp, i64 1
  %stop = load i64, ptr %stopp, align 8
  %endp = getelementptr i64, ptr %lists, i64 %threads
  %numbers = getelementptr i64, ptr %endp, i64 1
  br label %next
next:
  %j = phi i64 [ %start, %several ], [ %j_next, %advance ]
  %inside = icmp slt i64 %j, %stop
  br i1 %inside, label %number, label %help
number:
  %kp = getelementptr i64, ptr %numbers, i64 %j
  %k = load i64, ptr %kp, align 8
  %claim = getelementptr i64, ptr %claims, i64 %j
  %real = icmp sge i64 %k, 0
  br i1 %real, label %look, label %help
look:
  %tries = phi i64 [ 0, %number ], [ %tries_next, %pause ], [ %tries_next, %other ], [ %tries_next, %yield ]
  %tries_next = add i64 %tries, 1
  %taken = load atomic i64, ptr %claim monotonic, align 8
  %free = icmp eq i64 %taken, 0
  br i1 %free, label %able, label %advance
able:
  %can = call i1 @dlc_ready(ptr %frame, i64 %k)
  br i1 %can, label %try, label %wait
try:
  %won = call i1 @dlc_claim(ptr %claim)
  br i1 %won, label %run, label %advance
run:
  call void @dlc_piece(ptr %frame, i64 %k)
  br label %advance
advance:
  %j_next = add i64 %j, 1
  br label %next
wait:
  %turn = urem i64 %tries_next, $PATIENCE
  %patient = icmp ne i64 %turn, 0
  br i1 %patient, label %pause, label %other
pause:
  $pause
  br label %look
other:
  %found = call i64 @dlc_steal(ptr %frame)
  %helped = icmp eq i64 %found, 1
  %short = icmp ult i64 %tries_next, 2048
  %go_on = or i1 %helped, %short
  br i1 %go_on, label %look, label %yield
yield:
  %ignored_rc = call i32 @sched_yield()
  br label %look
help:
  %idle = phi i64 [ 0, %next ], [ 0, %number ], [ %idle_next, %rest ], [ 0, %took ], [ %idle_next, %give ]
  %idle_next = add i64 %idle, 1
  %idle_turn = urem i64 %idle, $PATIENCE
  %waits = icmp ne i64 %idle_turn, 0
  br i1 %waits, label %rest, label %seek
rest:
  $pause
  br label %help
seek:
  %what = call i64 @dlc_steal(ptr %frame)
  switch i64 %what, label %still [ i64 0, label %leave
                                   i64 1, label %took ]
took:
  br label %help
still:
  %long = icmp ugt i64 %idle_next, 2048
  br i1 %long, label %give, label %rest
give:
  %ignored_help = call i32 @sched_yield()
  br label %help
leave:
  ret void
}
