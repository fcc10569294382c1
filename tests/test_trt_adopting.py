"""What an engine file keeps of its layers, and when it is believed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from edgejoule.inference.backend import EngineDescription, Layer, Tensor
from edgejoule.inference.trt.adopting import layer_of, with_known_layers
from edgejoule.inference.trt.engine_file import EngineFacts, read_engine_file, write_engine_file

FULL = Layer(
    0, "conv", "CaskConvolution", (Tensor("x", (1, 3, 8, 8), "float16"), Tensor("s", None)),
    (Tensor("y", (1, 4, 8, 8), "float16"),), {"Origin": "CONV", "Sizes": [1, 2]}, "features.0",
    ("Conv_0",), 1000, 20, "convolution", (3, 3), (1, 1), (1, 1), (1, 1), 1, 112, "tactic",
    ("Conv", "Relu"), ("features.0", "features.1"),
)  # fmt: skip


def description(*names: str) -> EngineDescription:
    layers = tuple(Layer(index, name) for index, name in enumerate(names))
    return EngineDescription("tensorrt", {}, layers, {}, start_offsets=False)


def known() -> list[dict[str, object]]:
    layers: list[dict[str, object]] = json.loads(json.dumps([asdict(FULL)]))
    return layers


def test_a_layer_survives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.ejplan"
    facts = EngineFacts(
        "net", "10.3.0", "Orin", (8, 7), "float16", "0" * 64, (), (), "aarch64", "edgejoule", {},
        known(),
    )  # fmt: skip
    write_engine_file(path, b"ftrt" + bytes(100), facts)
    file = read_engine_file(path)
    assert file.facts is not None
    assert layer_of(file.facts.layers[0]) == FULL
    assert with_known_layers(description("conv"), file.facts.layers).layers == (FULL,)
    assert "layers" not in file.source()["built"]


@pytest.mark.parametrize(
    "said",
    [[], [{"name": "conv"}], [{**asdict(FULL), "colour": "red"}], [{**asdict(FULL), "inputs": 3}]],
)
def test_what_is_not_understood_is_left_alone(said: list[dict[str, object]]) -> None:
    found = description("conv")
    assert with_known_layers(found, said) is found


def test_layers_of_another_engine_are_not_believed() -> None:
    for names in (("pool",), ("conv", "pool"), ()):
        found = description(*names)
        assert with_known_layers(found, known()) is found
