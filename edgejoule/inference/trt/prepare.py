"""What is done to a graph before TensorRT parses it: cast, Q/DQ, or nothing.

A strongly typed network takes every type from the graph, so float16 and bfloat16 are a cast of the
graph and int8 and fp8 Q/DQ in it. A weakly typed one (TensorRT 8.6) takes float16 by a flag; int8
there is Q/DQ too where `onnx` and `onnxruntime` can be had, else TensorRT's own calibrator.
"""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgejoule.errors import UsageError
from edgejoule.files import sha256_of
from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.trt.precision import Typing
from edgejoule.inference.workload import LoadedModel

PREPARED_FILE = "prepared.onnx"


@dataclass(frozen=True)
class Prepared:
    """A graph ready for the parser.

    Attributes:
        graph: The file.
        explicit: Whether it was given Q/DQ.
        calibrator: TensorRT's own, where it calibrates.
        facts: What was done, for the engine's settings.
    """

    graph: Path
    explicit: bool = False
    calibrator: Any = None
    facts: dict[str, Any] = field(default_factory=dict)

    def clean(self, artefacts: Path) -> None:
        """Delete what was written beside the graph and free the calibrator's memory.

        The graph itself and its weights stay as long as the artefacts do: the replay pass builds
        layers from it.
        """
        if self.calibrator is not None:
            self.calibrator.close()
        for path in artefacts.glob(f"{PREPARED_FILE}*"):
            if path.is_dir():
                shutil.rmtree(path)


def prepare(
    trt: Any,
    cuda: Any,
    model: LoadedModel,
    graph: Path,
    options: BuildOptions,
    typing: Typing,
    artefacts: Path,
) -> Prepared:
    """Cast a graph or give it Q/DQ, as its dtype and typing ask.

    Args:
        trt: The module.
        cuda: Of `load_cuda`, with the device in use.
        model: The model, for its inputs and normalisation.
        graph: Its ONNX file.
        options: Dtype, calibration, its cache, seed.
        typing: Of `typing_of`.
        artefacts: Folder for the changed graph.

    Raises:
        UsageError: A package is missing, there are no calibration data, or their cache is stale.
    """
    dtype = options.dtype
    target = artefacts / PREPARED_FILE
    if dtype in {"float16", "bfloat16"} and typing.kind == "strong":
        _need(("onnx",), f"dtype {dtype} is a cast of the graph")
        from edgejoule.inference.onnx_dtype import cast_graph

        facts = cast_graph(graph, target, dtype)
        return Prepared(target, facts={"cast": facts})
    if dtype not in {"int8", "fp8"}:
        return Prepared(graph)
    if _is_quantised(graph):
        return _as_it_is(graph, options, typing)
    from edgejoule.inference.calibration_data import load_calibration

    data = load_calibration(options.calibration, model.inputs, model.normalisation, options.seed)
    lacking = _lacking(("onnx", "onnxruntime"))
    if lacking and typing.kind == "weak":
        from edgejoule.inference.trt.calibrator import calibrator_key, make_calibrator

        cache = None if options.calibration_cache is None else Path(options.calibration_cache)
        key = calibrator_key(trt, sha256_of(graph), data)
        calibrator = make_calibrator(trt, cuda, data, key, cache)
        how = f"implicit: no {' and no '.join(lacking)} here to put Q/DQ into the graph"
        return Prepared(graph, calibrator=calibrator, facts={"quantisation": how})
    _need(("onnx", "onnxruntime"), f"dtype {dtype} puts Q/DQ into the graph")
    from edgejoule.inference.quantization import model_hash, quantise

    # A weakly typed network takes the rest's type from its flags, not from the graph.
    rest = typing.rest if typing.kind == "strong" and typing.rest else "float32"
    facts = quantise(graph, target, dtype, options, data, model_hash(graph), rest=rest)
    return Prepared(target, explicit=True, facts={"quantisation": facts})


def _as_it_is(graph: Path, options: BuildOptions, typing: Typing) -> Prepared:
    """Take a graph that a tool (modelopt, say) has quantised: its scales are its own."""
    if typing.kind == "strong" and options.extra.get("allow_fallback"):
        raise UsageError(
            "--allow-fallback: the graph is quantised already, and what is not has its own types",
            "leave it out, or give the graph before it was quantised",
        )
    how = "as the graph came; no calibration was needed"
    if options.calibration is not None:
        how = "as the graph came; the calibration data were not used"
    return Prepared(graph, explicit=True, facts={"quantisation": how})


def _is_quantised(graph: Path) -> bool:
    """Whether a graph has Q/DQ; without the package that reads it, it is taken for one without."""
    if _lacking(("onnx",)):
        return False
    from edgejoule.inference.onnx_graph import load_graph

    kinds = {node.op_type for node in load_graph(graph).graph.node}
    return bool(kinds & {"QuantizeLinear", "DequantizeLinear"})


def _lacking(packages: tuple[str, ...]) -> list[str]:
    return [name for name in packages if importlib.util.find_spec(name) is None]


def _need(packages: tuple[str, ...], why: str) -> None:
    lacking = _lacking(packages)
    if lacking:
        raise UsageError(
            f"{why}, which needs {' and '.join(lacking)}", f"pip install {' '.join(lacking)}"
        )
