"""Replay of an ONNX Runtime session: each executed node alone, as the runtime executes it.

A node is cut out of the optimised graph and stands many times in a graph of its own, so that what a
call costs vanishes beside what the node costs. Sessions are set as the measured one is (threads,
spinning, optimisation off), inputs are those that the network gave, and a profile of the first run
says that the node ran that often and nothing else did.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import MeasurementError
from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.common import short
from edgejoule.inference.onnx_graph import external_files, subgraph_nodes
from edgejoule.inference.onnx_profile import read_runs
from edgejoule.inference.onnx_replay_graph import (
    alone,
    copy_name,
    duplicated,
    open_graph,
    repeat_name,
    with_outputs,
)
from edgejoule.inference.onnx_replay_plan import Observed, ReplayLayer, observe, plan_layers
from edgejoule.inference.onnx_session import (
    MODEL_FILE,
    Bound,
    cast_inputs,
    flatten,
    session_options,
)
from edgejoule.inference.replay_loop import Loop
from edgejoule.inference.replay_rotation import (
    copies_needed,
    last_level_cache_bytes,
    memory_for_copies,
    stays_cold,
)
from edgejoule.inference.replaying import Repeatable, ReplayPlan

if TYPE_CHECKING:
    import numpy as np

_PROVIDERS = ["CPUExecutionProvider"]
_REPLAY_FILE = "replay.onnx"
_WEIGHTS_FILE = "replay-weights.onnx"
_RUN_US = 2_000  # of work in one call, beside which the call (some 10 us) is little
_MOST_REPEATS = 2048  # nodes of one graph; a smaller share of the call per node is not worth more
_LONGEST_CALL_US = 250_000
_BYTES_PER_US = 10_000  # about what one core reads from memory
_SHARE = 0.02  # of a layer's time, below which reading from memory is left out
_LOOKS = 4  # profiled runs behind a layer's time, which says how often to repeat it
_CAPTURED_BYTES = 256 * 2**20  # of inputs kept at a time, so that not all activations are at once


class OnnxReplayer:
    """Makes repeatables of an ONNX Runtime session; see `Replayer`."""

    def __init__(
        self,
        artefacts: Path,
        options: BuildOptions,
        inputs: Mapping[str, np.ndarray],
        nodes: Sequence[tuple[int, str]],
        infer: Callable[[], Any],
        *,
        cache_bytes: int | None = None,
    ) -> None:
        """Read the graph; nothing is run yet.

        Args:
            artefacts: Folder of the optimised graph.
            options: As the measured session has them.
            inputs: The input set that layers get their inputs from.
            nodes: Index and name of every layer's node, in the order of execution.
            infer: Runs the measured session on that input set.
            cache_bytes: Last-level cache, None: what sysfs says.
        """
        self._artefacts = artefacts
        self._options = options
        self._inputs = inputs
        self._nodes = list(nodes)
        self._infer = infer
        self._cache = last_level_cache_bytes() if cache_bytes is None else cache_bytes
        self._graph = open_graph(artefacts / MODEL_FILE, artefacts / _WEIGHTS_FILE)
        self._inner = subgraph_nodes(self._graph.model)
        self._seen: _Seen | None = None
        self._planned: tuple[dict[int, ReplayLayer], ReplayPlan] | None = None
        self._captured: dict[str, np.ndarray] = {}

    def plan(self) -> ReplayPlan:
        """Run the graph a few times under the profiler and say what can be repeated."""
        return self._plan()[1]

    def layer(self, index: int) -> Repeatable:
        """Make one layer repeatable alone.

        Raises:
            MeasurementError: It cannot, or something else ran beside it.
        """
        layer = self._layer(index)
        copies, warm = self._copies(layer)
        cold = layer.cold if copies > 1 else ()
        wanted = min(_MOST_REPEATS, -(-_RUN_US // max(1, layer.duration_us)))
        repeats = -(-wanted // copies) * copies
        name = str(layer.node.name)
        with _named(f"layer {index} ({name})"):
            feed = _in_turn(self._fed(index), cold, copies)
            values = self._look().observed.values
            model = alone(self._graph, layer.node, values, repeats, copies, cold)
            names = [repeat_name(name, number) for number in range(repeats)]
            session, _ = self._checked(model, feed, names)
            bound = Bound(session, [feed])
        facts = {
            "repeats_per_call": repeats,
            "copies": copies,
            "cold": list(layer.cold),
            "cold_bytes": layer.cold_bytes,
            "read_bytes": layer.read_bytes,
            "cache_bytes": self._cache,
            "stays_cold": stays_cold(copies, layer.cold_bytes, self._cache),
        }
        if warm:
            facts["left_warm"] = warm
        return Loop(lambda: bound.run(0), repeats, facts)

    def whole(self) -> Repeatable:
        """Repeat the measured session itself, on the input set that the layers got theirs from."""
        return Loop(self._infer, 1, {"session": "the measured one"})

    def duplicated(self, index: int, copies: int) -> Repeatable:
        """Make the network repeatable with one layer executed `copies` times in place.

        Raises:
            MeasurementError: It cannot, the nodes ran in another order, or what the network returns
                came out different.
        """
        name = str(self._layer(index).node.name)
        order = [one for _, one in self._nodes]
        names = [
            again
            for one in order
            for again in (
                *(repeat_name(one, number) for number in range(1, copies) if one == name),
                one,
            )
        ]
        with _named(f"the network with layer {index} ({name}) {copies} times"):
            model = duplicated(self._graph, name, copies, order)
            session, returned = self._checked(model, self._inputs, names)
            _check_equal(returned, self._look().returned)
            bound = Bound(session, [self._inputs])
        return Loop(lambda: bound.run(0), 1, {"copies": copies, "nodes_per_inference": len(names)})

    def close(self) -> None:
        """Give everything back."""
        self._captured.clear()
        self._seen = None
        for path in self._artefacts.glob(f"{_WEIGHTS_FILE}*"):
            path.unlink()

    def _plan(self) -> tuple[dict[int, ReplayLayer], ReplayPlan]:
        if self._planned is None:
            observed = self._look().observed
            self._planned = plan_layers(self._graph, self._nodes, observed, self._cache)
        return self._planned

    def _layer(self, index: int) -> ReplayLayer:
        layers, plan = self._plan()
        if index not in layers:
            why = plan.left_out.get(index, "there is no such layer")
            raise MeasurementError(f"layer {index} cannot be repeated alone: {why}")
        return layers[index]

    def _copies(self, layer: ReplayLayer) -> tuple[int, str]:
        """Return how many copies of what comes from memory to have, and why not enough of them.

        One graph executes every copy once, so that a layer that takes long for little data would
        make calls of seconds. What it would read is nothing of its time then.
        """
        memory = memory_for_copies(self._options.memory_limit_gib)
        copies = copies_needed(self._cache, layer.cold_bytes, memory, _MOST_REPEATS)
        if copies == 1:
            return 1, ""
        duration_us = max(1, layer.duration_us)
        share = layer.cold_bytes / _BYTES_PER_US / duration_us
        if share < _SHARE:
            return 1, f"reading it from memory is some {100 * share:.2g} % of its time"
        if copies * duration_us > _LONGEST_CALL_US:
            return 1, f"{copies} copies of {duration_us} us would make too long a call"
        if not stays_cold(copies, layer.cold_bytes, self._cache):
            return 1, f"{copies} copies, all that there is room for, stay in the cache"
        return copies, ""

    def _look(self) -> _Seen:
        """Profile some runs of the graph as it is, once."""
        if self._seen is None:
            with _named("the network"), self._profiling() as prefix:
                session = self._open(self._artefacts / MODEL_FILE, prefix, in_order=False)
                feed = cast_inputs(session, [self._inputs])[0]
                for _ in range(_LOOKS):
                    returned = session.run(None, feed)
                profile = Path(session.end_profiling())
                self._seen = _Seen(observe(self._graph, profile, feed), feed, returned)
        return self._seen

    def _fed(self, index: int) -> dict[str, np.ndarray]:
        """Return what a layer gets in the network.

        One run gives what several layers get, those from this one on, as far as memory goes.
        """
        seen = self._look()
        layers, plan = self._plan()
        needed = self._graph.fed(layers[index].node)
        if any(name not in seen.feed and name not in self._captured for name in needed):
            wanted = dict.fromkeys(needed)
            for first in (group[0] for group in plan.groups if group[0] > index):
                more = {**wanted, **dict.fromkeys(self._graph.fed(layers[first].node))}
                if sum(seen.observed.values[name].nbytes for name in more) > _CAPTURED_BYTES:
                    break
                wanted = more
            names = [name for name in wanted if name not in seen.feed]
            self._captured.clear()
            session = self._open(with_outputs(self._graph, names, seen.observed.values), None)
            self._captured = dict(zip(names, session.run(names, seen.feed), strict=True))
        known = {**self._captured, **seen.feed}
        return {name: known[name] for name in needed}

    def _open(self, model: Path | Any, profile: Path | None, in_order: bool = True) -> Any:
        """Load a graph as the measured session is loaded.

        Args:
            model: A file, or a model whose external weights are those of the artefacts.
            profile: Prefix of the profile to write, None: none.
            in_order: Execute nodes in the order of the file, where the runtime is free to choose.
        """
        import onnxruntime as ort

        options = session_options(self._options)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if in_order:
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        if isinstance(model, Path):
            return ort.InferenceSession(str(model), options, providers=_PROVIDERS)
        if not external_files(model):
            return ort.InferenceSession(model.SerializeToString(), options, providers=_PROVIDERS)
        path = self._artefacts / _REPLAY_FILE  # beside its weights
        try:
            path.write_bytes(model.SerializeToString())
            return ort.InferenceSession(str(path), options, providers=_PROVIDERS)
        finally:
            path.unlink(missing_ok=True)

    def _checked(
        self, model: Any, feed: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> tuple[Any, list[Any]]:
        """Open a graph and run it once under the profiler, which is off from then on.

        Returns:
            The session and what it returned.

        Raises:
            MeasurementError: Not these nodes ran, in this order.
        """
        with self._profiling() as prefix:
            session = self._open(model, prefix)
            returned = session.run(None, cast_inputs(session, [feed])[0])
            (run,) = read_runs(Path(session.end_profiling()))
        ran = [node.name for node in run.nodes if node.name not in self._inner]
        if ran != list(names):
            other = next((one for one in ran if one not in names), None)
            what = "in another order" if other is None else f"with {other} among them"
            raise MeasurementError(
                f"the runtime executed {len(ran)} nodes in place of {len(names)}, {what}"
            )
        return session, returned

    @contextlib.contextmanager
    def _profiling(self) -> Iterator[Path]:
        """Give a prefix for a profile, deleted afterwards."""
        folder = Path(tempfile.mkdtemp(prefix="profile-", dir=self._artefacts))
        try:
            yield folder / "replay"
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _Seen:
    """What the graph as it is has shown: of its profile, what it was fed, what it returned."""

    observed: Observed
    feed: Mapping[str, np.ndarray]
    returned: list[Any]


def _in_turn(
    feed: Mapping[str, np.ndarray], cold: Sequence[str], copies: int
) -> dict[str, np.ndarray]:
    """Return inputs with those that are in turn as often as there are copies."""
    found = dict(feed)
    for name in cold:
        if name in feed:
            found |= {copy_name(name, turn): feed[name].copy() for turn in range(1, copies)}
    return found


def _check_equal(found: Sequence[Any], expected: Sequence[Any]) -> None:
    """Raise `MeasurementError` unless a network returns what it did, bit by bit."""
    import numpy as np

    for one, other in zip(flatten(found), flatten(expected), strict=True):
        if one.shape != other.shape or not np.array_equal(one, other, equal_nan=True):
            raise MeasurementError("what the network returns came out different")


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Turn what the runtime raises into one line that says of what."""
    try:
        yield
    except MeasurementError as error:
        raise MeasurementError(f"{what} cannot be repeated: {error.message}") from error
    except Exception as error:  # the runtime's exceptions share no base class
        raise MeasurementError(f"{what} cannot be repeated ({short(error)})") from error
