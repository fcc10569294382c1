"""The benchmark of comparisons, on runs whose truth is known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support_compare import write_repeats

ROOT = Path(__file__).resolve().parent.parent


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "compare.py"), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_it_tells_kept_runs_apart(tmp_path: Path) -> None:
    write_repeats(tmp_path / "kept", range(8))
    for repeat in range(1, 9):
        (tmp_path / "kept" / f"net-r{repeat}").rename(tmp_path / "kept" / f"lenet--x-r{repeat}")
    done = run("--from", str(tmp_path / "kept"), "--quick", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for one in found["results"]:
        assert one["false"]["compare"] <= 0.05
        assert one["found"]["compare"]["1.10 any"] >= 0.9
        # Processes differ by 5 % together, which means alone take for a change of every layer.
        assert one["false"]["means"] > 0.5
        assert one["scatter"]["own_median"] < 0.02


def test_too_few_runs_are_refused(tmp_path: Path) -> None:
    done = run("--from", str(tmp_path), "--quick")
    assert done.returncode == 1
    assert "0 repeats of lenet" in done.stderr
