"""Which backends there are, and which one a run takes.

A backend is a module that is imported only when it is asked for. Nothing here loads torch: trying
it happens in a process of its own (`probe`).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from edgejoule.errors import UsageError
from edgejoule.inference.backend import Backend

# name -> module, class, and the form of model it builds from; in the order of preference
_REGISTRY = {
    "torch-tensorrt": (
        "edgejoule.inference.trt.torch_tensorrt_backend", "TorchTensorRtBackend", "torch",
    ),
    "tensorrt": ("edgejoule.inference.trt.tensorrt_backend", "TensorRtBackend", "onnx"),
    "onnxruntime": ("edgejoule.inference.onnxruntime_backend", "OnnxRuntimeBackend", "onnx"),
    "torch": ("edgejoule.inference.torch_backend", "TorchBackend", "torch"),
}  # fmt: skip
_QUANTISING = ("tensorrt", "onnxruntime")
# What `auto` tries, and whether on a GPU only.
_PREFERENCE = (
    ("torch-tensorrt", True),
    ("tensorrt", True),
    ("torch", True),
    ("onnxruntime", False),
    ("torch", False),
)
# What a Linux driver of an NVIDIA GPU leaves in /dev: discrete, Jetson, WSL.
_GPU_NODES = ("nvidia[0-9]*", "nvhost-gpu", "nvgpu*", "nvmap", "dxg")


def backend_names() -> tuple[str, ...]:
    """Return the names of the backends."""
    return tuple(_REGISTRY)


def get_backend(name: str) -> Backend:
    """Return a backend by its name, without trying it.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in _REGISTRY:
        close = difflib.get_close_matches(name, _REGISTRY, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UsageError(f"no backend {name!r}", f"{hint}use auto, {', '.join(backend_names())}")
    module, kind, _ = _REGISTRY[name]
    backend: Backend = getattr(importlib.import_module(module), kind)()
    return backend


def choose_backend(
    asked: str, forms: Sequence[str], dtype: str = "auto", device: str | None = None
) -> tuple[Backend, list[str]]:
    """Return the backend that a run takes, and why, one sentence per backend looked at.

    `auto` takes the first that works: on a GPU torch-tensorrt, tensorrt, torch; else onnxruntime,
    torch.

    Args:
        asked: `auto` or a backend's name.
        forms: Forms in which the model can be loaded (`ModelFacts.forms`).
        dtype: `auto` or the dtype that is wanted: `auto` passes over a backend without it.
        device: What `--device` says: `cpu` passes the GPUs over.

    Raises:
        UsageError: None is usable, or the one asked for is not, with what to install.
    """
    if asked != "auto":
        backend = get_backend(asked)
        why_not, mend = _why_not(backend, forms)
        if why_not:
            raise UsageError(f"backend {asked}: {why_not}", mend)
        return backend, [f"{asked} was asked for: {backend.availability().why}"]
    reasons: list[str] = []
    mends: list[str] = []
    gpu = gpu_present()
    for name, needs_gpu in _PREFERENCE:
        label = f"{name} on a GPU" if needs_gpu and (name, False) in _PREFERENCE else name
        if needs_gpu and (device == "cpu" or not gpu):
            why = "--device cpu" if device == "cpu" else "no NVIDIA GPU in /dev"
            reasons.append(f"{label} passed over: {why}")
            continue
        backend = get_backend(name)
        why_not, mend = _why_not(backend, forms)
        if not why_not and needs_gpu and not backend.devices()[0].startswith("cuda"):
            why_not = f"{backend.availability().why}, though /dev has an NVIDIA GPU"
        if not why_not and dtype != "auto":
            on = backend.devices()[0] if needs_gpu else "cpu"
            if dtype not in backend.dtypes(on):
                why_not = f"it has no {dtype} on {on}"
        if not why_not:
            reasons.append(f"{name} chosen: {backend.availability().why}")
            return backend, reasons
        reasons.append(f"{label} passed over: {why_not}")
        if mend:
            mends.append(mend)
    raise UsageError(
        f"no backend can run this model here: {'; '.join(dict.fromkeys(reasons))}",
        " or ".join(dict.fromkeys(mends)),
    )


def gpu_present() -> bool:
    """Whether /dev shows an NVIDIA GPU; cheap, and enough to spare machines without one a try."""
    return any(next(Path("/dev").glob(pattern), None) for pattern in _GPU_NODES)


def _why_not(backend: Backend, forms: Sequence[str]) -> tuple[str, str]:
    """Return why a backend cannot take a model of these forms and the mend, or two empty texts."""
    if backend.form not in forms:
        others = [name for name, (_, _, form) in _REGISTRY.items() if form in forms]
        mend = f"use --backend {' or '.join(others)}" if others else ""
        return f"it needs the model as {backend.form}, which cannot be had here", mend
    available = backend.availability()
    return ("", "") if available.usable else (available.why, available.mend)


def resolve_device(backend: Backend, asked: str | None) -> str:
    """Return `cpu` or `cuda:<index>` for what was asked: None (the preferred), `cpu`, an index.

    Raises:
        UsageError: The backend has no such device here.
    """
    devices = backend.devices()
    if not devices:
        raise UsageError(f"backend {backend.name} finds no device here")
    if asked is None or asked == "auto":
        return devices[0]
    wanted = f"cuda:{asked}" if asked.isdigit() else "cuda:0" if asked == "cuda" else asked
    if wanted not in devices:
        raise UsageError(
            f"backend {backend.name} has no device {asked!r} here", f"it has {', '.join(devices)}"
        )
    return wanted


def resolve_dtype(backend: Backend, device: str, asked: str) -> str:
    """Return the dtype for what was asked; `auto` is float16 on a GPU and float32 on a CPU.

    Raises:
        UsageError: The backend has no such dtype on that device.
    """
    dtypes = backend.dtypes(device)
    if not dtypes:
        raise UsageError(f"backend {backend.name} does not run on {device}")
    if asked == "auto":
        wanted = "float16" if device.startswith("cuda") else "float32"
        return wanted if wanted in dtypes else dtypes[0]
    if asked not in dtypes:
        mend = f"it has {', '.join(dtypes)}"
        if asked in ("int8", "fp8") and backend.name not in _QUANTISING:
            mend += f"; {asked} is for --backend {' or '.join(_QUANTISING)}"
        raise UsageError(f"backend {backend.name} has no dtype {asked!r} on {device}", mend)
    return asked
