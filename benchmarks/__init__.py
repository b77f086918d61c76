"""Measurements; run by `make bench`."""

import os

from kmnist_pipeline import arithmetic

INHERITED = dict(os.environ)  # what other processes are to start with: without the variables below
arithmetic.select()  # before any measurement loads NumPy
