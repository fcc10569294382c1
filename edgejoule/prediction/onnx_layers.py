"""The layers that a backend would execute of an ONNX file, without running it.

For `onnxruntime` the runtime itself, where it is installed, optimises the graph as it would to run
it, and what comes out is described: these are the layers that were measured, up to the runtime's
version. Elsewhere the file's own nodes are described after the fusions that every runtime makes
(a normalisation into its convolution, an activation into what comes before it), which is an
approximation and said so. onnx and onnxruntime are imported inside the functions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgejoule.errors import UsageError
from edgejoule.inference.common import short
from edgejoule.inference.onnx_graph import (
    DTYPES,
    ExecutedNode,
    describe_layers,
    external_files,
    fix_shapes,
    load_graph,
    name_nodes,
)
from edgejoule.inference.onnx_origin import OriginalGraph
from edgejoule.inference.workload import InputSpec

_FLOAT = 1  # onnx.TensorProto.FLOAT
_HALVES = {"float16": 10, "bfloat16": 16}
# What is fused into what makes its input.
_TAKES = {
    **dict.fromkeys(
        ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish"),
        ("Conv", "ConvTranspose", "Gemm", "MatMul"),
    ),
    "BatchNormalization": ("Conv",),
}
_FREE = ("Constant", "Identity", "Dropout")


def onnx_layers(
    path: Path,
    model: Mapping[str, Any],
    batch: int | None,
    input_shape: Sequence[int] | None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Describe an ONNX file as layers of `engine.json`.

    Args:
        path: The file.
        model: The model that will predict.
        batch: For the first dimension of every input, None for 1 where it is open.
        input_shape: Shape of the first input, None for its own.

    Returns:
        The layers, and what a reader must know of them.

    Raises:
        UsageError: onnx is not there, or the file cannot be described.
    """
    if find_spec("onnx") is None:
        raise UsageError(
            "an ONNX file needs onnx to be read", "pip install 'edgejoule[prediction]'"
        )
    graph = load_graph(path)
    fix_shapes(graph, _inputs(graph, path, batch, input_shape), path)
    name_nodes(graph)
    configuration = model["configuration"]
    backend, dtype = configuration.get("backend"), str(configuration.get("dtype"))
    notes: list[str] = []
    origin = OriginalGraph.of(graph, {})
    described = None
    if backend == "onnxruntime" and find_spec("onnxruntime") is not None and dtype == "float32":
        described, notes = _optimised(graph, path, model)
    if described is None:
        described = _inferred(graph, path)
        notes = [*notes, *_fuse(described, backend)]
    if dtype in _HALVES:
        _make_half(described, _HALVES[dtype])
        notes.append(f"its float32 tensors were taken as {dtype}")
    elif dtype not in {"float32", "tf32"}:
        notes.append(f"its layers are described in float32, the model was learnt from {dtype}")
    executed = [
        ExecutedNode(index, node.name, node.op_type)
        for index, node in enumerate(described.graph.node)
        if node.op_type not in _FREE
    ]
    layers = describe_layers(described, executed, origin)
    if not layers:
        raise UsageError(f"{path} has no layer that takes time", "give another file")
    unknown = sum(1 for layer in layers if any(t.shape is None for t in layer.outputs))
    if unknown:
        notes.append(f"{unknown} of {len(layers)} layers have outputs of unknown shape")
    return [asdict(layer) for layer in layers], notes


def _inputs(
    graph: Any, path: Path, batch: int | None, input_shape: Sequence[int] | None
) -> list[InputSpec]:
    """Return the shapes at which the graph is described.

    Raises:
        UsageError: A dimension is open and nothing says its size, or is fixed at another.
    """
    weights = {tensor.name for tensor in graph.graph.initializer}
    specs = []
    for place, value in enumerate(one for one in graph.graph.input if one.name not in weights):
        kind = value.type.tensor_type
        own = [dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim]
        if place == 0 and input_shape is not None:
            if len(input_shape) != len(own):
                raise UsageError(
                    f"{path}: input {value.name!r} has {len(own)} dimensions, --input-shape "
                    f"{len(input_shape)}"
                )
            own = list(input_shape)
        if own and batch is not None:
            if own[0] is not None and own[0] != batch:
                raise UsageError(
                    f"{path}: the batch of input {value.name!r} is fixed at {own[0]}",
                    f"export it with an open batch, or at {batch}",
                )
            own[0] = batch
        if own and own[0] is None:
            own[0] = 1
        if None in own:
            raise UsageError(
                f"{path}: input {value.name!r} leaves open dimension {own.index(None)}",
                "give its shape with --input-shape",
            )
        shape = tuple(int(size) for size in own if size is not None)
        specs.append(InputSpec(value.name, shape, DTYPES.get(kind.elem_type, "float32")))
    return specs


# --- by the runtime itself ------------------------------------------------------------------------


def _optimised(graph: Any, path: Path, model: Mapping[str, Any]) -> tuple[Any | None, list[str]]:
    """Have ONNX Runtime optimise the graph as it would to run it; None where it refuses."""
    import json

    import onnx
    import onnxruntime as ort

    from edgejoule.inference.backend import BuildOptions
    from edgejoule.inference.onnx_session import LEVELS, session_options

    settings = json.loads(model["configuration"].get("settings") or "{}")
    level = LEVELS.get(str(settings.get("graph_optimization", "extended")), "EXTENDED")
    inferred = _inferred(graph, path)
    with _folder() as folder:
        changed, target = folder / "changed.onnx", folder / "optimised.onnx"
        if external_files(graph):
            from edgejoule.inference.onnx_session import save_changed

            save_changed(graph, path, changed)
        else:
            onnx.save(graph, str(changed))
        options = session_options(BuildOptions("float32"))
        name = level if level.startswith("DISABLE") else f"ENABLE_{level}"
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{name}")
        options.optimized_model_filepath = str(target)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "optimised.data"
        )
        try:
            ort.InferenceSession(str(changed), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 (the runtime's exceptions share no base class)
            return None, [f"onnxruntime {ort.__version__} cannot load the file ({short(error)})"]
        optimised = load_graph(target)
    _add_shapes(optimised, inferred)
    name_nodes(optimised)
    notes = []
    if [ort.__version__] != model["versions"]:
        learnt = ", ".join(model["versions"])
        notes.append(
            f"onnxruntime {ort.__version__} optimised the graph, the model was learnt from {learnt}"
        )
    return optimised, notes


def _add_shapes(optimised: Any, inferred: Any) -> None:
    """Add the shapes of tensors that the runtime left without: fusion keeps their names."""
    known = {value.name for value in optimised.graph.value_info if _has_shape(value)}
    known |= {value.name for value in (*optimised.graph.input, *optimised.graph.output)}
    found = [value for value in inferred.graph.value_info if _has_shape(value)]
    stale = [value for value in optimised.graph.value_info if value.name not in known]
    for value in stale:
        optimised.graph.value_info.remove(value)
    optimised.graph.value_info.extend(value for value in found if value.name not in known)


def _has_shape(value: Any) -> bool:
    kind = value.type.tensor_type
    return kind.HasField("shape") and all(dim.dim_value > 0 for dim in kind.shape.dim)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="edgejoule-prediction-") as folder:
        yield Path(folder)


# --- by what every runtime does -------------------------------------------------------------------


def _inferred(graph: Any, path: Path) -> Any:
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(graph, data_prop=True)
    except Exception as error:  # onnx has no type of its own for it
        raise UsageError(f"{path}: its shapes cannot be inferred ({short(error)})") from error


def _fuse(graph: Any, backend: str | None) -> list[str]:
    """Fuse in place what runtimes fuse; PyTorch itself fuses nothing."""
    nodes = list(graph.graph.node)
    if backend == "torch":
        return [
            "the layers are the file's nodes: exporters fold normalisation into convolutions, "
            "which torch executes apart; an engine.json of the torch backend says it exactly"
        ]
    consumers: dict[str, int] = {}
    for node in nodes:
        for name in node.input:
            consumers[name] = consumers.get(name, 0) + 1
    for value in graph.graph.output:
        consumers[value.name] = consumers.get(value.name, 0) + 2
    makers: dict[str, Any] = {}
    gone: list[Any] = []
    for node in nodes:
        maker = makers.get(node.input[0]) if node.input else None
        if (
            maker is not None
            and consumers.get(node.input[0]) == 1
            and maker.op_type in _TAKES.get(node.op_type, ())
        ):
            maker.output[0] = node.output[0]
            makers[node.output[0]] = maker
            gone.append(node)
            continue
        for name in node.output:
            makers[name] = node
    for node in gone:
        graph.graph.node.remove(node)
    return [
        f"the layers are the file's nodes with normalisation and activations fused; what {backend} "
        "really executes is said by its engine.json"
    ]


def _make_half(graph: Any, kind: int) -> None:
    """Say of every float32 tensor that it is of half precision; its values are not touched."""
    for tensor in graph.graph.initializer:
        if tensor.data_type == _FLOAT:
            tensor.data_type = kind
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info):
        if value.type.tensor_type.elem_type == _FLOAT:
            value.type.tensor_type.elem_type = kind
