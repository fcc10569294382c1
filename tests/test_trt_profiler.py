"""The profiled pass of a plan: both ways of reporting, chunks, what is lost, what changes."""

from __future__ import annotations

import numpy as np
import pytest

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference.passes import check_chunk
from edgejoule.inference.trt.session import WARM_INFERENCES
from edgejoule.inference.trt.torch_layer_times import _rows
from tests.support_cudart import FakeCuda
from tests.support_tensorrt import VERSIONS
from tests.test_trt_session import SETS, Open, closed, cuda, opened

__all__ = ["cuda", "opened"]  # fixtures

WITHOUT = "IExecutionContext.enqueue_emits_profile"
FIRST = WARM_INFERENCES + 1  # reports before a chunk: warm ones, and the one with names


@pytest.mark.parametrize("without", ["", WITHOUT])
@pytest.mark.parametrize("played", VERSIONS)
def test_every_layer_of_every_inference_is_timed(
    opened: Open, cuda: FakeCuda, played: str, without: str
) -> None:
    session = opened(played, without=without, step=0.5)
    session.bind(SETS)
    profiler = session.profiler()
    profiler.start(2)
    profiler.infer(0)
    profiler.infer(1)
    times = profiler.harvest([(0, 10), (10, 20)])
    assert check_chunk(times, 2, 2) == ""
    assert times.start_offset_ns is None
    factors = [1 + 0.5 * (FIRST + number) for number in (0, 1)]
    expected = [round(ms * factor * 1e6) for factor in factors for ms in (0.25, 0.5)]
    assert times.duration_ns.tolist() == expected
    emission = session.settings()["profiler_emission"]
    assert emission.startswith("by each inference" if without else "asked for after each")
    profiler.close()
    closed(session, cuda)


def test_a_report_waits_until_the_time_is_taken(opened: Open, cuda: FakeCuda) -> None:
    session = opened()
    session.bind(SETS)
    profiler = session.profiler()
    profiler.start(2)
    profiler.infer(0)
    assert profiler._recorder.count == 0
    profiler.after()
    profiler.after()
    assert profiler._recorder.count == 2
    profiler.infer(1)
    assert profiler._recorder.count == 2
    assert check_chunk(profiler.harvest([(0, 1)] * 2), 2, 2) == ""
    closed(session, cuda)


def test_layers_of_one_name_and_without_time_are_kept_apart(opened: Open, cuda: FakeCuda) -> None:
    names = ["relu", "relu", "noop", "relu"]
    times_ms = (0.125, 0.25, 0.0, 0.5)
    layers = [{"name": name, "ms": ms} for name, ms in zip(names, times_ms, strict=True)]
    session = opened(names=names, layers=layers)
    session.bind(SETS)
    profiler = session.profiler()
    profiler.start(1)
    profiler.infer(0)
    times = profiler.harvest([(0, 1)])
    assert times.layer.tolist() == [0, 1, 2, 3]
    assert times.duration_ns.tolist() == [125_000, 250_000, 0, 500_000]
    closed(session, cuda)


def test_chunks_follow_one_another(opened: Open, cuda: FakeCuda) -> None:
    session = opened()
    session.bind(SETS)
    profiler = session.profiler()
    assert profiler.chunk_inferences == 50_000
    for _ in range(3):
        profiler.start(4)
        for which in (0, 1, 0, 1):
            profiler.infer(which)
        assert check_chunk(profiler.harvest([(0, 1)] * 4), 4, 2) == ""
    closed(session, cuda)


@pytest.mark.parametrize("kind", ["drop", "extra"])
def test_a_wrong_number_of_times_shows(
    opened: Open, cuda: FakeCuda, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    session = opened(faults=[{"inference": FIRST + 1, "kind": kind, "layer": 1}])
    session.bind(SETS)
    profiler = session.profiler()
    profiler.start(3)
    for _ in range(3):
        profiler.infer(0)
    times = profiler.harvest([(0, 1)] * 3)
    assert check_chunk(times, 3, 2) == "the profiler recorded 2 of 3 inferences"
    assert times.inference.tolist() == [0, 0, 2, 2]
    assert times.duration_ns.tolist() == [250_000, 500_000] * 2
    count = {"drop": 1, "extra": 3}[kind]
    assert (
        f"inference 1 of this chunk: TensorRT reported {count} layer times, the engine has 2"
        in (capsys.readouterr().err)
    )
    closed(session, cuda)


def test_one_lost_and_one_too_many_do_not_cancel_out(opened: Open, cuda: FakeCuda) -> None:
    faults = [
        {"inference": FIRST, "kind": "drop"},
        {"inference": FIRST + 1, "kind": "extra"},
    ]
    session = opened(faults=faults)
    session.bind(SETS)
    profiler = session.profiler()
    profiler.start(3)
    for _ in range(3):
        profiler.infer(0)
    times = profiler.harvest([(0, 1)] * 3)
    assert (times.inferences, times.inference.tolist()) == (1, [2, 2])
    closed(session, cuda)


def test_more_than_there_is_room_for_shows(opened: Open, cuda: FakeCuda) -> None:
    session = opened()
    session.bind(SETS)
    profiler = session.profiler()
    profiler.start(1)
    for _ in range(5):
        profiler.infer(0)
    times = profiler.harvest([(0, 1)] * 5)
    assert check_chunk(times, 5, 2) == f"the profiler recorded {FIRST} of 5 inferences"
    closed(session, cuda)


@pytest.mark.parametrize(
    ("faults", "names", "problem"),
    [
        (
            [{"from": 0, "kind": "swap"}],
            None,
            "its layer 0 is 'layer0', but TensorRT reported",
        ),
        ([{"from": 0, "kind": "rename", "layer": 1}], None, "its layer 1 is 'layer1', but"),
        ([{"from": 0, "kind": "drop"}], ["layer1", "layer0"], "it has 2 layers, but"),
        ([], ["layer0", "layer1", "layer2"], "it has 3 layers, but TensorRT reported 2"),
    ],
)
def test_another_order_than_the_engines_is_an_error(
    opened: Open, cuda: FakeCuda, faults: list[dict[str, object]], names: list[str], problem: str
) -> None:
    session = opened(faults=faults, names=names)
    session.bind(SETS)
    with pytest.raises(MeasurementError) as caught:
        session.profiler().start(1)
    text = str(caught.value)
    assert text.startswith("the engine's layers and TensorRT's times do not belong together: it")
    assert problem in text
    assert "(before a chunk of inferences)" in text
    assert "report the version of TensorRT" in text
    closed(session, cuda)


SOME_SILENT = {
    "names": ["constant", "conv", "wait", "pool"],
    "layers": [
        {"name": "constant", "ms": 0.0, "silent": True},
        {"name": "conv", "ms": 0.25},
        {"name": "wait", "ms": 0.0, "silent": True},
        {"name": "pool", "ms": 0.5},
    ],
}


def test_layers_that_compute_nothing_may_lack_times(opened: Open, cuda: FakeCuda) -> None:
    session = opened(silent=(0, 2), **SOME_SILENT)
    session.bind(SETS)
    assert "layers_without_times" not in session.settings()
    profiler = session.profiler()
    for _ in range(2):
        profiler.start(2)
        profiler.infer(0)
        profiler.infer(1)
        times = profiler.harvest([(0, 1)] * 2)
        assert check_chunk(times, 2, 4) == ""
        assert times.duration_ns.tolist() == [0, 250_000, 0, 500_000] * 2
    assert session.settings()["layers_without_times"] == ["constant", "wait"]
    closed(session, cuda)


def test_one_lost_beside_those_shows(
    opened: Open, cuda: FakeCuda, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = [{"inference": FIRST, "kind": "drop"}]
    session = opened(silent=(0, 2), faults=faults, **SOME_SILENT)
    session.bind(SETS)
    profiler = session.profiler()
    profiler.start(2)
    profiler.infer(0)
    profiler.infer(1)
    assert profiler.harvest([(0, 1)] * 2).inference.tolist() == [1] * 4
    assert "reported 1 layer times, the engine has 2 layers with times" in capsys.readouterr().err
    closed(session, cuda)


@pytest.mark.parametrize("silent", [(), (0,), (0, 1, 3)])
def test_layers_that_compute_do_not_lack_times(
    opened: Open, cuda: FakeCuda, silent: tuple[int, ...]
) -> None:
    session = opened(silent=silent, **SOME_SILENT)
    session.bind(SETS)
    with pytest.raises(MeasurementError, match="layer 0 is 'constant', but TensorRT reported 'co"):
        session.profiler().start(1)
    closed(session, cuda)


def test_an_order_that_changes_between_inferences_is_an_error(opened: Open, cuda: FakeCuda) -> None:
    session = opened(faults=[{"from": FIRST + 1, "kind": "swap"}])
    session.bind(SETS)
    profiler = session.profiler()
    profiler.start(2)
    profiler.infer(0)
    profiler.infer(1)
    with pytest.raises(MeasurementError, match=r"reported 'layer1' there \(after a chunk"):
        profiler.harvest([(0, 1)] * 2)
    closed(session, cuda)


def test_a_callback_that_nobody_hears_is_an_error(
    opened: Open,
    cuda: FakeCuda,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    session = opened()
    session.bind(SETS)

    def raises(_name: str, _ms: float) -> None:
        raise ValueError("swallowed")

    profiler = session.profiler()
    profiler.start(1)
    monkeypatch.setattr(type(profiler._recorder), "report_layer_time", staticmethod(raises))
    profiler.infer(0)
    assert profiler.harvest([(0, 1)]).inferences == 0
    assert "[ERROR] Exception caught in report_layer_time(): swallowed" in capsys.readouterr().err
    closed(session, cuda)


@pytest.mark.parametrize("graphs", [False, True])
def test_a_clean_inference_after_a_profiled_one_has_no_profiler(
    opened: Open, cuda: FakeCuda, graphs: bool
) -> None:
    session = opened(extra={"cuda_graphs": graphs}, activation_bytes=4096)
    session.bind(SETS)
    before = cuda.count("live_bytes")
    profiler = session.profiler()
    launches = cuda.count("launches")
    profiler.start(1)
    profiler.infer(1)
    profiler.harvest([(0, 1)])
    assert cuda.count("launches") == launches  # no graph in the profiled pass
    assert cuda.count("live_bytes") == before  # no second context
    recorder = profiler._recorder
    recorder.begin()
    assert session.outputs(1)[0].tolist() == [[9.0, 11.0, 13.0, 15.0]]
    assert recorder.count == 0
    assert cuda.count("peak_bytes") == before
    assert cuda.count("launches") == launches + (1 if graphs else 0)
    # And the other way round once more.
    profiler.start(1)
    profiler.infer(0)
    assert check_chunk(profiler.harvest([(0, 1)]), 1, 2) == ""
    closed(session, cuda)


def test_more_layers_than_numbers_are_refused_beside_parts_in_torch_too() -> None:
    assert _rows(np.ones((1, 2**15 - 1), dtype=np.int64), None).layer[-1] == 2**15 - 2
    with pytest.raises(UsageError, match="the model has 32768 layers, more than 32767; split it"):
        _rows(np.ones((1, 2**15), dtype=np.int64), None)


def test_harvest_comes_after_start(opened: Open, cuda: FakeCuda) -> None:
    session = opened()
    with pytest.raises(RuntimeError, match="harvest before start"):
        session.profiler().harvest([])
    closed(session, cuda)
