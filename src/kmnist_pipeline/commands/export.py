"""A report as a Workflow Run RO-Crate: data, code, parameters, runs and figures in one folder.

The crate has the files of one commit, from Git and from DVC's cache, under their paths in the
project and checked against the hashes of the lock. Its metadata is a Provenance Run Crate 0.5
(https://w3id.org/ro/wfrun/provenance/0.5): `dvc.yaml` is the workflow, each stage is a step with
its run. A commit always gives the same bytes: the only date is the date of the commit, because the
evidence has no dates.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from rocrate.model import ComputationalWorkflow, ComputerLanguage, ContextEntity, Entity
from rocrate.rocrate import ROCrate

from kmnist_pipeline.commands import status
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage, numbers, output, paths
from kmnist_pipeline.repository import git, locks
from kmnist_pipeline.repository.locks import Graph, LockedStage
from kmnist_pipeline.repository.names import unknown
from kmnist_pipeline.repository.revision import Revision, below, check

METADATA = "ro-crate-metadata.json"
WORKFLOW = "dvc.yaml"
LICENCE = "LICENSE"
WEIGHTS = "weights"  # the kind of stage whose outs no report shows, but that belong to its models
ENVIRONMENT = "requirements.lock"
PROJECT = (
    ".dvc/config", LICENCE, "Makefile", "README.md", "conf", locks.LOCK, WORKFLOW, "params.yaml",
    "pyproject.toml", ENVIRONMENT, "src",
)  # fmt: skip
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
    if folder.is_symlink():
        raise UserError(f"{folder}: is a link; name a new folder or a crate")
    if folder.exists() and not is_free:
        raise UserError(f"{folder}: has other content than a crate; name another folder")
    head = status.head()
    commit, locked = str(head.commit), head.lock()
    if f"report@{report}" not in locked.stages:
        known = [stage.item for stage in locked.stages.values() if stage.kind == "report"]
        raise unknown(f"there is no report {report}", report, known)
    above = locked.upstream(f"report@{report}")
    models = {out for stage in above for out in stage.outs if out.startswith("models/")}
    above += [s for s in locked.stages.values() if s.kind == WEIGHTS and models & s.deps.keys()]
    stages = locked.in_order(sorted(above, key=lambda stage: stage.address))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as parent:
        unfinished = Path(parent, "crate")
        missing = _gather(unfinished, head, stages)
        crate = _Crate(unfinished, commit, locked, stages, missing)
        crate.describe(report)
        crate.crate.write(unfinished)
        files = [path for path in unfinished.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        unfinished.chmod(output.permissions(folder, 0o777))
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    return Exported(folder, commit, len(files), size, len(stages), missing)


def _gather(folder: Path, head: Revision, stages: list[LockedStage]) -> dict[str, str]:
    """Write all files, checked against the lock; returns the md5 of files that were not found."""
    head.write(folder, *PROJECT)
    outs = {path: md5 for stage in stages for path, md5 in stage.outs.items()}
    missing = {path: md5 for path, md5 in outs.items() if not head.put(path, md5, folder)}
    given = {path: md5 for stage in stages for path, md5 in stage.deps.items() if path not in outs}
    for path, md5 in given.items():
        if (folder / path).exists():
            check(folder / path, path, md5)
        elif not head.put(path, md5, folder):
            missing[path] = md5
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

        engine, workflow = self._engine(), self._workflow()
        licences = self._licences(about["dataset"])
        self._files(licences)
        root["license"] = [{"@id": of} for of in dict.fromkeys([LICENCE, *licences.values()])]
        self._figures(about["figures"])
        values = self._parameters(workflow)
        runs = [self._run(stage, values) for stage in self.stages]
        whole = self._whole_run(report, workflow, values)
        self._steps(workflow, engine, runs, whole)
        root["mentions"] = [whole, *runs]
        root["conformsTo"] = [
            self._add(address, "CreativeWork", name=name, version=address.rpartition("/")[2])
            for address, name in PROFILES.items()
        ]

    def _add(self, at: str, kind: str, /, **properties: Any) -> Entity:
        kept = {name: _one(value) for name, value in properties.items() if value not in (None, [])}
        return self.crate.add(ContextEntity(self.crate, at, properties={"@type": kind, **kept}))

    def _engine(self) -> Entity:
        found = re.search(r"^dvc==(\S+)", self._text(ENVIRONMENT), re.MULTILINE)
        url, version = "https://dvc.org", found and found[1]
        return self._add(url, "SoftwareApplication", name="DVC", url=url, softwareVersion=version)

    def _workflow(self) -> Entity:
        about = {"name": "DVC pipeline", "url": "https://dvc.org/doc/user-guide"}
        language = ComputerLanguage(self.crate, "#dvc-yaml", properties=about)
        workflow = self.crate.add_workflow(
            self.folder / WORKFLOW,
            WORKFLOW,
            main=True,
            lang=self.crate.add(language),
            cls=ComputationalWorkflow,
            properties={
                "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
                "version": self.commit,
                "softwareRequirements": {"@id": ENVIRONMENT},
                "license": {"@id": LICENCE},
                **self._about_file(WORKFLOW),
            },
        )
        specifications = ("ro/crate/1.1", "workflowhub/workflow-ro-crate/1.0")
        self.crate.metadata["conformsTo"] = [
            {"@id": f"https://w3id.org/{name}"} for name in specifications
        ]
        return workflow

    def _licences(self, dataset: str) -> dict[str, str]:
        """The ids of licences by path, for outs that contain or show a dataset."""
        found = dict[str, str]()
        for stage in self.stages:
            if stage.kind == "download":
                self._data(stage.item, stage.params[f"datasets.{stage.item}"])
            of = {
                "download": stage.item,
                "preprocess": stage.item,
                "evaluate": stage.params.get(f"models.{stage.item}", {}).get("dataset"),
                "conditions": stage.params.get(f"conditions.{stage.item}", {}).get("dataset"),
                "suspects": stage.params.get(f"suspects.{stage.item}", {}).get("dataset"),
                "loop": stage.params.get(f"loops.{stage.item}", {}).get("dataset"),
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
        sources = about.get("sources") or [about["imported"]["file"]]
        raw["description"] = f"The original files; sources: {', '.join(sources)}"

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
                more = {"description": path.read_text("utf-8")}
            elif name == "README.md":
                more = {"about": self.crate.root_dataset}
            elif name in tools:
                kind = ["File", "SoftwareSourceCode"]
                more = {"version": self.commit, "license": {"@id": LICENCE}}
            elif out or name.startswith(("src/", "conf/")):
                more = {"license": {"@id": licences[out] if out else LICENCE}}
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
            with Image.open(path, formats=["PNG"]) as image:
                self.crate.get(name)["description"] = image.info["Caption"]
            if name in number_of:
                self.crate.get(name)["alternateName"] = f"Figure {number_of[name]}"

    def _parameters(self, workflow: Entity) -> dict[str, Entity]:
        """Add each parameter, formally and with its value; returns the values by name."""
        stated = {name: value for stage in self.stages for name, value in _values(stage).items()}
        values, inputs = {}, []
        for name, value in sorted(stated.items()):
            kind = KINDS.get(type(value), "Text")
            shown = value if isinstance(value, str | int | float) else json.dumps(value)
            id, example = f"#parameter-{name}", {"@id": f"#value-{name}"}
            formal = self._add(
                id, "FormalParameter", name=name, additionalType=kind, workExample=example
            )
            values[name] = self._add(
                f"#value-{name}", "PropertyValue", name=name, value=shown, exampleOfWork=formal
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
        """The machine and libraries that trained a model, for a stage that trains."""
        for path in stage.outs:
            if path.endswith(numbers.beside("/validation.json")):
                about = json.loads(self._text(path))["environment"]
                return f"; trained with {json.dumps(about, sort_keys=True)}"
        return ""

    def _whole_run(self, report: str, workflow: Entity, values: dict[str, Entity]) -> Entity:
        (page,) = self._entities([f"{paths.page(report)}/index.html"])
        about = {"name": "report", "additionalType": "File", "workExample": page}
        output = self._add("#output-report", "FormalParameter", **about)
        page["exampleOfWork"] = workflow["output"] = output
        outs = [(path, stage.kind) for stage in self.stages for path in stage.outs]
        cut = [stage.address for stage in self.stages if stage.kind == WEIGHTS]
        return self._add(
            "#run",
            "CreateAction",
            name=" ".join(["dvc repro", f"report@{report}", *cut]),
            description=f"All {len(self.stages)} stages of the report, as in {locks.LOCK}",
            instrument=workflow,
            object=[*self._entities(p for p, kind in outs if kind == "download"), *values.values()],
            result=self._entities(path for path, kind in outs if kind != "download"),
            actionStatus="http://schema.org/CompletedActionStatus",
        )

    def _steps(self, workflow: Entity, engine: Entity, runs: list[Entity], whole: Entity) -> None:
        steps, controls = [], []
        for position, (stage, run) in enumerate(zip(self.stages, runs, strict=True), 1):
            name, place, tool = stage.address, str(position), self.crate.get(_module(stage))
            step = self._add(
                f"#step-{name}", "HowToStep", name=name, position=place, workExample=tool
            )
            about = {"name": f"ran {name}", "instrument": step, "object": run}
            controls.append(self._add(f"#control-{name}", "ControlAction", **about))
            steps.append(step)
        workflow["step"] = steps
        tools = dict.fromkeys(_module(stage) for stage in self.stages)
        workflow["hasPart"] = [self.crate.get(tool) for tool in tools]
        about = {"instrument": engine, "object": controls, "result": whole}
        self._add("#dvc-run", "OrganizeAction", name="DVC ran the stages", **about)

    def _entities(self, paths: Iterable[str]) -> list[Entity]:
        return [self._entity(path) for path in paths]

    def _entity(self, path: str) -> Entity:
        """The entity of a file or folder; a missing one is described by its md5."""
        if path in self.missing:
            id, md5 = f"#missing-{path}", self.missing[path]
            about = (
                "Not in this crate, because DVC's cache did not have it. The md5 of a folder is "
                "the md5 of its listing, with the ending .dir."
            )
            return self.crate.get(id) or self._add(
                id, "CreativeWork", name=path, description=about, md5=md5
            )
        if not (self.folder / path).is_dir():
            return self.crate.get(path)
        parts = _one([{"@id": name} for name in below(self.folder / path, path)])
        return self.crate.get(f"{path}/") or self.crate.add_dataset(
            None, path, properties={"name": path, "hasPart": parts}
        )

    def _text(self, name: str) -> str:
        return (self.folder / name).read_text("utf-8")


def _one(value: Any) -> Any:
    """A value, or the only item of a list, as RO-Crate 1.1 requires."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


KINDS = {bool: "Boolean", int: "Integer", float: "Float", str: "Text"}


def _module(stage: LockedStage) -> str:
    return f"src/kmnist_pipeline/stages/{stage.kind.replace('-', '_')}.py"


def _values(stage: LockedStage) -> dict[str, Any]:
    """The values of a stage's parameters by dotted name; a list is one value."""
    return dict(lineage.leaves("", stage.params, lists=None))
