"""`@dlc.jit`: signatures, traces, guards, compiled entries."""
