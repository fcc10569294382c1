"""Figures of a run: what they show, that plotly takes them, and what names may not do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.report.figures.figure import Figure
from edgejoule.report.figures.run_figures import run_figures
from edgejoule.report.figures.style import mark_lines
from edgejoule.report.series import ConditionSeries, RunSeries
from edgejoule.report.tables import RunTables, load_run
from tests.support_figures import HOSTILE, LONG, SUMMARY, drawn_run, energies, layers
from tests.support_tables import build, energy_row

KEYS = ("power", "layers-time", "layers-energy", "modules", "operations", "roofline", "shares",
        "latency", "drift", "climate", "loads", "lateness")  # fmt: skip


def hostile_run(folder: Path) -> RunTables:
    return drawn_run(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunTables:
    return drawn_run(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def figures(run: RunTables) -> dict[str, Figure]:
    return {one.key: one for one in run_figures(run)}


def texts(value: Any) -> Iterator[tuple[str, str]]:
    """Every text in a figure with the key it stands under."""

    def walk(key: str, inner: Any) -> Iterator[tuple[str, str]]:
        if isinstance(inner, str):
            yield key, inner
        elif isinstance(inner, dict):
            for name, one in inner.items():
                yield from walk(name, one)
        elif isinstance(inner, (list, tuple)):
            for one in inner:
                yield from walk(key, one)

    return walk("", value)


def trace(figure: Figure, name: str) -> dict[str, Any]:
    return dict(next(one for one in figure.data if str(one.get("name")).startswith(name)))


def test_all_in_order_and_plotly_takes_them(run: RunTables) -> None:
    import plotly.graph_objects as go

    found = run_figures(run)
    assert tuple(one.key for one in found) == KEYS
    for one in found:
        go.Figure(data=[dict(trace) for trace in one.data], layout=dict(one.layout))
        assert one.data
        assert one.marks == ("SIMULATED power", "random weights")
        assert one.layout["title"]["text"] == "<b>SIMULATED power · random weights</b>"
        assert one.note.endswith(".")


def test_only_plain_values_with_finite_numbers(figures: dict[str, Figure]) -> None:
    plain = (dict, list, str, int, float, bool, type(None))

    def walk(value: Any) -> None:
        assert type(value) in plain, type(value)
        for one in (
            value.values() if isinstance(value, dict) else value if type(value) is list else ()
        ):
            walk(one)

    for one in figures.values():
        json.dumps([one.data, one.layout], allow_nan=False)
        walk([list(one.data), one.layout])


def test_svg_traces_and_no_colours_of_the_page(figures: dict[str, Figure]) -> None:
    for one in figures.values():
        assert {trace["type"] for trace in one.data} <= {"scatter", "bar", "icicle"}
        assert not {"paper_bgcolor", "plot_bgcolor", "font", "template", "width", "height"} & set(
            one.layout
        )


def test_names_are_shown_and_do_nothing(figures: dict[str, Figure]) -> None:
    tags = {"<b>", "</b>", "<br>"}
    seen = 0
    for one in figures.values():
        for key, text in texts([one.data, one.layout]):
            if key.endswith("template"):
                assert "img" not in text
                continue
            bare = text
            for tag in tags:
                bare = bare.replace(tag, "")
            assert "<" not in bare.replace("&lt;", ""), (one.key, key, text)
            assert "%{" not in bare
            assert "\x1b" not in text
            assert "\u202e" not in text
            seen += "&lt;img" in text
        assert HOSTILE not in one.title
    assert seen > 20
    labels = figures["layers-time"].layout["yaxis"]["ticktext"]
    assert labels[0] == "&lt;img src=x one~ {{7*7}} &amp; co"
    assert max(len(line) for text in trace(figures["layers-time"], "pooling")["hovertext"]
               for line in text.split("<br>")) <= 60  # fmt: skip


def test_long_names_are_whole_in_the_label_as_far_as_a_phone_allows(
    figures: dict[str, Figure],
) -> None:
    (text,) = (
        text
        for one in figures["layers-time"].data
        for text in one["hovertext"]
        if "Conv_1234" in text
    )
    name = text.split("4.00")[0]
    assert LONG[:80] in name.replace("<br>", "")


def test_size_of_a_run_of_60_layers(tmp_path: Path) -> None:
    found = run_figures(drawn_run(tmp_path, 60))
    size = sum(
        len(json.dumps([one.data, one.layout], separators=(",", ":"), allow_nan=False))
        for one in found
    )
    assert size < 150_000


def test_layers_by_time(figures: dict[str, Figure], tmp_path: Path) -> None:
    figure = figures["layers-time"]
    bars = {y: x for one in figure.data for x, y in zip(one["x"], one["y"], strict=True)}
    assert bars == {0: 4, 1: 2, 2: 1.3333, 3: 1, 4: 0.8}
    assert figure.layout["xaxis"]["title"]["text"] == "time per inference, ms"
    halves = [half for one in figure.data for half in one.get("error_x", {}).get("array", [])]
    assert halves in ([], [0] * 5)  # twelve equal times
    many = {one.key: one for one in run_figures(drawn_run(tmp_path, 60))}["layers-time"]
    (rest,) = trace(many, "all others")["x"]
    assert rest == pytest.approx(sum(4.0 / (k + 1) for k in range(25, 60)), rel=1e-4)
    assert many.layout["yaxis"]["ticktext"][-1] == "35 other layers"


def test_layers_by_energy(figures: dict[str, Figure]) -> None:
    figure = figures["layers-energy"]
    assert figure.title == "Layers by energy (window regression)"
    gross = trace(figure, "gross")
    # The group of two stands as one; the gap is the last; the other layer is below zero.
    assert gross["x"] == [8, 4, 3, -0.25, 1]
    assert gross["error_x"]["array"] == [0.4, 0.4, "unknown", 0.4, "unknown"]
    assert gross["marker"]["pattern"]["shape"] == ["", "", "/", "", ""]
    labels = figure.layout["yaxis"]["ticktext"]
    assert labels[2].startswith("2 together: ")
    assert labels[-1] == "gap (in no layer)"
    assert trace(figure, "dynamic")["x"] == [5, 2.5, 1.5, 1, 0.5]
    assert "Hatched" in figure.note
    assert figure.layout["xaxis"]["title"]["text"].endswith(
        "<br>(window regression,<br>rail total)"
    )


def test_layers_without_any_figure_have_no_bar(tmp_path: Path) -> None:
    rows = [energy_row("replay", "total", 0, gross_mj=8.0, resolved=True)]
    rows += [energy_row("replay", "total", k, gross_mj=None, resolved=False) for k in (1, 2)]
    path = build(tmp_path, layers=layers(3), times_ms=[[1.0] * 3] * 3, energy=rows)
    found = {one.key: one for one in run_figures(load_run(path))}
    assert trace(found["layers-energy"], "gross")["x"] == [8]
    assert "Without a figure and a bar: 2 layers not resolved." in found["layers-energy"].note
    assert "Not in it: 2 layers without a figure." in found["shares"].note


def test_modules_add_up_whatever_noise_did(figures: dict[str, Figure]) -> None:
    figure = figures["modules"]
    (one,) = figure.data
    assert one["branchvalues"] == "remainder"
    assert min(one["values"]) >= 0
    assert set(one["parents"]) - {""} <= set(one["ids"])
    assert len(set(one["ids"])) == len(one["ids"])
    # 8 + 4 (unmapped) + 3 (the group) + 1 (the gap), the -0.25 have no height.
    assert sum(one["values"]) == pytest.approx(16.0)
    assert "Below zero by noise and so without a height of its own: 1." in figure.note
    assert any("gross 15.75 mJ" in text for text in one["hovertext"])
    assert "in no known module" in one["labels"]


def test_a_model_without_modules_says_why_there_is_no_tree(tmp_path: Path) -> None:
    flat = [{**one, "module_path": None} for one in layers(5)]
    path = build(tmp_path, layers=flat, times_ms=[[1.0] * 5] * 3, energy=energies(5))
    found = {one.key: one for one in run_figures(load_run(path))}["modules"]
    assert found.data == ()
    assert found.note == "Not drawn: no layer says which module of the model it belongs to."
    assert found.layout["annotations"][0]["text"] in found.note


def test_operations_are_shares_of_the_inference(figures: dict[str, Figure]) -> None:
    figure = figures["operations"]
    names = figure.layout["yaxis"]["ticktext"]
    assert names == ["convolution", "pooling", "convolution + dense", "gap (in no layer)"]
    gross = dict(zip(names, trace(figure, "gross")["x"], strict=True))
    assert gross["convolution"] == pytest.approx(100 * 8 / 15.75, rel=1e-4)
    assert sum(gross.values()) == pytest.approx(100, rel=1e-4)
    time = trace(figure, "time")["x"]
    assert sum(time) == pytest.approx(100, rel=1e-3)


def test_roofline_has_the_measured_ceilings_and_areas_as_energies(
    figures: dict[str, Figure],
) -> None:
    figure = figures["roofline"]
    memory, arithmetic = figure.data[:2]
    assert (memory["y"][-1], arithmetic["y"]) == (10, [10, 10])
    assert memory["x"][-1] == arithmetic["x"][0] == 10  # the ridge, FLOP per byte
    points = [one for one in figure.data if one["mode"] == "markers"]
    symbols = [symbol for one in points for symbol in one["marker"]["symbol"]]
    assert symbols.count("circle-open") == 2  # the layers of the group have no energy of their own
    assert figure.layout["xaxis"]["type"] == figure.layout["yaxis"]["type"] == "log"


def test_without_measured_ceilings_the_roofline_says_so(run: RunTables) -> None:
    bare = replace(run, run={**run.run, "summary": {**SUMMARY, "roofline": None}})
    figure = {one.key: one for one in run_figures(bare)}["roofline"]
    assert "were not measured" in figure.note
    assert all(one["mode"] == "markers" for one in figure.data)


def test_shares_with_the_diagonal(figures: dict[str, Figure]) -> None:
    figure = figures["shares"]
    assert figure.data[0]["x"] == figure.data[0]["y"]
    gross = trace(figure, "gross")
    assert len(gross["x"]) == len(gross["y"]) == 5
    assert gross["marker"]["symbol"].count("circle-open") == 1
    assert gross["hovertext"] == trace(figure, "dynamic")["hovertext"]
    assert any("gross energy " in one and "times the mean above idle" in one
               for one in gross["hovertext"])  # fmt: skip
    assert trace(figure, "dynamic")["visible"] == "legendonly"
    assert any("&lt;img" in one["text"] for one in figure.layout["annotations"])


def test_power_has_bands_with_gaps_and_few_phases(figures: dict[str, Figure]) -> None:
    figure = figures["power"]
    assert figure.data[-2]["name"] == "total"  # on top, only the strip of phases after it
    band, line = figure.data[-3], figure.data[-2]
    assert line["y"][20] is None
    assert None in band["y"]
    assert max(value for value in band["y"] if value is not None) == pytest.approx(6.2, abs=0.01)
    assert band["legendgroup"] == line["legendgroup"]
    strip = figure.data[-1]
    assert strip["text"][3:5] == ["clean", "profiled"]
    assert strip["hovertext"][4].startswith("<b>profiled / harvest</b><br>20 to 30 s")
    assert len(strip["text"]) == 7
    assert len(figure.layout["shapes"]) == 7
    assert "3 reads failed" in figure.note


def test_latency_lines_and_density(figures: dict[str, Figure]) -> None:
    figure = figures["latency"]
    clean = trace(figure, "clean (100")
    # 5 of 100 inferences in 0.1 ms are 50 % per ms.
    assert clean["y"][1] == 50
    lines = [one["name"] for one in figure.data if one.get("showlegend") is False]
    assert lines[:3] == ["clean: p50 3.9 ms", "clean: p90 4.4 ms", "clean: p99 5.2 ms"]
    assert "1 of 100 (clean)" in figure.note
    assert [one["text"] for one in figure.layout["annotations"]] == ["p50", "p90", "p99"]


def test_a_short_peak_stays_in_a_long_run(run: RunTables) -> None:
    """Every so many looks used to be drawn: what lay between was not seen."""
    t_s, values = np.arange(1200.0), np.full(1200, 45.0)
    values[601] = 97.5
    peak = ConditionSeries("temperature_gpu_c", "temperature", "\u00b0C", t_s, values)
    series = replace(run.series, conditions=(peak,))
    figure = {one.key: one for one in run_figures(replace(run, series=series))}["climate"]
    assert len(figure.data[0]["y"]) == 240
    assert max(figure.data[0]["y"]) == 97.5


def test_conditions_by_unit(figures: dict[str, Figure]) -> None:
    climate = figures["climate"].layout
    assert climate["yaxis"]["title"]["text"] == "clock, MHz"
    assert climate["yaxis2"]["title"]["text"] == "temperature, °C"
    loads = figures["loads"]
    assert [loads.layout[name]["title"]["text"] for name in ("yaxis", "yaxis2", "yaxis3")] == [
        "load, %", "free, GiB", "memory, MiB",
    ]  # fmt: skip
    assert trace(loads, "memory_available")["y"][0] == 20


def test_lateness_in_percent_per_group(figures: dict[str, Figure]) -> None:
    figure = figures["lateness"]
    monitor, attribution = figure.data
    assert figure.layout["xaxis"]["ticktext"] == ["&lt; 2 µs", "&lt; 4 µs", "&lt; 8 µs"]
    assert monitor["y"] == [6.25, 83.333, 10.417]
    assert attribution["y"] == [None, 90, 10]
    assert "monitor rate: 5 late deadlines" in figure.note


def test_what_is_not_there_is_not_drawn(tmp_path: Path, run: RunTables) -> None:
    quiet = build(tmp_path, "quiet", sensor="none", run={"summary": {}})
    assert {one.key for one in run_figures(load_run(quiet))} == {
        "layers-time", "operations", "roofline",
    }  # fmt: skip
    empty = RunTables(tmp_path / "broken", {"status": "incomplete"})
    assert run_figures(empty) == ()
    only_power = replace(empty, series=replace(run.series, latency=(), conditions=(), spans=()))
    (power,) = run_figures(only_power)
    assert power.marks[0] == "INCOMPLETE"
    assert "shapes" not in power.layout
    nothing = replace(run.series.power[0], mean_w=np.full(40, np.nan))
    assert run_figures(replace(empty, series=RunSeries(power=(nothing,)))) == ()


def test_damaged_figures_of_the_sampler_are_left_out(run: RunTables) -> None:
    for said in ("text", [1, "2"], [0, 0], [-1, 2], None):
        summary = {**SUMMARY, "sampler": {"lateness_us_log2": said}}
        found = run_figures(replace(run, run={**run.run, "summary": summary}))
        assert "lateness" not in {one.key for one in found}


def test_marks_are_broken_into_lines_of_a_phone() -> None:
    marks = ("INCOMPLETE", "SIMULATED power", "random weights", "shared GPU", "x" * 90)
    lines = mark_lines(marks)
    assert lines[0] == "INCOMPLETE · SIMULATED power"
    assert max(map(len, lines)) <= 42
