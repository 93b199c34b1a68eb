"""Programs: launches in order on slots of memory, and their interpreter."""
