"""A Dask cluster on this machine, to try one out: `make cluster`.

The scheduler and one worker for each core listen only on 127.0.0.1 and end with this process. Other
users of this machine can reach them, and Dask executes what it receives.
"""

from __future__ import annotations

import argparse
import signal
import sys

import loky

from kmnist_pipeline import arithmetic, ports
from kmnist_pipeline.errors import UserError

HOST = "127.0.0.1"
TTL = "60s"  # a worker without a heartbeat for this long is replaced


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGINT, SIGTERM or SIGHUP; the exit status is then 0."""
    parser = argparse.ArgumentParser("cluster", description=__doc__)
    parser.add_argument("--port", type=ports.number, default=8786)
    parser.add_argument("--workers", type=int, default=loky.cpu_count())
    chosen = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        arithmetic.select()
        _serve(chosen.port, chosen.workers)
    except KeyboardInterrupt:
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


def _serve(port: int, workers: int) -> None:
    ports.require_free(HOST, port)
    import dask
    import distributed

    dask.config.set({"distributed.scheduler.worker-ttl": TTL})
    with distributed.LocalCluster(
        host=HOST,
        scheduler_port=port,
        n_workers=workers,
        threads_per_worker=1,
        dashboard_address=f"{HOST}:0",
        worker_dashboard_address=f"{HOST}:0",
    ) as cluster:
        print(f"{workers} workers are ready; in another terminal:", flush=True)
        print(f"  export KMNIST_SCHEDULER={cluster.scheduler_address}", flush=True)
        print("Ctrl-C ends them.", flush=True)
        try:
            signal.pause()
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # a second signal would leave workers behind


if __name__ == "__main__":
    sys.exit(main())
