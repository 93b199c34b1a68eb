"""Settings of a region of code: autocast, float32 precision, debug."""
