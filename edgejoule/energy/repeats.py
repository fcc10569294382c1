"""Repeats of one experiment among the runs of a dataset, and what they say together.

Two runs are repeats of one experiment if their configurations agree in all but `repeat` and
`rebuild`, on the same board in the same power mode. What a run says of itself holds within one
process; `hierarchy` says what several say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgejoule.energy.hierarchy import Hierarchy, RunValue, over_runs
from edgejoule.energy.statistics import BLOCKS, t95

if TYPE_CHECKING:
    from edgejoule.energy.rows import EnergyRow

_OF_ONE_EXPERIMENT = ("repeat", "rebuild")


@dataclass(frozen=True)
class Repeats:
    """Runs of one experiment.

    Attributes:
        names: Of the runs, in the order of their repeats.
        config: What they share: the configuration without `repeat` and `rebuild`.
        rail: Whose energy it is; None: no energy was measured.
        gross: mJ per inference of the clean pass, None without energy.
        dynamic: The same above the loaded baseline, None if one of them has none.
        latency_ms: Mean latency of the clean pass; None: there was no clean pass.
    """

    names: tuple[str, ...]
    config: Mapping[str, Any]
    rail: str | None
    gross: Hierarchy | None
    dynamic: Hierarchy | None
    latency_ms: Hierarchy | None


def summarise_repeats(runs: Sequence[Mapping[str, Any]]) -> list[Repeats]:
    """Group runs that are repeats of one experiment and say what each group shows.

    Args:
        runs: Contents of `run.json` of each run; those without a summary (incomplete ones) are
            left out.

    Returns:
        One entry per experiment with a usable run, also with a single one (verdict `unknown`), in
        the order in which experiments first appear.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        if run.get("config") and run.get("status", "complete") == "complete":
            groups.setdefault(_experiment(run), []).append(run)
    return [_summed(group) for group in groups.values()]


@dataclass(frozen=True)
class PartRepeats:
    """What repeats say of one layer, group or gap.

    Attributes:
        method: Of attribution.
        rail: The rail.
        kind: `layer`, `group`, `gap`, `inference` or `closure`.
        layers: Index of the layer or those of the group, () for other kinds.
        gross: mJ per inference of the profiled pass.
        dynamic: The same above the baseline, None if one of the runs has none.
    """

    method: str
    rail: str
    kind: str
    layers: tuple[int, ...]
    gross: Hierarchy
    dynamic: Hierarchy | None


def parts_over_runs(
    rows: Sequence[Sequence[EnergyRow]], builds: Sequence[int]
) -> list[PartRepeats]:
    """Sum up the rows of repeats of one experiment, layer by layer.

    Only parts that every run has a number for: a layer that one run could not tell apart has none,
    and a mean over the others would be of those where it happened to be large; a group counts as
    the same if it holds the same layers. Builds that made
    other layers of the network are no repeats of its layers: then only the kinds without an index
    are summed up.

    Args:
        rows: Of each run, all of its methods and rails.
        builds: Which build each run measured.

    Returns:
        In the order of the first run's rows.
    """
    if not rows:
        return []
    counts = {sum(row.kind == "layer" for row in some) for some in rows}
    keyed = [{_part(row, some): row for row in some} for some in rows]
    found = []
    for key in keyed[0]:
        some = [known.get(key) for known in keyed]
        if len(counts) > 1 and key[3]:
            continue
        gross = _rows_over(some, builds, "gross_mj", "gross_statistical_mj")
        if gross is not None:
            dynamic = _rows_over(some, builds, "dynamic_mj", "dynamic_statistical_mj")
            found.append(PartRepeats(*key, gross, dynamic))
    return found


def _part(row: EnergyRow, rows: Sequence[EnergyRow]) -> tuple[str, str, str, tuple[int, ...]]:
    layers: tuple[int, ...] = () if row.layer is None else (row.layer,)
    if row.kind == "group":
        layers = tuple(
            other.layer
            for other in rows
            if other.kind == "layer"
            and (other.method, other.rail, other.group) == (row.method, row.rail, row.group)
            and other.layer is not None
        )
    return row.method, row.rail, row.kind, layers


def _rows_over(
    rows: Sequence[EnergyRow | None], builds: Sequence[int], value: str, half_width: str
) -> Hierarchy | None:
    found = []
    for row, build in zip(rows, builds, strict=True):
        energy = None if row is None else getattr(row, value)
        if row is None or energy is None:
            return None
        half = getattr(row, half_width)
        # As if of 20 blocks, which no method has fewer of.
        error = None if half is None else half / t95(BLOCKS - 1)
        found.append(RunValue(energy, error, BLOCKS, build))
    return over_runs(found)


def _experiment(run: Mapping[str, Any]) -> str:
    return json.dumps(
        [_shared(run["config"]), run.get("board_id"), run.get("power_mode")],
        sort_keys=True,
        default=str,
    )


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _OF_ONE_EXPERIMENT}


def _summed(group: Sequence[Mapping[str, Any]]) -> Repeats:
    ordered = sorted(group, key=lambda run: (int(run["config"].get("repeat", 0)), run["name"]))
    rails = {_rail(run) for run in ordered}
    rail = next(iter(rails)) if len(rails) == 1 else None
    gross = dynamic = None
    if rail is not None:
        gross = _over(ordered, rail, "gross_mj", "gross_statistical_mj")
        dynamic = _over(ordered, rail, "dynamic_mj", "dynamic_statistical_mj")
    latencies = [_latency(run) for run in ordered]
    return Repeats(
        names=tuple(str(run["name"]) for run in ordered),
        config=_shared(ordered[0]["config"]),
        rail=rail,
        gross=gross,
        dynamic=dynamic,
        latency_ms=_known(latencies),
    )


def _rail(run: Mapping[str, Any]) -> str | None:
    """Return the rail that stands for the whole: the total, or the only one there is."""
    energy = (run.get("summary") or {}).get("energy") or {}
    rails = energy.get("rails") or {}
    if energy.get("rail") in rails:
        return str(energy["rail"])
    return next(iter(rails)) if len(rails) == 1 else None


def _over(
    runs: Sequence[Mapping[str, Any]], rail: str, value: str, half_width: str
) -> Hierarchy | None:
    found = []
    for run in runs:
        part = (run["summary"]["energy"]["rails"].get(rail) or {}).get("clean") or {}
        found.append(_value(part.get(value), part.get(half_width), part.get("n", 0), run))
    return _known(found)


def _latency(run: Mapping[str, Any]) -> RunValue | None:
    clean = (run.get("summary") or {}).get("clean") or {}
    interval = clean.get("interval_mean_ms")
    half = None if interval is None else (interval[1] - interval[0]) / 2
    return _value(clean.get("mean_ms"), half, clean.get("inferences", 0), run)


def _value(
    value: float | None, half_width: float | None, n: int, run: Mapping[str, Any]
) -> RunValue | None:
    if value is None:
        return None
    blocks = min(BLOCKS, int(n))
    error = None if half_width is None or blocks < 2 else half_width / t95(blocks - 1)
    return RunValue(value, error, blocks, int(run["config"].get("rebuild", 0)))


def _known(values: Sequence[RunValue | None]) -> Hierarchy | None:
    known = [value for value in values if value is not None]
    return over_runs(known) if known and len(known) == len(values) else None
