"""The same bytes on CPUs of other makers and years, emulated by QEMU.

It emulates the CPU of a process and not that of its children: all is computed in one process.
`np.argsort` and torch's `grid_sample` are left out, because QEMU 7.2 dies of the instruction that
gathers; what differs by design is in the description of `kmnist_pipeline.arithmetic`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.project import ROOT

from kmnist_pipeline import arithmetic
from kmnist_pipeline.evidence import numbers

CPUS = ("Haswell", "Skylake-Client", "EPYC")  # two of Intel's, one of AMD's
WHOLE = ("digits_softmax", "digits_sklearn_logistic")  # seconds, also emulated
NAMES = ("digits_softmax", "digits_sklearn_logistic", "digits_cnn", "kmnist_improved_cnn")
QEMU = "qemu-x86_64"
PATIENCE = 1200  # seconds for what takes two minutes


pytestmark = pytest.mark.skipif(
    not (shutil.which(QEMU) and arithmetic._has_v3()), reason="needs qemu-user and AVX2"
)


def run(source: str, cpu: str | None) -> str:
    """What a Python program prints on the emulated CPU; None: on this machine's own."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    of_this_cpu = Path(__file__).parent
    places = (of_this_cpu, of_this_cpu.parent, ROOT / "src")
    done = subprocess.run(
        [*([QEMU, "-cpu", cpu] if cpu else []), sys.executable, "-B", "-c", source],
        env={**kept, "PYTHONPATH": os.pathsep.join(map(str, places))}, text=True,
        capture_output=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    told = [line for line in done.stderr.splitlines() if "TCG doesn't support" not in line]
    assert (done.returncode, told) == (0, [])
    return done.stdout


def digests(program: Callable[[], None], cpu: str | None) -> dict[str, Any]:
    """What a function of this module prints in a process of its own, JSON."""
    name = program.__name__
    return json.loads(run(f"import test_emulated; test_emulated.{name}()", cpu).splitlines()[-1])


def operations() -> None:
    """Print a digest of what each kind of operation gives, and of fits.

    All in one process, because most of the time goes into loading the libraries.
    """
    arithmetic.select()
    found: dict[str, Any] = {}
    for name, *results in chain(of_numpy(), of_sklearn(), of_torch(), of_layers(), of_fits()):
        import numpy as np

        content = b"".join(np.asarray(result).tobytes() for result in results)
        assert name not in found
        found[name] = hashlib.sha256(content).hexdigest()
    found |= dict(of_experiments())
    arithmetic.require()
    print(json.dumps(found))


def of_numpy() -> Iterator[tuple[Any, ...]]:
    """A name and results each."""
    import numpy as np

    rng = np.random.default_rng(0)
    yield "NumPy random", rng.normal(size=999), rng.exponential(size=999), rng.permutation(999)
    kinds: list[Any] = [np.float32, np.float64]
    for kind in kinds:
        name = f"NumPy {kind.__name__}"
        for n, d, k in ((64, 65, 10), (127, 333, 97), (100, 784, 10)):
            a, b = rng.normal(size=(n, d)).astype(kind), rng.normal(size=(d, k)).astype(kind)
            yield f"{name} product {n}", a @ b, b.T @ a.T, a @ b[:, 0], a[0] @ b[:, 1]
        x = (rng.normal(size=(107, 211)) * 5).astype(kind)
        for function in (np.exp, np.tanh, np.sin, np.expm1):
            yield f"{name} {function.__name__}", function(x), function(x[:, ::3])
        positive = np.abs(x) + kind(1e-3)
        for of_positive in (np.log, np.sqrt, np.log1p, np.log2):
            results = of_positive(positive), of_positive(positive[:, ::3])
            yield f"{name} {of_positive.__name__}", *results
        yield f"{name} powers", positive ** kind(0.7), np.logaddexp(0, x), np.hypot(x, x[::-1])
        yield f"{name} sums", x.sum(), x.sum(0), x.sum(1), x.mean(0), x.std(1), x.cumsum()
        yield f"{name} einsum", np.einsum("ij,kj->ik", x, x), np.einsum("ij,ij->i", x, x)
        yield f"{name} linalg", np.linalg.svd(x[:40, :40])[1], np.linalg.inv(x[:50, :50])
        yield f"{name} sort", np.sort(x, axis=0), np.median(x, axis=1)


def of_sklearn() -> Iterator[tuple[Any, ...]]:
    """A name and results each."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    images, labels = load_digits(return_X_y=True)
    for kind in (np.float32, np.float64):
        inputs = (images[:400] / 16).astype(kind)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it does not converge in so few steps
            model = LogisticRegression(max_iter=20).fit(inputs, labels[:400])
        name = f"scikit-learn L-BFGS {kind.__name__}"
        yield name, model.coef_, model.intercept_, model.predict_proba(inputs)


def of_torch() -> Iterator[tuple[Any, ...]]:
    """A name and results each."""
    import torch
    from torch.nn import functional

    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        for n, d, k in ((64, 65, 10), (127, 333, 97), (100, 784, 128), (1, 300, 10)):
            a, b = torch.randn(n, d, dtype=dtype), torch.randn(d, k, dtype=dtype)
            bias = torch.randn(k, dtype=dtype)
            yield f"{dtype} product {n}", a @ b, b.T @ a.T, torch.addmm(bias, a, b), a @ b[:, 0]
        x = torch.randn(123, 257, dtype=dtype) * 5
        for function in (torch.exp, torch.tanh, torch.sigmoid, torch.erf, torch.sin):
            yield f"{dtype} {function.__name__}", function(x), function(x[:, ::3])
        yield f"{dtype} powers", x.abs().rsqrt(), x.abs() ** 0.7
        yield f"{dtype} softmax", x.softmax(1), x.log_softmax(1), x.logsumexp(0)
        yield f"{dtype} sums", x.sum(), x.sum(0), x.sum(1), x.mean(), x.std(0), x.norm(dim=1)
        yield f"{dtype} random", torch.randn(999, dtype=dtype), functional.dropout(x, 0.3)
    yield "float32 log", x.float().abs().log()


def of_layers() -> Iterator[tuple[Any, ...]]:
    """A name and results each: forwards and backwards."""
    import torch
    from torch import nn, optim

    torch.manual_seed(0)
    shapes = ((4, 1, 32, 3, 28), (4, 32, 48, 3, 10), (9, 3, 16, 5, 12), (5, 17, 23, 1, 9))
    for dtype in (torch.float32, torch.float64):
        for n, channels, kernels, size, side in shapes:
            for layout in (torch.contiguous_format, torch.channels_last):
                layer: Any = nn.Conv2d(channels, kernels, size, padding=1, dtype=dtype)
                layer = layer.to(memory_format=layout)
                image = torch.randn(n, channels, side, side, dtype=dtype).to(memory_format=layout)
                with torch.inference_mode():
                    predicted = layer(image)
                result = layer(image.requires_grad_())
                result.square().mean().backward()
                gradients = [image.grad, *(weight.grad for weight in layer.parameters())]
                name = f"{dtype} convolution {channels} {layout}"
                yield name, result.detach(), predicted, *gradients
        image = torch.randn(8, 16, 12, 12, dtype=dtype, requires_grad=True)
        norm = nn.BatchNorm2d(16, dtype=dtype)
        result = nn.functional.max_pool2d(norm(image).relu(), 2)
        result.square().sum().backward()
        yield f"{dtype} normalised", result.detach(), image.grad, norm.running_var, norm.weight.grad
        for make, settings in (
            (optim.Adam, {"fused": True}),
            (optim.AdamW, {"fused": True}),
            (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        ):
            weight = torch.randn(101, 77, dtype=dtype, requires_grad=True)
            optimizer = make([weight], **settings)
            for _ in range(3):
                weight.grad = torch.randn_like(weight)
                optimizer.step()
            yield f"{dtype} {make.__name__}", weight.detach()


def of_fits() -> Iterator[tuple[Any, ...]]:
    """A name and the model each: one short fit of an experiment of each family."""
    import numpy as np
    from sklearn.datasets import load_digits

    from kmnist_pipeline.data.dataset import Images
    from kmnist_pipeline.families.base import Checkpoint
    from kmnist_pipeline.families.registry import FAMILIES
    from kmnist_pipeline.fits.plan import Plan

    n = 60
    digits = load_digits()
    pixels, labels = digits.images[:n].astype(np.uint8), digits.target[:n].astype(np.int64)
    images = Images(pixels, labels, np.arange(n), tuple("0123456789"))
    experiments = yaml.safe_load((ROOT / "params.yaml").read_text())["experiments"]
    for name in NAMES:
        experiment = {**experiments[name], "subset": None}
        if "epochs" in experiment["trainer"]:
            experiment["trainer"]["epochs"] = 1
        plan = Plan(name, {"": experiment}, images)
        fit = next(plan.tasks()).fit
        train = FAMILIES[fit.family].train
        fitted = train.fit(fit, plan.data, Checkpoint(), lambda _: None, None)
        yield name, np.frombuffer(fitted.encode(), np.uint8)


def of_experiments() -> Iterator[tuple[str, list[str]]]:
    """The digests of the weights after each epoch, of every fit whose model is kept."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    from kmnist_pipeline.data.dataset import Images
    from kmnist_pipeline.families.base import Checkpoint
    from kmnist_pipeline.families.registry import FAMILIES
    from kmnist_pipeline.fits.plan import Plan

    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    about, digits = params["datasets"]["digits"], load_digits()
    split = {name: about["split"][name] for name in ("train_size", "seed")}
    rows, _ = train_test_split(
        np.arange(len(digits.target)), train_size=split["train_size"], random_state=split["seed"]
    )
    pixels, labels = digits.images.astype(np.uint8)[rows], digits.target.astype(np.int64)[rows]
    images = Images(pixels, labels, rows, tuple(about["classes"]))
    for name in WHOLE:
        experiment = params["experiments"][name]
        train = FAMILIES[experiment["model"]["family"]].train
        plan = Plan(name, {"": experiment}, images)
        committed = committed_fits(name)
        for task in plan.tasks():
            if committed[task.fit.seed, task.fit.fold]["kept"]:
                fitted = train.fit(task.fit, plan.data, Checkpoint(), lambda _: None, None)
                yield task.label, fitted.digests


def committed_fits(name: str) -> dict[tuple[int, int], dict[str, Any]]:
    """What the committed evidence says of each fit of an experiment, by seed and fold."""
    details = numbers.read(ROOT / f"metrics/digits/{name}/validation.json")
    return {(fit["seed"], fit["fold"]): fit for fit in details["folds"]}


@pytest.fixture(scope="module")
def of_this_cpu() -> dict[str, Any]:
    """What this machine's own CPU gives."""
    return digests(operations, None)


@pytest.mark.parametrize("cpu", CPUS)
def test_operations_and_fits_give_the_same_bytes(of_this_cpu, cpu):
    there = digests(operations, cpu)
    assert [name for name in of_this_cpu if there[name] != of_this_cpu[name]] == []
    assert len(of_this_cpu) > 80


def test_the_weights_of_every_model_are_the_committed_ones(of_this_cpu):
    """With the test above: on every CPU."""
    for name in WHOLE:
        kept = [fit for fit in committed_fits(name).values() if fit["kept"]]
        assert kept
        for fit in kept:
            assert of_this_cpu[f"{name} seed {fit['seed']} fold {fit['fold']}"] == fit["weights"]
