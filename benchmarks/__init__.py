"""Measurements; run by `make bench`."""

import os

from kmnist_pipeline import arithmetic

INHERITED = dict(os.environ)  # for other processes: the environment without the variables below
arithmetic.select()  # before any measurement loads NumPy
