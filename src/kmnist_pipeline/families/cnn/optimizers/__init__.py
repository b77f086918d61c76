"""Optimizers, one a module."""
