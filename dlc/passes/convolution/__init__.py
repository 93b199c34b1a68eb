"""What a convolution need not compute: padding, slices, zeros between elements."""
