"""Neural importance sampling with NumPy and Numba."""
