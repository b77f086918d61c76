"""The models that have evidence, and their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage, numbers, paths
from kmnist_pipeline.repository import git, locks
from kmnist_pipeline.repository.names import unknown
from kmnist_pipeline.repository.revision import Revision
from kmnist_pipeline.serving import costs

PARAMS = Path("params.yaml")


@dataclass(frozen=True)
class Measured:
    """The numbers of a model's validation and test, with details."""

    validation: dict[str, Any]
    test: dict[str, Any]

    @property
    def accuracy(self) -> float | None:
        """Validation accuracy over the classes of the dataset; None if it was not measured.

        A one-shot model was validated on pairs of images instead.
        """
        return None if "draws" in self.test else self.validation["accuracy"]


@dataclass(frozen=True)
class Candidate(Measured):
    """A model of the workspace.

    dataset: its dataset in `params.yaml`, with the `name`.
    """

    name: str
    report: str
    family: str
    dataset: dict[str, Any]

    @property
    def weights(self) -> Path:
        """The path of the model file or, if it is not here, of the weights in Git, if these are.

        The predictions of both are the same.
        """
        whole, part = Path(paths.weights(self.name)), Path(paths.weights_in_git(self.name))
        return part if part.exists() and not whole.exists() else whole

    @property
    def placed(self) -> dict[str, Any]:
        """The dataset with the `placement` of its characters. Raises UserError without one."""
        name, shape = self.dataset["name"], self.dataset["shape"]
        return {**self.dataset, "placement": placement(name, shape)}

    @property
    def stage(self) -> str:
        """The stage that measured the model."""
        return f"evaluate@{self.name}"

    @property
    def knows_all_classes(self) -> bool:
        """Whether the model was trained on all classes of its dataset."""
        return set(self.test["per_class"]) == set(self.dataset["classes"])


def read(name: str) -> Candidate:
    """A model by its name. Raises UserError if there is no such model or it was not evaluated."""
    models, datasets = _params()
    if name not in models:
        raise unknown(f"there is no model {name}", name, models)
    return _candidate(name, models[name], datasets)


def best(dataset: str) -> Candidate:
    """The model with the best validation accuracy among those that know all classes of a dataset
    and whose weights are here; if there are no weights, among all that know all classes.

    Models without one come last; of equals the first in `params.yaml` wins. Raises UserError if
    there is no model.
    """
    known = [model for model in _evaluated(dataset) if model.knows_all_classes]
    if not known:
        raise UserError(
            f"no model of {dataset} has been evaluated: {git.restoring(paths.METRICS, 'dvc repro')}"
        )
    here = [model for model in known if model.weights.exists()]
    return max(here or known, key=lambda model: -1.0 if model.accuracy is None else model.accuracy)


def datasets() -> list[str]:
    """The datasets with an evaluated model that knows all their classes."""
    known = _params()[1]
    return [name for name in known if any(m.knows_all_classes for m in _evaluated(name))]


def require(weights: Path, name: str) -> None:
    """Raise UserError with the remedies that are possible here if a model's weights are not usable.

    They must exist, and be as the lock says. Model files are not in Git: DVC's cache or a remote
    may have them.
    """
    from kmnist_pipeline.commands import status

    graph, there = status.locked_here(), weights.exists()
    makers = graph.makers(str(weights))
    known = {stage.outs[str(weights)] for stage in makers}
    is_as_locked = there and lineage.digest(weights) in known
    if weights.is_relative_to(paths.WEIGHTS):
        _require_in_git(graph, weights, name, is_as_locked)
        return
    if is_as_locked:
        return
    from kmnist_pipeline.repository import dvc  # slow to import

    problem = f"is not as {locks.LOCK} says" if there else "does not exist"
    trains = f"`dvc repro evaluate@{name}` trains it{costs.said(name)}"
    ways, force = [trains], " --force" if there else ""
    try:
        with dvc.opened() as repo:
            if repo.config["remote"]:
                ways.insert(0, f"`dvc pull{force} {weights}` takes it from a remote")
    except UserError as error:
        raise UserError(f"{weights} {problem}, and DVC cannot make it: {error}") from error
    if any(Revision("the workspace").cached(str(weights), md5) for md5 in known):
        ways = [f"`dvc checkout{force} {weights}` takes it from the cache"]
    raise UserError(f"{weights} {problem}: {', '.join(ways)}")


def _require_in_git(graph: locks.Graph, weights: Path, name: str, is_as_locked: bool) -> None:
    """Raise UserError if weights in Git are altered, or of another training than was measured."""
    trains = f"`dvc repro weights@{name}` makes it again: it trains the model{costs.said(name)}"
    if not is_as_locked:
        back = f"`{git.RESTORE} {weights}` restores the committed file, or {trains}"
        raise UserError(f"{weights} is not as {locks.LOCK} says: {back}")
    whole = paths.weights(name)
    made = {stage.outs[whole] for stage in graph.makers(whole)}
    if any(stage.deps.get(whole) not in made for stage in graph.makers(str(weights))):
        raise UserError(f"{weights} was cut from another {whole} than {locks.LOCK} says: {trains}")


def _evaluated(dataset: str) -> Iterator[Candidate]:
    models, datasets = _params()
    if dataset not in datasets:
        raise unknown(f"there is no dataset {dataset}", dataset, datasets)
    for name, about in models.items():
        measured = Path(paths.numbers(about["report"], name, "test.json")).exists()
        if about["dataset"] == dataset and measured:
            yield _candidate(name, about, datasets)


def _candidate(name: str, about: dict[str, Any], datasets: dict[str, Any]) -> Candidate:
    dataset = {"name": about["dataset"], **datasets[about["dataset"]]}
    validation, test = (_metrics(about["report"], name, part) for part in ("validation", "test"))
    return Candidate(validation, test, name, about["report"], about["family"], dataset)


def placement(dataset: str, shape: Sequence[int]) -> dict[str, Any] | None:
    """How a dataset places its characters; None if its images are coloured.

    Raises UserError if that was not measured.
    """
    if len(shape) > 2:
        return None
    path = paths.data_numbers(dataset)
    try:
        return numbers.read(Path(path))["placement"]
    except (FileNotFoundError, KeyError):
        problem = f"{path} has no placement of characters"
    except ValueError as error:  # which names the file
        problem = str(error)
    raise UserError(f"{problem}: {git.restoring(path, f'dvc repro preprocess@{dataset}')}")


def _params() -> tuple[dict[str, Any], dict[str, Any]]:
    if not PARAMS.exists():
        raise UserError(f"{PARAMS} does not exist: `kmnist compose` makes it")
    content = locks.load(PARAMS.read_text("utf-8"), PARAMS.name)
    try:
        return content["models"], content["datasets"]
    except KeyError as error:
        raise UserError(f"{PARAMS}: {error} is missing; `kmnist compose` makes it") from error


def _metrics(report: str, name: str, part: str) -> dict[str, Any]:
    try:
        return numbers.read(Path(paths.numbers(report, name, f"{part}.json")))
    except FileNotFoundError as error:
        problem = f"{error.filename} does not exist"
    except ValueError as error:  # which names the file
        problem = str(error)
    file = paths.numbers(report, name, f"{part}.json")
    raise UserError(f"{problem}: {git.restoring(file, f'dvc repro evaluate@{name}')}")
