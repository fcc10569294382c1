"""Int8 and fp8: a float32 graph with explicit quantise and dequantise nodes, from calibration data.

What carries ranges into an engine is the graph itself: every version of TensorRT from 8.5 takes
such nodes, 11 takes nothing else, and ONNX Runtime runs them on a CPU, so that what an engine
computes can be checked without a GPU. Ranges come from `quantization_ranges`, or from a file that
is checked first (`calibration_cache`); where the nodes go is `quantization_placement` for TensorRT,
and the runtime's own quantiser for ONNX Runtime (`quantization_runtime`).

NVIDIA's modelopt (Apache-2.0) does the same and is not used: version 0.47 asks for torch from 2.8,
for one minor version each of onnx and onnxruntime (1.22 with Python 3.10) and for cupy, so that a
board without torch could not calibrate.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgejoule.errors import UsageError
from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.calibration_cache import (
    Cache,
    CacheKey,
    check_cache,
    read_cache,
    write_cache,
)
from edgejoule.inference.calibration_data import CalibrationData
from edgejoule.inference.quantization_graph import (
    fold_batch_norms,
    hoist_constants,
    load_whole,
    model_hash,
    opset_of,
    raise_opset,
    save_whole,
)
from edgejoule.inference.quantization_placement import OPSETS, insert_pairs
from edgejoule.inference.quantization_ranges import PERCENTILE, Ranges, find_ranges
from edgejoule.inference.quantization_runtime import cpu_scheme, quantise_for_cpu

__all__ = ["METHODS", "RUNTIMES", "model_hash", "quantise"]

RUNTIMES = ("tensorrt", "onnxruntime")
# The steps of int8 are equal, so that outliers cost precision everywhere; an 8-bit float keeps its
# relative precision down to small values, so that there is nothing to clip for.
METHODS = {"int8": "percentile", "fp8": "max"}
_OPSET_HALF = 19  # first whose quantise nodes take float16


def quantise(
    graph: Path,
    target: Path,
    dtype: str,
    options: BuildOptions,
    data: CalibrationData,
    model_sha256: str,
    *,
    runtime: str = "tensorrt",
    rest: str = "float32",
) -> dict[str, Any]:
    """Write the quantised form of a graph.

    Args:
        graph: A float32 ONNX graph with fixed shapes.
        target: Where the quantised graph goes.
        dtype: `int8` or `fp8`.
        options: Of the build; `calibration_cache` is the file that keeps ranges.
        data: What to calibrate with (`calibration_data.load_calibration`).
        model_sha256: Of the graph (`model_hash`).
        runtime: What it is for, one of `RUNTIMES`.
        rest: `float32` or `float16`: what is not 8 bits wide.

    Returns:
        Facts for `EngineDescription.settings`.

    Raises:
        UsageError: onnxruntime is missing; the cache is stale or damaged; the graph cannot be
            quantised.
        MeasurementError: The model computes no finite numbers for the calibration inputs.
    """
    if runtime not in RUNTIMES or dtype not in METHODS or rest not in ("float32", "float16"):
        raise ValueError(f"cannot quantise for {runtime!r} in {dtype!r} with {rest!r}")
    if runtime == "onnxruntime" and dtype != "int8":
        raise UsageError(f"onnxruntime's CPU has no kernels for {dtype}", "use --dtype int8")
    versions = _versions(dtype)
    model = load_whole(graph)
    before = opset_of(model)
    model = raise_opset(model, _OPSET_HALF if rest == "float16" else OPSETS[dtype])
    hoist_constants(model)
    facts: dict[str, Any] = {"folded_batch_norms": fold_batch_norms(model)}
    if opset_of(model) != before:
        facts["opset_raised_from"] = before
    method = METHODS[dtype]
    key = CacheKey(model_sha256, data.sha256, data.files, dtype, _words(method), versions)
    ranges, origin = _ranges(model, options, data, key, method, target)
    if runtime == "onnxruntime":
        quantised, placed = quantise_for_cpu(model, ranges, cpu_scheme())
    else:
        quantised, placed = model, insert_pairs(model, ranges, dtype)
    save_whole(quantised, target)
    if rest == "float16":
        from edgejoule.inference.onnx_dtype import cast_graph

        facts["cast"] = cast_graph(target, target, "float16")
    return {
        "dtype": dtype,
        "runtime": runtime,
        "rest": rest,
        "method": _words(method),
        "calibration": data.to_json(),
        "ranges": origin,
        "ranges_sha256": hash_ranges(ranges),
        "tensors_with_ranges": len(ranges),
        "versions": versions,
        **facts,
        **placed,
    }


def hash_ranges(ranges: Mapping[str, tuple[float, float]]) -> str:
    """Return the SHA-256 of ranges, whatever their order."""
    text = json.dumps({name: list(pair) for name, pair in ranges.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _ranges(
    model: Any,
    options: BuildOptions,
    data: CalibrationData,
    key: CacheKey,
    method: str,
    target: Path,
) -> tuple[Ranges, str]:
    """Return the ranges and in words where they come from."""
    path = None if options.calibration_cache is None else Path(options.calibration_cache)
    if path is not None and path.exists():
        cache = read_cache(path)
        check_cache(path, cache, key)
        if not cache.ranges:
            raise UsageError(
                f"calibration cache {path} holds no ranges, it was made by TensorRT's calibrator",
                "give another --calibration-cache",
            )
        return dict(cache.ranges), f"read from {path.name}"
    scratch = target.with_name(target.name + ".calibrating")
    ranges = find_ranges(model, data.sets, method, scratch, options.threads)
    if path is not None:
        write_cache(path, Cache(key, ranges))
        return ranges, f"computed, kept in {path.name}"
    return ranges, "computed"


def _words(method: str) -> str:
    return f"percentile {PERCENTILE}" if method == "percentile" else method


def _versions(dtype: str) -> dict[str, str]:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise UsageError(
            f"{dtype} is calibrated with onnxruntime, which cannot be imported ({error})",
            "pip install onnxruntime",
        ) from error
    return {"onnxruntime": str(ort.__version__)}
