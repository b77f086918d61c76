"""Train under every reading of a publication's text, and compare with its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kmnist_pipeline.data import dataset
from kmnist_pipeline.evaluation import claims
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.evidence.stage import Stage
from kmnist_pipeline.figures import canvas
from kmnist_pipeline.figures import readings as drawn
from kmnist_pipeline.fits import key, store
from kmnist_pipeline.readings import explanation, multiverse, training
from kmnist_pipeline.readings.multiverse import Courses, Reading
from kmnist_pipeline.stages.frame import entrypoint

LIBRARIES = ("numpy", "scipy", *canvas.LIBRARIES)


def readings(stage: Stage, params: dict[str, Any]) -> None:
    """Train one seed of every reading, and all seeds of ours and of the best ones. Write the
    numbers of each reading, the claims that they explain, and the specification curve.

    Test images are measured here too: readings explain a publication, and choose nothing.
    """
    about = params["readings"][stage.item]
    configurations = multiverse.configurations(about)
    processed = Path(paths.processed(about["dataset"]))
    images = {}
    for classes in dict.fromkeys(of.classes for of in configurations.values()):
        several = None if classes is None else list(classes)
        parts = (dataset.load(processed, split, several) for split in ("train", "test"))
        images[classes] = training.shown(*parts)
    counts = {classes: of.training for classes, of in images.items()}
    published = claims.read(Path(f"conf/claims/{about['claims']}.csv"))
    stated = multiverse.stated(published, configurations, counts)
    every = multiverse.all_readings(about["choices"])
    own = multiverse.ours(next(iter(about["experiments"].values())))
    first, *others = about["seeds"]
    kept = store.default()

    def train(several: list[Reading], seeds: list[int], known: Courses) -> Courses:
        wanted = multiverse.courses(several, configurations.values(), seeds)
        lacking = {
            course: epochs
            for course, epochs in wanted.items()
            if course not in known or known[course].shape[-1] < epochs
        }
        return {**known, **training.train(stage.address, lacking, images, kept)}

    courses = train(every, [first], {})
    courses = train(multiverse.sharing(every, own), others, courses)  # the best may be among them
    found = explanation.Explanation(about, stated, every, own, courses)
    best = found.best(about["best"])
    content = found.content(best, train(best, others, courses))
    content["environment"] = key.environment(training.FAMILY)
    stage.write_details(paths.report_numbers(stage.item, stage.kind), content)
    figure = drawn.specification_curve(
        about["choices"], every, found.agreement.sum(axis=0), len(stated), every.index(own)
    )
    canvas.sign(figure, stage.address)
    caption = (
        f"{stage.item}: the number of its {len(stated)} claims about accuracy that each of "
        f"{len(every)} readings agrees with, the best first, and below the choices of each reading."
    )
    with stage.directory(paths.figures(stage.item, stage.kind)) as folder:
        text = stage.png_text(caption, about["choices"])
        (folder / "specification_curve.png").write_bytes(canvas.png_bytes(figure, text))


if __name__ == "__main__":
    entrypoint(readings, kind="readings", items="readings", libraries=LIBRARIES)
