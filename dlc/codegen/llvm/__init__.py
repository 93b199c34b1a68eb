"""Loop IR as LLVM IR text."""
