"""How long `--help` takes, beside a bare typer command with one option, in the same run.

The commands run in turn, round after round, so that whatever else the machine does meets all of
them alike. The figure is the ratio of the medians; the target is at most 1.3.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.write_help import SCRIPTS  # noqa: E402 (the one list of commands)

TARGET_RATIO = 1.3
BARE = """
import typer

def main(name: str = "x") -> None:
    print(name)

if __name__ == "__main__":
    typer.run(main)
"""


def once_ms(command: list[str]) -> float:
    """Return how long one process took, in ms.

    Raises:
        RuntimeError: If it fails.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    begin = time.perf_counter_ns()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    taken = (time.perf_counter_ns() - begin) / 1e6
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stderr.decode()}")
    return taken


def measure(rounds: int) -> list[dict[str, float | str]]:
    """Return median and ratio for each script, the typer command first."""
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE, encoding="utf-8")
        commands = {"a bare typer command": [sys.executable, str(bare), "--help"]}
        for name, target in SCRIPTS.items():
            how = [target] if target.endswith(".py") else ["-m", target]
            commands[name] = [sys.executable, *how, "--help"]
        for command in commands.values():
            once_ms(command)  # byte code and the page cache
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                times[name].append(once_ms(command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    reference = medians["a bare typer command"]
    return [
        {"command": name, "median_ms": round(median, 1), "ratio": round(median / reference, 2)}
        for name, median in medians.items()
    ]


def main() -> int:
    """Print the table; exit 1 if a script misses the target."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--quick", action="store_true", help="5 rounds instead of 31")
    arguments = parser.parse_args()
    rounds = 5 if arguments.quick else 31
    rows = measure(rounds)
    if arguments.json:
        print(json.dumps({"rounds": rounds, "target_ratio": TARGET_RATIO, "rows": rows}))
    else:
        print(f"{'--help of':<30} {'median ms':>10} {'ratio':>6}   ({rounds} rounds, interleaved)")
        for row in rows:
            print(f"{row['command']:<30} {row['median_ms']:>10} {row['ratio']:>6}")
    return int(any(float(row["ratio"]) > TARGET_RATIO for row in rows))


if __name__ == "__main__":
    sys.exit(main())
