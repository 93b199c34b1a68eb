; Quarter turns taken off a large float64 (quadrants.py, which computes the placeholders).
;
;   table   the binary digits of 2/pi, the leading ones first
;   pio2    the number of quarter turns modulo 4 (added to `$magic`), and what is left of %x, in two parts
;
; The product of the 53 digits of %x with those digits of 2/pi that matter at its size (Payne and Hanek 1983): what
; stands above two bits left of the point is a multiple of a whole turn, 137 bits right of it are right, and no float64
; is closer than 2^-62 to a multiple of a quarter turn.

;! table
@dlc.two_over_pi = internal unnamed_addr constant [$count x i64] [$words]

;! pio2
define internal { double, double, double } @dlc.pio2(double %x) cold noinline #0 {
  %bits = bitcast double %x to i64
  %negative = icmp slt i64 %bits, 0
  %high = lshr i64 %bits, 52
  %exponent = and i64 %high, 2047
  %fraction = and i64 %bits, $fraction
  %digits = or i64 %fraction, $leading
  %digit = sub i64 %exponent, $before_table
  %inside = icmp ule i64 %digit, $last
  %first = select i1 %inside, i64 %digit, i64 0
  %word = lshr i64 %first, 6
  %shift = and i64 %first, 63
  %p0 = getelementptr i64, ptr @dlc.two_over_pi, i64 %word
  %p1 = getelementptr i64, ptr %p0, i64 1
  %p2 = getelementptr i64, ptr %p0, i64 2
  %p3 = getelementptr i64, ptr %p0, i64 3
  %w0 = load i64, ptr %p0
  %w1 = load i64, ptr %p1
  %w2 = load i64, ptr %p2
  %w3 = load i64, ptr %p3
  %f0 = call i64 @llvm.fshl.i64(i64 %w0, i64 %w1, i64 %shift)
  %f1 = call i64 @llvm.fshl.i64(i64 %w1, i64 %w2, i64 %shift)
  %f2 = call i64 @llvm.fshl.i64(i64 %w2, i64 %w3, i64 %shift)
  %g0 = zext i64 %f0 to i192
  %g1 = zext i64 %f1 to i192
  %g2 = zext i64 %f2 to i192
  %h0 = shl i192 %g0, 128
  %h1 = shl i192 %g1, 64
  %h01 = or i192 %h0, %h1
  %of_pi = or i192 %h01, %g2
  %wide = zext i64 %digits to i192
  %quarters = mul i192 %of_pi, %wide  ; in units of 2^-190, modulo 4
  %rounded = add i192 %quarters, $half
  %top = lshr i192 %rounded, 190
  %up = trunc i192 %top to i64
  %down = sub i64 4, %up
  %turned = select i1 %negative, i64 %down, i64 %up
  %count = and i64 %turned, 3
  %part = shl i192 %quarters, 2  ; of a quarter, in units of 2^-192, from -1/2 to 1/2
  %below = icmp slt i192 %part, 0
  %minus = sub i192 0, %part
  %size = select i1 %below, i192 %minus, i192 %part
  %zeros = call i192 @llvm.ctlz.i192(i192 %size, i1 false)
  %full = shl i192 %size, %zeros
  %upper = lshr i192 %full, 64
  %factor = zext i192 %upper to i256
  %product = mul i256 %factor, $half_pi  ; in units of 2^-(255 + zeros)
  %topped = icmp slt i256 %product, 0
  %one = select i1 %topped, i256 0, i256 1
  %normal = shl i256 %product, %one
  %a = lshr i256 %normal, 203
  %b = lshr i256 %normal, 150
  %angle53 = trunc i256 %a to i64
  %next53 = trunc i256 %b to i64
  %rest53 = and i64 %next53, $digits53
  %zeros64 = trunc i192 %zeros to i64
  %one64 = trunc i256 %one to i64
  %less = add i64 %zeros64, %one64
  %ea = sub i64 $exponent_angle, %less
  %eb = sub i64 $exponent_rest, %less
  %sa = shl i64 %ea, 52
  %sb = shl i64 %eb, 52
  %scale_a = bitcast i64 %sa to double
  %scale_b = bitcast i64 %sb to double
  %fa = sitofp i64 %angle53 to double
  %fb = sitofp i64 %rest53 to double
  %angle = fmul double %fa, %scale_a
  %rest = fmul double %fb, %scale_b
  %angle_minus = fneg double %angle
  %rest_minus = fneg double %rest
  %flip = xor i1 %below, %negative
  %angle_signed = select i1 %flip, double %angle_minus, double %angle
  %rest_signed = select i1 %flip, double %rest_minus, double %rest
  %count_f = sitofp i64 %count to double
  %marked = fadd double %count_f, $magic
  %r0 = insertvalue { double, double, double } poison, double %marked, 0
  %r1 = insertvalue { double, double, double } %r0, double %angle_signed, 1
  %r2 = insertvalue { double, double, double } %r1, double %rest_signed, 2
  ret { double, double, double } %r2
}
