"""A program's entry function as LLVM IR: the thread pool's launches and their tables."""
