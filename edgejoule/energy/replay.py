"""Energy of layers by replay: each distinct layer alone, repeated for seconds. Numpy.

One rule, fixed before any table: the dynamic energy of a layer is the energy above idle per
execution while it repeats alone; its gross energy is that and idle power over its time in the
network. On a GPU energy per execution is conserved while time is not: launches and drained
pipelines add time at near-idle power, so power above idle times the time in the network would come
out far too low. That other rule is a column beside (`dynamic_other_mj`).

Layers that are equal (operation, shapes, types, attributes) were measured once and get the same
dynamic energy. Nothing is rescaled: the sum over layers stands beside the whole network, repeated
in the same pass by the same rule, and `facts["closure"]` has the ratio with its interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgejoule.energy.replay_estimate import Estimate, Estimates, Thing, estimate_all
from edgejoule.energy.replay_segments import LAYER, WHOLE, Segments
from edgejoule.energy.rows import EnergyRow

if TYPE_CHECKING:
    from edgejoule.energy.trace import RailPower

METHOD = "replay"
WHOLE_THING: Thing = (WHOLE, -1, 1)
RESOLVED_SHARE = 0.25
"""A layer is resolved if its interval is at most this share of its energy, ..."""
SMALL_SHARE = 0.003
"""... or at most this share of the whole: then it is known to be small."""
NARROW_SHARE = 0.03
"""Repeating a layer ends when its interval is at most this share of its energy, or SMALL_SHARE."""

_MS = 1e-3
_SAME_CLOCK = 0.98
_ONCE = "repeated once: what differs from one segment to the next is hardly in its interval"


@dataclass(frozen=True)
class ReplayAttribution:
    """What the replay pass says of one rail.

    Attributes:
        rows: Layers, groups, gap, inference, closure; empty where nothing is known.
        facts: `closure` (`gross`, `dynamic`, `interval_gross`, `interval_dynamic`, `other_rule`:
            dynamic by the other rule; all as shares of the whole), `whole`, `sum_alone_ms`,
            `sum_time_ms`, `idle`, `scatter`, `left_out`, `slower_alone` (groups that ran at a
            lower clock alone), `why` (None: it worked).
    """

    rows: tuple[EnergyRow, ...]
    facts: dict[str, Any]


def narrow(part: Estimate, members: int, whole_mj: float | None) -> bool:
    """Whether an estimate is known well enough to stop: a group counts with all its members."""
    half = part.half_mj
    if math.isnan(half):
        return False
    if half <= NARROW_SHARE * abs(part.energy_mj):
        return True
    return whole_mj is not None and members * half <= SMALL_SHARE * abs(whole_mj)


def attribute_replay(
    rail: str,
    series: RailPower,
    segments: Segments,
    *,
    groups: Sequence[Sequence[int]],
    nothing: Sequence[int],
    left_out: Mapping[int, str],
    layer_ms: Sequence[float],
    inference_ms: float,
    baseline_mw: float | None,
    baseline_half_mw: float | None = None,
    reach_ns: int = 0,
    said: Mapping[str, Any] | None = None,
) -> ReplayAttribution:
    """Attribute energy to layers by what they drew alone.

    Args:
        rail: Name of the rail, `total` for the board's total.
        series: Its power.
        segments: The segments of the replay pass.
        groups: Layers that are equal; of each the first one was repeated.
        nothing: Layers that execute nothing.
        left_out: Layer -> why it was not repeated.
        layer_ms: Mean time of every layer in the profiled pass.
        inference_ms: Mean time of an inference there, without time that is the profiler's.
        baseline_mw: Idle power with the engine loaded, where the pass has no idle of its own.
        baseline_half_mw: Half-width of its 95 % interval.
        reach_ns: How far a reading reaches back in time: refresh and averaging.
        said: `replay` of `measure.json`: at which clock each layer and the whole ran.
    """
    found = estimate_all(series, segments, reach_ns, baseline_mw, baseline_half_mw)
    if found is None:
        return ReplayAttribution((), {"why": "idle power is not known on this rail"})
    whole = found.of.get(WHOLE_THING)
    if whole is None:
        return ReplayAttribution((), {"why": "the trace tells nothing of the whole network"})
    idle_mw = found.idle.mean_mw
    layers = len(layer_ms)
    gap_ms = inference_ms - float(sum(layer_ms))
    slower = _slower_alone(said or {})
    per_layer: dict[int, EnergyRow] = {}
    group_rows: list[EnergyRow] = []
    parts: list[tuple[float, Estimate]] = []
    missing: dict[int, str] = {}
    other_mj = 0.0
    for members in groups:
        first = min(members)
        part = found.of.get((LAYER, members[0], 1))
        if part is None:
            done = members[0] in segments.layer[segments.kind == LAYER]
            unseen = "repeated, but the trace tells nothing of it" if done else "never repeated"
            why = next((left_out[m] for m in members if m in left_out), unseen)
            missing |= dict.fromkeys(members, why)
            continue
        parts.append((float(len(members)), part))
        times = [layer_ms[member] for member in members]
        other_mj += part.above_idle_mw * sum(times) * _MS
        own_rows, group_row = _group_rows(rail, part, members, times, whole, idle_mw, found)
        if members[0] in slower:
            own_rows = {
                layer: replace(row, why="; ".join(filter(None, (row.why, slower[members[0]]))))
                for layer, row in own_rows.items()
            }
        per_layer |= own_rows
        if group_row is not None:
            group_rows.append(replace(group_row, group=first))
    for layer in nothing:
        per_layer[layer] = _nothing_row(rail, layer, layer_ms[layer], idle_mw)
    for layer in range(layers):
        if layer not in per_layer:
            why = missing.get(layer) or left_out.get(layer) or "not in the replay pass's plan"
            missing[layer] = why
            per_layer[layer] = _unknown_row(rail, "layer", layer, layer_ms[layer], why)
            group_rows.append(_unknown_row(rail, "group", layer, layer_ms[layer], why))
    gap = EnergyRow(
        METHOD, rail, "gap", None, idle_mw * gap_ms * _MS, _scaled(found.idle.half_mw, gap_ms),
        0.0, 0.0, None, 0, None, time_ms=gap_ms, why="dynamic energy 0 by the rule",
    )  # fmt: skip
    known_ms = inference_ms - sum(layer_ms[layer] for layer in missing)
    totals = _Totals.of(found, parts, whole, inference_ms, known_ms)
    rows = (
        *(per_layer[layer] for layer in range(layers)),
        *sorted(group_rows, key=lambda row: row.group or 0),
        gap,
        _inference_row(rail, whole, idle_mw, inference_ms, found),
        _closure_row(rail, totals, inference_ms, parts, other_mj, missing),
    )
    facts = {
        "why": None,
        "closure": totals.to_json(
            other_mj / whole.energy_mj if math.isfinite(totals.ratio) else None
        ),
        "whole": describe(whole),
        "sum_alone_ms": sum(weight * part.alone_ms for weight, part in parts),
        "sum_time_ms": float(sum(layer_ms)),
        "gap_ms": gap_ms,
        "inference_ms": inference_ms,
        "idle": describe_idle(found, baseline_mw),
        "scatter": {
            "power_sd": _or_none(found.power_sd),
            "time_sd": _or_none(found.time_sd),
            "degrees": found.degrees,
        },
        "left_out": {str(layer): why for layer, why in sorted(missing.items())},
        "slower_alone": sorted(slower),
        "reach_ms": reach_ns * 1e-6,
    }
    return ReplayAttribution(rows, facts)


def describe(part: Estimate) -> dict[str, Any]:
    """Return what is worth telling of an estimate, plain values."""
    return {
        "dynamic_mj": part.energy_mj,
        "half_width_mj": _or_none(part.half_mj),
        "power_mw": part.power_mw,
        "above_idle_mw": part.above_idle_mw,
        "alone_ms": part.alone_ms,
        "segments": part.segments,
        "iterations": part.iterations,
        "known_s": part.known_s,
    }


def describe_idle(found: Estimates, baseline_mw: float | None) -> dict[str, Any]:
    """Return idle power in the pass, its drift, and how it compares with the loaded baseline."""
    idle = found.idle
    return {
        "mean_mw": idle.mean_mw,
        "half_width_mw": _or_none(idle.half_mw),
        "first_mw": idle.first_mw,
        "last_mw": idle.last_mw,
        "drift_mw": idle.last_mw - idle.first_mw,
        "segments": idle.segments,
        "loaded_baseline_mw": baseline_mw,
    }


def _group_rows(
    rail: str,
    part: Estimate,
    members: Sequence[int],
    times: Sequence[float],
    whole: Estimate,
    idle_mw: float,
    found: Estimates,
) -> tuple[dict[int, EnergyRow], EnergyRow | None]:
    """Return a row per layer of one group, and the group's own where it is not resolved."""
    half = part.half_mj
    first = min(members)
    small = half <= SMALL_SHARE * abs(whole.energy_mj)
    resolved = small or half <= RESOLVED_SHARE * abs(part.energy_mj)
    group = first if len(members) > 1 or not resolved else None
    why = _ONCE if part.segments == 1 else None
    if not resolved:
        why = _why_not(part)
    rows = {}
    for layer, time_ms in zip(members, times, strict=True):
        gross_half = found.gross_half(part.own_half_mj, part.idle_mj_per_mw, time_ms)
        rows[layer] = EnergyRow(
            METHOD, rail, "layer", layer,
            part.energy_mj + idle_mw * time_ms * _MS if resolved else None,
            _or_none(gross_half) if resolved else None,
            part.energy_mj if resolved else None,
            _or_none(half) if resolved else None,
            None, part.iterations, resolved, group, time_ms, part.alone_ms,
            part.above_idle_mw * time_ms * _MS if resolved else None, why=why,
        )  # fmt: skip
    if resolved:
        return rows, None
    time_ms, count = float(sum(times)), len(members)
    return rows, EnergyRow(
        METHOD, rail, "group", None,
        count * part.energy_mj + idle_mw * time_ms * _MS,
        _or_none(
            found.gross_half(count * part.own_half_mj, count * part.idle_mj_per_mw, time_ms)
        ),
        count * part.energy_mj, _or_none(count * half),
        None, part.iterations, False, first, time_ms, count * part.alone_ms,
        part.above_idle_mw * time_ms * _MS, why=why,
    )  # fmt: skip


def _slower_alone(said: Mapping[str, Any]) -> dict[int, str]:
    """Return the groups that ran at a lower clock alone than the network, and a note for each."""
    whole_mhz = (said.get("whole") or {}).get("clock_mhz")
    found = {}
    for layer, facts in (said.get("facts") or {}).items():
        own_mhz = facts.get("clock_mhz")
        if whole_mhz and own_mhz and own_mhz < _SAME_CLOCK * whole_mhz:
            found[int(layer)] = (
                f"alone at a lower clock ({own_mhz:.0f} MHz, in the network {whole_mhz:.0f} MHz)"
            )
    return found


def _why_not(part: Estimate) -> str:
    """Say why an estimate is no answer."""
    if math.isnan(part.half_mj):
        return "its interval is not known: it was repeated once, and too shortly"
    said = f"{part.energy_mj:.3g} +- {part.half_mj:.2g} mJ alone"
    if part.half_mj >= abs(part.energy_mj):
        return f"{said}: not told from idle power"
    return f"{said}, more than {RESOLVED_SHARE:.0%} of it: repeat it longer"


def _nothing_row(rail: str, layer: int, time_ms: float, idle_mw: float) -> EnergyRow:
    return EnergyRow(
        METHOD, rail, "layer", layer, idle_mw * time_ms * _MS, 0.0, 0.0, 0.0, None, 0, True,
        time_ms=time_ms, alone_ms=0.0, dynamic_other_mj=0.0, why="executes nothing on the device",
    )  # fmt: skip


def _unknown_row(rail: str, kind: str, layer: int, time_ms: float, why: str) -> EnergyRow:
    return EnergyRow(
        METHOD, rail, kind, layer if kind == "layer" else None, None, None, None, None, None, 0,
        False, group=layer, time_ms=time_ms, why=why,
    )  # fmt: skip


def _inference_row(
    rail: str, whole: Estimate, idle_mw: float, inference_ms: float, found: Estimates
) -> EnergyRow:
    half = found.gross_half(whole.own_half_mj, whole.idle_mj_per_mw, inference_ms)
    return EnergyRow(
        METHOD, rail, "inference", None, whole.energy_mj + idle_mw * inference_ms * _MS,
        _or_none(half), whole.energy_mj, _or_none(whole.half_mj), None, whole.iterations, None,
        time_ms=inference_ms, alone_ms=whole.alone_ms,
        dynamic_other_mj=whole.above_idle_mw * inference_ms * _MS,
    )  # fmt: skip


@dataclass(frozen=True)
class _Totals:
    """The sum of all layers against the whole: value, half-widths, and both ratios."""

    dynamic_mj: float
    dynamic_half_mj: float
    gross_mj: float
    gross_half_mj: float
    ratio: float
    ratio_half: float
    gross_ratio: float
    gross_ratio_half: float

    @classmethod
    def of(
        cls,
        found: Estimates,
        parts: Sequence[tuple[float, Estimate]],
        whole: Estimate,
        inference_ms: float,
        known_ms: float,
    ) -> _Totals:
        value, own, of_idle = found.sum_of(parts)
        vector = found.idle_vector(parts)
        idle_mw = found.idle.mean_mw

        def ratio(above_ms: float, below_ms: float) -> tuple[float, float]:
            """Return sum over whole with idle for so long on either side."""
            below = whole.energy_mj + idle_mw * below_ms * _MS
            if not below or (not below_ms and whole.half_mj >= abs(below)):
                return math.nan, math.nan  # the whole is not told from idle power
            share = (value + idle_mw * above_ms * _MS) / below
            rest = found.gross_half(
                math.hypot(own, share * whole.own_half_mj),
                vector - share * whole.idle_mj_per_mw,
                above_ms - share * below_ms,
            )
            return share, rest / abs(below)

        return cls(
            value,
            math.hypot(own, of_idle),
            value + idle_mw * known_ms * _MS,
            found.gross_half(own, vector, known_ms),
            *ratio(0.0, 0.0),
            *ratio(known_ms, inference_ms),
        )

    def to_json(self, other: float | None) -> dict[str, Any]:
        """Return both closures with their intervals, and the one by the other rule."""
        return {
            "gross": _or_none(self.gross_ratio),
            "dynamic": _or_none(self.ratio),
            "interval_gross": _interval(self.gross_ratio, self.gross_ratio_half),
            "interval_dynamic": _interval(self.ratio, self.ratio_half),
            "other_rule": other,
        }


def _closure_row(
    rail: str,
    totals: _Totals,
    inference_ms: float,
    parts: Sequence[tuple[float, Estimate]],
    other_mj: float,
    missing: Mapping[int, str],
) -> EnergyRow:
    why = None
    if missing:
        names = ", ".join(map(str, sorted(missing)[:8]))
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        why = f"without layers {names}{more}, of which nothing is known"
    return EnergyRow(
        METHOD, rail, "closure", None, totals.gross_mj,
        _or_none(totals.gross_half_mj), totals.dynamic_mj, _or_none(totals.dynamic_half_mj), None,
        sum(part.iterations for _, part in parts), None, time_ms=inference_ms,
        alone_ms=sum(weight * part.alone_ms for weight, part in parts),
        dynamic_other_mj=other_mj, why=why,
    )  # fmt: skip


def _scaled(half_mw: float, time_ms: float) -> float | None:
    return _or_none(half_mw * abs(time_ms) * _MS)


def _interval(value: float, half: float) -> list[float] | None:
    return None if math.isnan(value) or math.isnan(half) else [value - half, value + half]


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
