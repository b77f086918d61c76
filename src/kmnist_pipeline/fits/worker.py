"""Workers for fits on a Dask cluster: `python -m kmnist_pipeline.fits.worker tls://HOST:8786`.

This selects the arithmetic and runs Dask's worker command with its options. The default is one
process for each core, with one thread. It can be the `worker_command` of dask-jobqueue.
"""

from __future__ import annotations

import sys

import click

from kmnist_pipeline import arithmetic
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.fits.address import checked, is_loopback


def main(arguments: list[str]) -> int:
    """Work until the scheduler ends or a signal comes; the exit status is 1 if it cannot start."""
    try:
        arithmetic.select()
        _work(arguments)
    except click.exceptions.Exit as end:  # after --help
        return end.exit_code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _work(arguments: list[str]) -> None:
    """Run Dask's command with the given options, and our defaults for the others."""
    import loky
    from distributed.cli import dask_worker

    defaults = {"nthreads": 1, "dashboard_address": "127.0.0.1:0"}
    try:
        context = dask_worker.main.make_context("worker", arguments, default_map=defaults)
    except click.UsageError as error:
        raise UserError(error.format_message()) from error
    given = context.params
    if not given["scheduler"]:
        raise UserError(
            "name the scheduler: python -m kmnist_pipeline.fits.worker tcp://127.0.0.1:8786"
        )
    address = checked(given["scheduler"])
    if given["n_workers"] is None and given["nanny"]:
        given["n_workers"] = max(1, loky.cpu_count() // (given["nthreads"] or 1))
    if is_loopback(address) and not any(given[n] for n in ("host", "listen_address", "interface")):
        given["host"] = "127.0.0.1"  # Dask's default is all network interfaces
    dask_worker.main.invoke(context)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
