#!/usr/bin/env python3
"""How long attribution takes: 30 000 inferences of 60 layers, 300 000 samples.

    python benchmarks/attribution_speed.py [--inferences 30000] [--layers 60] [--quick] [--json]

`window` and `interval` on one simulated pass, and beside them, in the same run, the plain loop over
layers and samples that the older rule is when one writes it down first: for every layer of every
inference the samples within it. The loop runs on some inferences against all samples, and its time
is scaled by how many there are; on those it must give the same energies as `interval`, which is
checked. Targets: `window` under 10 s on two cores, the loop at least 50 times as long.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edgejoule.energy.interval import attribute_interval, begins_ns  # noqa: E402
from edgejoule.energy.timeline import ChannelReads, Timeline  # noqa: E402
from edgejoule.energy.trace import RailPower  # noqa: E402
from edgejoule.energy.window import attribute_window  # noqa: E402
from edgejoule.errors import MeasurementError, run_command  # noqa: E402
from edgejoule.simulation import SCENARIOS, simulate  # noqa: E402

WITHIN_S, TIMES_SLOWER, SAMPLES = 10.0, 50.0, 300_000
LOOPED = 40  # inferences that the plain loop runs on
CLOSE = 1e-9
LAYERS_MS = 11.2  # so that 30 000 inferences take 300 000 samples at the attribution rate


def some(timeline: Timeline, count: int) -> Timeline:
    """Return the first inferences of a timeline."""
    offset, held = timeline.offset_ns, timeline.held_ns
    return Timeline(
        timeline.start_ns[:count],
        timeline.end_ns[:count],
        timeline.layer_ns[:count],
        None if offset is None else offset[:count],
        None if held is None else held[:count],
    )


def series_of(reads: ChannelReads) -> RailPower:
    """Return what a channel showed as power over time."""
    t_ns = (reads.t0_ns + reads.t1_ns) // 2
    keep = np.append(True, np.diff(t_ns) > 0)
    return RailPower(reads.rail, t_ns[keep], reads.power_mw[keep])


def plain_loop(series: RailPower, timeline: Timeline) -> list[float]:
    """Return each layer's energy, mJ: mean of the samples within it times its mean time."""
    begins = begins_ns(timeline)
    found = []
    for layer in range(timeline.layers):
        values: list[float] = []
        for inference in range(len(timeline.start_ns)):
            begin = timeline.start_ns[inference] + begins[inference, layer]
            end = begin + timeline.layer_ns[inference, layer]
            within = (series.t_ns >= begin) & (series.t_ns <= end)
            values += series.power_mw[within].tolist()
        mean = sum(values) / len(values) if values else float("nan")
        found.append(mean * float(timeline.layer_ns[:, layer].mean()) * 1e-9)
    return found


def compare(inferences: int, layers: int, seed: int) -> dict[str, Any]:
    """Simulate a pass and time what attributes it.

    Raises:
        MeasurementError: Loop and `interval` do not give the same energies.
    """
    scenario = replace(
        SCENARIOS["gap15-unequal"], inferences=inferences, layers=layers, layers_ms=LAYERS_MS
    )
    found = simulate(scenario, seed)
    rail, reads = next(iter(found.reads.items()))
    idle = found.idle_mw[rail]
    series = series_of(reads)
    began, used = time.perf_counter(), time.process_time()
    answer = attribute_window(
        rail,
        found.timeline,
        reads,
        baseline_mw=idle.measured_mw,
        baseline_half_width_mw=idle.half_width_mw,
        seed=seed,
    )
    window_s, window_cpu_s = time.perf_counter() - began, time.process_time() - used
    began = time.perf_counter()
    attribute_interval(rail, series, found.timeline, idle.measured_mw, idle.half_width_mw)
    interval_s = time.perf_counter() - began
    part = some(found.timeline, min(LOOPED, inferences))
    began = time.perf_counter()
    looped = plain_loop(series, part)
    loop_s = (time.perf_counter() - began) * inferences / len(part.start_ns)
    rows = attribute_interval(rail, series, part, None, None)[:layers]
    for layer, (row, value) in enumerate(zip(rows, looped, strict=True)):
        have = float("nan") if row.gross_mj is None else row.gross_mj
        if not np.isclose(have, value, rtol=CLOSE, equal_nan=True):
            raise MeasurementError(f"layer {layer}: interval gives {have} mJ, the loop {value} mJ")
    truth = found.truth[rail].layer_mj
    errors = [
        abs(row.gross_mj / truth[row.layer] - 1)
        for row in answer.rows
        if row.kind == "layer" and row.layer is not None and row.gross_mj is not None
    ]
    return {
        "inferences": inferences,
        "layers": layers,
        "samples": len(reads.raw),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "load": os.getloadavg()[0],
        "window_s": window_s,
        "window_cpu_s": window_cpu_s,
        "window_resolved": len(errors),
        "window_median_error": float(np.median(errors)) if errors else None,
        "interval_s": interval_s,
        "loop_s": loop_s,
        "loop_over_window": loop_s / window_s,
        "loop_over_interval": loop_s / interval_s,
        "met": {
            "window_under_10_s": window_s < WITHIN_S,
            "loop_50_times": loop_s / window_s >= TIMES_SLOWER,
            "enough_samples": len(reads.raw) >= SAMPLES,
        },
    }


def main() -> int:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--inferences", type=int, default=30_000, help="default: %(default)s")
    parser.add_argument("--layers", type=int, default=60, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="1500 inferences of 20 layers")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    arguments = parser.parse_args()

    def run() -> None:
        inferences, layers = arguments.inferences, arguments.layers
        if arguments.quick:
            inferences, layers = 1500, 20
        found = compare(inferences, layers, arguments.seed)
        if arguments.json:
            print(json.dumps(found))
            return
        print(
            f"{found['inferences']} inferences, {found['layers']} layers, {found['samples']} "
            f"samples; {found['cores']} cores, load {found['load']:.1f}"
        )
        error = found["window_median_error"]
        print(
            f"window    {found['window_s']:9.2f} s   (target: under {WITHIN_S:g} s; "
            f"{found['window_cpu_s']:.1f} s of CPU time), "
            f"{found['window_resolved']} layers resolved, median error "
            f"{'-' if error is None else f'{error:.2%}'}"
        )
        print(f"interval  {found['interval_s']:9.2f} s")
        print(
            f"loop      {found['loop_s']:9.2f} s   {found['loop_over_window']:.0f} times window "
            f"(target: {TIMES_SLOWER:g}), {found['loop_over_interval']:.0f} times interval; timed "
            f"on {min(LOOPED, inferences)} inferences and scaled"
        )

    return run_command(run)


if __name__ == "__main__":
    sys.exit(main())
