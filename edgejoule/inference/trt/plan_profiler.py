"""The profiled pass of a plan: TensorRT reports to a recorder, layer by layer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgejoule.errors import MeasurementError
from edgejoule.inference.backend import LayerTimes
from edgejoule.inference.trt.recorder import layer_times, make_recorder, order_problem, places

if TYPE_CHECKING:
    from edgejoule.inference.trt.session import PlanSession

WARM_INFERENCES = 2  # with the profiler, before each chunk

_TIMES_PER_CHUNK = 100_000


class PlanProfiler:
    """Layer times of a session, in chunks.

    The names that TensorRT reports are compared with the engine's before each chunk and after it;
    in between, layers go by position alone. The report of an inference takes about a microsecond
    per layer; `after` makes it, which the caller may call once it has taken the time; otherwise it
    is made before the next inference.

    Layers that compute nothing (`silent`) may be missing from the reports, the same ones from all;
    they take no time.
    """

    def __init__(
        self, session: PlanSession, layers: Sequence[str], silent: frozenset[int] = frozenset()
    ) -> None:
        self._session = session
        self._layers = list(layers)
        self._silent = silent
        self._fit = list(range(len(self._layers)))  # the layers that are reported
        self.chunk_inferences = max(1, _TIMES_PER_CHUNK // max(1, len(self._layers)))
        self._recorder: Any = None
        self._unreported = False

    def start(self, inferences: int) -> None:
        """Attach the recorder, warm up, and see that the layers come in the engine's order.

        Raises:
            MeasurementError: They do not, or TensorRT reports nothing.
        """
        # Warm inferences may outnumber the chunk's.
        capacity = (min(inferences, self.chunk_inferences) + WARM_INFERENCES) * len(self._layers)
        if self._recorder is None or self._recorder.capacity < capacity:
            self._recorder = make_recorder(self._session.trt, capacity)
        self._session.attach(self._recorder)
        self._recorder.begin()
        for _ in range(WARM_INFERENCES):
            self.infer(0)
        self.after()
        self._check_names("before")
        self._recorder.begin()

    def infer(self, which: int) -> None:
        """Run one inference; return when its outputs are computed."""
        if self._unreported:
            self.after()
        self._session.infer_profiled(which)
        self._unreported = True

    def after(self) -> None:
        """Have the last inference's layers reported, if they are not yet."""
        if self._unreported:
            self._unreported = False
            self._session.report()
            self._recorder.mark()

    def harvest(self, spans: Sequence[tuple[int, int]]) -> LayerTimes:
        """Return the chunk's layer times.

        Raises:
            MeasurementError: The layers come in another order than before the chunk.
        """
        del spans  # TensorRT gives durations without a clock
        if self._recorder is None:
            raise RuntimeError("harvest before start")
        self.after()
        times = layer_times(self._recorder, len(self._layers), self._fit)
        for number, count in enumerate(self._recorder.counts()):
            if count != len(self._fit):
                print(
                    f"inference {number} of this chunk: TensorRT reported {count} layer times, "
                    f"the engine has {len(self._fit)} layers with times",
                    file=sys.stderr,
                )
        self._check_names("after")
        self._recorder.begin()
        return times

    def close(self) -> None:
        """Forget the recorder; the context lets go of it when it goes itself."""
        self._recorder = None

    def _check_names(self, when: str) -> None:
        self._recorder.begin(named=True)
        self.infer(0)
        self.after()
        names = self._recorder.names()
        problem = order_problem([self._layers[index] for index in self._fit], names)
        if problem and when == "before" and len(self._fit) == len(self._layers):
            fit = places(self._layers, names)
            missing = {*range(len(self._layers))} - {*(fit or ())}
            if fit and missing <= self._silent:
                self._fit, problem = fit, ""
                self._session.layers_without_times = [self._layers[i] for i in sorted(missing)]
        # A wrong number after a chunk is left to the caller, who counts what the chunk gave.
        if problem and (when == "before" or len(names) == len(self._fit)):
            raise MeasurementError(
                f"the engine's layers and TensorRT's times do not belong together: {problem} "
                f"({when} a chunk of inferences)",
                "build the engine again; if it stays so, report the version of TensorRT",
            )
