"""A plan in the measuring process: own stream, own context, inputs on the device.

One context serves both passes, so that activations take their memory once. The clean pass comes
first and runs without a profiler; the profiled pass attaches one. TensorRT lets none be taken off
(`Context.detach`), so a clean inference after a profiled pass has a new context made first.

    clean:     [ launch | wait ]
    profiled:  [ launch | wait ] report      report: TensorRT calls the recorder, layer by layer
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import EdgejouleError, MeasurementError, UsageError
from edgejoule.inference.backend import BuildOptions, Profiler
from edgejoule.inference.memory_limit import limit_tensorrt, tensorrt_allocator
from edgejoule.inference.trt import PLAN_FILE, SESSION_FILE
from edgejoule.inference.trt.buffers import Buffers
from edgejoule.inference.trt.common import device_index
from edgejoule.inference.trt.cuda_types import CudaError
from edgejoule.inference.trt.engine import open_engine
from edgejoule.inference.trt.library import load_tensorrt, make_log
from edgejoule.inference.trt.plan_profiler import WARM_INFERENCES, PlanProfiler

if TYPE_CHECKING:
    import numpy as np

    from edgejoule.inference.replaying import Replayer
    from edgejoule.inference.trt.cuda import Cuda

OVERLAP = "layers may overlap, their sum is not the latency"

_MOST_LAYERS = 2**15 - 1  # layers are stored in 16 bits
_MIB = 2**20


def open_plan_session(artefacts: Path, options: BuildOptions) -> PlanSession:
    """Load the plan of a folder of artefacts onto its device.

    Args:
        artefacts: With `plan.engine` (the plan's bytes) and `plan.json`: `layers` (names in the
            order of execution), `silent` (which of them compute nothing), `profile`.
        options: Device, memory limit, and `cuda_graphs` among the extra ones.

    Raises:
        UsageError: TensorRT, CUDA or the device is not there, or does not take the plan.
        MeasurementError: There is not enough memory, or TensorRT fails otherwise.
    """
    from edgejoule.inference.trt.cuda import load_cuda

    trt = load_tensorrt()
    cuda = load_cuda()
    about = json.loads((artefacts / SESSION_FILE).read_text(encoding="utf-8"))
    plan = (artefacts / PLAN_FILE).read_bytes()
    return PlanSession(trt, cuda, plan, about, options, artefacts)


class PlanSession:
    """An engine loaded; see `open_plan_session`."""

    def __init__(
        self,
        trt: Any,
        cuda: Cuda,
        plan: bytes,
        about: Mapping[str, Any],
        options: BuildOptions,
        artefacts: Path,
    ) -> None:
        self.trt = trt
        self._options = options
        self._artefacts = artefacts
        self._sets: Sequence[Mapping[str, np.ndarray]] = ()
        self._cuda = cuda
        self._log: Any = make_log(trt)
        self._layers = [str(name) for name in about["layers"]]
        if len(self._layers) > _MOST_LAYERS:
            raise UsageError(
                f"the engine has {len(self._layers)} layers, more than {_MOST_LAYERS}",
                "split the model",
            )
        self._silent = frozenset(int(index) for index in about.get("silent", ()))
        self._profile = int(about.get("profile", 0))
        self._wants_graphs = bool(options.extra.get("cuda_graphs"))
        self._plan_bytes = len(plan)
        index = device_index(options.device)
        cuda.use(index)
        self._device = cuda.device(index)
        self._limit = limit_tensorrt(options)
        self._allocator: Any = None
        if self._limit.limit_bytes is not None:
            self._allocator = tensorrt_allocator(trt, cuda, self._limit.limit_bytes)
        self._graphs: list[int] = []
        self._bound = -1  # the input set whose addresses the context has
        self._recorder: Any = None  # what is attached
        self._emission = "no profiled pass yet"
        self.layers_without_times: list[str] = []  # known once a profiler has started
        self._buffers: Buffers | None = None
        self._closers = contextlib.ExitStack()
        with contextlib.ExitStack() as opened:
            self._stream = cuda.stream()
            opened.callback(_quietly, cuda.destroy_stream, self._stream)
            with self._explained():
                self._engine = open_engine(trt, plan, self._log, self._allocator)
                opened.callback(self._engine.close)
                self._context = self._engine.context(self._profile, self._stream)
                opened.callback(self._context.close)
            self._closers = opened.pop_all()

    def bind(self, inputs: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Take the input sets: cast, copied to the device, shapes and outputs set.

        Raises:
            UsageError: The engine does not take them, or no CUDA graph can be made of it.
            MeasurementError: There is no memory for them.
        """
        self._drop_graphs()
        if self._buffers is not None:
            self._buffers.close()
        memory = self._cuda if self._allocator is None else self._allocator.budget
        self._buffers = Buffers(self._cuda, self._context, self._stream, memory)
        self._buffers.fill(inputs)
        self._sets = inputs
        self._bound = 0
        if self._wants_graphs:
            self._capture()

    def infer(self, which: int) -> None:
        """Run one inference on input set `which`; return when its outputs are computed."""
        if self._recorder is not None:
            self._clean()
        if self._graphs:
            self._cuda.launch(self._graphs[which], self._stream)
        else:
            if which != self._bound:
                self._select(which)
            self._context.enqueue(self._stream)
        self._cuda.synchronise(self._stream)

    def outputs(self, which: int) -> list[np.ndarray]:
        """Run one inference and return its outputs as float arrays.

        Raises:
            MeasurementError: The engine returns nothing.
        """
        self.infer(which)
        return self._filled().read()

    def profiler(self) -> Profiler:
        """Return a profiler of this session."""
        return PlanProfiler(self, self._layers, self._silent)

    def replayer(self) -> Replayer:
        """Return what repeats its layers alone, built again from the graph behind the plan."""
        from edgejoule.inference.trt.replay import PlanParts, PlanReplayer

        if self._recorder is not None:
            self._clean()
        self._select(0)
        parts = PlanParts(
            self.trt, self._cuda, self._log, self._allocator, self._device, self._context,
            self._stream, bool(self._filled().dynamic_outputs()),
        )  # fmt: skip
        return PlanReplayer(parts, self._artefacts, self._options, self._silent, self._sets[0])

    def settings(self) -> dict[str, Any]:
        """Return what is in force."""
        buffers = self._buffers
        found: dict[str, Any] = {
            "tensorrt": str(self.trt.__version__),
            "gpu": self._device.name,
            "gpu_integrated": self._device.integrated,
            "compute_capability": ".".join(map(str, self._device.compute_capability)),
            "cuda_runtime": self._cuda.runtime_version,
            "cuda_driver": self._cuda.driver_version,
            "optimisation_profile": self._profile,
            "cuda_graphs": self._wants_graphs,  # in the clean pass; never in the profiled one
            "aux_streams": self._engine.aux_streams,
            "profiler_emission": self._emission,
            "profiler_warm_inferences": WARM_INFERENCES + 1,
            "verbosity": self._engine.verbosity,
            "nvtx_verbosity": self._context.nvtx_verbosity(),
            "inputs": "on the device before the inference starts",
            "plan_mib": round(self._plan_bytes / _MIB, 3),
            "activation_mib": _mib(self._engine.memory_bytes),
            "io_mib": _mib(None if buffers is None else buffers.device_bytes),
        }
        if self.layers_without_times:
            found["layers_without_times"] = self.layers_without_times
        if self._engine.aux_streams > 0:
            found["aux_streams_warning"] = OVERLAP
        if buffers is not None and buffers.dynamic_outputs():
            found["dynamic_outputs"] = list(buffers.dynamic_outputs())
        if self._allocator is not None:
            found["memory_limit"] = {**self._limit.to_json(), **self._allocator.budget.to_json()}
        if self._log.warnings:
            found["tensorrt_warnings"] = list(dict.fromkeys(self._log.warnings))[-10:]
        return found

    def close(self) -> None:
        """Give everything back."""
        self._drop_graphs()
        if self._buffers is not None:
            self._buffers.close()
            self._buffers = None
        self._recorder = None
        self._closers.close()
        self._allocator = None

    def attach(self, recorder: Any) -> None:
        """Have inferences run by `infer_profiled` report to a recorder from here on."""
        self._context.attach(recorder)
        self._recorder = recorder
        self._emission = (
            "by each inference, which waits for its end (this version cannot wait to be asked)"
            if self._context.emits_synchronously
            else "asked for after each inference"
        )

    def infer_profiled(self, which: int) -> None:
        """Run one inference whose layers `report` will report to the recorder."""
        if which != self._bound:
            self._select(which)
        self._context.enqueue(self._stream)
        self._cuda.synchronise(self._stream)

    def report(self) -> None:
        """Have the last inference reported to the recorder."""
        self._context.report()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Name the memory limit where TensorRT fails for it, since it only knows of a refusal."""
        try:
            yield
        except MeasurementError as error:
            why = "" if self._allocator is None else self._allocator.budget.why()
            if not why:
                raise
            raise MeasurementError(f"{error.message}: {why}") from error

    def _filled(self) -> Buffers:
        if self._buffers is None:
            raise MeasurementError("the session was given no inputs")
        return self._buffers

    def _select(self, which: int) -> None:
        for name, address in self._filled().addresses[which].items():
            self._context.bind(name, address)
        self._bound = which

    def _clean(self) -> None:
        """Be rid of the profiler: with it an inference is slower."""
        self._drop_graphs()
        with self._explained():
            self._context.detach()
        self._recorder = None
        if self._wants_graphs:
            self._capture()

    def _capture(self) -> None:
        """Make a CUDA graph of an inference on each input set.

        After a plain one, which does what is put off until shapes are known (TensorRT's Developer
        Guide, "CUDA graphs").
        """
        buffers = self._filled()
        dynamic = buffers.dynamic_outputs()
        if dynamic:
            raise UsageError(
                f"no CUDA graph can be made of this engine: the shape of its output {dynamic[0]} "
                "depends on values",
                "measure without --cuda-graphs",
            )
        cuda, stream = self._cuda, self._stream
        for which in range(len(buffers.addresses)):
            self._select(which)
            self._context.enqueue(stream)
            cuda.synchronise(stream)
            try:
                cuda.begin_capture(stream)
                try:
                    self._context.enqueue(stream)
                except EdgejouleError:
                    cuda.abandon_capture(stream)
                    raise
                self._graphs.append(cuda.end_capture(stream))
            except EdgejouleError as error:
                self._drop_graphs()
                raise UsageError(
                    f"no CUDA graph can be made of this engine ({error.message})",
                    "measure without --cuda-graphs",
                ) from error

    def _drop_graphs(self) -> None:
        for graph in self._graphs:
            _quietly(self._cuda.destroy_graph, graph)
        self._graphs = []


def _mib(nbytes: int | None) -> float | None:
    return None if nbytes is None else round(nbytes / _MIB, 3)


def _quietly(free: Any, handle: int) -> None:
    """Give something back, also if the device is in error."""
    with contextlib.suppress(CudaError):
        free(handle)
