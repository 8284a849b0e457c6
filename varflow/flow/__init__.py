"""The flow: what it is made of, its maps and its density."""
