"""The same arithmetic on every x86-64 machine, so that the same code gives the same bytes.

Numeric libraries choose their kernels by the CPU and the number of threads, and kernels round
differently. With one thread and one instruction set, x86-64-v3 (AVX2 and FMA), they agree to the
bit. They read these settings when they are loaded, so call `select` before importing them.

No setting helps where torch calls functions of MKL that use RSQRTPS and RCPPS: the last bits of
these instructions depend on the maker of the CPU. So a fit must not use torch's `sqrt`, `pow(0.5)`,
`log2`, `log10`, `tan`, `atan`, `asin`, `acos`, nor `log` in float64, nor optimizers that take a
square root without `fused=True`. `rsqrt`, norms and batch normalisation are safe.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Event

from kmnist_pipeline.errors import UserError

VARIABLE = "KMNIST_ARITHMETIC"
PORTABLE, NATIVE, V3 = "portable", "native", "x86-64-v3"
FLAGS = {"abm", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}  # of V3, as Linux names them
INSTRUCTIONS = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's vector kernels
    "MKL_CBWR": "COMPATIBLE",  # torch's matrix products; with AVX2 Intel and AMD differ
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # NumPy's exp, log and sort
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # torch's convolutions
    "OPENBLAS_CORETYPE": "Haswell",  # matrix products of NumPy and SciPy
}
THREADS = {"MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# Variables that begin so may override ours (DNNL_MAX_CPU_ISA, MKL_DOMAIN_NUM_THREADS), change
# numbers (ONEDNN_DEFAULT_FPMATH_MODE), bind all workers to one core (OMP_PROC_BIND), or keep NumPy
# from loading (NPY_ENABLE_CPU_FEATURES).
RELATIVES = ("DNNL_", "GOMP_", "GOTO_", "KMP_", "MKL_", "NPY_", "OMP_", "ONEDNN_", "OPENBLAS_")
TUNABLES = "GLIBC_TUNABLES"  # read when a process starts: too early for `select`
MKL_BRANCH, MKL_COMPATIBLE = 1, 3  # MKL_CBWR_BRANCH and MKL_CBWR_COMPATIBLE of mkl.h

_log = logging.getLogger("kmnist_pipeline")
_foreign = Event()


class ArithmeticModeError(UserError, RuntimeError):
    """This process does not compute in the arithmetic that is set."""


def select() -> None:
    """Set the arithmetic of the libraries that are loaded from now on.

    $KMNIST_ARITHMETIC names it: `portable` (also if unset or empty), or `native`, which leaves
    instructions to the hardware and threads to the user. `require` finds libraries that were
    loaded before. Raises ArithmeticModeError for any other value.
    """
    if _mode() == NATIVE:
        if all(os.environ.get(variable) == value for variable, value in INSTRUCTIONS.items()):
            for variable in INSTRUCTIONS:  # inherited from a portable parent process
                del os.environ[variable]
        return
    for variable in list(os.environ):
        if variable.startswith(RELATIVES) and not variable.endswith("_VERBOSE"):
            del os.environ[variable]
    os.environ.update(variables())


def name() -> str:
    """The arithmetic's name in the evidence: x86-64-v3, native, or a machine type without V3."""
    if _mode() == NATIVE:
        return NATIVE
    machine = platform.machine()
    return V3 if _has_v3() else {"x86_64": "x86-64", "AMD64": "x86-64"}.get(machine, machine)


def variables() -> dict[str, str]:
    """The environment variables that set the arithmetic of this process.

    None in native arithmetic, and only threads without V3, where kernels for V3 would crash.
    """
    if _mode() == NATIVE:
        return {}
    return {**INSTRUCTIONS, **THREADS} if _has_v3() else THREADS


def is_portable() -> bool:
    """Whether the results of this process have the same bytes on other machines."""
    return name() == V3


def note() -> str | None:
    """A note for the user if portable arithmetic is set but this machine cannot provide it."""
    if name() in (V3, NATIVE):
        return None
    return (
        f"This machine ({name()}) is not x86-64 with AVX2, so its numbers agree with the committed "
        "ones to about six digits, but the files differ; `git restore dvc.lock metrics figures "
        "reports weights` brings back the committed files."
    )


def require() -> None:
    """Check that all libraries loaded so far compute in the arithmetic of this process.

    Raises ArithmeticModeError, except in native arithmetic and after `foreign`.
    """
    if _mode() == NATIVE or _foreign.is_set() or not (faults := _faults()):
        return
    settings = " ".join(f"{variable}={value!r}" for variable, value in variables().items())
    raise ArithmeticModeError(
        f"this process does not compute in portable arithmetic: {'; '.join(faults)}. Call "
        "kmnist_pipeline.arithmetic.select() before NumPy, SciPy or torch is imported, or start "
        f"Python with {settings}; or set {VARIABLE}={NATIVE}, whose results are not evidence"
    )


def foreign() -> None:
    """From now on accept the arithmetic of a process that is not ours, and log once what it is.

    For a registered model: the process that loads it has loaded NumPy already.
    """
    if _foreign.is_set():
        return
    _foreign.set()
    if faults := _faults() or ([] if _has_v3() else [f"the machine is {platform.machine()}"]):
        _log.warning(
            "predictions agree with this model's evidence to about six digits, because they are "
            "made in the arithmetic of this process: %s",
            "; ".join(faults),
        )


def _mode() -> str:
    mode = os.environ.get(VARIABLE) or PORTABLE
    if mode not in (PORTABLE, NATIVE):
        raise ArithmeticModeError(f"{VARIABLE}={mode}: must be {PORTABLE} or {NATIVE}")
    return mode


@cache
def _has_v3() -> bool:
    """Whether this machine has V3, as far as Linux tells."""
    if platform.machine() != "x86_64" or not (file := Path("/proc/cpuinfo")).exists():
        return False
    return set(file.read_text().split()) >= FLAGS


def _faults() -> list[str]:
    """The settings without effect in this process, in words; only loaded libraries count."""
    unset = [v for v, value in variables().items() if os.environ.get(v) != value]
    faults = [f"not set: {', '.join(unset)}"] if unset else []
    if "glibc.cpu" in (tunables := os.environ.get(TUNABLES, "")):
        faults.append(f"{TUNABLES}={tunables} chooses the kernels of the C library: unset it")
    if numpy := sys.modules.get("numpy"):
        umath = numpy._core._multiarray_umath
        features = [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__[name]]
        if _has_v3() and features != ["X86_V3"]:
            faults.append(f"NumPy was loaded with {', '.join(features) or 'no CPU features'}")
    with suppress(ImportError):  # a registered model may be served without it
        from threadpoolctl import threadpool_info

        pools = {(p["prefix"], p["num_threads"], p.get("architecture")) for p in threadpool_info()}
        for library, threads, kernels in sorted(pools, key=str):
            if threads != 1:
                faults.append(f"{library} was loaded with {threads} threads")
            if _has_v3() and kernels not in (None, "Haswell"):
                faults.append(f"{library} was loaded with kernels for {kernels}")
    if torch := sys.modules.get("torch"):
        faults += _faults_of_torch(torch)
    return faults


def _faults_of_torch(torch) -> list[str]:
    faults = []
    if (threads := torch.get_num_threads()) != 1:
        faults.append(f"torch has {threads} threads")
    if not _has_v3():
        return faults
    if (capability := torch.backends.cpu.get_cpu_capability()) != "AVX2":
        faults.append(f"torch was loaded with kernels for {capability}")
    with suppress(OSError, AttributeError):  # another build of torch cannot be asked
        library = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"))
        if library.mkl_serv_cbwr_get(MKL_BRANCH) != MKL_COMPATIBLE:
            faults.append("torch's MKL was used before MKL_CBWR was set")
    return faults
