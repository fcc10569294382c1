"""PyTorch, eager: the exported program run whole (clean pass) and node by node (profiled pass).

Eager is what users of eager PyTorch get, so it is the default also where the GPU then waits for the
host most of the time. With `cuda_graphs` the clean pass replays one CUDA graph per input set.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference.backend import (
    Availability,
    BuildOptions,
    EngineDescription,
    Profiler,
    Session,
)
from edgejoule.inference.common import write_json
from edgejoule.inference.inputs import make_inputs
from edgejoule.inference.memory_limit import Enforcement, limit_torch
from edgejoule.inference.probe import probe
from edgejoule.inference.replaying import Replayer
from edgejoule.inference.torch_cuda_graph import (
    CapturedGraph,
    capture,
    kernels_per_step,
    refuse_on_cpu,
)
from edgejoule.inference.torch_event_cost import KernelTime, trace_kernel
from edgejoule.inference.torch_export import export_program, runnable, to_device
from edgejoule.inference.torch_gpu_profiler import CudaEvents, GpuProfiler, synchronise
from edgejoule.inference.torch_graph import Program, describe_layers, flatten_program
from edgejoule.inference.torch_profiler import WARM_INFERENCES, CpuProfiler
from edgejoule.inference.torch_replay import TorchReplayer

if TYPE_CHECKING:
    import numpy as np

    from edgejoule.inference.workload import LoadedModel

OPTIONS = ("channels_last", "cudnn_benchmark", "cuda_graphs")
_TF32_SINCE = (8, 0)  # compute capability of the first GPUs with it

_PROGRAM_FILE = "program.pt2"
_ENGINE_FILE = "torch.json"
_PROBE = """
import json, torch
gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(json.dumps({"torch": torch.__version__,
                  "gpus": [torch.cuda.get_device_name(i) for i in range(gpus)],
                  "capabilities": [torch.cuda.get_device_capability(i) for i in range(gpus)]}))
"""


class TorchBackend:
    """torch.export and eager execution, on a CPU or an NVIDIA GPU."""

    name = "torch"
    form = "torch"
    options = OPTIONS

    def availability(self) -> Availability:
        """Import torch in a process of its own and ask it for GPUs."""
        found = probe(_PROBE)
        if found.error:
            mend = "pip install torch (README names the wheels for Jetson)"
            return Availability(False, f"torch cannot be used here ({found.error})", mend)
        gpus = found.facts["gpus"]
        where = f"on {gpus[0]}" if gpus else "on the CPU, no CUDA device"
        return Availability(True, f"torch {found.facts['torch']} {where}")

    def dtypes(self, device: str) -> tuple[str, ...]:
        """float16 first on a GPU; a CPU has no float16 here, and TF32 is newer GPUs'."""
        if device.startswith("cuda"):
            known = probe(_PROBE).facts.get("capabilities", ())
            index = int(device.partition(":")[2] or 0)
            # Of a GPU that torch does not see here nothing is known; `build` looks again.
            has_tf32 = index >= len(known) or tuple(known[index]) >= _TF32_SINCE
            return ("float16", "float32", "bfloat16", *(("tf32",) if has_tf32 else ()))
        return ("float32", "bfloat16") if device == "cpu" else ()

    def devices(self) -> tuple[str, ...]:
        """Return the CUDA devices, then the CPU."""
        gpus = range(len(probe(_PROBE).facts.get("gpus", ())))
        return (*(f"cuda:{index}" for index in gpus), "cpu")

    def build(
        self, model: LoadedModel, options: BuildOptions, artefacts: Path
    ) -> EngineDescription:
        """Cast and export the model on its device, save the program, describe its nodes.

        Raises:
            UsageError: The model cannot be exported, or raises while it is.
        """
        import torch

        _check_options(options)
        limit = _apply(options)
        program, strict = export_program(model, options)
        module = runnable(program)
        layers = describe_layers(module)
        torch.export.save(program, str(artefacts / _PROGRAM_FILE))
        facts: dict[str, Any] = {"steps": [layer.name for layer in layers]}
        if options.device.startswith("cuda"):
            counts, how = _count_kernels(module, model, options)
            kernel = trace_kernel(options.device)
            facts |= {"kernels": counts, "kernels_how": how, "kernel": dataclasses.asdict(kernel)}
            if counts is not None:
                layers = tuple(
                    dataclasses.replace(one, attributes={**one.attributes, "kernels": count})
                    for one, count in zip(layers, counts, strict=True)
                )
        write_json(artefacts / _ENGINE_FILE, facts)
        return EngineDescription(
            backend=self.name,
            versions=_versions(),
            layers=layers,
            settings={**_settings(options, limit), "export_strict": strict},
            start_offsets=True,
        )

    def open(self, artefacts: Path, options: BuildOptions) -> Session:
        """Load the exported program onto its device."""
        _check_options(options)
        return TorchSession(artefacts, options, _apply(options))


class TorchSession:
    """An exported program, loaded."""

    def __init__(self, artefacts: Path, options: BuildOptions, limit: Enforcement) -> None:
        import torch

        self._options = options
        self._limit = limit
        self._gpu = options.device.startswith("cuda")
        # Entered once: as a context of each inference it would be part of each latency.
        self._mode = contextlib.ExitStack()
        self._mode.enter_context(torch.inference_mode())
        program = torch.export.load(str(artefacts / _PROGRAM_FILE))
        self._module: Any = runnable(program)
        self._program = flatten_program(self._module)
        text = (artefacts / _ENGINE_FILE).read_text(encoding="utf-8")
        engine: dict[str, Any] = json.loads(text)
        if [step.name for step in self._program.steps] != engine["steps"]:
            raise MeasurementError(
                "the loaded program executes other nodes than those described",
                "build it again with the same version of torch",
            )
        self._engine = engine
        self._sets: list[tuple[Any, ...]] = []
        self._graphs: list[CapturedGraph] = []
        self._graph_mib: float | None = None
        self._profiler: GpuProfiler | None = None

    def bind(self, inputs: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Cast the input sets and move them to the device; capture a graph of each if asked for."""
        self._sets = [to_device(one, self._options) for one in inputs]
        self._graphs = []
        if self._options.extra.get("cuda_graphs"):
            self._capture()

    def infer(self, which: int) -> None:
        """Run one inference on input set `which`; on a GPU, wait for its end."""
        if self._graphs:
            self._graphs[which].replay()
        else:
            self._module(*self._sets[which])
        if self._gpu:
            synchronise()

    def outputs(self, which: int) -> list[np.ndarray]:
        """Run one inference and return its tensors as float arrays."""
        import torch
        from torch.utils._pytree import tree_leaves

        if self._graphs:  # what the clean pass computes, not what eager execution would
            self._graphs[which].replay()
            synchronise()
            returned = self._graphs[which].outputs
        else:
            returned = self._module(*self._sets[which])
        leaves = tree_leaves(returned)
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        # The reference leaves complex ones out as well: they are not ordered.
        real = [tensor for tensor in tensors if not tensor.is_complex()]
        if not real:
            what = "nothing but complex numbers" if tensors else "nothing"
            raise MeasurementError(f"the model returns {what}")
        wide = (torch.float64, torch.int64, torch.int32)
        return [
            tensor.detach()
            .to("cpu", torch.float64 if tensor.dtype in wide else torch.float32)
            .numpy()
            for tensor in real
        ]

    def profiler(self) -> Profiler:
        """Return the profiler of this session's device."""
        if not self._gpu:
            return CpuProfiler(self._program, self._sets)
        kernel = KernelTime(**self._engine["kernel"])
        counts = self._engine["kernels"]
        self._profiler = GpuProfiler(self._program, self._sets, CudaEvents(), kernel, counts)
        return self._profiler

    def replayer(self) -> Replayer:
        """Return what repeats layers of this session alone."""
        flops = [layer.flops for layer in describe_layers(self._module)]
        kernels = self._engine.get("kernels")
        return TorchReplayer(self._program, self._sets, self._options.device, kernels, flops)

    def settings(self) -> dict[str, Any]:
        """Return what is in force, and what the profiler took off each layer."""
        found = {
            **_settings(self._options, self._limit),
            "profiler_warm_inferences": WARM_INFERENCES,
        }
        if self._gpu:
            found |= {
                "cuda_graphs_mib": self._graph_mib,
                "profiler_kernels": self._engine["kernels_how"],
            }
        return found | (self._profiler.facts() if self._profiler is not None else {})

    def close(self) -> None:
        """Free program, inputs and, on a GPU, its memory."""
        self._module = None
        self._sets = []
        self._graphs = []
        self._profiler = None
        self._program = Program((), (), ())
        self._mode.close()
        if self._gpu:
            import torch

            torch.cuda.empty_cache()

    def _capture(self) -> None:
        """Capture one graph per input set; they share one pool, since one runs at a time."""
        import torch

        before = torch.cuda.memory_reserved()
        for one in self._sets:
            pool = self._graphs[0].pool if self._graphs else None
            self._graphs.append(capture(functools.partial(self._module, *one), pool))
        self._graph_mib = round((torch.cuda.memory_reserved() - before) / 2**20, 1)


def _count_kernels(
    module: Any, model: LoadedModel, options: BuildOptions
) -> tuple[tuple[int, ...] | None, str]:
    """Return how many kernels each step launches, and how that is known."""
    import torch

    sets, _ = make_inputs("normal", model.inputs, None, options.seed, sets=1)
    with torch.inference_mode():
        return kernels_per_step(flatten_program(module), to_device(sets[0], options))


def _check_options(options: BuildOptions) -> None:
    unknown = sorted(k for k, v in options.extra.items() if k not in OPTIONS and v is not None)
    if unknown:
        raise UsageError(
            f"backend torch has no option {unknown[0]!r}", f"it has {', '.join(OPTIONS)}"
        )
    if options.extra.get("cuda_graphs"):
        refuse_on_cpu(options.device)
    if options.dtype in ("int8", "fp8"):
        raise UsageError(
            f"backend torch does not quantise to {options.dtype}",
            "use --backend tensorrt, or onnxruntime for int8 on the CPU",
        )
    if options.dtype == "tf32" and not options.device.startswith("cuda"):
        raise UsageError(f"dtype tf32: device {options.device} has no TF32", "use --dtype float32")


def _apply(options: BuildOptions) -> Enforcement:
    """Set what torch keeps for the whole process; return how the memory limit is held.

    Raises:
        UsageError: The device is not there, or has no TF32.
    """
    import torch

    torch.manual_seed(options.seed)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = bool(options.extra.get("cudnn_benchmark"))
    if options.dtype in ("float32", "tf32"):
        # torch's own default is in between: allowed for convolutions, forbidden for products.
        allowed = options.dtype == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed
    if options.device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise UsageError(
                f"device {options.device}: this torch {torch.__version__} sees no CUDA device",
                "use --device cpu, or install a torch built for this GPU and driver",
            )
        torch.cuda.set_device(options.device)
        capability = torch.cuda.get_device_capability(options.device)
        if options.dtype == "tf32" and capability < _TF32_SINCE:
            raise UsageError(
                f"dtype tf32: {torch.cuda.get_device_name(options.device)} of compute capability "
                f"{capability[0]}.{capability[1]} has no TF32, which came with 8.0",
                "use --dtype float32",
            )
    return limit_torch(options)


def _settings(options: BuildOptions, limit: Enforcement) -> dict[str, Any]:
    """Return what is in force in this process."""
    import torch

    found: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "channels_last": bool(options.extra.get("channels_last")),
        "inputs": "on the device before the inference starts",
        "memory_limit": limit.to_json(),
    }
    if options.device.startswith("cuda"):
        index = torch.cuda.current_device()
        found |= {
            "gpu": torch.cuda.get_device_name(index),
            # One memory for CPU and GPU; torch 2.4 does not say yet.
            "gpu_integrated": _flag(torch.cuda.get_device_properties(index), "is_integrated"),
            "clean_pass": "CUDA graph" if options.extra.get("cuda_graphs") else "eager",
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "cudnn_deterministic": torch.backends.cudnn.deterministic,
            "cudnn_tf32": torch.backends.cudnn.allow_tf32,
            "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
            "peak_gpu_mib": round(torch.cuda.max_memory_allocated(index) / 2**20, 1),
        }
    else:
        mkldnn: Any = torch.backends.mkldnn  # without types
        found["mkldnn"] = bool(mkldnn.is_available())
    return found


def _flag(properties: Any, name: str) -> bool | None:
    value = getattr(properties, name, None)
    return None if value is None else bool(value)


def _versions() -> dict[str, str]:
    import torch

    found = {"torch": str(torch.__version__)}
    if torch.version.cuda:
        found["cuda"] = str(torch.version.cuda)
    if torch.version.cuda and torch.cuda.is_available():
        cudnn: Any = torch.backends.cudnn  # without types
        found["cudnn"] = str(cudnn.version())
    return found
