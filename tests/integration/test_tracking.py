"""MLflow shows what a stage has written, and never costs more than a warning."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from support.project import files_under
from support.stores import attempts, free_port

from kmnist_pipeline import arithmetic
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence.stage import Stage
from kmnist_pipeline.serving import registry
from kmnist_pipeline.tracking import content, record, views
from kmnist_pipeline.tracking import runs as tracking
from kmnist_pipeline.tracking import store as stores
from kmnist_pipeline.tracking.publisher import publisher
from kmnist_pipeline.tracking.record import Record

SRC = Path(tracking.__file__).parents[2]
SEEDS, FOLDS, EPOCHS = 2, 3, 4
KEY, OTHER_KEY = "1" * 64, "2" * 64
MD5 = "0123456789abcdef" * 2
FOLDER = "metrics/digits/digits_softmax"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A folder to run stages in, without a store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def store(workspace, empty_store):
    """A client of the project's own SQLite store."""
    shutil.copyfile(empty_store, workspace / "mlflow.db")
    return stores.connect()


def lineage(key: str, params: dict[str, Any]) -> dict[str, Any]:
    deps = {
        "data/processed/digits.npz": MD5,
        "src/kmnist_pipeline/families/linear/train.py": "f" * 32,
    }
    return {"cmd": "python -m some.stage name=x", "deps": deps, "params": params, "key": key}


def curve(trial: str, epochs: int = EPOCHS) -> list[list[Any]]:
    """Rows of curves.csv: fold 2 stops one epoch early."""
    return [
        [trial, seed, fold, epoch, split, 1 / epoch, (seed + fold + epoch) / 100]
        for seed in range(SEEDS)
        for fold in range(FOLDS)
        for epoch in range(1, epochs + (fold < 2))
        for split in ("train", "validation")
    ]


def fold_rows() -> list[dict[str, Any]]:
    return [
        {"seed": seed, "fold": fold, "kept_epoch": 2, "epochs": 4, "accuracy": 0.9, "loss": 0.3}
        | {"n_train": 80, "n_validation": 20, "train_accuracy": 0.95, "train_loss": 0.2}
        for seed in range(SEEDS)
        for fold in range(FOLDS)
    ]


CURVES = ["trial", "seed", "fold", "epoch", "split", "loss", "accuracy"]
SPREAD = {"n": 2, "mean": 0.91, "sd": 0.01, "values": [0.9, 0.92]}
VALIDATED = {"accuracy": 0.9, "loss": 0.3, "n": 120, "seeds": SPREAD}
PARAMETERS = {
    "experiments.digits_softmax.optimizer": {"lr": 0.5, "batch_size": 32},
    "experiments.digits_softmax.model": {"family": "linear", "kind": "softmax"},
    "experiments.digits_softmax.classes": None,
    "datasets.digits.classes": ["0", "1"],
    "evaluation": {"samples": 25},
}


def write(stage: Stage, path: str, content: dict[str, Any]) -> None:
    """Numbers as the stages write them: what one compares, and a second file of details."""
    names = ("accuracy", "loss", "n", "precision", "recall", "f1", "correct")
    compared = {name: content[name] for name in names if name in content}
    stage.write_numbers(path, compared, {k: v for k, v in content.items() if k not in compared})


def trained(
    key: str | None = KEY,
    epochs: int = EPOCHS,
    item: str = "digits_softmax",
    params: dict[str, Any] = PARAMETERS,
) -> Stage:
    """A stage that has trained; without a key, by hand."""
    root = Path("." if key else f"multirun/kfold-train/{item}/lr=0.1")
    stage = Stage("kfold-train", item, root, lineage(key, params) if key else None)
    stage.write(f"models/{item}.safetensors", b"weights")
    stage.write_csv(f"metrics/digits/{item}/curves.csv", CURVES, curve("", epochs))
    validation = f"metrics/digits/{item}/validation.json"
    write(stage, validation, VALIDATED | {"folds": fold_rows()})
    return stage


def tuned() -> Stage:
    points = [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.5}]
    stage = Stage("tune", "digits_grid", Path("."), lineage(KEY, {"studies.digits_grid": {}}))
    stage.write_csv(
        "metrics/digits/digits_grid/curves.csv", CURVES, curve("lr=0.1") + curve("lr=0.5")
    )
    trials = [
        VALIDATED | {"name": f"lr={point['optimizer.lr']}", "parameters": point} for point in points
    ]
    write(
        stage,
        "metrics/digits/digits_grid/validation.json",
        VALIDATED | {"folds": fold_rows(), "trials": trials, "winner": "lr=0.5"},
    )
    stage.write_csv("metrics/digits/digits_grid/trials.csv", ["trial"], [["lr=0.1"], ["lr=0.5"]])
    return stage


def evaluated(item: str = "digits_softmax", **more: Any) -> Stage:
    from matplotlib import image

    known = lineage(KEY, {"evaluation": {"samples": 25}})
    known["deps"][f"metrics/digits/{item}/validation.json"] = MD5
    stage = Stage("evaluate", item, Path("."), known)
    scores = {"accuracy": 0.9, "precision": 0.8, "recall": 0.7, "f1": 0.6, "n": 20, "correct": 18}
    per_class = {"o": {"f1": 0.5}, "ki (き)": {"f1": 0.7}}
    seeds = dict.fromkeys(("accuracy", "precision", "recall", "f1"), SPREAD)
    details = {"confusion": [[9, 1], [1, 9]], "per_class": per_class, "seeds": seeds}
    write(stage, f"metrics/digits/{item}/test.json", scores | details | more)
    stage.write(f"predictions/{item}.npz", b"predictions")
    with stage.directory(f"figures/digits/{item}") as folder:
        image.imsave(folder / "confusion.png", np.eye(16))
    return stage


def record_of(stage: Stage, **parameters: Any) -> Record:
    made = (stage.address, stage.root, stage.lineage, stage.written)
    return record.of_stage(*made, {stage.item: {"report": "digits"}}, parameters, stage.started)


def publish(stage: Stage, client: Any = None, **more: Any) -> None:
    """The child's side, in this process."""
    tracking.publish(client or stores.connect(), cast(Record, {**record_of(stage), **more}))


def runs(client: Any, group: str = "digits", *filters: str) -> list[Any]:
    """The runs of stages in an experiment, without the runs inside them, oldest first."""
    experiment = client.get_experiment_by_name(group)
    if experiment is None:
        return []
    wanted = " and ".join(["tags.`kmnist.stage` LIKE '%'", *filters])
    return client.search_runs([experiment.experiment_id], wanted, order_by=["start_time ASC"])


def children(client: Any, run: Any) -> list[Any]:
    inside = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    return client.search_runs([run.info.experiment_id], inside, order_by=["run_name ASC"])


def history(client: Any, run: Any, metric: str) -> dict[int, float]:
    return {m.step: m.value for m in client.get_metric_history(run.info.run_id, metric)}


def artifacts(client: Any, run: Any) -> set[str]:
    folders = client.list_artifacts(run.info.run_id)
    return {
        file.path for top in folders for file in client.list_artifacts(run.info.run_id, top.path)
    }


def log(stage: Stage) -> None:
    """Log a stage as its entrypoint does."""
    with publisher() as child:
        child.hand_over(record_of(stage))


def only_warning(capfd) -> str:
    """The one line that a stage has printed."""
    out, err = capfd.readouterr()
    (line,) = (out + err).splitlines()
    assert line.startswith("warning: kfold-train@digits_softmax was not published to MLflow (")
    later = "`kmnist publish kfold-train@digits_softmax` shows them later"
    assert line.endswith(f"); its results on disk are complete: {later}")
    return line


# A SQLite store.


def test_the_first_stage_makes_the_store(workspace, capfd):
    stage = trained()
    log(stage)
    assert capfd.readouterr() == ("", "")

    client = stores.connect()
    (run,) = runs(client)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "digits_softmax kfold-train"
    assert run.info.start_time == round(stage.started * 1000) <= run.info.end_time
    assert run.data.tags["kmnist.kind"] == "kfold-train"
    assert run.data.tags["kmnist.item"] == "digits_softmax"
    assert run.data.tags["kmnist.lineage"] == KEY
    assert run.data.tags["kmnist.arithmetic"] == arithmetic.name()
    assert run.data.tags["mlflow.source.name"] == "src/kmnist_pipeline/stages/kfold_train.py"
    assert run.info.artifact_uri.startswith((workspace / "mlartifacts/digits").as_uri())
    of_mlflow = {path.name for path in workspace.iterdir() if path.name.startswith("ml")}
    assert of_mlflow == {"mlflow.db", "mlartifacts"}


def test_training_shows_parameters_curves_and_folds(store):
    publish(trained())
    (run,) = runs(store)
    assert run.data.params == {
        "model.family": "linear",
        "model.kind": "softmax",
        "optimizer.lr": "0.5",
        "optimizer.batch_size": "32",
        "datasets.digits.classes": '["0", "1"]',
        "evaluation.samples": "25",
    }
    metrics = run.data.metrics
    assert metrics["validation_accuracy"] == 0.9
    assert metrics["validation_loss"] == 0.3
    assert metrics["validation_accuracy_mean"] == 0.91
    assert metrics["validation_accuracy_sd"] == 0.01
    accuracy = history(store, run, "validation/accuracy")
    assert sorted(accuracy) == [1, 2, 3, 4]
    assert accuracy[1] == pytest.approx(0.025)  # seeds 0, 1 and folds 0, 1, 2
    assert accuracy[4] == pytest.approx(0.05)  # folds 0, 1: the third has stopped
    assert history(store, run, "train/loss")[4] == 0.25

    folds = children(store, run)
    names = [f"seed {seed} fold {fold}" for seed in range(SEEDS) for fold in range(FOLDS)]
    assert [fold.info.run_name for fold in folds] == names
    assert {fold.info.status for fold in folds} == {"FINISHED"}
    last = folds[-1]
    assert last.data.params == {"seed": "1", "fold": "2"}
    assert last.data.metrics["train_accuracy"] == 0.95
    assert last.data.metrics["kept_epoch"] == 2
    assert history(store, last, "validation/accuracy") == {1: 0.04, 2: 0.05, 3: 0.06}


def test_where_nothing_is_held_out_nothing_is_shown(store):
    stage = Stage("kfold-train", "digits_softmax", Path("."), lineage(KEY, {}))
    nothing = dict.fromkeys(VALIDATED)
    fold = fold_rows()[0] | {"accuracy": None, "loss": None}
    stage.write_csv(f"{FOLDER}/curves.csv", CURVES, [["", 0, 0, 1, "train", None, 0.95]])
    write(stage, f"{FOLDER}/validation.json", nothing | {"folds": [fold]})
    publish(stage)
    (run,) = runs(store)
    assert run.data.metrics == {"train/accuracy": 0.95}
    (only,) = children(store, run)
    assert only.data.metrics["train_accuracy"] == 0.95
    assert "validation_accuracy" not in only.data.metrics


def test_long_curves_of_folds_are_thinned_and_their_mean_is_not(store, monkeypatch):
    monkeypatch.setattr(content, "MOST_NUMBERS", 100)
    publish(trained(epochs=20))
    (run,) = runs(store)
    assert sorted(history(store, run, "train/loss")) == list(range(1, 21))
    fold = children(store, run)[0]
    assert sorted(history(store, fold, "train/loss")) == [1, 7, 13, 19, 20]
    assert fold.data.metrics["validation_accuracy"] == 0.9


def test_data_sets_are_inputs_with_digest_and_context(store):
    publish(trained())
    publish(evaluated())
    raw = Stage("preprocess", "digits", Path("."), lineage(KEY, {}))
    raw.lineage = {**lineage(KEY, {}), "deps": {"data/raw/digits": f"{MD5}.dir"}}
    raw.write_details("metrics/data/digits.json", {"n": 9, "overlap": {"test_images_in_train": 1}})
    raw.write("data/processed/digits.npz", b"images")
    publish(raw)

    for group, kind, context in [
        ("digits", "kfold-train", "training"),
        ("digits", "evaluate", "evaluation"),
        ("data", "preprocess", "raw"),
    ]:
        (run,) = runs(store, group, f"tags.`kmnist.kind` = '{kind}'")
        (used,) = run.inputs.dataset_inputs
        assert (used.dataset.name, used.dataset.digest) == ("digits", MD5)
        assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", context)]
    assert run.data.metrics == {"n": 9, "test_images_in_train": 1}
    assert artifacts(store, run) == {"metrics/digits.json"}


def test_a_study_shows_its_trials(store):
    publish(tuned())
    (run,) = runs(store)
    assert run.data.params == {"winner": "lr=0.5", "optimizer.lr": "0.5"}
    assert run.data.metrics["validation_accuracy"] == 0.9
    first, second = children(store, run)
    assert [first.info.run_name, second.info.run_name] == ["lr=0.1", "lr=0.5"]
    assert second.data.params == {"optimizer.lr": "0.5"}
    assert second.data.metrics["validation_accuracy_sd"] == 0.01
    assert history(store, second, "validation/accuracy")[1] == pytest.approx(0.025)
    assert artifacts(store, run) == {
        f"metrics/{name}"
        for name in ("curves.csv", "trials.csv", "validation.json", "validation_details.json")
    }


def test_an_evaluation_shows_scores_and_figures(store, tmp_path):
    from PIL import Image

    publish(trained())
    publish(evaluated())
    (run,) = runs(store, "digits", "tags.`kmnist.kind` = 'evaluate'")
    assert run.info.run_name == "digits_softmax evaluate"
    assert run.data.params["optimizer.lr"] == "0.5"
    assert run.data.params["model"] == "softmax"
    assert run.data.metrics == {
        "validation_accuracy": 0.9,
        **{"test_accuracy": 0.9, "test_precision": 0.8, "test_recall": 0.7, "test_f1": 0.6},
        **{"test_accuracy_mean": 0.91, "test_accuracy_sd": 0.01},
    }
    assert artifacts(store, run) == {
        *("metrics/test.json", "metrics/test_details.json", "figures/confusion.png")
    }
    workspace = store.download_artifacts(run.info.run_id, "figures/confusion.png", str(tmp_path))
    assert Image.open(workspace).size == (16, 16)


def test_a_validation_of_pairs_is_none_of_classes(store):
    publish(trained())
    publish(evaluated(draws={"accuracy": SPREAD}))
    (run,) = runs(store, "digits", "tags.`kmnist.kind` = 'evaluate'")
    assert "validation_accuracy" not in run.data.metrics
    assert run.data.metrics["draws_accuracy_mean"] == 0.91


def test_a_report_shows_its_verdicts(store):
    stage = Stage("report", "digits", Path("."), lineage(KEY, {}))
    verdicts = ["exact", "exact", "differs"]
    claims = [{"id": str(number), "verdict": verdict} for number, verdict in enumerate(verdicts)]
    content = json.dumps({"made_by": stage.made_by, "claims": claims})
    stage.write("reports/digits/claims.json", content.encode())
    stage.write("reports/digits/index.html", b"<p>page")
    publish(stage)
    (run,) = runs(store)
    assert run.data.metrics == {"verdicts/exact": 2, "verdicts/differs": 1}
    assert artifacts(store, run) == {"reports/claims.json", "reports/index.html"}


def test_code_is_named_by_its_commit(store, workspace):
    def git(*args: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
        done = subprocess.run(["git", *identity, *args], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    Path(".gitignore").write_text("/ml*\n/models/\n")
    git("add", ".gitignore")
    git("commit", "-qm", "first")
    stage = trained()  # its metrics are new files, as in every run of a stage
    clean = record.state_of_code()
    assert clean == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    Path("code.py").write_text("")
    assert record.state_of_code()["dirty"]

    publish(stage, store, **clean)
    (run,) = runs(store)
    assert run.data.tags["mlflow.source.git.commit"] == clean["commit"]
    assert run.data.tags["kmnist.dirty"] == "false"


def test_a_lineage_key_is_logged_once(store):
    publish(trained())
    publish(trained())
    assert len(runs(store)) == 1


def test_a_new_key_supersedes_and_an_old_one_can_come_back(store):
    def superseded() -> dict[str, str | None]:
        tags = [run.data.tags for run in runs(store)]
        return {tag["kmnist.lineage"]: tag.get("kmnist.superseded") for tag in tags}

    publish(trained(KEY))
    publish(trained(OTHER_KEY))
    assert superseded() == {KEY: "true", OTHER_KEY: None}
    publish(trained(KEY))
    assert superseded() == {KEY: None, OTHER_KEY: "true"}


def test_runs_by_hand_are_always_new(store):
    publish(trained())
    own = record_of(trained(None), **{"experiments.digits_softmax.seeds": [3]})
    tracking.publish(store, own)
    tracking.publish(store, own)
    by_hand = runs(store, "digits", "tags.`kmnist.lineage` = 'by hand'")
    assert [run.info.run_name for run in by_hand] == ["digits_softmax kfold-train lr=0.1"] * 2
    assert by_hand[0].data.params == {"seeds": "[3]"}
    assert "kmnist.superseded" not in runs(store)[0].data.tags


@pytest.mark.parametrize(
    ("remote", "page"),
    [
        ("https://someone:secret@example.org/team/repo.git", "https://example.org/team/repo"),
        ("git@example.org:team/repo.git", "https://example.org/team/repo"),
        ("ssh://git@example.org:2222/team/repo", "https://example.org/team/repo"),
        ("/srv/git/repo.git", None),
        ("../main", None),
    ],
)
def test_a_description_leads_to_the_commit(remote, page, store, workspace):
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "remote", "add", "origin", remote], check=True)
    commit = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "x"]
    subprocess.run([*commit, "--allow-empty"], check=True)
    state = record.state_of_code()
    publish(trained(), store, **state)
    (run,) = runs(store)
    text = run.data.tags["mlflow.note.content"]
    assert f"Lineage key: `{KEY}`" in text
    assert "secret" not in str(run.data.tags)
    link = f"[`{state['commit'][:7]}`]({page}/commit/{state['commit']})"
    assert (link in text) == (page is not None)
    assert state["commit"] in text


def test_an_experiment_has_its_views_and_data_has_none(store):
    publish(trained())
    publish(Stage("download", "digits", Path("."), lineage(KEY, {})))
    saved = [f"mlflow.sharedViewState.{view}" for view in ("models", "curves")]
    tags = store.get_experiment_by_name("digits").tags
    for tag in saved:
        view = json.loads(tags[tag])
        assert view["name"]
    assert not store.get_experiment_by_name("data").tags.keys() & saved

    experiment = store.get_experiment_by_name("digits").experiment_id
    store.set_experiment_tag(experiment, saved[0], "an older code's")
    publish(trained(OTHER_KEY))
    assert store.get_experiment_by_name("digits").tags == tags


def listed(client: Any, view: str) -> list[str]:
    """The names of the runs that a prepared view lists."""
    found = client.get_experiment_by_name("digits")
    state = json.loads(json.loads(found.tags[views.SAVED + view])["state"])
    runs = client.search_runs([found.experiment_id], state["searchFilter"])
    return sorted(run.info.run_name for run in runs)


def test_views_list_the_current_state_of_each_model(store):
    other = evaluated()
    other.lineage = {**other.lineage, "key": OTHER_KEY} if other.lineage else None
    publish(trained(OTHER_KEY))
    publish(other)
    publish(trained())
    publish(evaluated())
    publish(trained("3" * 64), experiment="tried")
    publish(trained(None))
    assert len(runs(store)) == 6
    assert listed(store, "models") == ["digits_softmax evaluate"]
    assert listed(store, "curves") == ["digits_softmax kfold-train"]


def test_models_of_some_classes_have_views_of_their_own(store):
    part = {"experiments.digits_pair.classes": [0, 6]}
    publish(trained())
    publish(evaluated())
    publish(trained(item="digits_pair", params=part))
    publish(evaluated(item="digits_pair"))
    publish(evaluated())  # which leaves them as they are
    assert listed(store, "models") == ["digits_softmax evaluate"]
    assert listed(store, "curves") == ["digits_softmax kfold-train"]
    assert listed(store, "models-0-6") == ["digits_pair evaluate"]
    assert listed(store, "curves-0-6") == ["digits_pair kfold-train"]
    text = store.get_experiment_by_name("digits").tags["mlflow.note.content"]
    assert text.count("viewStateShareKey=") == 4


def test_a_deleted_experiment_comes_back_without_its_runs(store):
    publish(trained())
    store.delete_experiment(store.get_experiment_by_name("digits").experiment_id)
    publish(trained(OTHER_KEY))
    (run,) = runs(store)
    assert run.data.tags["kmnist.lineage"] == OTHER_KEY
    active = store.search_runs([run.info.experiment_id])
    assert len(active) == 1 + len(children(store, run))


def test_a_run_without_the_number_of_its_nested_runs_stays(store):
    """As in stores that were filled before this tag."""
    publish(trained())
    (run,) = runs(store)
    store.delete_tag(run.info.run_id, tracking.NESTED)
    publish(trained())
    assert [found.info.run_id for found in runs(store)] == [run.info.run_id]


def test_what_a_person_removes_comes_back_and_what_is_twice_goes(store, workspace):
    def removes_artifacts(run: Any) -> None:
        shutil.rmtree(workspace / "mlartifacts")

    def cuts_a_file(run: Any) -> None:
        (curves,) = workspace.glob(f"mlartifacts/digits/{run.info.run_id}/**/curves.csv")
        curves.write_text("")

    def deletes_a_fold(run: Any) -> None:
        store.delete_run(children(store, run)[0].info.run_id)

    def deletes_and_restores(run: Any) -> None:
        store.delete_run(run.info.run_id)
        publish(trained())
        store.restore_run(run.info.run_id)

    def restores_an_older_one(run: Any) -> None:
        publish(trained(OTHER_KEY))
        (older,) = runs(store, "digits", f"tags.`kmnist.lineage` = '{KEY}'")
        store.delete_tag(older.info.run_id, "kmnist.superseded")
        publish(trained())
        (other,) = runs(store, "digits", f"tags.`kmnist.lineage` = '{OTHER_KEY}'")
        store.delete_tag(other.info.run_id, "kmnist.superseded")

    def restores_an_experiment(run: Any) -> None:
        store.delete_run(run.info.run_id)
        store.delete_experiment(run.info.experiment_id)
        store.restore_experiment(run.info.experiment_id)

    publish(trained())
    (first,) = runs(store)
    wanted = artifacts(store, first)
    for change in (
        *(removes_artifacts, cuts_a_file, deletes_a_fold, deletes_and_restores),
        *(restores_an_older_one, restores_an_experiment),
    ):
        (run,) = runs(store, "digits", views.CURRENT)
        change(run)
        publish(trained())
        (run,) = runs(store, "digits", views.CURRENT)
        assert artifacts(store, run) == wanted, change
        assert len(children(store, run)) == SEEDS * FOLDS, change
        (curves,) = workspace.glob(f"mlartifacts/digits/{run.info.run_id}/**/curves.csv")
        assert curves.stat().st_size > 0


def deletes_the_key(client: Any, run: Any) -> None:
    client.delete_tag(run.info.run_id, "kmnist.lineage")


def renames_the_experiment(client: Any, run: Any) -> None:
    client.rename_experiment(run.info.experiment_id, "mine")


def renames_it_and_deletes_the_key(client: Any, run: Any) -> None:
    renames_the_experiment(client, run)
    deletes_the_key(client, run)


def restores_a_renamed_experiment(client: Any, run: Any) -> None:
    renames_the_experiment(client, run)
    client.delete_experiment(run.info.experiment_id)
    publish(trained())
    client.restore_experiment(run.info.experiment_id)


@pytest.mark.parametrize("key", [KEY, OTHER_KEY])
@pytest.mark.parametrize(
    "change",
    [
        deletes_the_key,
        renames_the_experiment,
        renames_it_and_deletes_the_key,
        restores_a_renamed_experiment,
    ],
)
def test_one_run_of_a_stage_is_current_whatever_a_person_changes(store, change, key):
    publish(trained())
    publish(trained(item="digits_other"))
    publish(trained(None))  # by hand
    (first,) = runs(store, "digits", f"{views.CURRENT} and tags.`kmnist.item` = 'digits_softmax'")
    change(store, first)
    publish(trained(key))
    numbers = [each.experiment_id for each in store.search_experiments()]
    found = store.search_runs(numbers, tracking.UNTAGGED)
    stages = [run.data.tags.get("kmnist.stage") for run in found]
    by_hand = [run for run in found if run.data.tags.get("kmnist.lineage") == "by hand"]
    assert stages.count("kfold-train@digits_softmax") - len(by_hand) == 1
    assert len(by_hand) == 1
    assert stages.count("kfold-train@digits_other") == 1
    (run,) = runs(store, "digits", f"{views.CURRENT} and tags.`kmnist.item` = 'digits_softmax'")
    assert run.data.tags["kmnist.lineage"] == key


def test_a_link_to_a_store_leads_to_its_artifacts(store, workspace, monkeypatch):
    publish(trained())
    (first,) = runs(store)
    wanted = artifacts(store, first)
    other = workspace / "other"
    other.mkdir()
    (other / "mlflow.db").symlink_to(workspace / "mlflow.db")
    monkeypatch.chdir(other)
    assert stores.database() == workspace / "mlflow.db"
    again = stores.connect()
    assert artifacts(again, runs(again)[0]) == wanted
    assert not tracking.publish(again, record_of(trained()))  # there already
    assert not (other / "mlartifacts").exists()


@pytest.mark.parametrize("is_copy", [False, True])
def test_a_project_that_was_moved_or_copied_uses_its_own_artifacts(is_copy, store, workspace):
    old, new = workspace / "old ü", workspace / "new"
    old.mkdir()
    for name in ("mlflow.db", "mlartifacts"):
        if (workspace / name).exists():
            shutil.move(workspace / name, old / name)
    with contextlib.chdir(old):
        publish(trained())
        (first,) = runs(stores.connect())
        wanted = artifacts(stores.connect(), first)
    before = files_under(old)
    if is_copy:
        shutil.copytree(old, new)
    else:
        shutil.move(old, new)
    with contextlib.chdir(new):
        again = stores.connect()
        assert not tracking.publish(again, record_of(trained()))  # there already
        (run,) = runs(again)
        assert artifacts(again, run) == wanted
        publish(trained(OTHER_KEY), again)
        assert len([*Path("mlartifacts/digits").iterdir()]) == 2
    assert not is_copy or files_under(old) == before


@pytest.mark.parametrize("calls", [7, 15])
def test_what_a_kill_leaves_is_written_again(store, calls):
    class Dies:
        """A client whose process ends after some calls."""

        left = calls

        def __getattr__(self, name: str) -> Any:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return getattr(store, name)

    with pytest.raises(KeyboardInterrupt):
        publish(trained(), client=Dies())
    (half,) = runs(store)
    assert half.info.status == "RUNNING"

    publish(trained())
    (run,) = runs(store)
    assert run.info.run_id != half.info.run_id
    assert run.info.status == "FINISHED"
    assert len(children(store, run)) == SEEDS * FOLDS
    assert children(store, half) == []


def test_a_stage_that_fails_logs_nothing(store, capfd):
    with pytest.raises(ZeroDivisionError), publisher() as child:
        _ = 1 / 0
    assert child._child.returncode is not None
    assert runs(store) == []
    assert capfd.readouterr() == ("", "")


def test_without_mlflow_a_stage_runs(workspace, monkeypatch, capfd):
    broken = workspace / "broken/mlflow"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ModuleNotFoundError('no mlflow here')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(broken.parent), str(SRC)]))
    log(trained())
    assert "ModuleNotFoundError: no mlflow here" in only_warning(capfd)


def test_a_fault_is_shortened_between_words_and_a_remedy_never():
    fault = stores.reason(OSError("//someone:secret@host " + "word " * 100))
    assert fault.endswith(" word …")
    assert "secret" not in fault
    assert stores.reason(UserError("word " * 100 + "\n`mend it`")).endswith(" word `mend it`")


def test_a_store_of_another_version_of_mlflow(store, workspace, capfd):
    with contextlib.closing(sqlite3.connect(workspace / "mlflow.db")) as database:
        database.execute("update alembic_version set version_num = 'older'")
        database.commit()
    log(trained())
    assert (
        f"`mlflow db upgrade sqlite:///{workspace}/mlflow.db` changes one from an older"
        in only_warning(capfd)
    )


# A server.


def test_an_unreachable_server_costs_a_warning_without_its_password(workspace, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:secret@127.0.0.1:{free_port()}")
    log(trained())
    warning = only_warning(capfd)
    assert "Connection refused" in warning
    assert "someone" not in warning
    assert "secret" not in warning


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("mysql://me:secret@host/name", "mysql://host/name: its driver is not installed here"),
        ("postgresql+none://host/name", "postgresql+none://host/name: its driver is not installed"),
        ("sqlite:///{here}", "{here} is a folder, not a file"),
        ("sqlite:///:memory:", "sqlite:///:memory:: names no file"),
        ("sqlite://", "sqlite://: names no file"),
        ("sqlite:///", "sqlite:///: names no file"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_with_those_that_can(
    uri, words, workspace, monkeypatch
):
    here = Path.cwd()
    before = {*here.iterdir()}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(here=here))
    for ask in (stores.connect, lambda: registry.champion("digits")):
        with pytest.raises(UserError, match=re.escape(words.format(here=here))) as refused:
            ask()
        assert "addresses that work: sqlite:///FILE, http://HOST:PORT" in str(refused.value)
        assert "secret" not in str(refused.value)
    assert {*here.iterdir()} == before


def test_no_warning_quotes_credentials():
    text = "no //someone:sec/r@t@host/path, or https://token@host"
    assert stores.without_credentials(text) == "no //host/path, or https://host"


@pytest.mark.system
def test_a_server_takes_a_stage(workspace, server, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    log(trained())
    assert capfd.readouterr() == ("", "")
    client = server.client()
    (run,) = runs(client)
    assert run.info.status == "FINISHED"
    assert len(children(client, run)) == SEEDS * FOLDS
    assert sorted(history(client, run, "validation/loss")) == [1, 2, 3, 4]
    assert artifacts(client, run) == {
        *("metrics/curves.csv", "metrics/validation.json", "metrics/validation_details.json"),
        "models/digits_softmax.safetensors",
    }
    assert not (workspace / "mlflow.db").exists()


@pytest.mark.system
def test_a_server_that_hangs_costs_a_warning_and_two_attempts(workspace, monkeypatch, capfd):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        log(trained())
        assert attempts(silent) <= 2
    assert re.search("timed out|no answer for 8 s", only_warning(capfd))


@pytest.mark.system
def test_a_server_that_dies_half_way_costs_a_warning(workspace, server, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    stage = trained("4" * 64)
    client = server.client()
    with publisher() as child:
        logging = threading.Thread(target=child.hand_over, args=[record_of(stage)])
        logging.start()
        while not runs(client, "digits", f"tags.`kmnist.lineage` = '{'4' * 64}'"):
            assert logging.is_alive()
        server.send(signal.SIGKILL)
        logging.join()
    only_warning(capfd)
