"""Graph -> Graph: derivatives, batching, simplification; Graph -> kernels: fusion and memory plan."""
