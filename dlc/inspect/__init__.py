"""What the compiler makes of a graph, stage by stage, for people to read: `dlc dump` and `fn.lower(...)`."""
