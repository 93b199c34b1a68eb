"""What one operation is in LLVM instructions: functions of a `Builder` and its values, without a state of their own."""
