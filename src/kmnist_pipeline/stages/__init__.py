"""The six stages: each reads like the line in dvc.yaml that runs it."""

import sys

from kmnist_pipeline import arithmetic
from kmnist_pipeline.errors import UserError

try:
    arithmetic.select()  # before any stage loads NumPy
except UserError as error:
    sys.exit(f"error: {error}")
