; kernel pointwise  schedule {'lanes': 16}
;   net.py:7
;   %p0 x f32[20]
;   %p1 b f32[1]
;   %p2 y f32[20]
define void @pointwise(ptr %args, i64 %begin, i64 %end) #0 {
entry:
  %some = icmp slt i64 %begin, %end
  br i1 %some, label %run, label %done
run:
  %a0 = getelementptr ptr, ptr %args, i64 0
  %p0 = load ptr, ptr %a0, align 8
  %a1 = getelementptr ptr, ptr %args, i64 1
  %p1 = load ptr, ptr %a1, align 8
  %a2 = getelementptr ptr, ptr %args, i64 2
  %p2 = load ptr, ptr %a2, align 8
  call void @pointwise.body(ptr %p0, ptr %p1, ptr %p2, i64 %begin, i64 %end)
  br label %done
done:
  ret void
}
define internal void @pointwise.body(ptr noalias readonly %p0, ptr noalias readonly %p1, ptr noalias %p2, i64 %begin, i64 %end) #0 {
entry:
  %v1 = load float, ptr %p1, align 4
  %v2 = load <16 x float>, ptr %p0, align 4
  %v3 = fmul contract <16 x float> %v2, splat (float 0x4000000000000000)
  %v4 = insertelement <16 x float> poison, float %v1, i64 0
  %v5 = shufflevector <16 x float> %v4, <16 x float> poison, <16 x i32> zeroinitializer
  %v6 = fadd contract <16 x float> %v3, %v5
  %v7 = fcmp ogt <16 x float> splat (float 0x0000000000000000), %v6
  %v8 = select <16 x i1> %v7, <16 x float> splat (float 0x0000000000000000), <16 x float> %v6
  store <16 x float> %v8, ptr %p2, align 4
  %v9 = getelementptr float, ptr %p0, i64 16
  %v10 = call <16 x float> @llvm.masked.load.v16f32.p0(ptr align 4 %v9, <16 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0>, <16 x float> zeroinitializer)
  %v11 = fmul contract <16 x float> %v10, splat (float 0x4000000000000000)
  %v12 = fadd contract <16 x float> %v11, %v5
  %v13 = fcmp ogt <16 x float> splat (float 0x0000000000000000), %v12
  %v14 = select <16 x i1> %v13, <16 x float> splat (float 0x0000000000000000), <16 x float> %v12
  %v15 = getelementptr float, ptr %p2, i64 16
  call void @llvm.masked.store.v16f32.p0(<16 x float> %v14, ptr align 4 %v15, <16 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0, i1 0>)
  ret void
}

declare <16 x float> @llvm.masked.load.v16f32.p0(ptr, <16 x i1>, <16 x float>)
declare void @llvm.masked.store.v16f32.p0(<16 x float>, ptr, <16 x i1>)

attributes #0 = { nounwind nofree "no-builtins" }

!0 = distinct !{!0, !1, !2}
!1 = !{!"llvm.loop.unroll.disable"}
!2 = !{!"llvm.loop.vectorize.enable", i1 false}
