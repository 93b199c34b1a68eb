"""The frontend floor: Tensor, array functions, jit and the function transforms. Users meet all of it as `dlc.*`."""
