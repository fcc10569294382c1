"""The further executions of one layer within an inference; `torch_replay` says why so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgejoule.inference.torch_replay_steps import Seen


class Further:
    """The further executions of one layer within an inference.

    Args:
        index: Which layer.
        seen: What it is.
        stock: Per further execution the arguments in copies.
        cold: Memory of which the copy is taken; of all else what the layer got.
        hold: Keep the results until the inference ends, for memory that is written cold.
    """

    def __init__(
        self, index: int, seen: Seen, stock: Sequence[Any], cold: frozenset[str], *, hold: bool
    ) -> None:
        from torch.utils._pytree import tree_leaves

        self.index = index
        self._seen = seen
        self._count = len(stock)
        self._stock = [tree_leaves(one) for one in stock] if cold else []
        self._cold = cold
        self._hold = hold
        self.keep: list[Any] | None = None

    def execute(self, args: Any, kwargs: Any, held: list[Any]) -> None:
        """Execute the layer the further times on the arguments that it has got."""
        function: Any = self._seen.function
        for turn in range(self._count):
            own = self._replaced(turn, args, kwargs) if self._stock else (args, kwargs)
            value = function(*own[0], **own[1])
            if self._hold:
                held.append(value)
            if self.keep is not None:
                self.keep.append(value)
        if self.keep is not None:
            self.keep.append(function(*args, **kwargs))

    def _replaced(self, turn: int, args: Any, kwargs: Any) -> Any:
        from torch.utils._pytree import tree_flatten, tree_unflatten

        leaves, spec = tree_flatten((tuple(args), dict(kwargs)))
        stock = self._stock[turn]
        mixed = [
            stock[place] if name in self._cold else leaf
            for place, (name, leaf) in enumerate(zip(self._seen.places, leaves, strict=True))
        ]
        return tree_unflatten(mixed, spec)
