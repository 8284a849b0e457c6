"""Training of flows on weighted points."""
