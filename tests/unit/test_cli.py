"""`kmnist` itself: its help, and how little it imports before a command runs."""

import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.project import ROOT

from kmnist_pipeline import cli, ports
from kmnist_pipeline.cli import dvc
from kmnist_pipeline.fits import cluster
from kmnist_pipeline.tracking import server

COMMANDS = [name for names in cli.GROUPS.values() for name in names]


def test_help_groups_the_commands_with_a_line_each(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ") and line.endswith(".")]
    assert listed == COMMANDS
    assert all(f"{group}:" in lines for group in cli.GROUPS)
    assert max(map(len, lines)) <= 100


def test_every_module_of_a_command_is_listed():
    files = Path(cli.__file__).parent.glob("[!_]*.py")
    others = ("common", "dvc")  # `dvc` is a command of its own
    assert sorted(COMMANDS) == sorted(file.stem for file in files if file.stem not in others)


@pytest.mark.parametrize(
    "command",
    [
        ["export", "nothing"],
        ["predict", "--model", "nothing", "README.md"],
        ["promote", "nothing"],
        ["publish", "nothing"],
    ],
)
def test_a_command_with_temporary_files_removes_them_on_sigterm(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        assert cli.main(command) == 1
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_only_the_command_line_imports_the_command_line():
    files = (ROOT / "src/kmnist_pipeline").rglob("*.py")
    imports = re.compile(r"^ *(from|import) kmnist_pipeline(\.cli\b| import (.*, )?cli\b)", re.M)
    found = [file for file in files if imports.search(file.read_text("utf-8"))]
    assert found and {file.parent.name for file in found} == {"cli"}


def test_the_environment_gets_both_commands():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"kmnist": "kmnist_pipeline.cli:main", "dvc": "kmnist_pipeline.cli.dvc:main"}
    assert callable(cli.main) and callable(dvc.main)


def test_a_misspelt_command_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["comose"])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert all(name in message for name in ("'comose'", *COMMANDS))


@pytest.mark.parametrize("text", ["99999", "65536", "-1", "5e3", "", "١", "9" * 5000])
def test_what_is_no_port_is_refused_by_every_server(text, capsys):
    for main, before in (
        (cli.main, ["review"]),
        (server.main, []),
        (cluster.main, []),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*before, f"--port={text}"])
        assert ended.value.code == 2
        assert "must be a whole number from 0 to 65535" in capsys.readouterr().err


def test_a_port_is_a_number():
    assert [ports.number(text) for text in ("0", "5000", "65535")] == [0, 5000, 65535]


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_error_and_gets_no_other_output(closed):
    """The next file that is opened would have the number of the closed stream."""
    code = (
        "import os, sys\n"
        "from kmnist_pipeline.cli import common\n"
        "common.open_streams()\n"
        "assert os.open('pyproject.toml', os.O_RDONLY) > 2\n"
        "print('said'); print('failed', file=sys.stderr); sys.stdin.read()\n"
    )
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("" if " >&-" in f" {closed}" else "said\n")
    assert done.stderr == ("" if "2>&-" in closed else "failed\n")


def test_help_imports_nothing_heavy():
    code = (
        "import sys, contextlib\n"
        "from kmnist_pipeline import cli\n"
        "with contextlib.suppress(SystemExit): cli.main(['check', '--help'])\n"
        "heavy = {'dvc', 'hydra', 'mlflow', 'numpy', 'omegaconf', 'pydantic', 'rich', 'yaml'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
