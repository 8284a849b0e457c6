"""Workers that evaluate an integrand: processes of our own, and the pools that users have."""
