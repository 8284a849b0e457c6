"""Weighted points: checked once at the border, and on disk."""
