"""What follows from the counts in the numbers of data, models and reports, for `derived`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kmnist_pipeline.commands.apart import (
    apart,
    beyond,
    flat,
    numbers_of,
    per_class,
    training_images,
)
from kmnist_pipeline.config import grid
from kmnist_pipeline.evaluation import (
    acceptance,
    claims,
    labelling,
    metrics,
    out_of_fold,
    scoring,
    suspects,
)
from kmnist_pipeline.evaluation.conditions import CLEAN, CONDITIONS, UNANSWERABLE
from kmnist_pipeline.evidence import numbers, paths
from kmnist_pipeline.fits.plan import RETRAINED
from kmnist_pipeline.readings import multiverse
from kmnist_pipeline.repository.locks import LockedStage

MISCLASSIFIED = 10  # test images that test_details.json names


def of_data(stage: LockedStage, params: dict[str, Any]) -> Iterator[str]:
    """Sizes follow from those of the parts, the split and the classes."""
    path = numbers_of(stage, f"{stage.item}.json")
    content, about = numbers.read(path), params["datasets"][stage.item]
    counts = per_class(stage.item, params)
    decided = content.get("reviews", {})
    if imported := about.get("imported"):
        train, test = imported["train"], imported["test"]
    else:
        sizes = [part["count"] for part in about["parts"]]
        drawn = about["split"]
        is_drawn = drawn["method"] == "random"  # as scikit-learn rounds
        train = math.floor(sum(sizes) * drawn["train_size"]) if is_drawn else sizes[0]
        test = sum(sizes) - train
    added, excluded = (decided.get(key, 0) for key in ("added", "excluded"))
    expected = {"n": train + test + added, "n_train": train + added - excluded, "n_test": test}
    yield from apart(path, content, expected)
    sums = {part: sum(count[part] for count in counts) for part in ("train", "test")}
    named = {f"the sum of {part} over classes": total for part, total in sums.items()}
    again = [content["n_train"], content["n_test"]]
    yield from apart(path, named, dict(zip(named, again, strict=True)))
    common = content["overlap"]
    both, distinct = common["test_images_in_train"], common["distinct_images"]
    limits = {"test_images_in_train": (both, test), "distinct_images": (distinct, both)}
    yield from beyond(path, limits)
    if both and not distinct:
        yield f"{path}: distinct_images is 0, but test_images_in_train is {both}"


def of_test(stage: LockedStage, params: dict[str, Any]) -> Iterator[str]:
    """Scores follow from the confusion matrix, spreads from the values of the seeds."""
    path = numbers_of(stage, "test.json")
    content = numbers.read(path)
    scores = metrics.scores(
        metrics.unpack_confusion(content["confusion"]), _classes(stage.item, params)
    )
    stated, expected = (
        {**metrics.compared(each), **flat("per_class", each["per_class"])}
        for each in (content, scores)
    )
    yield from apart(path, stated, expected)
    right = metrics.unpack_bits(content["right"], content["n"])
    yield from apart(path, {"correct": content["correct"]}, {"correct": int(right.sum())})
    wrong = np.flatnonzero(~right)[:MISCLASSIFIED].tolist()
    yield from apart(path, content, {"misclassified": wrong})
    if corrected := content.get("corrected"):
        rate = {"corrected": corrected["correct"] / corrected["n"]}
        yield from apart(path, {"corrected": corrected["accuracy"]}, rate)
    trials = content.get("trials", [])
    for trial in [content, *trials]:
        for score in scoring.SCORES:
            spread = trial["seeds"][score]
            first = {**spread, score: trial[score]}
            again = {**metrics.spread(spread["values"]), score: spread["values"][0]}
            yield from apart(path, flat(score, first), flat(score, again))
        rate = {"accuracy": trial["correct"] / trial["n"]}
        yield from apart(path, {"accuracy": trial["accuracy"]}, rate)
    if trials:
        names = {"trials": [trial["name"] for trial in trials]}
        yield from apart(path, names, {"trials": _tested(path, params["studies"][stage.item])})
        (winner,) = (trial for trial in trials if trial["name"] == content["winner"])
        yield from apart(path, content, {key: winner[key] for key in winner if key != "name"})
    if routed := content.get("routing"):
        yield from apart(path, routed, {"promise": params["evaluation"]["promise"]})
        for split in ("validation", "test"):
            yield from _of_routing(path, split, routed[split], routed["promise"])
        yield from apart(path, {"routing n": routed["test"]["n"]}, {"routing n": content["n"]})


def _tested(path: Path, study: dict[str, Any]) -> list[str]:
    """The names of the trials of a study that are tested: a winner that is trained again, or all.

    path: the numbers of the test, in the same folder as those of the validation.
    """
    if study["retrain"] or study.get("search"):
        return [RETRAINED]
    return [trial["name"] for trial in numbers.read(path.with_name("validation.json"))["trials"]]


def _of_routing(path: Path, split: str, stated: dict[str, Any], promise: float) -> Iterator[str]:
    """What is accepted follows from counts."""
    n, accepted, correct = (stated[key] for key in ("n", "accepted", "correct"))
    yield from beyond(
        path, {f"{split}.correct": (correct, accepted), f"{split}.accepted": (accepted, n)}
    )
    again = acceptance.outcome_of(n, correct, accepted, correct, promise)
    expected = {
        "review": n - accepted,
        "accuracy": again["accepted_accuracy"],
        "interval": again["interval"],
        "target": again["target"],
    }
    yield from apart(path, flat(split, stated), flat(split, expected))


def of_conditions(stage: LockedStage, params: dict[str, Any]) -> Iterator[str]:
    """Rates, intervals and kept promises follow from counts, and counts fit into each other."""
    path = numbers_of(stage, "conditions.json")
    content, settings = numbers.read(path), params["conditions"][stage.item]
    n = min(
        settings["images"], sum(count["test"] for count in per_class(settings["dataset"], params))
    )
    promise = {"promise": params["evaluation"]["promise"]}
    yield from apart(path, content, promise)
    for part, names in (
        ("conditions", [CLEAN, *CONDITIONS]),
        ("unanswerable", [*UNANSWERABLE]),
    ):
        yield from apart(path, {part: [row["name"] for row in content[part]]}, {part: names})
        for row in content[part]:
            name, doubts = row["name"], row.get("doubts", {})
            accepted, doubted = row["accepted"], sum(doubts.values())
            yield from apart(path, {f"{name}.n": row["n"]}, {f"{name}.n": n})
            limits = {f"{name}.doubts": (doubted, n), f"{name}.accepted": (accepted, n - doubted)}
            yield from beyond(path, limits)
            if part == "unanswerable":
                continue
            counts = {key: row[key] for key in ("n", "correct", "accepted", "accepted_correct")}
            again = acceptance.outcome_of(**counts, **promise)
            yield from apart(path, flat(name, row), flat(name, again))
            right, both = row["correct"], row["accepted_correct"]
            limits = {
                f"{name}.accepted_correct": (both, min(right, accepted)),
                f"{name}.accepted and wrong": (accepted - both, n - right),
            }
            yield from beyond(path, limits)


def of_suspects(stage: LockedStage, params: dict[str, Any]) -> Iterator[str]:
    """Shares follow from counts, and the ranking from the predictions if they are here."""
    path = numbers_of(stage, "suspects.json")
    content, settings = numbers.read(path), params["suspects"][stage.item]
    experiment = params["experiments"][settings["experiment"]]
    images = training_images(experiment, params)
    n, first, swapped = (content[key] for key in ("n", "first", "swapped"))
    # Every image is held out once in k folds.
    is_whole = experiment["validation"]["method"] == "kfold" and experiment["subset"] is None
    yield from apart(path, content, {"n": images} if is_whole else {})
    counts = {"experiment": settings["experiment"], "swapped": settings["swapped"], "of": images}
    given = {"experiment": content["experiment"], "swapped": swapped["n"], "of": swapped["of"]}
    ranks = [row["rank"] for row in swapped["ranks"]]
    yield from apart(path, {**given, "ranks": ranks}, {**counts, "ranks": settings["ranks"]})
    shown = {"number of first": min(settings["shown"], n)}
    yield from apart(path, {"number of first": len({*first})}, shown)
    yield from beyond(path, {"n": (n, images), "contradicted": (content["contradicted"], n)})
    before = 0
    for row in sorted(swapped["ranks"], key=lambda row: row["rank"]):
        found, rank = row["found"], row["rank"]
        yield from beyond(path, {f"found of {rank}": (found, min(rank, swapped["n"]))})
        if found < before:
            yield f"{path}: found of {rank} is {found}, but a smaller rank has {before}"
        before = found
        share = {f"share of {rank}": found / swapped["n"]}
        yield from apart(path, dict.fromkeys(share, row["share"]), share)
    if (predicted := Path(paths.out_of_fold(settings["experiment"]))).exists():
        yield from _of_predictions(path, content, out_of_fold.load(predicted))


def _of_predictions(
    path: Path, content: dict[str, Any], predicted: out_of_fold.Predictions
) -> Iterator[str]:
    given = predicted.probabilities, predicted.labels
    first = suspects.ranking(*given)[: len(content["first"])]
    expected = {
        "n": len(predicted.labels),
        "contradicted": int((suspects.margins(*given) < suspects.CONTRADICTED).sum()),
        "first": predicted.index[first].tolist(),
    }
    yield from apart(path, content, expected)


def of_loop(stage: LockedStage, params: dict[str, Any]) -> Iterator[str]:
    """Means and deviations follow from the seeds, saved labels from the means."""
    path = numbers_of(stage, "loop.json")
    content, settings = numbers.read(path), params["loops"][stage.item]
    means: dict[str, list[float]] = {way: [] for way in labelling.WAYS}
    for row in content["rounds"]:
        for way, spread in row["accuracy"].items():
            again = metrics.spread(spread["values"])
            yield from apart(path, flat(way, spread), flat(way, again))
            means[way].append(again["mean"])
            seeds = {f"number of values of {way}": len(spread["values"])}
            yield from apart(path, seeds, dict.fromkeys(seeds, len(settings["seeds"])))
    labels = [row["labels"] for row in content["rounds"]]
    wanted = [settings["start"] + settings["size"] * n for n in range(settings["rounds"] + 1)]
    yield from apart(path, {"labels": labels}, {"labels": wanted})
    yield from apart(path, content, {"held_out": settings["held_out"]})
    saving = labelling.saving(labels, *(means[way] for way in labelling.WAYS))._asdict()
    yield from apart(path, {name: content[name] for name in saving}, saving)
    start = content["rounds"][0]["accuracy"]  # both ways begin with the same labels
    guided, random = (start[way]["values"] for way in (labelling.GUIDED, labelling.RANDOM))
    yield from apart(path, {labelling.RANDOM: random}, {labelling.RANDOM: guided})


def of_faults(stage: LockedStage, params: dict[str, Any]) -> Iterator[str]:
    """Scores under each fault follow from confusion matrices; faults and models are configured."""
    path = numbers_of(stage, "faults.json")
    content, settings = numbers.read(path), params["faults"][stage.item]
    catalogue = {name: fault["says"] for name, fault in settings["catalogue"].items()}
    models = {"models": sorted({**settings["experiments"], **settings["studies"]})}
    yield from apart(path, content, {"catalogue": catalogue, "budget": settings["budget"]})
    yield from apart(path, {"models": sorted(content["measured"])}, models)
    for model, trials in content["measured"].items():
        for trial, under in trials.items():
            place = f"{model} {trial}".rstrip()
            if more := under.keys() - {grid.CLEAN, *catalogue}:
                yield f"{path}: {place} has {', '.join(sorted(more))}, which is not configured"
            for fault, parts in under.items():
                for part, stated in parts.items():
                    name = f"{part} of {place} under {fault}"
                    scores = metrics.scores(metrics.unpack_confusion(stated["confusion"]), ())
                    again = {score: scores[score] for score in metrics.SCORES}
                    yield from apart(path, flat(name, stated), flat(name, again))


def of_readings(stage: LockedStage, params: dict[str, Any]) -> Iterator[str]:
    """Ranges, our number and what moves it follow from the numbers of all readings."""
    path = numbers_of(stage, "readings.json")
    content, about = numbers.read(path), params["readings"][stage.item]
    choices, known = about["choices"], multiverse.configurations(about)
    every = multiverse.all_readings(choices)
    own = multiverse.ours(next(iter(about["experiments"].values())))
    published = claims.read(Path(f"conf/claims/{about['claims']}.csv"))
    counts = dict.fromkeys((of.classes for of in known.values()), 0)  # they only widen intervals
    stated = {claim.id: claim for claim in multiverse.stated(published, known, counts)}
    configured = {"choices": choices, "seeds": len(about["seeds"]), "ours": own._asdict()}
    yield from apart(path, content, configured | {"order": multiverse.Reading._fields})
    ids = {"claims": sorted(content["claims"])}
    yield from apart(path, ids, {"claims": sorted(stated)})
    for name in stated.keys() & content["claims"].keys():
        claim, given = stated[name], content["claims"][name]
        read = np.array(content["numbers"][str(claim.configuration)][claim.split])
        again = {
            "configuration": str(claim.configuration),
            "reported": float(claim.reported),
            "low": read.min(),
            "high": read.max(),
            "ours": read[every.index(own)],
            "readings": len(every),
            "moves": multiverse.moves(choices, read),
        }
        yield from apart(path, flat(name, given), flat(name, again))
        yield from beyond(path, {f"agree of {name}": (given["agree"], len(every))})
        if (given["agree"] > 0) != bool(given["simplest"]):
            yield f"{path}: simplest of {name} is there only if readings agree"
    agreed = [best["agrees"] for best in content["best"]]
    limits = {"ours_agrees": (content["ours_agrees"], len(stated))}
    yield from beyond(
        path, limits | {f"agrees of best {n}": (a, len(stated)) for n, a in enumerate(agreed)}
    )
    if agreed != sorted(agreed, reverse=True):
        yield f"{path}: best must begin with the reading that agrees with most claims"


def _classes(model: str, params: dict[str, Any]) -> tuple[str, ...]:
    """The names of a model's classes, in the order of its confusion matrix."""
    studies = params.get("studies") or {}
    base = studies[model]["base"] if model in studies else model
    experiment = params["experiments"][base]
    names = params["datasets"][experiment["dataset"]]["classes"]
    return tuple(
        names if (chosen := experiment["classes"]) is None else map(names.__getitem__, chosen)
    )
