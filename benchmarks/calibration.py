#!/usr/bin/env python3
"""Calibrate simulated sensors of known parameters and report errors and coverage.

    python benchmarks/calibration.py [--repeats 40] [--quick] [--json] [--only NAME]

Each repetition draws a sensor's phase, a load's pulses, irregular polls and noise, and fits them
twice: as this project does, and as one would at first (period = median of the gaps between
changes; delay = lag at which reads and load correlate best, half a period taken off for the hold).
Figures per sensor and parameter: median and worst error, how often the figure was resolved, how
often the 95 % interval held the truth. Accuracy, not speed; the time is that of one fit.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edgejoule.energy.calibration import RailCalibration, fit_rail  # noqa: E402
from edgejoule.energy.sensor_model import SensorParameters, Waveform, simulate  # noqa: E402
from edgejoule.power.exciter_schedule import plan_edges  # noqa: E402

_START_NS = 7_200_000_000_000
_INA = SensorParameters(6.6e6, 1.1e6, delay_ns=1.1e6, lsb=8.0, noise=4.0)


def _ina(**changes: float) -> SensorParameters:
    return dataclasses.replace(_INA, **changes)


# name -> sensor, levels, seconds, share of the refresh between two polls
CASES: dict[str, tuple[SensorParameters, float, float, float]] = {
    "ina3221": (_ina(), 600, 1200, 30),
    "ina3221, low-pass 100 us": (_ina(tau_ns=100e3), 600, 1200, 30),
    "ina3221, low-pass 500 us": (_ina(tau_ns=500e3), 600, 1200, 30),
    "ina3221, N=4": (_ina(samples=4, tau_ns=300e3), 600, 1200, 30),
    "ina3221, N=16": (_ina(samples=16, tau_ns=300e3), 600, 1200, 30),
    "ina3221, N=64": (_ina(samples=64, tau_ns=300e3), 600, 1200, 60),
    "ina3221, coarse steps": (_ina(lsb=40, noise=10, tau_ns=300e3), 600, 1200, 30),
    "ina3221, clock drifts": (_ina(drift_per_s=3e-6, walk_ns=300, tau_ns=300e3), 600, 1200, 30),
    "one channel, fastest": (_ina(refresh_ns=280e3, window_ns=140e3, delay_ns=0), 600, 1200, 10),
    "nvml, 25 of 100 ms": (
        SensorParameters(100e6, 25e6, delay_ns=10e6, tau_ns=5e6, lsb=1, noise=500),
        90e3,
        400e3,
        60,
    ),
    "nvml, 1 s mean": (
        SensorParameters(100e6, 1e9, delay_ns=20e6, lsb=1, noise=300),
        90e3,
        400e3,
        60,
    ),
}
NAMES = ("refresh_ns", "window_ns", "samples", "delay_ns", "tau_ns", "centre_ns", "lsb")


@dataclasses.dataclass(frozen=True)
class Trial:
    """One repetition: truth, our fit, the first idea's period and centre, seconds of our fit."""

    truth: dict[str, float]
    found: RailCalibration
    naive: dict[str, float]
    seconds: float


def trial(name: str, seed: int) -> Trial:
    """Simulate one recording and fit it."""
    model, low, high, seconds = CASES[name]
    rng = np.random.default_rng([seed, *name.encode()])
    model = dataclasses.replace(model, phase_ns=_START_NS + rng.uniform(0, model.refresh_ns))
    poll_ns = max(model.refresh_ns, 2e6)  # a reader is no faster than that
    gaps = rng.uniform(0.12, 0.25, int(seconds * 1e9 / (0.12 * poll_ns))) * poll_ns
    t0 = _START_NS + np.cumsum(gaps).astype(np.int64)
    t0 = t0[t0 < _START_NS + seconds * 1e9]
    t1 = t0 + np.rint(rng.uniform(0.8, 1.2, len(t0)) * min(500e3, 0.05 * poll_ns)).astype(np.int64)
    lead = int(0.02 * seconds * 1e9)
    edges = plan_edges(int(seconds * 1e9) - 2 * lead, int(poll_ns), seed)
    wave_edges = _START_NS + lead + np.array(edges, np.int64)
    power = np.full(len(wave_edges) + 1, low, np.float64)
    power[1::2] = high
    load = Waveform(wave_edges, power)
    values = simulate(model, load, t0 + (t1 - t0) // 2, rng)
    started = time.perf_counter()
    found = fit_rail(t0, t1, values, load)
    took = time.perf_counter() - started
    truth = {name: float(getattr(model, name)) for name in NAMES if name != "centre_ns"}
    # A clock that drifts has no one period: the mean over the data is what is asked for.
    truth["refresh_ns"] *= 1 + 0.5 * model.drift_per_s * seconds
    truth["centre_ns"] = model.delay_ns + 0.5 * model.window_ns + model.tau_ns
    truth |= {"low": low, "high": high}
    return Trial(truth, found, first_idea(t0, t1, values, load), took)


def first_idea(
    t0: np.ndarray, t1: np.ndarray, values: np.ndarray, load: Waveform
) -> dict[str, float]:
    """Return the refresh as the median gap between changes, the centre by cross-correlation."""
    middle = t0 + (t1 - t0) // 2
    changed = np.flatnonzero(np.diff(values))
    period = float(np.median(np.diff(middle[changed + 1]))) if len(changed) > 1 else np.nan
    step = 100e3 if period < 20e6 else 1e6
    grid = np.arange(middle[0], middle[-1], int(step))
    read = values[np.maximum(0, np.searchsorted(middle, grid, side="right") - 1)]
    wave = load.power[np.searchsorted(load.edges_ns, grid, side="right")]
    size = 1 << int(np.ceil(np.log2(2 * len(grid))))
    spectrum = np.fft.rfft(read - read.mean(), size) * np.conj(
        np.fft.rfft(wave - wave.mean(), size)
    )
    product = np.fft.irfft(spectrum, size)[: len(grid) // 2]
    return {"refresh_ns": period, "centre_ns": float(np.argmax(product)) * step - 0.5 * period}


def summarise(trials: list[Trial]) -> dict[str, dict[str, float | None]]:
    """Return per parameter: truth, errors in per cent (of the truth, or absolute), coverage."""
    table: dict[str, dict[str, float | None]] = {}
    for name in (*NAMES, "low", "high"):
        truth = trials[0].truth[name]
        scale = 100 / truth if truth else 1.0
        found = [t.found[name] for t in trials]
        errors = [abs(p.value - truth) * scale for p in found if p.value is not None]
        held = [
            (p.low is None or p.low <= truth) and (p.high is None or truth <= p.high)
            for p in found
            if p.low is not None or p.high is not None
        ]
        naive = [abs(t.naive[name] - truth) * scale for t in trials if name in t.naive]
        table[name] = {
            "truth": truth,
            "relative": bool(truth),
            "resolved": len(errors) / len(trials),
            "median_error": float(np.median(errors)) if errors else None,
            "worst_error": float(np.max(errors)) if errors else None,
            "covered": float(np.mean(held)) if held else None,
            "naive_median_error": float(np.median(naive)) if naive else None,
        }
    return table


def main() -> int:
    """Run the repetitions and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=40, help="per sensor (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="two per sensor, within a minute")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", help="only sensors whose name contains this")
    args = parser.parse_args()
    repeats = 2 if args.quick else args.repeats
    figures = {}
    for name in CASES:
        if args.only and args.only not in name:
            continue
        trials = [trial(name, seed) for seed in range(repeats)]
        figures[name] = {
            "repeats": repeats,
            "seconds_per_fit": float(np.median([t.seconds for t in trials])),
            "parameters": summarise(trials),
        }
        if not args.json:
            print_table(name, figures[name])
    if args.json:
        print(json.dumps(figures))
    return 0


def print_table(name: str, figures: dict) -> None:
    """Print one sensor's rows."""
    print(f"\n{name}: {figures['repeats']} repetitions, {figures['seconds_per_fit']:.1f} s per fit")
    print(f"  {'parameter':11s} {'truth':>12s} {'resolved':>8s} {'median':>9s} {'worst':>9s} "
          f"{'covered':>8s} {'first idea':>10s}")  # fmt: skip
    for parameter, row in figures["parameters"].items():
        unit = "%" if row["relative"] else ""
        texts = [
            "-" if row[key] is None else f"{row[key]:.3g}{unit}"
            for key in ("median_error", "worst_error", "naive_median_error")
        ]
        covered = "-" if row["covered"] is None else f"{100 * row['covered']:.0f}%"
        resolved = f"{100 * row['resolved']:.0f}%"
        print(f"  {parameter:11s} {row['truth']:12.6g} {resolved:>8s} {texts[0]:>9s} "
              f"{texts[1]:>9s} {covered:>8s} {texts[2]:>10s}", flush=True)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
