"""Groups of the graph as scheduled loops, for GPUs."""
