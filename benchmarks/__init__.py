"""dlc against torch eager, torch.compile and JAX, side by side: `python -m benchmarks --help`."""
