"""The limits of the parameters: a value is accepted, or refused in words that name its key."""

import cProfile
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import wording
from support.parameters import (
    CNN,
    COMMITTED,
    CONTENT,
    DELETE,
    GRID,
    IMPORTED,
    SOFTMAX,
    at,
    changed,
    imported,
    on_all_images,
    searched,
    trained,
    unvalidated,
)
from support.project import ROOT

from kmnist_pipeline.config import code, node, rules, training
from kmnist_pipeline.families import registry

IMAGES = ("datasets", "digits", "parts", 0, "images")
SHA = "0" * 63 + "g"
READ, FAULTS = "readings.kmnist_linear", "faults.kmnist_linear.catalogue"
CHANGED, STUDY = "faults.kmnist_linear", "kmnist_softmax_grid"
NONE_LEFT = {"act": "add", "says": "none", "settings": ["trainer.epochs"], "amount": -50}
SKLEARN = "experiments.digits_sklearn_logistic"
SUSPECTS, LOOP = "suspects.digits", "loops.digits"
OTHERS = "conditions.digits_cnn"
OF_SOFTMAX = {
    **CONTENT["conditions"]["digits_cnn"], "model": "digits_softmax", "family": "linear",
}  # fmt: skip


KFOLD = {"method": "kfold", "folds": 3}
ADAMW = {"name": "adamw", "lr": 0.001, "batch_size": 64}
SMOOTHED = {"weight_decay": 0.0, "label_smoothing": 0.1}

REFUSED = [
    # key, value, what the message says after the key
    (f"{SOFTMAX}.dataset", "digitz", "=digitz: must be one of digits, kmnist, mnist"),
    (f"{SOFTMAX}.report", "none", "=none: must be one of digits, kmnist_beyond, kmnist_cnn, "),
    (f"{SOFTMAX}.classes", [1, 11], "=[1, 11]: must be at least two different labels of 0 to 9"),
    (f"{SOFTMAX}.classes", [1], "=[1]: must be at least two different labels"),
    (f"{SOFTMAX}.classes", [1, -1], "[1]=-1: must be at least 0"),
    (f"{SOFTMAX}.seeds", [1, 1], "=[1, 1]: must be one or more different seeds"),
    (f"{SOFTMAX}.seeds", [], "=[]: must be one or more different seeds"),
    (f"{SOFTMAX}.subset", 1, "=1: must be at least 2"),
    (f"{SOFTMAX}.optimizer", None, "=null: must be a map of name, lr, batch_size"),
    (f"{SOFTMAX}.optimizer.name", "adam", "=adam: must be one of sgd"),
    (f"{SOFTMAX}.optimizer.lr", 0, "=0: must be greater than 0"),
    (f"{SOFTMAX}.optimizer.lr", float("nan"), "=NaN: must be a number"),
    (f"{SOFTMAX}.optimizer.lr", "1e-3", "=1e-3: must be a number"),
    (f"{SOFTMAX}.optimizer.batch_size", 0.5, "=0.5: must be a whole number"),
    (f"{SOFTMAX}.optimizer.momentum", 0.9, f"=0.9: {wording.NO_KEY}; known keys: name, lr"),
    (f"{SOFTMAX}.model.family", "cubic", "=cubic: must be one of linear, sklearn"),
    (f"{SOFTMAX}.model.family", ["linear"], '=["linear"]: must be one of linear, sklearn'),
    (f"{SOFTMAX}.model.scaling", "max", "=max: must be one of none, minmax, zscore, zscore_pixel"),
    (f"{SOFTMAX}.model.kind", "logistic", "=logistic: must be softmax, unless there are two"),
    (SOFTMAX, unvalidated(), ".trainer.patience=10: must be null without validation"),
    (SOFTMAX, unvalidated(patience=None), ".trainer.keep=best_accuracy: must be last without"),
    (CNN, unvalidated(CNN, keep="last"), ".trainer.patience=4: must be null without validation"),
    (f"{SOFTMAX}.trainer.epochs", None, "=null: must be a whole number"),
    (f"{SOFTMAX}.trainer.patience", True, "=true: must be a whole number"),
    (f"{SOFTMAX}.trainer.precision", "bf16", "=bf16: must be one of float32, float64"),
    (f"{SOFTMAX}.trainer.precision", "auto", "=auto: must be one of float32, float64"),
    (f"{SOFTMAX}.trainer.loss", "median", "=median: must be one of mean, sum"),
    (f"{SOFTMAX}.trainer.loss", DELETE, ": is missing; these keys are needed: epochs, patience, "),
    (f"{SOFTMAX}.trainer.schedule", "constant", f"=constant: {wording.NO_KEY}; known keys: "),
    (f"{SOFTMAX}.trainer.threads", 2, f"=2: {wording.NO_KEY}; known keys: epochs, patience, "),
    (f"{SOFTMAX}.trainer", DELETE, ": is missing; these keys are needed: report, "),
    (f"{SUSPECTS}.experiment", "digits_sofmax", "=digits_sofmax: must be one of digits_sklearn"),
    (f"{SUSPECTS}.dataset", "mnist", "=mnist: must be one of digits"),
    (f"{SUSPECTS}.family", "cnn", "=cnn: must be one of linear"),
    (f"{SUSPECTS}.ranks", [60, 30], "=[60, 30]: must be a rising list of counts"),
    (f"{SUSPECTS}.swapped", 0, "=0: must be at least 1"),
    (f"{SUSPECTS}.changes", {"subset": 100}, '={"subset": 100}: must be keys other than report'),
    (f"{SUSPECTS}.changes", {"trainer.epoch": 1}, ": the base experiment has no key "),
    (f"{SUSPECTS}.changes", {"trainer.epochs": 0}, ".trainer.epochs=0: must be at least 1"),
    ("suspects.digit", CONTENT["suspects"]["digits"], "=digit: must be one of digits, kmnist_"),
    (f"{LOOP}.dataset", "mnist", "=mnist: must be one of digits"),
    (f"{LOOP}.seeds", [1, 1], "=[1, 1]: must be one or more different seeds"),
    (f"{LOOP}.trainer.keep", "best_loss", "=best_loss: must be last without validation"),
    (f"{LOOP}.trainer.schedule", "constant", f"=constant: {wording.NO_KEY}; known keys: "),
    (f"{LOOP}.model.kind", "logistic", "=logistic: must be softmax, unless there are two classes"),
    (f"{LOOP}.optimizer", None, "=null: must be a map of name, lr, batch_size"),
    (f"{OTHERS}.model", "digits_softmax", "=digits_softmax: must be one of digits_cnn"),
    (f"{OTHERS}.dataset", "kmnist", "=kmnist: must be one of digits"),
    ("weights.kmnist", "digits_cnn", "=digits_cnn: must be an experiment or study of kmnist: "),
    ("weights.digits", "digits_cn", "=digits_cn: must be an experiment or study of digits: "),
    ("weights.digits", None, "=null: must be text"),
    ("weights.digit", "digits_cnn", "=digit: must be one of digits, kmnist, mnist"),
    (f"{OTHERS}.images", 0, "=0: must be at least 1"),
    ("conditions.digits_softmax", OF_SOFTMAX, ".model=digits_softmax: must be a network with vali"),
    (f"{SKLEARN}.optimizer", {"lr": 1, "batch_size": 1}, ": must be null: sklearn has its own"),
    (f"{SKLEARN}.trainer.epochs", 2, f"=2: {wording.NO_KEY}; known keys: precision"),
    (f"{CNN}.trainer.precision", "float64", "=float64: must be one of float32, bfloat16"),
    (f"{CNN}.trainer.precision", "auto", "=auto: must be one of float32, bfloat16"),
    (f"{CNN}.trainer.keep", "best", "=best: must be one of last, best_accuracy, best_loss"),
    (f"{CNN}.trainer.epochs", None, "=null: must be a whole number"),
    (f"{CNN}.trainer.schedule", "cosine", "=cosine: must be one of constant"),
    (f"{CNN}.trainer.augmentation", "flip", "=flip: must be one of distortions, none"),
    (f"{CNN}.trainer.averaging", None, "=null: must be one of exponential, none"),
    (f"{CNN}.optimizer", None, "=null: must be a map of name, lr, batch_size"),
    (f"{CNN}.optimizer.name", "sgd", "=sgd: must be one of adam"),
    (f"{CNN}.optimizer", CONTENT["experiments"]["digits_softmax"]["optimizer"], ".name=sgd: must"),
    (f"{CNN}.model.dropout", 1, "=1: must be less than 1"),
    (f"{CNN}.model.architecture", "lenet", "=lenet: must be one of improved, residual, resnet"),
    (f"{CNN}.model.draws", 5, "=5: must be a whole number for a siamese network, and null for"),
    (f"{CNN}.validation", {"method": "holdout", "fraction": 1}, ".fraction=1: must be less than 1"),
    (f"{CNN}.validation", KFOLD | {"ensemble": 1}, ".ensemble=1: must be true or false"),
    ("experiments.kmnist_siamese.validation", KFOLD | {"ensemble": True},
     ".ensemble=true: must be null for a siamese network"),
    (CNN, on_all_images("digits_softmax"), ".validation.folds_of=digits_softmax: must be an exper"),
    (CNN, on_all_images("digits_cnn"), ".validation.folds_of=digits_cnn: must be an experiment"),
    (f"{CNN}.trainer.warmup", 0.1, "=0.1: must be null, because trainer.schedule is constant"),
    (f"{CNN}.trainer.cutout", 0.1, "=0.1: must be null, because trainer.augmentation is none"),
    (f"{CNN}.trainer.stored", "float8", "=float8: must be one of float16"),
    (f"{CNN}.trainer.cutout", 2, "=2: must be at most 1"),
    (CNN, trained(schedule="linear"), ".trainer.warmup=null: must be a number, because trainer"),
    (f"{CNN}.optimizer", ADAMW, ".weight_decay=null: must be a number, because optimizer.name"),
    (CNN, trained(loss="sum") | {"optimizer": ADAMW | SMOOTHED},
     ".optimizer.label_smoothing=0.1: must be null, because it is that of a mean loss"),
    (GRID, searched(rungs=[2, 1]), ".search.rungs=[2, 1]: must be a rising list of epochs below 3"),
    (GRID, searched(rungs=[3]), ".search.rungs=[3]: must be a rising list of epochs below 3"),
    (GRID, searched(space={}), ".search.space={}: must be at least one key with its values"),
    (GRID, searched(space={"optimizer.lr": 1}), ".search.space.optimizer.lr=1: must be a list of"),
    (GRID, searched(space={"optimizer.l": [1]}), ".search.space: the base experiment has no key"),
    (GRID, searched(space={"optimizer.lr": [1, -1]}), ".space.optimizer.lr[1]=-1: must be greater"),
    (GRID, searched(space={"model.dropout": {"low": 0, "high": 0.5, "log": True}}),
     ".search.space.model.dropout.low=0: must be greater than 0 with log"),
    (GRID, searched(space={"model.dropout": {"low": 0.5, "high": 0.5, "log": False}}),
     ".search.space.model.dropout.high=0.5: must be greater than low"),
    (GRID, searched(space={"optimizer.lr": {"low": "a", "high": 1, "log": True}}),
     ".search.space.optimizer.lr.low=a: must be a number"),
    (GRID, searched(reduction=1), ".search.reduction=1: must be at least 2"),
    (GRID, searched() | {"retrain": False}, ".retrain=false: must be true for a search, which"),
    (GRID, searched() | {"points": [{"optimizer.lr": 1}]}, ".points=[{"),
    (f"{GRID}.product", {"optimizer.lr": [0.1, -1]}, ".optimizer.lr[1]=-1: must be greater than 0"),
    (f"{GRID}.product", {"optimizer.name": ["adam", "sgd"]}, ".optimizer.name[1]=sgd: must be one"),
    (f"{GRID}.points", [{"optimizer.lr": 1}], ": must be a list of at least one point, or instead"),
    (f"{GRID}.points", DELETE, ": is missing; these keys are needed: report, base, "),
    (f"{GRID}.product", {"optimizer.lrr": [1]}, ": the base experiment has no key 'optimizer.lrr'"),
    (f"{GRID}.trial", {"trainer.epoch": 1}, ": the base experiment has no key 'trainer.epoch'"),
    (f"{GRID}.retrain", 1, "=1: must be true or false"),
    (f"{GRID}.seeds", [2, 2], "=[2, 2]: must be one or more different seeds, or null"),
    (f"{GRID}.seeds", [-1], "[0]=-1: must be at least 0"),
    ("evaluation.promise", 0, "=0: must be greater than 0"),
    ("studies.digits_softmax_grid.base", "none", "=none: must be one of digits_sklearn_logistic, "),
    ("studies.digits_softmax_grid.points", [], "=[]: must be a list of at least one point"),
    ("studies.digits_softmax_grid.points", [{"optimizer.lr": "x"}], "[0].optimizer.lr=x: must"),
    ("studies.digits_softmax_grid.points", [{"seeds": [9]}], "[0]: must not change report, "),
    ("studies.digits_softmax_grid.points", [{"model.scaling": "zscore"}] * 2, "[1]: the point"),
    ("studies.digits_softmax", CONTENT["studies"]["digits_softmax_grid"], ": an experiment has"),
    ("datasets.digits.shape", [8, 8, 3], "=[8, 8, 3]: must be [height, width], because IDX files"),
    ("datasets.digits.shape", [8, 8, 4], "=[8, 8, 4]: must be [height, width] or [height, width"),
    ("datasets.digits.shape", [8, 0], "[1]=0: must be at least 1"),
    ("datasets.digits.pixel_max", 256, "=256: must be at most 255"),
    ("datasets.digits.classes", ["a", "a"], '=["a", "a"]: must be 2 to 1,000 different names'),
    ("datasets.digits.classes", [str(n) for n in range(1001)], "=1001: must be 2 to 1,000 differ"),
    ("datasets.digits.classes", ["a", " "], "[1]= : must be printable text that does not begin"),
    ("datasets.digits.classes", ["a\nb", "c"], '[0]="a\\nb": must be printable text that does'),
    ("datasets.digits.classes", ["#a", "c"], "[0]=#a: must be printable text that does not begin"),
    ("datasets.digits.classes", ["excluded", "c"], "[0]=excluded: must be another name, because "),
    ("datasets.digits", IMPORTED | {"parts": []}, f".parts=[]: {wording.NO_KEY}; known keys: "),
    ("datasets.digits", IMPORTED | {"imported": {}}, ".imported.file: is missing; these keys are"),
    ("datasets.digits", imported(file="x.npz"), ".imported.file=x.npz: must be text that matches "),
    ("datasets.digits", imported(sha256="x"), ".imported.sha256=x: must be text that matches "),
    ("datasets.digits", imported(test=0), ".imported.test=0: must be at least 1"),
    ("datasets.digits.classes", [True, False], "[0]=true: must be text"),
    ("datasets.digits.parts", [], "=[]: must be one or more parts with different names"),
    (IMAGES, SHA, f"={SHA}: must be text that matches ^[0-9a-f]{{64}}$"),
    ("datasets.digits.split.method", "files", "=files: must be random, unless there are two parts"),
    ("datasets.digits.split.train_size", 1, "=1: must be less than 1"),
    ("datasets.digits.split.seed", None, "=null: must be a number, because the split is random"),
    ("reports.digits.dataset", "none", "=none: must be one of digits, kmnist, mnist"),
    ("reports.digits.confidence", 95, "=95: must be less than 1"),
    ("reports.digits.claims", "../claims", f"=../claims: {wording.NOT_WORDS}"),
    ("reports.digits.figures", {"1": "data/mnist/a.png"}, ".1=data/mnist/a.png: must be under"),
    ("reports.digits.figures", {"1": "data/digits/../../a.png"}, "../../a.png: must be under"),
    ("reports.digits.figures", {1: "data/digits/a.png"}, "[1]: the name must be text"),
    ("evaluation.samples", 0, "=0: must be at least 1"),
    ("studies", 5, "=5: must be a map"),
    (f"{READ}.experiments.kmnist_softmax.trainer.epochs", 7, "=7: must be one of 5, 10, 20, 30, "),
    (f"{READ}.choices.folds", [], "=[]: must be one or more different values"),
    (f"{READ}.choices.value", ["mean"], '=["mean"]: must be a list with mean_best'),
    (f"{READ}.seeds", [1, 1], "=[1, 1]: must be one or more different seeds"),
    ("readings.other", COMMITTED["readings"]["kmnist_linear"], "=other: must be one of digits, "),
    ("faults.other", COMMITTED["faults"]["kmnist_linear"], "=other: must be one of digits, "),
    ("faults.kmnist_linear.experiments.kmnist_softmax.dataset", "mnist", "=mnist: must be one"),
    (f"{FAULTS}.labels_swapped.classes", [0, 2], "=[0, 2]: must be two different positions of 0 "),
    (f"{FAULTS}.one_epoch_fewer", NONE_LEFT, ".trainer.epochs=0: must be at least 1"),
    (f"{FAULTS}.rate_by_10.settings", ["model.kind"], ": must be keys whose values are numbers"),
    *((f"{FAULTS}.rate_by_10.settings", [key], f"[0]={key}: must be one of model.architecture, ")
      for key in ("optimzer.lr", "a.b.c", "seeds", "subset", "model.nope")),
    (f"{FAULTS}.rate_by_10.settings", [], "=[]: must be a list of 1 or more values"),
    (f"{FAULTS}.labels_swapped.classes", [0, 1, 2], "=[0, 1, 2]: must be a list of 2 or fewer v"),
    (
        f"{FAULTS}.none",
        {"act": "measure_validation", "says": "none"},
        f": the name {wording.NAME_TAKEN}",
    ),
    (f"{CHANGED}.experiments", {}, "={}: must be at least one experiment"),
    (f"{CHANGED}.catalogue", {}, "={}: must be at least one fault"),
    (f"{CHANGED}.dataset", "mnist", "=mnist: must be one of kmnist"),
    (f"{CHANGED}.studies.{STUDY}.points", [{"model.scaling": "typo"}],
     "[0].model.scaling=typo: must be one of none, minmax, zscore"),
    (f"{CHANGED}.studies.{STUDY}.points", [], "=[]: must be at least one point, or a product"),
    (f"{READ}.dataset", "mnist", "=mnist: must be one of kmnist"),
    (f"{READ}.claims", "none", "=none: must be one of kmnist_linear"),
    (f"{READ}.experiments.kmnist_logistic_0_6.classes", [3, 77],
     "=[3, 77]: must be at least two different labels of 0 to 9"),
    *((f"{READ}.experiments.kmnist_softmax.{key}", value, f"={shown}: must be {words}")
      for key, value, shown, words in [
          ("trainer.patience", 10, "10", "null, for readings"),
          ("subset", 100, "100", "null, for readings"),
          ("validation.ensemble", True, "true", "null, for readings"),
          ("trainer.precision", "float32", "float32", "float64, for readings"),
          ("trainer.epochs", 20, "20", f"50 as in {READ}.experiments.kmnist_logistic_0_6, because"),
          ("model.scaling", "minmax", "minmax", "zscore as in "),
          ("validation.folds", 10, "10", "5 as in "),
      ]),
    (f"{READ}.studies.{STUDY}.points", [{"optimizer.lr": 0.1}, {"trainer.epochs": 20}],
     "[1].trainer.epochs=20: must be 50 as in "),
    (f"{FAULTS}.rate_by_10.act", "typo", "=typo: must be one of leak, keep, swap"),
    ("typo", {}, f"={{}}: {wording.NO_KEY}; known keys: datasets, experiments, studies, "),
]  # fmt: skip


def test_a_network_on_all_images_names_the_experiment_with_its_folds():
    on_all = on_all_images("digits_cnn")
    on_folds = on_all | {"validation": KFOLD}
    both = CONTENT["experiments"] | {"digits_cnn": on_folds, "digits_all": on_all}
    again = {"base": "digits_all", "trial": {"validation": KFOLD}, "retrain": True}
    study = at(CONTENT, tuple(GRID.split("."))) | {"product": {"optimizer.lr": [0.01]}} | again
    studies = CONTENT["studies"] | {"digits_again": study}
    config = rules.check(CONTENT | {"experiments": both, "studies": studies})
    assert config.experiments["digits_all"].validation.folds_of == "digits_cnn"
    held_out = {name: item["held_out"] for name, item in code.of(config)["evaluate"].items()}
    assert held_out["digits_all"] == "predictions/out_of_fold/digits_cnn.npz"
    assert held_out["digits_again"] == held_out["digits_all"]
    assert held_out["digits_cnn"] == "data/processed/digits.npz"
    epochs = on_all["trainer"]["epochs"]
    longer, shorter = ({"trainer": on_all["trainer"] | {"epochs": epochs + n}} for n in (1, -1))
    rules.check(changed("experiments", both | {"digits_all": on_all | longer}))
    for change in ({"subset": 1000}, shorter, {"optimizer": on_all["optimizer"] | {"lr": 0.5}}):
        with pytest.raises(node.ConfigError, match=r"digits_all\.validation\.folds_of=digits_cnn"):
            rules.check(changed("experiments", both | {"digits_all": on_all | change}))


def test_an_imported_dataset_is_accepted():
    for shape in ([8, 8], [20, 12, 3]):
        content = changed("datasets.digits", IMPORTED | {"shape": shape})
        assert rules.check(content).datasets["digits"].imported.train == 7


@pytest.mark.parametrize("shape", [[1, 40], [40, 1], [3, 3, 3]])
def test_images_too_small_for_a_network_are_refused(shape):
    content = changed("datasets.digits", IMPORTED | {"shape": shape})
    del content["studies"], content["suspects"]
    with pytest.raises(node.ConfigError) as caught:
        rules.check(content)
    height, width = shape[:2]
    assert str(caught.value).startswith("experiments.digits_cnn.model.family=cnn: must be another")
    assert f"needs images of 4x4 pixels or more, and these have {height}x{width}" in str(
        caught.value
    )


@pytest.mark.parametrize("section", ["datasets", "experiments", "studies", "reports"])
@pytest.mark.parametrize("name", ["null", "yes", "base", "none", "1", "007", "1_0"])
def test_no_item_has_a_name_that_means_something_else(name, section):
    item = next(iter(COMMITTED[section].values()))
    with pytest.raises(node.ConfigError, match=f"^{section}.{name}: the name must be "):
        rules.check(changed(f"{section}.{name}", item))


@pytest.mark.parametrize(("key", "value", "words"), REFUSED)
def test_an_impossible_value_is_refused(key, value, words):
    with pytest.raises(node.ConfigError) as caught:
        rules.check(changed(key, value))
    assert str(caught.value).startswith(key)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "key", ["datasets.none", "reports.data", "experiments.loop", "studies.suspects"]
)
def test_a_name_that_files_of_the_evidence_have_is_refused(key):
    section = key.partition(".")[0]
    of_any = next(iter(CONTENT[section].values()))
    with pytest.raises(node.ConfigError, match=f"{key}: the name {wording.NAME_TAKEN}"):
        rules.check(changed(key, of_any))


def test_the_committed_parameters_are_accepted_as_they_are():
    config = rules.check(COMMITTED)
    assert rules.models_of(config) == COMMITTED["models"]
    model = training.LinearModel(kind="softmax", scaling="minmax")
    assert config.experiments["digits_softmax"].model == model


def test_a_search_is_accepted():
    (study,) = [
        study
        for name, study in rules.check(changed(GRID, searched())).studies.items()
        if name == "digits_cnn_grid"
    ]
    assert study.search is not None and study.search.rungs == [1, 2]


def test_a_linear_model_may_have_any_validation():
    for validation in ({"method": "none"}, {"method": "holdout", "fraction": 0.2}):
        content = unvalidated(keep="last", patience=None) | {"validation": validation}
        params = changed(SOFTMAX, content)
        # A study that builds on it would need the validation to choose its winner.
        for section in ("studies", "models"):
            del params[section]["digits_softmax_grid"]
        del params["suspects"]["digits"]  # and suspects need a prediction for each image
        rules.check(params)


# What pydantic calls the error of each type and each limit that a key may have.
ERRORS = {
    **{kind: f"{kind}_type" for kind in ("bool", "dict", "float", "int", "list")},
    **{"str": "string_type", "pattern": "string_pattern_mismatch"},
    **{"ge": "greater_than_equal", "gt": "greater_than", "le": "less_than_equal"},
    **{"lt": "less_than", "min_length": "too_short", "max_length": "too_long"},
}
STRUCTURE = {"literal", "nullable", "any", "default", "model", "model-fields", "model-field",
          "no-info", "with-info"}  # fmt: skip
LIMITS = {"pattern", "ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length"}


def types_and_limits(schema: Any) -> Iterator[str]:
    """Those of pydantic's schema of a class."""
    if isinstance(schema, dict):
        if isinstance(kind := schema.get("type"), str) and not kind.startswith("function-"):
            yield kind
            yield from LIMITS & schema.keys()
        for part in schema.values():
            yield from types_and_limits(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            yield from types_and_limits(part)


def test_every_type_and_limit_is_refused_in_our_words():
    nodes = [node.Node]
    for kind in nodes:
        nodes += kind.__subclasses__()
    found = {part for kind in nodes for part in types_and_limits(kind.__pydantic_core_schema__)}
    assert found > {"int", "max_length", "lt"}
    assert {ERRORS.get(part, part) for part in found - STRUCTURE} <= node.WORDS.keys()


def test_schema_and_registry_know_the_same_families_and_choices():
    assert registry.FAMILIES.keys() == training.SETTING_TYPES.keys()
    named = {
        f"{part}.{name}": allowed.get("enum") or [allowed.get("const")]
        for part, kind in training.SETTING_TYPES["cnn"]._asdict().items()
        for name, allowed in kind.model_json_schema()["properties"].items()
    }
    for folder, setting in registry.FAMILIES["cnn"].choices.items():
        modules = (ROOT / "src/kmnist_pipeline/families/cnn" / folder).glob("[!_]*.py")
        assert named[setting] == sorted(file.stem for file in modules) != []


def paths(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all values in `node`, maps and lists themselves included."""
    if path:
        yield path
    for key in (
        node if isinstance(node, dict) else range(len(node) if isinstance(node, list) else 0)
    ):
        yield from paths(node[key], (*path, key))


PATHS = [path for path in paths(CONTENT) if path[0] not in ("models", "code")]
FREE = {"points", "product", "trial", "retrain"}  # refused in the words of the keys they change
TYPED = [path for path in PATHS if len(path) > 2 and not FREE & set(path)]
NAMED = ("parts", "figures", "experiments", "studies", "catalogue")  # of any names
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda part: (
        st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=5), part, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=200)
@given(st.sampled_from(PATHS), VALUES)
def test_any_value_is_accepted_or_refused_in_one_line(path, value):
    try:
        rules.check(changed(path, value))
    except node.ConfigError as error:
        assert re.fullmatch(r"[^\n]+: [^\n]+", str(error))


@settings(max_examples=100)
@given(st.sampled_from(TYPED), st.booleans())
def test_a_wrong_type_is_refused_with_key_and_value(path, nested):
    wrong: Any = {"a": 1} if nested else True
    assume(not nested or not isinstance(at(CONTENT, path), dict | None))
    dotted = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)[1:]
    with pytest.raises(node.ConfigError) as caught:
        rules.check(changed(path, wrong))
    assert str(caught.value).startswith(f"{dotted}={json.dumps(wrong)}: must be ")


@settings(max_examples=60)
@given(st.sampled_from([path for path in TYPED if path[-2] not in NAMED]))
def test_a_misspelt_key_is_refused_with_the_known_ones(path):
    # These say which keys are known beside them.
    assume(isinstance(path[-1], str) and path[-1] not in ("family", "method", "act"))
    content = changed(path, DELETE)
    at(content, path[:-1])[f"{path[-1]}x"] = at(CONTENT, path)
    with pytest.raises(node.ConfigError, match=rf"{path[-1]}x=.*no such key.*\b{path[-1]}\b"):
        rules.check(content)


def test_checking_takes_few_calls():
    """Every stage pays for it at its start."""
    profile = cProfile.Profile()
    profile.runcall(rules.check, CONTENT)
    assert sum(entry.callcount for entry in profile.getstats()) < 130_000
