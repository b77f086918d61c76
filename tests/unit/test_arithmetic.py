"""The arithmetic of a process is the portable one, whatever the user has set, or it says so."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap

import pytest

from kmnist_pipeline import arithmetic

OTHERS = {  # what a user may have set, for reasons of his own
    "ATEN_CPU_CAPABILITY": "default",
    "DNNL_MAX_CPU_ISA": "SSE41",
    "GOTO_NUM_THREADS": "5",
    "MKL_CBWR": "AUTO",
    "MKL_DOMAIN_NUM_THREADS": "MKL_DOMAIN_ALL=2",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "MKL_NUM_THREADS": "2",
    "NPY_ENABLE_CPU_FEATURES": "X86_V3",
    "OMP_NUM_THREADS": "7",
    "ONEDNN_DEFAULT_FPMATH_MODE": "ANY",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "SkylakeX",
    "OPENBLAS_NUM_THREADS": "3",
}
NO_FEATURES = f"X86_V3 {arithmetic.INSTRUCTIONS['NPY_DISABLE_CPU_FEATURES']}"  # on any CPU
CPUS = sorted(os.sched_getaffinity(0))

pytestmark = pytest.mark.skipif(not arithmetic._has_v3(), reason="needs x86-64 with AVX2")


def python(code: str, *before: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process without variables but these; before: a command before Python."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [*before, sys.executable, "-c", textwrap.dedent(code)],
        env={**kept, **environment}, text=True, capture_output=True, check=False,
    )  # fmt: skip


def test_what_the_user_has_set_has_no_effect():
    run = python(
        """
        from kmnist_pipeline import arithmetic
        arithmetic.select()
        import json, os
        import numpy, scipy.linalg, torch
        from threadpoolctl import threadpool_info
        arithmetic.require()
        x = torch.ones(16, 8, 9, 9, requires_grad=True)
        torch.nn.functional.conv2d(x, x[:8, :, :3, :3]).sum().backward()
        features = numpy._core._multiarray_umath.__cpu_features__
        print(json.dumps({
            "environment": dict(os.environ),
            "pools": [(p.get("architecture"), p["num_threads"]) for p in threadpool_info()],
            "numpy": [features[name] for name in ("X86_V3", "X86_V4")],
            "torch": [torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()],
            "name": arithmetic.name(),
        }))
        """,
        **OTHERS, ONEDNN_VERBOSE="1",
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    told = run.stdout.splitlines()
    assert "onednn_verbose,v1,info,cpu,isa:Intel AVX2" in told
    implementations = {line.split(",")[6] for line in told if ",exec,cpu,convolution," in line}
    assert implementations == {"jit:avx2"}
    found = json.loads(told[-1])
    expected = {**arithmetic.INSTRUCTIONS, **arithmetic.THREADS}
    assert expected.items() <= found["environment"].items()
    left = OTHERS.keys() - expected.keys()
    assert not left & found["environment"].keys()
    assert {tuple(pool) for pool in found["pools"]} == {("Haswell", 1), (None, 1)}
    assert [kernels for kernels, _ in found["pools"]].count("Haswell") == 2  # NumPy's and SciPy's
    assert found["numpy"] == [True, False]
    assert found["torch"] == ["AVX2", 1]
    assert found["name"] == "x86-64-v3"


LATE = """
    {first}
    from kmnist_pipeline import arithmetic
    arithmetic.select()
    try:
        arithmetic.require()
    except arithmetic.ArithmeticModeError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("first", "variables", "told"),
    [
        (
            "import numpy",
            {"NPY_DISABLE_CPU_FEATURES": NO_FEATURES, "OPENBLAS_CORETYPE": "SkylakeX"},
            ["NumPy was loaded with no CPU features", "openblas was loaded with kernels for Sky"],
        ),
        (
            "import torch; torch.ones(9, 9) @ torch.ones(9, 9).exp()",
            {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "7"},
            ["torch was loaded with kernels for DEFAULT", "torch has [27] threads", "torch's MKL"],
        ),
    ],
)
def test_a_library_loaded_too_early_is_reported(first, variables, told):
    run = python(LATE.format(first=first), **variables)
    assert (run.returncode, run.stderr) == (0, "")
    for what in told:
        assert re.search(what, run.stdout)
    assert "Call kmnist_pipeline.arithmetic.select() before NumPy" in run.stdout
    assert "OPENBLAS_CORETYPE='Haswell'" in run.stdout


def test_other_kernels_of_the_c_library_are_reported():
    """NumPy's float64 `exp` is the C library's, and the variable is read when a process starts."""
    tunables = "glibc.cpu.hwcaps=-AVX2,-FMA"
    run = python(LATE.format(first=""), GLIBC_TUNABLES=tunables)
    assert f"GLIBC_TUNABLES={tunables} chooses the kernels of the C library" in run.stdout
    assert python(LATE.format(first=""), GLIBC_TUNABLES="glibc.malloc.check=0").stdout == ""


def test_a_process_that_selected_nothing_is_reported():
    run = python("from kmnist_pipeline import arithmetic; arithmetic.require()")
    assert run.returncode == 1
    assert "not set: ATEN_CPU_CAPABILITY, MKL_CBWR" in run.stderr


@pytest.mark.parametrize("value", ["", "portable"])
def test_portable_is_what_is_meant_where_nothing_is_said(value, monkeypatch):
    monkeypatch.setenv(arithmetic.VARIABLE, value)
    assert arithmetic.name() == "x86-64-v3"
    assert arithmetic.is_portable()
    assert arithmetic.note() is None


@pytest.mark.parametrize("ask", [arithmetic.select, arithmetic.name, arithmetic.require])
def test_an_unknown_value_is_refused(ask, monkeypatch):
    monkeypatch.setenv(arithmetic.VARIABLE, "fast")
    with pytest.raises(arithmetic.ArithmeticModeError) as caught:
        ask()
    assert str(caught.value) == "KMNIST_ARITHMETIC=fast: must be portable or native"


@pytest.fixture
def environment(monkeypatch):
    """The variables of this process, none of which is of arithmetic, for a test to change."""
    changed = {
        name: value
        for name, value in os.environ.items()
        if name not in arithmetic.INSTRUCTIONS and name not in arithmetic.THREADS
    }
    monkeypatch.setattr(os, "environ", changed)
    return changed


def test_native_takes_back_what_a_portable_parent_has_set(environment, monkeypatch):
    arithmetic.select()
    environment |= {arithmetic.VARIABLE: "native", "OMP_NUM_THREADS": "2"}
    arithmetic.select()
    assert not arithmetic.INSTRUCTIONS.keys() & environment.keys()
    assert environment["OMP_NUM_THREADS"] == "2"
    assert (arithmetic.name(), arithmetic.is_portable(), arithmetic.note()) == (
        "native", False, None,
    )  # fmt: skip
    arithmetic.require()


def test_native_leaves_what_the_user_has_set(environment):
    own = {"ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    environment |= {**own, arithmetic.VARIABLE: "native"}
    arithmetic.select()
    assert own.items() <= environment.items()


@pytest.mark.parametrize(
    ("machine", "name"), [("x86_64", "x86-64"), ("AMD64", "x86-64"), ("aarch64", "aarch64")]
)
def test_without_avx2_only_threads_are_set(environment, monkeypatch, machine, name):
    monkeypatch.setattr(arithmetic, "_has_v3", lambda: False)
    monkeypatch.setattr("platform.machine", lambda: machine)
    arithmetic.select()
    assert arithmetic.THREADS.items() <= environment.items()
    assert not arithmetic.INSTRUCTIONS.keys() & environment.keys()
    assert arithmetic.name() == name
    assert not arithmetic.is_portable()
    note = arithmetic.note()
    assert note is not None
    assert "about six digits" in note
    assert "git restore dvc.lock metrics figures reports weights" in note


@pytest.mark.parametrize("flags", ["fpu sse4_2 avx", "fpu sse4_2 avx avx2 f16c", None])
def test_a_machine_without_all_instructions_is_known(flags, tmp_path, monkeypatch):
    told = tmp_path / "cpuinfo"
    if flags is not None:
        told.write_text(f"flags\t\t: {flags}\n")
    monkeypatch.setattr(arithmetic, "Path", lambda _: told)
    assert not arithmetic._has_v3.__wrapped__()


@pytest.mark.skipif(
    len(CPUS) < 2 or not shutil.which("taskset"), reason="needs two cores and taskset"
)
def test_one_core_and_two_give_the_same_bytes():
    code = """
        from kmnist_pipeline import arithmetic
        arithmetic.select()
        import hashlib, os
        import numpy, torch
        rng = numpy.random.default_rng(0)
        a, b = rng.normal(size=(2, 600, 600))
        image, kernel = (torch.from_numpy(x.reshape(-1, 9, 20, 20)) for x in (a, b))
        kernel = kernel[:8, :, :3, :3].float().contiguous().requires_grad_()
        torch.conv2d(image.float(), kernel).square().sum().backward()
        parts = [a @ b, numpy.linalg.svd(a[:90])[1], (torch.from_numpy(a) @ torch.from_numpy(b)),
                 torch.from_numpy(a).float() @ torch.from_numpy(b).float(), kernel.grad]
        print(len(os.sched_getaffinity(0)),
              hashlib.sha256(b"".join(numpy.asarray(p).tobytes() for p in parts)).hexdigest())
    """
    one, two = (
        python(code, "taskset", "--cpu-list", ",".join(map(str, CPUS[:n]))).stdout.split()
        for n in (1, 2)
    )
    assert (one[0], two[0]) == ("1", "2")
    assert one[1] == two[1]


def test_a_process_of_others_is_accepted_and_reported_once():
    code = """
        import numpy
        from kmnist_pipeline import arithmetic
        arithmetic.foreign()
        arithmetic.foreign()
        arithmetic.require()
    """
    run = python(code, NPY_DISABLE_CPU_FEATURES=NO_FEATURES)
    assert (run.returncode, run.stdout) == (0, "")
    assert run.stderr.count("\n") == 1
    assert "NumPy was loaded with no CPU features" in run.stderr
    quiet = python(code, **arithmetic.INSTRUCTIONS, **arithmetic.THREADS)
    assert (quiet.returncode, quiet.stderr) == (0, "")
