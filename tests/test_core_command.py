"""The installed command `edgejoule` hands its arguments to the scripts' own commands."""

import subprocess
import sys
from pathlib import Path

import pytest

from edgejoule import __version__
from edgejoule.cli.main import VERBS, main

ROOT = Path(__file__).resolve().parent.parent


def edgejoule(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "edgejoule", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=cwd,
    )  # fmt: skip


def test_it_says_its_version_and_its_verbs():
    assert edgejoule("--version").stdout == f"edgejoule {__version__}\n"
    text = edgejoule("--help").stdout
    assert all(f"  {verb} " in text for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_the_help_of_its_script(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


def test_the_verbs_status_is_the_commands(tmp_path):
    wrong = edgejoule("data", "verify", tmp_path / "nothing")
    assert wrong.returncode == 2
    assert "nothing" in wrong.stderr
    assert edgejoule("no-such-verb").returncode == 2
    unknown = edgejoule("measure", "--model", "resnet81", "--sensor", "none")
    assert unknown.returncode == 2
    assert "resnet18" in unknown.stderr  # the networks of the checkout that one works in
