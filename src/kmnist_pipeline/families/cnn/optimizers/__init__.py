"""The algorithms that update weights, one a module."""
