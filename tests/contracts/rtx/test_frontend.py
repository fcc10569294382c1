"""Torch-TensorRT 2.13's own frontend and TensorRT for RTX's builder, driven by our build on a CPU.

What is theirs: export to plan bytes. What is ours: the arguments, the wrapped methods, the parts
taken out, the files, where layers come from. Plans are not deserialised (that needs a GPU), so
engines are described by the names of their networks' layers, before anything is fused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.rtx.conftest import RunPython

pytestmark = pytest.mark.contracts

FRONTEND = Path(__file__).with_name("frontend.py")


@pytest.fixture(scope="module")
def seen(rtx_python: RunPython) -> dict[str, Any]:
    """What one child sees of all cases: its import alone takes a quarter of a minute."""
    code = "import runpy, sys; sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    cases = ("broken", "whole", "float16", "refused")
    done = rtx_python(code, str(FRONTEND), *cases, timeout=290)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_engines_and_the_part_between_them(seen: dict[str, Any]) -> None:
    found = seen["broken"]
    assert found["version"] == "2.13.0"
    assert [(one[0], one[1]) for one in found["engines"]] == [
        ("_run_on_acc_0", "TorchTensorRTModule"),
        ("_run_on_acc_2", "TorchTensorRTModule"),
    ]
    assert all(one[2] > 100_000 for one in found["engines"])  # bytes of real plans, code included
    assert [one[3:5] for one in found["engines"]] == [
        [["x"], ["output0"]],
        [["max_pool2d_default"], ["output0", "output1"]],
    ]
    assert found["nodes"] == [
        "x", "engine_0", "max_pool2d_default", "engine_1", "getitem", "getitem_1", "output",
    ]  # fmt: skip
    assert found["again"] == found["nodes"]  # as the measuring process has it from its files


def test_what_was_asked_for_is_in_force(seen: dict[str, Any]) -> None:
    found = seen["broken"]["applied"]
    for builder in found["builder"]:
        assert builder["profiling_verbosity"] == "DETAILED"
        assert builder["builder_optimization_level"] == 1
        assert builder["max_aux_streams"] == 0
        assert builder["flags"]["TF32"] is False
        assert builder["strongly_typed"] is True
    assert found["typing"] == "strong"
    assert "enabled_precisions" not in found["arguments"]
    assert "use_python_runtime" not in found["arguments"]
    for name in ("optimization_level", "max_aux_streams", "cache_built_engines", "disable_tf32"):
        assert found["compilation_settings"][name] == found["arguments"][name]
    assert found["arguments"]["timing_cache_path"] == "timing.cache"  # no path of a machine


def test_layers_are_traced_to_their_modules(seen: dict[str, Any]) -> None:
    layers = seen["broken"]["layers"]
    paths = {name: path for name, path, _ in layers}
    # In PyTorch: torch_tensorrt takes the module off this node, too, while it compiles.
    assert paths["max_pool2d_default"] == "pool"
    convolutions = [path for _, path, kind in layers if kind == "convolution"]
    assert convolutions == ["stem", "layer1.0.conv", "layer1.1.conv"]
    norms = [path for _, path, kind in layers if kind == "normalisation"]
    assert norms == ["layer1.0.norm", "layer1.1.norm"]
    assert any(path == "head" for path in paths.values())


def test_a_whole_model_is_one_engine(seen: dict[str, Any]) -> None:
    found = seen["whole"]
    assert len(found["engines"]) == 1
    assert found["engines"][0][3:5] == [["x"], ["output0", "output1"]]
    assert found["nodes"] == ["x", "engine_0", "getitem", "getitem_1", "output"]
    assert found["applied"]["arguments"]["min_block_size"] == 1


def test_a_cast_model_gives_engines_of_its_dtype(seen: dict[str, Any]) -> None:
    found = seen["float16"]
    assert found["outputs"] == ["torch.float16", "torch.float16"]
    assert "disable_tf32" not in found["applied"]["arguments"]
    assert all(builder["strongly_typed"] for builder in found["applied"]["builder"])


def test_a_model_that_must_be_whole_and_cannot(seen: dict[str, Any]) -> None:
    found = seen["refused"]
    assert found["error"] == "UsageError"
    assert "does not take model net whole" in found["text"]
    assert "--require-full-compilation" in found["text"]


def test_this_version_swallows_what_it_does_not_know(seen: dict[str, Any]) -> None:
    """Why arguments are chosen by the signature: no word is said of either of these."""
    found = seen["swallowed"]
    assert not any("nonsense" in one or "enabled_precisions" in one for one in found["said"])
    assert not {"nonsense", "enabled_precisions", "kwargs"} & set(found["parameters"])
