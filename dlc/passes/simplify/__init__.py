"""One walk over the graph with rules looked up by operation."""
