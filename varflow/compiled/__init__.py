"""Integrands in compiled code: where they come from, how they are called, and what can be checked of them."""
