; kernel branches
;   %p0 x f32[16]
;   %p1 y f32[16]
define void @branches(ptr %args, i64 %begin, i64 %end) #0 {
entry:
  %some = icmp slt i64 %begin, %end
  br i1 %some, label %run, label %done
run:
  %a0 = getelementptr ptr, ptr %args, i64 0
  %p0 = load ptr, ptr %a0, align 8
  %a1 = getelementptr ptr, ptr %args, i64 1
  %p1 = load ptr, ptr %a1, align 8
  call void @branches.body(ptr %p0, ptr %p1, i64 %begin, i64 %end)
  br label %done
done:
  ret void
}
define internal void @branches.body(ptr noalias readonly %p0, ptr noalias %p1, i64 %begin, i64 %end) #0 {
entry:
  br label %loop1
loop1:  ; j
  %v1 = phi i64 [ 0, %entry ], [ %v8, %join4 ]
  %v5 = phi float [ 0x0000000000000000, %entry ], [ %v7, %join4 ]
  %v2 = getelementptr float, ptr %p0, i64 %v1
  %v3 = load float, ptr %v2, align 4
  %v4 = fcmp olt float %v3, 0x0000000000000000
  %v6 = fadd contract float %v5, %v3
  br i1 %v4, label %then3, label %join4
then3:
  br label %join4
join4:
  %v7 = phi float [ %v6, %then3 ], [ %v5, %loop1 ]
  %v8 = add nuw nsw i64 %v1, 1
  %v9 = icmp slt i64 %v8, 4
  br i1 %v9, label %loop1, label %done2, !llvm.loop !0
done2:
  %v10 = load <8 x float>, ptr %p0, align 4
  %v11 = insertelement <8 x float> poison, float %v7, i64 0
  %v12 = shufflevector <8 x float> %v11, <8 x float> poison, <8 x i32> zeroinitializer
  %v13 = fcmp olt <8 x float> %v12, %v10
  %v14 = call i1 @llvm.vector.reduce.or.v8i1(<8 x i1> %v13)
  %v15 = sitofp <8 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7> to <8 x float>
  br i1 %v14, label %then5, label %join6
then5:
  call void @llvm.masked.store.v8f32.p0(<8 x float> %v15, ptr align 4 %p1, <8 x i1> %v13)
  br label %join6
join6:
  ret void
}

declare void @llvm.masked.store.v8f32.p0(<8 x float>, ptr, <8 x i1>)
declare i1 @llvm.vector.reduce.or.v8i1(<8 x i1>)

attributes #0 = { nounwind nofree "no-builtins" }

!0 = distinct !{!0, !1, !2}
!1 = !{!"llvm.loop.unroll.disable"}
!2 = !{!"llvm.loop.vectorize.enable", i1 false}
