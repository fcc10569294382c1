"""Memory of inputs and outputs: what must live until it is copied, and shapes that nobody tells."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.errors import MeasurementError
from edgejoule.inference.trt.buffers import Buffers
from edgejoule.inference.trt.cuda import Cuda
from edgejoule.inference.trt.engine import open_engine
from edgejoule.inference.trt.library import make_log
from tests.support_cudart import FakeCuda
from tests.support_tensorrt import load_double, plan_of


@pytest.fixture
def cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return FakeCuda(tmp_path, monkeypatch).load()


def buffers_of(monkeypatch: pytest.MonkeyPatch, cuda: Cuda, **plan: Any) -> tuple[Any, Any, int]:
    """Return buffers, their context and its stream."""
    trt = load_double(monkeypatch)
    context = open_engine(trt, plan_of(trt, **plan), make_log(trt)).context()
    stream = cuda.stream()
    return Buffers(cuda, context, stream, cuda), context, stream


def test_what_is_cast_lives_until_it_is_copied(monkeypatch: pytest.MonkeyPatch, cuda: Cuda) -> None:
    copied: list[weakref.ref[np.ndarray]] = []
    alive: list[list[bool]] = []
    copy, wait = cuda.copy_to_device, cuda.synchronise

    def seen_copy(address: int, array: np.ndarray, stream: int) -> None:
        copied.append(weakref.ref(array))
        copy(address, array, stream)

    def seen_wait(stream: int) -> None:
        alive.append([one() is not None for one in copied])
        wait(stream)

    monkeypatch.setattr(cuda, "copy_to_device", seen_copy)
    monkeypatch.setattr(cuda, "synchronise", seen_wait)
    inputs = [{"name": name, "shape": [1, 4], "dtype": "HALF"} for name in ("x", "z")]
    buffers, _context, _stream = buffers_of(monkeypatch, cuda, inputs=inputs)
    one = np.ones((1, 4), dtype=np.float32)  # a cast makes an array that only the copy reads
    buffers.fill([{"x": one, "z": one}] * 2)
    assert alive == [[True] * 4]
    assert [held() for held in copied] == [None] * 4
    buffers.close()


def test_an_output_whose_shape_is_not_told_is_an_error(
    monkeypatch: pytest.MonkeyPatch, cuda: Cuda
) -> None:
    outputs = [{"name": "found", "shape": [-1], "dtype": "FLOAT", "positive": True}]
    buffers, context, stream = buffers_of(monkeypatch, cuda, outputs=outputs)
    buffers.fill([{"x": np.ones((1, 4), dtype=np.float32)}])
    with pytest.raises(MeasurementError, match="did not say of which shape output found is"):
        buffers.read()
    context.enqueue(stream)
    cuda.synchronise(stream)
    assert buffers.read()[0].tolist() == [1.0] * 4
    buffers.close()
