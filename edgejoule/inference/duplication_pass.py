"""The duplication check's measurements: the network with one layer executed 1, 2, 4, 8 times.

    round 1   idle | layer 7 x4 | layer 2 x1 | layer 7 x8 | ... every ~10 s: idle | ... | idle
    round 2   the same in another order

Layers are taken from different groups, those with the most energy first: their slope stands out. A
layer that cannot be duplicated gives its place to the next.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgejoule.energy.replay_segments import DUPLICATE
from edgejoule.inference.replay_bench import FAILURES, said

if TYPE_CHECKING:
    from edgejoule.inference.replay_bench import ReplayBench
    from edgejoule.inference.replaying import Replayer, ReplayPlan

COPIES = (1, 2, 4, 8)
ROUNDS = 3
IDLE_EVERY_S = 10.0


@dataclass(frozen=True)
class DuplicationResult:
    """What the check did.

    Attributes:
        layers: The layers that were executed several times.
        failed: Layer -> why it could not be.
        rounds: Rounds over all of them.
        seconds: How long it took.
        reason: Why it ended.
    """

    layers: tuple[int, ...]
    failed: Mapping[int, str]
    rounds: int
    seconds: float
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "layers": list(self.layers),
            "failed": {str(layer): why for layer, why in sorted(self.failed.items())},
            "rounds": self.rounds,
            "seconds": round(self.seconds, 3),
            "reason": self.reason,
        }


def candidates(plan: ReplayPlan, energy_mj: Mapping[int, float]) -> list[int]:
    """Return the layers to duplicate, one of each group, those with the most energy first.

    Args:
        plan: What can be duplicated, and which layers are equal.
        energy_mj: Dynamic energy of one execution, by the first layer of each group.
    """
    group_of = {layer: group[0] for group in plan.groups for layer in group}
    chosen: dict[int, int] = {}
    for layer in plan.duplicable:
        group = group_of.get(layer)
        if group is not None and energy_mj.get(group, 0.0) > 0:
            chosen.setdefault(group, layer)
    return [chosen[group] for group in sorted(chosen, key=lambda one: -energy_mj[one])]


def duplication_pass(
    bench: ReplayBench,
    replayer: Replayer,
    wanted: list[int],
    *,
    layers: int,
    most_s: float,
    seed: int,
    number: int,
) -> DuplicationResult:
    """Repeat the network with one layer executed several times.

    Args:
        bench: Where it is done.
        replayer: Of the session.
        wanted: `candidates`.
        layers: How many of them to take.
        most_s: Longest time, opening included; the first round is ended in any case, if need be
            with one layer.
        seed: Of the order.
        number: Number of its first round.

    Raises:
        Interrupted: The parent is gone or asked to stop.
    """
    order = random.Random(seed)  # noqa: S311 (no secret)
    begin_s = idle_s = time.monotonic()
    failed: dict[int, str] = {}
    taken, rest = list(wanted[:layers]), list(wanted[layers:])
    rounds, done, reason = 0, 0, f"{ROUNDS} rounds are done"
    bench.idle(number)
    while taken and rounds < ROUNDS:
        todo = [(layer, copies) for layer in taken for copies in COPIES]
        order.shuffle(todo)
        while todo:
            if time.monotonic() - idle_s >= IDLE_EVERY_S:
                bench.idle(number + rounds)
                idle_s = time.monotonic()
            spent_s = time.monotonic() - begin_s + bench.idle_s
            each_s = spent_s / done if done else 0.0
            if rounds == 0 and spent_s + each_s * len(todo) > most_s and len(taken) > 1:
                # The first round is to be whole: fewer layers, those with the least energy first.
                failed[taken[-1]] = f"{most_s:g} s hold no more layers"
                todo = [one for one in todo if one[0] != taken[-1]]
                taken.pop()
                continue
            if rounds > 0 and spent_s + each_s > most_s:
                break
            layer, copies = todo.pop(0)
            why = _repeat(bench, replayer, layer, copies, number + rounds)
            done += 1
            if not why:
                continue
            failed[layer] = f"executed {copies} times: {why}"
            taken.remove(layer)
            todo = [one for one in todo if one[0] != layer]
            if rounds == 0 and rest:
                taken.append(rest.pop(0))
                todo += [(taken[-1], copies) for copies in COPIES]
                order.shuffle(todo)
        rounds += len(todo) < len(taken) * len(COPIES)
        if todo:
            reason = f"{most_s:g} s are spent"
            break
    if not taken:
        reason = "no layer can be executed several times in place"
    bench.idle(number + rounds)
    return DuplicationResult(tuple(taken), failed, rounds, time.monotonic() - begin_s, reason)


def _repeat(bench: ReplayBench, replayer: Replayer, layer: int, copies: int, number: int) -> str:
    """Repeat the network with a layer executed some times; return why it cannot be, or nothing."""
    try:
        one = replayer.duplicated(layer, copies)
        try:
            bench.repeat(one, (DUPLICATE, layer, copies), number, bench.segment_s)
        finally:
            one.close()
            gc.collect()
    except FAILURES as error:
        return said(error)
    return ""
