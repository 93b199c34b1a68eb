"""The schedule of each kernel: chosen, proposed for measuring, or looked up."""
