"""Combine the coverage of all passes, print it with what is left out and why, hold the bound.

    python tests/coverage_report.py [least per cent]

What is left out stands in pyproject.toml twice, as coverage's `omit` and with its reason under
`tool.edgejoule.omitted`; the two must agree. `no cover` marks are counted, so that they cannot
become a second, silent way of leaving things out.
"""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
LEAST_PERCENT = 90
MARK = re.compile(r"#\s*pragma:\s*no (cover|branch)")


def omitted(project: dict[str, Any]) -> dict[str, str]:
    """Return pattern -> reason.

    Raises:
        ValueError: If a pattern has no reason or a reason no pattern.
    """
    coverage, reasons = project["tool"]["coverage"], project["tool"]["edgejoule"]["omitted"]
    patterns = {*coverage["run"].get("omit", []), *coverage["report"].get("omit", [])}
    if patterns != set(reasons):
        raise ValueError(f"omit and its reasons differ in {sorted(patterns ^ set(reasons))}")
    return dict(reasons)


def no_cover_marks(root: Path) -> list[str]:
    """Return `file:line` of each mark in the measured code."""
    files = [*root.glob("*.py"), *(root / "edgejoule").rglob("*.py"), *root.glob("model/*.py")]
    return [
        f"{file.relative_to(root)}:{number}"
        for file in sorted(files)
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if MARK.search(line)
    ]


def drop_torn(root: Path) -> int:
    """Delete the data of processes that were killed while they wrote it; return how many.

    The tests kill processes with SIGKILL in every phase; one torn file makes `combine` give up.
    """
    torn = 0
    for file in root.glob(".coverage.*"):
        try:
            connection = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)
            try:
                whole = connection.execute("pragma integrity_check").fetchall() == [("ok",)]
                whole = whole and bool(connection.execute("select * from meta").fetchall())
            finally:
                connection.close()
        except sqlite3.DatabaseError:
            whole = False
        if not whole:
            file.unlink()
            torn += 1
    return torn


def main() -> int:
    """Print the report; the exit status is coverage's."""
    least = sys.argv[1] if len(sys.argv) > 1 else str(LEAST_PERCENT)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    coverage = [sys.executable, "-m", "coverage"]
    print(f"data of killed processes left aside: {drop_torn(ROOT)}")
    combined = subprocess.run([*coverage, "combine", "--quiet"], cwd=ROOT, check=False)
    if combined.returncode:
        return combined.returncode
    done = subprocess.run([*coverage, "report", f"--fail-under={least}"], cwd=ROOT, check=False)
    for pattern, reason in omitted(project).items():
        print(f"left out: {pattern}: {reason}")
    marks = no_cover_marks(ROOT)
    print(f"no cover marks: {len(marks)}", *marks)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
