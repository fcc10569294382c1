"""Every name of TensorRT that this project uses, in TensorRT for RTX: its API is that of 11."""

from __future__ import annotations

from typing import Any

import pytest

from edgejoule.inference.trt.library import RELIED_ON, ReliedOn

pytestmark = pytest.mark.contracts

STANDS_FOR = (11, 0, 0)
# What TensorRT 11 has and TensorRT for RTX has not.
ABSENT: frozenset[str] = frozenset()


def has(trt: Any, entry: ReliedOn) -> bool:
    owner = trt
    for part in entry.name.split("."):
        if not hasattr(owner, part):
            return False
        owner = getattr(owner, part)
    return True


def test_tensorrt_rtx_has_what_tensorrt_11_has(tensorrt_rtx: Any) -> None:
    differ = {one.name for one in RELIED_ON if has(tensorrt_rtx, one) != one.expected(STANDS_FOR)}
    assert differ == ABSENT
