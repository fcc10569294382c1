"""What only a real TensorRT runtime can settle, on one small network built here.

Each test notes what it saw, also where either answer would do, so that the page settles what the
code was written without: docs/TorchTensorRT.md lists it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgejoule.errors import EdgejouleError, UsageError
from edgejoule.inference.trt.cuda import load_cuda
from edgejoule.inference.trt.describe import check_order, describe_engine
from edgejoule.inference.trt.inspector import read_inspector
from edgejoule.inference.trt.library import RELIED_ON, load_tensorrt, version_of
from edgejoule.inference.trt.recorder import make_recorder
from tests.jetson import running as small
from tests.jetson.conftest import Notes
from tests.jetson.running import Running, far, middle

pytestmark = [pytest.mark.jetson, pytest.mark.timeout(900)]

SECTION = "TensorRT"
COUNT = 100


@pytest.fixture(scope="module")
def trt(notes: Notes) -> Any:
    try:
        module = load_tensorrt()
    except UsageError as error:
        notes.note(SECTION, "version", str(error))
        pytest.skip(str(error))
    notes.note(SECTION, "version", module.__version__)
    return module


@pytest.fixture(scope="module")
def cuda() -> Any:
    try:
        found = load_cuda()
    except UsageError as error:
        pytest.skip(str(error))
    found.use(0)
    return found


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx")
    path = tmp_path_factory.mktemp("network") / "small.onnx"
    small.write_network(path)
    return path


@pytest.fixture(scope="module")
def plan(trt: Any, cuda: Any, network: Path) -> bytes:
    return small.build(trt, cuda, network)


@pytest.fixture
def running(trt: Any, cuda: Any, plan: bytes) -> Iterator[Running]:
    with contextlib.closing(Running(trt, cuda, plan)) as found:
        found.give(image=small.image())
        for _ in range(20):
            found.once()
        yield found


def layer_count(running: Running) -> int:
    return len(read_inspector(running.engine.inspector_json()).layers)


def test_names(trt: Any, notes: Notes) -> None:
    def there(name: str) -> bool:
        owner = trt
        for part in name.split("."):
            if not hasattr(owner, part):
                return False
            owner = getattr(owner, part)
        return True

    differ = [one.name for one in RELIED_ON if there(one.name) != one.expected(version_of(trt))]
    agree = f"{len(RELIED_ON) - len(differ)} of {len(RELIED_ON)} are as the table says"
    notes.note(SECTION, "names we use", f"{agree}; not: {', '.join(differ) or 'none'}")
    assert differ == []


def test_outputs(running: Running, network: Path, notes: Notes) -> None:
    running.once()
    got = running.outputs()["scores"]
    error = far(got, small.reference(network, small.image()))
    notes.note(SECTION, "float32 against onnx's own evaluation", f"off by {error:.2g}")
    assert error < 1e-4


@pytest.mark.parametrize("dtype", ["tf32", "float16", "bfloat16"])
def test_precision(
    trt: Any, cuda: Any, network: Path, tmp_path: Path, notes: Notes, dtype: str
) -> None:
    """The graph cast as the backend does it; bfloat16's tensors are not read back here."""
    source = network
    if dtype != "tf32":
        from edgejoule.inference.onnx_dtype import cast_graph

        source = tmp_path / f"{dtype}.onnx"
        cast_graph(network, source, dtype)
    try:
        built = small.build(trt, cuda, source, dtype)
    except EdgejouleError as error:
        notes.note(SECTION, dtype, str(error))
        pytest.skip(str(error))
    if dtype == "bfloat16":
        notes.note(SECTION, dtype, f"builds: {len(built)} bytes")
        return
    with contextlib.closing(Running(trt, cuda, built)) as found:
        found.give(image=small.image())
        found.once()
        error = far(found.outputs()["scores"], small.reference(network, small.image()))
        latency = middle(found.latencies_ms(COUNT))
        kinds = {tensor.dtype for layer in described(found) for tensor in layer.outputs}
    seen = f"{latency:.4g} ms, off by {error:.2g}, tensors {sorted(map(str, kinds))}"
    notes.note(SECTION, dtype, seen)
    assert error < 0.05


def described(running: Running) -> Any:
    return describe_engine(running.engine.inspector_json())


def test_order(running: Running, notes: Notes) -> None:
    layers = described(running)
    recorder = make_recorder(running.trt, 4 * len(layers))
    running.context.attach(recorder)
    recorder.begin(named=True)
    for _ in range(2):
        running.once()
        running.context.report()
        recorder.mark()
    counts, heard = recorder.counts(), recorder.names()
    order = check_order(layers, heard[: counts[0]])
    notes.note(
        SECTION,
        "callbacks",
        f"{counts} for {len(layers)} layers of the inspector, {running.engine.layers} of the "
        f"engine; order: {order or 'as inspected'}; {len(heard) - len(set(heard))} repeated",
    )
    assert order is None
    assert counts == [len(layers)] * 2
    assert heard[: counts[0]] == heard[counts[0] :]


def test_emission(running: Running, notes: Notes) -> None:
    """What is reported when, with `enqueue_emits_profile` on and off."""
    raw = running.context.raw
    default = getattr(raw, "enqueue_emits_profile", "absent")
    recorder = make_recorder(running.trt, 8 * layer_count(running))
    running.context.attach(recorder)
    recorder.begin()
    running.once()
    before = recorder.count
    running.context.report()
    after = recorder.count
    again = raw.report_to_profiler()
    twice = recorder.count
    raw.enqueue_emits_profile = True
    recorder.begin()
    running.context.enqueue(running.stream)
    at_once = recorder.count
    running.cuda.synchronise(running.stream)
    notes.note(
        SECTION,
        "emission",
        f"default {default}; off: {before} before the report, {after} after, asked again "
        f"{again} and {twice}; on: {at_once} when enqueue returns",
    )
    assert (before, after) == (0, layer_count(running))
    assert at_once == layer_count(running)


def test_times(running: Running, notes: Notes) -> None:
    """Layers against the inference, and what the profiler costs."""
    clean = middle(running.latencies_ms(COUNT))
    recorder = make_recorder(running.trt, (COUNT + 1) * layer_count(running))
    running.context.attach(recorder)
    recorder.begin()
    profiled = middle(running.latencies_ms(COUNT, after=running.context.report))
    times = list(recorder.times_ms)
    per = len(times) // COUNT
    sums = [sum(times[i * per : (i + 1) * per]) for i in range(COUNT)]
    running.context.raw.enqueue_emits_profile = True
    recorder.begin()
    emitting = middle(running.latencies_ms(COUNT))
    notes.note(
        SECTION,
        "times",
        f"clean {clean:.4g} ms, profiled {profiled:.4g} ({profiled / clean:.3f}), emitting "
        f"{emitting:.4g} ({emitting / clean:.3f}), sum of layers {middle(sums):.4g} "
        f"({middle(sums) / profiled:.3f} of profiled); {per} layers",
    )
    assert all(time >= 0 for time in times)
    assert 0 < middle(sums) < 1.5 * profiled


def test_cuda_graph(running: Running, notes: Notes) -> None:
    """The clean pass may replay a graph; and whether layers are reported from one."""
    cuda, stream = running.cuda, running.stream
    expected = running.outputs()["scores"]

    def captured() -> int:
        cuda.begin_capture(stream)
        try:
            running.context.enqueue(stream)
        except BaseException:
            cuda.abandon_capture(stream)
            raise
        return int(cuda.end_capture(stream))

    graph = captured()
    replay = middle(running.latencies_ms(COUNT, launch=lambda s: cuda.launch(graph, s)))
    clean = middle(running.latencies_ms(COUNT))
    error = far(running.outputs()["scores"], expected)
    cuda.destroy_graph(graph)
    notes.note(SECTION, "CUDA graph", f"{replay:.4g} ms, launched one by one {clean:.4g} ms")
    assert error == 0
    recorder = make_recorder(running.trt, 8 * layer_count(running))
    running.context.attach(recorder)
    for emits in (False, True):
        running.context.raw.enqueue_emits_profile = emits
        recorder.begin()
        try:
            graph = captured()
            in_capture = recorder.count
            cuda.launch(graph, stream)
            cuda.synchronise(stream)
            asked = running.context.raw.report_to_profiler()
            told = f"{in_capture} times in capture, {recorder.count} after launch, report {asked}"
            cuda.destroy_graph(graph)
        except EdgejouleError as failure:
            told = f"refused: {failure}"
        on = "on" if emits else "off"
        notes.note(SECTION, f"CUDA graph with a profiler, emission {on}", told)


def test_profiler_removal(running: Running, notes: Notes) -> None:
    """Whether `context.profiler = None` takes it off; that a new context does."""
    recorder = make_recorder(running.trt, 8 * layer_count(running))
    running.context.attach(recorder)
    raw = running.context.raw
    logged = len(running.log.errors)
    try:
        raw.profiler = None
        raised = "nothing raised"
    except Exception as error:  # noqa: BLE001  # what it raises is what is asked
        raised = f"{type(error).__name__}: {error}"
    recorder.begin()
    running.once()
    with contextlib.suppress(Exception):
        raw.report_to_profiler()
    said = "; ".join(running.log.errors[logged:]) or "nothing logged"
    seen = f"{raised}; {said}; {recorder.count} calls afterwards"
    notes.note(SECTION, "profiler set to None", seen)
    running.context.detach()
    recorder.begin()
    running.once()
    assert recorder.count == 0
    assert far(running.outputs()["scores"], running.outputs()["scores"]) == 0


def test_inspector(running: Running, notes: Notes) -> None:
    text = running.engine.inspector_json()
    found = json.loads(text)
    layers = [layer for layer in found["Layers"] if isinstance(layer, dict)]
    notes.note(SECTION, "inspector", f"top: {', '.join(found)}; {len(layers)} detailed layers")
    notes.note(SECTION, "keys of layers", ", ".join(sorted({k for one in layers for k in one})))
    tensors = [tensor for one in layers for tensor in one.get("Outputs", [])]
    notes.note(SECTION, "keys of tensors", ", ".join(sorted({k for one in tensors for k in one})))
    notes.note(SECTION, "types of layers", ", ".join(sorted({str(o["LayerType"]) for o in layers})))
    mapped = sum(bool(layer.nodes) for layer in described(running))
    notes.note(SECTION, "layers with their ONNX nodes", f"{mapped} of {len(layers)}")
    assert layers
    assert running.engine.verbosity == "DETAILED"
    assert running.engine.aux_streams == 0


def test_memory(running: Running, cuda: Any, notes: Notes) -> None:
    free, total = cuda.memory()
    used = f"{(total - free) / 2**20:.0f} of {total / 2**20:.0f} MiB in use"
    notes.note(SECTION, "memory", f"one context {running.engine.memory_bytes} bytes; {used}")
    assert running.engine.memory_bytes is not None
