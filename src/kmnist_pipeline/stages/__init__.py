"""The seven stages that dvc.yaml runs, one a module."""

import sys

from kmnist_pipeline import arithmetic
from kmnist_pipeline.errors import UserError

try:
    arithmetic.select()  # before a stage loads NumPy
except UserError as error:
    sys.exit(f"error: {error}")
