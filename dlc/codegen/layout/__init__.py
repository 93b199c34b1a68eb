"""In which order tensors lie in memory, and operands packed for the target's matrix instructions."""
