"""From a model to engines and the graph around them; again smaller where memory ends."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import EdgejouleError, MeasurementError, UsageError
from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.common import model_error, short
from edgejoule.inference.inputs import make_inputs
from edgejoule.inference.torch_export import export_program, to_device
from edgejoule.inference.trt.build import OUT_OF_MEMORY, tries, workspace_bytes
from edgejoule.inference.trt.cuda_types import CudaDevice
from edgejoule.inference.trt.torch_arguments import choose_arguments
from edgejoule.inference.trt.torch_compile import (
    Compiled,
    Line,
    compile_function,
    compile_program,
    heard,
)
from edgejoule.inference.trt.torch_parts import Parts, slot_of, take_apart

if TYPE_CHECKING:
    from edgejoule.inference.workload import LoadedModel

_MIB = 2**20


@dataclass(frozen=True)
class Built:
    """A compiled model taken apart.

    Attributes:
        parts: Engines and the graph around them.
        compiled: How they were compiled; its module is dropped.
        export_strict: How the model was exported, None for one that came exported.
        attempts: Every try in order: workspace, level, seconds, result.
    """

    parts: Parts
    compiled: Compiled
    export_strict: bool | None
    attempts: tuple[dict[str, Any], ...]


def build_parts(
    package: Any,
    model: LoadedModel,
    options: BuildOptions,
    *,
    device: CudaDevice | None,
    timing_cache: Path,
    torch_executed_ops: frozenset[Any] = frozenset(),
) -> Built:
    """Export a model in its dtype, compile it, take it apart.

    Args:
        package: The module `torch_tensorrt`.
        model: With a torch module or an exported program.
        options: The run's.
        device: The GPU, for the size of the workspace; None leaves that to TensorRT.
        timing_cache: File of the timing cache, which need not be there.
        torch_executed_ops: Operators that stay in PyTorch.

    Raises:
        UsageError: The model cannot be exported or compiled, or not as the user wants it.
        MeasurementError: Memory ended at every try, or torch_tensorrt did something unknown.
    """
    _, parameters, version = compile_function(package)
    plain = replace(options, extra={})
    program, strict = export_program(model, plain)
    sets, _ = make_inputs("normal", model.inputs, None, options.seed, sets=1)
    inputs = to_device(sets[0], plain)
    timing_cache.parent.mkdir(parents=True, exist_ok=True)
    attempts: list[dict[str, Any]] = []
    every = list(tries(workspace_bytes(options, device), options.extra.get("optimization_level")))
    # A build that the kernel killed for memory starts where that one would have gone on.
    skipped = min(options.killed, len(every) - 1)
    attempts += [{"changed": one.changed, "result": "killed"} for one in every[:skipped]]
    for attempt in every[skipped:]:
        extra = dict(options.extra)
        if attempt.level is not None:
            extra["optimization_level"] = attempt.level
        arguments = choose_arguments(
            parameters,
            version,
            dtype=options.dtype,
            device=options.device,
            extra=extra,
            timing_cache=str(timing_cache),
            workspace_bytes=attempt.workspace,
        )
        note: dict[str, Any] = {
            "workspace_mib": None if attempt.workspace is None else attempt.workspace / _MIB,
            "optimization_level": attempt.level,
            "changed": attempt.changed,
        }
        attempts.append(note)
        _release()  # here the last try's exception is gone, and with it all that its frames held
        started = time.monotonic()
        try:
            with heard() as lines:
                compiled = compile_program(
                    package, program, inputs, arguments, torch_executed_ops=torch_executed_ops
                )
        except EdgejouleError:
            raise
        except Exception as error:
            memory = _memory_words(error, lines)
            if not memory:
                raise _failed(model.name, version, error, lines, options.extra) from error
            note |= {"result": "out of memory", "why": memory}
            continue
        finally:
            note["seconds"] = round(time.monotonic() - started, 3)
        note["result"] = "built"
        parts = take_apart(compiled.module)
        _check(model.name, version, parts, compiled, options.extra, lines)
        compiled = replace(compiled, module=None)
        # What torch_tensorrt and the exported model hold, before engines are opened once more:
        # TensorRT cannot take memory that torch keeps for itself.
        del program, inputs
        _release()
        return Built(parts, compiled, strict, tuple(attempts))
    raise MeasurementError(
        f"torch_tensorrt {version} ran out of memory compiling {model.name}, also with less "
        f"workspace and effort ({len(attempts)} tries; last: {attempts[-1]['why']})",
        "close what else uses the memory, raise --memory-limit-gib, or choose a smaller "
        "--input-shape",
    )


def operations_in_pytorch(parts: Parts) -> list[str]:
    """Return the operations that no engine took, in order."""
    from edgejoule.inference.torch_graph import executed_nodes

    return [
        str(node.target) for node in executed_nodes(parts.module.graph) if slot_of(node) is None
    ]


def _check(
    name: str,
    version: str,
    parts: Parts,
    compiled: Compiled,
    extra: Mapping[str, Any],
    lines: list[Line],
) -> None:
    """Raise where what came out is not what was asked for, or was built unseen."""
    left = operations_in_pytorch(parts)
    if not parts.engines:
        texts = (line.text for line in reversed(lines))
        said = next((text for text in texts if "supported operations" in text), "")
        raise UsageError(
            f"torch_tensorrt {version} turned no part of model {name} into an engine"
            + (f" ({said[:200]})" if said else ""),
            "try --min-block-size 1, which takes the smallest parts too, or --backend torch",
        )
    if len(compiled.builds) < len(parts.engines):
        raise MeasurementError(
            f"torch_tensorrt {version} built {len(parts.engines)} engines, "
            f"{len(compiled.builds)} of them through the method that is watched",
            "delete its engine cache if one is set up, and report the version",
        )
    # 2.4 takes the argument and does not hand it on.
    if extra.get("require_full_compilation") and (left or len(parts.engines) > 1):
        raise UsageError(_not_full(name, version, left, len(parts.engines)), _PARTS)


_PARTS = "leave --require-full-compilation out: the parts are timed as layers of their own"


def _not_full(name: str, version: str, left: list[str], engines: int) -> str:
    told = ", ".join(dict.fromkeys(left)) or "nothing"
    return (
        f"torch_tensorrt {version} does not take model {name} whole: {engines} engines, in PyTorch "
        f"stay {told}"
    )


def _failed(
    name: str, version: str, error: Exception, lines: list[Line], extra: Mapping[str, Any]
) -> EdgejouleError:
    """Return the one line for a compilation that failed; the traceback goes to the log."""
    if extra.get("require_full_compilation") and "require_full_compilation" in str(error):
        return UsageError(
            f"torch_tensorrt {version} does not take model {name} whole ({short(error)})", _PARTS
        )
    failed = model_error(name, f"cannot be compiled by torch_tensorrt {version}", error)
    if lines:
        failed.message += f"; TensorRT said: {lines[-1].text[:200]}"
    return failed


def _memory_words(error: Exception, lines: list[Line]) -> str:
    """Return what says that memory ended; empty where nothing does.

    Only errors are asked: that a tactic is skipped for want of memory is a usual warning.
    """
    text = f"{type(error).__name__}: {short(error)}"
    if isinstance(error, MemoryError):
        return text
    errors = [line.text for line in reversed(lines) if line.level >= logging.ERROR]
    return next((said[:300] for said in (text, *errors) if OUT_OF_MEMORY.search(said)), "")


def _release() -> None:
    """Free what nothing refers to, torch's cache of the GPU's memory included."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
