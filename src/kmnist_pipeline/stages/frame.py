"""The code around every stage: it reads the configuration, writes the evidence, then publishes it.

A stage module calls `entrypoint`. If DVC runs it, the outs go where `dvc.yaml` says and contain the
stage's lineage key. By hand (`python -m kmnist_pipeline.stages.<stage> name=...`) they go under
`multirun/`, so that only DVC writes evidence.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf

from kmnist_pipeline import arithmetic
from kmnist_pipeline.config import rules
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage, reads
from kmnist_pipeline.evidence.stage import Stage

PRIMARY: dict[str, Any] = {
    "defaults": [
        "params",
        "_self_",
        {"override hydra/job_logging": "disabled"},
        {"override hydra/hydra_logging": "disabled"},
    ],
    "name": MISSING,
    "hydra": {
        "searchpath": ["file://."],
        "run": {"dir": "."},
        "sweep": {"dir": ".", "subdir": "."},
        "output_subdir": None,
        "job": {"chdir": False, "config": {"override_dirname": {"exclude_keys": ["name"]}}},
    },
}


Run = Callable[[Stage, dict[str, Any]], None]  # its second argument: the declared parameters


def entrypoint(run: Run, kind: str, items: str, libraries: tuple[str, ...] = ()) -> None:
    """Run the stage that the command line names.

    run: does the work; kind: the stage's name in `dvc.yaml`; items: the section of `params.yaml`
    whose keys are the allowed values of `name`; libraries: those that affect the bytes of the
    outs, besides those that a family states for its training.
    """
    if not Path("params.yaml").exists():
        sys.exit(
            "error: no params.yaml here: run this from the folder of dvc.yaml, where "
            "`kmnist compose` makes it"
        )
    usage = (
        f"{kind}: {(sys.modules[run.__module__].__doc__ or '').strip()}\n\n"
        f"usage: python -m kmnist_pipeline.stages.{run.__name__} name=NAME [key=value ...]\n\n"
        f"name is a key of `{items}` in params.yaml. DVC runs this as `dvc repro {kind}@NAME`.\n"
        "By hand, its results go under multirun/, and any key of params.yaml can be changed:\n"
        "experiments.kmnist_softmax.optimizer.lr=0.05, or with -m to several values: 0.05,0.1\n"
    )
    primary = {**PRIMARY, "hydra": {**PRIMARY["hydra"], "help": {"template": usage}}}
    ConfigStore.instance().store(name=kind, node=primary)

    @hydra.main(version_base="1.3", config_path=None, config_name=kind)
    def task(cfg: DictConfig) -> None:
        try:
            _run(run, kind, items, libraries, cfg)
        except KeyboardInterrupt:
            sys.exit(f"{kind}: interrupted")
        except (UserError, OSError) as error:
            # No stage that succeeds depends on this.
            from kmnist_pipeline.repository.names import printable_lines

            sys.exit(printable_lines(f"error in {kind}: {error}"))  # names in it may be anyone's

    task()


def _notice_a_cut_lock() -> None:
    """Tell the user if an interrupted DVC has cut dvc.lock, unless the command `dvc` has done it.

    Another process does it, because no result depends on its modules.
    """
    if "KMNIST_LOCK_CHECKED" not in os.environ:
        subprocess.run([sys.executable, "-m", "kmnist_pipeline.commands.recovery"], check=False)


def _run(run: Run, kind: str, items: str, libraries: tuple[str, ...], cfg: DictConfig) -> None:
    _notice_a_cut_lock()
    with publishing() as child:
        content = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
        name = content.pop("name")
        rules.check(content)
        known = content.get(items) or {}
        if name not in known:
            raise UserError(f"name={name}: must be one of the {items}: {', '.join(known)}")

        arithmetic.require()
        stage = _stage(kind, name, libraries, content)
        _refuse_undeclared(stage)
        run(stage, lineage.declared(stage.lineage["params"]) if stage.lineage else content)
        _refuse_undeclared(stage)
        _publish(child, stage, content.get("models", {}), {f"{items}.{name}": known[name]})
    if stage.lineage is None:
        print(f"{stage.address}: results are under {stage.root}")


@contextmanager
def publishing() -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Start the child that will publish a stage's results; it ends with the block.

    Gives the child and the file of its standard error. Enter the block as early as possible: the
    child needs about two seconds to get ready. If the block raises, nothing is published.
    """
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            [sys.executable, "-m", "kmnist_pipeline.tracking.runs"],
            bufsize=0,  # closing a buffered pipe to a dead child would raise
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            start_new_session=True,  # so that only the parent gets an interrupt
        ) as child,
    ):
        try:
            yield child, complaints
        finally:
            child.kill()


def _publish(
    child: tuple[subprocess.Popen[bytes], IO[bytes]],
    stage: Stage,
    models: dict[str, Any],
    parameters: dict[str, Any],
) -> None:
    # No stage depends on these modules, so they are imported after the outs are written.
    from kmnist_pipeline.tracking.publisher import Publisher
    from kmnist_pipeline.tracking.record import of_stage

    where = (stage.address, stage.root, stage.lineage, stage.written)
    Publisher(*child).hand_over(of_stage(*where, models, parameters, stage.started))


def _refuse_undeclared(stage: Stage) -> None:
    """Raise UserError if DVC's stage has read a file of the project that is not in its key."""
    if stage.lineage is None:
        return
    if found := reads.undeclared([*stage.lineage["deps"], *stage.written, *stage.pinned]):
        raise UserError(
            f"reads {', '.join(found)}, which is not among the deps of {stage.kind} in dvc.yaml: "
            "add it there"
        )


def _stage(kind: str, name: str, libraries: tuple[str, ...], params: dict[str, Any]) -> Stage:
    address = os.environ.get("DVC_STAGE")
    if address == f"{kind}@{name}":
        known = lineage.of_running_stage(address, params)
        return Stage(kind, name, Path("."), known, libraries)
    _require_inputs(f"{kind}@{name}", params)
    changes = HydraConfig.get().job.override_dirname.replace("/", "_") or "unchanged"
    root = Path("multirun") / kind / name / _short(changes)
    root.mkdir(parents=True, exist_ok=True)  # if this fails, it fails before the work
    return Stage(kind, name, root, None, libraries)


def _require_inputs(address: str, params: dict[str, Any]) -> None:
    """Raise UserError if a dependency of a stage is missing, with the command that makes it.

    DVC makes them by itself, so this is for a run by hand.
    """
    from kmnist_pipeline.repository import dvc, git  # no stage that DVC runs depends on these

    described = dvc.stages(params)
    missing = [dep for dep in described.get(address, {}).get("deps", []) if not Path(dep).exists()]
    if not missing:
        return
    makers = {out: name for name, stage in described.items() for out in dvc.outs(stage)}
    again = dict.fromkeys(makers[dep] for dep in missing if dep in makers)
    way = f"`dvc repro {' '.join(again)}` makes what is missing"
    if not again:
        way = git.restoring(missing[0], f"dvc pull {missing[0]}")
    raise UserError(f"missing: {', '.join(missing)}; {way}")


def _short(name: str) -> str:
    """A name that a file system accepts: a longer one ends with its digest."""
    content = name.encode()
    if len(content) <= 200:
        return name
    beginning = content[:180].decode(errors="ignore")
    return f"{beginning}...{hashlib.sha256(content).hexdigest()[:12]}"
