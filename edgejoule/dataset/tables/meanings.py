"""What each column of the tables means: unit, what null says, and one line. Standard library only.

The data dictionary beside the tables is made of this, and docs/Modelling.md shows the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from edgejoule.dataset.tables.classic import CLASSIC_COLUMNS
from edgejoule.dataset.tables.layer_columns import COLUMNS
from edgejoule.dataset.tables.run_columns import ENERGY_COLUMNS, RUN_COLUMNS


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


Meaning = tuple[str, str, str]  # unit, what null says, meaning
_UNKNOWN = "unknown"
_NO_WINDOW = "unknown, or the layer has none"
_NOT_FOUR = "unknown, or not of four dimensions"
_NO_ENERGY = "no energy of this layer"
_NO_CLEAN = "no clean pass"
_NOT_READ = "could not be read"
_NOT_KNOWN = "not known for this machine"
_HALF = "half-width of its 95 % interval, within this process"

_LAYER: Mapping[str, Meaning] = {
    "run": ("", "", "the run's name, its folder's"),
    "network": ("", _UNKNOWN, "the model as asked, of a file its name without folder and ending"),
    "layer": ("", "", "index in engine.json, the order of execution"),
    "layer_name": ("", _UNKNOWN, "the runtime's name; not always unique within a run"),
    "layer_type": ("", _UNKNOWN, "the runtime's own word for what it does"),
    "operation": ("", _UNKNOWN, "the word common to all backends"),
    "module_path": ("", "unmapped", "the model's module behind it; empty: the model itself"),
    "batch_size": ("", _UNKNOWN, "first dimension of the first input"),
    "input_shape": ("", _UNKNOWN, "shape of the first input, the batch included"),
    "output_shape": ("", _UNKNOWN, "shape of the first output, the batch included"),
    "inputs": ("", "unknown, or none", "how many input tensors, weights left out where told"),
    "outputs": ("", "unknown, or none", "how many output tensors"),
    "input_elements": ("", _UNKNOWN, "elements over all inputs"),
    "output_elements": ("", _UNKNOWN, "elements over all outputs"),
    "input_channels": ("", _UNKNOWN, "second dimension of the first input"),
    "output_channels": ("", _UNKNOWN, "second dimension of the first output"),
    "input_height": ("", _NOT_FOUR, "third dimension of the first input"),
    "input_width": ("", _NOT_FOUR, "fourth dimension of the first input"),
    "output_height": ("", _NOT_FOUR, "third dimension of the first output"),
    "output_width": ("", _NOT_FOUR, "fourth dimension of the first output"),
    "kernel_0": ("", _NO_WINDOW, "window along the first spatial axis"),
    "kernel_1": ("", _NO_WINDOW, "window along the second spatial axis"),
    "stride_0": ("", _NO_WINDOW, "stride along the first spatial axis"),
    "stride_1": ("", _NO_WINDOW, "stride along the second spatial axis"),
    "padding_0": ("", _NO_WINDOW, "padding of the first spatial axis, begin plus end"),
    "padding_1": ("", _NO_WINDOW, "padding of the second spatial axis, begin plus end"),
    "dilation_0": ("", _NO_WINDOW, "dilation along the first spatial axis"),
    "dilation_1": ("", _NO_WINDOW, "dilation along the second spatial axis"),
    "groups": ("", _NO_WINDOW, "groups of a convolution"),
    "weights": ("", _UNKNOWN, "number of weights, bias included"),
    "flops": ("", _UNKNOWN, "operations of one execution; a multiply-add counts two"),
    "bytes_moved": ("bytes", _UNKNOWN, "inputs, outputs and weights, each once"),
    "layer_dtype": ("", _UNKNOWN, "dtype of the first output"),
    "fused": ("", "unknown, or nothing", "the operations in it, joined by `+`, the main one first"),
    "tactic": ("", "not told", "what the runtime calls the implementation that it chose"),
    "inferences": ("", _UNKNOWN, "profiled inferences behind the row"),
    "runtime_ms": ("ms", "no whole inference", "mean duration in the profiled pass"),
    "runtime_statistical_ms": ("ms", "fewer than two inferences", _HALF),
    "runtime_median_ms": ("ms", "no whole inference", "median duration"),
    "runtime_share": ("", "no time in layers", "mean duration over the sum of all layers'"),
    "energy_method": ("", _NO_ENERGY, "how energy was split over layers"),
    "energy_rail": ("", _NO_ENERGY, "the rail it is of"),
    "energy_resolved": ("", "not asked", "whether the method tells it from its neighbours"),
    "energy_gross_mj": ("mJ", _NO_ENERGY, "energy per inference, idle included"),
    "energy_gross_statistical_mj": ("mJ", "not estimated", _HALF),
    "energy_dynamic_mj": ("mJ", "no loaded baseline", "energy above the loaded baseline"),
    "energy_dynamic_statistical_mj": ("mJ", "not estimated", f"{_HALF}, the baseline's included"),
    "energy_systematic_mj": ("mJ", "not known", "bound on what repeating does not average out"),
    "power_gross_mw": ("mW", "no energy, or no time", "energy_gross_mj over runtime_ms"),
    "power_gross_statistical_mw": ("mW", "not estimated", "the energy's half-width over it"),
    "power_dynamic_mw": ("mW", "no energy, or no time", "energy_dynamic_mj over runtime_ms"),
    "power_dynamic_statistical_mw": ("mW", "not estimated", "the energy's half-width over it"),
    "backend": ("", _UNKNOWN, "the runtime"),
    "dtype": ("", _UNKNOWN, "dtype that was asked for"),
    "device": ("", _UNKNOWN, "`cpu` or `cuda:<index>`"),
    "board": ("", _UNKNOWN, "board, the same across runs"),
    "power_mode": ("", "unknown, or none", "the board's power mode"),
    "processor": ("", _UNKNOWN, "the GPU's name where the device is one, else the CPU's"),
    "sensor": ("", _UNKNOWN, "power sensor; `none`: no energy was measured"),
    "simulated": ("", _UNKNOWN, "power and energy are simulated, not measured"),
    "weights_kind": ("", _UNKNOWN, "`pretrained`, `random`, `user`, `unknown`"),
    "shared_gpu": ("", "cannot be told", "somebody else used the GPU meanwhile"),
    "status": ("", _UNKNOWN, "`complete`, `incomplete`, `failed`"),
    "started_at": ("", _UNKNOWN, "begin, ISO 8601, UTC"),
    "config_sha256": ("", _UNKNOWN, "identity of the configuration: equal for repeats"),
    "run_sha256": ("", _UNKNOWN, "seal of the run"),
    "schema_version": ("", _UNKNOWN, "format of the run"),
    "edgejoule_version": ("", _UNKNOWN, "what measured it"),
    "backend_version": ("", _UNKNOWN, "version of the runtime"),
    "versions": ("", _UNKNOWN, "versions of all libraries, a JSON object"),
}
_RUN: Mapping[str, Meaning] = {
    **{name: _LAYER[name] for name in RUN_COLUMNS if name in _LAYER},
    "batch_size": ("", _UNKNOWN, "first dimension of the network's first input"),
    "input_shape": ("", _UNKNOWN, "shape of the network's first input, the batch included"),
    "layers": ("", "no engine.json", "how many layers the runtime executes"),
    "layers_without_flops": ("", "no engine.json", "layers whose operations are unknown"),
    "flops_known": ("", "no layer tells", "operations of an inference, over the layers that tell"),
    "bytes_moved_known": ("bytes", "no layer tells", "bytes moved, over the layers that tell"),
    "weights_known": ("", "no layer tells", "weights, over the layers that tell"),
    "clean_inferences": ("", _NO_CLEAN, "inferences of the clean pass (no profiler)"),
    "latency_mean_ms": ("ms", _NO_CLEAN, "mean latency of the clean pass"),
    "latency_mean_statistical_ms": ("ms", "fewer than two inferences", _HALF),
    "latency_p50_ms": ("ms", _NO_CLEAN, "median latency"),
    "latency_p90_ms": ("ms", _NO_CLEAN, "90th percentile"),
    "latency_p99_ms": ("ms", _NO_CLEAN, "99th percentile"),
    "latency_min_ms": ("ms", _NO_CLEAN, "the shortest"),
    "latency_max_ms": ("ms", _NO_CLEAN, "the longest"),
    "inferences_per_s": ("1/s", _NO_CLEAN, "1000 over latency_mean_ms"),
    "samples_per_s": ("1/s", _NO_CLEAN, "inferences_per_s times batch_size"),
    "profiled_inferences": ("", "no profiled pass", "inferences of the profiled pass"),
    "profiled_p50_ms": (
        "ms",
        "no profiled pass",
        "median latency with the profiler, held included",
    ),
    "profiled_over_clean": ("", _UNKNOWN, "ratio of the medians, held time left out"),
    "layers_share": ("", _UNKNOWN, "share of the profiled inferences that lies in layers"),
    "held_mean_ms": ("ms", _UNKNOWN, "time per profiled inference due to the profiler alone"),
    "rate_hz": ("1/s", "no rate pass", "asked rate of the rate pass"),
    "rate_missed_deadlines": ("", "no rate pass", "frames that were late by a period"),
    "energy_rail": ("", "no energy of a clean pass", "the rail it is of"),
    "energy_gross_mj": (
        "mJ",
        "no energy of a clean pass",
        "energy per clean inference, idle included",
    ),
    "energy_gross_statistical_mj": ("mJ", "not estimated", _HALF),
    "energy_dynamic_mj": ("mJ", "no loaded baseline", "energy above the loaded baseline"),
    "energy_dynamic_statistical_mj": ("mJ", "not estimated", f"{_HALF}, the baseline's included"),
    "power_gross_mw": ("mW", "no energy of a clean pass", "mean power while clean inferences ran"),
    "power_gross_statistical_mw": ("mW", "not estimated", "the energy's half-width over that time"),
    "power_dynamic_mw": ("mW", "no loaded baseline", "of it, above the loaded baseline"),
    "power_dynamic_statistical_mw": (
        "mW",
        "not estimated",
        "the energy's half-width over that time",
    ),
    "idle_power_mw": ("mW", "no loaded baseline", "the loaded baseline: gross less dynamic"),
    "memory_peak_mib": (
        "MiB",
        _NOT_READ,
        "the peak that counts on this machine (`summary.memory`)",
    ),
    "memory_process_mib": ("MiB", _NOT_READ, "peak resident memory of the measuring process"),
    "memory_gpu_allocator_mib": ("MiB", _NOT_READ, "peak of the runtime's allocator on the GPU"),
    "memory_gpu_driver_mib": ("MiB", _NOT_READ, "peak in use on the GPU, all processes together"),
    "memory_board_mib": ("MiB", _NOT_READ, "peak in use on the board or host, everything together"),
    "accuracy_max_relative_error": ("", "not compared", "of the outputs against float32, largest"),
    "accuracy_mean_relative_error": ("", "not compared", "of the outputs against float32, mean"),
    "accuracy_sqnr_db": ("dB", "not compared", "signal to quantisation noise of the outputs"),
    "accuracy_top1_agreement": ("", "not compared", "share of equal first choices, 0 to 1"),
    "repeat": ("", _UNKNOWN, "which repeat, from 1; 0: only one was asked"),
    "rebuild": ("", _UNKNOWN, "which build of the engine, from 0"),
    "seed": ("", _UNKNOWN, "seed of weights, inputs and orders"),
    "threads": ("", _UNKNOWN, "CPU threads; 0: the runtime's default"),
    "architecture": ("", _NOT_KNOWN, "machine architecture"),
    "distribution": ("", _NOT_KNOWN, "operating system"),
    "kernel": ("", _NOT_KNOWN, "kernel release"),
    "l4t": ("", "no Jetson, or not told", "Jetson Linux release"),
    "jetpack": ("", "no Jetson, or not told", "JetPack release"),
    "memory_total_mib": ("MiB", _NOT_KNOWN, "the machine's memory"),
    "container": ("", _NOT_KNOWN, "measured inside a container"),
    "cpu_clocks_locked": ("", _NOT_KNOWN, "the CPU's clocks could not move"),
    "gpu_clocks_locked": ("", _NOT_KNOWN, "the GPU's clocks could not move"),
    "config": ("", _UNKNOWN, "the whole configuration, a JSON object"),
    "command": ("", "not kept", "the command that repeats the run, a JSON list"),
    "source": ("", "not kept", "where the model is from, a JSON object"),
    "imported": ("", "measured by edgejoule", "of which other layout it is, a JSON object"),
    "notes": ("", "not kept", "what a reader must know, a JSON list"),
}
_ENERGY: Mapping[str, Meaning] = {
    "run": _LAYER["run"],
    "network": (*_LAYER["network"][:1], "", _LAYER["network"][2]),
    "method": ("", "", _LAYER["energy_method"][2]),
    "rail": ("", "", "rail, or `total`"),
    "kind": ("", "", "`layer`, `gap`, `inference` (measured whole), `closure` (layers and gap)"),
    "layer": ("", "kind is not `layer`", _LAYER["layer"][2]),
    "layer_name": ("", "kind is not `layer`", _LAYER["layer_name"][2]),
    "operation": ("", "unknown, or kind is not `layer`", _LAYER["operation"][2]),
    "gross_mj": ("mJ", "", "energy per profiled inference, idle included"),
    "gross_statistical_mj": ("mJ", "not estimated", _HALF),
    "dynamic_mj": ("mJ", "no loaded baseline", "energy above the loaded baseline"),
    "dynamic_statistical_mj": ("mJ", "not estimated", f"{_HALF}, the baseline's included"),
    "systematic_mj": ("mJ", "not known", _LAYER["energy_systematic_mj"][2]),
    "n": ("", "", "inferences behind the row"),
    "resolved": ("", "not asked", _LAYER["energy_resolved"][2]),
    "simulated": ("", "", _LAYER["simulated"][2]),
}
_AXES = ("channels", "height", "width")
_CLASSIC: Mapping[str, Meaning] = {
    **{name: _LAYER[name] for name in ("batch_size", "kernel_0", "kernel_1", "padding_0")},
    **{name: _LAYER[name] for name in ("padding_1", "stride_0", "stride_1")},
    **{f"input_size_{i}": ("", _UNKNOWN, f"{axis} of the input") for i, axis in enumerate(_AXES)},
    **{f"output_size_{i}": ("", _UNKNOWN, f"{axis} of the output") for i, axis in enumerate(_AXES)},
    "input_size": ("", _UNKNOWN, "product of all dimensions of the input, the batch included"),
    "output_size": ("", _UNKNOWN, "product of all dimensions of the output, the batch included"),
    "power": ("uW", "no energy, or no baseline", "power above idle in microwatts"),
    "runtime": ("ms", "no whole inference", "runtime_ms"),
    "layer_name": ("", "", _LAYER["layer_name"][2]),
}
_TABLES: Mapping[str, tuple[Mapping[str, str], Mapping[str, Meaning]]] = {
    "layers": (COLUMNS, _LAYER),
    "runs": (RUN_COLUMNS, _RUN),
    "energy": (ENERGY_COLUMNS, _ENERGY),
    **{kind: (columns, _CLASSIC) for kind, columns in CLASSIC_COLUMNS.items()},
}


def columns_of(table: str) -> tuple[Column, ...]:
    """Return the columns of `layers`, `runs`, `energy`, or of one of the classic three."""
    types, meanings = _TABLES[table]
    return tuple(Column(name, kind, *meanings[name]) for name, kind in types.items())


def table_names() -> tuple[str, ...]:
    """Return the names of the tables that there are."""
    return tuple(_TABLES)
