"""The installed command `edgejoule` hands its arguments to the scripts' own commands."""

import os
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


def test_an_encoding_without_a_sign_ends_no_command():
    code = (
        "from edgejoule.errors import run_command\n"
        "raise SystemExit(run_command(lambda: print('1 \\u00b1 2 mJ, \\u7f51')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "1 \\xb1 2 mJ, \\u7f51\n"
