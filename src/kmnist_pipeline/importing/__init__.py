"""Datasets from a user's folders and files: reading, checking, comparing and writing them."""
