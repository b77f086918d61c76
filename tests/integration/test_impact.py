"""`kmnist impact`: what a change makes again is what DVC would run, and the claims on it."""

import contextlib
import json
from typing import Any

import pytest
from rich.console import Console
from support.project import Project

from kmnist_pipeline import cli
from kmnist_pipeline.commands import impact
from kmnist_pipeline.commands.impact import Impact
from kmnist_pipeline.commands.status import StageStatus
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.repository import changes
from kmnist_pipeline.repository.changes import Change
from kmnist_pipeline.repository.locks import LockedStage

LR = "experiments.digits_softmax.optimizer.lr=0.4"
SOFTMAX, GRID = "kfold-train@digits_softmax", "tune@digits_softmax_grid"
SUSPECTS = "suspects@digits"
EVALUATED = ["evaluate@digits_softmax", "evaluate@digits_softmax_grid"]


def of_change(project: Project, *overrides: str) -> Impact:
    with contextlib.chdir(project.folder):
        return impact.of_change(list(overrides))


def states(found: Impact, only: str = "digits") -> dict[str, str]:
    return {stage.address: stage.state for stage in found.stages if only in stage.address}


# --- what is made again --------------------------------------------------------------------------


def test_the_stages_say_why(clone):
    stages = {stage.address: stage for stage in of_change(clone, LR).stages}
    assert stages[SOFTMAX].reasons == stages[GRID].reasons
    assert LR.partition("=")[0] in stages[SOFTMAX].reasons[0]
    assert stages[EVALUATED[0]].reasons == [f"reads outs of {SOFTMAX}"]
    assert stages["report@digits"].reads == [*EVALUATED, SUSPECTS, SOFTMAX, GRID]


def test_every_file_of_the_stages_is_named(clone):
    found = of_change(clone, "experiments.digits_softmax.trainer.patience=9")
    models = "digits_softmax", "digits_softmax_grid"
    for kind, files in (("figures", found.figures), ("metrics", found.metrics)):
        on_disk = (
            file.relative_to(clone.folder).as_posix()
            for model in models
            for file in (clone.folder / kind / "digits" / model).iterdir()
        )
        of_suspects = {
            "figures": [f"figures/digits/suspects/{name}.png" for name in ("found", "sheet")],
            "metrics": ["metrics/digits/suspects.json"],
        }
        assert sorted(files) == sorted([*on_disk, *of_suspects[kind]])
    pages = ("README.md", "claims.json", "index.html")
    assert found.reports == [f"reports/digits/{page}" for page in pages]
    assert found.orphans == []


def test_the_claims_of_a_model_are_named_and_no_others(full_clone):
    found = of_change(full_clone, "experiments.kmnist_softmax.optimizer.lr=0.01")
    assert list(found.claims) == ["kmnist_linear"]
    assert len(found.claims["kmnist_linear"]) == 8
    assert all(claim.startswith("softmax-") for claim in found.claims["kmnist_linear"])


def test_another_confidence_judges_all_claims_of_the_report_again(full_clone):
    found = of_change(full_clone, "reports.kmnist_linear.confidence=0.9")
    assert states(found, "") == {
        "readings@kmnist_linear": "changed", "report@kmnist_linear": "changed"
    }  # fmt: skip
    assert len(found.claims["kmnist_linear"]) > 20
    assert found.figures == ["figures/kmnist_linear/readings/specification_curve.png"]
    assert found.metrics == ["metrics/kmnist_linear/readings.json"]


def test_a_claim_depends_on_the_metrics_of_its_spread_too():
    claim = {"file": "a/test.json", "spread": "b c"}
    assert impact._sources("r", claim) == {
        f"metrics/r/{model}/test{part}.json" for model in "abc" for part in ("", "_details")
    }


def test_a_new_experiment(clone):
    found = of_change(clone, "+experiment@experiments.digits_new=digits_softmax")
    assert states(found) == {
        "kfold-train@digits_new": "new",
        "evaluate@digits_new": "new",
        "report@digits": "downstream",
    }
    assert found.figures == ["figures/digits/digits_new/"]
    assert "metrics/digits/digits_new/test.json" in found.metrics


def test_a_study_that_is_gone_leaves_files_and_a_report_that_read_them(clone):
    found = of_change(clone, "~studies.digits_softmax_grid")
    assert states(found) == {GRID: "gone", EVALUATED[1]: "gone", "report@digits": "downstream"}
    (report,) = [stage for stage in found.stages if stage.state == "downstream"]
    assert report.reads == [EVALUATED[1], GRID]
    assert "figures/digits/digits_softmax_grid/trials.png" in found.orphans
    assert found.figures == found.metrics == []


def test_without_a_lock_everything_is_new(full_project):
    (full_project.folder / "dvc.lock").unlink()
    found = of_change(full_project)
    assert set(states(found, "").values()) == {"new"}
    assert len(found.figures) > 50


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [[], ["-S", "experiments.digits_softmax.optimizer.lr=0.5"]])
def test_nothing_changed(overrides, clone, monkeypatch, capsys):
    monkeypatch.chdir(clone.folder)
    assert cli.main(["impact", *overrides]) == 0
    assert capsys.readouterr().out == "no stage runs again\n"
    assert clone.changed() == ""


def test_the_tree_names_what_the_json_names(clone, monkeypatch, capsys):
    monkeypatch.chdir(clone.folder)
    assert cli.main(["impact", "-S", LR, "-S", "evaluation.samples=9"]) == 0
    shown = capsys.readouterr().out
    assert cli.main(["impact", "-S", LR, "-S", "evaluation.samples=9", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for stage in found["stages"]:
        assert f"─ {stage['address']}  " in shown
    assert "optimizer.lr changed: 0.5 -> 0.4" in shown
    assert "evaluation.samples changed: 10 -> 9" in shown
    assert f"{len(found['figures'])} figures made again" in shown
    for report, claims in found["claims"].items():
        assert f"{len(claims)} claims of {report} compared again" in shown
        assert ", ".join(claims) in shown


@pytest.mark.parametrize("claims", [{}, {"digits": ["a"]}])
def test_no_claims_are_said_to_be_none(claims: dict[str, list[str]], capsys):
    found = Impact([StageStatus("report@digits", "new", [], [])], claims=claims)
    impact.show(found, Console())
    said = "1 claim of digits compared again" if claims else "no claim compared again"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [
        "experiments.digits_sofmax.seeds=[0]",
        "evaluation.samples=no",
        "evaluation.samples",
        "evaluation.samples=[1",
    ],
)
def test_a_wrong_override_is_refused_as_compose_refuses_it(wrong, clone, monkeypatch, capsys):
    monkeypatch.chdir(clone.folder)
    assert cli.main(["compose", wrong]) == 1
    refused = capsys.readouterr().err
    assert refused.startswith(f"error: {wrong}: ") and refused.count("\n") == 1
    assert cli.main(["impact", "-S", wrong]) == 1
    assert capsys.readouterr().err == refused


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("stages: [", "dvc.yaml"),
        ("stages: {a: {foreach: '${nothing}', do: {cmd: x}}}", "dvc.yaml"),
        ("stages: {a: {cmd: x, params: [evaluation.no]}}", "dvc.yaml: a: there is no parameter"),
    ],
)
def test_a_broken_pipeline_is_named(content, words, project):
    (project.folder / "dvc.yaml").write_text(content)
    with pytest.raises(UserError, match=words):
        of_change(project)


def test_the_same_value_in_other_words_is_no_change():
    def stage(**params: Any) -> LockedStage:
        return LockedStage("a@b", "run", {}, {"of": params}, {})

    old = stage(lr=1, points=[{"x": 1, "y": 2}], gone=None)
    new = stage(lr=1.0, points=[{"y": 2, "x": 1}], new={"a": False})
    assert changes.of_stage(old, new) == [
        Change("parameter", "of.gone", "null", None),
        Change("parameter", "of.new.a", None, "false"),
    ]


def test_an_override_without_a_key_is_misuse(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["impact", "-S"])
    assert caught.value.code == 2
    assert "expected one argument" in capsys.readouterr().err
