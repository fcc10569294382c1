"""A torch module or exported program as an ONNX file, with the module behind each node."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import UsageError
from model.loading.node_paths import module_path
from model.loading.spec import one_line

if TYPE_CHECKING:
    import torch

_ONE_FILE_BYTES = 1_500_000_000  # above this a protobuf message comes near its limit of 2 GiB
_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "torch._dynamo")


def to_program(name: str, module: Any, tensors: list[torch.Tensor], input_names: list[str]) -> Any:
    """Export with torch's newer exporter and return its `ONNXProgram`, in memory.

    Raises:
        UsageError: onnxscript is not installed, torch is too old, or the model cannot be exported.
    """
    import torch

    if "dynamo" not in inspect.signature(torch.onnx.export).parameters:
        raise UsageError(
            f"torch {torch.__version__} cannot export {name} to ONNX with its modules' names",
            "use --backend torch, or torch 2.6 or newer",
        )
    try:
        import onnxscript  # noqa: F401 (the exporter needs it and says so less clearly)
    except ImportError as error:
        raise UsageError(
            f"exporting {name} to ONNX needs onnxscript ({error})",
            "pip install onnx onnxscript, or use --backend torch",
        ) from error
    try:
        with _quiet(), torch.no_grad():
            return torch.onnx.export(
                module, tuple(tensors), input_names=input_names, dynamo=True, verbose=False
            )
    except Exception as error:  # the exporter wraps whatever the model's tracing raises
        reason = one_line(error.__cause__ or error)
        raise UsageError(
            f"{name} cannot be exported to ONNX ({reason})", "use --backend torch"
        ) from error


def export_onnx(
    name: str, module: Any, tensors: list[torch.Tensor], input_names: list[str], path: Path
) -> dict[str, str]:
    """Write the model as ONNX with its weights to `path` (large ones beside it).

    Returns:
        ONNX node name -> module path.

    Raises:
        UsageError: As `to_program`, or the graph has other inputs than the model.
    """
    program = to_program(name, module, tensors, input_names)
    graph = program.model.graph
    found_names = [value.name for value in graph.inputs]
    if found_names != input_names:
        raise UsageError(
            f"{name} exported to ONNX takes {', '.join(found_names) or 'no input'} "
            f"instead of {', '.join(input_names)}",
            "use --backend torch",
        )
    size = sum(value.const_value.nbytes for value in graph.initializers.values())
    with _quiet():
        program.save(str(path), external_data=size > _ONE_FILE_BYTES)
    paths: dict[str, str] = {}
    for node in graph:
        inputs = [value.name if value is not None else "" for value in node.inputs]
        found = module_path(node.name, node.op_type, node.metadata_props, inputs)
        if found:
            paths[node.name] = found
    return paths


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and warnings off the terminal."""
    levels = [(logging.getLogger(name), logging.getLogger(name).level) for name in _LOGGERS]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger, _ in levels:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in levels:
                logger.setLevel(level)
