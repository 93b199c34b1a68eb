"""Shapes in, schedule parameters out: formulas only."""
