"""What the Loop IR means, in NumPy."""
