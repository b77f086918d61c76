"""The stages that dvc.yaml runs, one a module."""

import sys

from kmnist_pipeline import arithmetic
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import reads

reads.watch()  # before a stage reads anything
try:
    arithmetic.select()  # before a stage loads NumPy
except UserError as error:
    sys.exit(f"error: {error}")
