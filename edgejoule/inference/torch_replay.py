"""Replay of a torch session: each distinct layer alone, the whole network, one layer several times.

A layer gets the inputs that it really got, of every input set in turn, in copies as far from their
last use as in the network (`torch_replay_rotation`). What writes into its argument is replaced by
the operation that does not. On a GPU the executions are captured as CUDA graphs, on a CPU looped.

**One layer several times.** It is executed again on the *same* input, in place, right before its
own execution, whose result the network goes on with. Feeding its output back to it would change
values from one execution to the next (a convolution's grow or vanish, and values change power), and
would fit only layers whose output has their input's shape; executed on the same input, any layer
can be chosen, and the rest of the network gets bit for bit what it got. Nothing fuses the further
executions away: eager torch and CUDA graphs execute what they are given. A tensor that comes from
memory in the network (a weight of a network larger than the cache) is read by each further
execution from a copy of its own, which has the whole inference between two uses as well. What
remains is that a further execution finds its kernel and its warm inputs in the cache.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edgejoule.errors import MeasurementError
from edgejoule.inference.common import short
from edgejoule.inference.replay_rotation import reuse_distances
from edgejoule.inference.replaying import Repeatable, ReplayPlan
from edgejoule.inference.torch_gpu_profiler import synchronise
from edgejoule.inference.torch_graph import Program
from edgejoule.inference.torch_replay_device import cache_bytes, free_bytes, timed_ns
from edgejoule.inference.torch_replay_further import Further
from edgejoule.inference.torch_replay_launch import (
    LONGEST_LAUNCH_NS,
    CpuLaunches,
    GpuLaunches,
    Run,
)
from edgejoule.inference.torch_replay_rotation import (
    OUTPUT,
    Copies,
    cycle_of,
    turns,
    with_sets,
)
from edgejoule.inference.torch_replay_steps import (
    Seen,
    execute,
    observe,
    outputs_of,
    repeat,
    same_values,
)

_FLOPS_PER_BYTE = 100  # at which computing costs a device about what moving does; for an order only
_SLOW_INFERENCE_S = 0.1  # from there on the inputs of one set have to do: each needs an inference
_MEMORY_SHARE = 4  # copies take at most this part of the memory that is free


class TorchReplayer:
    """Makes repeatables of an exported program.

    Args:
        program: What the session executes.
        sets: Its inputs.
        device: `cpu` or `cuda:<index>`.
        kernels: How many kernels each step launches, None where that is not known.
        flops: Per step, None where not known; for the order of preference.
    """

    def __init__(
        self,
        program: Program,
        sets: Sequence[tuple[Any, ...]],
        device: str,
        kernels: Sequence[int] | None,
        flops: Sequence[int | None],
    ) -> None:
        if not sets:
            raise MeasurementError("no inputs are bound, so there is nothing to replay")
        self._program = program
        self._sets = list(sets)
        self._device = device
        self._gpu = device.startswith("cuda")
        self._kernels = kernels
        self._flops = flops
        self._cache = cache_bytes(device)
        self._seen: tuple[Seen, ...] = ()
        self._distances: list[dict[str, int]] = []
        self._inference_s = 0.0
        self._side: Any = None

    def plan(self) -> ReplayPlan:
        """Run two inferences and say what can be repeated."""
        seen = self._observed()
        nothing = [index for index in range(len(seen)) if self._is_nothing(index)]
        left_out = {
            index: one.why
            for index, one in enumerate(seen)
            if one.function is None and index not in nothing
        }
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, one in enumerate(seen):
            if index not in left_out and index not in nothing:
                groups.setdefault(one.key, []).append(index)
        return ReplayPlan(
            groups=tuple(tuple(group) for group in groups.values()),
            nothing=tuple(nothing),
            left_out=left_out,
            duplicable=self._duplicable([group[0] for group in groups.values()]),
            notes=self._notes([group[0] for group in groups.values()]),
        )

    def layer(self, index: int) -> Repeatable:
        """Make one layer repeatable alone.

        Raises:
            MeasurementError: It writes into its arguments and has no other form, or there is not
                enough memory.
        """
        seen = self._replayable(index)
        with self._told(f"layer {index} ({self._program.steps[index].name}) alone"):
            many = self._gpu or self._inference_s < _SLOW_INFERENCE_S
            originals = [self._arguments(index, one) for one in self._sets[: None if many else 1]]
            rotated = self._rotation(index, originals)
            counts = {name: one.copies for name, one in rotated.items() if name != OUTPUT}
            copies = Copies(originals, seen.places, counts, seen.weights)
            cycle = cycle_of(list(counts.values()))
            prepared = [copies.arguments(turn) for turn in range(cycle)]
            del originals
            output = rotated[OUTPUT].copies if OUTPUT in rotated else 1
            facts = {
                "layer": index,
                "operation": str(seen.function),
                "kernels_in_network": None if self._kernels is None else self._kernels[index],
                "in_place_replaced": seen.in_place,
                "sets": min(len(self._sets) if many else 1, max(counts.values(), default=1)),
                "cycle": cycle,
                "copies_bytes": copies.nbytes,
                "cache_bytes": self._cache,
                "rotation": [
                    {
                        "tensor": _role(name, seen),
                        "bytes": one.nbytes,
                        "distance_bytes": one.distance,
                        "copies": one.copies,
                        "reached_bytes": one.reached,
                    }
                    for name, one in rotated.items()
                ],
            }
            run = functools.partial(repeat, seen.function, prepared, output)
            found = self._launches(run, cycle, facts, prepared.clear)
            if isinstance(found, GpuLaunches):
                _compare(found, lambda: run(cycle - 1, 1))
            return found

    def whole(self) -> Repeatable:
        """Make the network repeatable in the same manner, its input sets in turn."""
        self._observed()
        with self._told("the whole network"):
            return self._repeated_network(None, {"layer": None, "copies": 1})

    def duplicated(self, index: int, copies: int) -> Repeatable:
        """Make the network repeatable with one layer executed `copies` times in place.

        Raises:
            MeasurementError: It cannot be executed again, it comes out different, or the rest does.
        """
        seen = self._replayable(index)
        name = f"layer {index} ({self._program.steps[index].name})"
        with self._told(f"the network with {name} executed {copies} times"):
            distances = self._distances[index]
            cold = {one: copies for one in seen.reads if distances[one] > self._cache}
            output_cold = any(distances[one] > self._cache for one in seen.writes)
            originals = [self._arguments(index, self._sets[0])]
            stock = Copies(originals, seen.places, cold, seen.weights)
            own = [stock.arguments(turn) for turn in range(1, copies)]
            further = Further(index, seen, own, frozenset(cold), hold=output_cold)
            del originals
            how = self._check(further, name)
            facts = {
                "layer": index,
                "copies": copies,
                "outputs": how,
                "cold_tensors": sorted(_role(one, seen) for one in cold),
                "copies_bytes": stock.nbytes,
            }
            return self._repeated_network(further, facts)

    def close(self) -> None:
        """Give everything back."""
        self._sets = []
        self._seen = ()
        self._distances = []
        self._program = Program((), (), ())

    def _observed(self) -> tuple[Seen, ...]:
        if not self._seen:
            # The second time the allocator has its blocks, which then are those of every inference.
            with self._told("layers alone"):
                observe(self._program, self._sets[0])
                self._seen = observe(self._program, self._sets[0])
                if self._gpu:
                    synchronise()
                start = time.perf_counter()
                self._infer(self._sets[0], None)
                if self._gpu:
                    synchronise()
                self._inference_s = time.perf_counter() - start
            self._distances = reuse_distances(
                [({**one.reads, **one.writes}, {}) for one in self._seen]
            )
        return self._seen

    def _is_nothing(self, index: int) -> bool:
        if self._kernels is not None:
            return self._kernels[index] == 0
        return self._seen[index].view

    def _replayable(self, index: int) -> Seen:
        seen = self._observed()
        name = self._program.steps[index].name if 0 <= index < len(seen) else ""
        if not name:
            raise MeasurementError(f"there is no layer {index}")
        if self._is_nothing(index):
            raise MeasurementError(f"layer {index} ({name}) executes nothing")
        if seen[index].function is None:
            raise MeasurementError(f"layer {index} ({name}) cannot run alone: {seen[index].why}")
        return seen[index]

    def _duplicable(self, indexes: Sequence[int]) -> tuple[int, ...]:
        """Order by cost, the costliest of every operation first, then the next of every one."""
        by_operation: dict[str, list[int]] = {}
        for index in sorted(indexes, key=self._cost, reverse=True):
            by_operation.setdefault(str(self._seen[index].key[0]), []).append(index)
        ranked = [
            (rank, -self._cost(index), index)
            for own in by_operation.values()
            for rank, index in enumerate(own)
        ]
        return tuple(index for _, _, index in sorted(ranked))

    def _cost(self, index: int) -> float:
        seen = self._seen[index]
        moved = sum(seen.reads.values()) + sum(seen.writes.values())
        return moved + (self._flops[index] or 0) / _FLOPS_PER_BYTE

    def _notes(self, indexes: Sequence[int]) -> tuple[str, ...]:
        notes = []
        replaced = sorted({
            str(self._seen[index].key[0]) for index in indexes if self._seen[index].in_place
        })  # fmt: skip
        if replaced:
            notes.append(
                f"{', '.join(replaced)} replaced by the form that does not write into its argument"
            )
        cold = [
            index
            for index in indexes
            if any(self._distances[index][one] > self._cache for one in self._seen[index].reads)
        ]
        notes.append(
            f"{len(cold)} of {len(indexes)} distinct layers read something that in the network "
            f"comes from memory (cache {self._cache / 2**20:.1f} MiB); tensors are rotated so that "
            "they are as far from their last use as there"
        )
        return tuple(notes)

    def _arguments(self, index: int, inputs: Sequence[Any]) -> tuple[Any, Any]:
        """Return what a step gets on these inputs; what comes after it is not executed."""
        environment = self._program.start(inputs)
        for step in self._program.steps[:index]:
            args, kwargs = self._program.arguments(step, environment)
            execute(step, environment, args, kwargs)
        args, kwargs = self._program.arguments(self._program.steps[index], environment)
        return tuple(args), dict(kwargs)

    def _rotation(self, index: int, originals: Sequence[Any]) -> dict[str, Any]:
        """Return how often each tensor of a layer is there."""
        seen, distances = self._seen[index], self._distances[index]
        sizes, own = dict(seen.reads), dict(distances)
        written = (
            {name: seen.reads[name] for name in seen.mutated} if seen.in_place else seen.writes
        )
        if written:
            largest = max(written, key=lambda name: written[name])
            sizes[OUTPUT], own[OUTPUT] = sum(written.values()), distances[largest]
        most = 2**30
        if self._gpu:  # a launch has whole cycles, and is not to take long
            each_ns = timed_ns(seen.function, originals[0])
            most = max(1, int(LONGEST_LAUNCH_NS / each_ns))
        free = free_bytes(self._device) // _MEMORY_SHARE
        while True:
            found = turns(sizes, own, self._cache, most)
            plain = found
            found = with_sets(found, seen.weights, len(originals), self._cache)
            for one in (found, plain):
                if sum(r.nbytes * r.copies for r in one.values()) <= free:
                    return one
            largest_count = max(r.copies for r in plain.values())
            if largest_count == 1:
                return plain
            most = largest_count // 2

    def _repeated_network(self, further: Further | None, facts: dict[str, Any]) -> Repeatable:
        fitting = int(LONGEST_LAUNCH_NS / max(1.0, self._inference_s * 1e9))
        sets = self._sets[: max(1, fitting)] if self._gpu else self._sets

        def run(first: int, count: int) -> Any:
            outputs = None
            for execution in range(first, first + count):
                outputs = None  # its memory is the next inference's
                outputs = self._infer(sets[execution % len(sets)], further)
            return outputs

        facts = {**facts, "sets": len(sets)}
        found = self._launches(run, len(sets), facts, lambda: None)
        if isinstance(found, GpuLaunches):
            _compare(found, lambda: self._infer(sets[-1], None))
        return found

    def _infer(self, inputs: Sequence[Any], further: Further | None) -> list[Any]:
        program = self._program
        environment = program.start(inputs)
        held: list[Any] = []
        for index, step in enumerate(program.steps):
            args, kwargs = program.arguments(step, environment)
            if further is not None and index == further.index:
                further.execute(args, kwargs, held)
            execute(step, environment, args, kwargs)
            del args, kwargs
        return outputs_of(program, environment)

    def _check(self, further: Further, name: str) -> str:
        """Compare the further executions with the layer's own, and the outputs with and without.

        Raises:
            MeasurementError: They differ by more than the order of sums explains.
        """
        expected = self._infer(self._sets[0], None)
        kept: list[Any] = []
        further.keep = kept
        try:
            found = self._infer(self._sets[0], further)
        finally:
            further.keep = None
        equal, how = same_values(expected, found)
        if not equal:
            raise MeasurementError(f"with {name} executed again, the network returns other values")
        for value in kept[1:]:
            if not same_values(kept[0], value)[0]:
                raise MeasurementError(f"{name} returns another value each time")
        return how

    def _launches(
        self, run: Run, cycle: int, facts: dict[str, Any], give_back: Callable[[], None]
    ) -> Repeatable:
        if self._gpu:
            if self._side is None:
                import torch

                self._side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            return GpuLaunches(run, cycle, facts, give_back, self._side)
        return CpuLaunches(run, facts, give_back)

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Say what torch raises as one line, and give back what was taken."""
        try:
            yield
        except RuntimeError as error:  # also what torch raises for want of memory
            if self._gpu:
                import torch

                torch.cuda.empty_cache()
            raise MeasurementError(f"cannot repeat {what} ({short(error, 160)})") from error


def _compare(captured: GpuLaunches, execute_last: Callable[[], Any]) -> None:
    """Compare what a captured graph returns with what is executed without one.

    Raises:
        MeasurementError: They differ, although the execution returns the same each time.
    """
    captured.launch()
    expected = execute_last()
    same, how = same_values([expected], [captured.outputs])
    if not same and same_values([expected], [execute_last()])[0]:
        captured.close()
        raise MeasurementError(f"captured it returns other values than executed ({how})")


def _role(name: str, seen: Seen) -> str:
    if name == OUTPUT:
        return OUTPUT
    return ("weight " if name in seen.weights else "input ") + str(seen.places.index(name))
