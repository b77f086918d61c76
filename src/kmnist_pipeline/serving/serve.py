"""Serve the champion of a dataset over HTTP on this machine: `make serve`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from kmnist_pipeline import arithmetic, ports
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.repository.names import printable
from kmnist_pipeline.serving import candidates, registry

HOST = "127.0.0.1"


def main() -> None:
    """Serve the dataset at the port that the command line names."""
    parser = argparse.ArgumentParser("serve", description=__doc__)
    parser.add_argument("dataset", metavar="DATASET")
    parser.add_argument("port", metavar="PORT", type=ports.number)
    chosen = parser.parse_args()
    try:
        serve(chosen.dataset, chosen.port)
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")


def serve(dataset: str, port: int) -> None:
    """Become MLflow's scoring server for the champion; does not return.

    If there is no champion, the best model that is here becomes it. Raises UserError if none can.
    """
    champion = registry.champion(dataset)
    if champion is None:
        way = "the best model here becomes the champion"
        print(f"no champion of {dataset} is registered: {way}", flush=True)
        for line in registry.promote(candidates.best(dataset), force=False):
            print(line, flush=True)
        champion = registry.champion(dataset)
        assert champion is not None
    print(
        f"{printable(champion.classifier.name)}, version {champion.version} of {dataset}: "
        f"http://{HOST}:{port}/invocations",
        flush=True,
    )
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    arithmetic.select()  # for the server that this process becomes
    server = str(Path(__file__).with_name("scoring.py"))
    version = f"models:/{dataset}/{champion.version}"
    os.execv(
        sys.executable, [sys.executable, "-P", server, version, champion.digest, HOST, str(port)]
    )


if __name__ == "__main__":
    main()
