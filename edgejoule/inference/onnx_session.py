"""ONNX Runtime sessions: how they are set, optimised graphs on disk, inputs bound once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.common import model_error, short
from edgejoule.inference.inputs import make_inputs
from edgejoule.inference.onnx_graph import ExecutedNode
from edgejoule.inference.onnx_profile import node_of, read_events

if TYPE_CHECKING:
    import numpy as np

    from edgejoule.inference.workload import LoadedModel

LEVELS = {"disable": "DISABLE_ALL", "basic": "BASIC", "extended": "EXTENDED", "all": "ALL"}
OPTIONS = ("graph_optimization", "spinning")
MODEL_FILE = "optimised.onnx"

_EXTERNAL_ABOVE_BYTES = 1_500_000_000  # protobuf ends at 2 GB
_TENSOR_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}


def check_options(options: BuildOptions) -> None:
    """Refuse an option that this backend does not have (`UsageError`)."""
    unknown = sorted(k for k, v in options.extra.items() if k not in OPTIONS and v is not None)
    if unknown:
        raise UsageError(
            f"backend onnxruntime has no option {unknown[0]!r}", f"it has {', '.join(OPTIONS)}"
        )
    level = options.extra.get("graph_optimization") or "extended"
    if level not in LEVELS:
        raise UsageError(f"graph_optimization {level!r} is not known", f"use {', '.join(LEVELS)}")


def settings(options: BuildOptions) -> dict[str, Any]:
    """Return what sessions are set to, for the records."""
    return {
        "provider": "CPUExecutionProvider",
        "graph_optimization": options.extra.get("graph_optimization") or "extended",
        "threads": options.threads or "runtime's default",
        "spinning": _spinning(options),
        "execution_mode": "sequential",
    }


def _spinning(options: BuildOptions) -> bool:
    """Whether idle worker threads spin for a while: the runtime's default, and it costs energy."""
    return bool(options.extra.get("spinning", True))


def session_options(options: BuildOptions) -> Any:
    """Return an `onnxruntime.SessionOptions` as every session here has it."""
    import onnxruntime as ort

    session = ort.SessionOptions()
    session.log_severity_level = 3
    session.intra_op_num_threads = options.threads
    session.inter_op_num_threads = 1
    session.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    spinning = "1" if _spinning(options) else "0"
    session.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    return session


def load_session(artefacts: Path, options: BuildOptions, profile_prefix: Path | None) -> Any:
    """Load the optimised graph with optimisation off; with a prefix it profiles itself."""
    import onnxruntime as ort

    session = session_options(options)
    session.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile_prefix is not None:
        session.enable_profiling = True
        session.profile_file_prefix = str(profile_prefix)
    return ort.InferenceSession(
        str(artefacts / MODEL_FILE), session, providers=["CPUExecutionProvider"]
    )


class Bound:
    """An inference session with its input sets bound once, so that a run copies nothing."""

    def __init__(self, session: Any, sets: Sequence[Mapping[str, np.ndarray]]) -> None:
        import onnxruntime as ort

        self.session = session
        outputs = session.get_outputs()
        self.feeds = cast_inputs(session, sets)
        self.run: Callable[[int], Any]
        if all(output.type.startswith("tensor") for output in outputs):
            bindings = []
            # `ortvalue_from_numpy` refers to the array's memory, so both are kept.
            self._values = []
            for feed in self.feeds:
                binding = session.io_binding()
                for name, array in feed.items():
                    value = ort.OrtValue.ortvalue_from_numpy(array)
                    self._values.append(value)
                    binding.bind_ortvalue_input(name, value)
                for output in outputs:
                    binding.bind_output(output.name)
                bindings.append(binding)
            run_bound = session.run_with_iobinding
            self.run = lambda which: run_bound(bindings[which])
        else:  # sequences and maps cannot be bound
            self.run = lambda which: session.run(None, self.feeds[which])


def save_changed(source: Any, origin: Path, target: Path) -> Path:
    """Write a changed graph with all its weights, which may lie beside the original."""
    import onnx
    from onnx.external_data_helper import load_external_data_for_model

    try:
        load_external_data_for_model(source, str(origin.parent))
    except Exception as error:  # onnx has no type of its own for it
        raise UsageError(f"{origin}: its weights cannot be read ({short(error)})") from error
    external = source.ByteSize() > _EXTERNAL_ABOVE_BYTES
    onnx.save(source, str(target), save_as_external_data=external, location=f"{target.name}.data")
    return target


def optimise(graph: Path, model: LoadedModel, options: BuildOptions, target: Path) -> None:
    """Have the runtime optimise a graph and write the result.

    Raises:
        UsageError: The runtime refuses the graph (foreign operators, broken, newer opset).
    """
    import onnxruntime as ort

    session = session_options(options)
    level = LEVELS[options.extra.get("graph_optimization") or "extended"]
    session.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{_prefix(level)}")
    session.optimized_model_filepath = str(target)
    if sum(path.stat().st_size for path in graph.parent.glob(graph.name + "*")) > (
        _EXTERNAL_ABOVE_BYTES
    ):
        session.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", target.name + ".data"
        )
    try:
        ort.InferenceSession(str(graph), session, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions share no base class
        raise UsageError(
            f"onnxruntime {ort.__version__} cannot load {model.onnx_path} ({short(error)})",
            "check that its operators and opset are known to this runtime",
        ) from error


def _prefix(level: str) -> str:
    return level if level.startswith("DISABLE") else f"ENABLE_{level}"


def execute_once(
    artefacts: Path, model: LoadedModel, options: BuildOptions, inner: set[str]
) -> tuple[list[ExecutedNode], int]:
    """Run the optimised graph once under the profiler.

    Args:
        artefacts: Where the graph lies; the profile's folder is made and deleted there.
        model: Whose inputs are made up.
        options: Of the build.
        inner: Names of nodes inside control flow, which are no layers of their own.

    Returns:
        The nodes in the order of execution, and how many events one inference makes.

    Raises:
        UsageError: The model raises when it is run.
    """
    sets, _ = make_inputs("normal", model.inputs, None, options.seed, sets=1)
    folder = Path(tempfile.mkdtemp(prefix="profile-", dir=artefacts))
    try:
        session = load_session(artefacts, options, folder / "build")
        try:
            session.run(None, cast_inputs(session, sets)[0])
        except Exception as error:  # the runtime's exceptions share no base class
            raise model_error(model.name, "raises when it is run", error) from error
        finally:
            profile = Path(session.end_profiling())
        executed: list[ExecutedNode] = []
        events = 0
        for event in read_events(profile):
            events += 1
            node = node_of(event)
            if node is not None and node.name not in inner:
                shapes = tuple(
                    (str(kind), tuple(int(dim) for dim in shape))
                    for output in event["args"].get("output_type_shape", ())
                    for kind, shape in output.items()
                )
                op_type = str(event["args"].get("op_name", "?"))
                executed.append(ExecutedNode(node.node_index, node.name, op_type, shapes))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return executed, events


def cast_inputs(
    session: Any, sets: Sequence[Mapping[str, np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """Return the sets as contiguous arrays of the types that the graph's inputs have."""
    import numpy as np

    wanted = {value.name: _TENSOR_DTYPES.get(value.type) for value in session.get_inputs()}
    return [
        {
            name: np.ascontiguousarray(array, dtype=wanted.get(name) or array.dtype)
            for name, array in one.items()
        }
        for one in sets
    ]


def flatten(returned: Sequence[Any]) -> list[np.ndarray]:
    """Return the arrays within what a session returned (sequences and maps too), as floats.

    Raises:
        MeasurementError: There are none.
    """
    import numpy as np

    found: list[np.ndarray] = []
    waiting = list(returned)[::-1]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += list(value.values())[::-1]
        elif isinstance(value, (list, tuple)):
            waiting += list(value)[::-1]
        elif value is not None and np.asarray(value).dtype.kind in "fiub":
            array = np.asarray(value)
            found.append(array if array.dtype.kind == "f" else array.astype(np.float64))
    if not found:
        raise MeasurementError("the model returns nothing")
    return found
