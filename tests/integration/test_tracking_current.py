"""One run of a stage is current, whatever superseded, changed, moved or ended it."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.logged import (
    FOLDS,
    KEY,
    OTHER_KEY,
    SEEDS,
    artifacts,
    children,
    publish,
    record_of,
    runs,
    trained,
)
from support.project import files_under

from kmnist_pipeline.tracking import runs as tracking
from kmnist_pipeline.tracking import store as stores
from kmnist_pipeline.tracking import views


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

    def deletes_the_parent(run: Any) -> None:
        store.delete_run(run.info.run_id)

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
        *(removes_artifacts, cuts_a_file, deletes_a_fold, deletes_the_parent),
        deletes_and_restores,
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
        active = {each.info.run_id: each for each in store.search_runs([run.info.experiment_id])}
        above = {each.data.tags.get("mlflow.parentRunId") for each in active.values()} - {None}
        assert above <= active.keys(), change  # no nested run without its parent


@pytest.mark.parametrize("key", [KEY, OTHER_KEY])
@pytest.mark.parametrize(
    "tags",
    [["stage"], ["stage", "lineage"], ["kind", "item"], ["stage", "kind"], ["stage", "item"]],
    ids=" ".join,
)
def test_a_run_without_its_tags_does_not_stay_beside_the_current_one(store, tags, key):
    publish(trained())
    (old,) = runs(store)
    for tag in tags:
        store.delete_tag(old.info.run_id, f"kmnist.{tag}")
    publish(trained(key))
    found = store.search_runs([old.info.experiment_id], tracking.UNTAGGED)
    (current,) = (run for run in found if "mlflow.parentRunId" not in run.data.tags)
    assert current.data.tags["kmnist.stage"] == "kfold-train@digits_softmax"
    assert current.data.tags["kmnist.lineage"] == key


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
        stores.connect().create_experiment("not of the project")
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
        other = again.get_experiment_by_name("not of the project")
        assert other and other.artifact_location == f"{new}/mlruns/{other.experiment_id}"
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
