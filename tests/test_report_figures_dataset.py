"""Runs against each other: who is in which front, what is marked, what the page filters by."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edgejoule.report.figures.dataset_figures import dataset_figures
from edgejoule.report.figures.runs import dataset_marks, dynamic_per_image, fronts, gross_per_image
from edgejoule.report.overview import Overview
from tests.support_figures import HOSTILE


def overview(run: str, p50_ms: float, gross_mj: float, **more: object) -> Overview:
    base = Overview(
        run, run.partition("--")[0], "tensorrt", "float16", p50_ms=p50_ms,
        throughput_hz=1e3 / p50_ms, gross_mj=gross_mj, gross_half_mj=0.5,
        dynamic_mj=gross_mj / 2, gross_mj_per_image=gross_mj,
        mean_w=gross_mj / p50_ms, rail="total", device="Orin",
    )  # fmt: skip
    return replace(base, **more)  # type: ignore[arg-type]


RUNS = (
    overview("a", 2.0, 40.0),
    overview("b", 4.0, 20.0),
    overview("b--int8", 4.0, 30.0, dtype="int8"),  # as fast as b, takes more
    overview("c", 1.0, 10.0, simulated=True, marks=("SIMULATED power",)),  # would beat all
    overview("d", 1.5, 5.0, verdict="broken", reasons=("no clean pass",)),  # so would this
    overview("e", 9.0, 15.0),
    overview(HOSTILE, 80.0, 900.0, simulated=True, marks=("SIMULATED power", "random weights")),
    Overview("f", "f", gross_mj=1.0, throughput_hz=300.0),
)


def test_what_is_simulated_or_broken_beats_nothing_measured() -> None:
    assert fronts(RUNS, gross_per_image) == ([0, 1, 5], [3])


def test_the_figures_and_what_plotly_says() -> None:
    import plotly.graph_objects as go

    found = dataset_figures(RUNS)
    assert [one.key for one in found] == ["pareto", "pareto-dynamic", "throughput-power"]
    for one in found:
        go.Figure(data=[dict(trace) for trace in one.data], layout=dict(one.layout))
        text = json.dumps([one.data, one.layout], allow_nan=False)
        assert "<img" not in text
        assert "%{x" not in text
        assert one.marks == ("SIMULATED power (2 of 7 runs)", "random weights (1 of 7 runs)")
        assert "SIMULATED power (2 of 7 runs)" in one.layout["title"]["text"]
        assert {trace["meta"]["runs"] for trace in one.data} <= {"points", "front", "key"}


@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_point_carries_its_runs_index(place: int) -> None:
    figure = dataset_figures(RUNS)[place]
    points = [trace for trace in figure.data if trace["meta"]["runs"] == "points"]
    indices = [custom for trace in points for (custom,) in trace["customdata"]]
    assert sorted(indices) == [0, 1, 2, 3, 4, 5, 6]  # the last one has no figure
    assert "1 run" in figure.note
    for trace in points:
        assert len(trace["customdata"]) == len(trace["x"]) == len(trace["hovertext"])
        assert len(trace["marker"]["symbol"]) == len(trace["x"])


def test_the_front_is_a_step_line_over_the_best() -> None:
    (measured, simulated) = (
        trace for trace in dataset_figures(RUNS)[0].data if trace["meta"]["runs"] == "front"
    )
    assert measured["line"]["shape"] == "hv"
    assert measured["x"] == [2, 2, 4, 9, 80]
    assert measured["y"] == [900, 40, 20, 15, 15]
    assert simulated["x"] == [1, 1, 80]
    assert "SIMULATED" in simulated["name"]


def test_symbols_tell_precision_simulated_and_broken() -> None:
    figure = dataset_figures(RUNS)[0]
    symbols = {
        custom: symbol
        for trace in figure.data
        if trace["meta"]["runs"] == "points"
        for (custom,), symbol in zip(trace["customdata"], trace["marker"]["symbol"], strict=True)
    }
    assert symbols == {0: "circle", 1: "circle", 2: "square", 3: "circle-open", 4: "x-thin",
                       5: "circle", 6: "circle-open"}  # fmt: skip
    key = [trace["name"] for trace in figure.data if trace["meta"]["runs"] == "key"]
    assert key == ["float16", "int8", "hollow: SIMULATED", "broken run"]


def test_energy_is_per_image() -> None:
    one = overview("x", 8.0, 64.0, batch=8, gross_mj_per_image=8.0)
    assert (gross_per_image(one), dynamic_per_image(one)) == (8.0, 4.0)
    (trace,) = (t for t in dataset_figures([one])[0].data if t["meta"]["runs"] == "points")
    assert (trace["y"], trace["error_y"]["array"]) == ([8], [0.0625])


def test_axes_are_logarithmic_where_runs_lie_far_apart() -> None:
    far, near = dataset_figures(RUNS)[0], dataset_figures(RUNS[:3])[0]
    assert far.layout["xaxis"]["type"] == far.layout["yaxis"]["type"] == "log"
    assert "type" not in near.layout["xaxis"]
    below = dataset_figures([*RUNS, overview("z", 1.0, 0.1, dynamic_mj=-0.5)])[1]
    assert "type" not in below.layout["yaxis"]  # noise put one below zero


def test_cautions_name_what_is_not_alike() -> None:
    note = dataset_figures([RUNS[0], overview("g", 3, 4, rail="gpu", batch=2)])[0].note
    assert "different rails" in note
    assert "whatever its batch" in note
    assert (
        "different devices"
        in dataset_figures([RUNS[0], overview("g", 3, 4, device="H200")])[0].note
    )


def test_nothing_to_compare() -> None:
    assert dataset_figures(()) == ()
    assert dataset_figures([Overview("x", "x")]) == ()
    assert dataset_marks(()) == ()
