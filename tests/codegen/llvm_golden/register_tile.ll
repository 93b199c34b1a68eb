; kernel register_tile
;   %p0 a f32[10]
;   %p1 b f32[40]
;   %p2 c f32[16]
define void @register_tile(ptr %args, i64 %begin, i64 %end) #0 {
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
  call void @register_tile.body(ptr %p0, ptr %p1, ptr %p2, i64 %begin, i64 %end)
  br label %done
done:
  ret void
}
define internal void @register_tile.body(ptr noalias readonly %p0, ptr noalias readonly %p1, ptr noalias %p2, i64 %begin, i64 %end) #0 {
entry:
  br label %loop1
loop1:  ; k
  %v1 = phi i64 [ 0, %entry ], [ %v17, %loop1 ]
  %v2 = phi <8 x float> [ splat (float 0x0000000000000000), %entry ], [ %v10, %loop1 ]
  %v11 = phi <8 x float> [ splat (float 0x0000000000000000), %entry ], [ %v16, %loop1 ]
  %v5 = phi i64 [ 0, %entry ], [ %v19, %loop1 ]
  %v3 = getelementptr float, ptr %p0, i64 %v1
  %v4 = load float, ptr %v3, align 4
  %v6 = getelementptr float, ptr %p1, i64 %v5
  %v7 = load <8 x float>, ptr %v6, align 4
  %v8 = insertelement <8 x float> poison, float %v4, i64 0
  %v9 = shufflevector <8 x float> %v8, <8 x float> poison, <8 x i32> zeroinitializer
  %v10 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v9, <8 x float> %v7, <8 x float> %v2)
  %v12 = getelementptr float, ptr %v3, i64 5
  %v13 = load float, ptr %v12, align 4
  %v14 = insertelement <8 x float> poison, float %v13, i64 0
  %v15 = shufflevector <8 x float> %v14, <8 x float> poison, <8 x i32> zeroinitializer
  %v16 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v15, <8 x float> %v7, <8 x float> %v11)
  %v19 = add nsw i64 %v5, 8
  %v17 = add nuw nsw i64 %v1, 1
  %v18 = icmp slt i64 %v17, 5
  br i1 %v18, label %loop1, label %done2, !llvm.loop !0
done2:
  store <8 x float> %v10, ptr %p2, align 4
  %v20 = getelementptr float, ptr %p2, i64 8
  store <8 x float> %v16, ptr %v20, align 4
  ret void
}

declare <8 x float> @llvm.fma.v8f32(<8 x float>, <8 x float>, <8 x float>)

attributes #0 = { nounwind nofree "no-builtins" }

!0 = distinct !{!0, !1, !2}
!1 = !{!"llvm.loop.unroll.disable"}
!2 = !{!"llvm.loop.vectorize.enable", i1 false}
