"""One's own ONNX file: read, checked, hashed with its external data, its inputs given sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgejoule.errors import UsageError
from edgejoule.inference.workload import InputSpec, LoadedModel, ModelRequest
from model.loading.node_paths import module_path
from model.loading.spec import Spec, one_line, sha256_of, shape_text

Dim = int | str | None
"""A size; a name for a free one; None for a free one without a name."""


@dataclass(frozen=True)
class GraphInput:
    """An input of a graph, its shape perhaps with free sizes, its dtype as numpy names it."""

    name: str
    shape: tuple[Dim, ...]
    dtype: str

    def text(self) -> str:
        """Return the shape as `Nx3x224x224`."""
        return "x".join("?" if size is None else str(size) for size in self.shape) or "scalar"


@dataclass(frozen=True)
class Graph:
    """What is read from an ONNX file without its weights.

    Attributes:
        path: The file.
        inputs: Its inputs without those that have a default value in the file.
        module_paths: Node name -> module path, where the exporter kept it.
        sha256: Over the file and then its files of external data, in the order of their names.
        facts: Producer and operator sets.
    """

    path: Path
    inputs: tuple[GraphInput, ...]
    module_paths: dict[str, str]
    sha256: str
    facts: dict[str, Any]


def read_graph(spec: Spec) -> Graph:
    """Read an ONNX file's inputs, provenance and hash.

    Raises:
        UsageError: onnx is not installed; the file is no ONNX or has no outputs; a file of
            external data is missing.
    """
    assert spec.path is not None  # noqa: S101 (narrowing: an ONNX spec has a path)
    path = spec.path
    onnx = _import_onnx()
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, OSError, MemoryError
        raise UsageError(f"{path} cannot be read as ONNX ({one_line(error)})") from error
    if not proto.graph.node or not proto.graph.output:
        raise UsageError(f"{path} holds no ONNX graph that computes anything")
    weights = {tensor.name for tensor in proto.graph.initializer}
    weights |= {tensor.values.name for tensor in proto.graph.sparse_initializer}
    paths = {}
    for node in proto.graph.node:
        properties = {entry.key: entry.value for entry in getattr(node, "metadata_props", ())}
        found = module_path(node.name, node.op_type, properties, list(node.input))
        if node.name and found:
            paths[node.name] = found
    return Graph(
        path,
        tuple(_input(onnx, path, item) for item in proto.graph.input if item.name not in weights),
        paths,
        sha256_of(path, *_external_files(onnx, proto, path.parent)),
        {
            "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
            "ir_version": proto.ir_version,
            "opsets": {item.domain or "ai.onnx": item.version for item in proto.opset_import},
        },
    )


def load_onnx(spec: Spec, request: ModelRequest) -> LoadedModel:
    """Check an ONNX file and give its free sizes the requested values.

    The first free dimension of an input is its batch, 1 unless `request.input_shape` says
    otherwise; a size of the same name is the same in every input.

    Raises:
        UsageError: It is damaged or invalid, the shape does not fit, a free size stays unknown, or
            the backend wants a torch module.
    """
    if request.form != "onnx":
        raise UsageError(
            f"{spec.path} is an ONNX file, which this backend cannot take",
            "use --backend tensorrt or onnxruntime",
        )
    graph = read_graph(spec)
    onnx = _import_onnx()
    try:
        onnx.checker.check_model(str(graph.path))
    except Exception as error:  # ValidationError, and ValueError of the proto library
        raise UsageError(f"{graph.path} is not valid ONNX ({one_line(error)})") from error
    return LoadedModel(
        name=spec.name,
        form="onnx",
        module=None,
        onnx_path=graph.path,
        inputs=_sized(graph, request.input_shape),
        weights="user",
        source={"file": graph.path.name, "sha256": graph.sha256, **graph.facts},
        module_paths=graph.module_paths,
    )


def _import_onnx() -> Any:
    try:
        import onnx
        import onnx.checker
    except ImportError as error:
        raise UsageError(
            f"reading an ONNX file needs the onnx package ({error})", "pip install onnx"
        ) from error
    return onnx


def _external_files(onnx: Any, proto: Any, folder: Path) -> list[Path]:
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    tensors = list(proto.graph.initializer)
    for node in proto.graph.node:
        tensors += [attribute.t for attribute in node.attribute if attribute.HasField("t")]
    names = {ExternalDataInfo(item).location for item in tensors if uses_external_data(item)}
    return [folder / name for name in sorted(names)]


def _input(onnx: Any, path: Path, item: Any) -> GraphInput:
    kind = item.type.tensor_type
    if not item.type.HasField("tensor_type") or kind.elem_type == onnx.TensorProto.STRING:
        raise UsageError(f"{path}: input {item.name!r} is not a tensor of numbers")
    if not kind.HasField("shape"):
        raise UsageError(f"{path}: input {item.name!r} has no shape", "export it with one")
    shape: list[Dim] = []
    for size in kind.shape.dim:
        free = size.dim_param or None
        shape.append(size.dim_value if size.HasField("dim_value") else free)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    return GraphInput(item.name, tuple(shape), dtype)


def _sized(graph: Graph, wanted: tuple[int, ...] | None) -> tuple[InputSpec, ...]:
    """Give every free size a value."""
    if wanted is not None:
        if not graph.inputs:
            raise UsageError(f"{graph.path} has no input", "leave --input-shape away")
        first = graph.inputs[0]
        fits = len(wanted) == len(first.shape) and all(
            not isinstance(size, int) or size == asked
            for size, asked in zip(first.shape, wanted, strict=False)
        )
        if not fits:
            raise UsageError(
                f"an input of {shape_text(wanted)} does not fit {graph.path}, whose input "
                f"{first.name!r} is {first.text()}",
                "give such a shape, or leave --input-shape away",
            )
    named: dict[str, int] = {}
    specs: list[InputSpec] = []
    for item in graph.inputs:
        asked = wanted if not specs else None
        shape: list[int] = []
        for axis, size in enumerate(item.shape):
            if isinstance(size, int):
                value: int | None = size
            elif asked is not None:
                value = asked[axis]
            elif size in named:
                value = named[size]
            elif axis == 0:
                value = specs[0].shape[0] if specs and specs[0].shape else 1
            else:
                value = None
            if value is None:
                raise UsageError(
                    f"{graph.path}: input {item.name!r} is {item.text()}, with a free size",
                    "give --input-shape" if not specs else "fix that size in the file",
                )
            if isinstance(size, str):
                named[size] = value
            shape.append(value)
        specs.append(InputSpec(item.name, tuple(shape), item.dtype))
    return tuple(specs)
