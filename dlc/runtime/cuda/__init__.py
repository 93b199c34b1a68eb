"""Machine code on an NVIDIA GPU: NVRTC, streams, memory, CUDA graphs."""
