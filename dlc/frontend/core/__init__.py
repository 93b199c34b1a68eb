"""Tensors as cells of graph nodes, what a trace records, and when values are computed."""
