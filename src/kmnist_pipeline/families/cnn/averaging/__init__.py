"""Averages of the weights that are validated and kept, one a module."""
