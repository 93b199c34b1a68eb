"""Loop IR as CUDA C text."""
