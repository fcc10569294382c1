"""Runs to draw: a whole one with hostile names, groups and everything over time, and its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgejoule.report.series import (
    ConditionSeries,
    PassLatency,
    PhaseSpan,
    RailSeries,
    RunSeries,
)
from edgejoule.report.tables import RunTables, load_run
from tests.support_tables import LAYERS, build, energy_row

HOSTILE = '<img src=x onerror="alert(1)">%{x} $\\frac{1}{2}$ {{7*7}} & co'
LONG = "Conv_" + "1234567890_" * 40
FOREIGN = "层 convolución \u202eevil\u202c \x1b[31m"
NAMES = (HOSTILE, LONG, FOREIGN, "conv1", "fc")
WHY = "its interval is too wide for a figure"
SUMMARY: dict[str, Any] = {
    "clean": {"mean_ms": 4.0, "median_ms": 3.9, "p90_ms": 4.4, "p99_ms": 5.2, "inferences": 100},
    "profiled": {"mean_ms": 16.0, "median_ms": 16.0, "p90_ms": 17.0, "p99_ms": 18.0},
    "roofline": {"peak_gflops": 10.0, "peak_gbs": 1.0, "dtype": HOSTILE, "how": "torch"},
    "sampler": {
        "lateness_us_log2": [0, 3, 40, 5, 0, 0],
        "late_deadlines": 5,
        "gaps": 0,
        "groups": {HOSTILE: {"lateness_us_log2": [0, 3, 40, 5, 0, 0], "late_deadlines": 5}},
        "attribution": {"lateness_us_log2": [0, 0, 90, 10]},
    },
}


def layers(count: int = len(NAMES)) -> list[dict[str, Any]]:
    """Layers of engine.json: the hostile names first, modules two deep, the second one unmapped."""
    return [
        {
            **LAYERS[k % 3],
            "index": k,
            "name": NAMES[k] if k < len(NAMES) else f"layer_{k}_{'x' * 30}",
            "module_path": None if k == 1 else f"{HOSTILE}.{k // 2}.conv{k}",
        }
        for k in range(count)
    ]


def energies(count: int = len(NAMES), method: str = "window") -> list[dict[str, Any]]:
    """8, 4, ... mJ; layers 2 and 3 together; the last one below zero, as noise makes it."""
    apart: dict[str, Any] = {"gross_mj": None, "resolved": False, "group": 2, "why": WHY}
    found = []
    for k in range(count):
        own: dict[str, Any] = {
            "gross_mj": -0.25 if k == count - 1 else 8.0 / (k + 1),
            "gross_statistical_mj": 0.4,
            "dynamic_mj": 5.0 / (k + 1),
            "dynamic_statistical_mj": 0.3,
            "resolved": True,
        }
        found.append(energy_row(method, "total", k, **(apart if k in {2, 3} else own)))
    found.append(energy_row(method, "total", None, kind="group", gross_mj=3.0, dynamic_mj=1.5,
                            resolved=True, group=2))  # fmt: skip
    found.append(energy_row(method, "total", None, gross_mj=1.0, dynamic_mj=0.5))
    return found


def series(columns: int = 40) -> RunSeries:
    """Two rails with a gap in the middle, three passes, five columns of conditions."""
    t_s = np.linspace(0.5, 39.5, columns)
    watts = 5.0 + np.sin(t_s)
    watts[columns // 2] = np.nan
    rails = tuple(
        RailSeries(name, t_s, scale * watts, scale * watts - 0.1, scale * watts + 0.2, 400, 1)
        for name, scale in ((HOSTILE, 0.5), ("VDD_SOC", 0.25), ("total", 1.0))
    )
    spans = [PhaseSpan("setup", 0, 2), PhaseSpan("idle_before", 2, 8), PhaseSpan("warmup", 8, 10)]
    spans.append(PhaseSpan("clean", 10, 20))
    for k in range(100):
        start = 20 + 0.1 * k
        spans += [PhaseSpan("profiled", start, start + 0.07),
                  PhaseSpan("harvest", start + 0.07, start + 0.1)]  # fmt: skip
    spans += [PhaseSpan(HOSTILE, 30, 33), PhaseSpan("idle_after", 33, 40)]
    passes = tuple(
        PassLatency(
            name, 100, np.linspace(low, low + 2, 21), np.array([5] * 19 + [4]), 1,
            np.linspace(at, at + 9, 20), np.full(20, low + 1.0), np.full(20, low + 0.5),
            np.full(20, low + 1.5),
        )
        for name, low, at in (("warmup", 4, 8), ("clean", 3.5, 10), ("profiled", 15, 20))
    )  # fmt: skip
    x = np.arange(0.0, 40.0)
    conditions = tuple(
        ConditionSeries(name, kind, unit, x, np.full(40, value))
        for name, kind, unit, value in (
            ("gpu_mhz", "clock", "MHz", 918.0),
            (f"temperature_{HOSTILE}_c", "temperature", "\u00b0C", 51.0),
            ("cpu_busy_percent", "load", "%", 40.0),
            ("memory_available_mib", "memory", "MiB", 20480.0),
            ("rss_measuring_mib", "memory", "MiB", 300.0),
        )
    )
    return RunSeries(1, tuple(spans), rails, passes, conditions)


def drawn_run(folder: Path, count: int = len(NAMES), **run: Any) -> RunTables:
    """Build a simulated run of so many layers with everything there is to draw."""
    from dataclasses import replace

    fields = {"summary": SUMMARY, "simulated": True, "weights": "random", **run}
    times_ns = [4_000_000 // (k + 1) for k in range(count)]
    path = build(folder, "net", layers=layers(count), energy=energies(count), run=fields,
                 layer_ns=times_ns, gap_ns=500_000, profiled=12)  # fmt: skip
    return replace(load_run(path), series=series())
