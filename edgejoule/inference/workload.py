"""What a model is before any backend has seen it: the seam between `model/` and `edgejoule/`.

`edgejoule` knows no model by name. It is handed the name of a *loader*, `"package:function"`
(`"model:load"` for this project's zoo), imports it inside the set-up process only, and calls it
with a `ModelRequest`; the loader answers with a `LoadedModel`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgejoule.errors import UsageError

Weights = Literal["pretrained", "random", "user"]


@dataclass(frozen=True)
class ModelRequest:
    """What is asked of a loader.

    Attributes:
        spec: A zoo name, `path/to/file.py:function`, `x.onnx`, or `x.pt2`.
        weights: `pretrained` or `random`; a user's own file counts as `user` whatever is asked.
        seed: Seeds random weights.
        input_shape: Shape of the (first) input, or None for the model's own default.
        form: `torch` if the backend wants a module or exported program, `onnx` if it wants a
            graph. A loader that cannot give the form raises `UsageError` and says what to install
            or which backend takes it.
        directory: Where the loader may write files (an ONNX export, say).
        options: More of the user's wishes, by name.
    """

    spec: str
    weights: str
    seed: int
    input_shape: tuple[int, ...] | None
    form: Literal["torch", "onnx"]
    directory: Path
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class InputSpec:
    """One input tensor: name, shape, dtype (`float32`, `int64`, ...) and value range if known."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    high: int | None = None  # exclusive upper end for integer inputs (token ids)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for a backend.

    Attributes:
        name: Short name that becomes the run's name: letters, digits, `_`, `-`, `.`.
        form: Which of `module` and `onnx_path` is set.
        module: An `nn.Module` in eval mode or a `torch.export.ExportedProgram`.
        onnx_path: An ONNX file with weights.
        inputs: The input tensors, in the order of `forward` or of the graph.
        weights: Where the weights come from; `random` and `user` are shown in every report.
        source: Provenance: library and version, weight enum, seed, sha256 of the user's file.
        normalisation: Mean and standard deviation per channel that images would be given.
        module_paths: ONNX node name -> module path (`layer1.0.conv1`), where the export kept it.
    """

    name: str
    form: Literal["torch", "onnx"]
    module: Any
    onnx_path: Path | None
    inputs: tuple[InputSpec, ...]
    weights: Weights
    source: dict[str, Any]
    normalisation: dict[str, list[float]] | None = None
    module_paths: dict[str, str] = field(default_factory=dict)


def import_loader(reference: str) -> Callable[[ModelRequest], LoadedModel]:
    """Import a loader named `package:function`.

    Raises:
        UsageError: No such package or function.
    """
    package, _, function = reference.partition(":")
    try:
        loader: Callable[[ModelRequest], LoadedModel] = getattr(
            importlib.import_module(package), function or "load"
        )
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"no model loader {reference!r} ({error})",
            "run from the project's folder, or give a file: x.onnx, x.pt2, file.py:function",
        ) from error
    return loader


@dataclass(frozen=True)
class ModelFacts:
    """What a loader's package says of a model cheaply, without importing a framework.

    The function `describe(spec) -> ModelFacts` stands beside the loader (`model:describe`); it
    raises `UsageError` for an unknown name (with close names) and for a file that is not there.

    Attributes:
        name: The model's name in run names.
        input_shape: Its default input shape, None where only loading it tells.
        sha256: Hash of the user's file, None for a zoo name.
        forms: Which forms it can be loaded in here: `torch`, `onnx`.
        random_forms: Which more with random weights and its default shape.
        download_mib: Size of its pretrained weights if they are not in the cache yet, else 0.
        gflops: Floating-point operations of one forward pass at that shape, in 1e9, a
            multiply-add counting two; only for estimates of time. None is unknown.
    """

    name: str
    input_shape: tuple[int, ...] | None
    sha256: str | None = None
    forms: tuple[str, ...] = ("torch", "onnx")
    random_forms: tuple[str, ...] = ()
    download_mib: float = 0.0
    gflops: float | None = None
