"""A report as a Workflow Run RO-Crate: data, code, parameters, runs and figures in one folder.

The crate has the files of one commit, from Git and from DVC's cache, under their paths in the
project and checked against the hashes of the lock. Its metadata is a Provenance Run Crate 0.5
(https://w3id.org/ro/wfrun/provenance/0.5): `dvc.yaml` is the workflow, each stage is a step with
its run. A commit always gives the same bytes: the only date is the date of the commit, because the
evidence has no dates.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from PIL import Image
from rocrate.model import ComputationalWorkflow, ComputerLanguage, ContextEntity, Entity
from rocrate.rocrate import ROCrate

from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage, numbers, paths
from kmnist_pipeline.repository import git, locks
from kmnist_pipeline.repository.locks import Graph, LockedStage
from kmnist_pipeline.repository.revision import Revision, check

METADATA = "ro-crate-metadata.json"
WORKFLOW = "dvc.yaml"
LICENCE = "LICENSE"
ENVIRONMENT = "requirements.lock"
PROJECT = (
    ".dvc/config",
    LICENCE,
    "Makefile",
    "README.md",
    "conf",
    locks.LOCK,
    WORKFLOW,
    "params.yaml",
    "pyproject.toml",
    ENVIRONMENT,
    "src",
)
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
# The terms of https://w3id.org/ro/terms/workflow-run# that are used here.
TERMS = {name: f"https://w3id.org/ro/terms/workflow-run#{name}" for name in ("md5", "sha256")}
FORMATS = {
    ".csv": "text/csv", ".html": "text/html", ".json": "application/json",
    ".lock": "application/yaml", ".md": "text/markdown", ".png": "image/png",
    ".py": "text/x-python", ".toml": "application/toml", ".yaml": "application/yaml",
}  # fmt: skip
CREATIVE_COMMONS = re.compile(r"CC (BY(?:-\w+)*) (\d\.\d)")


@dataclass(frozen=True)
class Exported:
    """The written crate; missing: md5 by path of files in neither DVC's cache nor the workspace."""

    folder: Path
    commit: str
    files: int
    size: int
    runs: int
    missing: dict[str, str]


def export(report: str, folder: Path) -> Exported:
    """Write the crate of a report at HEAD; it replaces an older crate.

    Raises UserError if there is no such report, if a file is not as the lock says, or if the
    folder has other content than a crate.
    """
    is_free = (folder / METADATA).exists() or (folder.is_dir() and not any(folder.iterdir()))
    if folder.exists() and not is_free:
        raise UserError(f"{folder}: has other content than a crate; name another folder")
    commit = git.commit("HEAD")
    head = Revision("HEAD", commit)
    locked = head.lock()
    if f"report@{report}" not in locked.stages:
        known = ", ".join(stage.item for stage in locked.stages.values() if stage.kind == "report")
        raise UserError(f"{report}: is not a report of this project; known: {known}")
    stages = _in_order(locked, f"report@{report}")

    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        missing = _gather(unfinished, head, stages)
        crate = _Crate(unfinished, commit, locked, stages, missing)
        crate.describe(report)
        crate.crate.write(unfinished)
        files = [path for path in unfinished.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        unfinished.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return Exported(folder, commit, len(files), size, len(stages), missing)


def _in_order(locked: Graph, address: str) -> list[LockedStage]:
    """A stage and all stages that it depends on, each after the stages whose outs it reads."""
    upstream = sorted(locked.upstream(address), key=lambda stage: stage.address)
    parents = {stage.address: [p.address for p in locked.parents(stage)] for stage in upstream}
    return [locked.stages[name] for name in TopologicalSorter(parents).static_order()]


def _gather(folder: Path, head: Revision, stages: list[LockedStage]) -> dict[str, str]:
    """Write all files, checked against the lock; returns the md5 of files that were not found."""
    head.write(folder, *PROJECT)
    outs = {path: md5 for stage in stages for path, md5 in stage.outs.items()}
    missing = {path: md5 for path, md5 in outs.items() if not head.put(path, md5, folder)}
    for stage in stages:
        for path, md5 in stage.deps.items():
            if path not in outs:
                check(folder / path, path, md5)
    return missing


@dataclass
class _Crate:
    """The metadata of a crate whose files are already written."""

    folder: Path
    commit: str
    locked: Graph
    stages: list[LockedStage]
    missing: dict[str, str]
    crate: ROCrate = field(default_factory=lambda: ROCrate(version="1.1"))

    def describe(self, report: str) -> None:
        """Add every entity."""
        about = self.locked.stages[f"report@{report}"].params[f"reports.{report}"]
        self.crate.metadata.extra_terms.update(TERMS)
        root = self.crate.root_dataset
        root["name"] = about["title"]
        root["description"] = " ".join(filter(None, (about["summary"], about["reproduces"])))
        root["datePublished"] = git.run("show", "-s", "--format=%cI", self.commit).decode().strip()
        root["version"] = self.commit

        engine = self._engine()
        workflow = self._workflow()
        licences = self._licences(about["dataset"])
        self._files(licences)
        root["license"] = [{"@id": of} for of in dict.fromkeys([LICENCE, *licences.values()])]
        self._figures(about["figures"])
        values = self._parameters(workflow)
        runs = [self._run(stage, values) for stage in self.stages]
        whole = self._whole_run(report, workflow, values)
        self._steps(workflow, engine, runs, whole)
        root["mentions"] = [whole, *runs]
        profiles = [
            self._add(address, "CreativeWork", name=name, version=address.rpartition("/")[2])
            for address, name in PROFILES.items()
        ]
        root["conformsTo"] = profiles

    def _add(self, at: str, kind: str, /, **properties: Any) -> Entity:
        kept = {name: _one(value) for name, value in properties.items() if value not in (None, [])}
        return self.crate.add(ContextEntity(self.crate, at, properties={"@type": kind, **kept}))

    def _engine(self) -> Entity:
        version = re.search(r"^dvc==(\S+)", self._text(ENVIRONMENT), re.MULTILINE)
        return self._add(
            "https://dvc.org",
            "SoftwareApplication",
            name="DVC",
            url="https://dvc.org",
            softwareVersion=version and version[1],
        )

    def _workflow(self) -> Entity:
        language = self.crate.add(
            ComputerLanguage(
                self.crate,
                "#dvc-yaml",
                properties={"name": "DVC pipeline", "url": "https://dvc.org/doc/user-guide"},
            )
        )
        workflow = self.crate.add_workflow(
            self.folder / WORKFLOW,
            WORKFLOW,
            main=True,
            lang=language,
            cls=ComputationalWorkflow,
            properties={
                "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
                "version": self.commit,
                "softwareRequirements": {"@id": ENVIRONMENT},
                "license": {"@id": LICENCE},
                **self._about_file(WORKFLOW),
            },
        )
        self.crate.metadata["conformsTo"] = [
            {"@id": "https://w3id.org/ro/crate/1.1"},
            {"@id": "https://w3id.org/workflowhub/workflow-ro-crate/1.0"},
        ]
        return workflow

    def _licences(self, dataset: str) -> dict[str, str]:
        """The ids of licences by path, for outs that contain or show a dataset.

        dataset: the dataset of the report.
        """
        found = dict[str, str]()
        for stage in self.stages:
            if stage.kind == "download":
                self._data(stage.item, stage.params[f"datasets.{stage.item}"])
            of = {
                "download": stage.item,
                "preprocess": stage.item,
                "evaluate": stage.params.get(f"models.{stage.item}", {}).get("dataset"),
                "report": dataset,
            }.get(stage.kind)
            shows = ("data/", "figures/", "reports/")
            found |= {out: f"#licence-{of}" for out in stage.outs if of and out.startswith(shows)}
        return found

    def _data(self, name: str, about: dict[str, Any]) -> None:
        """Add a dataset as it was published, and its licence."""
        common = CREATIVE_COMMONS.search(about["licence"])
        licence = self._add(
            f"#licence-{name}",
            "CreativeWork",
            name=about["licence"].partition(":")[0],
            description=about["licence"],
            url=common and f"https://creativecommons.org/licenses/{common[1].lower()}/{common[2]}/",
        )
        raw = self._entity(paths.raw(name))
        raw["name"], raw["license"] = about["title"], licence
        raw["description"] = f"The original files; sources: {', '.join(about['sources'])}"

    def _files(self, licences: dict[str, str]) -> None:
        """Add every file except the workflow."""
        tools = dict.fromkeys(map(_module, self.stages))
        for path in sorted(file for file in self.folder.rglob("*") if file.is_file()):
            name = path.relative_to(self.folder).as_posix()
            kind: str | list[str] = "File"
            more: dict[str, Any] = {}
            out = next((out for out in licences if name == out or name.startswith(f"{out}/")), None)
            if name == WORKFLOW:
                continue
            if name == LICENCE:
                kind = ["File", "CreativeWork"]
                more = {"description": path.read_text()}
            elif name == "README.md":
                more = {"about": self.crate.root_dataset}
            elif name in tools:
                kind = ["File", "SoftwareSourceCode"]
                more = {"version": self.commit, "license": {"@id": LICENCE}}
            elif name.startswith(("src/", "conf/")):
                more = {"license": {"@id": LICENCE}}
            elif out:
                more = {"license": {"@id": licences[out]}}
            properties = {"@type": kind, **self._about_file(name), **more}
            self.crate.add_file(path, name, properties=properties)
        for tool in tools:
            deps = {dep for stage in self.stages if _module(stage) == tool for dep in stage.deps}
            code = sorted(dep for dep in deps if dep.startswith("src/") and dep != tool)
            self.crate.get(tool)["hasPart"] = self._entities(code)

    def _about_file(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        return {
            "name": name,
            "contentSize": str(path.stat().st_size),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "encodingFormat": FORMATS.get(path.suffix, "application/octet-stream"),
        }

    def _figures(self, numbered: dict[str, str]) -> None:
        """Add to each figure its caption, and its number in the published report."""
        number_of = {f"{paths.FIGURES}/{file}": number for number, file in numbered.items()}
        for path in sorted((self.folder / paths.FIGURES).rglob("*.png")):
            name = path.relative_to(self.folder).as_posix()
            with Image.open(path) as image:
                self.crate.get(name)["description"] = image.info["Caption"]
            if name in number_of:
                self.crate.get(name)["alternateName"] = f"Figure {number_of[name]}"

    def _parameters(self, workflow: Entity) -> dict[str, Entity]:
        """Add each parameter, formally and with its value; returns the values by name."""
        stated = {name: value for stage in self.stages for name, value in _values(stage).items()}
        values, inputs = {}, []
        for name, value in sorted(stated.items()):
            formal = self._add(
                f"#parameter-{name}",
                "FormalParameter",
                name=name,
                additionalType=KINDS.get(type(value), "Text"),
                workExample={"@id": f"#value-{name}"},
            )
            values[name] = self._add(
                f"#value-{name}",
                "PropertyValue",
                name=name,
                value=value if isinstance(value, str | int | float) else json.dumps(value),
                exampleOfWork=formal,
            )
            inputs.append(formal)
        workflow["input"] = inputs
        return values

    def _run(self, stage: LockedStage, values: dict[str, Entity]) -> Entity:
        read = [path for path in stage.deps if not path.startswith("src/")]
        given = [values[name] for name in sorted(_values(stage))]
        return self._add(
            f"#run-{stage.address}",
            "CreateAction",
            name=stage.address,
            description=f"{stage.cmd}{self._environment(stage)}",
            identifier=f"lineage key {stage.key}",
            instrument=self.crate.get(_module(stage)),
            object=[*self._entities(read), *given],
            result=self._entities(stage.outs),
            actionStatus="http://schema.org/CompletedActionStatus",
        )

    def _environment(self, stage: LockedStage) -> str:
        """The machine and libraries that trained a model, if its metrics state them."""
        for path in stage.outs:
            if not path.endswith(("/validation.json", numbers.beside("/validation.json"))):
                continue
            if about := json.loads(self._text(path)).get("environment"):
                return f"; trained with {json.dumps(about, sort_keys=True)}"
        return ""

    def _whole_run(self, report: str, workflow: Entity, values: dict[str, Entity]) -> Entity:
        (page,) = self._entities([f"{paths.page(report)}/index.html"])
        output = self._add(
            "#output-report",
            "FormalParameter",
            name="report",
            additionalType="File",
            workExample=page,
        )
        page["exampleOfWork"] = output
        workflow["output"] = output
        sources = self._entities(
            path for stage in self.stages if stage.kind == "download" for path in stage.outs
        )
        return self._add(
            "#run",
            "CreateAction",
            name=f"dvc repro report@{report}",
            description=f"All {len(self.stages)} stages of the report, as in {locks.LOCK}",
            instrument=workflow,
            object=[*sources, *values.values()],
            result=self._entities(
                path for stage in self.stages for path in stage.outs if stage.kind != "download"
            ),
            actionStatus="http://schema.org/CompletedActionStatus",
        )

    def _steps(self, workflow: Entity, engine: Entity, runs: list[Entity], whole: Entity) -> None:
        steps, controls = [], []
        for position, (stage, run) in enumerate(zip(self.stages, runs, strict=True), 1):
            step = self._add(
                f"#step-{stage.address}",
                "HowToStep",
                name=stage.address,
                position=str(position),
                workExample=self.crate.get(_module(stage)),
            )
            steps.append(step)
            controls.append(
                self._add(
                    f"#control-{stage.address}",
                    "ControlAction",
                    name=f"ran {stage.address}",
                    instrument=step,
                    object=run,
                )
            )
        workflow["step"] = steps
        tools = dict.fromkeys(_module(stage) for stage in self.stages)
        workflow["hasPart"] = [self.crate.get(tool) for tool in tools]
        self._add(
            "#dvc-run",
            "OrganizeAction",
            name="DVC ran the stages",
            instrument=engine,
            object=controls,
            result=whole,
        )

    def _entities(self, paths: Iterable[str]) -> list[Entity]:
        """The entities of files and folders; a missing file is described by its md5."""
        return [self._entity(path) for path in paths]

    def _entity(self, path: str) -> Entity:
        if path in self.missing:
            identifier = f"#missing-{path}"
            return self.crate.get(identifier) or self._add(
                identifier,
                "CreativeWork",
                name=path,
                description="Not in this crate, because DVC's cache did not have it. The md5 of a "
                "folder is the md5 of its listing, with the ending .dir.",
                md5=self.missing[path],
            )
        if not (self.folder / path).is_dir():
            return self.crate.get(path)
        parts = sorted(file for file in (self.folder / path).rglob("*") if file.is_file())
        return self.crate.get(f"{path}/") or self.crate.add_dataset(
            None,
            path,
            properties={
                "name": path,
                "hasPart": _one([{"@id": p.relative_to(self.folder).as_posix()} for p in parts]),
            },
        )

    def _text(self, name: str) -> str:
        return (self.folder / name).read_text()


def _one(value: Any) -> Any:
    """A value, or the only item of a list, as RO-Crate 1.1 requires."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


KINDS = {bool: "Boolean", int: "Integer", float: "Float", str: "Text"}


def _module(stage: LockedStage) -> str:
    """The module that a stage runs."""
    return f"src/kmnist_pipeline/stages/{stage.kind.replace('-', '_')}.py"


def _values(stage: LockedStage) -> dict[str, Any]:
    """The values of a stage's parameters by dotted name; a list is one value."""
    return dict(lineage.leaves("", stage.params, lists=None))
