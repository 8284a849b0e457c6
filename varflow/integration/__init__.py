"""Integration by importance sampling from a flow."""
