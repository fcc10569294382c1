"""A model of engines and parts in PyTorch, in the measuring process; needs no torch_tensorrt.

The clean pass calls the whole flat graph, or replays it as a CUDA graph. The profiled pass is that
of `torch_layer_times`.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import MeasurementError
from edgejoule.inference.backend import BuildOptions, Profiler
from edgejoule.inference.torch_event_cost import KernelTime
from edgejoule.inference.torch_export import to_device
from edgejoule.inference.torch_gpu_profiler import GpuProfiler
from edgejoule.inference.torch_graph import Program, executed_nodes, flatten_program
from edgejoule.inference.trt.torch_describe import ENGINES_FILE, EngineFile
from edgejoule.inference.trt.torch_layer_times import (
    EngineRecorders,
    EnginesProfiler,
    PartsProfiler,
)
from edgejoule.inference.trt.torch_memory import Limit
from edgejoule.inference.trt.torch_parts import slot_of
from edgejoule.inference.trt.torch_program import load_program
from edgejoule.inference.trt.torch_slots import CudaGpu, EngineRunner, Gpu, Replay

if TYPE_CHECKING:
    import numpy as np

    from edgejoule.inference.replaying import Replayer


class PartsSession:
    """The flat graph with its engines, loaded.

    Args:
        artefacts: The folder that `build` wrote.
        options: The run's.
        gpu: Where to run; None: a stream of our own on the run's device.
        trt: The module `tensorrt`; None imports it.
    """

    def __init__(
        self, artefacts: Path, options: BuildOptions, gpu: Gpu | None = None, trt: Any = None
    ) -> None:
        import torch

        from edgejoule.inference.trt.library import load_tensorrt, make_log

        self._options = options
        self._trt = load_tensorrt() if trt is None else trt
        self._log = make_log(self._trt)
        self._gpu: Gpu = CudaGpu(options.device) if gpu is None else gpu
        self._memory = Limit(options)
        self._sets: list[tuple[Any, ...]] = []
        self._graphs: list[Replay] = []
        self._profiler: EnginesProfiler | PartsProfiler | None = None
        # Entered once: as contexts of each inference they would be part of each latency.
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(self._gpu.active())
            self._load(artefacts, stack)
            self._held = stack.pop_all()

    def _load(self, artefacts: Path, stack: contextlib.ExitStack) -> None:
        content = json.loads((artefacts / ENGINES_FILE).read_text(encoding="utf-8"))
        self._files = [
            EngineFile(
                plan=one["plan"],
                inputs=tuple(one["inputs"]),
                outputs=tuple(one["outputs"]),
                single=one["single"],
                layers=tuple(one["layers"]),
            )
            for one in content["engines"]
        ]
        self._kernel = KernelTime(**content["kernel"])
        self._runners: list[EngineRunner] = []
        for one in self._files:
            self._runners.append(self._runner(artefacts, one))
            stack.callback(self._runners[-1].close)
        self._module: Any = load_program(
            artefacts, self._gpu.device, lambda index: _slot_module(self._runners[index])
        )
        self._program = flatten_program(self._module)
        self._slots = [slot_of(node) for node in executed_nodes(self._module.graph)]

    def _runner(self, artefacts: Path, one: EngineFile) -> EngineRunner:
        from edgejoule.inference.trt.engine import open_engine

        plan = (artefacts / one.plan).read_bytes()
        engine = open_engine(self._trt, plan, self._log, self._memory.allocator(self._trt))
        return EngineRunner(engine, one.inputs, one.outputs, self._gpu, single=one.single)

    def bind(self, inputs: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Cast the input sets and move them to the device; capture CUDA graphs if asked to.

        Raises:
            MeasurementError: The model cannot be captured.
        """
        options = replace(self._options, device=self._gpu.device, extra={})
        self._sets = [to_device(one, options) for one in inputs]
        if self._options.extra.get("cuda_graphs"):
            self._graphs = []
            for one in self._sets:  # in one pool: one graph runs at a time
                pool = self._graphs[0].pool if self._graphs else None
                self._graphs.append(self._gpu.capture(functools.partial(self._module, *one), pool))

    def infer(self, which: int) -> None:
        """Run one inference on input set `which` and wait for its end."""
        if self._graphs:
            self._graphs[which].replay()
        else:
            self._module(*self._sets[which])
        self._gpu.synchronise()

    def outputs(self, which: int) -> list[np.ndarray]:
        """Run one inference and return its tensors as float arrays."""
        import torch

        tensors = [one for one in self._run(which) if isinstance(one, torch.Tensor)]
        # The reference leaves complex ones out as well: they are not ordered.
        real = [tensor for tensor in tensors if not tensor.is_complex()]
        if not real:
            what = "nothing but complex numbers" if tensors else "nothing"
            raise MeasurementError(f"the model returns {what}")
        self._gpu.synchronise()
        wide = (torch.float64, torch.int64, torch.int32)
        return [
            tensor.detach()
            .to("cpu", torch.float64 if tensor.dtype in wide else torch.float32)
            .numpy()
            .copy()  # an engine writes into the same tensor at the next inference
            for tensor in real
        ]

    def _run(self, which: int) -> Sequence[Any]:
        if self._graphs:
            self._graphs[which].replay()
            found: Sequence[Any] = self._graphs[which].outputs
            return found
        result: Sequence[Any] = self._module(*self._sets[which])
        return result

    def replayer(self) -> Replayer:
        """Raise `MeasurementError`: an engine's layers have no graph that could be cut."""
        raise MeasurementError(
            "Torch-TensorRT builds its engines from parts of the torch program, which keep no "
            "graph that one layer of an engine could be built from alone",
            "measure the model with --backend tensorrt, or use another method of --energy",
        )

    def profiler(self) -> Profiler:
        """Return the profiler: TensorRT's own within engines, events in PyTorch."""
        recorders = EngineRecorders(self._trt, self._runners, [one.layers for one in self._files])
        if None not in self._slots:
            self._profiler = EnginesProfiler(self._module, self._sets, recorders, self._gpu)
            return self._profiler
        kernels, how = self._gpu.kernels(self._program, self._sets[0])
        steps = GpuProfiler(self._program, self._sets, self._gpu.events(), self._kernel, kernels)
        self._profiler = PartsProfiler(steps, self._slots, recorders, how)
        return self._profiler

    def settings(self) -> dict[str, Any]:
        """Return what is in force."""
        import torch

        found: dict[str, Any] = {
            "engines": len(self._runners),
            "steps_in_pytorch": sum(slot is None for slot in self._slots),
            "engine_outputs": "allocated once",
            "engine_inputs_copied": sum(runner.copies for runner in self._runners),
            "activation_bytes": [runner.engine.memory_bytes for runner in self._runners],
            "nvtx_verbosity": [runner.context.nvtx_verbosity() for runner in self._runners],
            "cuda_graphs": bool(self._graphs),
            "stream": "one of its own",
            "inputs": "on the device before the inference starts",
            "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
            "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        }
        if self._gpu.device.startswith("cuda"):
            index = torch.cuda.current_device()
            told: Any = torch.cuda.get_device_properties(index)
            peak_mib = round(torch.cuda.max_memory_allocated(index) / 2**20, 1)
            found |= {
                "gpu": str(told.name),
                "gpu_integrated": bool(getattr(told, "is_integrated", False)),
                # Only under a limit do engines take their memory from torch.
                "peak_gpu_mib" if self._memory.limited else "peak_torch_mib": peak_mib,
            }
        if self._profiler is not None:
            found |= self._profiler.facts()
        return found | self._memory.settings()

    def close(self) -> None:
        """Free engines, program and inputs."""
        self._module = None
        self._graphs = []
        self._sets = []
        self._program = Program((), (), ())
        self._runners = []
        self._held.close()
        if self._gpu.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()


def _slot_module(runner: EngineRunner) -> Any:
    """Return a module of PyTorch's that runs an engine."""
    import torch

    class Slot(torch.nn.Module):
        def forward(self, *tensors: Any) -> Any:
            return runner(*tensors)

    return Slot()
