; kernel clamped_rows
;   %p0 x f32[960]
;   %p1 y f32[96]
define void @clamped_rows(ptr %args, i64 %begin, i64 %end) #0 {
entry:
  %some = icmp slt i64 %begin, %end
  br i1 %some, label %run, label %done
run:
  %a0 = getelementptr ptr, ptr %args, i64 0
  %p0 = load ptr, ptr %a0, align 8
  %a1 = getelementptr ptr, ptr %args, i64 1
  %p1 = load ptr, ptr %a1, align 8
  call void @clamped_rows.body(ptr %p0, ptr %p1, i64 %begin, i64 %end)
  br label %done
done:
  ret void
}
define internal void @clamped_rows.body(ptr noalias readonly %p0, ptr noalias %p1, i64 %begin, i64 %end) #0 {
entry:
  br label %loop1
loop1:  ; t
  %v1 = phi i64 [ 0, %entry ], [ %v39, %done4 ]
  %v3 = mul i64 %v1, 32
  %v6 = mul i64 %v1, 384
  %v4 = getelementptr float, ptr %p1, i64 %v3
  %v7 = getelementptr float, ptr %p0, i64 %v6
  %v19 = mul i64 %v1, 4
  %v20 = add i64 %v19, 2
  %v21 = call i64 @llvm.smin.i64(i64 %v20, i64 9)
  %v22 = mul i64 %v21, 96
  %v23 = getelementptr float, ptr %p0, i64 %v22
  %v29 = add i64 %v19, 3
  %v30 = call i64 @llvm.smin.i64(i64 %v29, i64 9)
  %v31 = mul i64 %v30, 96
  %v32 = getelementptr float, ptr %p0, i64 %v31
  br label %loop3
loop3:  ; k
  %v2 = phi i64 [ 0, %loop1 ], [ %v36, %loop3 ]
  %v8 = phi i64 [ 0, %loop1 ], [ %v38, %loop3 ]
  %v5 = load <8 x float>, ptr %v4, align 4
  %v9 = getelementptr float, ptr %v7, i64 %v8
  %v10 = load <8 x float>, ptr %v9, align 4
  %v11 = fadd contract <8 x float> %v5, %v10
  store <8 x float> %v11, ptr %v4, align 4
  %v12 = getelementptr float, ptr %v4, i64 8
  %v13 = load <8 x float>, ptr %v12, align 4
  %v14 = getelementptr float, ptr %v9, i64 96
  %v15 = load <8 x float>, ptr %v14, align 4
  %v16 = fadd contract <8 x float> %v13, %v15
  store <8 x float> %v16, ptr %v12, align 4
  %v17 = getelementptr float, ptr %v4, i64 16
  %v18 = load <8 x float>, ptr %v17, align 4
  %v24 = getelementptr float, ptr %v23, i64 %v8
  %v25 = load <8 x float>, ptr %v24, align 4
  %v26 = fadd contract <8 x float> %v18, %v25
  store <8 x float> %v26, ptr %v17, align 4
  %v27 = getelementptr float, ptr %v4, i64 24
  %v28 = load <8 x float>, ptr %v27, align 4
  %v33 = getelementptr float, ptr %v32, i64 %v8
  %v34 = load <8 x float>, ptr %v33, align 4
  %v35 = fadd contract <8 x float> %v28, %v34
  store <8 x float> %v35, ptr %v27, align 4
  %v38 = add nsw i64 %v8, 8
  %v36 = add nuw nsw i64 %v2, 1
  %v37 = icmp slt i64 %v36, 12
  br i1 %v37, label %loop3, label %done4, !llvm.loop !0
done4:
  %v39 = add nuw nsw i64 %v1, 1
  %v40 = icmp slt i64 %v39, 3
  br i1 %v40, label %loop1, label %done2, !llvm.loop !0
done2:
  ret void
}

declare i64 @llvm.smin.i64(i64, i64)

attributes #0 = { nounwind nofree "no-builtins" }

!0 = distinct !{!0, !1, !2}
!1 = !{!"llvm.loop.unroll.disable"}
!2 = !{!"llvm.loop.vectorize.enable", i1 false}
