"""Whether the energies of layers follow from the tables: every method but `window` is run again.

`window` resamples and searches, which takes seconds on a long run; of it the sums, the inference as
the trace gives it, the times of its layers and the columns derived from its rows are held.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule import __version__
from edgejoule.dataset.checks.common import GROUPS_SINCE, close
from edgejoule.dataset.findings import NOTE, Finding
from edgejoule.energy.rows import EnergyRow
from edgejoule.errors import EdgejouleError
from edgejoule.files import read_json

if TYPE_CHECKING:
    from edgejoule.attributing import Attributed
    from edgejoule.dataset.checks.energy import Row
    from edgejoule.dataset.checks.layers import LayerSums
    from edgejoule.summary import Power

_WINDOW, _BY_TIME = "window", "proportional"
_TOLERANCE = 2e-6
_TIME_TOLERANCE = 1e-5  # sums of float32 in another order
_MOST = 5
_ENERGIES = (
    "gross_mj", "gross_statistical_mj", "dynamic_mj", "dynamic_statistical_mj", "systematic_mj",
    "dynamic_other_mj", "scaled_gross_mj", "scaled_dynamic_mj",
)  # fmt: skip
_TIMES = ("time_ms", "alone_ms")
_PLAIN = ("n", "resolved", "group", "why")
_RATIOS = ("gross", "dynamic", "held_out", "other_rule", "missing_layers", "time_share")
_INTERVALS = ("interval_gross", "interval_dynamic")
_OF_ROWS = ("gross", "dynamic", "missing_layers", "time_share")
# A split by time is held by `figures`; what a run without a summary of methods says more is not.
_DERIVED = ("systematic_mj", "scaled_gross_mj", "scaled_dynamic_mj")


def check_attribution(
    path: Path,
    run: dict[str, Any],
    power: Power,
    energy: list[Row],
    sums: LayerSums,
    sound: set[str],
) -> list[Finding]:
    """Attribute the energy anew and compare it with the rows and the summary.

    Args:
        path: The run directory.
        run: `run.json`.
        power: The run's power.
        energy: The rows of `energy.parquet`, right among themselves.
        sums: Times of the layers.
        sound: The files that may be opened.
    """
    said = run["summary"].get("energy") or {}
    if not _recomputed(run, said.get("attribution"), sound):
        return []
    if (made_by := run["versions"].get("edgejoule")) != __version__:
        # A later version may attribute better; what an earlier one found is not wrong for that.
        what = f"was attributed by edgejoule {made_by}: sums are held, nothing is attributed again"
        return [Finding("energy.parquet", what, NOTE)]
    try:
        found = _attributed(path, run, power, energy, sums, sound)
    except EdgejouleError as error:
        return [Finding("energy.parquet", f"cannot be attributed again ({error.message})")]
    except (LookupError, TypeError, ValueError) as error:
        # What a file lacks, its schema allows it to lack; then it gave other energies than these.
        what = f"{type(error).__name__}: {str(error)[:120]}"
        return [Finding("energy.parquet", f"cannot be attributed again ({what})")]
    wrong = itertools.chain(_row_problems(found.rows, energy), _time_problems(found.rows))
    problems = itertools.islice(wrong, _MOST)
    findings = [Finding("energy.parquet", problem) for problem in problems]
    findings += [Finding("run.json", problem) for problem in _summary_problems(found, said)]
    return findings


def _recomputed(run: dict[str, Any], told: Any, sound: set[str]) -> bool:
    """Whether everything that the attribution rests on is there and of this version."""
    beside = {"idle.json", "measure.json", "sampler.json", "replay.parquet"} & set(run["files"])
    needed = {"inferences.parquet", "layers.parquet", "power.parquet", "idle.json"}
    return (
        isinstance(told, Mapping)
        and run["schema_version"] >= GROUPS_SINCE
        and run["status"] == "complete"
        and needed | beside <= sound
    )


def _attributed(
    path: Path,
    run: dict[str, Any],
    power: Power,
    energy: list[Row],
    sums: LayerSums,
    sound: set[str],
) -> Attributed:
    """Run every method but `window` again; the rows of that are taken as they are said."""
    import numpy as np

    from edgejoule import attributing
    from edgejoule.phases import PhaseSpan
    from edgejoule.summary import LayerSums, pass_energy, read_inferences

    def document(name: str) -> dict[str, Any]:
        content = read_json(path / name) if name in sound else {}
        return content if isinstance(content, dict) else {}

    measure, idle = document("measure.json"), read_json(path / "idle.json")
    passes = read_inferences(path / "inferences.parquet")
    profiled = passes["profiled"]
    held_us = (measure.get("profiled") or {}).get("held_us")
    clean = {}
    if "clean" in passes:
        for rail in power.rails:
            one = pass_energy(power, rail, passes["clean"], idle)
            clean[rail] = (one["gross_mj"], one["dynamic_mj"])
    methods = tuple({row["method"]: None for row in energy})
    task = attributing.Task(
        directory=path,
        methods=tuple(method for method in methods if method not in (_WINDOW, _BY_TIME)),
        power=power,
        profiled=profiled,
        sums=LayerSums(sums.per_inference_ns, sums.per_block_ns),
        idle=idle,
        spans=[PhaseSpan(**phase) for phase in run["phases"]],
        sensor=run["sensor"],
        measure=measure,
        sampler=document("sampler.json"),
        clean=clean,
        held_ns=np.array(held_us, np.int64) * 1000 if held_us else None,
        seed=int(run["config"].get("seed") or 0),
    )
    found = attributing.attribute_run(task)
    said = attributing.Attributed(attribution=dict(found.attribution))
    for rail in dict.fromkeys(row["rail"] for row in energy if row["method"] == _WINDOW):
        rows = [_as_row(row) for row in energy if (row["method"], row["rail"]) == (_WINDOW, rail)]
        said.add(rail, rows, {})
    found.rows += attributing.completed(task, said)
    found.attribution |= said.attribution
    return found


def _as_row(row: Row) -> EnergyRow:
    """Return a row as a method gives it, without what is derived from it."""
    names = [field.name for field in dataclasses.fields(EnergyRow) if field.name not in _DERIVED]
    return EnergyRow(**{name: row[name] for name in names}, systematic_mj=None)


def _row_problems(found: list[EnergyRow], energy: list[Row]) -> Iterator[str]:
    """Compare rows; each pair's energies by the scale of its inference."""
    wanted = {_key(dataclasses.asdict(row)): row for row in found}
    scales = {
        (row.method, row.rail): abs(row.gross_mj or 0.0)
        for row in found
        if row.kind in ("inference", "closure")
    }
    there = {_key(row) for row in energy}
    for key in [key for key in wanted if key not in there][:1]:
        yield f"lacks {_named(key)}, which the tables give"
    for row in energy:
        key = _key(row)
        want = wanted.get(key)
        if want is None:
            yield f"has {_named(key)}, which the tables do not give"
            continue
        scale = scales[row["method"], row["rail"]]
        for name in (*_ENERGIES, *_TIMES, *_PLAIN):
            value, have = getattr(want, name), row[name]
            if not _same(value, have, scale if name in _ENERGIES else None):
                yield f"{name} of {_named(key)} is {have}, the tables give {value}"
                break


def _time_problems(rows: list[EnergyRow]) -> Iterator[str]:
    """Hold the times that `window` says against those of the split by time."""
    known = {(row.rail, row.kind, row.layer): row.time_ms for row in rows if row.method == _BY_TIME}
    for row in rows:
        value = known.get((row.rail, row.kind, row.layer))
        if row.method != _WINDOW or row.time_ms is None or value is None:
            continue
        if not close(row.time_ms, value, value, _TIME_TOLERANCE):
            named = _named(_key(dataclasses.asdict(row)))
            yield f"time_ms of {named} is {row.time_ms}, the tables give {value}"


def _key(row: Mapping[str, Any]) -> tuple[str, str, str, int | None]:
    which = row["group"] if row["kind"] == "group" else row["layer"]
    return row["method"], row["rail"], row["kind"], which


def _named(key: tuple[str, str, str, int | None]) -> str:
    method, rail, kind, which = key
    return f"{kind}{'' if which is None else f' {which}'} ({method} on {rail})"


def _same(one: Any, other: Any, scale: float | None) -> bool:
    if not isinstance(one, float) or not isinstance(other, float):
        return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
    return close(one, other, max(abs(one), scale or 0.0), _TOLERANCE)


def _summary_problems(found: Attributed, said: Mapping[str, Any]) -> Iterator[str]:
    """Compare closures and counts of the summary, and the slopes of the duplication check."""
    for method, rails in said["attribution"].items():
        for rail, one in rails.items():
            want = found.attribution.get(method, {}).get(rail)
            if want is None:
                continue
            where = f"summary.energy.attribution of {method} on {rail}"
            names = ["layers", "resolved_layers", "resolved_share"]
            pairs = [(name, want[name], one.get(name)) for name in names]
            ratios = [name for name in _RATIOS if method != _WINDOW or name in _OF_ROWS]
            # What a run does not say of its closure, because its version did not, is not wrong.
            ratios = [name for name in ratios if name in one["closure"]]
            pairs += [(name, want["closure"][name], one["closure"][name]) for name in ratios]
            for name, value, have in pairs:
                if not _same(value, have, None):
                    yield f"{where}: {name} is {have}, the tables give {value}"
            for name in _INTERVALS if method != _WINDOW else ():
                value, have = want["closure"][name], one["closure"].get(name)
                if not _alike(value, have):
                    yield f"{where}: {name} is {have}, the tables give {value}"
    if not _alike(found.duplication, said.get("duplication")):
        yield "summary.energy.duplication does not follow from the tables"
    if "accuracy" in said and not _alike(found.accuracy, said["accuracy"]):
        yield "summary.energy.accuracy is not what is known of the sensor"


def _alike(one: Any, other: Any) -> bool:
    """Whether two plain structures are the same, numbers but for their rounding."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, float) and isinstance(other, (float, int)):
        return math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=1e-12)
    return bool(one == other)
