"""`kmnist export`: a crate that the validator of its profiles accepts, as the lock says."""

import contextlib
import hashlib
import json
import re
import shutil
import stat
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from requests.structures import CaseInsensitiveDict
from requests_cache import CachedRequest, CachedResponse, CachedSession
from rocrate_validator import services
from rocrate_validator.models import Severity, ValidationSettings
from support import wording
from support.project import STORE, Project, files_under

from kmnist_pipeline import cli
from kmnist_pipeline.commands import export
from kmnist_pipeline.commands.export import Exported
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.repository import locks

CONTEXT = "https://w3id.org/ro/crate/1.1/context"
BIOSCHEMAS = "https://bioschemas.org"
PROFILE = "provenance-run-crate"  # extends workflow-run-crate and process-run-crate
FIGURE = "figures/digits/digits_softmax/curves.png"


@pytest.fixture(scope="module")
def committed(digits_run: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after `make demo`, all of it committed. Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("committed") / "project"
    exportable = digits_run.copy(folder, without=(".kmnist", *STORE))
    exportable.commit()
    return exportable


@pytest.fixture
def exportable(committed: Project, tmp_path: Path) -> Project:
    """A copy of it for a test to change."""
    made = shutil.ignore_patterns("crates")
    shutil.copytree(committed.folder, tmp_path / "project", symlinks=True, ignore=made)
    return Project(tmp_path / "project")


def exported(exportable: Project, report: str = "digits", to: str = "crates/digits") -> Exported:
    with contextlib.chdir(exportable.folder):
        return export.export(report, Path(to))


@pytest.fixture(scope="module")
def crate(committed: Project) -> Path:
    exported(committed)
    return committed.folder / "crates/digits"


@pytest.fixture(scope="module")
def entities(crate: Path) -> dict[str, dict[str, Any]]:
    return {entity["@id"]: entity for entity in metadata(crate)["@graph"]}


def metadata(crate: Path) -> dict[str, Any]:
    return json.loads((crate / export.METADATA).read_text())


def ids(value: Any) -> Iterator[str]:
    for entry in value if isinstance(value, list) else [value]:
        yield entry["@id"]


# --- the validator, without a network ------------------------------------------------------------


@pytest.fixture(scope="module")
def context() -> dict[str, str]:
    """The terms of RO-Crate 1.1: those that rocrate carries, but for four that were renamed."""
    carried = resources.files("rocrate").joinpath("data/ro-crate.jsonld").read_text()
    return json.loads(carried)["@context"] | {
        "ComputationalWorkflow": f"{BIOSCHEMAS}/ComputationalWorkflow",
        "FormalParameter": f"{BIOSCHEMAS}/FormalParameter",
        "input": f"{BIOSCHEMAS}/ComputationalWorkflow#input",
        "output": f"{BIOSCHEMAS}/ComputationalWorkflow#output",
    }


@pytest.fixture(scope="module")
def web(context: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for the validator with the one address that a crate's metadata is read by."""
    path = tmp_path_factory.mktemp("web") / "cache"
    request = CachedRequest(method="GET", url=CONTEXT)
    headers = CaseInsensitiveDict({"Content-Type": "application/ld+json"})
    response = CachedResponse(status_code=200, url=CONTEXT, request=request, headers=headers)
    response._content = json.dumps({"@context": context}).encode()
    with CachedSession(str(path), backend="sqlite") as session:
        session.cache.save_response(response)
    return path


def faults(crate: Path, web: Path) -> list[str]:
    """What the validator finds wrong of all that the profiles require."""
    settings = ValidationSettings(
        rocrate_uri=str(crate),
        profile_identifier=PROFILE,
        requirement_severity=Severity.REQUIRED,
        offline=True,
        cache_path=web,
    )
    return [str(issue.message) for issue in services.validate(settings).get_issues()]


@pytest.mark.system
def test_a_crate_is_what_its_profiles_require(crate, web):
    assert faults(crate, web) == []


@pytest.mark.system
def test_the_validator_finds_a_crate_that_is_not(crate, web, tmp_path):
    broken = tmp_path / "crate"
    shutil.copytree(crate, broken)
    (broken / FIGURE).unlink()
    content = metadata(broken)
    for entity in content["@graph"]:
        if entity["@id"] == "#run":
            del entity["instrument"]
        if entity["@id"] == "#control-tune@digits_softmax_grid":
            del entity["object"]
    (broken / export.METADATA).write_text(json.dumps(content))
    found = "\n".join(faults(broken, web))
    assert f"does not include the Data Entity '{FIGURE}'" in found
    assert "MUST reference the root data entity's mainEntity as its instrument" in found
    assert "ControlAction must reference the action" in found


def test_every_term_is_defined(crate, context):
    content = metadata(crate)
    address, own = content["@context"]
    assert address == CONTEXT
    known = {*context, *own, "@id", "@type"}
    for entity in content["@graph"]:
        types = entity["@type"] if isinstance(entity["@type"], list) else [entity["@type"]]
        assert {*entity, *types} <= known


def test_the_crate_says_which_profiles_it_is_of(entities):
    named = set(ids(entities["./"]["conformsTo"]))
    assert named == set(export.PROFILES)
    assert named <= entities.keys()


# --- what is in it -------------------------------------------------------------------------------


def test_every_figure_of_the_report_with_its_hash_and_licence(committed, crate, entities):
    page = (committed.folder / "reports/digits/README.md").read_text()
    figures = {name.removeprefix("../../") for name in re.findall(r"\]\((\S+\.png)\)", page)}
    folders = (committed.folder / "figures" / folder for folder in ("digits", "data/digits"))
    assert figures == {
        path.relative_to(committed.folder).as_posix()
        for folder in folders
        for path in folder.rglob("*.png")
    }
    for figure in figures:
        content = (committed.folder / figure).read_bytes()
        assert (crate / figure).read_bytes() == content
        entity = entities[figure]
        assert entity["sha256"] == hashlib.sha256(content).hexdigest()
        assert entity["license"] == {"@id": "#licence-digits"}
        assert entity["description"]
    licence = entities["#licence-digits"]
    assert licence["url"] == "https://creativecommons.org/licenses/by/4.0/"
    assert licence["description"].startswith("CC BY 4.0: E. Alpaydin")


def test_every_file_has_an_entity_with_its_hash(crate, entities):
    files = files_under(crate)
    files.pop(export.METADATA)
    for name, content in files.items():
        assert entities[name]["sha256"] == hashlib.sha256(content).hexdigest()
        assert entities[name]["contentSize"] == str(len(content))
    assert {"LICENSE", "dvc.lock", "params.yaml", "requirements.lock"} <= files.keys()
    assert entities["src/kmnist_pipeline/cli/compose.py"]["license"] == {"@id": "LICENSE"}


def test_the_original_files_are_those_of_the_configuration(committed, entities):
    about = yaml.safe_load((committed.folder / "conf/dataset/digits.yaml").read_text())
    (part,) = about["parts"]
    raw = [entities[i] for i in ids(entities["data/raw/digits/"]["hasPart"])]
    assert {file["sha256"] for file in raw} == {part["images"], part["labels"]}


def test_each_stage_is_a_run_of_what_the_lock_says(committed, entities):
    lock = locks.parse((committed.folder / "dvc.lock").read_text())
    stages = [*lock.upstream("report@digits"), lock.stages["weights@digits_cnn"]]
    runs = {e["name"]: e for i, e in entities.items() if i.startswith("#run-")}
    assert runs.keys() == {stage.address for stage in stages}
    for stage in stages:
        run = runs[stage.address]
        assert stage.cmd in run["description"]
        assert run["identifier"] == f"lineage key {stage.key}"
        assert {i.rstrip("/") for i in ids(run["result"])} == stage.outs.keys()
        read = {i.rstrip("/") for i in ids(run["object"]) if not i.startswith("#value-")}
        code = {i.rstrip("/") for i in ids(entities[run["instrument"]["@id"]]["hasPart"])}
        assert {*read, *code, run["instrument"]["@id"]} >= stage.deps.keys()
        assert read == {path for path in stage.deps if not path.startswith("src/")}
    lr = entities["#value-experiments.digits_softmax.optimizer.lr"]
    assert lr["value"] == 0.5
    assert lr["@id"] in ids(runs["kfold-train@digits_softmax"]["object"])
    assert lr["@id"] not in ids(runs["evaluate@digits_softmax"]["object"])
    assert set(ids(entities["./"]["mentions"])) == {"#run", *(r["@id"] for r in runs.values())}


def test_every_entity_that_is_named_is_there(entities):
    def named(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield value["@id"]
        elif isinstance(value, list):
            for entry in value:
                yield from named(entry)

    outside = ("https://w3id.org/ro/crate/", "http://schema.org/")
    for entity in entities.values():
        for key, value in entity.items():
            if not key.startswith("@"):
                assert all(i in entities or i.startswith(outside) for i in named(value)), key


# --- the same commit, the same bytes -------------------------------------------------------------


def test_the_only_date_is_the_commits_and_nothing_names_the_machine(committed, crate, entities):
    date = committed.run("git", "show", "-s", "--format=%cI", "HEAD").stdout.strip()
    head = committed.run("git", "rev-parse", "HEAD").stdout.strip()
    assert (entities["./"]["datePublished"], entities["./"]["version"]) == (date, head)
    text = (crate / export.METADATA).read_text().replace(date, "")
    assert not re.search(r"\d\d:\d\d:\d\d", text)
    assert str(committed.folder) not in text and str(Path.home()) not in text


def test_a_crate_is_replaced_by_the_same_bytes(exportable):
    exported(exportable)
    before = files_under(exportable.folder / "crates/digits")
    (exportable.folder / "crates/digits/left.over").write_text("")
    (exportable.folder / "crates/digits").chmod(0o700)
    exported(exportable)
    assert files_under(exportable.folder / "crates/digits") == before
    assert stat.S_IMODE((exportable.folder / "crates/digits").stat().st_mode) == 0o700
    elsewhere = exported(exportable, to="crates/deep/elsewhere").folder
    assert files_under(exportable.folder / elsewhere) == before
    assert [p.name for p in (exportable.folder / "crates").iterdir()] == ["digits", "deep"]
    assert exportable.changed() == ""


def test_what_is_not_committed_is_not_in_it(exportable, crate, monkeypatch, capsys):
    exportable.replace("README.md", "# KMNIST", "# Another")
    exportable.replace("metrics/digits/digits_softmax/test.json", '"accuracy": 0', '"accuracy": 1')
    monkeypatch.chdir(exportable.folder)
    assert cli.main(["export", "digits"]) == 0
    shown = capsys.readouterr()
    assert shown.err == "note: the crate does not have the uncommitted changes\n"
    assert re.match(r"crates/digits: commit \w{7}, 15 runs, \d+ files, \d\.\d MB\n$", shown.out)
    assert files_under(exportable.folder / "crates/digits") == files_under(crate)


# --- what is missing, and what is wrong ----------------------------------------------------------


@pytest.mark.system
def test_missing_files_are_named_by_their_hash(exportable, web, monkeypatch, capsys):
    for folder in ("models", ".dvc/cache", "data/raw"):
        shutil.rmtree(exportable.folder / folder)
    monkeypatch.chdir(exportable.folder)
    assert cli.main(["export", "digits"]) == 0
    told = capsys.readouterr().err
    lock = locks.parse((exportable.folder / "dvc.lock").read_text())
    md5 = lock.stages["kfold-train@digits_softmax"].outs["models/digits_softmax.safetensors"]
    assert f"so only listed: models/digits_softmax.safetensors ({md5})" in told
    assert "data/raw/digits (" in told and "predictions" not in told
    crate = exportable.folder / "crates/digits"
    found = {entity["@id"]: entity for entity in metadata(crate)["@graph"]}
    assert found["#missing-models/digits_softmax.safetensors"]["md5"] == md5
    assert found["#missing-data/raw/digits"]["license"] == {"@id": "#licence-digits"}
    assert not (crate / "models").exists()
    assert (crate / "predictions/digits_softmax.npz").exists()  # from the workspace
    assert faults(crate, web) == []


@pytest.mark.parametrize("path", ["metrics/digits/digits_softmax/test.json", FIGURE])
def test_evidence_that_was_changed_by_hand_is_not_exported(path, exportable):
    content = bytearray((exportable.folder / path).read_bytes())
    content[len(content) // 2] ^= 1
    (exportable.folder / path).write_bytes(content)
    exportable.commit()
    with pytest.raises(UserError, match=r"is not as dvc.lock says; `kmnist check`"):
        exported(exportable)
    assert not list((exportable.folder / "crates").iterdir())


def test_data_that_is_damaged_in_the_cache_is_not_exported(exportable):
    lock = locks.parse((exportable.folder / "dvc.lock").read_text())
    md5 = lock.stages["preprocess@digits"].outs["data/processed/digits.npz"]
    cached = exportable.folder / f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}"
    cached.unlink()
    cached.write_bytes(b"damaged")
    with pytest.raises(UserError, match=rf"data/processed/digits.npz at HEAD {wording.DAMAGED}"):
        exported(exportable)


def test_no_link_is_replaced_or_followed(exportable, tmp_path):
    (tmp_path / "empty").mkdir()
    (exportable.folder / "crate").symlink_to(tmp_path / "empty")
    with pytest.raises(UserError, match="crate: is a link; name a new folder or a crate"):
        exported(exportable, to="crate")
    assert not any((tmp_path / "empty").iterdir())


def test_no_folder_but_a_crate_is_replaced(exportable):
    with pytest.raises(UserError, match="conf: has other content than a crate"):
        exported(exportable, to="conf")
    with pytest.raises(UserError, match="LICENSE: has other content than a crate"):
        exported(exportable, to="LICENSE")
    assert exportable.changed() == ""


def test_an_unknown_report_is_named(committed, monkeypatch, capsys):
    monkeypatch.chdir(committed.folder)
    assert cli.main(["export", "digit"]) == 1
    assert capsys.readouterr().err == "error: there is no report digit; did you mean digits?\n"


def test_a_report_must_be_named():
    with pytest.raises(SystemExit) as caught:
        cli.main(["export"])
    assert caught.value.code == 2
