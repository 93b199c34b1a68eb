"""Machine code on a CPU: LLVM, threads, memory, executables."""
