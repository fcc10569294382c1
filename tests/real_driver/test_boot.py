"""boot.sh: what it promises to whoever runs a program of the checkout on the emulated machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.real_driver.conftest import HERE, TOOLS

pytestmark = [pytest.mark.real_driver, pytest.mark.timeout(1800)]

ROOT = HERE.parent.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The checkout's tests, where a path has a space."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}; tests/lanes.sh real_driver installs what it needs")
    place = tmp_path / "a checkout, elsewhere"
    shutil.copytree(HERE, place / "tests" / "real_driver")
    return place


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(checkout / "tests" / "real_driver" / "boot.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)


def test_a_program_gets_its_arguments_and_gives_back_all_it_left(checkout: Path) -> None:
    out = checkout / "its files"
    program = "tests/real_driver/guest/arguments.py"
    arguments = ["two words", "a'quote", "$HOME", "--flag"]
    done = run(checkout, "--out", str(out), "orin-nano", program, *arguments)
    assert done.stdout == "given:|two words|a'quote|$HOME|--flag\n"
    assert done.stderr.endswith("on stderr\n")
    assert done.returncode == 7
    assert (out / "left.txt").read_text() == "/tmp/result/out"
    assert "ina3221" in (out / "kernel.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["orin-nano"], "give a board and a program"),
        (["pi", "measure_power.py"], "no board pi"),
        (["orin-nano", "absent.py"], "no file absent.py"),
        (["--driver", "4.9", "orin-nano", "measure_power.py"], "no driver 4.9"),
        (["--colour", "blue", "orin-nano", "measure_power.py"], "no option --colour"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], says: str) -> None:
    done = run(ROOT, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_machine_that_does_not_end_is_ended(checkout: Path) -> None:
    # The limit is shorter than any boot.
    done = run(checkout, "--limit", "0.5", "orin-nano", "tests/real_driver/guest/arguments.py")
    assert done.returncode == 124
    assert "did not end within 0.5 s" in done.stderr
