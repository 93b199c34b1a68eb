"""Attention found in a graph, for targets that have a kernel for it."""
