"""Every shell command in README.md and docs/ runs in a copy of the project, or by another test.

A page is run from top to bottom, in a project whose menu has the digits alone. Blocks of YAML or
Python that begin with the path of a file are put there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import drawn
from support.pages import blocks, commands, place_file
from support.project import ROOT, Project, copied

PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
LANGUAGES = {"sh", "yaml", "python", "text"}

# What is run in place of a command: the digits for data that must be downloaded, a folder of the
# test for one of a team, the options for a program that runs until it is stopped.
INSTEAD = {
    "KMNIST_PIPELINE_MIRROR=$HOME/datasets dvc repro preprocess@kmnist": (
        "KMNIST_PIPELINE_MIRROR=$HOME/datasets dvc repro --force preprocess@digits"
    ),
    "dvc remote add --default team s3://bucket/kmnist": "dvc remote add --default team ../remote",
    "kmnist predict scans/ --sheet sheet.png": (
        "kmnist predict scans/ --sheet sheet.png --dataset digits"
    ),
    "kmnist predict t10k-images-idx3-ubyte.gz --as-is": (
        "kmnist predict data/raw/digits/all-images-idx3-ubyte --as-is --dataset digits"
    ),
    "mkdir -p /shared/fits": "mkdir -p shared/fits",
    "chgrp -R team /shared/fits && chmod -R g+ws /shared/fits": (
        "chgrp -R $(id -g) shared/fits && chmod -R g+ws shared/fits"
    ),
    "make bench": "python -m benchmarks.bench --help",
    "git merge other": (
        "git add --all && git commit --message one && git checkout -b other HEAD~1 && "
        "git show @{-1}:conf/config.yaml | sed 's/1_7/0_6/g; /digits_fast/d' > conf/config.yaml && "
        "git show @{-1}:conf/experiment/digits_logistic_1_7.yaml | sed 's/1, 7/0, 6/' "
        "> conf/experiment/digits_logistic_0_6.yaml && kmnist compose && dvc repro report@digits "
        "&& git add --all && git commit --message other && git checkout - && ! git merge other"
    ),
    "mlflow server --host 127.0.0.1 --artifacts-destination s3://bucket/mlflow "
    "--allowed-hosts mlflow.example.org --cors-allowed-origins https://mlflow.example.org "
    "--app-name basic-auth": (
        "mlflow server --help > options; for option in --host --artifacts-destination "
        "--allowed-hosts --cors-allowed-origins --app-name; do grep -e $option options; done"
    ),
}

# Commands that are not run here, and what runs them.
READINGS = "tests/integration/test_readings_stages.py::test_a_report_gets_readings_and_faults"
REGISTRY = "tests/system/test_registry.py::test_a_served_champion_comes_through_a_server"
REVIEW = "tests/system/test_review_page.py::test_a_person_decides_by_keyboard"
MERGE = "tests/integration/test_kept.py::test_after_a_merge_of_new_images_those_of_both_are_kept"
TLS = "tests/system/test_cluster.py::test_tls"
WORKER = "python -m kmnist_pipeline.fits.worker tls://head.example.org:8786"
ELSEWHERE = {
    "make demo": ".ci/run::make demo",
    "make test": "Makefile::test-all: lint",
    "make ui": "tests/system/test_page.py::test_one_row_tells_all_of_a_model",
    "make server": "tests/system/test_server.py::test_it_keeps_what_it_has_shown_and_ends_cleanly",
    "MLFLOW_TRACKING_URI=http://127.0.0.1:5000 make demo": (
        "tests/system/test_server.py::test_a_stage_logs_there"
    ),
    'pip install "mlflow[auth]"': "nothing: it downloads packages",
    "make serve": REGISTRY,
    "python -c 'import json, numpy as np; from PIL import Image "
    'print(json.dumps({"inputs": [np.asarray(Image.open("scan.png").convert("L")).tolist()]}))\' '
    "| curl -H 'Content-Type: application/json' --data @- http://127.0.0.1:5001/invocations": (
        REGISTRY
    ),
    "kmnist review --dataset digits": REVIEW,
    "kmnist review --dataset digits --new": (
        "tests/system/test_review_page.py::test_new_images_are_reviewed_and_kept_by_dvc"
    ),
    "git checkout --theirs data/reviewed/digits.npz.dvc": MERGE,
    "dvc fetch data/reviewed/digits.npz": MERGE,
    "git add data/reviewed/digits.npz.dvc": MERGE,
    "make cluster": "tests/system/test_cluster.py::test_the_cluster_to_try_gives_the_bytes",
    "dask scheduler --protocol tls --port 8786 --dashboard-address 127.0.0.1:8787": TLS,
    WORKER: TLS,
    "KMNIST_SCHEDULER=tls://head.example.org:8786 kmnist fit": TLS,
    f"for host in node1 node2 node3; do ssh $host 'cd kmnist && .venv/bin/{WORKER}' & done": TLS,
    "dvc repro readings@kmnist_linear": READINGS,
    "dvc repro faults@kmnist_linear": READINGS,
    "kmnist verify report@digits": (
        "tests/system/test_verify.py::test_a_bare_clone_gives_what_was_committed"
    ),
    "kmnist verify --sign ~/.ssh/id_ed25519 report@digits": (
        "tests/system/test_verify.py::test_a_signed_receipt_names_its_signer"
    ),
    "kmnist verify --epochs 1 report@digits": (
        "tests/system/test_verify.py::test_the_first_epoch_gives_the_committed_weights"
    ),
}

# Pages whose blocks another test puts in place and runs, all of them from top to bottom.
WHOLE_ELSEWHERE = {
    "docs/extending.md": (
        "tests/system/test_extension.py::test_a_network_a_metric_and_a_figure_are_one_function_each"
    ),
}


def flat(command: str) -> str:
    """A command as the tables above name it."""
    return " ".join(command.replace("\\\n", " ").split())


def all_commands() -> set[str]:
    found = (
        commands(text) for page in PAGES for language, text in blocks(page) if language == "sh"
    )
    return {flat(command) for block in found for command in block}


def test_every_block_has_a_language_and_no_command_hides_in_another():
    for page in PAGES:
        for language, text in blocks(page):
            assert language in LANGUAGES, f"{page}: {text}"
            if language == "text":
                assert not re.search(
                    r"^(\$|make|kmnist|dvc|git|python|mlflow) ", text, re.MULTILINE
                )


def test_the_tables_name_commands_and_tests_that_are_there():
    assert set(INSTEAD) | set(ELSEWHERE) <= all_commands()
    assert {*WHOLE_ELSEWHERE} <= {*PAGES}
    for place in (*ELSEWHERE.values(), *WHOLE_ELSEWHERE.values()):
        path, _, name = place.partition("::")
        if not place.startswith("nothing: "):
            assert name in (ROOT / path).read_text(), place


@pytest.fixture(scope="module")
def documented(digits_run: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after `make demo`, with several commits, and images of a team."""
    project = copied(digits_run, tmp_path_factory.mktemp("documented") / "project")
    project.commit("another")
    with np.load(project.folder / "data/processed/digits.npz") as arrays:
        pixels = arrays["images"][0].astype(float) * 255 / arrays["images"][0].max()
    drawn.folder(project.folder / "leaves", {"oak": 30, "ash": 30, "elm": 30}, (28, 28, 3))
    (project.folder / "scans").mkdir()
    for place in ("scans/0001.png", "digit.png"):
        Image.fromarray(pixels.astype(np.uint8)).save(project.folder / place)
    return project


@pytest.mark.parametrize("page", [page for page in PAGES if page not in WHOLE_ELSEWHERE])
def test_every_command_of_a_page_runs(page: str, tmp_path: Path, request: Any):
    if not any(language == "sh" for language, _ in blocks(page)):
        return
    project = request.getfixturevalue("documented").copy(tmp_path / "project")
    failed = []
    for language, text in blocks(page):
        if language in ("yaml", "python"):
            place_file(project, text)
        for command in commands(text) if language == "sh" else ():
            if flat(command) in ELSEWHERE:
                continue
            script = INSTEAD.get(flat(command), command)
            done = project.run("bash", "-euo", "pipefail", "-c", script)
            if done.returncode:
                failed.append(
                    f"{script}: {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-2000:]}"
                )
    assert not failed, "\n".join(failed)
