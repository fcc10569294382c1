"""The profiled pass of a model of engines and parts in PyTorch.

Within an engine TensorRT reports its layers, durations only: they have no start. Around parts in
PyTorch go pairs of CUDA events, as in the backend `torch`, and around each engine too, so that the
GPU's order is kept. A model that is engines alone runs as in the clean pass, without events.

Every engine's report is asked for once per inference, after the inference's span has ended, in the
order of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference.backend import Layer, LayerTimes
from edgejoule.inference.torch_profiler import STAMPS_PER_CHUNK, WARM_INFERENCES
from edgejoule.inference.trt.describe import check_order
from edgejoule.inference.trt.recorder import make_recorder
from edgejoule.records import NULL_NS

if TYPE_CHECKING:
    import numpy as np

    from edgejoule.inference.torch_gpu_profiler import GpuProfiler
    from edgejoule.inference.trt.torch_slots import EngineRunner, Gpu

_MOST_LAYERS = 2**15 - 1  # layers are stored in 16 bits


class EngineRecorders:
    """One recorder per engine.

    Args:
        trt: The module `tensorrt`.
        runners: The engines, in the order of the graph.
        layers: Names of each engine's layers, as described.
    """

    def __init__(
        self, trt: Any, runners: Sequence[EngineRunner], layers: Sequence[tuple[str, ...]]
    ) -> None:
        self._trt = trt
        self._runners = runners
        self.layers = layers
        self._recorders: list[Any] = []
        self._waiting = False

    @property
    def attached(self) -> bool:
        """Whether `attach` was called."""
        return bool(self._recorders)

    def attach(self, inferences: int, run: Callable[[], None]) -> None:
        """Attach recorders and compare what TensorRT calls its layers with the described.

        Args:
            inferences: Most inferences of a chunk.
            run: Runs one inference to its end.

        Raises:
            MeasurementError: TensorRT reports other layers, or in another order.
        """
        for runner, names in zip(self._runners, self.layers, strict=True):
            recorder = make_recorder(self._trt, inferences * len(names))
            runner.context.attach(recorder)
            recorder.begin(named=True)
            self._recorders.append(recorder)
        run()
        for index, (runner, recorder) in enumerate(self._pairs()):
            runner.context.report()
            described = [Layer(i, name) for i, name in enumerate(self.layers[index])]
            wrong = check_order(described, recorder.names())
            if wrong is not None:
                raise MeasurementError(
                    f"engine {index}: {wrong}",
                    "build it again; if it stays so, report the versions of TensorRT and "
                    "torch_tensorrt",
                )

    def begin(self) -> None:
        """Start a chunk."""
        self._waiting = False
        for runner, recorder in self._pairs():
            runner.context.report()  # of a warm-up's last inference, which must not come later
            recorder.begin()

    def ended(self) -> None:
        """Note that an inference has ended, whose report is still to be taken."""
        self._waiting = True

    def take(self) -> None:
        """Have every engine report the inference that has ended, if that is still to be done."""
        if not self._waiting:
            return
        self._waiting = False
        for runner, recorder in self._pairs():
            runner.context.report()
            recorder.mark()

    def whole(self, inferences: int) -> int:
        """Return how many inferences, from the chunk's first, all engines have reported whole."""
        found = inferences
        for recorder, names in zip(self._recorders, self.layers, strict=True):
            counts = recorder.counts()[:inferences]
            broken = (i for i, count in enumerate(counts) if count != len(names))
            found = min(found, next(broken, len(counts)))
        return found

    def durations_ns(self, index: int, inferences: int) -> np.ndarray:
        """Return one engine's times, int64 ns (inferences, layers)."""
        import numpy as np

        width = len(self.layers[index])
        times = np.array(self._recorders[index].times_ms[: inferences * width])
        return np.rint(times.reshape(inferences, width) * 1e6).astype(np.int64)

    def facts(self) -> dict[str, Any]:
        """Return how TensorRT reports."""
        synchronous = [runner.context.emits_synchronously for runner in self._runners]
        return {"profiler_reports": "in the launch" if any(synchronous) else "after the inference"}

    def _pairs(self) -> list[tuple[EngineRunner, Any]]:
        return list(zip(self._runners, self._recorders, strict=True))


class EnginesProfiler:
    """A model that is engines alone: the clean pass's own call, with recorders attached."""

    def __init__(
        self, module: Any, sets: Sequence[tuple[Any, ...]], recorders: EngineRecorders, gpu: Gpu
    ) -> None:
        self._module = module
        self._sets = sets
        self._recorders = recorders
        self._gpu = gpu
        layers = sum(len(names) for names in recorders.layers)
        self.chunk_inferences = max(1, STAMPS_PER_CHUNK // max(1, layers))

    def start(self, inferences: int) -> None:
        """Attach, check and warm up."""
        del inferences
        if not self._recorders.attached:
            self._recorders.attach(self.chunk_inferences, lambda: self._run(0))
        for _ in range(WARM_INFERENCES):
            self._run(0)
        self._recorders.begin()

    def _run(self, which: int) -> None:
        self._module(*self._sets[which])
        self._gpu.synchronise()

    def infer(self, which: int) -> None:
        """Run one inference and wait for its end."""
        self._module(*self._sets[which])
        self._gpu.synchronise()
        self._recorders.ended()

    def after(self) -> None:
        """Have the engines report."""
        self._recorders.take()

    def harvest(self, spans: Sequence[tuple[int, int]]) -> LayerTimes:
        """Return the times of the chunk: durations only."""
        import numpy as np

        whole = self._recorders.whole(len(spans))
        engines = range(len(self._recorders.layers))
        return _rows(np.hstack([self._recorders.durations_ns(k, whole) for k in engines]), None)

    def facts(self) -> dict[str, Any]:
        """Return how it went, for the records."""
        return {"profiler_warm_inferences": WARM_INFERENCES, **self._recorders.facts()}

    def close(self) -> None:
        """Do nothing: TensorRT takes a profiler off only with its context, at the session's end."""


class PartsProfiler:
    """Engines and nodes in PyTorch, in the order of the graph.

    Args:
        steps: Of the flat program, engines as steps.
        slots: For each step, the number of its engine; None in PyTorch.
        recorders: Of the engines.
        kernels: How the number of kernels of each step is known.
    """

    def __init__(
        self,
        steps: GpuProfiler,
        slots: Sequence[int | None],
        recorders: EngineRecorders,
        kernels: str,
    ) -> None:
        self._steps = steps
        self._slots = slots
        self._recorders = recorders
        self._kernels = kernels
        layers = sum(len(names) for names in recorders.layers)
        most = max(1, STAMPS_PER_CHUNK // max(1, layers))
        self.chunk_inferences = min(steps.chunk_inferences, most)

    def start(self, inferences: int) -> None:
        """Attach and check, once; make events, and warm up."""
        if not self._recorders.attached:
            self._steps.start(inferences)
            self._recorders.attach(self.chunk_inferences, lambda: self._steps.infer(0))
            self._steps.recalibrate()  # with a profiler attached TensorRT launches otherwise
        self._steps.start(inferences)
        self._recorders.begin()

    def infer(self, which: int) -> None:
        """Run one inference node by node and wait for its end."""
        self._steps.infer(which)
        self._recorders.ended()

    def after(self) -> None:
        """Have the engines report."""
        self._steps.after()
        self._recorders.take()

    def harvest(self, spans: Sequence[tuple[int, int]]) -> LayerTimes:
        """Return the times of the chunk; layers of engines have no start."""
        import numpy as np

        steps = self._steps.harvest(spans)
        width = len(self._slots)
        whole = min(steps.inferences, self._recorders.whole(len(spans)))
        lengths = steps.duration_ns.reshape(-1, width)[:whole]
        starts = np.asarray(steps.start_offset_ns).reshape(-1, width)[:whole]
        durations: list[np.ndarray] = []
        offsets: list[np.ndarray] = []
        excess_ns = np.zeros(whole, dtype=np.int64)
        for position, slot in enumerate(self._slots):
            if slot is None:
                durations.append(lengths[:, position : position + 1])
                offsets.append(starts[:, position : position + 1])
            else:
                durations.append(self._recorders.durations_ns(slot, whole))
                own_ns = durations[-1].sum(axis=1)
                excess_ns += np.maximum(own_ns - lengths[:, position], 0)
                offsets.append(np.full(durations[-1].shape, NULL_NS, dtype=np.int64))
        times = _rows(np.hstack(durations), np.hstack(offsets))
        if steps.held_ns is None:
            return times
        # Counted beside the engines' lengths by events; what TensorRT's own times are more than
        # that is written as layers, and cannot be held as well.
        return replace(times, held_ns=np.maximum(steps.held_ns[:whole] - excess_ns, 0))

    def facts(self) -> dict[str, Any]:
        """Return how it went, for the records."""
        return {
            "profiler_warm_inferences": WARM_INFERENCES,
            "profiler_kernels": self._kernels,
            **self._recorders.facts(),
            **self._steps.facts(),
        }

    def close(self) -> None:
        """Free the events; profilers stay with their contexts until the session's end."""
        self._steps.close()


def _rows(durations: np.ndarray, offsets: np.ndarray | None) -> LayerTimes:
    """Make rows of tables (inferences, layers).

    Raises:
        UsageError: There are more layers than numbers for them.
    """
    import numpy as np

    count, layers = durations.shape
    if layers > _MOST_LAYERS:
        raise UsageError(f"the model has {layers} layers, more than {_MOST_LAYERS}", "split it")
    return LayerTimes(
        inference=np.repeat(np.arange(count, dtype=np.int32), layers),
        layer=np.tile(np.arange(layers, dtype=np.int16), count),
        duration_ns=np.ascontiguousarray(durations).reshape(-1),
        start_offset_ns=None if offsets is None else np.ascontiguousarray(offsets).reshape(-1),
        inferences=count,
    )
