"""Which operators take which floating-point type, and constants converted to it.

ONNX's schemas say what an operator takes. For bfloat16 they are stricter than TensorRT: most
operators (convolution, pooling) take it only from opset 22 on, while TensorRT's parser lets nearly
all that take float16 whatever the opset (its operator table, 10.15). So what takes float16 counts
as taking bfloat16, but for the operators that the table excepts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgejoule.errors import UsageError
from edgejoule.inference.onnx_graph import DTYPES

if TYPE_CHECKING:
    import numpy as np

# Values of onnx.TensorProto.DataType, written out because onnx is imported late.
FLOAT, FLOAT16, BFLOAT16 = 1, 10, 16
TARGETS = {"float16": FLOAT16, "bfloat16": BFLOAT16}
_LARGEST = {FLOAT16: 65504.0, BFLOAT16: 3.3895313892515355e38}
_SMALLEST = {FLOAT16: 2.0**-24, BFLOAT16: 2.0**-126}
# Without BF16 in TensorRT's operator table.
_NO_BFLOAT16 = {
    "BlackmanWindow", "DeformConv", "GridSample", "HammingWindow", "HannWindow", "Mish",
    "NonMaxSuppression", "NonZero", "RoiAlign", "STFT",
}  # fmt: skip


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round float32 values to bfloat16, ties to even; returned as the bits, uint16."""
    import numpy as np

    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # Rounding would carry what is no number over into another one.
    special: np.ndarray = np.where(np.isnan(values), (bits >> 16) | 0x40, rounded)
    return special.astype(np.uint16)


class Rules:
    """What takes which type, and counts of what was done."""

    def __init__(self, model: Any, target: int) -> None:
        self.target = target
        self.opsets = {
            "" if entry.domain == "ai.onnx" else entry.domain: int(entry.version)
            for entry in model.opset_import
        }
        # Types that were known before; those of what no schema describes cannot be found again.
        self.known = {
            value.name: value.type.tensor_type.elem_type
            for value in (*model.graph.value_info, *model.graph.output)
        }
        self.kept: Counter[str] = Counter()
        self.beyond: set[str] = set()
        self.constants = self.clipped = self.flushed = self.casts = 0

    def facts(self) -> dict[str, Any]:
        """Return what was done, by count."""
        return {
            "constants": self.constants,
            "clipped": self.clipped,
            "flushed": self.flushed,
            "casts": self.casts,
            "kept_float32": dict(sorted(self.kept.items())),
            "beyond_schema": sorted(self.beyond),
        }

    def schema(self, node: Any) -> Any:
        """Return the operator's schema, None if onnx does not know it.

        Raises:
            UsageError: It works on sequences, whose types are not followed.
        """
        import onnx

        domain = "" if node.domain == "ai.onnx" else node.domain
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opsets.get(domain, 1), domain)
        except onnx.defs.SchemaError:
            return None
        for one in schema.type_constraints:
            if not any(name.startswith("tensor(") for name in one.allowed_type_strs):
                raise UsageError(
                    f"{node.op_type} {node.name!r} works on sequences, which are not cast",
                    "use --dtype float32",
                )
        return schema

    def takes(self, node: Any, allowed: Sequence[str]) -> bool:
        """Say whether tensors of these allowed types may be of the target type."""
        if self.target == FLOAT16 or "tensor(bfloat16)" in allowed:
            return f"tensor({DTYPES[self.target]})" in allowed
        taken = "tensor(float16)" in allowed and node.op_type not in _NO_BFLOAT16
        if taken:
            self.beyond.add(node.op_type)
        return taken

    def convert(self, tensor: Any, is_scale: bool = False) -> None:
        """Convert a float32 tensor in place; a scale that would become zero stays above it."""
        import numpy as np
        from onnx import numpy_helper

        values = numpy_helper.to_array(tensor).astype(np.float32)
        finite = np.isfinite(values)
        largest = _LARGEST[self.target]
        self.clipped += int((np.abs(values[finite]) > largest).sum())
        held = np.where(finite, np.clip(values, -largest, largest), values)
        if is_scale:
            held = np.maximum(held, _SMALLEST[self.target])
        if self.target == FLOAT16:
            cast = held.astype(np.float16)
            back = cast.astype(np.float32)
        else:
            cast = to_bfloat16(held)
            back = (cast.astype(np.uint32) << 16).view(np.float32)
        self.flushed += int(((back == 0) & (values != 0)).sum())
        self.constants += 1
        name, dims = tensor.name, list(tensor.dims)
        tensor.Clear()
        tensor.name, tensor.data_type, tensor.raw_data = name, self.target, cast.tobytes()
        tensor.dims.extend(dims)
