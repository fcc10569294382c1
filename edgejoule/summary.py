"""From the tables of a run to its figures: latency, energy, layers. Numpy and pyarrow only.

Latency and energy per inference come from the clean pass; how time splits over layers comes from
the profiled pass; the ratio between the two is published with both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgejoule.dataset.schema import read_metadata
from edgejoule.energy.baseline import baseline_entry
from edgejoule.energy.integrate import energies_mj, energy_mj
from edgejoule.energy.proportional import attribute, per_inference
from edgejoule.energy.rows import EnergyRow
from edgejoule.energy.statistics import block_starts, mean_of
from edgejoule.energy.trace import RailPower, rail_powers, total_power
from edgejoule.energy.waiting import energies_without_waiting
from edgejoule.errors import MeasurementError
from edgejoule.phases import BASELINE_PHASES
from edgejoule.power.totals import total_rails_of

if TYPE_CHECKING:
    from edgejoule.idle import Meanwhile
    from edgejoule.phases import PhaseSpan

TOTAL = "total"
# What has just been loaded or unloaded still settles: leave the first part of an idle phase out.
_SETTLE_SHARE = 0.2
_COVERED = 0.999
_SETTLE_MAX_NS = 1_000_000_000


@dataclass(frozen=True)
class Inferences:
    """The inferences of one pass, in order: all int64 (n,), nanoseconds; `due_ns` may be empty."""

    index: np.ndarray
    start_ns: np.ndarray
    end_ns: np.ndarray
    due_ns: np.ndarray

    @property
    def duration_ns(self) -> np.ndarray:
        """End minus start."""
        spans: np.ndarray = self.end_ns - self.start_ns
        return spans


def read_inferences(path: Path) -> dict[str, Inferences]:
    """Return the inferences of `inferences.parquet` by pass."""
    import pyarrow.parquet as pq

    table = pq.read_table(path).combine_chunks()
    column = table["pass"].chunk(0) if table.num_rows else None
    if column is None:
        return {}
    codes = column.indices.to_numpy()
    found = {}
    for code in dict.fromkeys(codes.tolist()):
        name, chosen = column.dictionary[code].as_py(), codes == code
        columns = {key: table[key].to_numpy()[chosen] for key in ("index", "start_ns", "end_ns")}
        due = table["due_ns"].drop_null().to_numpy() if name == "rate" else np.empty(0, np.int64)
        found[str(name)] = Inferences(columns["index"], columns["start_ns"], columns["end_ns"], due)
    return found


def latency(inferences: Inferences) -> dict[str, Any]:
    """Return the latency figures of a pass, ms; the interval holds *within this process*."""
    duration_ms = inferences.duration_ns * 1e-6
    mean = mean_of(duration_ms)
    p50, p90, p99 = np.percentile(duration_ms, [50, 90, 99])
    half = mean.half_width
    return {
        "inferences": len(duration_ms),
        "mean_ms": mean.value,
        "interval_mean_ms": None if half is None else [mean.value - half, mean.value + half],
        "interval_scope": "within this process",
        "median_ms": float(p50),
        "p90_ms": float(p90),
        "p99_ms": float(p99),
        "min_ms": float(duration_ms.min()),
        "max_ms": float(duration_ms.max()),
    }


_STEADY_SHARE = 0.05


def stability_notes(clean: dict[str, Any]) -> list[str]:
    """Say so if the clean pass was too unsteady for its mean to be trusted."""
    interval = clean["interval_mean_ms"]
    if interval is None:
        return ["one clean inference is no statistic: ask for more with --clean-runs"]
    share = (interval[1] - interval[0]) / 2 / clean["mean_ms"]
    if share <= _STEADY_SHARE:
        return []
    return [
        f"the clean latency is unstable: its mean is known within {share:.0%} only; look for other "
        "programs, clocks that are not locked, heat, or ask for more inferences"
    ]


@dataclass(frozen=True)
class LayerSums:
    """Layer times of the profiled pass, summed.

    Attributes:
        per_inference_ns: (n,) sum over the layers of each inference.
        per_block_ns: (blocks, layers) sum over each block of inferences (`block_starts(n)`).
    """

    per_inference_ns: np.ndarray
    per_block_ns: np.ndarray


def sum_layers(path: Path, inferences: int, layers: int) -> LayerSums:
    """Sum `layers.parquet` in batches, so that memory stays bounded for millions of rows."""
    import pyarrow.parquet as pq

    starts = block_starts(inferences)
    block_of = np.searchsorted(starts, np.arange(inferences), side="right") - 1
    per_inference = np.zeros(inferences)
    per_block = np.zeros(len(starts) * layers)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(500_000, columns=["inference", "layer", "duration_ms"]):
            inference = batch["inference"].to_numpy()
            duration = batch["duration_ms"].to_numpy().astype(np.float64) * 1e6
            per_inference += np.bincount(inference, duration, minlength=inferences)
            cell = block_of[inference] * layers + batch["layer"].to_numpy()
            per_block += np.bincount(cell, duration, minlength=per_block.size)
    return LayerSums(per_inference, per_block.reshape(len(starts), layers))


def profiled_figures(
    inferences: Inferences, sums: LayerSums, held_ns: np.ndarray | None = None
) -> dict[str, Any]:
    """Return latency and what layers and gap make of it, per inference.

    Time that is there because of the profiler alone (`held_ns`, (n,)) is in the latency, and in
    neither gap nor the share.
    """
    duration_ns = inferences.duration_ns - (0 if held_ns is None else held_ns)
    return {
        **latency(inferences),
        "layers_ms_median": float(np.median(sums.per_inference_ns)) * 1e-6,
        "gap_ms_median": float(np.median(duration_ns - sums.per_inference_ns)) * 1e-6,
        "layers_share": float(sums.per_inference_ns.sum() / duration_ns.sum()),
        "held_ms_mean": 0.0 if held_ns is None else float(np.mean(held_ns)) * 1e-6,
        "without_held_ms_median": float(np.median(duration_ns)) * 1e-6,
    }


def rate_figures(inferences: Inferences, rate_hz: float) -> dict[str, Any]:
    """Return the figures of the rate pass: latency, frames, missed deadlines (late by a period)."""
    period_ns = 1e9 / rate_hz
    late_ns = inferences.end_ns - inferences.due_ns
    return {
        **latency(inferences),
        "rate_hz": rate_hz,
        "frames": len(late_ns),
        "missed_deadlines": int(np.count_nonzero(late_ns > period_ns)),
        "busy_share": float(inferences.duration_ns.sum() / max(1, len(late_ns)) / period_ns),
    }


@dataclass(frozen=True)
class Power:
    """The power of a run: a series per rail, with the board's total under `total` if it has one."""

    rails: Mapping[str, RailPower]
    total_of: tuple[str, ...] | None


def read_power(path: Path) -> Power:
    """Read `power.parquet` and derive power per rail and the board's total."""
    # A channel that never gave a value (disabled, vanished) is no rail to speak of.
    rails = {name: series for name, series in rail_powers(path).items() if len(series.t_ns)}
    total_of = total_rails_of(read_metadata(path), tuple(rails))
    if total_of is None:
        return Power(rails, None)
    return Power({**rails, TOTAL: total_power([rails[name] for name in total_of])}, total_of)


def baselines(
    power: Power, spans: Sequence[PhaseSpan], meanwhile: Meanwhile | None = None
) -> list[dict[str, Any]]:
    """Return the baselines of a run, one per idle phase, as they go into `idle.json`.

    Args:
        power: The run's power.
        spans: Its phases.
        meanwhile: What the machine did, None if nobody looked.
    """
    found = []
    for span in spans:
        if span.phase not in BASELINE_PHASES or span.end_ns is None:
            continue
        settle_ns = min(_SETTLE_MAX_NS, int((span.end_ns - span.start_ns) * _SETTLE_SHARE))
        start_ns = span.start_ns + settle_ns
        kind, when = BASELINE_PHASES[span.phase]
        conditions = None if meanwhile is None else meanwhile.during(start_ns, span.end_ns)
        found.append(baseline_entry(kind, when, power.rails, start_ns, span.end_ns, conditions))
    return found


def loaded_baseline(
    found: Sequence[Mapping[str, Any]], rail: str
) -> tuple[float | None, float | None]:
    """Return mean and half-width (mW) of idle with the engine loaded, before and after averaged."""
    parts = [
        item["rails"][rail]
        for item in found
        if item["kind"] == "loaded" and item["rails"].get(rail, {}).get("mean_mw") is not None
    ]
    if not parts:
        return None, None
    widths = [part["half_width_mw"] for part in parts]
    known = [width for width in widths if width is not None]
    half = float(np.hypot.reduce(known)) / len(parts) if len(known) == len(parts) else None
    return float(np.mean([part["mean_mw"] for part in parts])), half


def phase_energies(
    power: Power, spans: Sequence[PhaseSpan]
) -> dict[str, dict[str, dict[str, float]]]:
    """Return energy, mean power and seconds per phase and rail; spans of one phase are added.

    A span that the trace does not cover is left out: energy is not extrapolated.
    """
    sums: dict[str, dict[str, dict[str, float]]] = {}
    for span in spans:
        if span.end_ns is None or span.end_ns <= span.start_ns:
            continue
        for name, series in power.rails.items():
            part = energy_mj(series, span.start_ns, span.end_ns)
            if part.coverage < _COVERED:
                continue  # the set-up runs before the sampler
            cell = sums.setdefault(span.phase, {}).setdefault(
                name, {"energy_mj": 0.0, "seconds": 0.0}
            )
            cell["energy_mj"] += part.energy_mj
            cell["seconds"] += (span.end_ns - span.start_ns) * 1e-9
    for rails in sums.values():
        for cell in rails.values():
            cell["mean_mw"] = cell["energy_mj"] / cell["seconds"]
    return sums


def waited_spans(spans: Sequence[PhaseSpan], profiled: Mapping[str, Any] | None) -> Any:
    """Return the stretches of the profiled pass if it waited between inferences, else None.

    Args:
        spans: The phases.
        profiled: `profiled` of `measure.json`.
    """
    found = [(s.start_ns, s.end_ns) for s in spans if s.phase == "profiled" and s.end_ns]
    if not (profiled or {}).get("dither") or not found:
        return None
    return np.array(found, np.int64)


def _energies(
    series: RailPower,
    inferences: Inferences,
    spans_ns: np.ndarray | None = None,
    baseline_mw: float | None = None,
) -> np.ndarray:
    """Return the energy of each inference, mJ; where the pass waited, without its waiting.

    Raises:
        MeasurementError: The trace does not cover them: the sampler was gone or saw only errors.
    """
    times = inferences.start_ns, inferences.end_ns
    if spans_ns is None or baseline_mw is None:
        energies = energies_mj(series, *times)
    else:
        energies = energies_without_waiting(series, *times, spans_ns, baseline_mw)
    missing = int(np.count_nonzero(np.isnan(energies)))
    if missing:
        raise MeasurementError(
            f"rail {series.rail}: {missing} of {len(energies)} inferences lie outside its trace",
            "look at the sampler's errors in sampler.json",
        )
    return energies


def pass_energy(
    power: Power,
    rail: str,
    inferences: Inferences,
    idle: Sequence[Mapping[str, Any]],
    spans_ns: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return gross and dynamic energy per inference of a pass on one rail.

    Args:
        power: The run's power.
        rail: Which.
        inferences: Of the pass.
        idle: The baselines.
        spans_ns: int64 (k, 2), stretches of a pass that waited between inferences; else None.
    """
    mean_mw, half_mw = loaded_baseline(idle, rail)
    energies = _energies(power.rails[rail], inferences, spans_ns, mean_mw)
    found = per_inference(energies, inferences.duration_ns, mean_mw, half_mw)
    return {
        "gross_mj": found.gross_mj,
        "gross_statistical_mj": found.gross_half_width_mj,
        "dynamic_mj": found.dynamic_mj,
        "dynamic_statistical_mj": found.dynamic_half_width_mj,
        "interval_scope": "within this process",
        "mean_mw": found.mean_mw,
        "n": found.n,
    }


def rate_energy(power: Power, rail: str, inferences: Inferences, rate_hz: float) -> dict[str, Any]:
    """Return energy per frame of the rate pass, the time between frames included."""
    series = power.rails[rail]
    end_ns = int(inferences.due_ns[-1] + 1e9 / rate_hz)
    whole = energy_mj(series, int(inferences.due_ns[0]), end_ns)
    busy_mj = float(_energies(series, inferences).sum())
    busy_s = float(inferences.duration_ns.sum()) * 1e-9
    idle_s = (end_ns - int(inferences.due_ns[0])) * 1e-9 - busy_s
    return {
        "gross_mj_per_frame": whole.energy_mj / len(inferences.due_ns),
        "mean_mw": whole.mean_mw,
        "between_frames_mw": (whole.energy_mj - busy_mj) / idle_s if idle_s > 0 else None,
    }


def attribution(
    power: Power,
    profiled: Inferences,
    sums: LayerSums,
    idle: Sequence[Mapping[str, Any]],
    held_ns: np.ndarray | None = None,
    spans_ns: np.ndarray | None = None,
) -> list[EnergyRow]:
    """Return the proportional split on every rail and the total."""
    rows: list[EnergyRow] = []
    for name, series in power.rails.items():
        mean_mw, half_mw = loaded_baseline(idle, name)
        energies = _energies(series, profiled, spans_ns, mean_mw)
        rows += attribute(
            name, energies, profiled.duration_ns, sums.per_block_ns, mean_mw, half_mw, held_ns
        )
    return rows
