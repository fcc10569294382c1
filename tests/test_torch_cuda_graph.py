"""CUDA graphs of the torch backend where there is no GPU: refusals, and what a session replays.

`torch.cuda` is stood in for by what records the calls; what a graph computes is tested on a GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejoule.errors import MeasurementError, UsageError  # noqa: E402
from edgejoule.inference import torch_backend, torch_cuda_graph  # noqa: E402
from edgejoule.inference.backend import BuildOptions  # noqa: E402
from edgejoule.inference.inputs import make_inputs  # noqa: E402
from edgejoule.inference.torch_backend import TorchBackend  # noqa: E402
from edgejoule.inference.torch_graph import flatten_program  # noqa: E402
from edgejoule.inference.workload import InputSpec, LoadedModel  # noqa: E402
from tests.support_models import torch_module  # noqa: E402

pytestmark = pytest.mark.torch

IMAGE = (InputSpec("x", (1, 3, 16, 16)),)


class Stream:
    def __init__(self, name: str = "side") -> None:
        self.name, self.cuda_stream = name, 7

    def wait_stream(self, other: Stream) -> None:
        del other


class Cuda:
    """Runs what is captured, at once; replaying it runs it again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: Exception | None = None) -> None:
        self.fails = fails
        self.stream = self.before = Stream("current")
        self.capturing = False
        self.pools: list[Any] = []
        for name in ("current_stream", "set_stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda *_: 0)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)

    def current_stream(self) -> Stream:
        return self.stream

    def set_stream(self, stream: Stream) -> None:
        self.stream = stream

    @contextlib.contextmanager
    def graph(self, graph: Graph, pool: Any = None) -> Iterator[None]:
        del graph
        self.pools.append(pool)
        self.stream = Stream("capture")
        self.capturing = True
        yield
        if self.fails is not None:
            raise self.fails  # as torch does, with its own stream still the current one
        self.capturing = False
        self.stream = self.before


class Graph:
    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1

    def pool(self) -> tuple[int, int]:
        return (0, 1)


def test_a_capture_warms_up_first_and_keeps_what_was_returned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = Cuda(monkeypatch)
    calls: list[bool] = []

    def run() -> int:
        calls.append(cuda.capturing)
        return len(calls)

    captured = torch_cuda_graph.capture(run, pool="shared")
    assert calls == [False] * torch_cuda_graph.WARM_RUNS + [True]
    assert captured.outputs == len(calls)
    assert cuda.pools == ["shared"]
    captured.replay()
    assert captured.pool == (0, 1)


def test_a_part_can_do_to_warm_up_on_a_stream_that_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = Cuda(monkeypatch)
    used: list[Any] = []
    monkeypatch.setattr(torch.cuda, "stream", lambda s: used.append(s) or contextlib.nullcontext())
    calls: list[tuple[str, bool]] = []
    side = Stream("kept")
    torch_cuda_graph.capture(
        lambda: calls.append(("all", cuda.capturing)),
        side=side,
        warm=lambda: calls.append(("part", cuda.capturing)),
    )
    assert calls == [("part", False)] * torch_cuda_graph.WARM_RUNS + [("all", True)]
    assert used == [side]


def test_recorded_nodes_are_none_where_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    Cuda(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert torch_cuda_graph.nodes_recorded() is None
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch_cuda_graph, "_NodeCounter", FixedCounter)
    assert torch_cuda_graph.nodes_recorded() == 0

    class Mute:
        def count(self, stream: int) -> int:
            raise RuntimeError(f"error 1 at {stream}")

    monkeypatch.setattr(torch_cuda_graph, "_NodeCounter", Mute)
    assert torch_cuda_graph.nodes_recorded() is None


def test_a_model_that_cannot_be_captured_is_refused_with_the_mend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = Cuda(monkeypatch, RuntimeError("operation not permitted when stream is capturing"))
    with pytest.raises(UsageError) as caught:
        torch_cuda_graph.capture(lambda: None)
    assert "the model cannot be captured as a CUDA graph" in str(caught.value)
    assert "not permitted when stream is capturing" in str(caught.value)
    assert caught.value.mend.startswith("leave out --cuda-graphs")
    assert cuda.stream is cuda.before  # and not the one that torch left current


def test_want_of_memory_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    Cuda(monkeypatch, RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    with pytest.raises(MeasurementError, match="not enough memory to hold the inference"):
        torch_cuda_graph.capture(lambda: None)


def test_kernels_are_counted_between_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    Cuda(monkeypatch)
    seen = iter([10, 11, 14, 14, 16, *range(16, 60)])

    class Counter:
        def count(self, stream: int) -> int:
            assert stream == 7
            return next(seen)

    monkeypatch.setattr(torch_cuda_graph, "_NodeCounter", Counter)
    program, inputs = flat(torch_module("conv"))
    counts, how = torch_cuda_graph.kernels_per_step(program, inputs)
    assert counts is not None
    assert counts[:4] == (1, 3, 0, 2)
    assert len(counts) == len(program.steps)
    assert how == "counted as nodes of a captured graph"


def test_kernels_that_cannot_be_counted_are_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch, RuntimeError("capture failed"))
    monkeypatch.setattr(torch_cuda_graph, "_NodeCounter", FixedCounter)
    program, inputs = flat(torch_module("conv"))
    counts, how = torch_cuda_graph.kernels_per_step(program, inputs)
    assert counts is None
    assert how == "not counted: the program cannot be captured (capture failed)"
    assert cuda.stream is cuda.before


class FixedCounter:
    def count(self, stream: int) -> int:
        del stream
        return 0


def flat(module: Any) -> tuple[Any, tuple[Any, ...]]:
    x = torch.zeros(1, 3, 16, 16)
    exported = torch.export.export(module, (x,), strict=False)
    return flatten_program(exported.module()), (x,)


def test_a_session_replays_a_graph_per_input_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The CPU's session with captures put in: which graph runs, and whose outputs are returned."""
    backend = TorchBackend()
    model = LoadedModel("net", "torch", torch_module("conv"), None, IMAGE, "random", {})
    backend.build(model, BuildOptions("float32"), tmp_path)
    monkeypatch.setattr(torch_backend, "refuse_on_cpu", lambda _: None)
    monkeypatch.setattr(torch_backend, "synchronise", lambda: None)
    cuda = Cuda(monkeypatch)
    session = backend.open(tmp_path, BuildOptions("float32", extra={"cuda_graphs": True}))
    sets, _ = make_inputs("normal", IMAGE, None, 0, sets=3)
    session.bind(sets)
    graphs = session._graphs
    assert len(graphs) == 3
    assert cuda.pools == [None, (0, 1), (0, 1)]  # the first one's, shared
    session.infer(2)
    session.infer(2)
    assert [graph._graph.replays for graph in graphs] == [0, 0, 2]
    with torch.no_grad():
        expected = torch_module("conv")(torch.from_numpy(sets[1]["x"]))["logits"]
    np.testing.assert_allclose(session.outputs(1)[0], expected.numpy(), rtol=1e-4, atol=1e-5)
    assert graphs[1]._graph.replays == 1
    session.close()
