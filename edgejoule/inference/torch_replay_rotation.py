"""Copies of a layer's tensors in turn, so that alone it meets the cache as in the network.

A tensor that in the network was touched long ago comes from memory, one just made from the cache.
Replay gives every tensor so many copies, used in turn, that between two uses of the same memory as
many bytes are touched as in the network (its reuse distance), up to `MARGIN` times the last-level
cache: beyond that it makes no difference. So nothing need be known of how sharp the cache's edge
is. With copies R_t of tensors of b_t bytes, R_t executions touch sum over u of b_u min(R_t, R_u)
distinct bytes: solved from the smallest distance up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgejoule.inference.replay_rotation import MARGIN
from edgejoule.inference.torch_replay_steps import span_of

# Divisors of 768: whatever numbers of copies stand together, the turns are over after 768.
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
OUTPUT = "output"
_ALIGNED = 64


@dataclass(frozen=True)
class Rotated:
    """How one tensor of a layer is rotated.

    Attributes:
        name: Its memory in the network, or `OUTPUT`.
        nbytes: Of one copy.
        distance: Bytes touched in the network between two uses.
        copies: How many there are in turn.
        reached: Bytes touched alone between two uses of the same copy.
    """

    name: str
    nbytes: int
    distance: int
    copies: int
    reached: int


def turns(
    sizes: Mapping[str, int], distances: Mapping[str, int], cache_bytes: int, most: int = COUNTS[-1]
) -> dict[str, Rotated]:
    """Return how many copies of each tensor a layer needs.

    Args:
        sizes: Tensor -> bytes that one execution touches of it.
        distances: Tensor -> its reuse distance in the network, bytes.
        cache_bytes: The last-level cache.
        most: Most copies of one tensor.
    """
    limit = int(MARGIN * cache_bytes)
    order = sorted(sizes, key=lambda name: min(distances[name], limit))
    counts: dict[str, int] = {}
    for place, name in enumerate(order):
        fixed = sum(sizes[other] * counts[other] for other in order[:place])
        moving = sum(sizes[other] for other in order[place:])
        wanted = (min(distances[name], limit) - fixed) / max(1, moving)
        least = counts[order[place - 1]] if place else 1
        counts[name] = max(least, nearest(wanted, most))
    found = [Rotated(name, sizes[name], distances[name], counts[name], 0) for name in sizes]
    return {one.name: replace(one, reached=_reached(one.copies, found)) for one in found}


def with_sets(
    rotated: Mapping[str, Rotated], weights: frozenset[str], sets: int, cache_bytes: int
) -> dict[str, Rotated]:
    """Give what is no weight a copy per input set, where that leaves warm what is warm.

    Args:
        rotated: What `turns` returned.
        weights: Memory that holds weights.
        sets: How many input sets there are.
        cache_bytes: The last-level cache.
    """
    touched = sum(one.nbytes for one in rotated.values())
    enough = min(count for count in COUNTS if count >= min(sets, COUNTS[-1]))
    found = dict(rotated)
    for name, one in rotated.items():
        same = one.reached >= cache_bytes or enough * touched <= cache_bytes / 4
        if same and name not in weights and name != OUTPUT and one.copies < enough:
            found[name] = replace(one, copies=enough)
    return {
        name: replace(one, reached=_reached(one.copies, found.values()))
        for name, one in found.items()
    }


def nearest(wanted: float, most: int = COUNTS[-1]) -> int:
    """Return the count of `COUNTS` next to `wanted` by ratio, at most `most`."""
    allowed = [count for count in COUNTS if count <= max(1, most)]
    return min(allowed, key=lambda count: abs(math.log(count / max(wanted, 1e-9))))


def _reached(copies: int, every: Iterable[Rotated]) -> int:
    return sum(one.nbytes * min(copies, one.copies) for one in every)


def cycle_of(counts: Sequence[int]) -> int:
    """Return after how many executions all turns begin anew."""
    return math.lcm(1, *counts)


class Copies:
    """Copies of a step's arguments.

    Args:
        originals: Per input set, the arguments (args, kwargs) as the step got them.
        places: Per argument, nested ones in order, its memory's name; None: no tensor.
        copies: Memory -> how many copies of the tensors in it; without a number one.
        weights: Memory that holds weights, which are those of the first set in all of them.
    """

    def __init__(
        self,
        originals: Sequence[Any],
        places: Sequence[str | None],
        copies: Mapping[str, int],
        weights: frozenset[str],
    ) -> None:
        from torch.utils._pytree import tree_flatten

        self._flat = [tree_flatten(one) for one in originals]
        self._places = places
        self._copies = copies
        self._weights = weights
        self._made: dict[tuple[Any, ...], Any] = {}
        self.nbytes = 0

    def arguments(self, execution: int) -> tuple[Any, Any]:
        """Return (args, kwargs) of an execution, each tensor in the copy whose turn it is."""
        from torch.utils._pytree import tree_unflatten

        leaves = [
            self._flat[0][0][place] if name is None else self._copy(place, name, execution)
            for place, name in enumerate(self._places)
        ]
        args, kwargs = tree_unflatten(leaves, self._flat[0][1])
        return args, kwargs

    def _copy(self, place: int, name: str, execution: int) -> Any:
        turn = execution % self._copies.get(name, 1)
        which = 0 if name in self._weights else turn % len(self._flat)
        source = self._flat[which][0][place]
        # Two names of one tensor stay one, two parts of one storage two.
        key = (name, source.storage_offset(), source.shape, source.stride(), source.dtype, turn)
        if key not in self._made:
            self._made[key] = copied(source)
            self.nbytes += span_of(source)
        return self._made[key]


def copied(tensor: Any) -> Any:
    """Return a copy of a tensor with its strides, in memory of its own.

    `clone` would lay out anew what has gaps or overlaps. Memory begins at a multiple of
    `_ALIGNED` bytes; a part of a larger tensor may not, and kernels are chosen by that.
    """
    import torch

    if tensor.numel() == 0:
        return tensor.clone()
    size = tensor.element_size()
    span = span_of(tensor) // size
    ahead = tensor.data_ptr() % _ALIGNED // size
    memory = torch.empty(ahead + span, dtype=tensor.dtype, device=tensor.device)
    memory[ahead:].copy_(tensor.as_strided((span,), (1,), tensor.storage_offset()))
    return memory.as_strided(tensor.shape, tensor.stride(), ahead)
