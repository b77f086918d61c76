"""List or clean the store of fits.

The store is a cache: deleted fits must be trained again. It is the folder .kmnist/fits, or the
folder that KMNIST_FITS names, such as one that a team shares.

  kmnist fits            list the fits by experiment and study
  kmnist fits --clean    remove the fits that no stage of params.yaml uses
  kmnist fits --clear    remove everything

`--clean` and `--clear` also remove fits that other branches, or other people who share the folder,
still use.
"""

from argparse import ArgumentParser, Namespace

from kmnist_pipeline.cli.common import read_params, say
from kmnist_pipeline.errors import UserError


def add(parser: ArgumentParser) -> None:
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--clean", action="store_true", help="remove the fits that no stage of params.yaml uses"
    )
    only.add_argument("--clear", action="store_true", help="remove everything")


def run(chosen: Namespace) -> int:
    from kmnist_pipeline import arithmetic

    arithmetic.select()  # before NumPy is loaded
    from kmnist_pipeline.commands import fits
    from kmnist_pipeline.fits import store

    kept = store.default()
    if chosen.clean and arithmetic.name() == arithmetic.NATIVE:
        raise UserError(
            f"--clean would remove all fits of the evidence, because {arithmetic.VARIABLE} is "
            f"{arithmetic.NATIVE}: unset it"
        )
    if chosen.clear or chosen.clean:
        keys = fits.used(read_params(), kept) if chosen.clean else None
        print(f"removed: {fits.summary(fits.clean(kept, keys))}")
    for line in fits.lines(kept):
        say(line)
    return 0
