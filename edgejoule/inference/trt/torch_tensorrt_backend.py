"""Torch-TensorRT: a model exported and compiled by torch_tensorrt, run on contexts of our own.

`build` needs torch_tensorrt; what it leaves is plans, one flat graph and the inspector's JSON, so
that the measuring process needs torch and tensorrt alone.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import UsageError
from edgejoule.inference.backend import (
    Availability,
    BuildOptions,
    EngineDescription,
    Session,
)
from edgejoule.inference.probe import probe
from edgejoule.inference.trt.common import (
    TEGRA_RELEASE,
    check_level,
    device_index,
    probed_devices,
    probed_dtypes,
)
from edgejoule.inference.trt.torch_arguments import FROM_USER, TENSOR_DTYPES, quantised

if TYPE_CHECKING:
    from edgejoule.inference.torch_event_cost import KernelTime
    from edgejoule.inference.trt.cuda_types import CudaDevice
    from edgejoule.inference.workload import LoadedModel

OPTIONS = (*FROM_USER, "cuda_graphs")
DEFAULT_MIN_BLOCK_SIZE = 5
"""torch_tensorrt's own default since its first dynamo frontend: what its users run by default."""

_MEND = (
    "pip install torch_tensorrt of the same minor version as torch; "
    "docs/TorchTensorRT.md names the versions for Jetson"
)
_PROBE = """
import json
from edgejoule.errors import EdgejouleError, UsageError
facts = {}
try:
    import torch
    facts = {"torch": str(torch.__version__)}
    from edgejoule.inference.trt.library import load_tensorrt
    from edgejoule.inference.trt.precision import dtypes_of_version
    from edgejoule.inference.trt.torch_compile import compile_function, load_torch_tensorrt
    if not torch.cuda.is_available():
        raise UsageError(f"torch {torch.__version__} sees no CUDA device")
    package = load_torch_tensorrt()
    _, parameters, version = compile_function(package)
    trt = load_tensorrt()
    facts |= {"torch_tensorrt": version, "tensorrt": str(trt.__version__),
              "dtypes": list(dtypes_of_version(trt)),
              "devices": [{"name": torch.cuda.get_device_name(i),
                           "capability": list(torch.cuda.get_device_capability(i))}
                          for i in range(torch.cuda.device_count())]}
except EdgejouleError as error:
    facts |= {"why": error.message, "mend": error.mend}
print(json.dumps(facts))
"""


class TorchTensorRtBackend:
    """torch.export, torch_tensorrt's dynamo frontend and TensorRT's runtime on an NVIDIA GPU."""

    name = "torch-tensorrt"
    form = "torch"
    options = OPTIONS

    def availability(self) -> Availability:
        """Import torch_tensorrt in a process of its own; without a driver that raises."""
        found = probe(_PROBE)
        if found.error:
            return Availability(False, f"it cannot be tried here ({found.error})", _MEND)
        facts = found.facts
        if "why" in facts:
            return Availability(False, facts["why"], facts["mend"] or _MEND)
        told = (
            f"torch_tensorrt {facts['torch_tensorrt']}, TensorRT {facts['tensorrt']}, torch "
            f"{facts['torch']} on {facts['devices'][0]['name']}"
        )
        return Availability(True, "; ".join((told, *notes(facts["torch_tensorrt"]))))

    def dtypes(self, device: str) -> tuple[str, ...]:
        """Return what the GPU and TensorRT have, float16 first; int8 and fp8 are not built here."""
        every = probed_dtypes(probe(_PROBE).facts, device)
        return tuple(dtype for dtype in every if dtype in TENSOR_DTYPES)

    def devices(self) -> tuple[str, ...]:
        """Return the CUDA devices."""
        return probed_devices(probe(_PROBE).facts)

    def build(
        self, model: LoadedModel, options: BuildOptions, artefacts: Path
    ) -> EngineDescription:
        """Compile, take apart, ask each engine's inspector, describe all layers in order.

        Raises:
            UsageError: An option or dtype cannot be had, or the model cannot be compiled.
            MeasurementError: Memory ended, or torch_tensorrt did something unknown.
        """
        import torch

        from edgejoule.inference.trt.library import load_tensorrt, make_log
        from edgejoule.inference.trt.precision import check_dtype
        from edgejoule.inference.trt.torch_build import build_parts, operations_in_pytorch
        from edgejoule.inference.trt.torch_compile import applied, load_torch_tensorrt, origin_of
        from edgejoule.inference.trt.torch_describe import describe_parts, write_engines
        from edgejoule.inference.trt.torch_memory import Limit
        from edgejoule.inference.trt.torch_program import save_program

        check_options(options)
        device = _apply(options)
        package = load_torch_tensorrt()
        trt = load_tensorrt()
        check_dtype(trt, options.dtype, device.compute_capability, device.name)
        limit = Limit(options)
        cache = _timing_cache(trt, options, device, artefacts)
        built = build_parts(package, model, options, device=device, timing_cache=cache)
        paths = _module_paths(model)
        described = describe_parts(
            built.parts,
            lambda part: origin_of(built.compiled, part.inputs, paths),
            trt,
            make_log(trt),
            limit.allocator(trt),
            artefacts,
        )
        save_program(built.parts.module, artefacts)
        in_pytorch = operations_in_pytorch(built.parts)
        write_engines(
            artefacts, described.files, _kernel_time(options.device, needed=bool(in_pytorch))
        )
        return EngineDescription(
            backend=self.name,
            versions=_versions(built.compiled.version, trt),
            layers=described.layers,
            settings={
                "export_strict": built.export_strict,
                **applied(built.compiled),
                "min_block_size": built.compiled.arguments.passed.get(
                    "min_block_size", DEFAULT_MIN_BLOCK_SIZE
                ),
                "engines": list(described.engines),
                "in_pytorch": in_pytorch,
                "build_attempts": list(built.attempts),
                "timing_cache": _timing_cache_facts(cache, kept=options.cache is not None),
                "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
                "cudnn_tf32": torch.backends.cudnn.allow_tf32,
                "gpu": device.name,
                "notes": [
                    *notes(built.compiled.version),
                    *(one["note"] for one in described.engines if one.get("note")),
                ],
                **limit.settings(),
            },
            start_offsets=False,
            keep=described.keep,
            overlap=any(one["aux_streams"] for one in described.engines),
        )

    def open(self, artefacts: Path, options: BuildOptions) -> Session:
        """Load engines and graph onto the device."""
        from edgejoule.inference.trt.torch_session import PartsSession

        check_options(options)
        _apply(options)
        return PartsSession(artefacts, options)


def check_options(options: BuildOptions) -> None:
    """Refuse options that this backend does not have, or not with these values.

    Raises:
        UsageError: With what there is.
    """
    given = {key: value for key, value in options.extra.items() if value is not None}
    unknown = sorted(set(given) - set(OPTIONS))
    if unknown:
        mend = f"it has {', '.join(OPTIONS)}"
        if unknown[0] in {"shape_min", "shape_max", "allow_fallback"}:
            mend += "; --backend tensorrt has that one"
        raise UsageError(f"backend torch-tensorrt has no option {unknown[0]!r}", mend)
    if options.dtype not in TENSOR_DTYPES:
        raise quantised(options.dtype)
    check_level(given.get("optimization_level"))
    least = given.get("min_block_size")
    if least is not None and (type(least) is not int or least < 1):
        raise UsageError(f"a smallest part of {least!r} operations", "--min-block-size takes 1 up")


def notes(version: str, release: Path = TEGRA_RELEASE) -> tuple[str, ...]:
    """Return what is known of this version of torch_tensorrt on this board, and is no good news."""
    from edgejoule.inference.trt.torch_names import version_of

    try:
        text = release.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    if text.startswith("# R36") and version_of(version)[:2] > (2, 8):
        return (
            "note: torch_tensorrt's releases after 2.8 are not made for JetPack 6 "
            "(release notes of 2.12.1)",
        )
    return ()


def _apply(options: BuildOptions) -> CudaDevice:
    """Set what torch keeps for the whole process; return the device.

    Raises:
        UsageError: There is no such device.
    """
    import torch

    from edgejoule.inference.trt.cuda_types import CudaDevice

    index = device_index(options.device, TorchTensorRtBackend.name)
    if not torch.cuda.is_available():
        raise UsageError(
            f"device {options.device}: this torch {torch.__version__} sees no CUDA device",
            "install a torch built for this GPU and driver, or use --backend onnxruntime",
        )
    torch.manual_seed(options.seed)
    torch.cuda.set_device(options.device)
    # For parts that stay in PyTorch; within engines the builder's flag says it.
    if options.dtype in {"float32", "tf32"}:
        torch.backends.cuda.matmul.allow_tf32 = options.dtype == "tf32"
        torch.backends.cudnn.allow_tf32 = options.dtype == "tf32"
    told: Any = torch.cuda.get_device_properties(index)
    return CudaDevice(
        name=str(told.name),
        compute_capability=(int(told.major), int(told.minor)),
        total_bytes=int(told.total_memory),
        integrated=bool(getattr(told, "is_integrated", False)),
        uuid=None,
    )


def _kernel_time(device: str, *, needed: bool) -> KernelTime:
    """Return the time of the small kernel that events' cost is measured with."""
    from edgejoule.inference.torch_event_cost import KernelTime, trace_kernel

    if not needed:
        return KernelTime(None, "no part is left in PyTorch")
    return trace_kernel(device)


def _timing_cache(trt: Any, options: BuildOptions, device: CudaDevice, artefacts: Path) -> Path:
    """Return this experiment's timing cache, or one that goes with the artefacts."""
    from edgejoule.inference.trt.timing_cache import cache_path

    folder = artefacts if options.cache is None else Path(options.cache)
    path = cache_path(folder, str(trt.__version__), device.name)
    return path.with_name(f"torch-{path.name}")


def _timing_cache_facts(path: Path, *, kept: bool) -> dict[str, Any]:
    """Return what became of the timing cache; one that is not kept is deleted."""
    try:
        content = path.read_bytes()
    except OSError:
        return {"file": None, "note": "none was written"}
    if not kept:
        path.unlink()
    digest = hashlib.sha256(content).hexdigest()
    return {"file": path.name if kept else None, "bytes": len(content), "sha256_after": digest}


def _module_paths(model: LoadedModel) -> tuple[str, ...]:
    named: Any = getattr(model.module, "named_modules", None)
    return () if named is None else tuple(name for name, _ in named() if name)


def _versions(torch_tensorrt: str, trt: Any) -> dict[str, str]:
    import torch

    found = {
        "torch_tensorrt": torch_tensorrt,
        "tensorrt": str(trt.__version__),
        "torch": str(torch.__version__),
    }
    if torch.version.cuda:
        found["cuda"] = str(torch.version.cuda)
    return found
