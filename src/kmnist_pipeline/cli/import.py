"""Make a dataset from a folder or file of images, or a new version of it.

SOURCE is a folder with one sub-folder for each class, with PNG or JPEG files, alone or in train/
and test/; a CSV of a label and pixels; a Parquet of encoded images and labels, as the Hugging Face
Hub writes it; an NPZ of images and labels; or a folder of several such files, such as IDX pairs or
the four NPZ of Kuzushiji-49. Prints what it found: counts, duplicates, blank images, and images
that are dark on light. Writes conf/dataset/NAME.yaml with its line in conf/config.yaml, and puts
the images into data/imported/NAME.npz, which DVC tracks. If there is an error, it writes nothing.

  kmnist import leaves ~/leaves --size 32x32
  kmnist import leaves ~/leaves                again, after the source has changed

The second command uses the options of the first, shows how many images were added, removed and
relabelled, and asks before it replaces them; `kmnist impact` then lists what this makes stale.

Exit status: 0 it was written, or nothing has changed; 1 it was not written.
"""

import contextlib
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

from kmnist_pipeline.cli.common import agreed, end_in_order, say
from kmnist_pipeline.errors import UserError


def add(parser: ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", help="name of the dataset: lower-case words joined by _"
    )
    parser.add_argument("source", metavar="SOURCE", type=Path, help="a folder or file")
    parser.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="height and width to scale the images to; needed if they have several sizes",
    )
    form = parser.add_mutually_exclusive_group()
    for name, text in {
        "grey": "make all images grey; default: grey if all of them are",
        "colour": "give all images three channels",
    }.items():
        form.add_argument(
            f"--{name}", dest="colour", action="store_const", const=name == "colour", help=text
        )
    parser.add_argument(
        "--test-share",
        type=_share,
        metavar="SHARE",
        help="split all images again: this share of each class are test images; default: the split "
        "of the source, or 0.2 if it has none",
    )
    parser.add_argument("--seed", type=_seed, metavar="N", help="seed of that split; default: 0")
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="a text file with a line CLASS or CLASS,NAME for each class: their order and names",
    )
    parser.add_argument(
        "--yes", action="store_true", help="replace an earlier version without asking"
    )
    parser.set_defaults(start=Path.cwd())


def _size(text: str) -> tuple[int, int]:
    if found := re.fullmatch("([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", text):
        return int(found[1]), int(found[2])
    raise ArgumentTypeError(f"{text}: must be height x width in pixels, such as 28x28")


def _share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (share := float(text)) < 1:
            return share
    raise ArgumentTypeError(f"{text}: must be a number between 0 and 1")


def _seed(text: str) -> int:
    if text.isdecimal():
        return int(text)
    raise ArgumentTypeError(f"{text}: must be a whole number, at least 0")


def run(chosen: Namespace) -> int:
    from kmnist_pipeline.importing import content as contents
    from kmnist_pipeline.importing import reading, survey, versions

    end_in_order()
    before = versions.state(chosen.name)
    earlier = versions.earlier(chosen.name)
    with contextlib.chdir(chosen.start):  # so that paths are as the user gave them
        classes = contents.read_classes(chosen.classes) if chosen.classes else None
        options = contents.Options(
            chosen.size, chosen.colour, chosen.test_share, chosen.seed, classes
        ).over(earlier.options if earlier else contents.Options())
        source = reading.read(chosen.source.expanduser(), options.size)
        content = contents.prepare(source, options)
    for line in survey.lines(content, survey.survey(content), source.kind):
        say(line)
    versions.describe(chosen.name, content, versions.UNKNOWN)  # refuses what cannot be composed
    if earlier is not None and not _replaces(chosen, earlier.version, content):
        return 0
    for file in versions.write(chosen.name, content, options, before):
        say(f"written: {file}")
    if earlier is not None:
        print("`kmnist impact` lists what this makes stale")
    else:
        say(f"next: `kmnist new report NAME --dataset {chosen.name}`")
    return 0


def _replaces(chosen: Namespace, earlier: Any, content: Any) -> bool:
    """Show what differs from the earlier version, and ask; False if nothing does."""
    from kmnist_pipeline.evidence import paths
    from kmnist_pipeline.importing import difference, versions

    if earlier is not None:
        found = difference.between(earlier, versions.of(content))
        for line in found.lines():
            say(line)
        if not found:
            if undone := versions.left_undone(chosen.name, content):
                say(f"the images are the same, but these files are not: {', '.join(undone)}")
                return True
            print("nothing has changed, and nothing was written")
            return False
    elif versions.is_again(chosen.name, content):
        print("these are the images of the earlier version, whose file is not in DVC's cache")
        return True
    else:
        pointer = f"{paths.imported(chosen.name)}.dvc"
        say(f"the difference is not known: DVC's cache lacks the earlier version ({pointer})")
    if chosen.yes or agreed("Replace the earlier version?"):
        return True
    raise UserError("nothing was written; --yes replaces the earlier version without asking")
