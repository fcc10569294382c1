"""Replay on a GPU without the rest of the pipeline: every group alone, the whole, the closure.

    python3 -m tests.support_replay_gpu resnet18 1 [seconds per group] [most seconds]

Idle power is measured for 2 s with the context alive, the whole network before and after. Energy is
NVML's counter between its own ticks. The rule: dynamic energy of a layer = energy above idle per
execution while it repeats alone.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import model
from edgejoule.errors import MeasurementError
from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.inputs import make_inputs
from edgejoule.inference.replaying import Repeatable
from edgejoule.inference.torch_backend import TorchBackend
from edgejoule.inference.workload import ModelRequest
from edgejoule.power.nvml_library import open_nvml

WARM_S = 0.3


def main(net: str, batch: int, seconds: float = 0.8, budget_s: float = 400.0) -> None:
    nvml = open_nvml()
    read = nvml.energy_reader(next(nvml.devices())[1])
    options = BuildOptions(
        "float16", device="cuda:0", extra={"channels_last": True, "cudnn_benchmark": True}
    )
    folder = Path(tempfile.mkdtemp())
    request = ModelRequest(net, "random", 0, (batch, 3, 224, 224), "torch", folder)
    loaded = model.load(request)
    backend = TorchBackend()
    backend.build(loaded, options, folder)
    session: Any = backend.open(folder, options)
    sets, _ = make_inputs("normal", loaded.inputs, None, 0)
    session.bind(sets)
    session.infer(0)
    print(f"{net} batch {batch}, {torch.cuda.get_device_name(0)}, torch {torch.__version__}")
    time.sleep(1.0)  # until the clocks are down
    idle_w, _ = measured(read, 2.0, lambda: time.sleep(0.005) or 0)
    print(f"idle {idle_w:.1f} W")
    begin = time.perf_counter()
    replayer = session.replayer()
    plan = replayer.plan()
    print(f"plan in {time.perf_counter() - begin:.1f} s: {len(plan.groups)} groups, ", end="")
    print(f"{len(plan.nothing)} nothing, left out {dict(plan.left_out)}")
    print(*plan.notes, sep="\n")
    before = repeat(read, replayer.whole(), 3.0, idle_w, "whole")
    total_mj = total_us = 0.0
    for number, group in enumerate(plan.groups):
        if time.perf_counter() - begin > budget_s:
            print(f"out of time: {len(plan.groups) - number} groups are missing")
            break
        try:
            opened = time.perf_counter()
            alone = replayer.layer(group[0])
            took = time.perf_counter() - opened
        except MeasurementError as error:
            print(f"layer {group[0]}: {error}")
            continue
        name = f"{group[0]:4d} x{len(group):<3d} opened in {took:.2f} s"
        mj, us = repeat(read, alone, seconds, idle_w, name)
        total_mj += mj * len(group)
        total_us += us * len(group)
    after = repeat(read, replayer.whole(), 3.0, idle_w, "whole")
    mean_mj = (before[0] + after[0]) / 2
    print(f"whole {mean_mj:.4f} mJ dynamic ({before[0]:.4f}, {after[0]:.4f}), {before[1]:.1f} us")
    print(f"sum of layers {total_mj:.4f} mJ, {total_us:.1f} us: closure {total_mj / mean_mj:.4f}")
    for index in plan.duplicable[:3]:
        rows = [(n, repeat(read, replayer.duplicated(index, n), 1.0, idle_w)) for n in (1, 2, 4)]
        (_, (one, _)), *_, (most, (many, _)) = rows
        slope = (many - one) / (most - 1)
        alone_mj, _ = repeat(read, replayer.layer(index), 1.0, idle_w)
        print(f"layer {index} again: slope {slope:.5f} mJ, alone {alone_mj:.5f} mJ")
    print(f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB at most, ", end="")
    replayer.close()
    print(f"{torch.cuda.memory_allocated() / 2**20:.0f} MiB at the end")
    session.close()


def repeat(
    read: Callable[[], int], it: Repeatable, seconds: float, idle_w: float, name: str = ""
) -> tuple[float, float]:
    """Return dynamic mJ and microseconds per execution."""
    end = time.perf_counter() + WARM_S
    while time.perf_counter() < end:
        it.launch()
    watts, each_s = measured(read, seconds, it.launch)
    facts = it.facts()
    it.close()
    mj = (watts - idle_w) * each_s * 1e3
    if name:
        print(f"{name}: {each_s * 1e6:10.2f} us {watts:6.1f} W {mj:9.5f} mJ {told(facts)}")
    return mj, each_s * 1e6


def measured(
    read: Callable[[], int], seconds: float, work: Callable[[], int]
) -> tuple[float, float]:
    """Return watts and seconds per execution between the counter's first and its last tick."""
    value, done, first = read(), 0, None
    last = (0.0, 0, 0)
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or first is None or last[0] == first[0]:
        done += work()
        found = read()
        if found != value:
            last = (time.perf_counter(), found, done)
            first = first or last
            value = found
    taken = last[0] - first[0]
    return (last[1] - first[1]) / taken / 1e3, taken / max(1, last[2] - first[2])


def told(facts: dict[str, Any]) -> str:
    how = f"{facts['clock_mhz']} MHz {facts['how']} of {facts['executions_per_launch']}"
    if "operation" not in facts:
        return how
    turns = " ".join(
        f"{one['tensor'].replace('weight ', 'w').replace('input ', 'i')}:{one['bytes'] / 2**20:.2f}"
        f"MiB/{one['distance_bytes'] / 2**20:.0f}x{one['copies']}"
        for one in facts["rotation"]
    )
    return f"{how} {facts['operation']} {turns}"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *(float(value) for value in sys.argv[3:]))
