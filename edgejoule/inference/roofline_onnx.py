"""Products and streams with ONNX Runtime on a CPU: its own kernels, its own threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgejoule.inference.replay_rotation import last_level_cache_bytes
from edgejoule.inference.roofline_numpy import free_host_bytes, timed

# dtype of the run -> operation, dtypes of both factors and of the product.
_PRODUCTS = {
    "float32": ("MatMul", "float32", "float32", "float32"),
    "float16": ("MatMul", "float16", "float16", "float16"),
    "int8": ("MatMulInteger", "uint8", "int8", "int32"),
}
_OPSET, _IR = 17, 8  # old enough for every ONNX Runtime that the project takes


class OnnxKernels:
    """Graphs of one operation each in sessions like the run's."""

    def __init__(self, dtype: str, threads: int) -> None:
        self.how = "onnxruntime on the CPU"
        self.cache_bytes = last_level_cache_bytes()
        self.free_bytes = free_host_bytes()
        self.no_product = None if dtype in _PRODUCTS else f"no product in {dtype} is known here"
        self._dtype, self._threads = dtype, threads

    def product(self, side: int) -> Callable[[int], Sequence[float]]:
        """Return the product of two square matrices, in integers for int8."""
        import numpy as np

        operation, left, right, out = _PRODUCTS[self._dtype]
        random = np.random.default_rng(0)
        factors = [_filled(random, side, dtype) for dtype in (left, right)]
        return self._session(operation, factors, np.zeros((side, side), out))

    def streams(self, array_bytes: int) -> dict[str, tuple[int, Callable[[int], Sequence[float]]]]:
        """Return a sum of two arrays and a rectifier, which reads one and writes one."""
        import numpy as np

        one, two, out = (np.ones(array_bytes // 4, np.float32) for _ in range(3))
        return {
            "add": (3 * array_bytes, self._session("Add", [one, two], out)),
            "relu": (2 * array_bytes, self._session("Relu", [one], out)),
        }

    def close(self) -> None:
        """Sessions go with the closures that hold them."""

    def _session(
        self, operation: str, factors: Sequence[Any], out: Any
    ) -> Callable[[int], Sequence[float]]:
        """Return what runs one operation from given arrays into another, without a copy."""
        import onnxruntime as ort
        from onnx import helper

        from edgejoule.inference.backend import BuildOptions
        from edgejoule.inference.onnx_session import session_options

        def info(name: str, array: Any) -> Any:
            element = helper.np_dtype_to_tensor_dtype(array.dtype)
            return helper.make_tensor_value_info(name, element, array.shape)

        named = {f"in{place}": array for place, array in enumerate(factors)}
        node = helper.make_node(operation, list(named), ["out"])
        inputs = [info(name, array) for name, array in named.items()]
        graph = helper.make_graph([node], "roof", inputs, [info("out", out)])
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR
        )
        session = ort.InferenceSession(
            model.SerializeToString(),
            session_options(BuildOptions(self._dtype, threads=self._threads)),
            providers=["CPUExecutionProvider"],
        )
        binding = session.io_binding()
        # The runtime refers to the arrays' memory, so both stay with what executes.
        held = [(array, ort.OrtValue.ortvalue_from_numpy(array)) for array in (*factors, out)]
        for name, (_, value) in zip(named, held, strict=False):
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output("out", held[-1][1])

        def execute(_held: Any = held) -> None:
            session.run_with_iobinding(binding)

        return timed(execute)


def _filled(random: Any, side: int, dtype: str) -> Any:
    """Return a square matrix of random values."""
    import numpy as np

    if dtype in ("uint8", "int8"):
        least, most = (0, 255) if dtype == "uint8" else (-128, 127)
        return random.integers(least, most, (side, side), dtype=dtype)
    return random.standard_normal((side, side), np.float32).astype(dtype)
