"""Engines that others recorded with TensorRT 8.x and 10.1, held to what is known of the networks.

The recordings stand beside the checkout (`../shared/fixtures`, or where EDGEJOULE_FIXTURES says),
not in it. Published figures: torchvision's resnet18 has 11,689,512 parameters, of which 4,800 are
the batch norms' weights that vanish when they are folded, and 1.814 GMAC at 224 x 224; alexnet
61,100,840 and 0.714 GMAC.
"""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Any

import pytest

from edgejoule.inference.backend import Layer
from edgejoule.inference.trt.describe import check_order, describe_engine
from edgejoule.inference.trt.origin import Origin, onnx_origin_of, torch_origin_of

FIXTURES = Path(
    os.environ.get("EDGEJOULE_FIXTURES")
    or Path(__file__).resolve().parent.parent.parent / "shared/fixtures"
)
RESNET = "torch_trt/resnet18"
ALEXNET = "torch_trt/alexnet"
ORIN = "engine_info/resnet18_jetson_orin.json"
TREX = "trex/examples__pytorch__resnet__A100__{}.onnx.engine.{}.json"
RESNET_WEIGHTS = 11_689_512 - 4_800
ALEXNET_WEIGHTS = 61_100_840


def text(name: str) -> str:
    path = FIXTURES / name
    if not path.exists():
        pytest.skip(f"the recording {name} is not beside the checkout")
    return path.read_text()


def layers_of(name: str, origin: Origin | None = None) -> tuple[Layer, ...]:
    return describe_engine(text(name), origin=origin)


def recorded(folder: str) -> tuple[tuple[Layer, ...], dict[str, float]]:
    """Layers, and the median time of each name in ms."""
    times = json.loads(text(f"{folder}/trt_layer_latency.json"))
    layers = layers_of(f"{folder}/trt_engine_info.json")
    assert check_order(layers, list(times)) is None
    return layers, {name: statistics.median(values) for name, values in times.items()}


def explored(which: str) -> tuple[tuple[Layer, ...], list[float]]:
    """Layers, and trtexec's mean time of each in ms."""
    layers = layers_of(TREX.format(which, "graph"))
    rows = [row for row in json.loads(text(TREX.format(which, "profile"))) if "name" in row]
    assert check_order(layers, [row["name"] for row in rows]) is None
    return layers, [row["averageMs"] for row in rows]


def counted(layers: tuple[Layer, ...]) -> int:
    return sum(x.flops or 0 for x in layers if x.operation in ("convolution", "dense"))


def resnet_paths() -> list[str]:
    """Convolutions of torchvision's resnet18, in the order of the program, then fc."""
    paths = ["conv1"]
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            paths += [f"layer{stage}.{block}.conv{i}" for i in (1, 2)]
            if stage > 1 and block == 0:
                paths.append(f"layer{stage}.0.downsample.0")
    return [*paths, "fc"]


def test_torch_resnet18_is_traced_whole() -> None:
    layers, times = recorded(RESNET)
    assert len(layers) == 26
    assert all(layer.module_path is not None for layer in layers)
    assert all(layer.operation and layer.bytes_moved is not None for layer in layers)
    assert sum(times.values()) == pytest.approx(0.4147, abs=0.0001)
    working = [x for x in layers if x.operation in ("convolution", "dense")]
    assert sorted(str(layer.module_path) for layer in working) == sorted(resnet_paths())
    assert round(counted(layers) / 2e6) == 1814
    assert sum(layer.weights or 0 for layer in layers) == RESNET_WEIGHTS
    by_path = {layer.module_path: layer for layer in working}
    first = by_path["conv1"]
    assert (first.kernel, first.stride, first.padding) == ((7, 7), (2, 2), (3, 3))
    assert first.modules == ("conv1", "bn1", "relu")
    assert (first.outputs[0].shape, first.outputs[0].dtype) == ((1, 64, 112, 112), "float16")
    down = by_path["layer3.0.downsample.0"]
    assert (down.kernel, down.stride, down.padding) == ((1, 1), (2, 2), (0, 0))
    assert by_path["layer4.1.conv2"].fused == (
        "aten.convolution.default",
        "aten._native_batch_norm_legit_no_training.default",
        "aten.add.Tensor",
        "aten.relu.default",
    )


def test_torch_alexnet_is_traced_whole() -> None:
    layers, times = recorded(ALEXNET)
    assert all(layer.module_path is not None for layer in layers)
    assert sum(times.values()) == pytest.approx(0.528, abs=0.001)
    assert round(counted(layers) / 2e6) == 714
    assert sum(layer.weights or 0 for layer in layers) == ALEXNET_WEIGHTS
    kinds = {layer.module_path: layer.operation for layer in layers if layer.nodes}
    assert kinds["classifier.1"] == "dense"
    assert kinds["features.2"] == "pooling"
    casts = [x for x in layers if x.name.startswith("Forced Cast")]
    assert [layer.module_path for layer in casts] == ["classifier.0", "classifier.3"]


def test_a_jetson_orin_recording_lacks_one_path() -> None:
    layers = layers_of(ORIN)
    unmapped = [layer for layer in layers if layer.module_path is None]
    assert [layer.nodes for layer in unmapped] == [("max_pool2d_default",)]  # nothing is told there
    assert round(counted(layers) / 2e6) == 1814
    assert sum(layer.weights or 0 for layer in layers) == RESNET_WEIGHTS


@pytest.mark.torch
@pytest.mark.parametrize("name", [f"{RESNET}/trt_engine_info.json", ORIN])
def test_the_real_program_behind_resnet18_maps_every_layer(name: str) -> None:
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    text(name)
    model = torchvision.models.resnet18(weights=None).eval()
    program = torch.export.export(model, (torch.zeros(1, 3, 224, 224),)).run_decompositions()
    paths = [path for path, _ in model.named_modules()]
    layers = layers_of(name, torch_origin_of(program.module(), paths=paths))
    assert all(layer.module_path in paths for layer in layers)
    assert [x.module_path for x in layers if x.operation == "pooling"] == ["maxpool"]
    for layer in layers:
        if layer.operation == "convolution":
            module = model.get_submodule(layer.module_path)
            assert (layer.kernel, layer.stride, layer.padding, layer.dilation, layer.groups) == (
                module.kernel_size, module.stride, module.padding, module.dilation, module.groups,
            )  # fmt: skip


def test_trex_fp16_has_all_but_modules() -> None:
    layers, times = explored("fp16__resnet")
    assert len(layers) == len(times) == 36
    assert all(layer.module_path is None for layer in layers)  # `Conv_0 + Relu_1` tells none
    assert all(layer.operation and layer.flops is not None for layer in layers)
    assert round(counted(layers) / 32 / 2e6) == 1814
    assert sum(layer.weights or 0 for layer in layers) == RESNET_WEIGHTS
    dense = [layer for layer in layers if layer.operation == "dense"]
    assert [layer.nodes for layer in dense] == [("Gemm_48",)]


def legacy_resnet(paths: dict[str, str]) -> Any:
    """The nodes of resnet18 as torch's older exporter numbers them; fills node -> module."""
    helper = pytest.importorskip("onnx").helper
    nodes: list[Any] = []
    weights: list[Any] = []
    tensors = iter(f"t{i}" for i in range(1000))

    def add(kind: str, path: str | None, *inputs: str) -> str:
        name, out = f"{kind}_{len(nodes)}", next(tensors)
        held = [f"onnx::{name}"] if kind in ("Conv", "Gemm") else []
        weights.extend(helper.make_tensor(one, 1, [1], [0.0]) for one in held)
        nodes.append(helper.make_node(kind, [*inputs, *held], [out], name=name))
        if path is not None:
            paths[name] = path
        return out

    x = add("MaxPool", "maxpool", add("Relu", "relu", add("Conv", "conv1", "input")))
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            at = f"layer{stage}.{block}"
            y = add("Relu", f"{at}.relu", add("Conv", f"{at}.conv1", x))
            y = add("Conv", f"{at}.conv2", y)
            if stage > 1 and block == 0:
                x = add("Conv", f"{at}.downsample.0", x)
            x = add("Relu", f"{at}.relu", add("Add", at, y, x))
    x = add("Gemm", "fc", add("Flatten", "", add("GlobalAveragePool", "avgpool", x)))
    out = helper.make_tensor_value_info(x, 1, [32, 1000])
    return helper.make_model(helper.make_graph(nodes, "resnet18", [], [out], weights))


def test_trex_fp16_is_traced_whole_with_its_graph() -> None:
    paths: dict[str, str] = {}
    model = legacy_resnet(paths)
    layers = layers_of(TREX.format("fp16__resnet", "graph"), onnx_origin_of(model, paths))
    assert all(layer.module_path is not None for layer in layers)
    working = [x for x in layers if x.operation in ("convolution", "dense")]
    assert sorted(str(layer.module_path) for layer in working) == sorted(resnet_paths())
    reformats = {x.name: x.module_path for x in layers if x.name.startswith("Reformatting")}
    assert reformats["Reformatting CopyNode for Input Tensor 1 to Conv_5 + Add_6 + Relu_7"] == (
        "layer1.0.conv2"
    )


def test_trex_qat_names_the_modules_of_its_weights() -> None:
    layers, times = explored("qat__resnet-qat")
    told = [layer.module_path is not None for layer in layers]
    assert sum(told) == 23
    share = sum(t for t, known in zip(times, told, strict=True) if known) / sum(times)
    assert share == pytest.approx(0.6486, abs=0.0001)
    working = [x for x in layers if x.operation in ("convolution", "dense")]
    assert sorted(str(layer.module_path) for layer in working) == sorted(resnet_paths())
    assert round(counted(layers) / 32 / 2e6) == 1814
    assert sum(layer.weights or 0 for layer in layers) == RESNET_WEIGHTS
    assert sum(layer.operation == "quantise" for layer in layers) == 10
    assert {layer.inputs[0].dtype for layer in working} == {"int8"}
    assert layers[1].bytes_moved == 32 * (3 * 224**2 + 4 * 64 * 112**2) + 9408 + 4 * 64
