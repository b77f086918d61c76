"""The champion of a dataset in MLflow's registry: reading it, and `kmnist promote`.

A registered version is complete: it has the weights in safetensors, the code that reads them, their
evidence and a model card. It has the name of the dataset and the lineage key of the stage that
evaluated it, and belongs to the run of that stage. The alias `champion` marks the version in use.
"""

from __future__ import annotations

import gc
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import paths
from kmnist_pipeline.serving import bundle, candidates, classifier, fingerprint
from kmnist_pipeline.serving.bundle import BUNDLE, LINEAGE, WEIGHTS
from kmnist_pipeline.serving.candidates import Candidate, Measured
from kmnist_pipeline.serving.classifier import Classifier
from kmnist_pipeline.tracking import store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

ALIAS = "champion"
DIGEST = "kmnist.files"  # the tag of a version with the digest of all its files
SURE = 1.96  # standard errors: two-sided 95 %
LEVEL = 0.05  # of significance in McNemar's test
FILES = {WEIGHTS, "about.json", "validation.json", "test.json"}  # of a bundle


@dataclass(frozen=True)
class Champion(Measured):
    """The registered model in use, with the evidence at its registration; digest: of its files."""

    version: str
    digest: str
    classifier: Classifier


def champion(dataset: str) -> Champion | None:
    """The champion of a dataset; None if there is no champion or no store.

    Raises UserError if the store does not answer, if there is no folder for it, or if it has lost
    the files of the champion.
    """
    store.require_usable()
    file = store.database()
    if file is not None and not file.exists():
        return None
    with _store() as client:
        version = _champion(client, dataset)
        return None if version is None else _load(client, version)


def promote(model: Candidate, force: bool) -> Iterator[str]:
    """Register a model and make it the champion of its dataset; yields messages for the user.

    Raises UserError with all objections if its evidence is stale, or if it is worse than the
    champion or cannot be compared with it, unless `force`.
    """
    dataset = model.dataset["name"]
    if not model.knows_all_classes:
        raise UserError(
            f"{model.name} knows only {', '.join(model.test['per_class'])}, so it cannot be the "
            f"champion of {dataset}, which has {len(model.dataset['classes'])} classes"
        )
    candidates.require(model.weights, model.name)
    candidates.placement(dataset, model.dataset["shape"])
    objections, lineage = _stale(model)
    with _store() as client:
        current = _champion(client, dataset)
        if current is not None and current.tags.get(LINEAGE) != lineage:
            try:
                notes, worse = compared(model, _load(client, current))
            except UserError as error:
                notes, worse = [], [f"it cannot be compared with the champion: {error}"]
            objections += worse
            yield from notes
        if objections and not force:
            reasons = "\n".join(f"  {objection}" for objection in objections)
            raise UserError(
                f"{model.name} is not promoted (--force promotes it anyway):\n{reasons}"
            )
        yield from (f"forced, although {objection}" for objection in objections)
        with_key = f"name = '{dataset}' and tags.`{LINEAGE}` = '{lineage}'"
        known = (v for v in client.search_model_versions(with_key) if _is_whole(client, v))
        version = next(known, None) or _register(client, model, lineage, objections)
        name = f"{version.name} version {version.version}, {model.name}"
        if current is not None and current.version == version.version:
            yield f"{name}, is already the champion"
            return
        client.set_registered_model_alias(version.name, ALIAS, version.version)
        yield f"{name}, is the champion"


def compared(model: Candidate, rival: Champion) -> tuple[list[str], list[str]]:
    """The comparisons with the champion, and the objections to the model.

    The model is worse if its validation accuracy is lower by more than SURE standard errors of the
    difference of two proportions. Both are measured on mostly the same images, so this
    overestimates the error and refuses fewer models. Test images never make a champion. They only
    refuse a model that has fewer of them correct, by McNemar's exact test at LEVEL.
    """
    from kmnist_pipeline.evaluation import metrics

    against = f"the champion, version {rival.version} ({rival.classifier.name})"
    if _test_images(model.test) != _test_images(rival.test):
        return [], [
            f"it was measured on other test images than {against}, so they cannot be compared"
        ]

    notes, worse = [], []
    own, other = model.accuracy, rival.accuracy
    if own is None or other is None:
        who = model.name if own is None else against
        notes.append(f"validation is not compared: {who} has no validation accuracy of classes")
    else:
        n, m = model.validation["n"], rival.validation["n"]
        error = SURE * sqrt(own * (1 - own) / n + other * (1 - other) / m)
        text = (
            f"validation accuracy is {own:.4f} ({n} images), that of {against} {other:.4f} "
            f"({m}); sampling error {error:.4f}"
        )
        notes.append(text)
        if own < other - error:
            worse.append(text)
    right, others = (
        metrics.unpack_bits(test["right"], test["n"]) for test in (model.test, rival.test)
    )
    result = metrics.mcnemar(right, others)
    text = (
        f"of {len(right)} test images, {result['only']} are classified correctly only by it, and "
        f"{result['only_other']} only by {against} "
        f"(McNemar's test: p {metrics.in_words(result['p'], '= ')})"
    )
    notes.append(text)
    if result["p"] < LEVEL and result["only"] < result["only_other"]:
        worse.append(text)
    return notes, [f"it is worse than the champion: {text}" for text in worse]


def _stale(model: Candidate) -> tuple[list[str], str]:
    """The stale stages that a model's numbers depend on, and the lineage key of its evaluation."""
    from kmnist_pipeline.commands import status
    from kmnist_pipeline.config import compose as composition
    from kmnist_pipeline.repository import locks

    lock = status.locked_here()
    if model.stage not in lock.stages:
        raise UserError(f"{model.stage} is not in {locks.LOCK}: `dvc repro {model.stage}` makes it")
    origins = {stage.address for stage in lock.upstream(model.stage)}
    params = locks.load(composition.compose(Path("conf"), []), "conf/")
    stale = [
        f"its evidence is stale: {stage.address}: {reason}"
        for stage in status.of(lock, params).stages
        if stage.address in origins
        for reason in stage.reasons
    ]
    return stale, lock.stages[model.stage].key


# --- the store -----------------------------------------------------------------------------------

PATIENCE = {
    **store.BOUNDS,
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds; a person may wait longer than a stage
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@contextmanager
def _store() -> Iterator[MlflowClient]:
    """A client whose errors become UserErrors without the credentials of its address."""
    os.environ.update({**PATIENCE, **os.environ})
    gc.disable()  # saves a fifth of the time of importing MLflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        client = store.connect()
        gc.enable()
        with _as_default(client.tracking_uri):
            yield client
    except (MlflowException, SQLAlchemyError) as error:
        why = f"{store.reason(error)} ({store.named()})"
        raise UserError(f"the MLflow store fails: {why}") from error


@contextmanager
def _as_default(uri: str) -> Iterator[None]:
    """Make this store MLflow's default, for calls that name none.

    MLflow's own default has a wrong path if this folder's name has a space or an umlaut.
    """
    name = "MLFLOW_TRACKING_URI"
    before = {name: os.environ[name]} if name in os.environ else {}
    os.environ[name] = uri
    try:
        yield
    finally:
        del os.environ[name]
        os.environ.update(before)


def _champion(client: MlflowClient, dataset: str) -> ModelVersion | None:
    from mlflow.exceptions import MlflowException

    try:
        version = client.get_model_version_by_alias(dataset, ALIAS)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None  # no such registered model or alias
        raise
    if LINEAGE not in version.tags:
        raise UserError(
            f"the champion of {dataset}, version {version.version}, was not registered by `kmnist "
            f"promote`: remove its alias `{ALIAS}`, or name a model"
        )
    return version


def _load(client: MlflowClient, version: ModelVersion) -> Champion:
    """The registered weights and evidence. This runs no code from the store.

    Raises UserError if the files are gone, or are not those that were registered.
    """
    from mlflow.artifacts import download_artifacts

    if not _has_files(client, version):
        raise UserError(
            f"version {version.version} of {version.name} has lost its files in the store: "
            f"`kmnist promote {version.tags.get('kmnist.model', '')}` registers it again"
        )
    place = client.get_model_version_download_uri(version.name, version.version)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(
            download_artifacts(
                artifact_uri=place, dst_path=folder, tracking_uri=client.tracking_uri
            )
        )
        bundle = whole / "artifacts" / BUNDLE
        again = f"`kmnist promote {version.tags['kmnist.model']}` registers the model again"
        registered, digest = version.tags.get(DIGEST), fingerprint.of(whole)
        if registered is None:
            raise UserError(
                f"{version.name} version {version.version} has no digest of its files (the tag "
                f"{DIGEST}), because an older version of this project has registered it: {again}"
            )
        if digest != registered:
            raise UserError(
                f"the files of {version.name} version {version.version} do not have the digest of "
                f"its tag {DIGEST}: {again}"
            )
        about, validation, test = (
            json.loads((bundle / f"{part}.json").read_text("utf-8"))
            for part in ("about", "validation", "test")
        )
        if "placement" not in about["dataset"]:
            raise UserError(
                f"{version.name} version {version.version} has no placement of characters, because "
                f"an older version of this project has registered it: {again}"
            )
        return Champion(
            validation, test, str(version.version), digest, classifier.of_bundle(bundle)
        )


def _test_images(test: dict[str, Any]) -> Any:
    """What identifies the test images: their digest or, in a version without one, the data.

    The data change when people review training images; the digest does not.
    """
    return test.get("test_images", test["made_by"]["data"])


def _is_whole(client: MlflowClient, version: ModelVersion) -> bool:
    try:
        return bool(_load(client, version))
    except UserError:
        return False


def _has_files(client: MlflowClient, version: ModelVersion) -> bool:
    from mlflow.artifacts import list_artifacts

    place = client.get_model_version_download_uri(version.name, version.version)
    listed = list_artifacts(f"{place}/artifacts/{BUNDLE}", tracking_uri=client.tracking_uri)
    return {Path(file.path).name for file in listed} >= FILES


def _register(
    client: MlflowClient, model: Candidate, lineage: str, objections: list[str]
) -> ModelVersion:
    """Register a new version, which gets its name only when it is complete."""
    from mlflow.entities import LoggedModelOutput

    run = _run(client, model, lineage)
    tags = {"kmnist.model": model.name, LINEAGE: lineage}
    numbers = {"validation_accuracy": model.accuracy}
    numbers |= {f"test_{metric}": model.test[metric] for metric in ("accuracy", "f1")}
    tags |= {name: f"{value:.6g}" for name, value in numbers.items() if value is not None}
    if objections:
        tags["kmnist.forced"] = "\n".join(objections)
    about = _card(model, lineage)
    logged = client.create_logged_model(
        run.info.experiment_id, model.name, run.info.run_id, tags, model_type=model.family
    )
    with tempfile.TemporaryDirectory() as folder:
        saved = bundle.saved(Path(folder), model, lineage, about, logged)
        client.log_model_artifacts(logged.model_id, str(saved))
        tags[DIGEST] = fingerprint.of(saved)
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    name = model.dataset["name"]
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, description=f"Models of {model.dataset['title']}.")
    source = f"models:/{logged.model_id}"
    return client.create_model_version(
        name, source, run.info.run_id, tags, description=about, model_id=logged.model_id
    )


def _card(model: Candidate, lineage: str) -> str:
    """The model card in Markdown: the intended use, the evidence and the limits."""
    from kmnist_pipeline.reporting import jinja

    scores = model.test["per_class"]
    template = jinja.environment("kmnist_pipeline.serving").get_template("card.md")
    return template.render(
        model=model,
        weakest=min(scores, key=lambda name: scores[name]["recall"]),
        lineage=lineage,
        test_file=paths.numbers(model.report, model.name, "test.json"),
    )


def _run(client: MlflowClient, model: Candidate, lineage: str) -> Run:
    """The run of the stage that evaluated the model; the version belongs to it."""
    from kmnist_pipeline.commands import publish

    refused = publish.stages([model.stage], []).refused  # nothing, if already published
    if refused:
        raise UserError(f"the MLflow store lacks the run that evaluated the model: {refused[0]}")
    experiment = client.get_experiment_by_name(model.report)
    assert experiment is not None
    of_stage = f"tags.`kmnist.stage` = '{model.stage}' and tags.`{LINEAGE}` = '{lineage}'"
    finished = f"{of_stage} and attributes.status = 'FINISHED'"
    return client.search_runs([experiment.experiment_id], finished)[0]
