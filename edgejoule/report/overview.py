"""One row per run: what `summary.csv`, `report.json`, the page and the choice show alike."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from edgejoule.dataset.tables.layer_table import choose_rail, processor
from edgejoule.dataset.tables.source import SourceRun
from edgejoule.report.attribution import duplication, ends
from edgejoule.report.energies import batch_of, best_of
from edgejoule.report.tables import TOTAL, number, part
from edgejoule.report.verdict import baselines_of, best_figures, verdict_of

if TYPE_CHECKING:
    from edgejoule.report.tables import RunTables

Verdict = Literal["sound", "look", "broken"]


@dataclass(frozen=True)
class Overview:
    """The figures of one run; None where it does not have them. Units stand in the names.

    Energies are those of the clean pass per inference, on the rail `total` where there is one,
    otherwise on the rail that stands for the run; half-widths are of 95 % intervals within the
    process.

    Attributes:
        run: Its name.
        model: As asked for.
        backend: Runtime.
        dtype: Precision.
        batch: Images of an inference.
        device: What it ran on: the GPU's or CPU's name.
        board: The board's id, else the machine's name for people.
        mode: Power mode.
        repeat: Which repeat, 0 where only one was asked for.
        rebuild: Which build.
        status: `complete`, `incomplete`, `failed`.
        marks: What must stand wherever the run is shown (`SIMULATED power`, `random weights`, ...).
        simulated: Whether its power is made up.
        sensor: What power was read from, None for nothing.
        weights: `pretrained`, `random`, `user`, `unknown`.
        started_at: ISO 8601.
        inferences: Of the clean pass.
        p50_ms: Median latency of the clean pass.
        p90_ms: Ninetieth percentile.
        p99_ms: Ninety-ninth percentile.
        mean_ms: Mean.
        mean_half_ms: Half-width of the mean's interval.
        throughput_hz: Images per second: batch over mean latency.
        rail: What the energies are of.
        gross_mj: Energy per inference.
        gross_half_mj: Its half-width.
        dynamic_mj: Above the baseline.
        dynamic_half_mj: Its half-width.
        gross_mj_per_image: Energy per image of the batch.
        systematic_mj: Bound on what repeating cannot average out, per profiled inference, whose
            energy is seldom below a clean one's.
        mean_w: Average power of the clean pass.
        peak_w: Greatest single reading of the clean and profiled passes; only with the series.
        idle_w: Idle power with the engine loaded.
        rate_hz: Rate of the rate pass.
        missed_deadlines: In the rate pass.
        gross_mj_per_frame: Energy of a period of the rate pass, waiting included.
        rate_mean_w: Average power of the rate pass.
        memory_mib: Greatest memory.
        memory_limit_mib: Its limit.
        temperature_c: Greatest temperature during the run, of any sensor of it; only with the
            series.
        profiled_over_clean: Latency with over latency without the layer profiler.
        method: How energies of layers were found; None where there are none.
        closure_gross: Sum over layers and gap over the inference measured apart; None where the
            method adds up by construction, or layers are missing in the sum.
        closure_dynamic: The same above the baseline.
        closure_held_out: The gross one on blocks of time that were not fitted.
        resolved_share: Part of the energy that single layers are known to take.
        duplication_slope: Median of increase over attributed energy.
        duplication_layers: Layers behind it.
        relative_error: Outputs against float32, mean relative error.
        layers: How many layers.
        verdict: `sound`: nothing speaks against it; `look`: read the reasons before using a figure;
            `broken`: incomplete, failed, or a part is missing.
        reasons: Why, one sentence each; empty where sound.
    """

    run: str
    model: str
    backend: str | None = None
    dtype: str | None = None
    batch: int = 1
    device: str | None = None
    board: str | None = None
    mode: str | None = None
    repeat: int = 0
    rebuild: int = 0
    status: str = "complete"
    marks: tuple[str, ...] = ()
    simulated: bool = False
    sensor: str | None = None
    weights: str | None = None
    started_at: str | None = None
    inferences: int | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    mean_ms: float | None = None
    mean_half_ms: float | None = None
    throughput_hz: float | None = None
    rail: str | None = None
    gross_mj: float | None = None
    gross_half_mj: float | None = None
    dynamic_mj: float | None = None
    dynamic_half_mj: float | None = None
    gross_mj_per_image: float | None = None
    systematic_mj: float | None = None
    mean_w: float | None = None
    peak_w: float | None = None
    idle_w: float | None = None
    rate_hz: float | None = None
    missed_deadlines: int | None = None
    gross_mj_per_frame: float | None = None
    rate_mean_w: float | None = None
    memory_mib: float | None = None
    memory_limit_mib: float | None = None
    temperature_c: float | None = None
    profiled_over_clean: float | None = None
    method: str | None = None
    closure_gross: float | None = None
    closure_dynamic: float | None = None
    closure_held_out: float | None = None
    resolved_share: float | None = None
    duplication_slope: float | None = None
    duplication_layers: int | None = None
    relative_error: float | None = None
    layers: int = 0
    verdict: Verdict = "sound"
    reasons: tuple[str, ...] = field(default=())


def overview_of(run: RunTables) -> Overview:
    """Return the row of a run; what it does not say is None."""
    found = Overview(**_identity(run), **_latency(run), **_energy(run), **_attribution(run))
    verdict, reasons = verdict_of(run, found)
    return replace(found, verdict=verdict, reasons=reasons)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _whole(holder: Mapping[str, Any], key: str) -> int | None:
    value = number(holder, key)
    return None if value is None else int(value)


def _identity(run: RunTables) -> dict[str, Any]:
    plain, config = run.run, run.config
    sensor = _text(part(plain, "sensor").get("name"))
    return {
        "run": run.name,
        "model": _text(config.get("model")) or run.name,
        "backend": _text(config.get("backend")),
        "dtype": _text(config.get("dtype")),
        "batch": batch_of(plain),
        "device": processor({**plain, "config": config}, {}) or _text(config.get("device")),
        "board": _text(plain.get("board_id")) or _board(part(plain, "machine")),
        "mode": _text(plain.get("power_mode")) or _text(config.get("mode")),
        "repeat": _whole(config, "repeat") or 0,
        "rebuild": _whole(config, "rebuild") or 0,
        "status": str(plain.get("status", "complete")),
        "marks": run.marks,
        "simulated": run.simulated,
        "sensor": None if sensor == "none" else sensor,
        "weights": _text(plain.get("weights")) or _text(config.get("weights")),
        "started_at": _text(plain.get("started_at")),
        "layers": len(run.layers),
    }


def _board(machine: Mapping[str, Any]) -> str | None:
    names = part(machine, "board").get("names")
    told = names[0] if isinstance(names, list) and names else None
    return _text(machine.get("board_id")) or _text(told)


def _latency(run: RunTables) -> dict[str, Any]:
    clean = part(run.summary, "clean")
    mean = number(clean, "mean_ms")
    interval = ends(clean.get("interval_mean_ms"))
    memory = part(run.summary, "memory")
    peak = number(memory, "peak_mib")
    return {
        "inferences": _whole(clean, "inferences"),
        "p50_ms": number(clean, "median_ms"),
        "p90_ms": number(clean, "p90_ms"),
        "p99_ms": number(clean, "p99_ms"),
        "mean_ms": mean,
        "mean_half_ms": None if interval is None else (interval[1] - interval[0]) / 2,
        "throughput_hz": batch_of(run.run) / mean * 1e3 if mean and mean > 0 else None,
        "profiled_over_clean": number(run.summary, "profiled_over_clean"),
        # Up to format 2 only the process's own was known.
        "memory_mib": number(memory, "measure_peak_rss_mib") if peak is None else peak,
        "memory_limit_mib": number(part(memory, "limit"), "limit_mib"),
        "temperature_c": _greatest_temperature(run),
        "relative_error": number(part(run.run, "accuracy"), "mean_relative_error"),
    }


def _greatest_temperature(run: RunTables) -> float | None:
    from edgejoule.report.series_conditions import greatest

    return greatest(run.series.conditions, "temperature")


def rail_of(run: RunTables, rails: Sequence[str]) -> str | None:
    """Return which of some rails stands for the run, None where nothing tells."""
    try:
        return choose_rail(SourceRun(run.path, run.run), rails, None)
    except (AttributeError, KeyError, TypeError):  # a run.json in pieces names no sensor
        return TOTAL if TOTAL in rails else None


def _energy(run: RunTables) -> dict[str, Any]:
    energy = part(run.summary, "energy")
    rails = part(energy, "rails")
    rail = rail_of(run, [name for name in rails if part(rails, name, "clean")])
    clean = part(rails, rail, "clean") if rail is not None else {}
    if not clean and part(energy, "clean"):  # formats and programs that keep the total's only
        rail, clean = str(energy.get("rail") or TOTAL), part(energy, "clean")
    gross = number(clean, "gross_mj")
    rate = part(run.summary, "rate")
    framed = part(rate, "energy", rail) if rail is not None else {}
    mean_mw, rate_mw = number(clean, "mean_mw"), number(framed, "mean_mw")
    peaks = [one.peak_w for one in run.series.power if one.rail == rail]
    return {
        "rail": rail,
        "gross_mj": gross,
        "gross_half_mj": number(clean, "gross_statistical_mj"),
        "dynamic_mj": number(clean, "dynamic_mj"),
        "dynamic_half_mj": number(clean, "dynamic_statistical_mj"),
        "gross_mj_per_image": None if gross is None else gross / batch_of(run.run),
        "mean_w": None if mean_mw is None else mean_mw * 1e-3,
        "peak_w": peaks[0] if peaks else None,
        "idle_w": _idle_w(run, rail),
        "rate_hz": number(rate, "rate_hz"),
        "missed_deadlines": _whole(rate, "missed_deadlines"),
        "gross_mj_per_frame": number(framed, "gross_mj_per_frame"),
        "rate_mean_w": None if rate_mw is None else rate_mw * 1e-3,
    }


def _idle_w(run: RunTables, rail: str | None) -> float | None:
    """Return idle power with the engine loaded, before and after averaged."""
    if rail is None:
        return None
    loaded = (part(one, "rails", rail) for one in baselines_of(run) if one.get("kind") == "loaded")
    means = [mean for one in loaded if (mean := number(one, "mean_mw")) is not None]
    return statistics.fmean(means) * 1e-3 if means else None


def _attribution(run: RunTables) -> dict[str, Any]:
    best, figures = best_of(run.rollups), best_figures(run)
    checked = [one.ratio.value for one in duplication(run) if one.ratio.value is not None]
    closed = figures is not None and not figures.missing
    return {
        "method": None if best is None else best.method,
        "systematic_mj": None if best is None else best.inference.systematic_mj,
        "closure_gross": figures.gross.value if figures and closed else None,
        "closure_dynamic": figures.dynamic.value if figures and closed else None,
        "closure_held_out": figures.held_out.value if figures and closed else None,
        "resolved_share": None if figures is None else figures.resolved_share,
        "duplication_slope": statistics.median(checked) if checked else None,
        "duplication_layers": len(checked) or None,
    }
