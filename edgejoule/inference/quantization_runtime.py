"""Int8 for ONNX Runtime's CPU: its own quantiser, with ranges found here.

The runtime turns a node between dequantise and quantise nodes into one integer kernel, so inputs
*and* outputs of all that has such a kernel are quantised, biases too (int32): the placement is the
runtime's, unlike TensorRT's. Which 8-bit types are fast and right depends on the processor
(`quantize_static`'s documentation, onnxruntime 1.31):

    x86 with VNNI       uint8 activations, int8 weights
    x86 without         the same with weights of 7 bits: products of uint8 and int8 are summed in
                        pairs in 16 bits there (VPMADDUBSW) and would saturate. Measured on a
                        processor with AVX2 alone, random weights, error of the outputs (rms of
                        their deviation): LeNet 12 % with 8 bits, 2 % with 7; MobileNet v2 6.5 %
                        and 3.6 %
    others (ARM)        int8 activations and weights
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgejoule.errors import UsageError
from edgejoule.inference.common import short

_X86 = ("x86_64", "amd64", "i686", "i386")
_DOT_PRODUCT = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"}


@dataclass(frozen=True)
class CpuScheme:
    """How a processor multiplies 8-bit integers best; `why` goes into the records."""

    activations: str
    weights: str
    weight_bits: int
    why: str


def cpu_scheme(machine: str | None = None, cpuinfo: Path = Path("/proc/cpuinfo")) -> CpuScheme:
    """Choose the 8-bit types for this processor.

    Args:
        machine: As `platform.machine()` says it; None asks.
        cpuinfo: Linux's list of what the processor can do; where there is none, an x86 counts as
            one without VNNI, which costs a bit of precision and never saturates.
    """
    machine = (machine or platform.machine()).lower()
    if machine not in _X86:
        return CpuScheme("int8", "int8", 8, f"{machine}: symmetric int8 has the fast kernels")
    flags: set[str] = set()
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("flags"):
                flags = set(line.partition(":")[2].split())
                break
    if found := sorted(flags & _DOT_PRODUCT):
        return CpuScheme("uint8", "int8", 8, f"{machine} with {found[0]}")
    return CpuScheme(
        "uint8", "int8", 7, f"{machine} without VNNI: products of 8 bits would saturate"
    )


def quantise_for_cpu(
    model: Any, ranges: Mapping[str, tuple[float, float]], scheme: CpuScheme
) -> tuple[Any, dict[str, Any]]:
    """Quantise a graph for ONNX Runtime's CPU.

    Args:
        model: The graph with the types of its tensors, of opset 13 or newer.
        ranges: Lowest and highest value of each float32 activation.
        scheme: Which 8-bit types.

    Returns:
        The quantised graph, and facts: `pairs`, `op_types`, the scheme.

    Raises:
        UsageError: The quantiser refuses the graph, or finds nothing to quantise.
    """
    import numpy as np
    import onnxruntime as ort
    from onnxruntime.quantization import QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    kinds = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
    found = TensorsData(
        CalibrationMethod.MinMax,
        {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()},
    )
    supported = {*QDQRegistry, *QLinearOpsRegistry}
    nodes = {node.name: node.op_type for node in model.graph.node if node.op_type in supported}
    try:
        quantiser = QDQQuantizer(
            model,
            True,  # weights per channel
            scheme.weight_bits < 8,
            kinds[scheme.weights],
            kinds[scheme.activations],
            found,
            [],
            [],
            sorted(supported),
            {"ActivationSymmetric": scheme.activations == "int8"},
        )
        quantiser.quantize_model()
    except Exception as error:  # the quantiser raises whatever it trips over
        raise UsageError(
            f"onnxruntime {ort.__version__} cannot quantise this graph "
            f"({type(error).__name__}: {short(error)})",
            "use --dtype float32",
        ) from error
    quantised = quantiser.model.model
    fed = {
        output: node.name
        for node in quantised.graph.node
        if node.op_type == "DequantizeLinear"
        for output in node.output
    }
    touched = Counter(
        nodes[node.name]
        for node in quantised.graph.node
        if node.name in nodes and any(name in fed for name in node.input)
    )
    if not touched:
        raise UsageError("nothing in this graph can run in int8 on the CPU", "use --dtype float32")
    facts = {"pairs": len(fed), "op_types": dict(sorted(touched.items())), **asdict(scheme)}
    return quantised, facts
