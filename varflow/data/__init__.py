"""Weighted points: validated once, where they enter the library, and stored on disk."""
