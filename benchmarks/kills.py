#!/usr/bin/env python3
"""Kill a process of a run a hundred times over every phase and report what was left each time.

    python benchmarks/kills.py [--kills 108] [--quick] [--json]

Robustness, not speed: each row is one victim in one phase, with how many kills, the longest stretch
of samples lost, and the faults found. Exit status 1 if there is any fault.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support_kill import MOMENTS, Outcome, kill_once  # noqa: E402


def main() -> int:
    """Run the kills and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=4 * len(MOMENTS), help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="five kills, within a minute")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    outcomes: list[Outcome] = []
    for number in range(5 if args.quick else args.kills):
        seed = number * 7 if args.quick else number
        with tempfile.TemporaryDirectory() as folder:
            outcomes.append(kill_once(seed, Path(folder)))
        last = outcomes[-1]
        print(f"{number + 1:4d} {last.victim:10s} {last.phase:20s} {last.faults or 'ok'}",
              file=sys.stderr, flush=True)  # fmt: skip
    killed = [outcome for outcome in outcomes if outcome.killed]
    faults = [fault for outcome in outcomes for fault in outcome.faults]
    lost = [outcome.lost_ms for outcome in killed if outcome.lost_ms is not None]
    figures = {
        "started": len(outcomes),
        "killed": len(killed),
        "faults": faults,
        "longest_loss_ms": max(lost, default=None),
        "finished_before_the_kill": sum(outcome.finished for outcome in outcomes),
    }
    if args.json:
        print(json.dumps(figures))
    else:
        print(f"{'victim':10s} {'phase':20s} kills  lost ms (max)  faults")
        for moment in MOMENTS:
            rows = [outcome for outcome in killed if (outcome.victim, outcome.phase) == moment]
            worst = max((row.lost_ms for row in rows if row.lost_ms is not None), default=None)
            print(f"{moment[0]:10s} {moment[1]:20s} {len(rows):5d}  "
                  f"{'-' if worst is None else round(worst):>13}  "
                  f"{sum(len(row.faults) for row in rows):6d}")  # fmt: skip
        print(figures)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
