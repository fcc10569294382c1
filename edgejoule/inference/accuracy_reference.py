"""The float32 outputs of a model, taken before a backend casts or compiles it.

A torch module is copied for this: its parameters go to the device one by one as the copy is made,
so that a module on the CPU is not held there twice, and the module itself keeps its dtype, device,
mode, buffers and whatever its `forward` remembers. An ONNX graph runs as it is on ONNX Runtime's
CPU. A reference that cannot be had has no outputs, and `how` is the reason.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgejoule.inference.common import short
from edgejoule.inference.memory_limit import limit_torch

if TYPE_CHECKING:
    import numpy as np

    from edgejoule.inference.backend import BuildOptions
    from edgejoule.inference.workload import LoadedModel

# Outputs of further input sets are not kept beyond this; the first set's always are.
_KEEP_BYTES = 1 << 27
_OUT_OF_MEMORY = (
    "out of memory", "outofmemory", "can't allocate memory", "bad_alloc", "failed to allocate",
)  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """The float32 outputs of a model.

    Attributes:
        outputs: Per input set its outputs, flattened: float arrays, and integer or boolean ones
            where the model returns such. Empty: there is none.
        how: What computed them, or why they cannot be had.
        weights: The model's (`pretrained`, `random`, `user`), None if not known.
    """

    outputs: tuple[list[np.ndarray], ...]
    how: str
    weights: str | None = None


class _NoReferenceError(Exception):
    """Why there is no reference."""


def reference_outputs(
    model: LoadedModel, sets: Sequence[Mapping[str, np.ndarray]], options: BuildOptions
) -> Reference:
    """Compute the float32 outputs of a model; it is left as it was.

    Args:
        model: As the loader gave it, before any backend has seen it.
        sets: The input sets.
        options: `device`, `threads` and `seed` count; for a graph the CPU is used.

    Returns:
        The outputs of as many sets as fit into 1 GiB, of one set at least; without outputs and
        with the reason where they cannot be had, want of memory among them.
    """
    try:
        if model.form == "torch":
            outputs, how = _of_module(model.module, sets, options)
        else:
            outputs, how = _of_graph(model, sets, options)
    except _NoReferenceError as reason:
        return Reference((), str(reason), model.weights)
    finally:
        _free(model, options.device)
    if len(outputs) < len(sets):
        how += f"; {len(outputs)} of {len(sets)} input sets, more outputs take too much memory"
    return Reference(tuple(outputs), how, model.weights)


def _free(model: LoadedModel, device: str) -> None:
    """Give back what the reference took; what the build says of its peak is its own."""
    gc.collect()
    if model.form == "torch" and device.startswith("cuda"):
        with contextlib.suppress(ImportError, OSError):
            import torch

            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)


def _of_module(
    module: Any, sets: Sequence[Mapping[str, np.ndarray]], options: BuildOptions
) -> tuple[list[list[np.ndarray]], str]:
    """Run a copy of a module or exported program in float32."""
    try:
        import torch
    except (ImportError, OSError) as error:
        raise _NoReferenceError(f"torch cannot be imported ({short(error)})") from error
    if module is None:
        raise _NoReferenceError("the model came without a torch module")
    gpu = options.device.startswith("cuda")
    if gpu and not torch.cuda.is_available():
        raise _NoReferenceError(f"this torch sees no CUDA device for {options.device}")
    if gpu:
        limit_torch(options)
    devices = [torch.device(options.device).index or 0] if gpu else []
    try:
        with _exact_float32(), torch.random.fork_rng(devices), torch.inference_mode():
            torch.manual_seed(options.seed)
            copied = _float32_copy(module, options.device)
            outputs = _run(sets, lambda one: _call(copied, one, options.device))
    except _NoReferenceError:
        raise
    except Exception as error:  # a user's module raises anything; the build will say it as well
        raise _why_not(error, f"on {options.device}") from error
    return outputs, f"the module in float32 without TF32 on {options.device}"


@contextlib.contextmanager
def _exact_float32() -> Iterator[None]:
    """Forbid TF32 for a while; what was set before comes back."""
    import torch

    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = cudnn


def _float32_copy(module: Any, device: str) -> Any:
    """Return a copy of a module or exported program in float32 on the device, in eval mode.

    `copy.deepcopy` takes what its memo already holds, so parameters are placed there first and
    never copied where they are.
    """
    import copy

    import torch

    exported = isinstance(module, torch.export.ExportedProgram)
    source = module.module() if exported else module
    tensors = [*source.parameters(), *source.buffers()]
    _check_room(tensors, device)
    memo: dict[int, Any] = {}
    for tensor in tensors:
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        moved = tensor.detach().to(device, dtype)
        if isinstance(tensor, torch.nn.Parameter):
            moved = torch.nn.Parameter(moved, requires_grad=False)
        elif moved.data_ptr() == tensor.data_ptr():
            moved = moved.clone()  # a buffer may be written to by `forward`
        memo[id(tensor)] = moved
    copied = copy.deepcopy(source, memo)
    if not exported:  # an exported program has the mode it was exported in
        copied.eval()
    return copied.to(device)  # tensors that are plain attributes stay where they are


def _check_room(tensors: Sequence[Any], device: str) -> None:
    """Refuse before the device is filled: on a board its memory is everybody's."""
    import torch

    if not device.startswith("cuda"):
        return
    unique = {id(t): t.numel() * (4 if t.is_floating_point() else t.itemsize) for t in tensors}
    needed, (free, _) = sum(unique.values()), torch.cuda.mem_get_info(device)
    if needed > free:
        raise _NoReferenceError(
            f"not enough memory for the float32 model on {device} "
            f"(its weights take {needed / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free)"
        )


def _call(module: Any, one: Mapping[str, np.ndarray], device: str) -> list[np.ndarray]:
    """Run one input set and return its tensors as arrays, wide enough for what they hold."""
    import torch
    from torch.utils._pytree import tree_leaves

    tensors = []
    for array in one.values():
        # A copy: the module may work in place, and the sets are used again.
        tensor = torch.from_numpy(array.copy()).to(device)
        tensors.append(tensor.float() if tensor.is_floating_point() else tensor)
    found = []
    for leaf in tree_leaves(module(*tensors)):
        if isinstance(leaf, torch.Tensor):
            kept = leaf.float() if leaf.dtype in (torch.float16, torch.bfloat16) else leaf
            found.append(kept.detach().cpu().clone().numpy())
    return found


def _of_graph(
    model: LoadedModel, sets: Sequence[Mapping[str, np.ndarray]], options: BuildOptions
) -> tuple[list[list[np.ndarray]], str]:
    """Run a graph as it is on ONNX Runtime's CPU."""
    import numpy as np

    if model.onnx_path is None:
        raise _NoReferenceError("the model came without an ONNX graph")
    try:
        import onnxruntime as ort
    except (ImportError, OSError) as error:
        raise _NoReferenceError(
            f"onnxruntime, which runs the float32 graph, cannot be imported ({short(error)})"
        ) from error
    from edgejoule.inference.onnx_session import cast_inputs

    asked = ort.SessionOptions()
    asked.log_severity_level = 3
    asked.intra_op_num_threads = options.threads
    try:
        session = ort.InferenceSession(
            str(model.onnx_path), asked, providers=["CPUExecutionProvider"]
        )
        types = {value.type for value in (*session.get_inputs(), *session.get_outputs())}

        def call(one: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            returned = session.run(None, cast_inputs(session, [one])[0])
            arrays = [np.asarray(value) for value in returned]
            return [a.astype(np.float32) if a.dtype == np.float16 else a for a in arrays]

        outputs = _run(sets, call)
    except _NoReferenceError:
        raise
    except Exception as error:  # the runtime's exceptions share no base class
        raise _why_not(error, "on onnxruntime's CPU") from error
    how = f"the graph as it is on the CPU of onnxruntime {ort.__version__}"
    if any("float16" in kind for kind in types):
        how += "; the graph itself is not float32"
    return outputs, how


def _run(sets: Sequence[Mapping[str, np.ndarray]], call: Any) -> list[list[np.ndarray]]:
    """Run the sets while their outputs fit into what is kept."""
    outputs: list[list[np.ndarray]] = []
    kept = 0
    for one in sets:
        found = [array for array in call(one) if array.dtype.kind in "fiub"]
        if not found:
            raise _NoReferenceError("the model returns no tensor of numbers")
        kept += sum(array.nbytes for array in found)
        if outputs and kept > _KEEP_BYTES:
            break
        outputs.append(found)
    return outputs


def _why_not(error: BaseException, where: str) -> _NoReferenceError:
    """Return the reason in one line."""
    text = f"{type(error).__name__}: {short(error)}"
    folded = text.lower()
    if isinstance(error, MemoryError) or any(word in folded for word in _OUT_OF_MEMORY):
        return _NoReferenceError(f"not enough memory for the float32 model {where} ({text})")
    return _NoReferenceError(f"the float32 model does not run {where} ({text})")
