"""Tests with the double of `tensorrt` (`tests/doubles/tensorrt`), here and in child processes."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

DOUBLES = Path(__file__).parent / "doubles"
VARIABLE = "EDGEJOULE_TENSORRT_DOUBLE"
WITHOUT = "EDGEJOULE_TENSORRT_DOUBLE_WITHOUT"
VERSIONS = ("8.6.1", "10.3.0", "10.13.0", "11.1.0")


def environment(version: str = "10.13.0", without: str = "") -> dict[str, str]:
    """What a child's environment needs to import the double as `tensorrt`."""
    return {"PYTHONPATH": str(DOUBLES), VARIABLE: version, WITHOUT: without}


def load_double(
    monkeypatch: pytest.MonkeyPatch, version: str = "10.13.0", without: str = ""
) -> Any:
    """Return the double of one version as the module `tensorrt`, for the time of a test."""
    monkeypatch.setenv(VARIABLE, version)
    monkeypatch.setenv(WITHOUT, without)
    monkeypatch.syspath_prepend(str(DOUBLES))

    def ours() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] == "tensorrt"]

    for name in ours():
        monkeypatch.delitem(sys.modules, name)
    trt = importlib.import_module("tensorrt")
    for name, module in [(name, sys.modules.pop(name)) for name in ours()]:
        monkeypatch.setitem(sys.modules, name, module)
    return trt


def plan_of(trt: Any, *times_ms: float, **more: Any) -> bytes:
    """Return a plan with one layer per time, one input x (1, 4) and an output y = 2 x + 1."""
    settings: dict[str, Any] = {
        "layers": [
            {"name": f"layer{index}", "type": "CaskConvolution", "ms": ms}
            for index, ms in enumerate(times_ms or (0.25, 0.5))
        ],
        "inputs": [{"name": "x", "shape": [1, 4], "dtype": "FLOAT"}],
        "outputs": [{"name": "y", "shape": [1, 4], "dtype": "FLOAT", "scale": 2.0, "offset": 1.0}],
    }
    plan: bytes = trt.make_plan(**{**settings, **more})
    return plan
