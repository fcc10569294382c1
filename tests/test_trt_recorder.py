"""The profiler's callback: what it keeps, what it notices, and that real bindings call it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgejoule.inference.trt.recorder import layer_times, make_recorder, order_problem, places
from tests.support_tensorrt import load_double

ROOT = Path(__file__).resolve().parent.parent
TRT: Any = SimpleNamespace(IProfiler=type("IProfiler", (), {}))


def test_times_are_kept_in_the_order_in_which_they_come() -> None:
    recorder = make_recorder(TRT, 6)
    recorder.begin()
    for ms in (0.25, 0.5, 0.125):
        recorder.report_layer_time("a", ms)
    assert recorder.times_ms == [0.25, 0.5, 0.125]
    assert recorder.count == 3
    assert recorder.overflow == 0
    recorder.begin()
    assert recorder.count == 0
    assert recorder.times_ms == []


def test_names_are_heard_only_when_asked_for() -> None:
    recorder = make_recorder(TRT, 4)
    recorder.begin(named=True)
    recorder.report_layer_time("conv", 1.0)
    recorder.report_layer_time("conv", 2.0)
    assert recorder.names() == ["conv", "conv"]
    assert recorder.times_ms == [1.0, 2.0]
    recorder.begin()
    recorder.report_layer_time("conv", 3.0)
    assert recorder.names() == []


def test_what_finds_no_room_is_counted_and_raises_nothing() -> None:
    recorder = make_recorder(TRT, 2)
    recorder.begin()
    for _ in range(4):
        recorder.report_layer_time("a", 1.0)
    assert recorder.count == 4
    assert recorder.overflow == 2
    assert recorder.times_ms == [1.0, 1.0]


def test_far_too_many_still_count_as_too_many() -> None:
    recorder = make_recorder(TRT, 2)
    recorder.begin()
    for _ in range(5):
        recorder.report_layer_time("a", 1.0)
    with pytest.raises(StopIteration):  # what the bindings swallow
        recorder.report_layer_time("a", 1.0)
    assert recorder.overflow == 3


def test_two_recorders_do_not_meet() -> None:
    first, second = make_recorder(TRT, 2), make_recorder(TRT, 2)
    first.begin(named=True)
    second.begin()
    second.report_layer_time("b", 2.0)
    first.report_layer_time("a", 1.0)
    assert (first.times_ms, first.names()) == ([1.0], ["a"])
    assert (second.times_ms, second.names()) == ([2.0], [])


def fill(recorder: Any, *inferences: list[float]) -> None:
    recorder.begin()
    for times in inferences:
        for ms in times:
            recorder.report_layer_time("same name", ms)
        recorder.mark()


def test_layers_of_one_name_are_told_apart_by_position() -> None:
    recorder = make_recorder(TRT, 10)
    fill(recorder, [0.25, 0.5], [0.3, 0.6])
    times = layer_times(recorder, 2)
    assert times.inferences == 2
    assert times.inference.tolist() == [0, 0, 1, 1]
    assert times.layer.tolist() == [0, 1, 0, 1]
    assert times.duration_ns.tolist() == [250_000, 500_000, 300_000, 600_000]
    assert times.start_offset_ns is None
    assert times.layer.dtype == np.int16
    assert times.duration_ns.dtype == np.int64


@pytest.mark.parametrize(
    ("inferences", "whole"),
    [
        (([1.0, 2.0], [1.0], [1.0, 2.0]), [0, 2]),
        (([1.0, 2.0], [1.0, 2.0, 3.0], [1.0, 2.0]), [0, 2]),
        (([1.0], [1.0, 2.0, 3.0]), []),  # as many as there should be in all
        (([], []), []),
    ],
)
def test_an_inference_with_a_wrong_number_gives_no_rows(
    inferences: tuple[list[float], ...], whole: list[int]
) -> None:
    recorder = make_recorder(TRT, 20)
    fill(recorder, *inferences)
    times = layer_times(recorder, 2)
    assert times.inferences == len(whole)
    assert times.inference.tolist() == [number for number in whole for _ in range(2)]
    assert times.duration_ns.tolist() == [1_000_000, 2_000_000] * len(whole)


def test_an_inference_that_did_not_fit_gives_no_rows() -> None:
    recorder = make_recorder(TRT, 3)
    fill(recorder, [1.0, 2.0], [1.0, 2.0])
    assert layer_times(recorder, 2).inferences == 1


def test_nothing_recorded_is_no_rows() -> None:
    recorder = make_recorder(TRT, 3)
    recorder.begin()
    times = layer_times(recorder, 2)
    assert (times.inferences, len(times.layer)) == (0, 0)


def test_differences_of_order_are_named() -> None:
    assert order_problem(["a", "b", "a"], ["a", "b", "a"]) == ""
    assert order_problem(["a", "b"], ["b", "a"]) == (
        "its layer 0 is 'a', but TensorRT reported 'b' there"
    )
    assert order_problem(["a", "b"], ["a"]) == "it has 2 layers, but TensorRT reported 1"
    assert order_problem([], ["a"]) == "it has 0 layers, but TensorRT reported 1"
    assert order_problem(["a [profile 1]"], ["a"]) == ""


def test_the_double_calls_it_as_the_bindings_do(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = load_double(monkeypatch)
    recorder = make_recorder(trt, 2)
    recorder.begin()
    trt.IProfiler.report_layer_time(recorder, "a", 0.5)
    assert recorder.times_ms == [0.5]


def test_the_benchmark_prints_the_same_figures_as_its_table() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "profiler_overhead.py"), "--quick"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert [row["callback"] for row in found["rows"]] == ["ours", "empty", "formats"]
    assert all(row["median_ns"] > 0 for row in found["rows"])
    assert found["target_ratio"] == 1.6
    assert done.returncode == int(found["rows"][0]["ratio"] > 1.6)


def test_reported_names_find_their_layers() -> None:
    expected = ["a", "c", "b [profile 1]", "a"]
    assert places(expected, ["a", "b", "a"]) == [0, 2, 3]
    assert places(expected, expected) == [0, 1, 2, 3]
    assert places(expected, ["b", "a"]) == [2, 3]
    assert places(expected, []) == []
    assert places(expected, ["b", "c"]) is None
    assert places(expected, ["a", "a", "a"]) is None


def test_layers_that_are_not_reported_take_no_time() -> None:
    recorder = make_recorder(TRT, 10)
    fill(recorder, [0.25, 0.5], [0.3], [0.3, 0.6])
    times = layer_times(recorder, 4, [1, 2])
    assert times.inference.tolist() == [0] * 4 + [2] * 4
    assert times.layer.tolist() == [0, 1, 2, 3] * 2
    assert times.duration_ns.tolist() == [0, 250_000, 500_000, 0, 0, 300_000, 600_000, 0]
    assert times.inferences == 2
