"""A dataset with everything that a page must bear: whole, hostile, broken, and half-empty runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support_dataset import Plan, channels_of
from tests.support_tables import build, energy_row, tensor

# What a name would do if it were anything but text. A run's name is a folder's, so it has no `/`.
HOSTILE_RUN = "<img src=x onerror=hacked()>\"'&amp;{{7*7}}%{y} `x` |שלום| 模型 " + "very-long-" * 9
HOSTILE_LAYERS = (
    "</script><script>hacked()</script>",
    '<img src=x onerror="hacked()"> & \'quotes\' "too"',
    '<a href="javascript:hacked()">x</a><br><b>bold</b>',
    "%{y} {{7*7}} ${hacked()} <!-- -->",
    "畳み込み/レイヤー_слой_couche_é",
    "שכבה של רשת (abc) \u202egnp.exe",
    "tab\tnewline\nescape\x1b[31m separator\u2028 half\ud800",
    "PWN(LAYER)__" + " + ".join(f"/model/block.{n}/conv/Conv" for n in range(40)),
    "x" * 300,
    "",
)
OPERATIONS = ("convolution", "pooling", "dense", "elementwise", "activation")


def layer(index: int, name: str, module: str | None) -> dict[str, Any]:
    """A layer as engine.json has it."""
    return {
        "index": index,
        "name": name,
        "type": "Conv",
        "operation": OPERATIONS[index % len(OPERATIONS)],
        "module_path": module,
        "inputs": [tensor(1, 3, 8, 8)],
        "outputs": [tensor(1, 3, 8, 8)],
        "flops": 20_000 * (index + 1),
        "bytes_moved": 30_000,
    }


def energies(count: int) -> list[dict[str, Any]]:
    """Rows of a regression that resolves all layers but the last two, which are a group."""
    found = []
    for index in range(count):
        alone = index < count - 2
        found.append(
            energy_row(
                "window",
                "total",
                index,
                gross_mj=1.0 + index if alone else None,
                gross_statistical_mj=0.1 if alone else None,
                dynamic_mj=0.8 + index if alone else None,
                dynamic_statistical_mj=0.1 if alone else None,
                resolved=alone,
                group=None if alone else count - 2,
                why=None if alone else "its <interval> is too wide for a figure",
                time_ms=0.1 * (index + 1),
            )
        )
    group = {"kind": "group", "gross_mj": 2.0, "dynamic_mj": 1.5, "resolved": True}
    found.append(energy_row("window", "total", None, **group, group=count - 2, time_ms=0.2))
    found.append(energy_row("window", "total", None, gross_mj=1.0, dynamic_mj=0.5, time_ms=0.1))
    whole, idle = (sum(row[f"{k}_mj"] or 0.0 for row in found) for k in ("gross", "dynamic"))
    for kind, factor in (("inference", 1.02), ("closure", 1.0)):
        sums = {"gross_mj": whole * factor, "dynamic_mj": idle * factor, "systematic_mj": 0.2}
        found.append(energy_row("window", "total", None, kind=kind, **sums))
    return found


def summary(scale: float = 1.0) -> dict[str, Any]:
    """A summary with every part, times and energies multiplied by a number."""
    times = {
        "inferences": 400,
        "median_ms": 2.0 * scale,
        "mean_ms": 2.1 * scale,
        "p90_ms": 2.4 * scale,
        "p99_ms": 3.0 * scale,
        "min_ms": 1.9 * scale,
        "max_ms": 4.0 * scale,
        "interval_mean_ms": [2.05 * scale, 2.15 * scale],
        "interval_scope": "within this process",
    }
    clean = {
        "gross_mj": 12.0 * scale,
        "gross_statistical_mj": 0.3,
        "dynamic_mj": 8.0 * scale,
        "dynamic_statistical_mj": 0.2,
        "mean_mw": 5700.0,
        "n": 400,
    }
    told = {
        "closure": {"gross": 0.98, "dynamic": 0.97},
        "resolved_layers": 8,
        "layers": 10,
        "resolved_share": 0.9,
    }
    copies = {"copies": [1, 2, 4], "slope_mj": 6.1, "slope_half_mj": 0.2, "attributed_mj": 6.0}
    return {
        "clean": times,
        "profiled": {**times, "inferences": 6, "gap_ms_median": 0.1, "layers_share": 0.9},
        "profiled_over_clean": 1.02,
        "warmup": {"steady": True, "inferences": 20, "seconds": 0.5},
        "inferences": {"clean": 400, "profiled": 6, "warmup": 20},
        "energy": {
            "rail": "total",
            "clean": clean,
            "profiled": clean,
            "rails": {"total": {"clean": clean, "profiled": clean}},
            "attribution": {"window": {"total": told}},
            "duplication": {
                "layers": [
                    {"layer": 0, **copies, "ratio": 1.017, "ratio_interval": [0.98, 1.05]},
                    {"layer": 1, "why": "the network came out <different>"},
                ]
            },
            "observer": {"sampler": {"latency_percent": 0.3, "interval_percent": [-0.1, 0.7]}},
        },
        "memory": {
            "peak_mib": 512.0 * scale,
            "limit": {"limit_mib": 4096, "kind": "watched", "how": "by looking"},
        },
        "phase_energies": {"clean": {"total": {"energy_mj": 5e3, "mean_mw": 5e3, "seconds": 1.0}}},
        "roofline": {"peak_gflops": 1.0, "peak_gbs": 0.1, "dtype": "float32", "how": "torch"},
        "sampler": {
            "reads": 800,
            "sweeps": 400,
            "seconds": 4.0,
            "period_ns": 10_000_000,
            "refresh_ns": 10_000_000,
            "mean_sweep_ns": 40_000,
            "late_deadlines": 3,
            "skipped_deadlines": 0,
            "gaps": 1,
            "largest_gap_ns": 41_000_000,
            "max_lateness_ns": 31_000_000,
            "lateness_us_log2": [0, 0, 1, 4, 90, 200, 90, 9, 3, 0, 0, 2, 1],
            "cpu_s": 0.05,
            "errors": {},
            "refreshes": {"total current": 390},
            "place": {"cpu": 1, "why_cpu": "the last of 2 CPUs", "nice": -10, "real_time": True},
        },
        "notes": ["a note with <angle> brackets & an ampersand"],
    }


PLAN: dict[str, Any] = {"rails": (("total", 1140), ("VDD_A", 800)), "clean": 400, "profiled": 6}


def whole(dataset: Path, name: str, *, layers: int = 10, scale: float = 1.0, **run: Any) -> Path:
    """A run with everything; `run` replaces fields of its run.json, `config` those of that."""
    config = {"backend": "onnxruntime", **run.pop("config", {})}
    described = [
        layer(n, f"node_{OPERATIONS[n % len(OPERATIONS)]}_{n}", f"features.{n // 4}.{n % 4}")
        for n in range(layers)
    ]
    times = [[0.1 * scale * (n + 1) + 0.001 * turn for n in range(layers)] for turn in range(6)]
    return build(
        dataset,
        name,
        layers=described,
        times_ms=times,
        energy=energies(layers),
        config={"model": name.split("--", maxsplit=1)[0], **config},
        run={"summary": summary(scale), **run},
        **PLAN,
    )


def hostile(dataset: Path) -> Path:
    """A run whose every name is an attack, of simulated power, random weights and a shared GPU."""
    count = len(HOSTILE_LAYERS)
    described = [layer(n, name, name) for n, name in enumerate(HOSTILE_LAYERS)]
    described[4]["module_path"] = None
    sensor = {"name": "<i>sensor</i>", "simulated": True, "channels": channels_of(Plan())}
    path = build(
        dataset,
        "hostile",
        layers=json.loads(json.dumps(described)),
        times_ms=[[0.1 * (n + 1) for n in range(count)] for _ in range(6)],
        energy=energies(count),
        config={"model": HOSTILE_LAYERS[1], "board": HOSTILE_LAYERS[0], "mode": "<b>MAXN</b>"},
        run={
            "summary": {**summary(2.0), "notes": [HOSTILE_LAYERS[0]]},
            "simulated": True,
            "weights": "random",
            "shared_gpu": True,
            "board_id": HOSTILE_LAYERS[2],
            "power_mode": "<b>MAXN</b>",
            "sensor": sensor,
            "command": ["measure_inference_power.py", "--model", HOSTILE_LAYERS[0]],
        },
        **{**PLAN, "simulated": True},
    )
    return path.rename(dataset / HOSTILE_RUN)


def build_dataset(folder: Path, *, big: int = 0) -> Path:
    """Build it and return its folder; `big` layers make one more run."""
    dataset = folder / "data <set> & שלום"
    whole(
        dataset,
        "alexnet--float16",
        scale=0.5,
        board_id="Orin Nano",
        power_mode="MAXN",
        config={"dtype": "float16"},
    )
    whole(dataset, "alexnet--float32", board_id="Orin Nano", power_mode="15W")
    whole(dataset, "resnet50", scale=3.0, board_id="Orin NX", power_mode="15W")
    hostile(dataset)
    why = {"energy": {"why": "no power sensor was read (none <asked> for)"}, "sampler": None}
    nothing = {"summary": {**summary(), **why}, "simulated": False}
    build(dataset, "without-power", sensor="none", run=nothing)
    build(dataset, "without-profile", config={"runs": 1}, **{**PLAN, "profiled": 0})
    cut = whole(dataset, "without-files", status="incomplete")
    (cut / "power.parquet").write_bytes((cut / "power.parquet").read_bytes()[:200])
    (cut / "engine.json").unlink()
    damaged = dataset / "in-pieces"
    damaged.mkdir()
    (damaged / "run.json").write_text('{"name": <', encoding="utf-8")
    unfinished = dataset / ".partial" / "x"
    unfinished.mkdir(parents=True, exist_ok=True)
    (unfinished / "request.json").write_text("{}", encoding="utf-8")
    if big:
        whole(dataset, "big", layers=big)
    return dataset
