"""How training images are varied, one a module."""
