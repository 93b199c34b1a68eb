; Functions that a program's entry calls (program.py).
;
;   now        nanoseconds, of a clock that only goes forwards
;   segments   calls $kernel for each of the $count segments, `$width` arguments each, of which some task is among those
;              from %begin to %end; `$starts` are the numbers of the segments' first tasks, and of the end

;! now
define internal i64 @dlc_now() nounwind {
  %t = alloca { i64, i64 }, align 8
  %r = call i32 @clock_gettime(i32 $clock, ptr %t)
  %s = load i64, ptr %t, align 8
  %p = getelementptr i64, ptr %t, i64 1
  %n = load i64, ptr %p, align 8
  %b = mul i64 %s, 1000000000
  %c = add i64 %b, %n
  ret i64 %c
}
declare i32 @clock_gettime(i32, ptr)

;! segments
@${name}_starts = internal constant [$bounds x i64] [$starts]
define internal void @$name(ptr %args, i64 %begin, i64 %end) nounwind {
entry:
  br label %segment
segment:
  %s = phi i64 [ 0, %entry ], [ %next, %done ]
  %next = add nuw nsw i64 %s, 1
  %lowp = getelementptr i64, ptr @${name}_starts, i64 %s
  %highp = getelementptr i64, ptr @${name}_starts, i64 %next
  %low = load i64, ptr %lowp, align 8
  %high = load i64, ptr %highp, align 8
  %after = icmp sgt i64 %begin, %low
  %from = select i1 %after, i64 %begin, i64 %low
  %before = icmp slt i64 %end, %high
  %to = select i1 %before, i64 %end, i64 %high
  %some = icmp slt i64 %from, %to
  br i1 %some, label %run, label %done
run:
  %b = sub i64 %from, %low
  %e = sub i64 %to, %low
  %at = mul i64 %s, $width
  %own = getelementptr ptr, ptr %args, i64 %at
  call void @$kernel(ptr %own, i64 %b, i64 %e)
  br label %done
done:
  %more = icmp slt i64 %next, $count
  br i1 %more, label %segment, label %leave
leave:
  ret void
}
