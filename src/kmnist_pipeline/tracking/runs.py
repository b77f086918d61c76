"""Showing results in MLflow: a view of the files, never a place that a result depends on.

A stage's results are on disk first. Because importing MLflow takes longer than many stages, and
because a server may hang, a child process does the talking: it starts with the stage, makes itself
ready while the stage computes, and then reads one record from its standard input: which files the
stage has written, and where they come from. It writes a byte after each answer of the store. A
child that falls silent is killed; whatever goes wrong is one warning, and the stage is as good.

`publisher` is the parent's side, which imports nothing heavy. `publish` is the child's side, and
that of `kmnist publish`, which makes the same records of stages that ran at another time.
"""

from __future__ import annotations

import contextlib
import csv
import gc
import json
import math
import os
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import numbers, paths

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from kmnist_pipeline.evidence.stage import Stage

ANSWER_SECONDS = 8  # two attempts of MLFLOW_HTTP_REQUEST_TIMEOUT, and some air
READY_SECONDS = 60  # the same for the first answer of SQLite: migrations take up to 15 s
MOST_WORDS = 200  # characters of a fault that are worth a line
BY_HAND = "by hand"
DATA = "data"  # the MLflow experiment of stages that belong to no report
MODEL = ("architecture", "kind", "solver")  # what tells the models of a family apart
MOST_NUMBERS = 1000  # in the child runs of a stage: 0.25 ms each; `curves.csv` has them all

# MLflow's own bounds let a call to a dead server block for four minutes.
BOUNDS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "PGCONNECT_TIMEOUT": "3",
}
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # each would cost two calls more
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
}


@contextmanager
def publisher() -> Iterator[Publisher]:
    """Start the child that will log a stage's results, and end it with the block.

    Enter it as early as possible: the child needs about two seconds before it can log. A block
    that raises logs nothing.
    """
    command = [sys.executable, "-m", "kmnist_pipeline.tracking.runs"]
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            command,
            bufsize=0,  # closing a buffered pipe to a dead child raises
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env={**BOUNDS, **os.environ, **QUIET},
            start_new_session=True,  # an interrupt of the stage is the parent's to handle
        ) as child,
    ):
        try:
            yield Publisher(child, complaints)
        finally:
            child.kill()


class Publisher:
    """The parent's end of the child that logs."""

    def __init__(self, child: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
        self._child = child
        self._complaints = complaints

    def publish(self, stage: Stage, group: str, parameters: dict[str, Any] | None = None) -> None:
        """Log a stage whose outs are all on disk; on any failure print one warning.

        group: the MLflow experiment; parameters: dotted names and values, where the stage was
        started by hand and has no lineage to tell them.
        """
        record = record_of(stage, group, parameters)
        problem = self._hand_over(json.dumps(record, default=str).encode() + b"\n")
        if problem:
            later = f": `kmnist publish {stage.address}` shows them later" if stage.lineage else ""
            print(
                f"warning: MLflow did not take {stage.address} ({problem}); "
                f"the results are on disk and complete{later}",
                file=sys.stderr,
            )

    def _hand_over(self, record: bytes) -> str | None:
        """Send the record and follow the signs of life to the end; the problem, if any."""
        signs = self._child.stdout
        assert signs is not None
        # A child that is not ready does not read, and a pipe may be smaller than the record.
        threading.Thread(target=self._send, args=[record], daemon=True).start()
        patience = READY_SECONDS if _database() else ANSWER_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(signs, selectors.EVENT_READ)
            while selector.select(patience):
                if not os.read(signs.fileno(), 1 << 12):
                    return self._verdict(self._child.wait())
                patience = ANSWER_SECONDS
        return f"no answer for {patience} s"

    def _send(self, record: bytes) -> None:
        pipe = self._child.stdin
        assert pipe is not None
        with contextlib.suppress(OSError), pipe:
            pipe.write(record)

    def _verdict(self, status: int) -> str | None:
        if status <= 0:
            return f"its process was ended by signal {-status}" if status else None
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return _without_credentials(lines[-1] if lines else f"exit status {status}")[:MOST_WORDS]


def record_of(stage: Stage, group: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    """What `publish` needs to know of a stage that ends now."""
    return {
        "address": stage.address,
        "kind": stage.kind,
        "item": stage.item,
        "group": group,
        "root": stage.root.as_posix(),
        "lineage": stage.lineage,
        "started": stage.started,
        "ended": time.time(),
        "written": stage.written,
        "parameters": stage.lineage["params"] if stage.lineage else parameters or {},
    }


def _without_credentials(text: str) -> str:
    return re.sub(r"//\S*@", "//", text)


# The child's side, from here on.


def main() -> None:
    """Be ready, read one record, log it. The exit status tells whether the store took it."""
    gc.disable()  # a fifth of the time that importing MLflow takes, and this process is short
    try:
        origin = state_of_code() | {"experiment": os.environ.get("DVC_EXP_NAME")}
        client = connect()
        if text := sys.stdin.buffer.readline():  # nothing, where the stage has died
            publish(_Pulse(client), json.loads(text) | origin)
        status = 0
    except Exception as error:
        print(reason(error), file=sys.stderr, flush=True)
        status = 1
    os._exit(status)  # all is committed; tearing the interpreter down takes 0.2 s


class _Pulse:
    """An MLflow client that gives a sign of life after each answer of the store."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            answer = method(*args, **kwargs)
            os.write(sys.stdout.fileno(), b".")
            return answer

        return call


def reason(error: BaseException) -> str:
    """The innermost fault of the network or the files, which says more than MLflow's wrapping.

    Credentials in addresses are left out.
    """
    chain = [error]
    while inner := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(inner)
    telling = [fault for fault in chain if isinstance(fault, OSError)] or chain[:1]
    text = f"{type(telling[-1]).__name__}: {telling[-1]}".partition("\n")[0]
    return _without_credentials(text)[:MOST_WORDS]


def state_of_code() -> dict[str, Any]:
    """Commit, whether anything but outs differs from it, and where a browser finds it.

    Nothing outside a Git repository.
    """
    from kmnist_pipeline.tracking import views

    def git(*args: str) -> str:
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        command = ["git", *args]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    outs = [f":!{path}" for path in (*paths.TRACKED, "dvc.lock")]
    try:
        changed = git("status", "--porcelain", "--", ".", *outs)
        state: dict[str, Any] = {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {}
    with contextlib.suppress(subprocess.CalledProcessError):
        state["repository"] = views.repository(git("remote", "get-url", "origin"))
    return state


def connect() -> MlflowClient:
    """A client of the store that `MLFLOW_TRACKING_URI` names, by default SQLite in this folder.

    How long a dead server may block it is for the environment to say: BOUNDS, as `publisher` sets
    it for its child.
    """
    from mlflow import MlflowClient

    if not _store().startswith("http"):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = 1  # ten attempts at a database that is down take two minutes
    database = _database()
    if database is None:
        return MlflowClient(_store())
    if not database.exists():
        _create(database)
    client = MlflowClient(f"sqlite:///{database}")
    client.search_experiments(max_results=1)  # SQLAlchemy sets itself up at the first query
    return client


def store_exists() -> bool:
    """Whether there is a store to ask; a server is taken to be one."""
    database = _database()
    return database is None or database.exists()


def _store() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_project() / 'mlflow.db'}"


def _project() -> Path:
    """This folder, or the project whose `dvc exp run --temp` made this folder a copy of it."""
    here = Path.cwd()
    copies = next((path for path in here.parents if path.match(".dvc/tmp/exps")), None)
    return copies.parents[2] if copies else here


def _database() -> Path | None:
    """The file of a SQLite store; absolute, because MLflow keeps one engine for each address."""
    scheme, _, path = _store().partition(":///")
    return Path(path).absolute() if scheme == "sqlite" else None


def _create(database: Path) -> None:
    """A new SQLite store, in place once it is whole.

    Its migrations are no transaction: a stage that fails meanwhile would leave a store that
    nothing can open or mend.
    """
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "mlflow.db"
        MlflowClient(f"sqlite:///{fresh}")
        copy = database.with_name(f"{database.name}.{os.getpid()}")
        shutil.copyfile(fresh, copy)
    if database.exists():  # another stage was faster
        copy.unlink()
    else:
        copy.replace(database)


def publish(client: Any, record: dict[str, Any]) -> bool:
    """Show one stage from the files it has written, unless that is done already: True if not.

    client: an MlflowClient; record: of `record_of`, and as far as known those of
    `state_of_code`, `experiment` (its name, where `dvc exp` made it), `superseded` (where its
    stage has newer evidence), `missing` (files that cannot be had), `published` (not by the stage
    as it ended).

    One finished run stands for one lineage key of a stage; what an interrupted attempt left, and
    what lacks files that can be had now, is written anew. Finished runs of other keys are tagged
    as superseded, save experiments, and unless this one is superseded or an experiment itself.
    Runs by hand are always new.
    """
    experiment = _experiment(client, record["group"])
    if record["lineage"] is None:
        _write(client, experiment, record)
        return True

    of_stage = f"tags.`kmnist.stage` = '{record['address']}'"
    key = record["lineage"]["key"]
    same = client.search_runs([experiment], f"{of_stage} and tags.`kmnist.lineage` = '{key}'")
    done = [run for run in same if _is_whole(run, record)]
    for run in same:
        if run not in done:
            _delete(client, run)
    if not done:
        _write(client, experiment, record)
    for run in done:
        _let_stand(client, run, _standing(record))
    if not _standing(record):
        others = client.search_runs(
            [experiment],
            f"{of_stage} and tags.`kmnist.lineage` != '{key}' "
            f"and tags.`kmnist.lineage` != '{BY_HAND}' and tags.`kmnist.superseded` IS NULL "
            "and tags.`kmnist.experiment` IS NULL",
        )
        for run in others:
            client.set_tag(run.info.run_id, "kmnist.superseded", "true")
    return not done


def _is_whole(run: Any, record: dict[str, Any]) -> bool:
    lacks = set(run.data.tags.get("kmnist.missing", "").split())
    return run.info.status == "FINISHED" and lacks <= set(record.get("missing", []))


def _standing(record: dict[str, Any]) -> dict[str, str]:
    """The tags that tell a run from one of its stage's current state, which has none of them."""
    if record.get("experiment"):
        return {"kmnist.experiment": record["experiment"]}
    return {"kmnist.superseded": "true"} if record.get("superseded") else {}


def _let_stand(client: Any, run: Any, standing: dict[str, str]) -> None:
    """Bring a finished run's standing up to date: the current state outranks an experiment's,
    and that a superseded one's."""
    if "kmnist.superseded" in standing:
        return
    had = run.data.tags
    if "kmnist.superseded" in had:
        client.delete_tag(run.info.run_id, "kmnist.superseded")
        for tag, value in standing.items():
            client.set_tag(run.info.run_id, tag, value)
    elif "kmnist.experiment" in had and not standing:
        client.delete_tag(run.info.run_id, "kmnist.experiment")


def _experiment(client: Any, name: str) -> str:
    """The id of an experiment, new or brought back from the bin if need be, with its views."""
    from kmnist_pipeline.tracking import views

    found = client.get_experiment_by_name(name)
    if found is None:
        database = _database()
        # Without a server MLflow would choose a folder of its own; a server knows its place.
        place = (database.parent / "mlartifacts" / name).as_uri() if database else None
        experiment, tags = client.create_experiment(name, artifact_location=place), {}
    else:
        experiment, tags = found.experiment_id, found.tags
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(experiment)
    wanted = views.tags_of_experiment(name, experiment) if name != DATA else {}
    for tag, value in wanted.items():
        if tags.get(tag) != value:
            client.set_experiment_tag(experiment, tag, value)
    return experiment


def _delete(client: Any, run: Any) -> None:
    of_run = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    for part in [*client.search_runs([run.info.experiment_id], of_run), run]:
        client.delete_run(part.info.run_id)


@dataclass
class View:
    """What a run shows: parameters, numbers as (metric, value, step), and runs inside it."""

    name: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    numbers: list[tuple[str, float, int]] = field(default_factory=list)
    children: list[View] = field(default_factory=list)

    def add(self, name: str, value: float | None, step: int = 0) -> None:
        """One number, unless there is none."""
        if value is not None:
            self.numbers.append((name, float(value), step))


def _write(client: Any, experiment: str, record: dict[str, Any]) -> None:
    """The run of a stage. It is finished last, so that a finished run is a whole one."""
    view = _view(record)
    started, ended = round(record["started"] * 1000), round(record["ended"] * 1000)

    def write(view: View, tags: dict[str, str]) -> str:
        from mlflow.entities import Metric, Param

        run = client.create_run(experiment, started, tags, view.name)
        numbers = [Metric(_key(name), value, ended, step) for name, value, step in view.numbers]
        parameters = [Param(_key(name), _text(value)) for name, value in view.parameters.items()]
        while numbers or parameters:
            # The most parameters, and the most in all, that a store takes at once.
            some, parameters = parameters[:100], parameters[100:]
            fit = 1000 - len(some)
            client.log_batch(run.info.run_id, numbers[:fit], some, synchronous=True)
            numbers = numbers[fit:]
        return run.info.run_id

    run_id = write(view, _tags(record, experiment))
    inputs = _inputs(record)
    if inputs:
        client.log_inputs(run_id, inputs)
    for child in view.children:
        child_id = write(child, {"mlflow.parentRunId": run_id})
        client.set_terminated(child_id, "FINISHED", ended)
    for path, folder in _artifacts(record):
        client.log_artifact(run_id, str(path), folder)
    client.set_terminated(run_id, "FINISHED", ended)


def _key(name: str) -> str:
    """`name` as MLflow allows names of metrics and parameters."""
    return re.sub(r"[^\w.\- :/]", "_", name)[:250]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _tags(record: dict[str, Any], experiment: str) -> dict[str, str]:
    from kmnist_pipeline.tracking import views

    tags = {
        "kmnist.stage": record["address"],
        "kmnist.kind": record["kind"],
        "kmnist.item": record["item"],
        "kmnist.lineage": record["lineage"]["key"] if record["lineage"] else BY_HAND,
        "mlflow.source.name": f"src/kmnist_pipeline/stages/{record['kind'].replace('-', '_')}.py",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": views.description(record, experiment),
    }
    if made_in := _arithmetic(record):
        tags["kmnist.arithmetic"] = made_in
    if "commit" in record:
        tags["mlflow.source.git.commit"] = record["commit"]
        tags["kmnist.dirty"] = str(record["dirty"]).lower()
    if record.get("missing"):
        tags["kmnist.missing"] = " ".join(record["missing"])
    if record.get("published"):
        tags["kmnist.times"] = "of publishing"
    return tags | _standing(record)


def _arithmetic(record: dict[str, Any]) -> str | None:
    """What a stage's numbers say of the arithmetic that made them."""
    for file, _ in _files(record):
        if file.suffix == ".json":
            content = json.loads(file.read_text())
            if isinstance(content, dict) and "made_by" in content:
                return content["made_by"].get("arithmetic")
    return None


def _inputs(record: dict[str, Any]) -> list[Any]:
    """The data sets that the stage has read, with the digests of its lineage."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    deps = (record["lineage"] or {"deps": {}})["deps"]
    context = {"preprocess": "raw", "evaluate": "evaluation"}.get(record["kind"], "training")
    return [
        DatasetInput(
            Dataset(Path(path).stem, md5.removesuffix(".dir"), "local", json.dumps({"uri": path})),
            [InputTag("mlflow.data.context", context)],
        )
        for path, md5 in sorted(deps.items())
        if path.startswith("data/")
    ]


SHOWN = {".json", ".csv", ".png", ".html"}
LARGEST_MODEL = 10_000_000  # bytes


def _files(record: dict[str, Any]) -> Iterator[tuple[Path, Path]]:
    """Every file that the stage has written, each with the folder that its out begins at."""
    for out in record["written"]:
        path = Path(record["root"]) / out
        if path.is_dir():
            yield from ((file, path) for file in sorted(path.rglob("*")) if file.is_file())
        elif path.exists():
            yield path, path.parent


def _artifacts(record: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """The files to show, each with its folder in the run: the same for every run of a kind."""
    for file, start in _files(record):
        top = file.relative_to(record["root"]).parts[0]
        small_model = file.suffix == ".safetensors" and file.stat().st_size < LARGEST_MODEL
        if top not in ("data", "predictions") and (file.suffix in SHOWN or small_model):
            yield file, (top / file.parent.relative_to(start)).as_posix()


def _view(record: dict[str, Any]) -> View:
    """The numbers of a stage, read from its files."""
    by_hand = "" if record["lineage"] else " " + Path(record["root"]).name
    parameters = _flat(record["parameters"], record["item"])
    view = View(f"{record['item']} {record['kind']}{by_hand}", parameters)
    shows = {
        "preprocess": ("json", _preprocess),
        "kfold-train": ("validation.json", _kfold_train),
        "tune": ("validation.json", _tune),
        "evaluate": ("test.json", _evaluate),
        "report": ("claims.json", _report),
    }
    if record["kind"] in shows:
        name, show = shows[record["kind"]]
        file = _written(record, name)
        try:
            content = numbers.read(file) if name != "claims.json" else json.loads(file.read_text())
            show(view, content, record)
        except (LookupError, TypeError, ValueError, AttributeError, OSError) as error:
            told = f"{type(error).__name__}: {error}"
            out = file.relative_to(record["root"])
            raise UserError(f"{out} is not of the form that this code writes ({told})") from error
    _thin(view.children)
    return view


def _thin(children: list[View]) -> None:
    """Leave out every so many epochs where all curves together would take too long to log."""
    stride = math.ceil(sum(len(child.numbers) for child in children) / MOST_NUMBERS)
    for child in children:
        last = max((step for _, _, step in child.numbers), default=0)
        child.numbers = [
            (name, value, step)
            for name, value, step in child.numbers
            if step in (0, last) or step % stride == 1 % stride
        ]


def _written(record: dict[str, Any], ending: str) -> Path:
    for file, _ in _files(record):
        if file.name.endswith(ending):
            return file
    raise UserError(f"{record['address']} has written no {ending}")


# What describes and changes no result, and what other columns or the runs of trials show.
PROSE = re.compile(
    r"(title|licence|summary|reproduces|sources|parts|figures|report|kind|family|points|product)\b"
)


def _flat(parameters: dict[str, Any], item: str) -> dict[str, Any]:
    """Each value that is set, by its dotted name, short where that is unambiguous."""
    flat: dict[str, Any] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{name}.{key}", inner)
            return
        short = re.sub(r"^(datasets|experiments|studies|models|reports)\.[^.]+\.", "", name)
        if not PROSE.match(short):
            flat[short if flat.get(short, value) == value else name] = value

    # The stage's own values come first: they have the first claim to a short name.
    for name in sorted(parameters, key=lambda n: (item not in n.split("."), n)):
        walk(name, parameters[name])
    return {name: value for name, value in flat.items() if value is not None}


def _preprocess(view: View, content: dict[str, Any], record: dict[str, Any]) -> None:
    for name, number in {**content, **content.get("overlap", {})}.items():
        if isinstance(number, int | float):
            view.add(name, number)


def _kfold_train(view: View, content: dict[str, Any], record: dict[str, Any]) -> None:
    curves = _read_curves(record)
    _add_validation(view, content, _merged(curves.values()))
    for fold in content["folds"]:
        place = {"seed": fold["seed"], "fold": fold["fold"]}
        child = View(" ".join(f"{name} {value}" for name, value in place.items()), place)
        for split in ("", "train_"):
            for metric in ("accuracy", "loss"):
                child.add(f"{split or 'validation_'}{metric}", fold[split + metric])
        for count in ("kept_epoch", "epochs"):
            child.add(count, fold.get(count))  # older evidence has another name for the first
        _add_curves(child, curves.get(("", str(fold["seed"]), str(fold["fold"])), {}))
        view.children.append(child)


def _tune(view: View, content: dict[str, Any], record: dict[str, Any]) -> None:
    of_trial = defaultdict(list)
    for (trial, _, _), curve in _read_curves(record).items():
        of_trial[trial].append(curve)
    kept = "retrained" if "retrained" in of_trial else content["winner"]
    _add_validation(view, content, _merged(of_trial[kept]))
    _add_winner(view, content)
    for trial in content["trials"]:
        child = View(trial["name"], trial["parameters"])
        _add_validation(child, trial, _merged(of_trial[trial["name"]]))
        view.children.append(child)


def _add_winner(view: View, content: dict[str, Any]) -> None:
    """What a study's model is, beside the base that its parameters tell."""
    for trial in content.get("trials", []):
        if trial["name"] == content["winner"]:
            view.parameters |= trial["parameters"] | {"winner": trial["name"]}


VALIDATION = "/validation.json"


def is_read(kind: str, path: str) -> bool:
    """Whether a stage's run shows something of this dependency."""
    return kind == "evaluate" and path.endswith((VALIDATION, numbers.beside(VALIDATION)))


def _evaluate(view: View, content: dict[str, Any], record: dict[str, Any]) -> None:
    # The model that is measured here, so that one row tells all of it.
    for path in (record["lineage"] or {"deps": {}})["deps"]:
        if path.endswith(VALIDATION):
            validation = numbers.read(Path(record["root"]) / path)
            view.parameters |= _flat(validation["made_by"]["parameters"], record["item"])
            _add_winner(view, validation)
            for key in MODEL:
                if f"model.{key}" in view.parameters:
                    view.parameters["model"] = view.parameters[f"model.{key}"]
            if "draws" not in content:  # else it is that of pairs of images
                view.add("validation_accuracy", validation["accuracy"])
    for metric in ("accuracy", "precision", "recall", "f1"):
        view.add(f"test_{metric}", content[metric])
    # Older evidence has the spread of accuracy alone.
    for name, spread in (("test", content["seeds"]), ("draws", content.get("draws") or {})):
        _add_spread(view, f"{name}_accuracy", spread.get("accuracy", spread))
    if "routing" in content:
        for number in ("temperature", "threshold"):
            view.add(f"routing/{number}", content["routing"][number])
        for number in ("accepted", "review", "accuracy"):
            view.add(f"routing/test_{number}", content["routing"]["test"][number])


def _report(view: View, content: Any, record: dict[str, Any]) -> None:
    claims = content if isinstance(content, list) else content["claims"]
    counted = [claim["verdict"] for claim in claims if not claim.get("same_as")]
    for verdict, count in Counter(counted).items():
        view.add(f"verdicts/{verdict}", count)


Curve = dict[tuple[str, int], list[float]]  # metric and epoch: one value a fold


def _add_validation(view: View, content: dict[str, Any], curve: Curve) -> None:
    view.add("validation_accuracy", content["accuracy"])
    view.add("validation_loss", content.get("loss"))
    _add_spread(view, "validation_accuracy", content["seeds"])
    _add_curves(view, curve)


def _add_spread(view: View, name: str, seeds: dict[str, Any] | None) -> None:
    for number in ("mean", "sd"):
        view.add(f"{name}_{number}", (seeds or {}).get(number))


def _add_curves(view: View, curve: Curve) -> None:
    """The mean over the folds that got as far as an epoch: some stop early."""
    for (metric, epoch), values in curve.items():
        view.add(metric, math.fsum(values) / len(values), epoch)


def _merged(curves: Iterable[Curve]) -> Curve:
    merged: Curve = defaultdict(list)
    for curve in curves:
        for point, values in curve.items():
            merged[point] += values
    return merged


def _read_curves(record: dict[str, Any]) -> dict[tuple[str, str, str], Curve]:
    """The rows of `curves.csv` by trial, seed and fold."""
    curves: dict[tuple[str, str, str], Curve] = defaultdict(lambda: defaultdict(list))
    with _written(record, "curves.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            curve = curves[row["trial"], row["seed"], row["fold"]]
            for metric in ("loss", "accuracy"):
                if row[metric]:
                    curve[f"{row['split']}/{metric}", int(row["epoch"])].append(float(row[metric]))
    return curves


if __name__ == "__main__":
    main()
