"""Tiny models for tests, through the same seam as real ones: `support_models:load`."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from edgejoule.errors import UsageError
from edgejoule.inference.workload import InputSpec, LoadedModel, ModelFacts, ModelRequest

IMAGE = (1, 3, 16, 16)
NORMALISATION = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}


def describe(spec: str) -> ModelFacts:
    return ModelFacts(name=spec, input_shape=IMAGE)


def load(request: ModelRequest) -> LoadedModel:
    if request.spec == "loader_raises":
        raise ZeroDivisionError("the loader divides by zero")
    if request.spec == "loader_exits":
        raise SystemExit("this model ends the program")
    if request.spec == "loader_fills_the_disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    if request.spec == "loader_opens_nothing":
        raise FileNotFoundError(errno.ENOENT, "No such file", "weights.bin")
    if request.spec == "loader_refuses":
        raise UsageError("no model 'loader_refuses'", "did you mean conv?")
    if request.spec == "loader_nonsense":
        return None  # type: ignore[return-value]
    inputs = (InputSpec("x", request.input_shape or IMAGE),)
    if request.spec == "ids":
        inputs = (InputSpec("ids", (1, 6), "int64", high=11), InputSpec("x", (1, 6, 4)))
    module: Any = None
    path = None
    paths: dict[str, str] = {}
    if request.form == "torch":
        module = torch_module(request.spec, request.seed)
    else:
        path = request.directory / f"{request.spec}.onnx"
        paths = write_onnx(path, request.spec, request.seed)
    return LoadedModel(
        name=request.spec,
        form=request.form,
        module=module,
        onnx_path=path,
        inputs=inputs,
        weights="random",
        source={"seed": request.seed},
        normalisation=NORMALISATION,
        module_paths=paths,
    )


def write_onnx(path: Path, spec: str = "conv", seed: int = 0) -> dict[str, str]:
    """Write a graph made by hand and return node name -> module path."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> Any:
        values = random.standard_normal(shape).astype(np.float32) * 0.1
        return numpy_helper.from_array(values, name)

    def value(name: str, shape: Any, kind: int = TensorProto.FLOAT) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    batch: Any = "N" if spec == "open" else 1
    inputs = [value("x", [batch, 3, 16, 16])]
    outputs = [value("y", [batch, 10])]
    weights = [
        weight("features.0.weight", 8, 3, 3, 3),
        weight("features.0.bias", 8),
        weight("block.weight", 8, 8, 3, 3),
        weight("head.weight", 10, 8),
        weight("head.bias", 10),
    ]
    nodes = [
        helper.make_node(
            "Conv",
            ["x", "features.0.weight", "features.0.bias"],
            ["c"],
            name="/features/features.0/Conv",
            pads=[1, 1, 1, 1],
            kernel_shape=[3, 3],
        ),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("MaxPool", ["r"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node(
            "Conv", ["p", "block.weight"], ["b"], name='a "quoted" name', pads=[1, 1, 1, 1]
        ),
        helper.make_node("Add", ["p", "b"], ["s"]),  # unnamed
        helper.make_node("Sigmoid", ["s"], ["g"], name="gate"),
        helper.make_node("GlobalAveragePool", ["g"], ["m"], name="mean"),
        helper.make_node("Flatten", ["m"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "head.weight", "head.bias"], ["y"], name="fc", transB=1),
    ]
    if spec == "foreign":
        nodes[5] = helper.make_node("Frobnicate", ["s"], ["g"], domain="com.example")
    if spec == "raises":  # 10 elements do not make 3
        weights.append(numpy_helper.from_array(np.array([3], np.int64), "three"))
        nodes[-1].output[0] = "z"
        nodes.append(helper.make_node("NonZero", ["z"], ["nz"], name="nonzero"))
        nodes.append(helper.make_node("Reshape", ["nz", "three"], ["y"], name="reshape"))
        outputs = [value("y", [3], TensorProto.INT64)]
    if spec == "branch":
        then = helper.make_graph(
            [helper.make_node("Neg", ["f"], ["t"], name="neg")], "then", [], [value("t", [1, 8])]
        )
        other = helper.make_graph(
            [helper.make_node("Exp", ["f"], ["e"], name="exp")], "else", [], [value("e", [1, 8])]
        )
        weights.append(numpy_helper.from_array(np.array(0.0, np.float32), "zero"))
        nodes[-1:] = [
            helper.make_node("ReduceSum", ["f"], ["total"], name="total", keepdims=0),
            helper.make_node("Greater", ["total", "zero"], ["positive"], name="positive"),
            helper.make_node(
                "If", ["positive"], ["i"], name="if", then_branch=then, else_branch=other
            ),
            helper.make_node("Gemm", ["i", "head.weight", "head.bias"], ["y"], name="fc", transB=1),
        ]
    if spec == "ids":
        inputs = [value("ids", [1, 6], TensorProto.INT64), value("x", [1, 6, 4])]
        weights = [weight("table.weight", 11, 4)]
        nodes = [
            helper.make_node("Gather", ["table.weight", "ids"], ["e"], name="embed"),
            helper.make_node("Mul", ["e", "x"], ["y"], name="mul"),
        ]
        outputs = [value("y", [1, 6, 4])]
    graph = helper.make_graph(nodes, spec, inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(graph, opset_imports=opsets[: 2 if spec == "foreign" else 1])
    model.ir_version = 8
    onnx.save(model, str(path))
    return {'a "quoted" name': "block", "fc": "head"} if spec != "ids" else {}


def torch_module(spec: str, seed: int = 0) -> Any:
    """Return a small `nn.Module` in eval mode."""
    import torch
    from torch import nn

    torch.manual_seed(seed)

    class Conv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
            )
            self.pool = nn.MaxPool2d(2)
            self.block = nn.Conv2d(8, 8, 3, padding=1)
            self.head = nn.Linear(16, 10)

        def forward(self, x: Any) -> Any:
            x = self.pool(self.features(x))
            a, b = torch.relu(x + self.block(x)).chunk(2, dim=1)
            x = torch.cat([a, b], dim=1)
            x = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
            return {"logits": self.head(x), "unused": [torch.flatten(a, 1)]}

    class Ids(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(11, 4)

        def forward(self, ids: Any, x: Any) -> Any:
            return self.table(ids) * x

    class Raises(nn.Module):
        def forward(self, x: Any) -> Any:
            raise RuntimeError("this model never works")

    class Nothing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(16, 2)

        def forward(self, x: Any) -> Any:
            self.fc(x)

    class Fickle(nn.Module):
        """Works in eager mode, but what it does depends on the values."""

        def forward(self, x: Any) -> Any:
            return x + 1 if float(x.sum()) > 0 else x.reshape(-1)[: int(x.sum().abs()) + 1]

    kinds = {"conv": Conv, "ids": Ids, "raises": Raises, "nothing": Nothing, "fickle": Fickle}
    return kinds[spec]().eval()
