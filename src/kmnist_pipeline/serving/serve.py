"""Serve the champion of a dataset over HTTP on this machine: `make serve`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from kmnist_pipeline import arithmetic
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.serving import registry

HOST = "127.0.0.1"


def serve(dataset: str, port: str) -> None:
    """Become MLflow's scoring server for the champion; does not return.

    Raises UserError if there is no champion.
    """
    champion = registry.champion(dataset)
    if champion is None:
        raise UserError(
            f"no champion of {dataset} is registered: `kmnist promote --dataset {dataset}` "
            "makes the best model the champion"
        )
    print(
        f"{champion.classifier.name}, version {champion.version} of {dataset}: "
        f"http://{HOST}:{port}/invocations",
        flush=True,
    )
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    arithmetic.select()  # for the server that this process becomes
    server = str(Path(__file__).with_name("scoring.py"))
    version = f"models:/{dataset}/{champion.version}"
    os.execv(sys.executable, [sys.executable, "-P", server, version, champion.md5, HOST, port])


if __name__ == "__main__":
    try:
        serve(*sys.argv[1:])
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
