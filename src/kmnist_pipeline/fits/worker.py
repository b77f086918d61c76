"""Workers for fits on a Dask cluster: `python -m kmnist_pipeline.fits.worker tls://HOST:8786`.

This selects the arithmetic and runs Dask's worker command with its options. The default is one
process for each core, with one thread. It can be the `worker_command` of dask-jobqueue.
"""

from __future__ import annotations

import sys

from kmnist_pipeline import arithmetic
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.fits.address import checked, is_loopback


def main(arguments: list[str]) -> int:
    """Work until the scheduler ends or a signal comes; the exit status is 1 if it cannot start."""
    try:
        arithmetic.select()
        command = arguments if "--help" in arguments else _options(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    from distributed.cli import dask_worker

    dask_worker.main(command)
    return 0


def _options(arguments: list[str]) -> list[str]:
    """The given options for Dask, and our defaults for the others."""
    import click
    import loky
    from distributed.cli import dask_worker

    try:
        context = dask_worker.main.make_context("worker", list(arguments), resilient_parsing=True)
        given = {
            name
            for name in context.params
            if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        }
    except click.UsageError as error:
        raise UserError(error.format_message()) from error
    if "scheduler" not in given:
        raise UserError(
            "name the scheduler: python -m kmnist_pipeline.fits.worker tcp://127.0.0.1:8786"
        )
    address = checked(context.params["scheduler"])
    added = []
    threads = context.params["nthreads"] or 1
    if "nthreads" not in given:
        added += ["--nthreads", "1"]
    if "n_workers" not in given and context.params["nanny"]:
        added += ["--nworkers", str(max(1, loky.cpu_count() // threads))]
    if not given & {"host", "listen_address", "interface"} and is_loopback(address):
        added += ["--host", "127.0.0.1"]  # Dask's default is all network interfaces
    if "dashboard_address" not in given:
        added += ["--dashboard-address", "127.0.0.1:0"]
    return [*arguments, *added]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
