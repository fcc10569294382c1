"""Shared builds: gone with the command, swept after a kill, left alone while in use."""

import subprocess
import sys
from pathlib import Path

import pytest

from edgejoule.dataset.builds import shared_builds, sweep_builds

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="flock")


def test_the_folder_goes_with_its_block(tmp_path):
    with shared_builds(tmp_path / "d") as folder:
        (folder / "build-0").mkdir()
        assert folder.parent == tmp_path / "d" / ".partial"
    assert not folder.exists()


def test_a_killed_commands_builds_are_swept_and_a_living_ones_stay(tmp_path):
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1])\n"
        "from edgejoule.dataset.builds import shared_builds\n"
        "with shared_builds(pathlib.Path(sys.argv[2])) as folder:\n"
        "    (folder / 'engine').write_text('x'); print(folder, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT), str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    folder = Path(process.stdout.readline().strip())
    sweep_builds(tmp_path / ".partial")
    assert (folder / "engine").exists()
    process.kill()
    process.wait()
    assert folder.exists()
    sweep_builds(tmp_path / ".partial")
    assert not folder.exists()
