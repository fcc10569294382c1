"""Engines from files: whose word on layers is believed, and which of their profiles run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.errors import UsageError
from edgejoule.inference.backend import Adopted, EngineDescription, Layer, Tensor
from edgejoule.inference.passes import check_chunk
from edgejoule.inference.trt.adopting import layer_of, with_known_layers
from edgejoule.inference.trt.engine_file import EngineFacts, read_engine_file, write_engine_file
from edgejoule.inference.trt.tensorrt_backend import TensorRtBackend
from tests.support_cudart import FakeCuda
from tests.support_tensorrt import VERSIONS, load_double, plan_of
from tests.support_trt_builder import options

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


# Two optimisation profiles: one sequence, or many.
TWO: dict[str, Any] = {
    "layers": [
        {"name": "first", "type": "CaskConvolution", "ms": 0.25},
        {"name": "second", "type": "CaskPooling", "ms": 0.5},
        {"name": "only [profile 1]", "type": "CaskConvolution", "ms": 0.125},
    ],
    "inputs": [
        {"name": "x", "shape": [-1, 4], "dtype": "FLOAT"},
        {"name": "z", "shape": [-1, 2], "dtype": "FLOAT"},
    ],
    "outputs": [{"name": "y", "shape": [-1, 4], "dtype": "FLOAT"}],
    "profiles": [
        {"x": [[1, 4], [1, 4], [2, 4]], "z": [[1, 2], [1, 2], [1, 2]]},
        {"x": [[2, 4], [4, 4], [8, 4]], "z": [[1, 2], [3, 2], [9, 2]]},
    ],
}


@pytest.fixture
def cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(tmp_path, monkeypatch)


def adopt(
    tmp_path: Path, trt: Any, asked: tuple[int, ...] | None = None, **plan: Any
) -> tuple[Adopted, dict[str, Any]]:
    """Take in an engine; return it with what the session is told of it."""
    (tmp_path / "net.engine").write_bytes(plan_of(trt, **plan))
    (tmp_path / "artefacts").mkdir(exist_ok=True)
    taken = TensorRtBackend().adopt(
        tmp_path / "net.engine", options(), tmp_path / "artefacts", asked
    )
    return taken, json.loads((tmp_path / "artefacts" / "plan.json").read_text())


@pytest.mark.parametrize(
    ("asked", "profile", "shapes", "names"),
    [
        (None, 0, [(1, 4), (1, 2)], ["first", "second"]),
        ((2, 4), 0, [(2, 4), (1, 2)], ["first", "second"]),
        ((8, 4), 1, [(8, 4), (3, 2)], ["only [profile 1]"]),
    ],
)
def test_the_first_optimisation_profile_that_holds_the_shape_runs(
    monkeypatch: pytest.MonkeyPatch,
    cuda: FakeCuda,
    tmp_path: Path,
    asked: tuple[int, ...] | None,
    profile: int,
    shapes: list[tuple[int, ...]],
    names: list[str],
) -> None:
    for version in VERSIONS:
        taken, about = adopt(tmp_path, load_double(monkeypatch, version), asked, **TWO)
        assert [spec.shape for spec in taken.inputs] == shapes
        assert (about["profile"], about["layers"]) == (profile, names)
        assert [layer.name for layer in taken.engine.layers] == names
        session = TensorRtBackend().open(tmp_path / "artefacts", options())
        session.bind([{s.name: np.ones(s.shape, dtype=np.float32) for s in taken.inputs}])
        assert session.outputs(0)[0].shape == shapes[0]
        assert session.settings()["optimisation_profile"] == profile
        profiler = session.profiler()
        profiler.start(1)
        profiler.infer(0)
        assert check_chunk(profiler.harvest([(0, 1)]), 1, len(names)) == ""
        session.close()


def test_a_shape_that_no_profile_holds_is_refused_with_all_of_them(
    monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda, tmp_path: Path
) -> None:
    trt = load_double(monkeypatch)
    for asked in ((9, 4), (4,)):
        with pytest.raises(UsageError) as refused:
            adopt(tmp_path, trt, asked, **TWO)
        assert (
            "input 'x' takes shapes from [1, 4] to [2, 4], or from [2, 4] to [8, 4], --input-shape "
            f"says {list(asked)}" in str(refused.value)
        )


@pytest.mark.parametrize("profiles", [[], [{}], [{}, {"x": [[1, 4], [2, 4], [3, 4]]}]])
@pytest.mark.parametrize("asked", [None, (9, 4)])
def test_an_input_whose_shapes_are_not_told_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    cuda: FakeCuda,
    tmp_path: Path,
    profiles: list[dict[str, Any]],
    asked: tuple[int, ...] | None,
) -> None:
    plan = {"inputs": TWO["inputs"][:1], "outputs": TWO["outputs"], "profiles": profiles}
    with pytest.raises(UsageError, match=r"does not say which shapes input 'x' \[-1, 4\] takes in"):
        adopt(tmp_path, load_double(monkeypatch), asked, **plan)


def test_layers_that_compute_nothing_are_told_to_the_session(
    monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda, tmp_path: Path
) -> None:
    kinds = ["Constant", "CaskConvolution", "NoOp", "signal", "wait", "Reformat"]
    layers = [{"name": kind, "type": kind, "ms": 0.25} for kind in kinds]
    for index in (0, 3):
        layers[index]["silent"] = True
    taken, about = adopt(tmp_path, load_double(monkeypatch), layers=layers)
    assert about["silent"] == [0, 2, 3, 4]
    session = TensorRtBackend().open(tmp_path / "artefacts", options())
    session.bind([{"x": np.ones((1, 4), dtype=np.float32)}])
    profiler = session.profiler()
    profiler.start(1)
    profiler.infer(0)
    times = profiler.harvest([(0, 1)])
    assert times.duration_ns.tolist() == [0, 250_000, 250_000, 0, 250_000, 250_000]
    assert session.settings()["layers_without_times"] == ["Constant", "signal"]
    assert len(taken.engine.layers) == 6
    session.close()


def test_an_engine_of_which_nothing_is_said_has_numbers(
    monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda, tmp_path: Path
) -> None:
    trt = load_double(monkeypatch)
    monkeypatch.setattr(trt.EngineInspector, "get_engine_information", lambda _self, _format: "")
    taken, about = adopt(tmp_path, trt, verbosity="NONE")
    assert [layer.name for layer in taken.engine.layers] == about["layers"] == ["0", "1"]
    assert (tmp_path / "artefacts" / "inspector.json").read_text() == ""
