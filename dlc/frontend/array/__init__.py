"""The array functions, most of them named as in NumPy, PyTorch and the array API standard."""
