"""Rows and facts of the window regression, and sums over rails. Numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgejoule.energy.regression import Fit
from edgejoule.energy.regression import fit as fit_blocks
from edgejoule.energy.regression_groups import resolve
from edgejoule.energy.rows import EnergyRow
from edgejoule.energy.statistics import block_starts, combine, half_width_of, t95
from edgejoule.energy.window_design import place
from edgejoule.energy.window_estimate import Estimate

if TYPE_CHECKING:
    from edgejoule.energy.sensor_model import Floats
    from edgejoule.energy.supply import Supply
    from edgejoule.energy.timeline import Timeline

METHOD = "window"
MJ = 1e-9  # mJ per mW and ns
TOO_WIDE = "its interval is too wide for a figure"
TOGETHER = "it is known only together with others of its group"
_NO_TIME = "it took no time"
_BLOCKS = 20
_TO_PLACE = 0.01  # share of an inference in no layer from which on layers have to be placed
_LEFT_OVER = 1.15  # residual over noise, above which a placement is refuted
_MEMORIES = 2.5  # values of a block over N of the chip's average, at least


@dataclass(frozen=True)
class WindowAttribution:
    """Energies by the window regression.

    Attributes:
        rows: One per layer and group, one for the gap, the inference and the closure.
        facts: What was found of the sensor and the fit, JSON-able; `why` where nothing was.
        alone: Every layer's energy as estimated, resolved or not, for sums over rails; empty where
            no interval can be trusted.
    """

    rows: list[EnergyRow]
    facts: dict[str, Any]
    alone: tuple[EnergyRow, ...] = ()


@dataclass(frozen=True)
class Baseline:
    """Idle power with the engine loaded, mW, and half its 95 % interval; None: not known."""

    power_mw: float | None
    half_width_mw: float | None

    def row(
        self, rail: str, kind: str, gross: float, half: float | None, time_ns: float, n: int
    ) -> EnergyRow:
        """Return a row with its dynamic energy."""
        dynamic = dynamic_half = None
        if half is not None and not math.isfinite(half):
            half = None
        if self.power_mw is not None:
            dynamic = gross - self.power_mw * time_ns * MJ
            own = None if self.half_width_mw is None else self.half_width_mw * time_ns * MJ
            dynamic_half = combine(half, own)
        return EnergyRow(
            METHOD, rail, kind, None, gross, half, dynamic, dynamic_half, None, n, None,
            time_ms=time_ns * 1e-6,
        )  # fmt: skip


def rows_from(
    rail: str, found: Estimate, supply: Supply | None, baseline: Baseline, seed: int
) -> WindowAttribution:
    """Return the rows and facts of an estimate."""
    best, exposure = found.best.fit, found.problem.exposure
    layers, n = exposure.layers, len(exposure.start)
    blocks, ridge, _ = found.best.equations
    fit = fit_blocks(blocks, ~best.columns.free, seed=seed, prior=np.diag(ridge))
    mean_ns = _mean_times(found)
    rows, alone = _layer_rows(rail, found, fit, mean_ns, supply, baseline)
    gap, whole = np.zeros(best.columns.count), np.zeros(best.columns.count)
    gap[layers : layers + 4] = mean_ns[layers : layers + 4] * MJ
    whole[: layers + 4] = mean_ns[: layers + 4] * MJ
    spent = float(np.mean(exposure.end - exposure.start))
    in_gap = float(mean_ns[layers : layers + 4].sum())
    for kind, chosen, time_ns in (("gap", gap, in_gap), ("closure", whole, spent)):
        energy, half = float(chosen @ fit.coefficients), fit.half_width_of(chosen)
        rows.append(baseline.row(rail, kind, energy, half, time_ns, n))
    measured, of_measured = _measured(found)
    rows.insert(-1, baseline.row(rail, "inference", measured, of_measured, spent, n))
    return WindowAttribution(rows, _facts(found, baseline, rows), alone)


def _layer_rows(
    rail: str, found: Estimate, fit: Fit, mean_ns: Floats, supply: Supply | None, baseline: Baseline
) -> tuple[list[EnergyRow], tuple[EnergyRow, ...]]:
    layers, n = found.problem.exposure.layers, len(found.problem.exposure.start)
    weights = np.zeros(len(fit.coefficients))
    weights[:layers] = mean_ns[:layers] * MJ
    alternatives = _alternatives(found, supply)
    groups = resolve(fit, weights, alternatives=alternatives)
    hidden = _hidden(found)
    rows = {
        layer: EnergyRow(
            METHOD, rail, "layer", layer, 0.0, 0.0, None if baseline.power_mw is None else 0.0,
            None if baseline.power_mw is None else 0.0, None, n, None, time_ms=0.0, why=_NO_TIME,
        )
        for layer in range(layers)
    }  # fmt: skip
    together = []
    for group in groups:
        smallest = group.members[0]
        time_ns = float(mean_ns[list(group.members)].sum())
        row = baseline.row(rail, "group", group.energy, group.half_width, time_ns, n)
        if hidden:
            row = replace(row, gross_statistical_mj=None, dynamic_statistical_mj=None)
        if group.resolved and len(group.members) == 1 and not hidden:
            rows[smallest] = replace(row, kind="layer", layer=smallest, resolved=True)
            continue
        why = TOGETHER if len(group.members) > 1 else TOO_WIDE
        why = hidden or why
        for layer in group.members:
            rows[layer] = unresolved(rail, layer, n, float(mean_ns[layer]), smallest, why)
        fine = group.resolved and not hidden
        why_not = None if fine else hidden or TOO_WIDE
        together.append(replace(row, resolved=fine, group=smallest, why=why_not))
    alone = dict(rows)
    # Nothing may be merged: each as it is estimated.
    for one in resolve(fit, weights, mergeable=np.zeros(len(weights), bool),
                       alternatives=alternatives):  # fmt: skip
        layer = one.members[0]
        row = baseline.row(rail, "layer", one.energy, one.half_width, float(mean_ns[layer]), n)
        alone[layer] = replace(row, layer=layer)
    inner = () if hidden else tuple(alone[layer] for layer in range(layers))
    return [rows[layer] for layer in range(layers)] + together, inner


def _hidden(found: Estimate) -> str:
    """Return why no interval can be trusted, empty if it can.

    Blocks of time are as good as independent only where they are long against the memory of the
    chip's average.
    """
    samples = found.best.fit.guess.samples
    values, blocks = found.best.fit.rows, len(found.best.held.rows)
    if samples > 1 and values / blocks < _MEMORIES * samples:
        return f"the chip's average over {samples:g} values hides it in a pass of {values} values"
    return _misplaced(found)


def _misplaced(found: Estimate) -> str:
    """Return why layers are not where they were put, empty if they may be.

    A wrong placement fits as well as one with other powers can, but no better than this: in
    simulation it leaves over 1.3 times the sensor's own noise and more, the right one 0.7 times
    (the noise of an idle board holds more than the chip's). Where starts are known, or hardly
    anything lies between layers, there is nothing to place.
    """
    problem, exposure = found.problem, found.problem.exposure
    noise_mw = problem.noise_mw
    inference = float(np.mean(exposure.end - exposure.start))
    if exposure.offset is not None or exposure.mean_free < _TO_PLACE * inference:
        return ""
    if noise_mw is None:
        return ""
    floor_mw = math.hypot(noise_mw, problem.step_mw / math.sqrt(12))
    left_mw = math.sqrt(found.best.fit.variance)
    if left_mw <= _LEFT_OVER * floor_mw:
        return ""
    return (
        f"where layers lie in the inference is not known: with the best place for each "
        f"{left_mw:.3g} mW are left over, the sensor's own noise is {floor_mw:.3g} mW"
    )


def unresolved(rail: str, layer: int, n: int, time_ns: float, group: int, why: str) -> EnergyRow:
    """Return the row of a layer without an energy of its own."""
    return EnergyRow(
        METHOD, rail, "layer", layer, None, None, None, None, None, n, False, group,
        time_ns * 1e-6, why=why,
    )  # fmt: skip


def _alternatives(found: Estimate, supply: Supply | None) -> Floats:
    """Return coefficients that the data do not tell from the best ones, float64 (m, columns).

    Placements that are as good; single layers at other places; what residuals put in doubt; and
    powers with the supply as it may have given way.
    """
    best, exposure = found.best.fit, found.problem.exposure
    powers = best.columns.powers
    plain = np.zeros(best.columns.count)
    plain[:powers] = best.powers
    doubt = found.misfit / np.maximum(exposure.mean_layer, 1.0)
    droop = np.zeros(powers) if supply is None else supply.moved(best.powers)
    rows = np.tile(plain, (len(found.others) + exposure.layers, 1))
    for layer in range(exposure.layers):
        rows[layer, layer] += math.hypot(float(doubt[layer]), float(droop[layer]))
    for row, other in zip(rows[exposure.layers :], found.others, strict=True):
        row[:powers] = other.fit.powers
    return np.vstack([rows, found.alike])


def _mean_times(found: Estimate) -> Floats:
    """Return the mean time in layers and in held, start, between and end, float64 (layers + 4,)."""
    exposure = found.problem.exposure
    placement = place(exposure, found.best.fit.guess)
    total = np.zeros(exposure.layers + 4)
    for first in range(0, len(exposure.start), 4096):
        rows = np.arange(first, min(first + 4096, len(exposure.start)))
        starts, ends, _ = exposure.boundaries(rows, placement)
        total += (ends - starts).sum(axis=0)
    mean: Floats = total / len(exposure.start)
    mean[exposure.layers + 2] -= mean[: exposure.layers].sum()
    return mean


def _measured(found: Estimate) -> tuple[float, float | None]:
    """Return the energy per inference as measured: all that was shown, less idle in between."""
    exposure, values = found.problem.exposure, found.problem.values.value_mw
    seen = values[np.isfinite(values)]
    n = len(exposure.start)
    period = float(exposure.end[-1] - exposure.start[0]) / n
    between = period - float(np.mean(exposure.end - exposure.start))
    starts = block_starts(len(seen), _BLOCKS)
    means = np.add.reduceat(seen, starts) / np.diff(np.append(starts, len(seen)))
    idle_mw = float(found.best.fit.powers[-1])
    half = half_width_of(means * period * MJ)
    return (float(seen.mean()) * period - idle_mw * between) * MJ, half


def _facts(found: Estimate, baseline: Baseline, rows: list[EnergyRow]) -> dict[str, Any]:
    best, problem, held = found.best.fit, found.problem, found.best.held
    guess = best.guess
    gross = _closure(found, 0.0)
    dynamic = None if baseline.power_mw is None else _closure(found, baseline.power_mw)
    whole = {row.kind: row for row in rows if row.kind in ("closure", "inference")}
    whys = {row.layer: row.why for row in rows if row.kind == "layer" and row.resolved is False}
    return {
        "delay_ns": guess.centre_ns - 0.5 * guess.window_ns - guess.tau_ns,
        "window_ns": guess.window_ns,
        "tau_ns": guess.tau_ns,
        "samples": guess.samples,
        "placement": {
            "chosen": found.best.name,
            "not_told_from": [one.name for one in found.others],
            "start_ns": float(guess.placement[0]),
            "launch_ns": float(guess.placement[1]),
            "share": float(guess.placement[2]),
            "own_ns": [float(one) for one in guess.own_ns],
        },
        "held_out_mw": found.errors,
        "closure": {
            "gross": _ratio(whole["closure"].gross_mj, whole["inference"].gross_mj),
            "dynamic": _ratio(whole["closure"].dynamic_mj, whole["inference"].dynamic_mj),
            "held_out": gross["value"],
            "held_out_dynamic": None if dynamic is None else dynamic["value"],
            "interval_gross": _interval(gross),
            "interval_dynamic": None if dynamic is None else _interval(dynamic),
            "other_rule": None,
        },
        "residual_mw": math.sqrt(best.variance),
        "noise_mw": problem.noise_mw,
        "likeness": problem.likeness,
        "values": best.rows,
        "outliers": found.outliers,
        "windows": int(np.isfinite(problem.values.value_mw).sum()),
        "blocks": len(held.rows),
        "not_resolved": {str(layer): why for layer, why in whys.items()},
    }


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _interval(closure: dict[str, float | None]) -> list[float] | None:
    """Return the ends of the 95 % interval of the closure where nothing was fitted."""
    value, half = closure["value"], closure["half_width"]
    return None if value is None or half is None else [value - half, value + half]


def _closure(found: Estimate, baseline_mw: float) -> dict[str, float | None]:
    """Return predicted over measured energy, above a baseline, where nothing was fitted."""
    held = found.best.held
    left = 1.0 - found.problem.likeness  # sums are of values with their likeness taken out
    above = held.measured_sum - baseline_mw * left * held.rows
    total = float(above.sum())
    if not total > 0:
        return {"value": None, "half_width": None}
    over = held.predicted_sum - held.measured_sum
    value = 1.0 + float(over.sum()) / total
    count = len(above)
    if count < 2:
        return {"value": value, "half_width": None}
    rest = over - (value - 1.0) * above
    half = t95(count - 1) * float(np.std(rest, ddof=1)) * math.sqrt(count) / total
    return {"value": value, "half_width": half}


def nothing(rail: str, timeline: Timeline, why: str) -> WindowAttribution:
    """Return rows that say why there is nothing."""
    n = len(timeline.start_ns)
    mean_ns = timeline.layer_ns.mean(axis=0) if n else np.zeros(timeline.layers)
    rows = [
        unresolved(rail, layer, n, float(mean_ns[layer]), 0, why)
        for layer in range(timeline.layers)
    ]
    for kind in ("group", "gap", "inference", "closure"):
        if kind == "group" and not timeline.layers:
            continue
        group = 0 if kind == "group" else None
        resolved = False if kind == "group" else None
        rows.append(
            EnergyRow(METHOD, rail, kind, None, None, None, None, None, None, n, resolved, group,
                      why=why)
        )  # fmt: skip
    return WindowAttribution(rows, {"why": why})
