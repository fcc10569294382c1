"""What each column of the table of layers means; other tables share some. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping

Meaning = tuple[str, str, str]  # unit, what null says, meaning
UNKNOWN = "unknown"
NO_WINDOW = "unknown, or the layer has none"
NOT_FOUR = "unknown, or not of four dimensions"
NO_ENERGY = "no energy of this layer"
NOT_ASKED = "the method does not ask"
NO_BASELINE = "no loaded baseline"
NOT_RESOLVED = "no energy of this layer, or not resolved"
NO_CLEAN = "no clean pass"
NOT_READ = "could not be read"
NOT_KNOWN = "not known for this machine"
HALF = "half-width of its 95 % interval, within this process"

LAYER: Mapping[str, Meaning] = {
    "run": ("", "", "the run's name, its folder's"),
    "network": ("", UNKNOWN, "the model as asked, of a file its name without folder and ending"),
    "layer": ("", "", "index in engine.json, the order of execution"),
    "layer_name": ("", UNKNOWN, "the runtime's name; not always unique within a run"),
    "layer_type": ("", UNKNOWN, "the runtime's own word for what it does"),
    "operation": ("", UNKNOWN, "the word common to all backends"),
    "module_path": ("", "unmapped", "the model's module behind it; empty: the model itself"),
    "batch_size": ("", UNKNOWN, "first dimension of the first input"),
    "input_shape": ("", UNKNOWN, "shape of the first input, the batch included"),
    "output_shape": ("", UNKNOWN, "shape of the first output, the batch included"),
    "inputs": ("", "unknown, or none", "how many input tensors, weights left out where told"),
    "outputs": ("", "unknown, or none", "how many output tensors"),
    "input_elements": ("", UNKNOWN, "elements over all inputs"),
    "output_elements": ("", UNKNOWN, "elements over all outputs"),
    "input_channels": ("", UNKNOWN, "second dimension of the first input"),
    "output_channels": ("", UNKNOWN, "second dimension of the first output"),
    "input_height": ("", NOT_FOUR, "third dimension of the first input"),
    "input_width": ("", NOT_FOUR, "fourth dimension of the first input"),
    "output_height": ("", NOT_FOUR, "third dimension of the first output"),
    "output_width": ("", NOT_FOUR, "fourth dimension of the first output"),
    "kernel_0": ("", NO_WINDOW, "window along the first spatial axis"),
    "kernel_1": ("", NO_WINDOW, "window along the second spatial axis"),
    "stride_0": ("", NO_WINDOW, "stride along the first spatial axis"),
    "stride_1": ("", NO_WINDOW, "stride along the second spatial axis"),
    "padding_0": ("", NO_WINDOW, "padding of the first spatial axis, begin plus end"),
    "padding_1": ("", NO_WINDOW, "padding of the second spatial axis, begin plus end"),
    "dilation_0": ("", NO_WINDOW, "dilation along the first spatial axis"),
    "dilation_1": ("", NO_WINDOW, "dilation along the second spatial axis"),
    "groups": ("", NO_WINDOW, "groups of a convolution"),
    "weights": ("", UNKNOWN, "number of weights, bias included"),
    "flops": ("", UNKNOWN, "operations of one execution; a multiply-add counts two"),
    "bytes_moved": ("bytes", UNKNOWN, "inputs, outputs and weights, each once"),
    "layer_dtype": ("", UNKNOWN, "dtype of the first output"),
    "fused": ("", "unknown, or nothing", "the operations in it, joined by `+`, the main one first"),
    "tactic": ("", "not told", "what the runtime calls the implementation that it chose"),
    "inferences": ("", UNKNOWN, "profiled inferences behind the row"),
    "runtime_ms": ("ms", "no whole inference", "mean duration in the profiled pass"),
    "runtime_statistical_ms": ("ms", "fewer than two inferences", HALF),
    "runtime_median_ms": ("ms", "no whole inference", "median duration"),
    "runtime_share": ("", "no time in layers", "mean duration over the sum of all layers'"),
    "energy_method": ("", NO_ENERGY, "how energy was split over layers"),
    "energy_rail": ("", NO_ENERGY, "the rail it is of"),
    "energy_resolved": (
        "",
        NOT_ASKED,
        "whether the method tells it from everything else; if not, it has no energy of its own",
    ),
    "energy_gross_mj": ("mJ", NOT_RESOLVED, "energy per inference, idle included"),
    "energy_gross_statistical_mj": ("mJ", "not estimated", HALF),
    "energy_dynamic_mj": (
        "mJ",
        "no loaded baseline, or not resolved",
        "energy above the loaded baseline",
    ),
    "energy_dynamic_statistical_mj": ("mJ", "not estimated", f"{HALF}, the baseline's included"),
    "energy_systematic_mj": ("mJ", "not known", "bound on what repeating does not average out"),
    "energy_group": (
        "",
        "on its own",
        "smallest index of the layers it was measured together with: of those that `window` cannot "
        "tell it from, or of its equals, of which `replay` measured one",
    ),
    "energy_why": ("", "nothing to say", "why it is not resolved, or what a reader must know"),
    "energy_dynamic_other_mj": (
        "mJ",
        "method is not `replay`",
        "by the other rule: power above idle alone times runtime_ms",
    ),
    "energy_scaled_gross_mj": (
        "mJ",
        "not known",
        "scaled: its share of the method's sum times the energy of a clean inference",
    ),
    "energy_scaled_dynamic_mj": ("mJ", "not known", "scaled: the same above the baseline"),
    "alone_ms": ("ms", "method is not `replay`", "time of one execution while it repeats alone"),
    "power_gross_mw": ("mW", "no energy, or no time", "energy_gross_mj over runtime_ms"),
    "power_gross_statistical_mw": ("mW", "not estimated", "the energy's half-width over it"),
    "power_dynamic_mw": ("mW", "no energy, or no time", "energy_dynamic_mj over runtime_ms"),
    "power_dynamic_statistical_mw": ("mW", "not estimated", "the energy's half-width over it"),
    "edp_uj_s": ("uJ s", "no energy, or no time", "energy_gross_mj times runtime_ms"),
    "gflops_per_s": ("GFLOP/s", "flops or time unknown", "flops over runtime_ms"),
    "gbytes_per_s": ("GB/s", "bytes or time unknown", "bytes_moved over runtime_ms"),
    "gflop_per_joule": ("GFLOP/J", "flops or energy unknown", "flops over energy_gross_mj"),
    "flop_per_byte": ("", "flops or bytes unknown", "flops over bytes_moved"),
    "roofline_bound": (
        "",
        "no measured roofline, or counts unknown",
        "`compute` or `memory`: which roof is lower for it",
    ),
    "roofline_share": (
        "",
        "no measured roofline, or counts unknown",
        "least time under the measured roofline over runtime_ms",
    ),
    "roofline_note": ("", "nothing to say", "why it stands above the roof"),
    "backend": ("", UNKNOWN, "the runtime"),
    "dtype": ("", UNKNOWN, "dtype that was asked for"),
    "device": ("", UNKNOWN, "`cpu` or `cuda:<index>`"),
    "board": ("", UNKNOWN, "board, the same across runs"),
    "power_mode": ("", "unknown, or none", "the board's power mode"),
    "processor": ("", UNKNOWN, "the GPU's name where the device is one, else the CPU's"),
    "sensor": ("", UNKNOWN, "power sensor; `none`: no energy was measured"),
    "simulated": ("", UNKNOWN, "power and energy are simulated, not measured"),
    "weights_kind": ("", UNKNOWN, "`pretrained`, `random`, `user`, `unknown`"),
    "shared_gpu": ("", "cannot be told", "somebody else used the GPU meanwhile"),
    "status": ("", UNKNOWN, "`complete`, `incomplete`, `failed`"),
    "started_at": ("", UNKNOWN, "begin, ISO 8601, UTC"),
    "config_sha256": ("", UNKNOWN, "identity of the configuration: equal for repeats"),
    "run_sha256": ("", UNKNOWN, "seal of the run"),
    "schema_version": ("", UNKNOWN, "format of the run"),
    "edgejoule_version": ("", UNKNOWN, "what measured it"),
    "backend_version": ("", UNKNOWN, "version of the runtime"),
    "versions": ("", UNKNOWN, "versions of all libraries, a JSON object"),
}
