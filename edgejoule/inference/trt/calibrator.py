"""INT8 calibration by TensorRT itself, for versions below 10 where the graph cannot be given Q/DQ.

`IInt8EntropyCalibrator2` runs the network in float32 on the given sets and picks a scale per
tensor; the builder then takes int8 where it is faster (implicit quantisation; deprecated in 10.1,
gone from the bindings of 11.0). Explicit Q/DQ is preferred wherever `onnx` and `onnxruntime` are
there, since it says which operations are int8.

The bindings call `get_batch` and the two for the cache from `noexcept` C++ (`pyInt8.cpp`): an
exception that leaves them ends the process. They therefore keep it in `error`, which the build
raises afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgejoule.errors import EdgejouleError, MeasurementError
from edgejoule.inference.calibration_cache import (
    Cache,
    CacheKey,
    check_cache,
    read_cache,
    write_cache,
)
from edgejoule.inference.calibration_data import CalibrationData
from edgejoule.inference.common import short

METHOD = "IInt8EntropyCalibrator2"
# Networks of these versions have no 64-bit types; the parser makes these of a graph's.
_NARROWED = {"int64": "int32", "float64": "float32", "uint64": "int32"}


def calibrator_key(trt: Any, model_sha256: str, data: CalibrationData) -> CacheKey:
    """Return what a calibration by TensorRT depends on: model, data, method, version."""
    return CacheKey(
        model_sha256=model_sha256,
        data_sha256=data.sha256,
        files=data.files,
        dtype="int8",
        method=METHOD,
        versions={"tensorrt": str(trt.__version__)},
    )


def make_calibrator(
    trt: Any, cuda: Any, data: CalibrationData, key: CacheKey, cache: Path | None = None
) -> Any:
    """Return a calibrator, an `IInt8EntropyCalibrator2` with more on top.

    Args:
        trt: The module; below 11.
        cuda: Of `load_cuda`, with the device in use.
        data: The sets, all of one batch size.
        key: Of `calibrator_key`.
        cache: File of an earlier calibration, written if it is not there; None keeps none.

    Returns:
        A calibrator with `restart()`, to be called before each build; `error`, what went wrong in
        TensorRT's calls; `facts()`; `close()`.

    Raises:
        UsageError: The cache is damaged or stale, with every difference.
    """
    known = None
    if cache is not None and cache.exists():
        earlier = read_cache(cache)
        check_cache(cache, earlier, key)
        known = earlier.calibrator

    class _Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]  # known at run time only
        def __init__(self) -> None:
            # Not `super()`: pybind11 wants the base's own initialiser called by its name.
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.error: EdgejouleError | None = None
            self._known = known
            self._feeder = _Feeder(cuda, data)

        def restart(self) -> None:
            """Begin with the first set again: each build calibrates anew, unless it is known."""
            self.error = None
            self._feeder.next = 0

        def get_batch_size(self) -> int:
            """Return the batch size; called by TensorRT."""
            return self._feeder.batch

        def get_batch(self, names: Sequence[str]) -> list[int] | None:
            """Return the device addresses of the next set, None after the last."""
            found: list[int] | None = self._guard(lambda: self._feeder.feed(names))
            return found

        def read_calibration_cache(self) -> bytes | None:
            """Return an earlier calibration of the same model and data."""
            return self._known

        def write_calibration_cache(self, cache_bytes: Any) -> None:
            """Keep what TensorRT found."""
            self._guard(lambda: self._keep(bytes(cache_bytes)))

        def facts(self) -> dict[str, Any]:
            """Return what is recorded of the calibration."""
            return {
                "method": METHOD,
                "data": data.to_json(),
                "cache": "read" if known is not None else "written" if cache else "none",
            }

        def close(self) -> None:
            """Free the device memory."""
            self._feeder.close()

        def _keep(self, found: bytes) -> None:
            self._known = found
            if cache is not None and known is None:
                write_cache(cache, Cache(key, calibrator=found))

        def _guard(self, what: Callable[[], Any]) -> Any:
            try:
                return what()
            except EdgejouleError as error:
                self.error = error
            except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (see the module)
                self.error = MeasurementError(
                    f"the calibration failed ({type(error).__name__}: {short(error)})"
                )
            return None

    return _Calibrator()


class _Feeder:
    """Copies the sets to the device, one after another, into the same buffers."""

    def __init__(self, cuda: Any, data: CalibrationData) -> None:
        first = next(iter(data.sets[0].values()))
        self.batch = int(first.shape[0]) if first.ndim else 1
        self.next = 0
        self._cuda = cuda
        self._sets = data.sets
        self._buffers: dict[str, int] = {}
        self._stream: int | None = None

    def feed(self, names: Sequence[str]) -> list[int] | None:
        """Copy the next set; None if there is none left."""
        import numpy as np

        if self.next >= len(self._sets):
            return None
        if self._stream is None:
            self._stream = self._cuda.stream()
        addresses = []
        arrays = []  # until the copies are done
        for name in names:
            if name not in self._sets[self.next]:
                has = ", ".join(self._sets[self.next])
                raise MeasurementError(
                    f"the calibration data have no input {name!r}", f"they have {has}"
                )
            array = self._sets[self.next][name]
            array = np.ascontiguousarray(array, dtype=_NARROWED.get(array.dtype.name))
            if name not in self._buffers:
                self._buffers[name] = self._cuda.allocate(max(1, array.nbytes))
            self._cuda.copy_to_device(self._buffers[name], array, self._stream)
            arrays.append(array)
            addresses.append(self._buffers[name])
        self._cuda.synchronise(self._stream)
        self.next += 1
        return addresses

    def close(self) -> None:
        """Free the buffers and the stream."""
        while self._buffers:
            self._cuda.free(self._buffers.popitem()[1])
        if self._stream is not None:
            self._cuda.destroy_stream(self._stream)
            self._stream = None
