"""Augmentations of training images, one a module."""
