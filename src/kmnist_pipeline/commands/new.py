"""New experiments, studies and reports: the text of their files in `conf/`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kmnist_pipeline.commands import additions
from kmnist_pipeline.config import compose as composition
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.repository import locks
from kmnist_pipeline.repository.names import unknown

# How models of each family are trained at first: the choices in conf/, and the changed values.
TRAINING = {
    "linear": ({"optimizer": "sgd", "validation": "kfold", "trainer": "sgd"}, {"folds": 3}),
    "sklearn": ({"validation": "kfold", "trainer": "fit"}, {"folds": 3}),
    "cnn": ({"optimizer": "adam", "validation": "holdout", "trainer": "adam"}, {}),
}
FACTORS = (0.3, 1, 3)  # of the learning rate, in the study

EXPERIMENT = """\
# {about}
defaults:
  - base
{choices}  - _self_
report: {report}
dataset: {dataset}
{values}seeds: [0]
"""
STUDY = """\
# The learning rate of {base}, chosen by validation accuracy.
defaults: [base, _self_]
base: {base}
points:
{points}"""
REPORT = """\
# The page of the dataset {dataset}; `reproduces` and `claims` are for published results.
defaults: [base, _self_]
title: {title}
summary: >-
  {summary}
dataset: {dataset}
"""


def report(name: str, dataset: str, models: list[str]) -> additions.Addition:
    """An experiment for each model, a study of the first one's learning rate, and their report.

    models: files of `conf/model/`. Raises UserError for an unknown name, one that exists already,
    and for models that cannot be trained on the dataset.
    """
    additions.require_new("report", name)
    params = locks.load(composition.compose(additions.CONF, []), "conf/")
    if dataset not in params["datasets"]:
        raise unknown(
            f"--dataset {dataset}: conf/ has no such dataset", dataset, params["datasets"]
        )
    families = {model: _family(model) for model in models}
    names = {model: f"{name}_{model}" for model in families}
    study = next((m for m, family in families.items() if "optimizer" in TRAINING[family][0]), None)
    texts = {
        ("experiment", names[model]): _experiment(model, family, name, dataset)
        for model, family in families.items()
    }
    if study is not None:
        rates = [_rate(TRAINING[families[study]][0]["optimizer"]) * factor for factor in FACTORS]
        points = "".join(f"  - {{optimizer.lr: {rate:.6g}}}\n" for rate in rates)
        texts["study", f"{names[study]}_rates"] = STUDY.format(base=names[study], points=points)
    texts["report", name] = REPORT.format(
        dataset=dataset,
        title=_yaml(f"{params['datasets'][dataset]['title']}: first models"),
        summary=f"First models of the dataset {dataset}: {', '.join(families)}.",
    )
    for group, item in texts:
        additions.require_new(group, item)
    return additions.plan(texts)


def _family(model: str) -> str:
    folder = additions.CONF / "model"
    file = folder / f"{model}.yaml"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if model not in known:
        raise unknown(f"--models {model}: {folder} has no {file.name}", model, known)
    family = locks.load(file.read_text("utf-8"), str(file)).get("family")
    if family not in TRAINING:
        raise UserError(f"{file}: family={family}: must be one of {', '.join(TRAINING)}")
    return str(family)


def _rate(optimizer: str) -> float:
    file = additions.CONF / f"optimizer/{optimizer}.yaml"
    return float(locks.load(file.read_text("utf-8"), str(file))["lr"])


def _experiment(model: str, family: str, report: str, dataset: str) -> str:
    choices, values = TRAINING[family]
    listed = {"model": model, **choices}
    return EXPERIMENT.format(
        about=f"First settings of the model {model}.",
        choices="".join(f"  - /{group}: {name}\n" for group, name in listed.items()),
        report=report,
        dataset=dataset,
        values=_yaml({"validation": values}) + "\n" if values else "",
    )


def experiment(name: str, like: str, *values: str) -> additions.Addition:
    """An experiment that differs from another one in some values.

    values: `key=value`, in the grammar of Hydra. Raises UserError for a name that is unknown or
    exists already, and for a value that the configuration refuses.
    """
    params = locks.load(composition.compose(additions.CONF, []), "conf/")
    if like not in params["experiments"]:
        raise unknown(f"--like {like}: conf/ has no such experiment", like, params["experiments"])
    additions.require_new("experiment", name)
    content = {"defaults": [like, "_self_"], **_nested(values)}
    changed = ", ".join(values) or "nothing yet"
    text = f"# {like} with other values: {changed}\n{_yaml(content)}\n"
    return additions.plan({("experiment", name): text})


def _nested(values: Sequence[str]) -> dict[str, Any]:
    """The map that sets these keys, such as `optimizer.lr=0.1`."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    found: dict[str, Any] = {}
    for text in values:
        try:
            (override,) = OverridesParser.create().parse_overrides([text])
        except OverrideParseException as error:
            raise UserError(f"{text}: must be KEY=VALUE; {str(error).splitlines()[0]}") from None
        unusual = (override.is_add(), override.is_force_add(), override.is_delete())
        if any(unusual) or override.is_sweep_override() or override.package:
            raise UserError(f"{text}: must be KEY=VALUE with one value")
        *parents, leaf = override.key_or_group.split(".")
        node = found
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UserError(f"{text}: {parent} is set already")
        node[leaf] = override.value()
    return found


def _yaml(content: Any) -> str:
    """Content as YAML."""
    from omegaconf import OmegaConf

    if isinstance(content, str):
        content = {"": content}
        return OmegaConf.to_yaml(OmegaConf.create(content)).partition(":")[2].strip()
    return OmegaConf.to_yaml(OmegaConf.create(content)).rstrip("\n")
