"""The lane `jetson` run on the test doubles: that its code works, not what a board would say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support_cudart import FakeCuda

ROOT = Path(__file__).resolve().parent.parent
DOUBLES = ROOT / "tests" / "doubles"


def run_lane(
    folder: Path, what: str, *more: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a part of the lane with the folder as the current one."""
    command = [sys.executable, "-m", "pytest", "-m", "jetson", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), *more,
         str(ROOT / "tests" / "jetson" / what)],
        cwd=folder,
        env={**os.environ, **environment, "EDGEJOULE_FORBID_SKIPS": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize("version", ["8.6.1", "11.1.0"])
def test_the_tensorrt_part_on_the_doubles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    pytest.importorskip("onnx")
    fake = FakeCuda(tmp_path, monkeypatch, {"0.total": str(2**31)})
    done = run_lane(
        tmp_path,
        "test_tensorrt.py",
        **fake.environment,
        PYTHONPATH=str(DOUBLES),
        EDGEJOULE_TENSORRT_DOUBLE=version,
    )
    page = (tmp_path / "jetson-facts.md").read_text(encoding="utf-8")
    assert page in done.stdout
    assert f"- version: {version}" in page
    failed = set(re.findall(r"^- failed tensorrt: (\w+)", page, re.MULTILINE))
    # The double computes nothing, and sets some attributes where TensorRT has properties: what
    # compares outputs with the network's, or names with the table, must fail on it.
    assert failed <= {"outputs", "precision", "names"}, page
    assert "outputs" in failed
    for line in ("callbacks", "emission", "times", "CUDA graph", "profiler set to None"):
        assert re.search(rf"^- {line}: \S", page, re.MULTILINE), page


def test_without_tensorrt_the_page_says_so(tmp_path: Path) -> None:
    done = run_lane(tmp_path, "test_tensorrt.py", PYTHONPATH="")
    page = (tmp_path / "jetson-facts.md").read_text(encoding="utf-8")
    assert done.returncode == 0, done.stdout
    assert "- version: TensorRT's Python module is not installed" in page
    assert "skipped" in page
    assert "failed" not in page


def test_a_crash_leaves_the_page(tmp_path: Path) -> None:
    """What was found before is there, and the test that did not come back is named."""
    plugin = tmp_path / "crashing.py"
    plugin.write_text(
        "import os\n"
        "def pytest_runtest_call(item):\n"
        "    if 'cuda' in item.name:\n"
        "        os.kill(os.getpid(), 9)\n"
    )
    done = run_lane(tmp_path, "test_machine.py", "-p", "crashing", PYTHONPATH=str(tmp_path))
    page = (tmp_path / "jetson-facts.md").read_text(encoding="utf-8")
    assert done.returncode == -9
    assert "- board: " in page
    assert "- unfinished machine: cuda" in page
