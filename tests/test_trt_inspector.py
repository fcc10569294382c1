"""The engine inspector's JSON: every version's shape, damaged texts, dtypes out of formats."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.errors import MeasurementError
from edgejoule.inference.trt.inspector import dtype_of, profile_of, read_inspector
from tests.support_inspector import SMALL_NAMES, small_engine


@pytest.mark.parametrize("version", ["8", "10", "11"])
def test_every_version_gives_the_same_layers(version: str) -> None:
    found = read_inspector(small_engine(version))
    assert found.detail == "detailed"
    assert [layer.name for layer in found.layers] == SMALL_NAMES["torch"]
    assert [layer.layer_type for layer in found.layers] == [
        "Reformat", "CaskConvolution", "CaskPooling", "CaskConvolution", "kgen", "NoOp",
        "CaskGemmConvolution", "NoOp",
    ]  # fmt: skip
    assert {t.dtype for layer in found.layers for t in (*layer.inputs, *layer.outputs)} == {
        "float16"
    }
    assert found.layers[4].inputs[0].location is None  # Myelin's have none
    assert found.layers[1].inputs[0].location == "Device"
    assert [tensor.name for tensor in found.tensors] == ["x", "output0"]
    assert found.layers[1].stream == (None if version == "8" else 0)


def test_only_version_11_says_what_the_inputs_and_outputs_are() -> None:
    old, new = (read_inspector(small_engine(version)).tensors for version in ("10", "11"))
    assert [(t.is_input, t.shape, t.dtype) for t in old] == [(None, None, None)] * 2
    assert [(t.is_input, t.shape, t.dtype) for t in new] == [
        (True, (1, 3, 8, 8), "float16"),
        (False, (1, 10), "float16"),
    ]
    assert new[0].record["ProfileInfo"][0]["OptShape"] == [1, 3, 8, 8]


def test_names_alone_and_nothing_at_all() -> None:
    names = read_inspector(small_engine("10", verbosity="names"))
    assert names.detail == "names"
    assert [layer.name for layer in names.layers] == SMALL_NAMES["torch"]
    assert names.layers[1].layer_type is None
    assert names.layers[1].record == {}
    for text in (small_engine("10", verbosity="none"), "", " \n", "null", '{"Layers": null}'):
        assert read_inspector(text).detail == "none"
        assert read_inspector(text).layers == ()


def test_layers_of_several_profiles_are_told_apart() -> None:
    found = read_inspector(small_engine("10", profiles=3))
    assert found.profiles == (0, 1, 2)
    assert len(found.layers) == 24
    for profile in (0, 1, 2):
        layers = found.of_profile(profile)
        assert [layer.plain_name for layer in layers] == SMALL_NAMES["torch"]
        assert {profile_of(layer.name) for layer in layers} == {profile}


def test_unknown_keys_are_kept_and_unnamed_layers_have_their_index() -> None:
    text = json.dumps({"Layers": [{"NewIn12": {"a": [1]}, "Inputs": "none"}, {"Name": "b"}]})
    layers = read_inspector(text).layers
    assert layers[0].record == {"NewIn12": {"a": [1]}, "Inputs": "none"}
    assert layers[0].name == "0"  # what the profiler calls a layer without a name
    assert (layers[0].inputs, layers[0].layer_type) == ((), None)


def test_control_characters_may_stand_unescaped() -> None:
    text = '{"Layers": [{"Name": "a", "Metadata": "[ONNX Layer: a]\x1e[ONNX Layer: b]"}]}'
    assert "\x1e" in read_inspector(text).layers[0].metadata


def test_open_dimensions_are_no_shape() -> None:
    open_ = {"Name": "x", "Dimensions": [-1, 3], "Format/Datatype": "N/A due to dynamic shapes"}
    tensor = read_inspector(json.dumps({"Layers": [{"Name": "a", "Inputs": [open_]}]}))
    assert tensor.layers[0].inputs[0].dimensions == (-1, 3)
    assert tensor.layers[0].inputs[0].shape is None
    assert tensor.layers[0].inputs[0].dtype is None


@pytest.mark.parametrize("key", ["DataType", "Datatype"])
def test_a_data_type_says_more_than_a_format(key: str) -> None:
    one = {"Name": "x", "Format": "Row major linear INT8 format (kLINEAR)", key: "Int64"}
    layer = read_inspector(json.dumps({"Layers": [{"Name": "a", "Outputs": [one]}]})).layers[0]
    assert layer.outputs[0].dtype == "int64"
    assert layer.outputs[0].format == "Row major linear INT8 format (kLINEAR)"


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("Row major linear FP16 format", "float16"),
        ("Row major linear FP32", "float32"),
        ("Row major linear FP32 format (kLINEAR)", "float32"),
        ("Channel major FP16 format where channel % 8 == 0", "float16"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("Channel major INT8 format where channel == 4 and column stride % 32 == 0", "int8"),
        ("Two wide channel vectorized row major BFloat16 format", "bfloat16"),
        ("Row major linear FP8 format", "float8_e4m3fn"),
        ("Row major linear BOOL", "bool"),
        ("Row major linear UInt8 format", "uint8"),
        ("Row major linear Int64 format", "int64"),
        ("Half", "float16"),
        ("Float", "float32"),
        ("BFloat16", "bfloat16"),
        ("FP8", "float8_e4m3fn"),
        ("Int32", "int32"),
        ("FloatComplex", None),
        ("Unknown format", None),
        ("None", None),
        ("N/A due to dynamic shapes", None),
        ("Half to Float", None),
        (None, None),
        (7, None),
    ],
)
def test_dtypes_out_of_texts(text: Any, dtype: str | None) -> None:
    assert dtype_of(text) == dtype


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"Layers": [', "text is no JSON"),
        ("Layer(CaskConvolution): conv1, Tactic: 1", "text is no JSON"),
        ("[" * 100_000, "text is no JSON"),
        ("7", "JSON is no object"),
        ('{"Layers": {"a": 1}}', "has no list of layers"),
        ('{"Layers": [null]}', "layer 0 is neither an object nor a name"),
        ('{"Layers": ["a", 5]}', "layer 1 is neither an object nor a name"),
    ],
)
def test_a_damaged_text_is_one_line(text: str, said: str) -> None:
    with pytest.raises(MeasurementError, match=said) as caught:
        read_inspector(text)
    assert "\n" not in str(caught.value)
    assert "build the engine again" in str(caught.value)


_KEYS = st.sampled_from([
    "Layers", "Bindings", "I/O Tensors", "Name", "LayerType", "Inputs", "Outputs", "Dimensions",
    "Format/Datatype", "DataType", "Metadata", "StreamId", "Weights", "Bias", "Count", "Type",
    "Kernel", "Stride", "PrePadding", "PostPadding", "OutMaps", "Groups", "Operations", "Origin",
    "WindowSize", "ParameterType", "TacticName", "IOMode",
])  # fmt: skip
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=12)
    | st.sampled_from(["CaskConvolution", "kgen", "Convolution", "NoOp", "Pooling", "Input"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=6),
    max_leaves=30,
)


def test_what_has_no_name_goes_by_its_number() -> None:
    found = read_inspector('{"Layers": ["conv", "", {"Name": ""}, "pool"]}')
    assert [layer.name for layer in found.layers] == ["conv", "1", "2", "pool"]


def read(text: str) -> list[str]:
    """Names of the layers, or the one line of the refusal."""
    try:
        return [layer.name for layer in read_inspector(text).layers]
    except MeasurementError as error:
        return [str(error)]


@given(_VALUES)
@settings(max_examples=200, deadline=None)
def test_any_json_is_read_or_refused(value: Any) -> None:
    assert all(isinstance(name, str) for name in read(json.dumps(value)))


@given(st.text(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    assert all("\n" not in line for line in read(text))
