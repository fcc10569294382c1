"""A small network as a plan of this machine's TensorRT, loaded and ready to run."""

from __future__ import annotations

import functools
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.trt.build import build_plan
from edgejoule.inference.trt.engine import open_engine
from edgejoule.inference.trt.library import make_log
from edgejoule.inference.workload import InputSpec

SHAPE = (1, 3, 112, 112)
CHANNELS = 32
BLOCKS = 6


@functools.cache
def log_of(trt: Any) -> Any:
    """Return the one log of this process: TensorRT keeps the first that it is given."""
    return make_log(trt)


def write_network(path: Path) -> None:
    """Write an ONNX file: a stem, six residual blocks, pooling, a dense layer; seeded weights."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    nodes: list[Any] = []
    weights: list[Any] = []

    def add(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def weight(name: str, *shape: int) -> str:
        scale = 1 / np.sqrt(np.prod(shape[1:]))
        values = (random.standard_normal(shape) * scale).astype(np.float32)
        weights.append(numpy_helper.from_array(values, name))
        return name

    def convolution(name: str, source: str, channels: int) -> str:
        kernel = weight(f"{name}.weight", CHANNELS, channels, 3, 3)
        return add("Conv", [source, kernel], name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    last = add("Relu", [convolution("stem", "image", SHAPE[1])], "stem.relu")
    for block in range(BLOCKS):
        inner = add("Relu", [convolution(f"b{block}.conv", last, CHANNELS)], f"b{block}.relu")
        last = add("Add", [inner, last], f"b{block}.add")
    last = add("Flatten", [add("GlobalAveragePool", [last], "pool")], "flat")
    add("Gemm", [last, weight("dense.weight", 10, CHANNELS)], "scores", transB=1)
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, 10))],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def reference(path: Path, image: np.ndarray) -> np.ndarray:
    """Return the network's output by onnx's own evaluation, without any runtime."""
    from onnx.reference import ReferenceEvaluator

    return np.asarray(ReferenceEvaluator(str(path)).run(None, {"image": image})[0])


def image() -> np.ndarray:
    """Return the one input that everything here runs on."""
    return np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)


def build(trt: Any, cuda: Any, network: Path, dtype: str = "float32") -> bytes:
    """Return a plan of the network as it is."""
    options = BuildOptions(dtype=dtype, device="cuda:0")
    inputs = (InputSpec("image", SHAPE),)
    return build_plan(trt, cuda, network, options, log=log_of(trt), inputs=inputs).plan


class Running:
    """An engine with its tensors on the device and a stream of its own."""

    def __init__(self, trt: Any, cuda: Any, plan: bytes) -> None:
        self.trt, self.cuda, self.log = trt, cuda, log_of(trt)
        self.engine = open_engine(trt, plan, self.log)
        self.context = self.engine.context()
        self.stream = cuda.stream()
        self._addresses: dict[str, tuple[int, np.ndarray]] = {}
        for binding in self.engine.bindings:
            dtype = {"float32": np.float32, "float16": np.float16}[binding.dtype]
            host = np.zeros(binding.shape, dtype)
            address = cuda.allocate(host.nbytes)
            self._addresses[binding.name] = (address, host)
            self.context.bind(binding.name, address)

    def give(self, **inputs: np.ndarray) -> None:
        """Copy inputs to the device, cast to what the engine takes."""
        for name, values in inputs.items():
            address, host = self._addresses[name]
            host[...] = values
            self.cuda.copy_to_device(address, host, self.stream)
        self.cuda.synchronise(self.stream)

    def once(self) -> None:
        """Run one inference and wait for its end; nothing is reported."""
        self.context.enqueue(self.stream)
        self.cuda.synchronise(self.stream)

    def outputs(self) -> dict[str, np.ndarray]:
        """Return the outputs as float32."""
        for binding in self.engine.outputs:
            address, host = self._addresses[binding.name]
            self.cuda.copy_to_host(host, address, self.stream)
        self.cuda.synchronise(self.stream)
        return {
            binding.name: self._addresses[binding.name][1].astype(np.float32)
            for binding in self.engine.outputs
        }

    def latencies_ms(self, count: int, launch: Any = None, after: Any = None) -> list[float]:
        """Return latencies between two events around each launch.

        Args:
            count: Inferences.
            launch: In place of the context's `enqueue`: a function of the stream.
            after: Called after each one, outside of the time.
        """
        cuda, stream = self.cuda, self.stream
        start, end = cuda.event(), cuda.event()
        found = []
        for _ in range(count):
            cuda.record(start, stream)
            (launch or self.context.enqueue)(stream)
            cuda.record(end, stream)
            cuda.synchronise(stream)
            found.append(cuda.elapsed_ms(start, end))
            if after is not None:
                after()
        cuda.destroy_event(start)
        cuda.destroy_event(end)
        return found

    def close(self) -> None:
        """Give everything back."""
        self.context.close()
        self.engine.close()
        for address, _ in self._addresses.values():
            self.cuda.free(address)
        self.cuda.destroy_stream(self.stream)


def far(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference, relative to the largest value."""
    return float(np.max(np.abs(one - other)) / max(1e-9, float(np.max(np.abs(other)))))


def middle(values: list[float]) -> float:
    """Return the median."""
    return float(median(values))
