"""The memory limit's allocator is called by every version's real bindings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.contracts.bindings import run_in_bindings
from tests.contracts.folder import listed, numbers

pytestmark = pytest.mark.contracts


@pytest.mark.parametrize("version", listed("bindings.txt"))
def test_real_bindings_call_the_allocator(contracts: Path, version: str) -> None:
    package = contracts / "bindings" / version
    if not package.is_dir():
        # prepare.sh has said that there is no wheel for this Python.
        assert (contracts / "bindings-3.10" / version).is_dir()
        return
    script = Path(__file__).with_name("allocator_checks.py")
    done = run_in_bindings(contracts, package, str(script), "tensorrt_bindings", project=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    calls = ["allocate"] if numbers(version) < (10,) else ["allocate", "allocate_async"]
    assert found["calls"] == calls
    assert found["given"] == [600] * len(calls)
    assert found["refusals"] == len(calls)
    assert found["live"] == 0
    assert "ERROR" not in found["said"]  # of a value that is no whole number
