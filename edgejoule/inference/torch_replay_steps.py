"""What one inference of a flat torch program touched, step by step: what its replay starts from.

    one inference -> per step: arguments, memory read and written, views, operations in place
                  -> groups of equal layers, reuse distances, what can be executed alone

Memory is named by where its storage begins: the allocator gives the block of a tensor that is gone
to the next one, which then finds it in the cache, as it did in the network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgejoule.inference.torch_graph import Program, Step
from edgejoule.inference.torch_profiler import item_of

Call = Callable[..., Any]

ROUNDING = 32  # times the type's precision: what another order of sums may change


@dataclass(frozen=True)
class Seen:
    """One step as it was executed.

    Attributes:
        key: Equal for equal layers: operation, constants, shapes, types, strides, which arguments
            are weights.
        function: What executes it without writing into its arguments; None where nothing does.
        in_place: The operation writes into an argument, so `function` is another one.
        why: Why there is no `function`.
        view: What it returned lies in its arguments' memory, or is no tensor.
        places: Per argument, nested ones in order, the name of its memory; None: no tensor.
        reads: Name -> bytes of the tensors among its arguments.
        writes: Name -> bytes of what it returned in memory of its own.
        weights: Names among `reads` that are weights.
        mutated: Names among `reads` that the operation writes into.
    """

    key: tuple[Any, ...]
    function: Call | None
    in_place: bool
    why: str
    view: bool
    places: tuple[str | None, ...]
    reads: dict[str, int]
    writes: dict[str, int]
    weights: frozenset[str]
    mutated: frozenset[str]


def execute(step: Step, environment: list[Any], args: Any, kwargs: Any) -> Any:
    """Execute a step, put what it returns into the environment, free what nothing needs."""
    value = step.function(*args, **kwargs)
    for path, slot in step.items:
        environment[slot] = item_of(value, path)
    environment[step.out] = value
    for slot in step.free:
        environment[slot] = None
    return value


def repeat(function: Any, prepared: Sequence[Any], outputs: int, first: int, count: int) -> Any:
    """Execute a layer, the last `outputs` results kept so that their memory is not used again."""
    held: deque[Any] = deque()
    for execution in range(first, first + count):
        if len(held) >= outputs:
            held.popleft()
        args, kwargs = prepared[execution % len(prepared)]
        held.append(function(*args, **kwargs))
    return held[-1]


def observe(program: Program, inputs: Sequence[Any]) -> tuple[Seen, ...]:
    """Run one inference and say what each step was."""
    import torch

    held = {name_of(value) for value in program.environment if isinstance(value, torch.Tensor)}
    environment = program.start(inputs)
    found = []
    for step in program.steps:
        args, kwargs = program.arguments(step, environment)
        leaves = leaves_of((args, kwargs))
        function, why = functional(step.function)
        before = [] if _is_aten(step.function) else [t.clone() for t in tensors_of(leaves)]
        key = _key(step.function, leaves, held)
        mutated = _mutated(step.function, args, kwargs)
        places = tuple(name_of(leaf) if tensors_of([leaf]) else None for leaf in leaves)
        reads = _sizes(leaves)
        idle = mutated and function is not None and _returns_arguments(function, args, kwargs)
        value = execute(step, environment, args, kwargs)
        pairs = zip(before, tensors_of(leaves), strict=False)
        if any(not torch.equal(old, new) for old, new in pairs):
            function, why = None, "it writes into its arguments, and what it is torch does not say"
        returned = _sizes(leaves_of(value))
        own = {name: nbytes for name, nbytes in returned.items() if name not in reads}
        mutable = _is_mutable(step.function)
        found.append(
            Seen(
                key=key,
                function=function,
                in_place=function is not step.function,
                why=why,
                view=bool(idle) or (_is_aten(step.function) and not own and not mutable),
                places=places,
                reads=reads,
                writes=own,
                weights=frozenset(held & set(reads)),
                mutated=frozenset(mutated & set(reads)),
            )
        )
        del args, kwargs, leaves, before, value
    return tuple(found)


def outputs_of(program: Program, environment: list[Any]) -> list[Any]:
    """Return the tensors that are left after the last step: what the program returns."""
    slots = [slot for step in program.steps for slot in (step.out, *(s for _, s in step.items))]
    return tensors_of([environment[slot] for slot in slots])


def functional(function: Call) -> tuple[Call | None, str]:
    """Return what computes the same without writing into an argument, or None and why not.

    An operation on its own output would compute something else from the second time on, of which
    the power differs (after one ReLU there is nothing left to cut).
    """
    import torch

    if not _is_mutable(function):
        return function, ""
    overload: Any = function
    space, _, name = overload._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, space), name[:-1], None) if name.endswith("_") else None
    other = getattr(packet, overload._overloadname, None)
    same = other is not None and not other._schema.is_mutable
    if same and _signature(other) == _signature(overload):
        return other, ""
    return None, f"{function} writes into its arguments and has no form that does not"


def same_values(expected: Sequence[Any], found: Sequence[Any]) -> tuple[bool, str]:
    """Return whether results are equal, but for the order of sums, and how equal they are."""
    import torch

    ours, theirs = tensors_of(leaves_of(expected)), tensors_of(leaves_of(found))
    if len(ours) != len(theirs):
        return False, "different in number"
    worst = 0.0
    for one, other in zip(ours, theirs, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False, "different in shape or type"
        if torch.equal(one, other):
            continue
        if not one.is_floating_point():
            return False, "different"
        wide, beside = one.double(), other.double()
        finite = torch.isfinite(wide)
        same = torch.equal(finite, torch.isfinite(beside))
        if not same or not torch.allclose(wide[~finite], beside[~finite], equal_nan=True):
            return False, "finite elsewhere"
        scale = float(wide[finite].abs().max()) if bool(finite.any()) else 0.0
        off = float((wide - beside)[finite].abs().max()) if bool(finite.any()) else 0.0
        worst = max(worst, off / max(scale, 1e-30))
        if off > ROUNDING * torch.finfo(one.dtype).eps * scale:
            return False, f"off by {worst:.2g} of the largest value"
    return True, "bitwise equal" if not worst else f"equal to {worst:.2g} of the largest value"


def name_of(tensor: Any) -> str:
    """Name the memory that a tensor lies in."""
    return f"{tensor.device}:{tensor.untyped_storage().data_ptr():x}"


def leaves_of(value: Any) -> list[Any]:
    """Return what lies in nested arguments, in order."""
    from torch.utils._pytree import tree_leaves

    return list(tree_leaves(value))


def tensors_of(leaves: Sequence[Any]) -> list[Any]:
    """Return the tensors among them."""
    import torch

    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def span_of(tensor: Any) -> int:
    """Bytes from a tensor's first to its last element."""
    if tensor.numel() == 0:
        return 0
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return int((1 + last) * tensor.element_size())


def _sizes(leaves: Sequence[Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for tensor in tensors_of(leaves):
        nbytes = min(span_of(tensor), tensor.numel() * tensor.element_size())
        if nbytes:
            name = name_of(tensor)
            found[name] = max(found.get(name, 0), nbytes)
    return found


def _key(function: Call, leaves: Sequence[Any], weights: set[str]) -> tuple[Any, ...]:
    import torch

    parts: list[Any] = [str(function) if _is_aten(function) else id(function)]
    order: dict[str, int] = {}  # the same tensor twice is another layer than two tensors
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            place = order.setdefault(name_of(leaf), len(order))
            layout = (tuple(leaf.shape), leaf.stride(), str(leaf.dtype), str(leaf.device))
            parts.append((*layout, place, name_of(leaf) in weights))
        else:
            parts.append((type(leaf).__name__, repr(leaf)))
    return tuple(parts)


def _mutated(function: Call, args: Any, kwargs: Any) -> set[str]:
    """Return the memory of the arguments that the schema says are written into."""
    if not _is_mutable(function):
        return set()
    overload: Any = function
    arguments = overload._schema.arguments
    given = {**dict(zip((one.name for one in arguments), args, strict=False)), **kwargs}
    written = [
        given.get(one.name) for one in arguments if one.alias_info and one.alias_info.is_write
    ]
    return {name_of(tensor) for tensor in tensors_of(leaves_of(written))}


def _returns_arguments(function: Call, args: Any, kwargs: Any) -> bool:
    """Whether it returns what it was given, as dropout does outside of training."""
    given = _sizes(leaves_of((args, kwargs)))
    return all(name in given for name in _sizes(leaves_of(function(*args, **kwargs))))


def _is_aten(function: Call) -> bool:
    return getattr(function, "_schema", None) is not None


def _is_mutable(function: Call) -> bool:
    return _is_aten(function) and bool(getattr(function, "_schema").is_mutable)  # noqa: B009


def _signature(overload: Any) -> list[str]:
    """Return the types of the arguments; their names may differ (`dropout_`, `dropout`)."""
    return [str(one.type) for one in overload._schema.arguments]
