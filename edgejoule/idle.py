"""A run's idle baselines: what the machine did meanwhile, what speaks against them, their drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgejoule.energy.baseline import baseline_from_json, compare
from edgejoule.energy.conditions import Conditions, conditions_of

_TOTAL = "total"
_LARGE_SHARE = 0.01


@dataclass(frozen=True)
class Meanwhile:
    """What a run's resources say of any window of time.

    Attributes:
        rows: (t_ns, figures by column) of each look, in order.
        cpus: CPUs of the machine.
        clocks_locked: Whether its clocks are locked, None if that is not known.
        shared: Whether somebody else used the GPU.
    """

    rows: Sequence[tuple[int, Mapping[str, float]]]
    cpus: int | None = None
    clocks_locked: bool | None = None
    shared: bool | None = None

    def during(self, start_ns: int, end_ns: int) -> Conditions | None:
        """Return what the machine did in a window, None if nobody looked."""
        inside = [row for t_ns, row in self.rows if start_ns <= t_ns <= end_ns]
        if not inside:
            return None
        return conditions_of(
            inside, cpus=self.cpus, clocks_locked=self.clocks_locked, shared=self.shared
        )


def read_meanwhile(
    resources: Path, machine: Mapping[str, Any], shared: bool | None
) -> Meanwhile | None:
    """Read `resources.parquet`, None if there is none."""
    import pyarrow.parquet as pq

    if not resources.is_file():
        return None
    rows = []
    for row in pq.read_table(resources).to_pylist():
        t_ns = row.pop("t_ns")
        rows.append((t_ns, {name: value for name, value in row.items() if value is not None}))
    cpu, gpu = machine.get("cpu") or {}, machine.get("gpu") or {}
    locks = [part.get("locked") for part in (cpu, gpu) if part.get("locked") is not None]
    return Meanwhile(rows, cpu.get("count"), all(locks) if locks else None, shared)


def drift_of(baselines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return per kind of baseline and rail how idle power changed over the run."""
    found: dict[str, dict[str, Any]] = {}
    for before in baselines:
        if before["when"] != "before":
            continue
        for after in baselines:
            if after["when"] == "after" and after["kind"] == before["kind"]:
                found[before["kind"]] = {
                    rail: compare(
                        baseline_from_json(entry), baseline_from_json(after["rails"][rail]), rail
                    ).to_json()
                    for rail, entry in before["rails"].items()
                    if rail in after["rails"]
                }
    return found


def idle_notes(
    baselines: Sequence[Mapping[str, Any]], drift: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return what users should know of the baselines: not idle, drifting, changed by the run."""
    notes = []
    seen: dict[str, list[tuple[str, Mapping[str, str]]]] = {}
    for entry in baselines:
        for verdict in entry.get("verdicts", ()):
            where = f"{entry['kind']} {entry['when']}"
            seen.setdefault(verdict["kind"], []).append((where, verdict))
    for kind, found in seen.items():
        # What keeps a machine from idling does so in every baseline: one line says it.
        word, (first, verdict) = kind.replace("_", " "), found[0]
        others = [where for where, _ in found[1:]]
        as_well = f"; so {'are' if len(others) > 1 else 'is'} {', '.join(others)}" if others else ""
        notes.append(f"baseline {first} is {word}: {verdict['why']}{as_well}; {verdict['mend']}")
    for kind, rails in drift.items():
        judged = {_TOTAL: rails[_TOTAL]} if _TOTAL in rails else rails
        notes += [
            f"between the {kind} baselines before and after: {change['sentence']}"
            for rail, change in judged.items()
            if change["significant"] and _large(rail, change, baselines)
        ]
    return notes


def _large(rail: str, change: Mapping[str, Any], baselines: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a change is above 1 % of the idle power that it is a change of."""
    found = [entry["rails"][rail]["mean_mw"] for entry in baselines if rail in entry["rails"]]
    known = [abs(mean) for mean in found if mean]
    return bool(known) and abs(change["change_mw"]) > _LARGE_SHARE * min(known)
