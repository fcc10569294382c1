#!/usr/bin/env python3
"""How often `report.py compare` is wrong over real repeats, and what it finds.

    python benchmarks/compare.py [--pairs 50] [--repeats 12] [--quick] [--json]
                                 [--keep DIR | --from DIR]

Fresh processes of small networks are measured on this machine (onnxruntime, CPU, `--threads` of it,
random weights, simulated power), one configuration each. Then pairs of them, one against one and
three against three, no run on both sides:

    false    share of layers called different: nothing differs but the process
    found    share of pairs in which a layer is called worse after ITS RECORDED DURATIONS AND
             ENERGIES IN B WERE MULTIPLIED by 1.10 or 1.03 (nothing really ran slower); the layer is
             drawn evenly from all, and once more from those that take at least 1 % of the time

and beside it, on the same pairs, what one writes down first: means that differ by more than 1 %,
and Welch's t over the inferences (p < 0.05) without correction. Targets: false at most 5 %, found
at least 95 % at 1.10 and 50 % at 1.03.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edgejoule.errors import MeasurementError, run_command  # noqa: E402
from edgejoule.report.compare.comparing import compare  # noqa: E402
from edgejoule.report.compare.loading import Loaded, MeasuredRun, measured  # noqa: E402
from edgejoule.report.compare.result import BETTER, WORSE  # noqa: E402
from edgejoule.report.compare.student import tail  # noqa: E402
from edgejoule.report.tables import column, load_run  # noqa: E402

# Network -> profiled inferences: some seconds of each.
NETWORKS = {"lenet": 20_000, "mobilenet_v2": 500}
QUICK = {"lenet": 2_000}
LEAST = 0.01
LARGE = 0.01  # of the layers' time
FACTORS = (1.10, 1.03)
SIZES = (1, 3)
FALSE_AT_MOST, FOUND_AT_LEAST = 0.05, {1.10: 0.95, 1.03: 0.5}


@dataclass(frozen=True)
class Recorded:
    """A run, and its layers' durations, ms: (inferences, layers)."""

    run: MeasuredRun
    durations: Any

    def scaled(self, layer: int, factor: float) -> Recorded:
        """Return the run as if one layer had taken `factor` times as long and as much."""
        blocks = self.run.blocks
        if blocks is None:
            raise MeasurementError(f"{self.run.tables.name} has no times of layers")
        log_ms = blocks.log_ms.copy()
        log_ms[:, layer] += math.log(factor)
        index = int(blocks.layers[layer])
        energies = {
            method: {
                key: replace(one, value=one.value * factor) if key == index else one
                for key, one in some.items()
            }
            for method, some in self.run.energies.items()
        }
        durations = self.durations.copy()
        durations[:, layer] *= factor
        run = replace(self.run, blocks=replace(blocks, log_ms=log_ms), energies=energies)
        return Recorded(run, durations)


def measure(folder: Path, network: str, inferences: int, repeats: int, threads: int) -> None:
    """Measure a network in fresh processes, the order of repeats shuffled by the command itself.

    Raises:
        MeasurementError: The command failed.
    """
    command = [
        *(sys.executable, str(ROOT / "measure_inference_power.py"), "--model", network),
        *("--backend", "onnxruntime", "--weights", "random", "--sensor", "simulated"),
        *("--warmup", "20", "--runs", str(inferences), "--clean-seconds", "2"),
        *("--idle-duration", "0.5", "--threads", str(threads), "--repeats", str(repeats)),
        *("--result-dir", str(folder), "--quiet"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise MeasurementError(f"measuring {network} failed: {said[-1] if said else 'no message'}")


def recorded(path: Path) -> Recorded:
    """Read a run."""
    table = column(path / "layers.parquet", ["inference", "layer", "duration_ms"])
    layer = table["layer"].to_numpy()
    order = np.lexsort((layer, table["inference"].to_numpy()))
    durations = table["duration_ms"].to_numpy()[order].astype(np.float64)
    return Recorded(measured(load_run(path)), durations.reshape(-1, len(np.unique(layer))))


def ours(first: Sequence[Recorded], second: Sequence[Recorded]) -> tuple[Any, Any]:
    """Return -1, 0 or 1 per layer: better, not shown, worse; of times, and of times or energies."""
    sides = [Loaded(Path(name), False, tuple(one.run for one in side)) for name, side in
             (("A", first), ("B", second))]  # fmt: skip
    (result,) = compare(*sides, least=LEAST).results
    signs = {BETTER: -1, WORSE: 1}
    times = [signs.get(layer.time.verdict, 0) for layer in result.layers]
    energies = [signs.get(layer.energy.verdict, 0) for layer in result.layers]
    return np.array(times), np.array(energies)


def by_means(first: Sequence[Recorded], second: Sequence[Recorded]) -> Any:
    """Return the sign of each change of the means that is above 1 %."""
    one, other = (np.mean([run.durations.mean(axis=0) for run in side], axis=0)
                  for side in (first, second))  # fmt: skip
    change = np.log(other / one)
    return np.sign(change) * (np.abs(change) > math.log1p(LEAST))


def by_welch(first: Sequence[Recorded], second: Sequence[Recorded]) -> Any:
    """Return the sign of each change that Welch's t over all inferences shows at 5 %."""
    one, other = (np.concatenate([run.durations for run in side]) for side in (first, second))
    parts = [side.var(axis=0, ddof=1) / len(side) for side in (one, other)]
    change = other.mean(axis=0) - one.mean(axis=0)
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (one, other), strict=True)
    )
    return np.sign(change) * (tail(change / np.sqrt(sum(parts)), freedom) < 0.05)


def judge(runs: Sequence[Recorded], size: int, pairs: int, seed: int) -> dict[str, Any]:
    """Hold pairs of groups of `size` runs against each other."""
    random = np.random.default_rng(seed)
    share = np.mean([run.durations.sum(axis=0) / run.durations.sum() for run in runs], axis=0)
    large = np.flatnonzero(share >= LARGE)
    ways = {"compare": lambda a, b: ours(a, b)[0], "means": by_means, "welch": by_welch}
    false: dict[str, list[float]] = {name: [] for name in (*ways, "compare, energy")}
    found: dict[str, dict[str, list[bool]]] = {name: {} for name in ways}
    for _ in range(pairs):
        order = random.permutation(len(runs))[: 2 * size]
        first, second = ([runs[place] for place in some] for some in (order[:size], order[size:]))
        times, energies = ours(first, second)
        false["compare"].append(float(np.mean(times != 0)))
        false["compare, energy"].append(float(np.mean(energies != 0)))
        for name in ("means", "welch"):
            false[name].append(float(np.mean(ways[name](first, second) != 0)))
        for kind, chosen in (("any", np.arange(len(share))), ("large", large)):
            layer = int(random.choice(chosen))
            for factor in FACTORS:
                slowed = [run.scaled(layer, factor) for run in second]
                for name, way in ways.items():
                    hit = bool(way(first, slowed)[layer] > 0)
                    found[name].setdefault(f"{factor:.2f} {kind}", []).append(hit)
    return {
        "against": f"{size} v {size}",
        "pairs": pairs,
        "layers": len(share),
        "large_layers": len(large),
        "false": {name: float(np.mean(values)) for name, values in false.items()},
        "false_median": {name: statistics.median(values) for name, values in false.items()},
        "pairs_with_any_false": {name: float(np.mean(np.array(values) > 0.0))
                                 for name, values in false.items()},
        "found": {name: {key: float(np.mean(values)) for key, values in some.items()}
                  for name, some in found.items()},
    }  # fmt: skip


def scatter_of(runs: Sequence[Recorded]) -> dict[str, float]:
    """Return how far the processes are from each other: all layers together, and each on its own.

    Relative standard deviations; of the layers' own the median and the largest.
    """
    from edgejoule.report.compare.usual import centre_of

    logs = np.array([centre_of(run.run.blocks.log_ms, common=True).value
                     for run in runs if run.run.blocks is not None])  # fmt: skip
    together = np.median(logs - logs.mean(axis=0), axis=1)
    own = (logs - together[:, None]).std(axis=0, ddof=1)
    means = np.array([run.durations.mean(axis=0) for run in runs])
    return {
        "common": float(together.std(ddof=1)),
        "own_median": float(np.median(own)),
        "own_largest": float(own.max()),
        "means_median": float(np.median(np.log(means).std(axis=0, ddof=1))),
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the figures as a table."""
    keys = [f"{factor:.2f} {kind}" for factor in FACTORS for kind in ("any", "large")]
    lines = [
        f"{'network':14s} {'runs':6s} {'way':16s} {'false':>7s} {'pairs':>7s}  "
        + "  ".join(f"{key:>10s}" for key in keys)
    ]
    for one in results:
        for name in ("compare", "compare, energy", "means", "welch"):
            cells = [f"{100 * one['found'][name][key]:8.0f} %" if name in one["found"] else " " * 10
                     for key in keys]  # fmt: skip
            lines.append(
                f"{one['network']:14s} {one['against']:6s} {name:16s} "
                f"{100 * one['false'][name]:5.2f} % {100 * one['pairs_with_any_false'][name]:5.0f} "
                f"%  " + "  ".join(cells)
            )
        held = one["scatter"]
        lines.append(
            f"{'':22s}{one['layers']} layers, {one['large_layers']} of at least 1 % of the time; "
            f"usual times of processes differ by {100 * held['common']:.2g} % together, each layer "
            f"by {100 * held['own_median']:.2g} % on its own (at most "
            f"{100 * held['own_largest']:.2g} %); means by {100 * held['means_median']:.2g} %"
        )
    lines.append("false: of the layers; pairs: with any false one; found: times 1.10 and 1.03, any")
    lines.append("layer, and layers of at least 1 % of the time. Scaled records, not slower runs.")
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=50, metavar="N")
    parser.add_argument(
        "--repeats", type=int, default=12, metavar="N", help="processes, at least 6"
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of onnxruntime")
    parser.add_argument("--seed", type=int, default=0, help="of the pairs and the layers")
    parser.add_argument("--quick", action="store_true", help="lenet alone, 6 processes, 20 pairs")
    parser.add_argument("--json", action="store_true", help="one JSON object in place of the table")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--keep", type=Path, metavar="DIR", help="keep the runs in DIR")
    place.add_argument("--from", dest="source", type=Path, metavar="DIR", help="take kept runs")
    return parser


def main() -> int:
    """Measure or take runs, compare pairs of them, print."""
    arguments = build_parser().parse_args()
    networks = QUICK if arguments.quick else NETWORKS
    repeats = 6 if arguments.quick else max(6, arguments.repeats)
    pairs = 20 if arguments.quick else arguments.pairs

    def command() -> int:
        with tempfile.TemporaryDirectory() as temporary:
            folder = arguments.source or arguments.keep or Path(temporary)
            if arguments.source is None:
                for network, inferences in networks.items():
                    measure(folder, network, inferences, repeats, arguments.threads)
            results = []
            for network in networks:
                runs = [recorded(path) for path in sorted(folder.glob(f"{network}--*r[0-9]*"))]
                if len(runs) < 2 * max(SIZES):
                    raise MeasurementError(f"{folder} has {len(runs)} repeats of {network}",
                                           f"{2 * max(SIZES)} are needed")  # fmt: skip
                for size in SIZES:
                    figures = judge(runs, size, pairs, arguments.seed)
                    results.append({"network": network, "processes": len(runs),
                                    "scatter": scatter_of(runs), **figures})  # fmt: skip
        worst = max(one["false"]["compare"] for one in results)
        met = worst <= FALSE_AT_MOST and all(
            one["found"]["compare"][f"{factor:.2f} any"] >= least
            for one in results
            for factor, least in FOUND_AT_LEAST.items()
        )
        document = {"results": results, "scaled": "recorded durations and energies of one layer",
                    "targets_met": met}  # fmt: skip
        if arguments.json:
            print(json.dumps(document, indent=2, sort_keys=True))
        else:
            print(table(results))
            print(f"targets {'met' if met else 'NOT met'}")
        return 0

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
