"""MLflow shows what a stage has written: its numbers, files and code, and the views of models."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.logged import (
    CURVES,
    FOLDS,
    KEY,
    MD5,
    OTHER_KEY,
    SEEDS,
    SPREAD,
    VALIDATED,
    artifacts,
    children,
    evaluated,
    fold_rows,
    history,
    lineage,
    log,
    publish,
    runs,
    trained,
    tuned,
    write,
)

from kmnist_pipeline import arithmetic
from kmnist_pipeline.evidence.stage import Stage
from kmnist_pipeline.tracking import content, record, views
from kmnist_pipeline.tracking import store as stores

FOLDER = "metrics/digits/digits_softmax"


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
