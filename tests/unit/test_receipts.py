"""Receipts of verifications: what is in them, of which evidence they are, and who signed them."""

import contextlib
import json
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from support.project import ROOT

from kmnist_pipeline import cli
from kmnist_pipeline.commands import receipts, verify
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.repository.compare import Difference, Verdict
from kmnist_pipeline.repository.locks import Graph, LockedStage

IDENTICAL, EQUAL, DIFFERENT = Verdict
TABLE, FIGURES, MODEL = "metrics/a/validation.json", "figures/a", "models/a.safetensors"
OUTS = {TABLE: "1" * 32, FIGURES: "2" * 32 + ".dir", MODEL: "3" * 32}
STAGE = LockedStage("kfold-train@a", "python", {"code.py": "4" * 32}, {"lr": 0.5}, OUTS)
LOCK = Graph({STAGE.address: STAGE})
NONE = "not verified: `kmnist verify` has left no receipt of the current evidence"
FOUND = [
    Difference(TABLE, EQUAL, ""),
    Difference(f"{FIGURES}/one.png", IDENTICAL, ""),
    Difference(f"{FIGURES}/two.png", DIFFERENT, ""),
]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch) -> Path:
    """An empty folder to leave receipts in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def left(found=FOUND, key: Path | None = None, epochs: int | None = None) -> Path:
    made = receipts.statement("c" * 40, "kfold-train@a", epochs, [(STAGE, found)])
    return receipts.leave(made, key)


def new_key(name: str) -> Path:
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", name]
    subprocess.run(keygen, check=True)
    return Path(name)


# --- what is in them -----------------------------------------------------------------------------


def test_it_is_an_in_toto_statement_of_what_was_compared():
    content = json.loads(left().read_bytes())
    assert content["_type"] == "https://in-toto.io/Statement/v1"
    assert content["subject"] == [
        {"name": FIGURES, "digest": {"dvcDir": "2" * 32}},
        {"name": TABLE, "digest": {"md5": "1" * 32}},
    ]
    predicate = content["predicate"]
    outcome = {"lineage": STAGE.key, "outs": {TABLE: "equal", FIGURES: "different"}}
    assert predicate["stages"] == {STAGE.address: outcome}
    assert (predicate["commit"], predicate["target"]) == ("c" * 40, "kfold-train@a")
    assert set(predicate["libraries"]) == set(receipts.MAKE_BYTES)


def test_it_has_no_noise(empty_folder):
    text = left().read_text()
    assert json.dumps(json.loads(text), sort_keys=True) == json.dumps(json.loads(text))
    assert str(empty_folder) not in text and socket.gethostname() not in text
    assert left().read_text() == text


@pytest.mark.parametrize(
    ("cpus", "kind", "expected"),
    [
        ("", "arm64", "arm64"),
        ("processor\t: 0\nFeatures\t: fp asimd\n", "aarch64", "aarch64"),
        ("vendor_id\t: GenuineIntel\nflags\t: sse4_2\n", "x86_64", "Intel x86-64"),
        ("vendor_id\t: GenuineIntel\nflags\t: {v3}\n", "x86_64", "Intel x86-64-v3"),
        ("vendor_id\t: AuthenticAMD\nflags\t: {v3} avx512f\n", "x86_64", "AMD x86-64-v3"),
        ("vendor_id\t: AuthenticAMD\nflags\t: {v3} {v4}\n", "x86_64", "AMD x86-64-v4"),
    ],
)
def test_the_type_of_a_machine(cpus, kind, expected):
    flags = {"v3": " ".join(receipts.arithmetic.FLAGS), "v4": " ".join(receipts.V4)}
    assert receipts.machine(cpus.format(**flags), kind)[0] == expected


def test_a_newer_one_of_the_same_run_takes_its_place():
    first = left()
    assert left(FOUND[:1]) == first
    assert left(epochs=1) != first
    (one, two) = receipts.here()
    assert {one.ran.command, two.ran.command} == {
        "kmnist verify kfold-train@a",
        "kmnist verify --epochs 1 kfold-train@a",
    }
    assert {one.verdict(), two.verdict()} == {"equal", "different"}


# --- of which evidence they are ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lock", "stands"),
    [
        (LOCK, True),
        (Graph({STAGE.address: replace(STAGE, outs={**OUTS, MODEL: "0" * 32})}), True),  # not run
        (Graph({STAGE.address: replace(STAGE, outs={**OUTS, TABLE: "0" * 32})}), False),
        (Graph({STAGE.address: replace(STAGE, outs={**OUTS, FIGURES: "2" * 32})}), False),
        (Graph({STAGE.address: replace(STAGE, params={"lr": 0.4})}), False),
        (Graph({STAGE.address: replace(STAGE, deps={"code.py": "5" * 32})}), False),
        (Graph({}), False),
    ],
)
def test_it_is_of_the_evidence_that_it_was_compared_with(lock, stands):
    path = left()
    first, *rest = receipts.lines(lock)
    if stands:
        assert first.startswith("verified by `kmnist verify kfold-train@a` on ")
        assert first.endswith(": different (2 outs, not signed)") and rest == []
    else:
        assert first == NONE
        assert rest == [f"receipts of older evidence: {path}"]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"_type": "https://in-toto.io/Statement/v1"}', None]
)
def test_another_file_is_no_receipt(content):
    path = left()
    forged = path.read_text().replace("kfold-train@a", "kfold-train@a\\u001b[2J")
    path.write_text(forged if content is None else content)
    assert f"{path}: is not a receipt of `kmnist verify`" in list(receipts.lines(LOCK))
    assert receipts.here() == []


def test_a_receipt_without_some_of_its_stages_is_no_receipt():
    path = left()
    content = json.loads(path.read_bytes())
    other = {"lineage": STAGE.key, "outs": {TABLE: "equal"}}
    content["predicate"]["stages"] = {STAGE.address: other}
    path.write_text(json.dumps(content))
    assert list(receipts.lines(LOCK)) == [NONE, f"{path}: is not a receipt of `kmnist verify`"]


# --- signatures ----------------------------------------------------------------------------------


def test_who_signed_it_is_said():
    key = new_key("alice")
    left(key=key)
    about = subprocess.run(["ssh-keygen", "-lf", key], capture_output=True, text=True, check=True)
    (receipt,) = receipts.here()
    assert receipt.signature == f"signed by {about.stdout.split()[1]}, unknown"
    public = Path("alice.pub").read_text()
    receipts.SIGNERS.write_text(f"alice@example.org {public}")
    (receipt,) = receipts.here()
    assert receipt.signature == "signed by alice@example.org"
    receipts.SIGNERS.write_text(f'alice@example.org namespaces="git" {public}')
    (receipt,) = receipts.here()
    assert receipt.signature.endswith(", unknown")


@pytest.mark.parametrize("fault", ["an edited receipt", "a signature for another purpose"])
def test_a_signature_of_something_else_makes_it_worthless(fault, monkeypatch):
    if fault.endswith("purpose"):
        with monkeypatch.context() as other:
            other.setattr(receipts, "NAMESPACE", "git")
            path = left(key=new_key("alice"))
    else:
        path = left(key=new_key("alice"))
        path.write_text(path.read_text().replace('"different"', '"identical"'))
    assert list(receipts.lines(LOCK)) == [
        NONE,
        f"{path}: does not count: its signature does not match",
    ]


def test_a_signature_stays_with_the_bytes_that_it_is_of():
    path = left(key=new_key("alice"))
    left()
    (receipt,) = receipts.here()
    assert receipt.signature.startswith("signed by SHA256:")
    left(FOUND[:1])
    (receipt,) = receipts.here()
    assert receipt.signature == "not signed"
    assert [file.name for file in receipts.FOLDER.iterdir()] == [path.name]


def test_a_key_that_cannot_sign_leaves_everything_as_it_was():
    path = left()
    before = path.read_bytes()
    Path("key").write_text("no key")
    with pytest.raises(UserError, match="--sign key: ssh-keygen cannot sign with this key: "):
        left(FOUND[:1], Path("key"))
    assert path.read_bytes() == before


def test_what_needs_a_receipt_is_refused_without_one(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with contextlib.suppress(SystemExit):
        cli.main(["verify", "--quick", "--sign", "key"])
    assert "--quick runs nothing, so it leaves no receipt to sign" in capsys.readouterr().err


def test_where_no_receipt_can_be_written_the_result_stands(monkeypatch, capsys):
    made = receipts.statement("c" * 40, None, None, [(STAGE, FOUND[:1])])
    found = verify.Result("title", [verify.Checked(STAGE.address, FOUND[:1])], receipt=made)
    monkeypatch.setattr(verify, "rerun", lambda target: found)
    receipts.FOLDER.write_text("no folder")
    monkeypatch.setattr(cli, "project", Path.cwd)
    assert cli.main(["verify"]) == 3
    assert "warning: no receipt: " in capsys.readouterr().err


def test_a_key_is_tried_before_the_run(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(["verify", "--sign", "no-key", "no-stage"]) == 1
    assert "no-key: ssh-keygen cannot sign with this key: " in capsys.readouterr().err
