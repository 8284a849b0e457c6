"""Compiled loops over arrays of points: the same names and signatures in each backend."""
