"""Transcendental functions as polynomials and tables in the Loop IR."""
