; The functions that walk the tables of a program's launches (tables.py, which also explains `$LAUNCH` and the frame).
;
;   arguments   writes the addresses of one launch's arguments
;   run         makes the launches from number %begin to %end of the table; `$call` is one of the next two, in profiles
;               with its time taken, and `$last` the block in which it ends
;   call        in programs whose kernels all run on the calling thread
;   spread      in the others
;   timed       `$call`, whose time is added to that of launch %number
;
; Upper-case placeholders are constants of tables.py.

;! arguments
define internal void @dlc_arguments(
    ptr %args, ptr %frame, i64 %first, i64 %count, i64 %depth) nounwind {
entry:
  %slots = load ptr, ptr %frame, align 8
  %counters = getelementptr i64, ptr %frame, i64 $COUNTERS
  %start = getelementptr i64, ptr @dlc_rows, i64 %first
  %moves = icmp sgt i64 %depth, 0
  %any = icmp sgt i64 %count, 0
  br i1 %any, label %argument, label %leave
argument:
  %k = phi i64 [ 0, %entry ], [ %next, %place ]
  %row = phi ptr [ %start, %entry ], [ %after, %place ]
  %base = load i64, ptr %row, align 8
  %field = sub i64 0, %base
  %given = icmp sge i64 %base, 0
  %list = select i1 %given, ptr %slots, ptr %frame
  %number = select i1 %given, i64 %base, i64 %field
  %found = getelementptr ptr, ptr %list, i64 %number
  %pointer = load ptr, ptr %found, align 8
  %offsetp = getelementptr i64, ptr %row, i64 1
  %fixed = load i64, ptr %offsetp, align 8
  %steps = getelementptr i64, ptr %row, i64 2
  %after = getelementptr i64, ptr %steps, i64 %depth
  br i1 %moves, label %move, label %place
move:
  %d = phi i64 [ 0, %argument ], [ %deeper, %move ]
  %sum = phi i64 [ %fixed, %argument ], [ %moved, %move ]
  %stepp = getelementptr i64, ptr %steps, i64 %d
  %step = load i64, ptr %stepp, align 8
  %counterp = getelementptr i64, ptr %counters, i64 %d
  %counter = load i64, ptr %counterp, align 8
  %way = mul i64 %step, %counter
  %moved = add i64 %sum, %way
  %deeper = add nuw nsw i64 %d, 1
  %again = icmp slt i64 %deeper, %depth
  br i1 %again, label %move, label %place
place:
  %offset = phi i64 [ %fixed, %argument ], [ %moved, %move ]
  %address = getelementptr i8, ptr %pointer, i64 %offset
  %to = getelementptr ptr, ptr %args, i64 %k
  store ptr %address, ptr %to, align 8
  %next = add nuw nsw i64 %k, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %argument, label %leave
leave:
  ret void
}

;! run
define internal void @dlc_run(ptr %args, ptr %frame, i64 %begin, i64 %end) nounwind {
entry:
  br label %next
next:
  %k = phi i64 [ %begin, %entry ], [ %more, %$last ]
  %launch = getelementptr $LAUNCH, ptr @dlc_launches, i64 %k
  %function = load ptr, ptr %launch, align 8
  %firstp = getelementptr $LAUNCH, ptr %launch, i64 0, i32 1
  %first = load i64, ptr %firstp, align 8
  %countp = getelementptr $LAUNCH, ptr %launch, i64 0, i32 2
  %count = load i64, ptr %countp, align 8
  %depthp = getelementptr $LAUNCH, ptr %launch, i64 0, i32 3
  %depth = load i64, ptr %depthp, align 8
  %tasksp = getelementptr $LAUNCH, ptr %launch, i64 0, i32 4
  %tasks = load i64, ptr %tasksp, align 8
  %grainp = getelementptr $LAUNCH, ptr %launch, i64 0, i32 5
  %grain = load i64, ptr %grainp, align 8
  %numberp = getelementptr $LAUNCH, ptr %launch, i64 0, i32 6
  %number = load i64, ptr %numberp, align 8
  call void @dlc_arguments(ptr %args, ptr %frame, i64 %first, i64 %count, i64 %depth)
$call
  %more = add nuw nsw i64 %k, 1
  %again = icmp slt i64 %more, %end
  br i1 %again, label %next, label %leave
leave:
  ret void
}

;! call
  call void %function(ptr %args, i64 0, i64 %tasks)

;! spread
  %alone = icmp sge i64 %grain, %tasks
  br i1 %alone, label %here, label %spread
here:
  call void %function(ptr %args, i64 0, i64 %tasks)
  br label %done
spread:
  call void @dlc_parallel(ptr %function, ptr %args, i64 %tasks, i64 %grain)
  br label %done
done:

;! timed
  %before = call i64 @dlc_now()
$call
  %after = call i64 @dlc_now()
  %spent = sub i64 %after, %before
  %timesp = getelementptr i64, ptr %frame, i64 $TIMES
  %times = load ptr, ptr %timesp, align 8
  %time = getelementptr i64, ptr %times, i64 %number
  %ignored = atomicrmw add ptr %time, i64 %spent monotonic, align 8
