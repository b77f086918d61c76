"""The runs of stages in MLflow: making one from a record, and tagging those that are not current.

`kmnist publish` calls `publish`. This module is also the program of the child process of a stage
(see `publisher`): it imports MLflow, reads one record from its standard input and publishes it.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmnist_pipeline.tracking import content, store, views
from kmnist_pipeline.tracking.content import RunContent
from kmnist_pipeline.tracking.record import DATA, Record, state_of_code

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

SHOWN = {".json", ".csv", ".png", ".html"}
LARGEST_MODEL = 10_000_000  # bytes
NESTED = "kmnist.nested"  # the tag with the number of nested runs


def main() -> None:
    """Get ready, read one record and publish it. The exit status says whether this succeeded."""
    gc.disable()  # saves a fifth of the time of importing MLflow, and this process is short
    os.environ.update({**store.BOUNDS, **os.environ, **store.QUIET})  # before importing MLflow
    try:
        origin = state_of_code() | {"experiment": os.environ.get("DVC_EXP_NAME")}
        client = store.connect()
        if text := sys.stdin.buffer.readline():  # nothing, if the stage has died
            publish(_Heartbeat(client), json.loads(text) | origin)
        status = 0
    except Exception as error:
        print(store.reason(error), file=sys.stderr, flush=True)
        status = 1
    os._exit(status)  # everything is committed; a normal exit takes 0.2 s


class _Heartbeat:
    """An MLflow client that writes a byte after each answer of the store."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            answer = method(*args, **kwargs)
            os.write(sys.stdout.fileno(), b".")
            return answer

        return call


def publish(client: Any, record: Record) -> bool:
    """Publish a stage from the files it has written; False if this was already done.

    client: an MlflowClient.

    Each lineage key of a stage has one finished run. A run is written again if an attempt was
    interrupted, if somebody has removed its nested runs or artifacts, or if files that it lacks are
    available now. All other runs of the stage are tagged as superseded, except those of `dvc exp`,
    and unless this run is superseded or of `dvc exp`. A stage run by hand always gets a new run.
    """
    experiment = _experiment(client, record["group"])
    number = experiment.experiment_id
    if record["lineage"] is None:
        _write(client, number, record)
        _prepare_views(client, experiment, None)
        return True

    of_stage = f"tags.`kmnist.stage` = '{record['address']}'"
    key = record["lineage"]["key"]
    same = client.search_runs([number], f"{of_stage} and tags.`kmnist.lineage` = '{key}'")
    done = [run for run in same if _is_whole(client, run, record)][:1]
    for run in same:
        if run not in done:
            delete(client, run)
    if done:
        kept, classes = done[0].info.run_id, json.loads(done[0].data.params.get("classes", "null"))
    else:
        kept, shown = _write(client, number, record)
        classes = shown.parameters.get("classes")
    _prepare_views(client, experiment, classes if record["kind"] == "evaluate" else None)
    for run in done:
        _let_stand(client, run, _standing(record))
    if not _standing(record):
        _supersede(client, record, kept)
    _delete_orphans(client, record)
    return not done


def _supersede(client: Any, record: Record, kept: str) -> None:
    """Tag all current runs of a stage but the kept one. Runs by hand stay as they are."""
    for run in _of_stage(client, record, UNTAGGED):
        if run.info.run_id != kept and run.data.tags.get("kmnist.lineage") != views.BY_HAND:
            client.set_tag(run.info.run_id, "kmnist.superseded", "true")


def _delete_orphans(client: Any, record: Record) -> None:
    """Delete the nested runs that are left of runs of a stage which a person has deleted."""
    for run in _of_stage(client, record, are_deleted=True):
        for nested in _nested(client, run):
            client.delete_run(nested.info.run_id)


def _of_stage(client: Any, record: Record, *filters: str, are_deleted: bool = False) -> list[Run]:
    """The runs of a stage in all experiments, whatever a person did to them.

    A run may be in a renamed experiment, or lack some of its tags: any one of several ways to
    identify it is enough.
    """
    from mlflow.entities import ViewType

    named = f"tags.`mlflow.source.name` = '{_source(record)}'"
    ways = (
        f"tags.`kmnist.stage` = '{record['address']}'",
        f"tags.`kmnist.kind` = '{record['kind']}' and tags.`kmnist.item` = '{record['item']}'",
        f"attributes.run_name = '{record['item']} {record['kind']}' and {named}",
    )
    numbers = [experiment.experiment_id for experiment in client.search_experiments()]
    kind = ViewType.DELETED_ONLY if are_deleted else ViewType.ACTIVE_ONLY
    found = {
        run.info.run_id: run
        for way in ways
        for run in client.search_runs(numbers, " and ".join([way, *filters]), kind)
    }
    return list(found.values())


def _source(record: Record) -> str:
    return f"src/kmnist_pipeline/stages/{record['kind'].replace('-', '_')}.py"


def _is_whole(client: Any, run: Run, record: Record) -> bool:
    tags = run.data.tags
    lacks = set(tags.get("kmnist.missing", "").split())
    if run.info.status != "FINISHED" or not lacks <= set(record.get("missing", [])):
        return False
    nested = str(len(_nested(client, run)))
    if tags.get(NESTED, nested) != nested:
        return False
    wanted: dict[str, dict[str, int]] = defaultdict(dict)
    for path, folder in _artifacts(record):
        wanted[folder][f"{folder}/{path.name}"] = path.stat().st_size
    for folder, files in wanted.items():
        listed = client.list_artifacts(run.info.run_id, folder)
        if not files.items() <= {file.path: file.file_size for file in listed}.items():
            return False
    return True


def _nested(client: Any, run: Run) -> list[Run]:
    of_run = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    return client.search_runs([run.info.experiment_id], of_run)


UNTAGGED = "tags.`kmnist.superseded` IS NULL and tags.`kmnist.experiment` IS NULL"
RANKS = ("kmnist.superseded", "kmnist.experiment")  # tags, lowest first; the current state has none


def _standing(record: Record) -> dict[str, str]:
    """The tag of a run that does not show its stage's current state."""
    if experiment := record.get("experiment"):
        return {"kmnist.experiment": experiment}
    return {"kmnist.superseded": "true"} if record.get("superseded") else {}


def _let_stand(client: Any, run: Run, standing: dict[str, str]) -> None:
    """Replace the tag of a finished run if the record ranks higher."""
    had = [tag for tag in RANKS if tag in run.data.tags]
    if had and had[0] not in standing and RANKS[0] not in standing:
        client.delete_tag(run.info.run_id, had[0])
        for tag, value in standing.items():
            client.set_tag(run.info.run_id, tag, value)


def _experiment(client: Any, name: str) -> Experiment:
    """An MLflow experiment: found, new, or, if somebody has deleted it, restored without runs."""
    found = client.get_experiment_by_name(name)
    if found is None:
        number = client.create_experiment(name, artifact_location=store.artifacts(name))
        return client.get_experiment(number)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
        while runs := client.search_runs([found.experiment_id], max_results=100):
            for run in runs:
                client.delete_run(run.info.run_id)
    return found


def _prepare_views(client: Any, experiment: Experiment, classes: list[int] | None) -> None:
    if experiment.name != DATA:
        for tag, value in views.tags_of_experiment(experiment, classes).items():
            if experiment.tags.get(tag) != value:
                client.set_experiment_tag(experiment.experiment_id, tag, value)


def delete(client: Any, run: Run) -> None:
    """Delete a run and its nested runs."""
    for part in [*_nested(client, run), run]:
        client.delete_run(part.info.run_id)


def _write(client: Any, experiment: str, record: Record) -> tuple[str, RunContent]:
    """Write the run of a stage; returns its id and content.

    Its status becomes FINISHED last, when it is complete.
    """
    shown = content.of(record)
    started, ended = round(record["started"] * 1000), round(record["ended"] * 1000)

    def write(shown: RunContent, tags: dict[str, str]) -> str:
        from mlflow.entities import Metric, Param

        run = client.create_run(experiment, started, tags, shown.name)
        numbers = [Metric(_key(name), value, ended, step) for name, value, step in shown.numbers]
        parameters = [Param(_key(name), _text(value)) for name, value in shown.parameters.items()]
        while numbers or parameters:
            # The maximum of parameters, and of all entries, that a store accepts at once.
            some, parameters = parameters[:100], parameters[100:]
            room = 1000 - len(some)
            client.log_batch(run.info.run_id, numbers[:room], some, synchronous=True)
            numbers = numbers[room:]
        return run.info.run_id

    run_id = write(shown, _tags(record, shown, experiment))
    inputs = _inputs(record)
    if inputs:
        client.log_inputs(run_id, inputs)
    for child in shown.children:
        child_id = write(child, {"mlflow.parentRunId": run_id})
        client.set_terminated(child_id, "FINISHED", ended)
    for path, folder in _artifacts(record):
        client.log_artifact(run_id, str(path), folder)
    client.set_terminated(run_id, "FINISHED", ended)
    return run_id, shown


def _key(name: str) -> str:
    """`name` in characters that MLflow allows in names of metrics and parameters."""
    return re.sub(r"[^\w.\- :/]", "_", name)[:250]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _tags(record: Record, shown: RunContent, experiment: str) -> dict[str, str]:
    tags = {
        "kmnist.stage": record["address"],
        "kmnist.kind": record["kind"],
        "kmnist.item": record["item"],
        "kmnist.lineage": record["lineage"]["key"] if record["lineage"] else views.BY_HAND,
        NESTED: str(len(shown.children)),
        "mlflow.source.name": _source(record),
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": views.description(record, experiment),
    }
    if shown.arithmetic:
        tags["kmnist.arithmetic"] = shown.arithmetic
    if "commit" in record:
        tags["mlflow.source.git.commit"] = record["commit"]
        tags["kmnist.dirty"] = str(record["dirty"]).lower()
    if record.get("missing"):
        tags["kmnist.missing"] = " ".join(record["missing"])
    if record.get("published"):
        tags["kmnist.times"] = "of publishing"
    return tags | _standing(record)


def _inputs(record: Record) -> list[Any]:
    """The datasets that the stage has read, with the digests from its lineage."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    deps = (record["lineage"] or {"deps": {}})["deps"]
    contexts = {"preprocess": "raw", "evaluate": "evaluation", "conditions": "evaluation"}
    context = contexts.get(record["kind"], "training")
    return [
        DatasetInput(
            Dataset(Path(path).stem, md5.removesuffix(".dir"), "local", json.dumps({"uri": path})),
            [InputTag("mlflow.data.context", context)],
        )
        for path, md5 in sorted(deps.items())
        if path.startswith("data/")
    ]


def _artifacts(record: Record) -> Iterator[tuple[Path, str]]:
    """The files to show, each with its folder in the run, the same for all runs of a kind."""
    for file, start in content.files(record):
        top = file.relative_to(record["root"]).parts[0]
        small_model = file.suffix == ".safetensors" and file.stat().st_size < LARGEST_MODEL
        if top not in ("data", "predictions") and (file.suffix in SHOWN or small_model):
            yield file, (top / file.parent.relative_to(start)).as_posix()


if __name__ == "__main__":
    main()
