"""Example inputs of any structure as a flat list of tensors, and the check that a model runs.

Backends know a flat list of input tensors. A model that takes several tensors by position is given
them as they are; one that takes dictionaries, lists, keywords or values that are no tensors is put
into a module that rebuilds the structure.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from edgejoule.errors import UsageError
from edgejoule.inference.workload import InputSpec
from model.loading.spec import one_line, shape_text

if TYPE_CHECKING:
    import torch

DEFAULT_SHAPE = (1, 3, 224, 224)


def as_arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read what a user gave as example inputs.

    A tuple or list holds the positional arguments, a dictionary the keyword arguments; anything
    else is the only argument.
    """
    if isinstance(example, dict):
        return (), dict(example)
    if isinstance(example, (tuple, list)):
        return tuple(example), {}
    return (example,), {}


def flatten(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, list[torch.Tensor], list[str]]:
    """Return a module that takes a flat list of tensors, those tensors, and their names."""
    import torch
    from torch.utils import _pytree as pytree

    if not kwargs and all(isinstance(value, torch.Tensor) for value in args):
        return module, list(args), _argument_names(module, len(args))
    leaves, structure = pytree.tree_flatten((args, kwargs))
    places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    class Flat(torch.nn.Module):
        """Rebuilds the arguments of the model inside it from a flat list of tensors."""

        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def train(self, mode: bool = True) -> Flat:
            return self  # it only ever infers; a saved program inside refuses to be asked

        def forward(self, *tensors: torch.Tensor) -> Any:
            values = list(leaves)
            for place, tensor in zip(places, tensors, strict=True):
                values[place] = tensor
            own_args, own_kwargs = pytree.tree_unflatten(values, structure)
            return self.model(*own_args, **own_kwargs)

    tensors = [leaves[place] for place in places]
    flat = Flat()
    flat.training = False
    return flat, tensors, [f"input_{index}" for index in range(len(tensors))]


def _argument_names(module: Any, count: int) -> list[str]:
    names: list[str] = []
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    for parameter in parameters[:count]:
        if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            break
        names.append(parameter.name)
    return names if len(names) == count else [f"input_{index}" for index in range(count)]


def specs_of(tensors: list[torch.Tensor], names: list[str]) -> tuple[InputSpec, ...]:
    """Describe tensors as inputs; integers get the example's largest value plus one as `high`."""
    found: list[InputSpec] = []
    for name, tensor in zip(names, tensors, strict=True):
        high = None
        if not tensor.is_floating_point() and not tensor.is_complex() and tensor.numel():
            high = int(tensor.max()) + 1
        dtype = str(tensor.dtype).removeprefix("torch.")
        found.append(InputSpec(name, tuple(tensor.shape), dtype, high))
    return tuple(found)


def tensors_of(specs: tuple[InputSpec, ...]) -> list[torch.Tensor]:
    """Make tensors as `specs` describe them."""
    import torch

    return [_values(spec.shape, getattr(torch, spec.dtype), spec.high) for spec in specs]


def with_shape(tensors: list[torch.Tensor], shape: tuple[int, ...] | None) -> list[torch.Tensor]:
    """Give the first tensor that shape; where only its batch changes, the others' batch follows."""
    if shape is None or not tensors or tuple(tensors[0].shape) == shape:
        return tensors
    first = tensors[0]
    batch = first.shape[0] if first.ndim else None
    changed = [_like(first, shape)]
    only_batch = batch is not None and tuple(first.shape[1:]) == shape[1:]
    for tensor in tensors[1:]:
        follows = only_batch and tensor.ndim > 0 and tensor.shape[0] == batch
        new = (shape[0], *tensor.shape[1:])
        changed.append(_like(tensor, new) if follows else tensor)
    return changed


def _like(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    high = None if tensor.is_floating_point() or not tensor.numel() else int(tensor.max()) + 1
    return _values(shape, tensor.dtype, high)


def _values(shape: tuple[int, ...], dtype: torch.dtype, high: int | None) -> torch.Tensor:
    import torch

    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, max(high or 1, 1), shape, generator=generator).to(dtype)


def check_runs(
    what: str, module: Any, tensors: list[torch.Tensor], expected: str, *, meta: bool = False
) -> None:
    """Run one forward pass and see that it gives tensors.

    Args:
        what: The model, for the error.
        module: The module.
        tensors: Its inputs.
        expected: What to do about a failure, with the shape that the model expects if known.
        meta: Compute shapes only, without values: fast, but only for modules known to bear it.

    Raises:
        UsageError: It raises, or its output holds no tensor.
    """
    import torch
    from torch.utils import _pytree as pytree

    shapes = ", ".join(shape_text(tuple(tensor.shape)) for tensor in tensors) or "no input"
    try:
        with torch.no_grad():
            if meta:
                state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
                empty = {name: value.to("meta") for name, value in state.items()}
                arguments = tuple(tensor.to("meta") for tensor in tensors)
                result = torch.func.functional_call(module, empty, arguments)
            else:
                result = module(*tensors)
    except Exception as error:  # the user's code, and torch has no common error for shapes
        raise UsageError(f"{what} does not run with {shapes} ({one_line(error)})", expected) from (
            error
        )
    leaves = pytree.tree_leaves(result)
    if not any(isinstance(leaf, torch.Tensor) for leaf in leaves):
        kind = "nothing" if result is None else f"no tensor but {type(result).__name__}"
        raise UsageError(
            f"{what} returns {kind}", "let it return tensors, alone or in tuples, lists or dicts"
        )
