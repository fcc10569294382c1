"""`Runtime`, `ICudaEngine` and `EngineInspector` of the double."""

from __future__ import annotations

import json
from typing import Any

from . import _cuda
from ._base import (
    DataType,
    Dims,
    IGpuAllocator,
    ILogger,
    LayerInformationFormat,
    ProfilingVerbosity,
    TensorFormat,
    TensorLocation,
    log_error,
    require,
)
from ._context import IExecutionContext, mode
from ._plan import read_plan, write_plan
from ._state import VERSION, VERSION_TEXT

_READABLE = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "INT8": "Int8",
    "INT32": "Int32",
    "INT64": "Int64",
    "BOOL": "Bool",
    "UINT8": "UInt8",
    "BF16": "BF16",
    "FP8": "FP8",
}


class Runtime:
    def __init__(self, logger: Any) -> None:
        require(logger, ILogger)
        self.logger = logger
        self.gpu_allocator_: Any = None

    gpu_allocator = property(None, lambda self, value: self._take(value))

    def _take(self, allocator: Any) -> None:
        if allocator is not None:
            require(allocator, IGpuAllocator)
        self.gpu_allocator_ = allocator

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        plan = read_plan(bytes(serialized_engine))
        refused = _refusal(plan)
        if refused or plan is None:
            log_error(self.logger, f"IRuntime::deserializeCudaEngine: {refused}")
            return None
        try:
            return ICudaEngine(self, plan)
        except MemoryError:
            log_error(
                self.logger,
                "IRuntime::deserializeCudaEngine: Error Code 2: OutOfMemory (Requested size was "
                f"{plan['weights_bytes']} bytes.)",
            )
            return None


def _refusal(plan: dict[str, Any] | None) -> str:
    """What TensorRT of the version played logs of a plan that it does not take."""
    if plan is None:
        return (
            "Error Code 1: Serialization (Serialization assertion plan->header.magicTag == "
            "rt::kPLAN_MAGIC_TAG failed.)"
        )
    if plan["platform"] != "linux":
        return (
            "Error Code 1: Serialization (Serialization assertion header.pad == "
            "expectedPlatformTag failed. Platform specific tag mismatch detected. TensorRT plan "
            "files are only supported on the target runtime platform they were created on.)"
        )
    if plan["version"] != VERSION_TEXT and VERSION < (10, 0):
        return (
            "Error Code 1: Serialization (Serialization assertion stdVersionRead == "
            "serializationVersion failed.Version tag does not match. Note: Current Version: 236, "
            "Serialized Engine Version: 237)"
        )
    if plan["version"] != VERSION_TEXT:
        return (
            "Error Code 6: API Usage Error (The engine plan file is not compatible with this "
            f"version of TensorRT, expecting library version {VERSION_TEXT} got "
            f"{plan['version']}, please rebuild.)"
        )
    here = _cuda.capability()
    if plan["capability"] not in {None, here}:
        return (
            "Error Code 6: API Usage Error (The engine plan file is generated on an incompatible "
            f"device, expecting compute {here} got compute {plan['capability']}, please rebuild.)"
        )
    return ""


class ICudaEngine:
    def __init__(self, runtime: Runtime, plan: dict[str, Any]) -> None:
        self._runtime = runtime
        self._plan = plan
        self._memory = _cuda.Memory(int(plan["weights_bytes"]), runtime.gpu_allocator_, VERSION)
        self._inputs = [_tensor(tensor, True) for tensor in plan["inputs"]]
        self._outputs = [_tensor(tensor, False) for tensor in plan["outputs"]]
        self._tensors = {tensor["name"]: tensor for tensor in (*self._inputs, *self._outputs)}

    def __del__(self) -> None:
        memory = getattr(self, "_memory", None)
        if memory is not None:
            memory.free()

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return mode(self._tensors[name]["is_input"])

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[self._tensors[name]["dtype"]]

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self._tensors[name]["shape"])

    def get_tensor_location(self, name: str) -> Any:
        return self._tensors[name]["location"]

    def get_tensor_format(self, name: str, profile_index: int = 0) -> Any:
        return TensorFormat[self._tensors[name].get("layout", "LINEAR")]

    def is_shape_inference_io(self, name: str) -> bool:
        return bool(self._tensors[name].get("shape_tensor"))

    @property
    def num_optimization_profiles(self) -> int:
        return max(1, len(self._plan["profiles"]))

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        profiles = self._plan["profiles"]
        found = profiles[profile_index].get(name, []) if profiles else []
        return [Dims(shape) for shape in found]

    if VERSION >= (10, 0):

        def get_tensor_profile_values(self, profile_index: int, name: str) -> list[list[int]]:
            if not self.is_shape_inference_io(name):
                raise RuntimeError("Binding index does not correspond to an input shape tensor.")
            found: list[list[int]] = self._plan["profiles"][profile_index].get(name, [])
            return found

    @property
    def num_layers(self) -> int:
        return len(self._plan["layers"])

    @property
    def num_aux_streams(self) -> int:
        return int(self._plan["aux_streams"])

    @property
    def profiling_verbosity(self) -> Any:
        return ProfilingVerbosity[self._plan["verbosity"]]

    if VERSION < (11, 0):

        @property
        def device_memory_size(self) -> int:
            return int(self._plan["activation_bytes"])

    if VERSION >= (10, 1):

        @property
        def device_memory_size_v2(self) -> int:
            return int(self._plan["activation_bytes"])

    def create_execution_context(self) -> IExecutionContext | None:
        try:
            return IExecutionContext(self)
        except MemoryError:
            log_error(
                self._runtime.logger,
                "ICudaEngine::createExecutionContext: Error Code 2: OutOfMemory (Requested size "
                f"was {self._plan['activation_bytes']} bytes.)",
            )
            return None

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)

    def serialize(self) -> bytes:
        return write_plan(self._plan)

    def _reported_name(self, index: int) -> str:
        name = str(self._plan["layers"][index]["name"])
        return str(index) if self._plan["verbosity"] == "NONE" else name


class EngineInspector:
    execution_context: Any = None

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:  # noqa: A002 (the real one's name)
        if format != LayerInformationFormat.JSON:
            raise NotImplementedError("the double speaks JSON")
        plan = self._engine._plan
        layers: list[Any] = []
        if plan["verbosity"] == "LAYER_NAMES_ONLY":
            layers = [layer["name"] for layer in plan["layers"]]
        elif plan["verbosity"] == "DETAILED":
            layers = [self._layer(layer) for layer in plan["layers"]]
        found: dict[str, Any] = {"Layers": layers}
        if VERSION < (11, 0):
            found["Bindings"] = list(self._engine._tensors)
        else:
            found["I/O Tensors"] = [
                {
                    "Name": name,
                    "IOMode": "Input" if tensor["is_input"] else "Output",
                    "DataType": _READABLE[tensor["dtype"]],
                    "Dimensions": list(tensor["shape"]),
                    "Location": tensor["location"].name.capitalize(),
                    "IsShapeInferenceIO": bool(tensor.get("shape_tensor")),
                    "ProfileInfo": [],
                }
                for name, tensor in self._engine._tensors.items()
            ]
        return json.dumps(found, indent=1)

    def _layer(self, layer: dict[str, Any]) -> dict[str, Any]:
        details = {
            "Name": layer["name"],
            "LayerType": layer.get("type", "NoOp"),
            "Inputs": [self._tensor(name) for name in layer.get("inputs", [])],
            "Outputs": [self._tensor(name) for name in layer.get("outputs", [])],
            "TacticValue": "0x0000000000000000",
            "StreamId": 0,
            "Metadata": "",
        }
        details.update(layer.get("details", {}))
        return details

    def _tensor(self, name: str) -> dict[str, Any]:
        known = self._engine._tensors.get(name)
        shape = [] if known is None else list(known["shape"])
        if known is not None and self.execution_context is not None:
            shape = list(self.execution_context.get_tensor_shape(name))
        dtype = _READABLE["FLOAT" if known is None else known["dtype"]]
        described: dict[str, Any] = {"Name": name, "Location": "Device", "Dimensions": shape}
        if VERSION < (11, 0):
            described["Format/Datatype"] = f"Row major linear {dtype} format"
        else:
            described["Format"] = "Row major linear format"
            described["DataType"] = dtype
        return described


def _tensor(tensor: dict[str, Any], is_input: bool) -> dict[str, Any]:
    location = TensorLocation[tensor.get("location", "DEVICE")]
    return {**tensor, "is_input": is_input, "location": location}
