"""Engines and parts in PyTorch, run and timed: the double of TensorRT, the host as the GPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejoule.errors import MeasurementError, UsageError  # noqa: E402
from edgejoule.inference import passes  # noqa: E402
from edgejoule.inference.backend import BuildOptions, LayerTimes  # noqa: E402
from edgejoule.inference.trt.engine import open_engine  # noqa: E402
from edgejoule.inference.trt.library import make_log  # noqa: E402
from edgejoule.inference.trt.torch_session import PartsSession  # noqa: E402
from edgejoule.inference.trt.torch_slots import EngineRunner  # noqa: E402
from edgejoule.records import NULL_NS  # noqa: E402
from tests.support_host_gpu import HostGpu, HostReplay  # noqa: E402
from tests.support_tensorrt import load_double, plan_of  # noqa: E402
from tests.support_torch_tensorrt import build_here, install  # noqa: E402

pytestmark = pytest.mark.torch

HERE = BuildOptions("float32", device="cpu", threads=1)
SETS = [
    {"x": np.random.default_rng(seed).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    for seed in range(3)
]


OPEN: list[Any] = []


class PoolingGpu(HostGpu):
    """The host in the place of a GPU, which notes what pool each capture is to share."""

    def __init__(self) -> None:
        super().__init__()
        self.pools: list[Any] = []

    def capture(self, run: Any, pool: Any = None) -> HostReplay:
        self.pools.append(pool)
        self.captured += 1
        return HostReplay(run, run(), "the first's pool")


@pytest.fixture(autouse=True)
def as_before() -> Any:
    """Sessions enter inference mode until they are closed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    for session in reversed(OPEN):
        session.close()
    OPEN.clear()
    torch.set_num_threads(before)
    assert not torch.is_inference_mode_enabled()


class Built:
    """A session of the small network, with what it was built from."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        folder: Path,
        *,
        split: bool = True,
        options: BuildOptions = HERE,
        without: str = "",
        faults: Any = (),
    ) -> None:
        self.trt = load_double(monkeypatch, "10.13.0", without)
        package, self.behaviour = install(monkeypatch, self.trt, "2.8.0")
        self.behaviour.faults = list(faults)
        _, self.described = build_here(folder, package, self.trt, HERE, split=split)
        self.folder = folder
        self.gpu = PoolingGpu()
        self.session = PartsSession(folder, options, gpu=self.gpu, trt=self.trt)
        OPEN.append(self.session)
        self.session.bind(SETS)


def profile(built: Built, runs: int = 4) -> tuple[LayerTimes, np.ndarray, list[tuple[int, int]]]:
    profiler = built.session.profiler()
    profiler.start(runs)
    spans = []
    for index in range(runs):
        start = time.monotonic_ns()
        profiler.infer(index % len(SETS))
        spans.append((start, time.monotonic_ns()))
        profiler.after()
    times = profiler.harvest(spans)
    profiler.close()
    return times, times.duration_ns.reshape(times.inferences, -1), spans


def test_layers_stand_in_the_order_of_the_graph(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built = Built(monkeypatch, tmp_path)
    layers = built.described.layers
    assert [layer.index for layer in layers] == list(range(5))
    assert [layer.module_path for layer in layers] == ["first", "", "pool", "second", ""]
    assert [layer.operation for layer in layers] == [
        "convolution", "activation", "pooling", "convolution", "activation",
    ]  # fmt: skip
    assert layers[2].name == "max_pool2d_default"
    assert layers[2].type == "aten.max_pool2d.default"
    assert built.described.keep == ("inspector-0.json", "inspector-1.json")
    assert all((tmp_path / name).is_file() for name in built.described.keep)
    assert [one["first_layer"] for one in built.described.engines] == [0, 3]
    assert [one["layers"] for one in built.described.engines] == [2, 2]
    assert built.described.engines[1]["bindings"][-1]["shape"] == [1, 4, 4, 4]


def test_layers_of_engines_have_durations_and_those_in_pytorch_starts_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built = Built(monkeypatch, tmp_path)
    times, durations, spans = profile(built)
    assert passes.check_chunk(times, 4, 5) == ""
    assert (durations[:, [0, 1, 3, 4]] == 125_000).all()  # the double's word
    offsets = times.start_offset_ns.reshape(4, 5)
    assert (offsets[:, [0, 1, 3, 4]] == NULL_NS).all()
    assert (offsets[:, 2] >= 0).all()
    lengths = np.array([end - start for start, end in spans])
    assert (offsets[:, 2] + durations[:, 2] <= lengths).all()
    settings = built.session.settings()
    assert settings["steps_in_pytorch"] == 1
    assert settings["profiler_reports"] == "after the inference"
    assert settings["profiler_kernels"] == "not counted on the host"


def test_engines_alone_run_as_in_the_clean_pass(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built = Built(monkeypatch, tmp_path, split=False)
    assert len(built.described.engines) == 1
    times, durations, _ = profile(built, 3)
    assert times.start_offset_ns is None
    assert passes.check_chunk(times, 3, len(built.described.layers)) == ""
    assert (durations == 125_000).all()
    assert "profiler_kernels" not in built.session.settings()


@pytest.mark.parametrize("split", [True, False])
def test_chunks_follow_one_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, split: bool
) -> None:
    built = Built(monkeypatch, tmp_path, split=split)
    profiler = built.session.profiler()
    for runs in (3, 1, 5):
        profiler.start(runs)
        spans = []
        for index in range(runs):
            start = time.monotonic_ns()
            profiler.infer(index % 3)
            spans.append((start, time.monotonic_ns()))
            profiler.after()
            profiler.after()  # of one inference there is one report
        assert passes.check_chunk(profiler.harvest(spans), runs, 5) == ""


def test_tensorrt_that_reports_in_the_launch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without = "IExecutionContext.enqueue_emits_profile,IExecutionContext.report_to_profiler"
    built = Built(monkeypatch, tmp_path, without=without)
    times, durations, _ = profile(built)
    assert passes.check_chunk(times, 4, 5) == ""
    assert (durations[:, [0, 1, 3, 4]] == 125_000).all()
    assert built.session.settings()["profiler_reports"] == "in the launch"


@pytest.mark.parametrize("split", [True, False])
def test_a_layer_that_is_not_reported_makes_the_chunk_incomplete(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, split: bool
) -> None:
    lost = {"from": 6, "kind": "drop", "layer": 1}
    built = Built(monkeypatch, tmp_path, split=split, faults=[lost])
    times, _, _ = profile(built, 40)
    assert times.inferences < 40
    assert "of 40 inferences" in passes.check_chunk(times, 40, 5)
    assert len(times.layer) == times.inferences * len(built.described.layers)


@pytest.mark.parametrize("kind", ["swap", "rename"])
def test_other_layers_than_described_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    built = Built(monkeypatch, tmp_path, faults=[{"from": 0, "kind": kind, "layer": 0}])
    with pytest.raises(MeasurementError, match=r"engine 0: callback 0 .*where the inspector has"):
        profile(built)


def test_outputs_are_copies_of_what_the_engines_wrote(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built = Built(monkeypatch, tmp_path)
    first = built.session.outputs(0)
    kept = [one.copy() for one in first]
    second = built.session.outputs(1)
    for before, same, other in zip(kept, first, second, strict=True):
        np.testing.assert_array_equal(before, same)
        assert (same != other).any()
    assert [one.shape for one in first] == [(1, 4, 4, 4), (1, 4, 8, 8)]
    # The double's engine repeats its first input: 192 numbers into 256 places.
    np.testing.assert_array_equal(first[1].reshape(-1)[:192], SETS[0]["x"].reshape(-1))
    waits = built.gpu.waits
    built.session.infer(0)
    assert built.gpu.waits == waits + 1


def test_cuda_graphs_replay_each_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = BuildOptions("float32", device="cpu", extra={"cuda_graphs": True})
    built = Built(monkeypatch, tmp_path, options=options)
    assert built.gpu.captured == len(SETS)
    assert built.gpu.pools == [None, "the first's pool", "the first's pool"]
    assert built.session.settings()["cuda_graphs"] is True
    plain = PartsSession(tmp_path, HERE, gpu=HostGpu(), trt=built.trt)
    OPEN.append(plain)
    plain.bind(SETS)
    for which in range(3):
        built.session.infer(which)
        for one, other in zip(built.session.outputs(which), plain.outputs(which), strict=True):
            np.testing.assert_array_equal(one, other)
    assert passes.check_chunk(profile(built)[0], 4, 5) == ""


def test_a_closed_session_has_given_back_its_engines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built = Built(monkeypatch, tmp_path)
    assert torch.is_inference_mode_enabled()
    runners = list(built.session._runners)
    OPEN.remove(built.session)
    built.session.close()
    assert not torch.is_inference_mode_enabled()
    with pytest.raises(MeasurementError, match="closed"):
        _ = runners[0].engine.raw


def test_a_plan_of_another_tensorrt_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Built(monkeypatch, tmp_path)
    OPEN.pop().close()
    other = load_double(monkeypatch, "11.1.0")
    with pytest.raises((UsageError, MeasurementError), match=r"TensorRT 11\.1\.0 .*the plan"):
        PartsSession(tmp_path, HERE, gpu=HostGpu(), trt=other)


def runner(
    monkeypatch: pytest.MonkeyPatch, *, inputs: Any = ("x",), outputs: Any = ("y",)
) -> EngineRunner:
    trt = load_double(monkeypatch)
    engine = open_engine(trt, plan_of(trt), make_log(trt))
    return EngineRunner(engine, inputs, outputs, HostGpu(), single=True)


def test_an_engine_reads_and_writes_pytorchs_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    run = runner(monkeypatch)
    x = torch.arange(4.0).reshape(1, 4)
    result = run(x)
    assert result.tolist() == [[1.0, 3.0, 5.0, 7.0]]
    assert run(x + 1).data_ptr() == result.data_ptr()  # allocated once
    wide = torch.arange(8.0).reshape(4, 2).T[:1]
    assert not wide.is_contiguous()
    assert run(wide).tolist() == [[1.0, 5.0, 9.0, 13.0]]
    assert run.copies == 1
    run._alignment = 256  # as on a GPU: views need not begin where TensorRT can read
    part = next(view for view in torch.arange(200.0)[None].split(4, dim=1) if view.data_ptr() % 256)
    assert run(part).tolist() == (2 * part + 1).tolist()
    assert run.copies == 2
    run.close()


def test_several_outputs_and_an_input_that_the_engine_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs = [
        {"name": name, "shape": [1, 4], "dtype": "FLOAT", "scale": scale}
        for name, scale in (("y", 1.0), ("z", 3.0))
    ]
    trt = load_double(monkeypatch)
    engine = open_engine(trt, plan_of(trt, outputs=outputs), make_log(trt))
    run = EngineRunner(engine, ("unused", "x"), ("z", "y"), HostGpu(), single=True)
    z, y = run(torch.zeros(1), torch.ones(1, 4))
    assert (z.tolist(), y.tolist()) == ([[3.0] * 4], [[1.0] * 4])


def test_tensors_that_an_engine_was_not_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    run = runner(monkeypatch)
    with pytest.raises(MeasurementError, match=r"input x of an engine is torch\.float16.*float32"):
        run(torch.zeros(1, 4, dtype=torch.float16))
    with pytest.raises(UsageError, match=r"input x cannot be \[1, 5\]; it takes \[1, 4\]"):
        run(torch.zeros(1, 5))


def test_dynamic_shapes_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = load_double(monkeypatch)
    plan = plan_of(
        trt,
        inputs=[{"name": "x", "shape": [-1, 4], "dtype": "FLOAT"}],
        outputs=[{"name": "y", "shape": [-1, 4], "dtype": "FLOAT", "scale": 2.0}],
        profiles=[{"x": [[1, 4], [2, 4], [3, 4]]}],
    )
    engine = open_engine(trt, plan, make_log(trt))
    run = EngineRunner(engine, ("x",), ("y",), HostGpu(), single=True)
    for batch in (1, 3, 2):
        assert run(torch.ones(batch, 4)).tolist() == [[2.0] * 4] * batch
    with pytest.raises(UsageError, match=r"cannot be \[4, 4\].*\[1, 4\] to \[3, 4\]"):
        run(torch.ones(4, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"location": "HOST"}, "tensor x of an engine holds shapes"),
        ({"layout": "CHW4"}, "lies in memory as CHW4"),
    ],
)
def test_tensors_that_pytorch_cannot_share(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    x = {"name": "x", "shape": [1, 4], "dtype": "FLOAT", **change}
    trt = load_double(monkeypatch)
    engine = open_engine(trt, plan_of(trt, inputs=[x]), make_log(trt))
    with pytest.raises(MeasurementError, match=message):
        EngineRunner(engine, ("x",), ("y",), HostGpu(), single=True)


def test_names_that_are_not_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MeasurementError, match="has the tensors x, y where torch_tensorrt named"):
        runner(monkeypatch, outputs=("other",))
    with pytest.raises(MeasurementError, match="has the tensors x, y where torch_tensorrt named"):
        runner(monkeypatch, inputs=())
