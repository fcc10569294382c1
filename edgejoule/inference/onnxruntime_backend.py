"""ONNX Runtime on the CPU: whole sessions for the clean pass, its session profiler for the layers.

The set-up process writes the *optimised* graph to disk; the measuring process runs that very graph
with optimisation off, so that what is described is what is executed. Level `extended` is the
default because fused nodes keep names there that lead back to the model; `all` is faster on some
machines and maps through tensor names.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import UsageError
from edgejoule.inference.backend import (
    Availability,
    BuildOptions,
    EngineDescription,
    LayerTimes,
    Profiler,
    Session,
)
from edgejoule.inference.common import write_json
from edgejoule.inference.onnx_graph import (
    ExecutedNode,
    describe_layers,
    external_files,
    fix_shapes,
    load_graph,
    name_nodes,
    subgraph_nodes,
)
from edgejoule.inference.onnx_origin import OriginalGraph
from edgejoule.inference.onnx_profile import place_runs, read_runs
from edgejoule.inference.onnx_session import (
    MODEL_FILE,
    OPTIONS,
    Bound,
    check_options,
    execute_once,
    flatten,
    load_session,
    optimise,
    save_changed,
    settings,
)
from edgejoule.inference.probe import probe
from edgejoule.records import NULL_NS

if TYPE_CHECKING:
    import numpy as np

    from edgejoule.inference.replaying import Replayer
    from edgejoule.inference.workload import LoadedModel

_ENGINE_FILE = "onnxruntime.json"
_QUANTISED_FILE = "quantised.onnx"
# The profiler stops silently at 1,000,000 events; an event is about 1 kB of JSON, so chunks are
# kept far smaller than that for the sake of disk and memory.
_EVENTS_PER_CHUNK = 50_000
_WARM_INFERENCES = 5  # of the new session that each chunk needs; stripped from what it reports
_PROBE = """
import json, onnx, onnxruntime
print(json.dumps({"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__,
                  "providers": onnxruntime.get_available_providers()}))
"""


class OnnxRuntimeBackend:
    """The CPU execution provider of ONNX Runtime."""

    name = "onnxruntime"
    form = "onnx"
    options = OPTIONS

    def availability(self) -> Availability:
        """Import it in a process of its own, which costs a quarter of a second."""
        found = probe(_PROBE)
        mend = "pip install onnxruntime onnx"
        if found.error:
            return Availability(False, f"onnxruntime cannot be used here ({found.error})", mend)
        if "CPUExecutionProvider" not in found.facts["providers"]:
            return Availability(False, "this onnxruntime has no CPU provider", mend)
        return Availability(True, f"onnxruntime {found.facts['onnxruntime']} on the CPU")

    def dtypes(self, device: str) -> tuple[str, ...]:
        """The types that the graph was exported in, or 8 bits with calibration data."""
        return ("float32", "int8") if device == "cpu" else ()

    def devices(self) -> tuple[str, ...]:
        """Only the CPU."""
        return ("cpu",)

    def build(
        self, model: LoadedModel, options: BuildOptions, artefacts: Path
    ) -> EngineDescription:
        """Optimise the graph, run it once to see what it executes, and describe that.

        Raises:
            UsageError: The file is unreadable, foreign to this runtime, takes other inputs, or
                raises when it is run; an option is unknown; there are no calibration data for
                int8, or nothing that runs in it.
        """
        import onnx
        import onnxruntime as ort

        check_options(options)
        if model.onnx_path is None:
            raise UsageError(f"model {model.name} came without an ONNX graph")
        source = load_graph(model.onnx_path)
        changed = fix_shapes(source, model.inputs, model.onnx_path)
        # The runtime's copy would go on referring to weights beside the original.
        changed = name_nodes(source) or changed or bool(external_files(source))
        graph_path = model.onnx_path
        if changed:
            graph_path = save_changed(source, model.onnx_path, artefacts / "fixed.onnx")
        built_with = settings(options)
        if options.dtype == "int8":
            graph_path, built_with["quantisation"] = _quantise(
                graph_path, model, options, artefacts
            )
        optimise(graph_path, model, options, artefacts / MODEL_FILE)
        optimised = load_graph(artefacts / MODEL_FILE)
        for path in (*artefacts.glob("fixed.onnx*"), *artefacts.glob(f"{_QUANTISED_FILE}*")):
            if path.name not in external_files(optimised):
                path.unlink()
        if name_nodes(optimised):
            (artefacts / MODEL_FILE).write_bytes(optimised.SerializeToString())
        executed, events = execute_once(artefacts, model, options, subgraph_nodes(optimised))
        if options.dtype == "int8":
            _check_integer(model, executed)
        layers = describe_layers(optimised, executed, OriginalGraph.of(source, model.module_paths))
        write_json(
            artefacts / _ENGINE_FILE,
            {
                "nodes": [[node.node_index, node.name] for node in executed],
                "events_per_inference": events,
            },
        )
        return EngineDescription(
            backend=self.name,
            versions={"onnxruntime": ort.__version__, "onnx": onnx.__version__},
            layers=layers,
            settings=built_with,
            start_offsets=True,
        )

    def open(self, artefacts: Path, options: BuildOptions) -> Session:
        """Load the optimised graph with optimisation off."""
        check_options(options)
        return OnnxRuntimeSession(artefacts, options)


def _quantise(
    graph: Path, model: LoadedModel, options: BuildOptions, artefacts: Path
) -> tuple[Path, dict[str, Any] | str]:
    """Write the int8 form of a graph; return where it lies and the facts of it.

    A graph that a tool has quantised already is taken as it is: its scales are its own.
    """
    if {node.op_type for node in load_graph(graph).graph.node} & {
        "QuantizeLinear", "QLinearConv", "QLinearMatMul"
    }:  # fmt: skip
        given = options.calibration is not None
        why = "the calibration data were not used" if given else "no calibration was needed"
        return graph, f"as the graph came; {why}"
    from edgejoule.inference.calibration_data import load_calibration
    from edgejoule.inference.quantization import model_hash, quantise

    data = load_calibration(options.calibration, model.inputs, model.normalisation, options.seed)
    target = artefacts / _QUANTISED_FILE
    facts = quantise(graph, target, "int8", options, data, model_hash(graph), runtime="onnxruntime")
    return target, facts


def _check_integer(model: LoadedModel, executed: Sequence[ExecutedNode]) -> None:
    """Refuse an int8 engine in which nothing but the conversions works on integers."""
    if not any(
        node.op_type.startswith(("QLinear", "QGemm", "QAttention", "ConvInteger", "MatMulInteger"))
        for node in executed
    ):
        raise UsageError(
            f"no layer of {model.name} runs in int8: what was quantised is computed in float32",
            "leave graph_optimization at extended, or use --dtype float32",
        )


class OnnxRuntimeSession:
    """An optimised graph, loaded."""

    def __init__(self, artefacts: Path, options: BuildOptions) -> None:
        self._artefacts = artefacts
        self._options = options
        self._sets: Sequence[Mapping[str, np.ndarray]] = ()
        self._bound: Bound | None = None
        self._placements: dict[str, int] = {}
        self._session: Any = load_session(artefacts, options, None)

    def bind(self, inputs: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Take the input sets, cast to the types of the graph's inputs."""
        self._sets = inputs
        self._bound = Bound(self._loaded(), inputs)

    def infer(self, which: int) -> None:
        """Run one inference on input set `which`."""
        if self._bound is None:  # after a profiled pass, which takes the memory for itself
            self._bound = Bound(self._loaded(), self._sets)
        self._bound.run(which)

    def outputs(self, which: int) -> list[np.ndarray]:
        """Run one inference and return its outputs as float arrays."""
        if self._bound is None:
            self._bound = Bound(self._loaded(), self._sets)
        returned = self._loaded().run(None, self._bound.feeds[which])
        return flatten(returned)

    def profiler(self) -> Profiler:
        """Return a profiler; the session's own memory is freed while it runs."""
        return OnnxRuntimeProfiler(
            self._artefacts, self._options, self._sets, self._release, self._placements
        )

    def replayer(self) -> Replayer:
        """Return what repeats its nodes alone, on what they get from the first input set."""
        from edgejoule.inference.onnx_replay import OnnxReplayer

        engine = json.loads((self._artefacts / _ENGINE_FILE).read_text(encoding="utf-8"))
        nodes = [(int(index), str(name)) for index, name in engine["nodes"]]
        return OnnxReplayer(
            self._artefacts, self._options, self._sets[0], nodes, lambda: self.infer(0)
        )

    def settings(self) -> dict[str, Any]:
        """Return what is in force, and how profiled inferences were placed on the clock."""
        return {
            **settings(self._options),
            "profiler_warm_inferences": _WARM_INFERENCES,
            "profiler_clock": dict(self._placements),
        }

    def close(self) -> None:
        """Free the session."""
        self._release()

    def _loaded(self) -> Any:
        if self._session is None:
            self._session = load_session(self._artefacts, self._options, None)
        return self._session

    def _release(self) -> None:
        self._bound = None
        self._session = None


class OnnxRuntimeProfiler:
    """The session profiler, in chunks: each chunk is a session of its own."""

    def __init__(
        self,
        artefacts: Path,
        options: BuildOptions,
        sets: Sequence[Mapping[str, np.ndarray]],
        release: Callable[[], None],
        placements: dict[str, int],
    ) -> None:
        engine = json.loads((artefacts / _ENGINE_FILE).read_text(encoding="utf-8"))
        self._layer_of = {
            (int(node_index), str(name)): layer
            for layer, (node_index, name) in enumerate(engine["nodes"])
        }
        self.chunk_inferences = max(1, _EVENTS_PER_CHUNK // int(engine["events_per_inference"]))
        self._artefacts = artefacts
        self._options = options
        self._sets = sets
        self._release = release
        self._placements = placements
        self._folder: Path | None = None
        self._bound: Bound | None = None
        self._wall_to_monotonic_ns = 0
        self._profiling = False

    def start(self, inferences: int) -> None:
        """Open a session that profiles and warm it up; `inferences` is bounded by the chunk."""
        del inferences  # the runtime's own limit is what `chunk_inferences` is made from
        self._release()
        self._bound = None  # the last chunk's session, before the next takes as much memory
        self._folder = Path(tempfile.mkdtemp(prefix="profile-", dir=self._artefacts))
        session = load_session(self._artefacts, self._options, self._folder / "chunk")
        self._profiling = True
        self._wall_to_monotonic_ns = _wall_to_monotonic_ns()
        self._bound = Bound(session, self._sets)
        for _ in range(_WARM_INFERENCES):
            self._bound.run(0)

    def infer(self, which: int) -> None:
        """Run one profiled inference."""
        self._bound.run(which)  # type: ignore[union-attr]  # `start` comes first

    def after(self) -> None:
        """Nothing is left to do."""

    def harvest(self, spans: Sequence[tuple[int, int]]) -> LayerTimes:
        """Read the profile, drop the warm-up, place what remains within the caller's spans."""
        import numpy as np

        if self._bound is None or self._folder is None:
            raise RuntimeError("harvest before start")
        session = self._bound.session
        zero_ns = session.get_profiling_start_time_ns()
        path = Path(session.end_profiling())
        self._profiling = False
        runs = read_runs(path)[_WARM_INFERENCES:]
        shutil.rmtree(self._folder)
        self._folder = None
        offset_ns = _wall_to_monotonic_ns()
        stepped = abs(offset_ns - self._wall_to_monotonic_ns) > 1_000_000
        placement = place_runs(runs, spans, None if stepped else zero_ns + offset_ns)
        self._placements[placement.method] = self._placements.get(placement.method, 0) + 1
        rows: list[tuple[int, int, int, int]] = []
        for index, (run, start_ns) in enumerate(zip(runs, placement.starts_ns, strict=False)):
            span_ns = spans[index][1] - spans[index][0]
            for node in run.nodes:
                layer = self._layer_of.get((node.node_index, node.name))
                if layer is None:  # inside control flow: the node around it has that time
                    continue
                offset = start_ns - spans[index][0] + (node.ts_us - run.ts_us) * 1000
                duration = node.dur_us * 1000
                inside = offset >= 0 and offset + duration <= span_ns
                rows.append((index, layer, duration, offset if inside else NULL_NS))
        table = np.array(rows, dtype=np.int64).reshape(len(rows), 4)
        return LayerTimes(
            inference=table[:, 0].astype(np.int32),
            layer=table[:, 1].astype(np.int16),
            duration_ns=table[:, 2],
            start_offset_ns=table[:, 3],
            inferences=len(runs),
        )

    def close(self) -> None:
        """Free the session and delete what it wrote."""
        if self._profiling and self._bound is not None:
            with contextlib.suppress(OSError):
                self._bound.session.end_profiling()
            self._profiling = False
        self._bound = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _wall_to_monotonic_ns() -> int:
    """CLOCK_MONOTONIC minus the wall clock now, the tightest of five readings."""
    best = (2**63, 0)
    for _ in range(5):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        best = min(best, (after - before, (before + after) // 2 - wall))
    return best[1]
