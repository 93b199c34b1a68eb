"""Derivatives and batching as transforms of the Graph IR: vjp, jvp, vmap and their rules."""
