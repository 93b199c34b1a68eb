; kernel row_sum
;   %p0 x f32[400]
;   %p1 y f32[10]
define void @row_sum(ptr %args, i64 %begin, i64 %end) #0 {
entry:
  %some = icmp slt i64 %begin, %end
  br i1 %some, label %run, label %done
run:
  %a0 = getelementptr ptr, ptr %args, i64 0
  %p0 = load ptr, ptr %a0, align 8
  %a1 = getelementptr ptr, ptr %args, i64 1
  %p1 = load ptr, ptr %a1, align 8
  call void @row_sum.body(ptr %p0, ptr %p1, i64 %begin, i64 %end)
  br label %done
done:
  ret void
}
define internal void @row_sum.body(ptr noalias readonly %p0, ptr noalias %p1, i64 %begin, i64 %end) #0 {
entry:
  br label %loop1
loop1:  ; r
  %v1 = phi i64 [ %begin, %entry ], [ %v30, %done4 ]
  %v5 = mul i64 %v1, 40
  %v2 = getelementptr float, ptr %p1, i64 %v1
  store float 0x0000000000000000, ptr %v2, align 4
  %v6 = getelementptr float, ptr %p0, i64 %v5
  br label %loop3
loop3:  ; i
  %v3 = phi i64 [ 0, %loop1 ], [ %v10, %loop3 ]
  %v4 = phi <16 x float> [ splat (float 0x8000000000000000), %loop1 ], [ %v9, %loop3 ]
  %v7 = getelementptr float, ptr %v6, i64 %v3
  %v8 = load <16 x float>, ptr %v7, align 4
  %v9 = fadd contract <16 x float> %v4, %v8
  %v10 = add nuw nsw i64 %v3, 16
  %v11 = icmp slt i64 %v10, 32
  br i1 %v11, label %loop3, label %done4, !llvm.loop !0
done4:
  %v12 = getelementptr float, ptr %v6, i64 32
  %v13 = call <16 x float> @llvm.masked.load.v16f32.p0(ptr align 4 %v12, <16 x i1> <i1 1, i1 1, i1 1, i1 1, i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0>, <16 x float> zeroinitializer)
  %v14 = fadd contract <16 x float> %v9, %v13
  %v15 = select <16 x i1> <i1 1, i1 1, i1 1, i1 1, i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0>, <16 x float> %v14, <16 x float> %v9
  %v16 = shufflevector <16 x float> %v15, <16 x float> poison, <8 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7>
  %v17 = shufflevector <16 x float> %v15, <16 x float> poison, <8 x i32> <i32 8, i32 9, i32 10, i32 11, i32 12, i32 13, i32 14, i32 15>
  %v18 = fadd contract <8 x float> %v16, %v17
  %v19 = shufflevector <8 x float> %v18, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v20 = shufflevector <8 x float> %v18, <8 x float> poison, <4 x i32> <i32 4, i32 5, i32 6, i32 7>
  %v21 = fadd contract <4 x float> %v19, %v20
  %v22 = shufflevector <4 x float> %v21, <4 x float> poison, <2 x i32> <i32 0, i32 1>
  %v23 = shufflevector <4 x float> %v21, <4 x float> poison, <2 x i32> <i32 2, i32 3>
  %v24 = fadd contract <2 x float> %v22, %v23
  %v25 = extractelement <2 x float> %v24, i64 0
  %v26 = extractelement <2 x float> %v24, i64 1
  %v27 = fadd contract float %v25, %v26
  %v28 = load float, ptr %v2, align 4
  %v29 = fadd contract float %v28, %v27
  store float %v29, ptr %v2, align 4
  %v30 = add nuw nsw i64 %v1, 1
  %v31 = icmp slt i64 %v30, %end
  br i1 %v31, label %loop1, label %done2, !llvm.loop !0
done2:
  ret void
}

declare <16 x float> @llvm.masked.load.v16f32.p0(ptr, <16 x i1>, <16 x float>)

attributes #0 = { nounwind nofree "no-builtins" }

!0 = distinct !{!0, !1, !2}
!1 = !{!"llvm.loop.unroll.disable"}
!2 = !{!"llvm.loop.vectorize.enable", i1 false}
