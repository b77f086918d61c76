"""Classify images of characters.

PATH is a PNG or JPEG, an IDX (plain or gzip) or NPZ file of images, a folder of such files, or `-`
for one file on standard input. In each image the character is found, and placed as in the training
images; the column `prepared` says how. Paper may be grey, coloured or unevenly lit, ink dark or
light. Images that cannot be read are reported and skipped. If the model has a confidence threshold,
`decision` says which predictions to accept and which a person should review; an image with no
character, with several, or unlike the training images always needs a review.

  kmnist predict scans/                                     the champion of kmnist
  kmnist predict a.png b.jpg --model kmnist_softmax --sheet sheet.png
  kmnist predict t10k-images-idx3-ubyte.gz --as-is --output parquet --to predictions.parquet
  kmnist predict scans/ --review                            queues them for `kmnist review`

In CSV, a name that a spreadsheet would read as a formula gets an apostrophe in front.
Exit status: 0 every image was classified; 1 an image was skipped, or there was no image.
"""

import contextlib
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from kmnist_pipeline.cli.common import end_in_order, mend_lock, read_params, require_regular, say
from kmnist_pipeline.errors import UserError


def add(parser: ArgumentParser) -> None:
    parser.add_argument("places", nargs="+", metavar="PATH", help="a file, a folder, or -")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", metavar="NAME", help="default: the champion of the dataset")
    model.add_argument("--dataset", default="kmnist", help="use its champion; default: %(default)s")
    parser.add_argument(
        "--output", choices=["csv", "json", "parquet"], default="csv", help="default: %(default)s"
    )
    parser.add_argument("--to", type=Path, metavar="FILE", help="default: standard output")
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="FILE.png",
        help="draw the first images with their predictions",
    )
    parser.add_argument(
        "--as-is",
        action="store_true",
        help="the images are cut and scaled like the training images",
    )
    parser.add_argument(
        "--review", action="store_true", help="queue the images for `kmnist review --new`"
    )
    parser.set_defaults(start=Path.cwd())


def run(chosen: Namespace) -> int:
    end_in_order()
    from kmnist_pipeline import arithmetic

    arithmetic.select()
    from kmnist_pipeline.serving import inputs, predict

    with contextlib.chdir(chosen.start):
        inputs.require(chosen.places)
        require_regular(chosen.to, chosen.sheet)
        written = [place for place in (chosen.to, chosen.sheet) if place is not None]
        for place in written:
            if not place.parent.is_dir():
                raise UserError(f"{place}: there is no folder {place.parent}")
        inputs.require_apart(chosen.places, written)
    mend_lock()
    classifier, why = predict.choose(chosen.model, chosen.dataset)
    native = "" if arithmetic.name() != arithmetic.NATIVE else ", in native arithmetic"
    say(f"model: {classifier.name} ({why}){native}", sys.stderr)
    collected = None
    if chosen.review:
        from kmnist_pipeline.serving.queues import Collected

        about = read_params()["datasets"][classifier.dataset]
        collected = Collected(classifier, about, chosen.places)
    with contextlib.chdir(chosen.start):  # so that names of images are as the user gave them
        whole = predict.predict(
            classifier,
            chosen.places,
            chosen.output,
            chosen.to,
            chosen.sheet,
            chosen.as_is,
            collected,
        )
    if collected:
        command = f"kmnist review --dataset {classifier.dataset} --new"
        say(f"{collected.add()}: `{command}` shows them", sys.stderr)
    return 0 if whole else 1
