"""Synthetic engines as TensorRT's inspector writes them, in the shape of each major version.

One small network, `x (1, 3, 8, 8) -> features.0 (conv 3x3) -> features.1 (relu) -> pool (2x2) ->
block (conv 3x3 + its input, relu) -> act (relu6) -> head (linear)`, as eight layers: Myelin has
compiled the relu6, and TensorRT added a reformat and two reshapes. All numbers are written by hand.

    small_engine("10", "torch")          # JSON text, names as Torch-TensorRT 2.5+ writes them
    small_engine("8", "onnx")            # no StreamId, no Metadata
    small_engine("11", "torch", verbosity="names", profiles=2)
    small_torch_graph()                  # the fx graph behind it, for torch_origin_of
    small_onnx()                         # the ONNX graph behind it, for onnx_origin_of
    SMALL_NAMES["torch"]                 # names in order, as the profiler would report them
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

# Layer -> (spelling, nodes). A node is (TYPE, aten op, path, fx node) or an ONNX node's name.
_TORCH = {
    "first": [("CONVOLUTION", "convolution.default", "features.0", "convolution"),
              ("RELU", "relu.default", "features.1", "relu")],
    "pool": [("MAX", "max_pool2d.default", "pool", "max_pool2d_default")],
    "block": [("CONVOLUTION", "convolution.default", "block.conv", "convolution_1"),
              ("ELEMENTWISE", "add.Tensor", "block", "add"),
              ("RELU", "relu.default", "block.relu", "relu_1")],
    "head": [("MATRIX_MULTIPLY", "addmm.default", "head", "addmm_mm"),
             ("ELEMENTWISE", "addmm.default", "head", "addmm_add")],
}  # fmt: skip
_ONNX = {
    "first": ["/features/features.0/Conv", "/features/features.1/Relu"],
    "pool": ["/pool/MaxPool"],
    "block": ["/block/conv/Conv", "/block/Add", "/block/relu/Relu"],
    "head": ["/head/Gemm"],
}
SMALL_PATHS = ("", "features", "features.0", "features.1", "pool", "block", "block.conv",
               "block.relu", "act", "head")  # fmt: skip
SMALL_FLOPS = (0, 2 * 8 * 64 * 27, 8 * 16 * 4, 2 * 8 * 16 * 72, None, 0, 2 * 1280, 0)
SMALL_WEIGHTS = (0, 216 + 8, 0, 576 + 8, None, 0, 1280 + 10, 0)


def _names(naming: str, which: str) -> list[str]:
    if naming == "onnx":
        return _ONNX[which]
    spelled = []
    for kind, op, path, node in _TORCH[which]:
        scope = path if naming == "torch" else "/" + path.replace(".", "_")  # as 2.4 may write it
        spelled.append(f"[{kind}]-[aten_ops.{op}]-[{scope}/{node}]")
    return spelled


def layer_name(naming: str, which: str) -> str:
    """Name of one of the four fused layers (first, pool, block, head)."""
    return " + ".join(_names(naming, which))


def small_names(naming: str) -> list[str]:
    """Names of all eight layers in order."""
    names = {which: layer_name(naming, which) for which in ("first", "pool", "block", "head")}
    last = _names(naming, "head")[-1]
    return [
        f"Reformatting CopyNode for Input Tensor 0 to {names['first']}",
        names["first"],
        names["pool"],
        names["block"],
        "__myl_MaxMinCas_myl0_0",
        f"reshape_before_{_names(naming, 'head')[0]}",
        names["head"],
        f"squeeze_after_{last}",
    ]


SMALL_NAMES = {naming: small_names(naming) for naming in ("torch", "torch2.4", "onnx")}


def tensor(name: str, dims: list[int], version: str, layout: str | None) -> dict[str, Any]:
    """A layer's tensor; `layout` None is one of Myelin's, which has a dtype alone."""
    found: dict[str, Any] = {"Name": name, "Dimensions": dims}
    if layout is None:
        return found | ({"DataType": "Half"} if version == "11" else {"Format/Datatype": "Half"})
    found = {"Name": name, "Location": "Device", "Dimensions": dims}
    if version == "11":
        return found | {"Format": layout, "DataType": "Half"}
    return found | {"Format/Datatype": layout}


def convolution(
    maps: int, weights: int, kernel: int, padding: int, tactic: str = "sm80_xmma_fprop_synthetic"
) -> dict[str, Any]:
    """The fields of a convolution."""
    return {
        "ParameterType": "Convolution",
        "Kernel": [kernel] * 2,
        "PaddingMode": "kEXPLICIT_ROUND_DOWN",
        "PrePadding": [padding] * 2,
        "PostPadding": [padding] * 2,
        "Stride": [1, 1],
        "Dilation": [1, 1],
        "OutMaps": maps,
        "Groups": 1,
        "Weights": {"Type": "Half", "Count": weights},
        "Bias": {"Type": "Half", "Count": maps},
        "Activation": "NONE",
        "TacticName": tactic,
        "TacticValue": "0x0000000000000101",
    }


def small_layers(version: str = "10", naming: str = "torch") -> list[dict[str, Any]]:
    """The eight layers as objects; 8: without StreamId and Metadata, 11: with a DataType."""
    names = small_names(naming)
    linear, eight = (
        "Row major linear FP16 format",
        "Channel major FP16 format where channel % 8 == 0",
    )
    reformatted = f"Reformatted Input Tensor 0 to {names[1]}"
    rows: list[tuple[str, str, list[Any], list[Any], dict[str, Any]]] = [
        (names[0], "Reformat", [("x", [1, 3, 8, 8], linear)],
         [(reformatted, [1, 3, 8, 8], eight)],
         {"ParameterType": "Reformat", "Origin": "REFORMAT", "TacticValue": "0x00000000000003e8"}),
        (names[1], "CaskConvolution", [(reformatted, [1, 3, 8, 8], eight)],
         [("t1", [1, 8, 8, 8], eight)], convolution(8, 216, 3, 1)),
        (names[2], "CaskPooling", [("t1", [1, 8, 8, 8], eight)], [("t2", [1, 8, 4, 4], eight)],
         {"ParameterType": "Pooling", "PoolingType": "MAX", "WindowSize": [2, 2],
          "PaddingMode": "kEXPLICIT_ROUND_DOWN", "PrePadding": [0, 0], "PostPadding": [0, 0],
          "Stride": [2, 2], "BlendFactor": 0, "TacticValue": "0x0000000000000002"}),
        (names[3], "CaskConvolution", [("t2", [1, 8, 4, 4], eight), ("t2", [1, 8, 4, 4], eight)],
         [("t3", [1, 8, 4, 4], eight)], convolution(8, 576, 3, 1)),
        (names[4], "kgen", [("t3", [1, 8, 4, 4], None)], [("t4", [1, 8, 4, 4], None)],
         {"TacticName": "__myl_MaxMinCas_0xsynthetic"}),
        (names[5], "NoOp", [("t4", [1, 8, 4, 4], linear)], [("t5", [1, 128, 1, 1], linear)],
         {"TacticValue": "0x0000000000000000"}),
        (names[6], "CaskGemmConvolution", [("t5", [1, 128, 1, 1], linear)],
         [("t6", [1, 10, 1, 1], linear)], convolution(10, 1280, 1, 0)),
        (names[7], "NoOp", [("t6", [1, 10, 1, 1], linear)], [("output0", [1, 10], linear)],
         {"TacticValue": "0x0000000000000000"}),
    ]  # fmt: skip
    layers = []
    onnx_nodes = {1: "first", 2: "pool", 3: "block", 6: "head"}
    for index, (name, kind, inputs, outputs, fields) in enumerate(rows):
        layer = {
            "Name": name,
            "LayerType": kind,
            "Inputs": [tensor(n, d, version, f) for n, d, f in inputs],
            "Outputs": [tensor(n, d, version, f) for n, d, f in outputs],
            **fields,
        }
        if version != "8":
            told = _ONNX.get(onnx_nodes.get(index, ""), []) if naming == "onnx" else []
            layer |= {
                "StreamId": 0,
                "Metadata": "\x1e".join(f"[ONNX Layer: {node}]" for node in told),
            }
        layers.append(layer)
    return layers


def small_engine(
    version: str = "10", naming: str = "torch", verbosity: str = "detailed", profiles: int = 1
) -> str:
    """The inspector's text of the small network.

    Args:
        version: 8, 10 or 11.
        naming: torch (2.5+), torch2.4 or onnx.
        verbosity: detailed, names or none.
        profiles: Optimisation profiles; the names of all but the first are marked.
    """
    layers: list[Any] = []
    for profile in range(profiles):
        mark = f" [profile {profile}]" if profile else ""
        for layer in small_layers(version, naming):
            for one in (layer, *layer["Inputs"], *layer["Outputs"]):
                one["Name"] += mark
            layers.append(layer["Name"] if verbosity == "names" else layer)
    if verbosity == "none":
        layers = []
    if version != "11":
        return json.dumps({"Layers": layers, "Bindings": ["x", "output0"]})
    return json.dumps({"Layers": layers, "I/O Tensors": [
        {"Name": "x", "IOMode": "Input", "DataType": "Half", "Dimensions": [1, 3, 8, 8],
         "Location": "Device", "IsShapeInferenceIO": False, "ProfileInfo": [
             {"MinShape": [1, 3, 8, 8], "OptShape": [1, 3, 8, 8], "MaxShape": [1, 3, 8, 8],
              "Format": "Row major linear FP16 format (kLINEAR)"}]},
        {"Name": "output0", "IOMode": "Output", "DataType": "Half", "Dimensions": [1, 10],
         "Location": "Device", "IsShapeInferenceIO": False, "ProfileInfo": []},
    ]})  # fmt: skip


def small_torch_graph() -> Any:
    """The fx graph behind the small network: objects with what an Origin reads of fx nodes."""
    rows = [
        ("convolution", "aten.convolution.default", "features.0", ["x", "w0"]),
        ("relu", "aten.relu.default", "features.1", ["convolution"]),
        ("max_pool2d_default", "aten.max_pool2d.default", "pool", ["relu"]),
        ("convolution_1", "aten.convolution.default", "block.conv", ["max_pool2d_default", "w1"]),
        ("add", "aten.add.Tensor", "block", ["convolution_1", "max_pool2d_default"]),
        ("relu_1", "aten.relu.default", "block.relu", ["add"]),
        ("clamp", "aten.clamp.default", "act", ["relu_1"]),
        ("reshape_default", "aten.reshape.default", "", ["clamp"]),
        ("addmm", "aten.addmm.default", "head", ["b2", "reshape_default", "w2"]),
    ]
    made: dict[str, Any] = {}

    def add(name: str, op: str, target: Any, inputs: list[str], path: str | None = None) -> None:
        stack = {} if path is None else {"key": (path, "torch.nn.Module")}
        made[name] = SimpleNamespace(
            name=name, op=op, target=target, args=(),
            all_input_nodes=[made[one] for one in inputs], meta={"nn_module_stack": stack},
        )  # fmt: skip

    add("x", "placeholder", "x", [])
    for weight in ("w0", "w1", "w2", "b2"):
        add(weight, "get_attr", weight, [])
    for name, target, path, inputs in rows:
        add(name, "call_function", target, inputs, path)
    add("output", "output", "output", ["addmm"])
    return SimpleNamespace(graph=SimpleNamespace(nodes=list(made.values())))


def small_onnx() -> Any:
    """The ONNX graph behind the small network, names as torch's older exporter writes them."""
    from onnx import TensorProto, helper

    float16 = TensorProto.FLOAT16
    nodes = [
        ("Conv", _ONNX["first"][0], ["x", "features.0.weight"], ["t0"], {"pads": [1, 1, 1, 1]}),
        ("Relu", _ONNX["first"][1], ["t0"], ["t1"], {}),
        ("MaxPool", "/pool/MaxPool", ["t1"], ["t2"],
         {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Conv", "/block/conv/Conv", ["t2", "block.conv.weight"], ["t2a"], {"pads": [1, 1, 1, 1]}),
        ("Add", "/block/Add", ["t2a", "t2"], ["t2b"], {}),
        ("Relu", "/block/relu/Relu", ["t2b"], ["t3"], {}),
        ("Clip", "/act/Clip", ["t3", "zero", "six"], ["t4"], {}),
        ("Flatten", "/Flatten", ["t4"], ["flat"], {}),
        ("Gemm", "/head/Gemm", ["flat", "head.weight", "head.bias"], ["output0"], {"transB": 1}),
    ]  # fmt: skip
    weights = {"features.0.weight": [8, 3, 3, 3], "block.conv.weight": [8, 8, 3, 3],
               "head.weight": [10, 128], "head.bias": [10], "zero": [], "six": []}  # fmt: skip
    initializers = []
    for name, dims in weights.items():
        count = 1
        for size in dims:
            count *= size
        initializers.append(helper.make_tensor(name, float16, dims, bytes(2 * count), raw=True))
    graph = helper.make_graph(
        [helper.make_node(op, i, o, name=name, **a) for op, name, i, o, a in nodes],
        "small",
        [helper.make_tensor_value_info("x", float16, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("output0", float16, [1, 10])],
        initializers,
    )
    return helper.make_model(graph)
