"""A torch module as an exported program in its dtype on its device, and inputs to match."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgejoule.errors import UsageError
from edgejoule.inference.common import model_error
from edgejoule.inference.inputs import make_inputs

if TYPE_CHECKING:
    import numpy as np

    from edgejoule.inference.backend import BuildOptions
    from edgejoule.inference.workload import LoadedModel


def torch_dtype(name: str) -> Any:
    """Return the `torch.dtype` in which tensors are held; `tf32` is a way to multiply float32."""
    import torch

    return torch.float32 if name == "tf32" else getattr(torch, name)


def export_program(model: LoadedModel, options: BuildOptions) -> tuple[Any, bool | None]:
    """Return the exported program on its device in its dtype, and whether the export was strict.

    A program that is given and fits already is taken as it is (then the second is None).

    Raises:
        UsageError: The model cannot be exported, or raises when it is run.
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
        args = to_device(sets[0], options)
        if given:
            module = module.module()
        else:
            module.eval()
        if program is None:
            module = module.to(device=options.device, dtype=torch_dtype(options.dtype))
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
    floats = {t.dtype for t in tensors if hasattr(t, "dtype") and t.dtype.is_floating_point}
    devices = {str(t.device) for t in tensors if hasattr(t, "device")}
    return (
        floats <= {torch_dtype(options.dtype)}
        and devices <= {options.device}
        and not options.extra.get("channels_last")
    )


def runnable(program: Any) -> Any:
    """Return the program's module, without the check of its inputs where torch allows that."""
    if "check_guards" in inspect.signature(program.module).parameters:
        return program.module(check_guards=False)
    return program.module()


def to_device(one: Mapping[str, np.ndarray], options: BuildOptions) -> tuple[Any, ...]:
    """Return an input set as tensors, in order: floats in the engine's dtype, on its device."""
    import torch

    tensors = []
    for array in one.values():
        tensor = torch.from_numpy(array).to(options.device)
        if tensor.is_floating_point():
            tensor = tensor.to(torch_dtype(options.dtype))
        if options.extra.get("channels_last") and tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        tensors.append(tensor)
    return tuple(tensors)
