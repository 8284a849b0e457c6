"""Compiled loops over arrays of points; they know arrays and small tuples alone."""
