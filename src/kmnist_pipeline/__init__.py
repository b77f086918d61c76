"""Reproducible character classification on KMNIST and MNIST."""

import importlib.util
import sys

if importlib.util.find_spec("hydra") is None:
    sys.exit(
        f"error: {sys.executable} is not the interpreter of this project: run `make setup`, "
        "then `source .venv/bin/activate`"
    )
