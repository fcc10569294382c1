"""The recorder and the logger under the real base classes of TensorRT: RTX, and 8.6 to 11.4.

Nothing here runs an engine: that TensorRT calls `report_layer_time` once per layer in the order of
the layers is its header's word and the recordings', not shown by these tests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.bindings import run_in_bindings
from tests.contracts.folder import HERE, listed, numbers
from tests.contracts.profiler_checks import observe

pytestmark = pytest.mark.contracts

VERSIONS = listed("bindings.txt")


def check(seen: dict[str, Any]) -> None:
    """What must hold under every version's base classes."""
    assert seen["recorded"] == {
        "names": ["conv", "relu", "conv"],  # as reported, a repeated name twice
        "heard_later": [],
        "times": [1.0, 2.0, 0.25, 4.0],  # the last from another thread
        "counts": [3, 1],
        "count": 4,
        "overflow": 0,
    }
    # What finds no room raises within the callback; the bindings swallow that, the count tells it.
    assert seen["overflow"] == {"count": 4, "overflow": 2, "times": [1.0, 2.0]}
    assert "__init__" in seen["without_init"]
    assert not seen["outlives"]
    assert seen["logged"]["errors"] == ["first bad", "worse"]
    assert seen["logged"]["warnings"] == ["odd"]
    assert seen["logged"]["last"] == "first bad | worse"
    assert len(seen["logged"]["printed"]) == 3  # not what is verbose


def test_under_tensorrt_rtx(tensorrt_rtx: Any) -> None:
    check(observe(tensorrt_rtx))


@pytest.mark.parametrize("version", VERSIONS)
def test_under_the_bindings_of_each_version(contracts: Path, version: str) -> None:
    package = contracts / "bindings" / version
    if not package.is_dir():
        # prepare.sh has said so; the names are searched for in test_bindings.py.
        assert (contracts / "bindings-3.10" / version).is_dir()
        return
    script = str(HERE / "profiler_checks.py")
    done = run_in_bindings(contracts, package, script, "tensorrt_bindings", project=True)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert tuple(seen["version"]) == numbers(version)
    check(seen)


def test_an_override_that_is_missing_is_no_exception(tensorrt_rtx: Any) -> None:
    """Why the runner counts what came: a profiler that does nothing looks like one that works."""

    class Nothing(tensorrt_rtx.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt_rtx.IProfiler.__init__(self)

    assert tensorrt_rtx.IProfiler.report_layer_time(Nothing(), "conv", 1.0) is None
