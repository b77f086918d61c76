"""`dvc.yaml` and `evidence/paths.py` name the same outs."""

from typing import Any

import yaml
from support.project import ROOT

from kmnist_pipeline.evidence import numbers, paths
from kmnist_pipeline.repository import dvc

PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())


def with_details(file: str) -> set[str]:
    return {file, numbers.beside(file)}


def of_training(name: str, about: dict[str, Any]) -> set[str]:
    report = about["report"]
    validation = paths.numbers(report, name, "validation.json")
    curves = paths.numbers(report, name, "curves.csv")
    return {paths.weights(name), curves, *with_details(validation)}


def of_report(kind: str, name: str) -> set[str]:
    if kind == "report":
        return {paths.page(name)}
    return {paths.report_numbers(name, kind)} | {
        paths.figures(name, kind) for drawn in ("suspects", "loop", "readings") if kind == drawn
    }


def of_model(kind: str, name: str) -> set[str]:
    report = PARAMS["models"][name]["report"]
    if kind == "weights":
        return {paths.weights_in_git(name)}
    if kind == "conditions":
        figure = f"{paths.figures(report, kind)}/{name}.png"
        return {paths.numbers(report, name, "conditions.json"), figure}
    test = paths.numbers(report, name, "test.json")
    return {paths.predictions(name), paths.figures(report, name), *with_details(test)}


def outs_of(kind: str, name: str) -> set[str]:
    match kind:
        case "download":
            return {paths.raw(name)}
        case "preprocess":
            return {paths.processed(name), paths.data_numbers(name), paths.data_figures(name)}
        case "kfold-train":
            return of_training(name, PARAMS["experiments"][name]) | {paths.out_of_fold(name)}
        case "tune":
            about = PARAMS["studies"][name]
            trials = paths.numbers(about["report"], name, "trials.csv")
            return of_training(name, about) | {trials}
        case "evaluate" | "conditions" | "weights":
            return of_model(kind, name)
        case "suspects" | "loop" | "readings" | "faults" | "report":
            return of_report(kind, name)
    raise AssertionError(f"{kind}@{name} is not known here")


def test_the_outs_of_every_stage_are_where_paths_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    for address, stage in dvc.stages(PARAMS).items():
        declared = dvc.outs(stage)
        assert declared.keys() == outs_of(*address.split("@")), address
        for out, in_git in declared.items():
            assert in_git == (out.split("/")[0] in paths.TRACKED), out
