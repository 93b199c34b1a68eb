"""Facts of a CPU and of a GPU, and the schedules that were measured for it."""
