"""Functions of functions: grad, vjp, jvp, vmap, scan, checkpoint, custom kernels."""
