"""What each column of the tables means: unit, what null says, and one line. Standard library only.

The data dictionary beside the tables is made of this, and docs/Modelling.md shows the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from edgejoule.dataset.tables.classic import CLASSIC_COLUMNS
from edgejoule.dataset.tables.layer_columns import COLUMNS
from edgejoule.dataset.tables.meanings_layer import (
    HALF,
    LAYER,
    NO_BASELINE,
    NO_CLEAN,
    NOT_ASKED,
    NOT_KNOWN,
    NOT_READ,
    UNKNOWN,
    Meaning,
)
from edgejoule.dataset.tables.run_columns import (
    CLOSURES,
    ENERGY_COLUMNS,
    PART_COLUMNS,
    RUN_COLUMNS,
)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its name.
        type: Its type, in the words of `layer_columns`.
        unit: Its unit, empty for none.
        null: What null says, empty where the column holds none.
        meaning: What it is.
    """

    name: str
    type: str
    unit: str
    null: str
    meaning: str

    def to_json(self) -> dict[str, str]:
        """Return plain values."""
        return asdict(self)


_RUN: Mapping[str, Meaning] = {
    **{name: LAYER[name] for name in RUN_COLUMNS if name in LAYER},
    "batch_size": ("", UNKNOWN, "first dimension of the network's first input"),
    "input_shape": ("", UNKNOWN, "shape of the network's first input, the batch included"),
    "layers": ("", "no engine.json", "how many layers the runtime executes"),
    "layers_without_flops": ("", "no engine.json", "layers whose operations are unknown"),
    "flops_known": ("", "no layer tells", "operations of an inference, over the layers that tell"),
    "bytes_moved_known": ("bytes", "no layer tells", "bytes moved, over the layers that tell"),
    "weights_known": ("", "no layer tells", "weights, over the layers that tell"),
    "clean_inferences": ("", NO_CLEAN, "inferences of the clean pass (no profiler)"),
    "latency_mean_ms": ("ms", NO_CLEAN, "mean latency of the clean pass"),
    "latency_mean_statistical_ms": ("ms", "fewer than two inferences", HALF),
    "latency_p50_ms": ("ms", NO_CLEAN, "median latency"),
    "latency_p90_ms": ("ms", NO_CLEAN, "90th percentile"),
    "latency_p99_ms": ("ms", NO_CLEAN, "99th percentile"),
    "latency_min_ms": ("ms", NO_CLEAN, "the shortest"),
    "latency_max_ms": ("ms", NO_CLEAN, "the longest"),
    "inferences_per_s": ("1/s", NO_CLEAN, "1000 over latency_mean_ms"),
    "samples_per_s": ("1/s", NO_CLEAN, "inferences_per_s times batch_size"),
    "profiled_inferences": ("", "no profiled pass", "inferences of the profiled pass"),
    "profiled_p50_ms": (
        "ms",
        "no profiled pass",
        "median latency with the profiler, held included",
    ),
    "profiled_over_clean": ("", UNKNOWN, "ratio of the medians, held time left out"),
    "layers_share": ("", UNKNOWN, "share of the profiled inferences that lies in layers"),
    "held_mean_ms": ("ms", UNKNOWN, "time per profiled inference due to the profiler alone"),
    "rate_hz": ("1/s", "no rate pass", "asked rate of the rate pass"),
    "rate_missed_deadlines": ("", "no rate pass", "frames that were late by a period"),
    "energy_rail": ("", "no energy of a clean pass", "the rail it is of"),
    "energy_gross_mj": (
        "mJ",
        "no energy of a clean pass",
        "energy per clean inference, idle included",
    ),
    "energy_gross_statistical_mj": ("mJ", "not estimated", HALF),
    "energy_dynamic_mj": ("mJ", "no loaded baseline", "energy above the loaded baseline"),
    "energy_dynamic_statistical_mj": ("mJ", "not estimated", f"{HALF}, the baseline's included"),
    "power_gross_mw": ("mW", "no energy of a clean pass", "mean power while clean inferences ran"),
    "power_gross_statistical_mw": ("mW", "not estimated", "the energy's half-width over that time"),
    "power_dynamic_mw": ("mW", "no loaded baseline", "of it, above the loaded baseline"),
    "power_dynamic_statistical_mw": (
        "mW",
        "not estimated",
        "the energy's half-width over that time",
    ),
    "idle_power_mw": ("mW", "no loaded baseline", "the loaded baseline: gross less dynamic"),
    "energy_gross_mj_per_sample": (
        "mJ",
        "no energy of a clean pass",
        "energy_gross_mj over batch_size",
    ),
    "edp_uj_s": ("uJ s", "no energy of a clean pass", "energy_gross_mj times latency_mean_ms"),
    "layer_energy_method": ("", "no energy of layers", "best method of attribution on that rail"),
    "resolved_layers": ("", NOT_ASKED, "layers that this method tells from everything else"),
    "resolved_share": ("", NOT_ASKED, "share of the energy that these take"),
    **{
        f"closure_{method}_{kind}": (
            "",
            f"no energy by `{method}`" if kind == "gross" else f"{NO_BASELINE} or no `{method}`",
            f"sum of layers, groups and gap by `{method}` over the measured inference, {word}",
        )
        for method in CLOSURES
        for kind, word in (("gross", "idle included"), ("dynamic", "above idle"))
    },
    "closure_window_held_out": (
        "",
        "no energy by `window`",
        "the gross one on blocks of time that were not fitted",
    ),
    "closure_replay_other_rule": (
        "",
        "no energy by `replay`",
        "the dynamic one if power above idle alone is taken times the time in the network",
    ),
    "closure_replay_time_share": (
        "",
        "no energy by `replay`, or not said",
        "share of the layers' time that the sum covers; below 1 layers are missing in it",
    ),
    "duplication_layers": ("", "no such check", "layers of the duplication check"),
    "duplication_ratio_median": (
        "",
        "no such check, or no figure",
        "median of its slopes over the energies attributed",
    ),
    "duplication_ratio_min": ("", "no such check, or no figure", "the smallest"),
    "duplication_ratio_max": ("", "no such check, or no figure", "the largest"),
    "observer_sampler_percent": ("%", "not measured", "by how much the sampler raises latency"),
    "observer_sampler_resolved": ("", "not measured", "whether that is told from zero"),
    "observer_profiler_percent": ("%", "not measured", "by how much the profiler raises latency"),
    "observer_profiler_resolved": ("", "not measured", "whether that is told from zero"),
    "roofline_gflops_per_s": (
        "GFLOP/s",
        "not measured",
        "most arithmetic of this device, measured",
    ),
    "roofline_gbytes_per_s": ("GB/s", "not measured", "most memory traffic, measured"),
    "memory_peak_mib": (
        "MiB",
        NOT_READ,
        "the peak that counts on this machine (`summary.memory`)",
    ),
    "memory_process_mib": ("MiB", NOT_READ, "peak resident memory of the measuring process"),
    "memory_gpu_allocator_mib": ("MiB", NOT_READ, "peak of the runtime's allocator on the GPU"),
    "memory_gpu_driver_mib": ("MiB", NOT_READ, "peak in use on the GPU, all processes together"),
    "memory_board_mib": ("MiB", NOT_READ, "peak in use on the board or host, everything together"),
    "accuracy_max_relative_error": ("", "not compared", "of the outputs against float32, largest"),
    "accuracy_mean_relative_error": ("", "not compared", "of the outputs against float32, mean"),
    "accuracy_sqnr_db": ("dB", "not compared", "signal to quantisation noise of the outputs"),
    "accuracy_top1_agreement": ("", "not compared", "share of equal first choices, 0 to 1"),
    "repeat": ("", UNKNOWN, "which repeat, from 1; 0: only one was asked"),
    "rebuild": ("", UNKNOWN, "which build of the engine, from 0"),
    "seed": ("", UNKNOWN, "seed of weights, inputs and orders"),
    "threads": ("", UNKNOWN, "CPU threads; 0: the runtime's default"),
    "architecture": ("", NOT_KNOWN, "machine architecture"),
    "distribution": ("", NOT_KNOWN, "operating system"),
    "kernel": ("", NOT_KNOWN, "kernel release"),
    "l4t": ("", "no Jetson, or not told", "Jetson Linux release"),
    "jetpack": ("", "no Jetson, or not told", "JetPack release"),
    "memory_total_mib": ("MiB", NOT_KNOWN, "the machine's memory"),
    "container": ("", NOT_KNOWN, "measured inside a container"),
    "cpu_clocks_locked": ("", NOT_KNOWN, "the CPU's clocks could not move"),
    "gpu_clocks_locked": ("", NOT_KNOWN, "the GPU's clocks could not move"),
    "config": ("", UNKNOWN, "the whole configuration, a JSON object"),
    "command": ("", "not kept", "the command that repeats the run, a JSON list"),
    "source": ("", "not kept", "where the model is from, a JSON object"),
    "imported": ("", "measured by edgejoule", "of which other layout it is, a JSON object"),
    "notes": ("", "not kept", "what a reader must know, a JSON list"),
}
_ENERGY: Mapping[str, Meaning] = {
    "run": LAYER["run"],
    "network": (*LAYER["network"][:1], "", LAYER["network"][2]),
    "method": ("", "", LAYER["energy_method"][2]),
    "rail": ("", "", "rail, or `total`"),
    "kind": (
        "",
        "",
        "`layer`, `group` (layers known together only), `gap`, `inference` (measured whole), "
        "`closure` (sum of layers, groups and gap)",
    ),
    "layer": ("", "kind is not `layer`", LAYER["layer"][2]),
    "layer_name": ("", "kind is not `layer`", LAYER["layer_name"][2]),
    "operation": ("", "unknown, or kind is not `layer`", LAYER["operation"][2]),
    "gross_mj": ("mJ", "not resolved", "energy per profiled inference, idle included"),
    "gross_statistical_mj": ("mJ", "not estimated", HALF),
    "dynamic_mj": LAYER["energy_dynamic_mj"],
    "dynamic_statistical_mj": ("mJ", "not estimated", f"{HALF}, the baseline's included"),
    "systematic_mj": ("mJ", "not known", LAYER["energy_systematic_mj"][2]),
    "n": ("", "", "inferences behind the row; of `replay` executions alone"),
    "resolved": ("", NOT_ASKED, LAYER["energy_resolved"][2]),
    "group": LAYER["energy_group"],
    "time_ms": ("ms", "not kept", "mean time per inference in the profiled pass"),
    "alone_ms": LAYER["alone_ms"],
    "dynamic_other_mj": (
        "mJ",
        "method is not `replay`",
        "by the other rule: power above idle alone times time_ms",
    ),
    "scaled_gross_mj": LAYER["energy_scaled_gross_mj"],
    "scaled_dynamic_mj": LAYER["energy_scaled_dynamic_mj"],
    "why": LAYER["energy_why"],
    "simulated": ("", "", LAYER["simulated"][2]),
}
_PART: Mapping[str, Meaning] = {
    **{name: _ENERGY[name] for name in ("run", "network", "method", "rail", "simulated")},
    "by": ("", "", "`module` or `operation`: which sum; each adds up to the closure"),
    "kind": (
        "",
        "",
        "`inference` (the whole), `module`, `unmapped`, `gap`, or `operation`",
    ),
    "name": (
        "",
        "",
        "the module's path, empty for the model itself and for what is no module; or the "
        "operation, several joined by ` + ` where a group has layers of each",
    ),
    "depth": ("", "by `operation`", "0 the whole, 1 the model, one more for each step below"),
    "layers": ("", "", "layers whose energy is in it"),
    "layers_unknown": ("", "", "layers of it that have no energy, alone or in a group"),
    "layers_outside": (
        "",
        "by `operation`",
        "layers below whose energy is known only with layers elsewhere, so that it stands farther "
        "up",
    ),
    "time_ms": ("ms", "not known", "time of the layers whose energy is in it"),
    "gross_mj": ("mJ", "not known", "energy per profiled inference, all below included"),
    "gross_statistical_mj": (
        "mJ",
        "not estimated",
        "half-width of its 95 % interval: the sum of the layers', which no correlation exceeds",
    ),
    "dynamic_mj": ("mJ", NO_BASELINE, "of it, above the loaded baseline"),
    "dynamic_statistical_mj": ("mJ", "not estimated", "half-width of its 95 % interval"),
    "systematic_mj": ("mJ", "not known", LAYER["energy_systematic_mj"][2]),
    "own_gross_mj": (
        "mJ",
        "by `operation`, or not known",
        "what stands here and not in a module below",
    ),
    "own_dynamic_mj": ("mJ", "by `operation`, or not known", "of it, above the loaded baseline"),
    "unresolved_mj": (
        "mJ",
        "not known",
        "of gross_mj, what the method does not tell from everything else",
    ),
    "share": ("", "not known", "gross_mj over the closure's"),
    "scaled_gross_mj": LAYER["energy_scaled_gross_mj"],
    "scaled_dynamic_mj": LAYER["energy_scaled_dynamic_mj"],
    "power_gross_mw": ("mW", "no energy, or no time", "gross_mj over time_ms"),
    "power_dynamic_mw": ("mW", "no energy, or no time", "dynamic_mj over time_ms"),
    "edp_uj_s": ("uJ s", "no energy, or no time", "gross_mj times time_ms"),
}
_AXES = ("channels", "height", "width")
_CLASSIC: Mapping[str, Meaning] = {
    **{name: LAYER[name] for name in ("batch_size", "kernel_0", "kernel_1", "padding_0")},
    **{name: LAYER[name] for name in ("padding_1", "stride_0", "stride_1")},
    **{f"input_size_{i}": ("", UNKNOWN, f"{axis} of the input") for i, axis in enumerate(_AXES)},
    **{f"output_size_{i}": ("", UNKNOWN, f"{axis} of the output") for i, axis in enumerate(_AXES)},
    "input_size": ("", UNKNOWN, "product of all dimensions of the input, the batch included"),
    "output_size": ("", UNKNOWN, "product of all dimensions of the output, the batch included"),
    "power": ("uW", "no energy, or no baseline", "power above idle in microwatts"),
    "runtime": ("ms", "no whole inference", "runtime_ms"),
    "layer_name": ("", "", LAYER["layer_name"][2]),
}
_TABLES: Mapping[str, tuple[Mapping[str, str], Mapping[str, Meaning]]] = {
    "layers": (COLUMNS, LAYER),
    "runs": (RUN_COLUMNS, _RUN),
    "energy": (ENERGY_COLUMNS, _ENERGY),
    "parts": (PART_COLUMNS, _PART),
    **{kind: (columns, _CLASSIC) for kind, columns in CLASSIC_COLUMNS.items()},
}


def columns_of(table: str) -> tuple[Column, ...]:
    """Return the columns of `layers`, `runs`, `energy`, `parts`, or of one of the classic three."""
    types, meanings = _TABLES[table]
    return tuple(Column(name, kind, *meanings[name]) for name, kind in types.items())


def table_names() -> tuple[str, ...]:
    """Return the names of the tables that there are."""
    return tuple(_TABLES)
