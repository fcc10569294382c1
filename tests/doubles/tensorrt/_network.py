"""The double's network and ONNX parser: one layer per node, refused as the real parser refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ._base import DataType, Dims, log_error
from ._flags import ErrorCode, NetworkDefinitionCreationFlag
from ._state import REGISTERED, VERSION

ONNX_TYPES = {
    1: "FLOAT", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "HALF", 11: "FLOAT",
    16: "BF16", 17: "FP8",
}  # fmt: skip
# Operators of ONNX's own domain that the real parser refuses (`checkUnique` and its like).
REFUSED = ("Unique", "StringNormalizer", "Optional", "MaxRoiPool")


# Imported as plugins, which are found once they are registered.
PLUGINS = ("EfficientNMS_TRT", *(("InstanceNormalization",) if VERSION < (9, 0) else ()))
KINDS = {"QUANTIZELINEAR": "QUANTIZE", "DEQUANTIZELINEAR": "DEQUANTIZE"}


class Strict:
    """pybind11's classes take no attribute that they do not have."""

    _attributes: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in self._attributes:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)


class ITensor(Strict):
    _attributes = ("name", "shape", "dtype")

    def __init__(self, name: str, shape: Any, dtype: Any, *, is_shape: bool = False) -> None:
        self.name = name
        self.shape = Dims(shape)
        self.dtype = dtype
        self._is_shape = is_shape

    @property
    def is_shape_tensor(self) -> bool:
        return self._is_shape


class ILayer(Strict):
    _attributes = ("name", "metadata")

    def __init__(self, name: str, kind: str, inputs: list[ITensor], outputs: list[ITensor]) -> None:
        self.name = name
        self.metadata = f"[ONNX Layer: {name}]"
        self._kind = kind
        self._inputs = inputs
        self._outputs = outputs

    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))
    type = property(
        lambda self: SimpleNamespace(name=KINDS.get(self._kind.upper(), self._kind.upper()))
    )

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class INetworkDefinition(Strict):
    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []
        self._layers: list[ILayer] = []
        self._model: Any = None

    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))
    num_layers = property(lambda self: len(self._layers))
    flags = property(lambda self: self._flags)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags >> int(flag) & 1)

    @property
    def strong(self) -> bool:
        if VERSION >= (11, 0):
            return True
        flag = getattr(NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return flag is not None and self.get_flag(flag)


class ParserError:
    def __init__(self, code: Any, desc: str, node: int, name: str = "", operator: str = "") -> None:
        self._code, self._desc, self._node = code, desc, node
        self._name, self._operator = name, operator

    def code(self) -> Any:
        return self._code

    def desc(self) -> str:
        return self._desc

    def file(self) -> str:
        return "ModelImporter.cpp"

    def func(self) -> str:
        return f"check{self._operator}" if self._desc == "false" else "parseNode"

    def line(self) -> int:
        return 299

    def node(self) -> int:
        return self._node

    if VERSION >= (10, 0):

        def node_name(self) -> str:
            return self._name

        def node_operator(self) -> str:
            return self._operator

        def local_function_stack(self) -> list[str]:
            return []


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: Any) -> None:
        self._network = network
        self._logger = logger
        self._errors: list[ParserError] = []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def clear_errors(self) -> None:
        self._errors.clear()

    def _fail(self, code: Any, desc: str, index: int = -1, name: str = "", op: str = "") -> bool:
        self._errors.append(ParserError(code, desc, index, name, op))
        log_error(self._logger, f"In node {index} with name: {name} and operator: {op}: {desc}")
        return False

    def parse_from_file(self, model: str) -> bool:
        import onnx

        if not Path(model).is_file():
            return self._fail(
                ErrorCode.INVALID_VALUE,
                f"Assertion failed: stat(onnxModelFile, &sb) == 0: Input file not found: {model}",
            )
        try:
            loaded = onnx.load(model)
        except Exception:  # noqa: BLE001
            loaded = None
        if loaded is None or not loaded.graph.node:
            return self._fail(ErrorCode.MODEL_DESERIALIZE_FAILED, "Failed to parse the ONNX model.")
        explicit = getattr(NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
        if VERSION < (9, 0) and not self._network.get_flag(explicit):
            return self._fail(
                ErrorCode.INVALID_VALUE,
                "This version of the ONNX parser only supports TensorRT INetworkDefinitions with "
                "an explicit batch dimension.",
            )
        return self._import(loaded)

    def _import(self, loaded: Any) -> bool:
        import onnx

        network, graph = self._network, loaded.graph
        known = {tensor.name for tensor in graph.initializer}
        for index, node in enumerate(graph.node):
            missing = [name for name in node.input if name and name not in known]
            inputs = {value.name for value in graph.input}
            if node.op_type in PLUGINS:
                if not REGISTERED:
                    text = "Plugin not found, are the plugin name, version, and namespace correct?"
                    self._fail(ErrorCode.UNSUPPORTED_NODE, text, index, node.name, node.op_type)
            elif node.domain not in {"", "ai.onnx"}:
                text = f"Op type {node.op_type} is not supported in TensorRT."
                if VERSION < (9, 0):
                    text = f"No importer registered for op: {node.op_type}"
                self._fail(ErrorCode.INTERNAL_ERROR, text, index, node.name, node.op_type)
            elif node.op_type in REFUSED:
                self._fail(ErrorCode.UNSUPPORTED_NODE, "false", index, node.name, node.op_type)
            elif any(name not in inputs for name in missing):
                self._fail(
                    ErrorCode.INVALID_GRAPH,
                    "Assertion failed: (ctx->tensors().count(inputName)): Node input was not "
                    "registered.",
                    index, node.name, node.op_type,
                )  # fmt: skip
            known.update(node.output)
        if self._errors:
            return False
        try:
            inferred = onnx.shape_inference.infer_shapes(loaded)
        except Exception:  # noqa: BLE001 (types that shape inference does not know)
            inferred = loaded
        tensors: dict[str, ITensor] = {}
        values = (*inferred.graph.value_info, *inferred.graph.output)
        types = {value.name: value.type.tensor_type for value in (*values, *graph.input)}
        for value in graph.input:
            if value.name not in {one.name for one in graph.initializer}:
                tensors[value.name] = _tensor(value.name, types)
                network._inputs.append(tensors[value.name])
        for node in graph.node:
            if node.op_type == "Constant":
                continue
            outputs = [_tensor(name, types) for name in node.output if name]
            if node.op_type == "QuantizeLinear" and not network.strong:
                # A weakly typed network decides this while it is built.
                for tensor in outputs:
                    tensor.dtype = DataType.FLOAT
            tensors.update({tensor.name: tensor for tensor in outputs})
            inputs = [tensors[name] for name in node.input if name in tensors]
            network._layers.append(ILayer(node.name, node.op_type, inputs, outputs))
        network._outputs += [tensors[value.name] for value in graph.output]
        network._model = inferred
        return True


def _tensor(name: str, types: dict[str, Any]) -> ITensor:
    kind = types.get(name)
    if kind is None:
        return ITensor(name, (), DataType.FLOAT)
    dims = [dim.dim_value if dim.dim_value > 0 else -1 for dim in kind.shape.dim]
    named = ONNX_TYPES.get(kind.elem_type, "FLOAT")
    if VERSION < (9, 0) and named == "INT64":
        named = "INT32"
    return ITensor(name, dims, DataType[named])
