"""PyTorch, eager: the exported program run whole (clean pass) and node by node (profiled pass)."""

from __future__ import annotations

import contextlib
import inspect
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
from edgejoule.inference.common import model_error, write_json
from edgejoule.inference.inputs import make_inputs
from edgejoule.inference.probe import probe
from edgejoule.inference.torch_graph import Program, describe_layers, flatten_program
from edgejoule.inference.torch_profiler import (
    WARM_INFERENCES,
    CpuProfiler,
    CudaEvents,
    GpuProfiler,
    synchronise,
)

if TYPE_CHECKING:
    import numpy as np

    from edgejoule.inference.workload import LoadedModel

OPTIONS = ("channels_last", "cudnn_benchmark", "tf32")

_PROGRAM_FILE = "program.pt2"
_ENGINE_FILE = "torch.json"
_PROBE = """
import json, torch
gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(json.dumps({"torch": torch.__version__,
                  "gpus": [torch.cuda.get_device_name(i) for i in range(gpus)]}))
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
        """float16 first on a GPU; a CPU has no float16 here."""
        if device.startswith("cuda"):
            return ("float16", "float32", "bfloat16")
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
        _apply(options)
        program, strict = _export(model, options)
        layers = describe_layers(_runnable(program))
        torch.export.save(program, str(artefacts / _PROGRAM_FILE))
        write_json(artefacts / _ENGINE_FILE, {"steps": [layer.name for layer in layers]})
        return EngineDescription(
            backend=self.name,
            versions=_versions(),
            layers=layers,
            settings={**_settings(options), "export_strict": strict},
            start_offsets=True,
        )

    def open(self, artefacts: Path, options: BuildOptions) -> Session:
        """Load the exported program onto its device."""
        _check_options(options)
        _apply(options)
        return TorchSession(artefacts, options)


class TorchSession:
    """An exported program, loaded."""

    def __init__(self, artefacts: Path, options: BuildOptions) -> None:
        import torch

        self._options = options
        self._gpu = options.device.startswith("cuda")
        # Entered once: as a context of each inference it would be part of each latency.
        self._mode = contextlib.ExitStack()
        self._mode.enter_context(torch.inference_mode())
        program = torch.export.load(str(artefacts / _PROGRAM_FILE))
        self._module: Any = _runnable(program)
        self._program = flatten_program(self._module)
        engine = json.loads((artefacts / _ENGINE_FILE).read_text(encoding="utf-8"))
        if [step.name for step in self._program.steps] != engine["steps"]:
            raise MeasurementError(
                "the loaded program executes other nodes than those described",
                "build it again with the same version of torch",
            )
        self._sets: list[tuple[Any, ...]] = []

    def bind(self, inputs: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Cast the input sets and move them to the device."""
        self._sets = [_to_device(one, self._options) for one in inputs]

    def infer(self, which: int) -> None:
        """Run one inference on input set `which`; on a GPU, wait for its end."""
        self._module(*self._sets[which])
        if self._gpu:
            synchronise()

    def outputs(self, which: int) -> list[np.ndarray]:
        """Run one inference and return its tensors as float arrays."""
        import torch
        from torch.utils._pytree import tree_leaves

        leaves = tree_leaves(self._module(*self._sets[which]))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if not tensors:
            raise MeasurementError("the model returns nothing")
        wide = (torch.float64, torch.int64, torch.int32)
        return [
            tensor.detach()
            .to("cpu", torch.float64 if tensor.dtype in wide else torch.float32)
            .numpy()
            for tensor in tensors
        ]

    def profiler(self) -> Profiler:
        """Return the profiler of this session's device."""
        if self._gpu:
            return GpuProfiler(self._program, self._sets, CudaEvents())
        return CpuProfiler(self._program, self._sets)

    def settings(self) -> dict[str, Any]:
        """Return what is in force."""
        return {**_settings(self._options), "profiler_warm_inferences": WARM_INFERENCES}

    def close(self) -> None:
        """Free program, inputs and, on a GPU, its memory."""
        self._module = None
        self._sets = []
        self._program = Program((), (), ())
        self._mode.close()
        if self._gpu:
            import torch

            torch.cuda.empty_cache()


def _export(model: LoadedModel, options: BuildOptions) -> tuple[Any, bool | None]:
    """Return the exported program on its device in its dtype, and whether the export was strict.

    A program that is given and fits already is taken as it is (then the second is None).
    """
    import torch

    module = model.module
    if module is None:
        raise UsageError(f"model {model.name} came without a torch module")
    sets, _ = make_inputs("normal", model.inputs, None, options.seed, sets=1)
    given = isinstance(module, torch.export.ExportedProgram)
    if given and module.example_inputs is not None and module.example_inputs[1]:
        raise UsageError(
            f"model {model.name} takes keyword inputs {sorted(module.example_inputs[1])}",
            "export it again with positional inputs",
        )
    program = module if given and _fits(module, options) else None
    try:
        args = _to_device(sets[0], options)
        if given:
            module = module.module()
        else:
            module.eval()
        if program is None:
            module = module.to(device=options.device, dtype=getattr(torch, options.dtype))
            if options.extra.get("channels_last"):
                module = module.to(memory_format=torch.channels_last)
        with torch.no_grad():
            module(*args)  # a model that raises says so better here than from within the export
    except Exception as error:
        raise model_error(model.name, "raises when it is run", error) from error
    if program is not None:
        return program, None
    # The stricter way traces bytecode; it was the better one before torch 2.7 and is slower.
    old = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 7)
    try:
        with torch.no_grad():
            return torch.export.export(module, args, strict=old), old
    except Exception as error:  # noqa: BLE001 (torch.export raises anything; tried once more)
        first = error
    try:
        with torch.no_grad():
            return torch.export.export(module, args, strict=not old), not old
    except Exception as error:
        failed = model_error(model.name, "cannot be exported by torch.export", first)
        raise failed from error


def _fits(program: Any, options: BuildOptions) -> bool:
    """Whether a given program already has this device and dtype."""
    tensors = [*program.state_dict.values(), *program.constants.values()]
    floats = {str(t.dtype) for t in tensors if hasattr(t, "dtype") and t.dtype.is_floating_point}
    devices = {str(t.device) for t in tensors if hasattr(t, "device")}
    return (
        floats <= {f"torch.{options.dtype}"}
        and devices <= {options.device}
        and not options.extra.get("channels_last")
    )


def _runnable(program: Any) -> Any:
    """Return the program's module, without the check of its inputs where torch allows that."""
    if "check_guards" in inspect.signature(program.module).parameters:
        return program.module(check_guards=False)
    return program.module()


def _to_device(one: Mapping[str, np.ndarray], options: BuildOptions) -> tuple[Any, ...]:
    """Return an input set as tensors, in order: floats in the engine's dtype, on its device."""
    import torch

    tensors = []
    for array in one.values():
        tensor = torch.from_numpy(array).to(options.device)
        if tensor.is_floating_point():
            tensor = tensor.to(getattr(torch, options.dtype))
        if options.extra.get("channels_last") and tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        tensors.append(tensor)
    return tuple(tensors)


def _check_options(options: BuildOptions) -> None:
    unknown = sorted(k for k, v in options.extra.items() if k not in OPTIONS and v is not None)
    if unknown:
        raise UsageError(
            f"backend torch has no option {unknown[0]!r}", f"it has {', '.join(OPTIONS)}"
        )


def _apply(options: BuildOptions) -> None:
    """Set what torch keeps for the whole process."""
    import torch

    torch.manual_seed(options.seed)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = bool(options.extra.get("cudnn_benchmark"))
    if (tf32 := options.extra.get("tf32")) is not None:
        torch.backends.cuda.matmul.allow_tf32 = bool(tf32)
        torch.backends.cudnn.allow_tf32 = bool(tf32)
    if options.device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise UsageError(
                f"device {options.device}: this torch {torch.__version__} sees no CUDA device",
                "use --device cpu, or install a torch built for this GPU and driver",
            )
        torch.cuda.set_device(options.device)


def _settings(options: BuildOptions) -> dict[str, Any]:
    """Return what is in force in this process."""
    import torch

    found: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "channels_last": bool(options.extra.get("channels_last")),
        "inputs": "on the device before the inference starts",
    }
    if options.device.startswith("cuda"):
        index = torch.cuda.current_device()
        found |= {
            "gpu": torch.cuda.get_device_name(index),
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


def _versions() -> dict[str, str]:
    import torch

    found = {"torch": str(torch.__version__)}
    if torch.version.cuda:
        found["cuda"] = str(torch.version.cuda)
    if torch.version.cuda and torch.cuda.is_available():
        cudnn: Any = torch.backends.cudnn  # without types
        found["cudnn"] = str(cudnn.version())
    return found
