"""Features of layers: hand-made entries of engine.json, and every backend's own words."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from edgejoule.dataset.tables.layer_columns import FEATURES
from edgejoule.dataset.tables.layer_features import layer_features
from tests.test_trt_recordings import ORIN, layers_of

CONVOLUTION: dict[str, Any] = {
    "index": 0,
    "name": "conv1",
    "type": "FusedConv",
    "operation": "convolution",
    "inputs": [{"name": "x", "shape": [2, 3, 8, 10], "dtype": "float32"}],
    "outputs": [{"name": "y", "shape": [2, 4, 4, 5], "dtype": "float16"}],
    "kernel": [3, 5],
    "stride": [2, 1],
    "padding": [1, 2],
    "dilation": [1, 1],
    "groups": 1,
    "weights": 112,
    "flops": 1000,
    "bytes_moved": 4000,
    "fused": ["Conv", "Relu"],
    "tactic": "gemm",
}


def test_a_convolution() -> None:
    found = layer_features(CONVOLUTION)
    assert found == {
        "batch_size": 2,
        "input_shape": [2, 3, 8, 10],
        "output_shape": [2, 4, 4, 5],
        "inputs": 1,
        "outputs": 1,
        "input_elements": 480,
        "output_elements": 160,
        "input_channels": 3,
        "output_channels": 4,
        "input_height": 8,
        "input_width": 10,
        "output_height": 4,
        "output_width": 5,
        "kernel_0": 3,
        "kernel_1": 5,
        "stride_0": 2,
        "stride_1": 1,
        "padding_0": 2,  # 1 before and 1 behind
        "padding_1": 4,
        "dilation_0": 1,
        "dilation_1": 1,
        "groups": 1,
        "weights": 112,
        "flops": 1000,
        "bytes_moved": 4000,
        "layer_dtype": "float16",
        "fused": "Conv+Relu",
        "tactic": "gemm",
    }
    assert list(found) == list(FEATURES)


def test_a_padding_with_unequal_sides_is_all_begins_then_all_ends() -> None:
    found = layer_features({**CONVOLUTION, "padding": [0, 1, 2, 3]})
    assert (found["padding_0"], found["padding_1"]) == (2, 4)


def test_two_paddings_of_a_window_with_one_axis_are_its_two_sides() -> None:
    line = {**CONVOLUTION, "kernel": [3], "stride": [1], "dilation": [1], "padding": [1, 2]}
    found = layer_features(line)
    assert (found["padding_0"], found["padding_1"]) == (3, None)
    assert (found["kernel_0"], found["kernel_1"]) == (3, None)


def test_a_padding_that_fits_no_number_of_axes_is_unknown() -> None:
    assert layer_features({**CONVOLUTION, "padding": [1, 2, 3]})["padding_0"] is None


def test_elements_are_over_all_tensors_and_sizes_of_the_first() -> None:
    second = {"name": "z", "shape": [2, 3], "dtype": "float32"}
    found = layer_features({**CONVOLUTION, "inputs": [*CONVOLUTION["inputs"], second]})
    assert (found["inputs"], found["input_elements"]) == (2, 486)
    assert found["input_shape"] == [2, 3, 8, 10]


@pytest.mark.parametrize("shape", [None, [None, 3], [-1, 3, 8, 8]])
def test_a_shape_that_is_not_known_is_null_and_so_are_its_elements(shape: Any) -> None:
    known = CONVOLUTION["inputs"][0]
    for inputs in ([{"name": "x", "shape": shape}], [known, {"name": "x", "shape": shape}]):
        assert layer_features({**CONVOLUTION, "inputs": inputs})["input_elements"] is None
    found = layer_features({**CONVOLUTION, "inputs": [{"name": "x", "shape": shape}]})
    assert found["input_shape"] is None
    assert found["batch_size"] is None


def test_height_and_width_are_of_four_dimensions_only() -> None:
    tokens = [{"name": "x", "shape": [2, 197, 768], "dtype": "float32"}]
    found = layer_features({**CONVOLUTION, "inputs": tokens})
    assert (found["input_channels"], found["input_height"]) == (197, None)


def test_a_layer_of_the_first_format_has_only_its_name() -> None:
    assert set(layer_features({"index": 0, "name": "a"}).values()) == {None}


def test_nothing_to_compute_is_zero_and_not_unknown() -> None:
    found = layer_features({**CONVOLUTION, "flops": 0, "weights": 0})
    assert (found["flops"], found["weights"]) == (0, 0)


def test_tensorrt_on_an_orin() -> None:
    # As engine.json has them: tuples became lists.
    layers = json.loads(json.dumps([asdict(layer) for layer in layers_of(ORIN)]))
    found = [layer_features(layer) for layer in layers if layer["operation"] == "convolution"]
    stem = found[0]
    # torchvision's resnet18 begins with 7 x 7, stride 2, padding 3, from 224 to 112.
    assert (stem["kernel_0"], stem["stride_0"], stem["padding_0"]) == (7, 2, 6)
    assert (stem["input_height"], stem["output_height"], stem["output_channels"]) == (224, 112, 64)
    assert len(found) == 20
