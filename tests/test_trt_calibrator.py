from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference.calibration_cache import read_cache
from edgejoule.inference.calibration_data import CalibrationData, load_calibration
from edgejoule.inference.trt.build import build_plan
from edgejoule.inference.trt.calibrator import calibrator_key, make_calibrator
from edgejoule.inference.trt.cuda_types import CudaDevice, CudaOutOfMemory
from edgejoule.inference.trt.library import make_log
from edgejoule.inference.workload import InputSpec
from tests.support_cudart import FakeCuda
from tests.support_trt_builder import X, flags_of, load_double, options, write_graph


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Any:
    return load_double(monkeypatch, "8.6.1")


@pytest.fixture
def cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    loaded = FakeCuda(tmp_path, monkeypatch).load()
    loaded.use(0)
    return loaded


def data_of(seed: int = 0, count: int = 3) -> CalibrationData:
    return load_calibration("normal", [X], None, seed, count)


def test_every_set_reaches_the_device(trt: Any, cuda: Any) -> None:
    data = data_of()
    calibrator = make_calibrator(trt, cuda, data, calibrator_key(trt, "abc", data))
    assert calibrator.get_batch_size() == 1
    stream = cuda.stream()
    seen = []
    while addresses := calibrator.get_batch(["x"]):
        back = np.empty(X.shape, np.float32)
        cuda.copy_to_host(back, addresses[0], stream)
        cuda.synchronise(stream)
        seen.append(back)
    assert len(seen) == 3
    for one, found in zip(data.sets, seen, strict=True):
        assert np.array_equal(one["x"], found)
    calibrator.restart()
    assert calibrator.get_batch(["x"]) is not None
    cuda.destroy_stream(stream)
    calibrator.close()
    calibrator.close()


def test_64_bit_inputs_are_narrowed_as_the_parser_does(trt: Any, cuda: Any) -> None:
    data = load_calibration("normal", [InputSpec("ids", (2, 5), "int64", 100)], None, 0, 1)
    calibrator = make_calibrator(trt, cuda, data, calibrator_key(trt, "abc", data))
    (address,) = calibrator.get_batch(["ids"])
    back, stream = np.empty((2, 5), np.int32), cuda.stream()
    cuda.copy_to_host(back, address, stream)
    cuda.synchronise(stream)
    assert np.array_equal(back, data.sets[0]["ids"])
    cuda.destroy_stream(stream)
    calibrator.close()


def build(trt: Any, cuda: Any, graph: Path, data: CalibrationData, cache: Path | None) -> Any:
    calibrator = make_calibrator(trt, cuda, data, calibrator_key(trt, "abc", data), cache)
    try:
        built = build_plan(
            trt, cuda, graph, options("int8"), log=make_log(trt), inputs=[X],
            calibrator=calibrator, say=lambda _line: None,
        )  # fmt: skip
    finally:
        calibrator.close()
    return built, calibrator.facts()


def test_a_build_calibrates_once_and_keeps_what_it_found(
    trt: Any, cuda: Any, tmp_path: Path
) -> None:
    graph, cache = write_graph(tmp_path / "g.onnx"), tmp_path / "c.json"
    built, facts = build(trt, cuda, graph, data_of(), cache)
    assert built.facts["builder_flags"] == ["INT8"]
    assert built.facts["not_quantised"] == "float32"
    assert facts["cache"] == "written"
    assert facts["method"] == "IInt8EntropyCalibrator2"
    assert read_cache(cache).calibrator.startswith(b"TRT-8.6.1-EntropyCalibration2 3 ")
    _, facts = build(trt, cuda, graph, data_of(), cache)
    assert facts["cache"] == "read"


def test_a_dynamic_graph_is_calibrated_under_its_profile(
    trt: Any, cuda: Any, tmp_path: Path
) -> None:
    build(trt, cuda, write_graph(tmp_path / "g.onnx", batch="n"), data_of(), None)
    assert flags_of(trt).BUILT[0]["calibration_profile"]


def test_a_stale_cache_is_refused(trt: Any, cuda: Any, tmp_path: Path) -> None:
    graph, cache = write_graph(tmp_path / "g.onnx"), tmp_path / "c.json"
    build(trt, cuda, graph, data_of(), cache)
    with pytest.raises(UsageError, match=r"c\.json is stale: its data"):
        build(trt, cuda, graph, data_of(seed=1), cache)
    data = data_of()
    key = calibrator_key(trt, "another model", data)
    with pytest.raises(UsageError, match="is stale: it is of another model"):
        make_calibrator(trt, cuda, data, key, cache)


def test_a_cache_of_another_version_is_refused(
    trt: Any, cuda: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, cache = write_graph(tmp_path / "g.onnx"), tmp_path / "c.json"
    build(trt, cuda, graph, data_of(), cache)
    monkeypatch.setattr(trt, "__version__", "8.6.2")
    with pytest.raises(UsageError, match=r"made with tensorrt 8\.6\.1, this is 8\.6\.2"):
        build(trt, cuda, graph, data_of(), cache)


def test_what_goes_wrong_in_a_callback_is_raised_after_the_build(
    trt: Any, cuda: Any, tmp_path: Path
) -> None:
    data = load_calibration("normal", [InputSpec("image", X.shape)], None, 0, 1)
    with pytest.raises(MeasurementError, match=r"calibration data have no input 'x'.*have image"):
        build(trt, cuda, write_graph(tmp_path / "g.onnx"), data, None)


def test_an_exception_of_another_kind_does_not_leave_a_callback(trt: Any) -> None:
    class Broken:
        def stream(self) -> int:
            raise ValueError("no stream")

    data = data_of()
    calibrator = make_calibrator(trt, Broken(), data, calibrator_key(trt, "abc", data))
    assert calibrator.get_batch(["x"]) is None
    assert "the calibration failed (ValueError: no stream)" in str(calibrator.error)


def test_a_calibration_without_memory_is_tried_again(trt: Any, tmp_path: Path) -> None:
    class Full:
        """A device whose first allocation fails."""

        def __init__(self) -> None:
            self.asked = 0

        def device(self, _index: int) -> CudaDevice:
            return CudaDevice("Orin", (8, 7), 2**30, True, None)

        def stream(self) -> int:
            return 1

        def allocate(self, _size: int) -> int:
            self.asked += 1
            if self.asked == 1:
                raise CudaOutOfMemory(2, "cudaErrorMemoryAllocation", "no memory", "cudaMalloc")
            return 4096

        def nothing(self, *_arguments: Any) -> None:
            return None

        copy_to_device = synchronise = free = destroy_stream = nothing

    built, _ = build(trt, Full(), write_graph(tmp_path / "g.onnx"), data_of(), None)
    assert [one["result"] for one in built.attempts] == ["out of memory", "built"]
    assert "cudaMalloc" in built.attempts[0]["why"]
