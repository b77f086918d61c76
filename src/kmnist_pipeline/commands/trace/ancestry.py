"""The stages behind a file: from the stage that made it back to the published data."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kmnist_pipeline.commands import receipts
from kmnist_pipeline.commands.receipts import Receipt
from kmnist_pipeline.commands.trace import identify
from kmnist_pipeline.commands.trace.history import History, LockVersion
from kmnist_pipeline.commands.trace.identify import Identified, Original
from kmnist_pipeline.commands.trace.runs import StageRuns, runs_of
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import lineage
from kmnist_pipeline.repository import git, locks
from kmnist_pipeline.repository.revision import below

Located = tuple[LockVersion, locks.LockedStage]  # a stage, and a version of the lock that has it


@dataclass(frozen=True)
class Dependency:
    """A file or folder that a stage read and that other stages made.

    makers: the lineage keys of these stages; exact: whether they made exactly these bytes. If not,
    no version of the lock says which stage did, and `makers` are the stages that write to the path.
    """

    path: str
    md5: str
    makers: list[str]
    exact: bool


@dataclass(frozen=True)
class Step:
    """A stage behind a file.

    inputs: the outs of other stages that it read; code: the files of this repository that it
    read, md5 by path; originals: the published data that it downloaded; files: the paths of all
    files that it made, if this repository can list them.
    """

    stage: locks.LockedStage
    inputs: list[Dependency]
    code: dict[str, str]
    originals: list[Original]
    files: list[str]

    @property
    def makers(self) -> list[str]:
        """The lineage keys of the stages whose outs it read, each once."""
        return list(dict.fromkeys(key for source in self.inputs for key in source.makers))


@dataclass(frozen=True)
class Trace:
    """Files and the stages behind them.

    steps: by lineage key, each before the stages whose outs it read; runs: their MLflow runs;
    receipts: of verifications in this folder.
    """

    files: list[Identified]
    steps: dict[str, Step]
    runs: StageRuns
    receipts: list[Receipt] = field(default_factory=list)

    def behind(self, key: str) -> list[Step]:
        """A stage and all stages that it depends on, each once, the nearest first."""
        found = [key]
        for one in found:  # which grows meanwhile
            found += [maker for maker in self.steps[one].makers if maker not in found]
        return [self.steps[one] for one in found]

    def verifications(self, key: str) -> list[Receipt]:
        """The receipts of verifications that have run a stage again."""
        stage = self.steps[key].stage
        return [receipt for receipt in self.receipts if receipt.covers(stage)]

    def is_whole(self, file: Identified) -> bool:
        """Whether the stages behind a file lead back to published data without a gap or remark."""
        if not file.matches or file.remark:
            return False
        steps = self.behind(file.matches[0].stage.key)
        gaps = any(not source.exact for step in steps for source in step.inputs)
        return not gaps and any(step.originals for step in steps)

    @property
    def exit_status(self) -> int:
        """0 if every file and everything behind it is known exactly, else 1.

        3 if a file is altered and none is unknown.
        """
        found = {file.status for file in self.files}
        if "altered" in found and "unknown" not in found:
            return 3
        return 0 if all(self.is_whole(file) for file in self.files) else 1


def trace(paths: Sequence[Path], unfold: bool = False) -> Trace:
    """Find the stages behind files, given by absolute paths; a folder means all its files.

    Without paths, trace all stages of this folder's lock. unfold: whether to list the files in
    folders that stages made. Raises UserError for a path that does not exist.
    """
    if paths:
        named = [file for path in paths for file in _files(path)]
        hash_name = git.hash_name()
        blobs = [identify.blob_of(file, hash_name) for file in named]
        history = History(blobs)
        files = [identify.identify(*each, history) for each in zip(named, blobs, strict=True)]
        matches = [file.matches[0] for file in files if file.matches]
        roots = [(match.versions[0], match.stage) for match in matches]
    else:
        history, files = History(), []
        roots = [(lock, stage) for lock in history.here for stage in lock.graph.stages.values()]
        if not roots:
            raise UserError(
                f"{locks.LOCK} is missing or empty: {git.restoring(locks.LOCK, 'dvc repro')}"
            )
    steps = _steps(roots, history, unfold)
    return Trace(files, steps, runs_of(steps), receipts.here())


def _files(path: Path) -> list[Path]:
    """The file, or all files in the folder that are not hidden."""
    if not path.is_dir() and not path.is_file():
        raise UserError(f"{identify.shown(path)}: there is no such file")
    named = below(path, "")
    inside = [file for name, file in named.items() if "/." not in name]
    if not inside:
        raise UserError(f"{identify.shown(path)}: there is no file in this folder")
    return inside


def _steps(roots: list[Located], history: History, unfold: bool) -> dict[str, Step]:
    """The stages and all stages that they depend on, by lineage key."""
    steps: dict[str, Step] = {}
    queue = list(roots)
    while queue:
        version, stage = queue.pop(0)
        if stage.key in steps:
            continue
        inputs, code = [], {}
        for path, md5 in stage.deps.items():
            writers = version.graph.makers(path)
            if not writers:
                code[path] = md5
                continue
            found = _makers(history, version, path, md5)
            makers = found or [(version, writer) for writer in writers]
            keys = list(dict.fromkeys(maker.key for _, maker in makers))
            inputs.append(Dependency(path, md5, keys, bool(found)))
            queue += makers
        files = history.files(version, stage) if unfold else list(stage.outs)
        steps[stage.key] = Step(stage, inputs, code, list(identify.originals(stage)), files)
    return steps


def _makers(history: History, version: LockVersion, path: str, md5: str) -> list[Located]:
    """The stages that made exactly this content of a path, in the reader's version of the lock.

    Otherwise in another version: a commit may have a stage that has not run on its new inputs.
    """
    for other in sorted(history.versions, key=lambda candidate: candidate is not version):
        if md5 not in other.text:
            continue
        makers = other.graph.makers(path)
        if [maker.outs.get(path) for maker in makers] == [md5]:
            return [(other, makers[0])]
        if md5.endswith(".dir") and not any(path in maker.outs for maker in makers):
            outs = {out: digest for maker in makers for out, digest in maker.outs.items()}
            for listing in history.listings(other, path):
                if lineage.digest_of_listing(listing) == md5 and _consists(listing, path, outs):
                    return [(other, maker) for maker in makers]
    return []


def _consists(listing: dict[str, str], folder: str, outs: dict[str, str]) -> bool:
    """Whether every file of a folder is in these outs."""
    left = {f"{folder}/{name}": md5 for name, md5 in listing.items()}
    for out, md5 in outs.items():
        inside = {path: digest for path, digest in left.items() if path.startswith(f"{out}/")}
        names = {path.removeprefix(f"{out}/"): digest for path, digest in inside.items()}
        if left.get(out) == md5:
            del left[out]
        elif lineage.digest_of_listing(names) == md5:
            left = {path: digest for path, digest in left.items() if path not in inside}
    return not left
