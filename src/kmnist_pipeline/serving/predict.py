"""Classifying images of characters: `kmnist predict`.

Images are read, classified and written in batches, so that a million files need only the memory of
one batch (and of the names in one folder).
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from kmnist_pipeline.data import reviews
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import output as files
from kmnist_pipeline.serving import candidates, inputs
from kmnist_pipeline.serving.character import Form
from kmnist_pipeline.serving.classifier import Classifier
from kmnist_pipeline.serving.inputs import Picture

BATCH = 1000  # images
COLUMNS = ("image", "label", "name", "character", "probability", "decision", "prepared")
NO_DECISION = "–"
ON_SHEET, SHEET_COLUMNS = 60, 6
LONGEST_ON_SHEET = 16  # characters of a file name

Row = dict[str, Any]  # by COLUMNS
Write = Callable[[list[Row]], object]
Collect = Callable[[list[Picture], list[Row]], object]


def choose(name: str | None, dataset: str) -> tuple[Classifier, str]:
    """The model to use, and the reason for the choice.

    name: a model; None for the champion of the dataset or, if there is no champion, the model with
    the best validation accuracy whose weights are here.
    """
    if name is not None:
        return _of_candidate(candidates.read(name)), "chosen by name"
    from kmnist_pipeline.serving import registry

    try:
        champion = registry.champion(dataset)
    except UserError as error:
        raise UserError(f"{error}; `--model NAME` does not need the store") from error
    if champion is not None:
        return champion.classifier, f"champion of {dataset}, version {champion.version}"
    best = candidates.best(dataset)
    score = f"best validation accuracy, {best.accuracy},"
    return _of_candidate(best), (
        f"no champion of {dataset} is registered; {score} among the models here that know all its "
        "classes"
    )


def _of_candidate(model: candidates.Candidate) -> Classifier:
    candidates.require(model.weights, model.name)
    routing, lineage = model.test.get("routing"), model.test["made_by"]["lineage"]
    return Classifier(model.weights, model.name, model.placed, routing, lineage)


def predict(
    classifier: Classifier,
    places: Sequence[str],
    output: str,
    to: Path | None,
    sheet: Path | None,
    as_is: bool = False,
    review: Collect | None = None,
) -> bool:
    """Classify every image of `places`; returns whether no image was skipped.

    to: the file to write, None for standard output; sheet: the file for a picture of the first
    images with their answers; as_is: the images are in the model's form; review: gets each batch of
    images with their answers, to queue them. Errors of single files and a summary go to standard
    error.
    """
    form = classifier.form
    skipped, done = 0, Counter[str]()
    first: list[tuple[Picture, Row]] = []

    def skip(name: str, problem: str) -> None:
        nonlocal skipped
        skipped += 1
        tqdm.write(f"error: {name}: {problem}", file=sys.stderr)

    shows = sys.stderr.isatty() and not (to is None and sys.stdout.isatty())
    with (
        files.replacing(to) if to else contextlib.nullcontext(sys.stdout.buffer) as file,
        WRITERS[output](file) as write,
        tqdm(unit=" images", disable=not shows, file=sys.stderr) as bar,
    ):
        pictures = inputs.read(places, form, skip, as_is)
        while batch := list(itertools.islice(pictures, BATCH)):
            rows = answered(classifier, batch)
            write(rows)
            if review is not None:
                review(batch, rows)
            if sheet is not None:
                first += list(zip(batch, rows, strict=True))[: ON_SHEET - len(first)]
            done.update(str(row["decision"]) for row in rows)
            done["prepared"] += sum(1 for row in rows if row["prepared"])
            bar.update(len(batch))
    sys.stdout.flush()  # the answers come before the summary
    count = done["accept"] + done["review"] + done["None"]
    if sheet is not None and first:
        with files.replacing(sheet) as file:
            file.write(drawn(first, classifier))
    _summarise(classifier, form, count, done, skipped, len(first) if sheet else 0)
    return bool(count) and not skipped


def answered(classifier: Classifier, pictures: Sequence[Picture]) -> list[Row]:
    """A row for each picture."""
    prepared = [picture.prepared for picture in pictures]
    pixels = np.stack([each.pixels for each in prepared])
    answers = classifier.answers(pixels, [each.doubt for each in prepared])
    return [
        {
            "image": picture.name,
            **vars(answer),
            "probability": float(f"{answer.probability:.6g}"),
            "prepared": str(picture.prepared),
        }
        for picture, answer in zip(pictures, answers, strict=True)
    ]


def _summarise(
    classifier: Classifier, form: Form, count: int, done: Counter[str], skipped: int, on_sheet: int
) -> None:
    lines = [f"{count} image{'' if count == 1 else 's'} classified, {skipped} skipped"]
    if done["prepared"]:
        lines.append(f"{done['prepared']} of them were converted to {form}: see `prepared`")
    if classifier.routing is None:
        lines.append(
            f"{classifier.name} has no confidence threshold, so no prediction is accepted; "
            f"{done['review']} to review, because of doubts: see `prepared`"
        )
    else:
        lines.append(f"{done['accept']} to accept, {done['review']} to review")
    if 0 < on_sheet < count:
        lines.append(f"the sheet shows the first {on_sheet}")
    print("\n".join(lines), file=sys.stderr)


# --- writing -------------------------------------------------------------------------------------


@contextmanager
def _csv(file: BinaryIO) -> Iterator[Write]:
    def write(rows: Iterable[Sequence[Any]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        file.write(text.getvalue().encode())

    write([COLUMNS])
    yield lambda rows: write([_cell(row[name]) for name in COLUMNS] for row in rows)


def _cell(value: Any) -> Any:
    if value is None:
        return NO_DECISION
    return reviews.cell(value) if isinstance(value, str) else value


@contextmanager
def _json(file: BinaryIO) -> Iterator[Write]:
    separator = b"[\n"

    def write(rows: list[Row]) -> None:
        nonlocal separator
        for row in rows:
            file.write(separator + json.dumps(row, ensure_ascii=False).encode())
            separator = b",\n"

    yield write
    file.write(b"\n]\n" if separator == b",\n" else b"[]\n")


@contextmanager
def _parquet(file: BinaryIO) -> Iterator[Write]:
    import pyarrow as pa
    from pyarrow import parquet

    if file is sys.stdout.buffer and sys.stdout.isatty():
        raise UserError("parquet is not text: name a file with --to")
    kinds = {"label": pa.int64(), "probability": pa.float64()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
    with parquet.ParquetWriter(file, schema) as table:
        yield lambda rows: table.write_table(pa.Table.from_pylist(rows, schema))


WRITERS: dict[str, Callable[[BinaryIO], contextlib.AbstractContextManager[Write]]] = {
    "csv": _csv,
    "json": _json,
    "parquet": _parquet,
}


# --- the contact sheet ---------------------------------------------------------------------------


def drawn(first: Sequence[tuple[Picture, Row]], classifier: Classifier) -> bytes:
    """A PNG of pictures, as sent and as the model got them, with file names and answers."""
    from kmnist_pipeline.figures import canvas, thumbnails

    shown = [
        thumbnails.side_by_side(each.before, each.prepared.pixels / classifier.form.pixel_max)
        for each, _ in first
    ]
    titles = [
        f"{shortened(row['image'])}\n{row['name']}  {row['probability']:.1%}\n"
        f"{row['decision'] or ''}".rstrip()
        for _, row in first
    ]
    figure = canvas.tiles(np.stack(shown), SHEET_COLUMNS, titles, font_size=7)
    return canvas.png_bytes(figure, {"Caption": f"Predicted by {classifier.name}"})


def shortened(name: str) -> str:
    """The end of a file name, where names differ."""
    whole = Path(name).name
    return whole if len(whole) <= LONGEST_ON_SHEET else f"…{whole[1 - LONGEST_ON_SHEET :]}"
