"""From a run's tables to the rows of every method: what is read, and what a failure costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule import attributing
from edgejoule.attributing import Attributed, Task, attribute_run, read_timeline, summarised
from edgejoule.dataset.schema import write_table
from edgejoule.energy.rows import EnergyRow
from edgejoule.energy.scaled import with_scaled
from edgejoule.energy.trace import RailPower
from edgejoule.errors import MeasurementError
from edgejoule.phases import PhaseSpan
from edgejoule.summary import Inferences, LayerSums, Power

MS = 1_000_000
N = 40
START = np.arange(N) * 10 * MS
INFERENCES = Inferences(np.arange(N), START, START + 8 * MS, np.empty(0, np.int64))


def write_layers(folder: Path, offsets: list[int | None]) -> None:
    """Two layers of 3 and 4 ms in each inference."""
    write_table(
        folder / "layers.parquet",
        "layers",
        {
            "inference": np.repeat(np.arange(N), 2),
            "layer": np.tile([0, 1], N),
            "duration_ms": np.tile([3.0, 4.0], N),
            "start_offset_ns": offsets * N,
        },
    )


def test_layers_become_a_timeline_with_the_stretches_of_the_pass(tmp_path: Path) -> None:
    write_layers(tmp_path, [0, 4 * MS])
    spans = [
        PhaseSpan("harvest", 0, 1),
        PhaseSpan("profiled", 1, 5),
        PhaseSpan("harvest", 5, 6),
        PhaseSpan("profiled", 6, 9),
    ]
    found = read_timeline(tmp_path, INFERENCES, 2, spans)
    assert found.layer_ns.tolist() == [[3.0 * MS, 4.0 * MS]] * N
    assert found.offset_ns is not None
    assert found.offset_ns.tolist() == [[0, 4 * MS]] * N
    assert found.gap_ns.tolist() == [1.0 * MS] * N
    assert found.spans_ns is not None
    assert found.spans_ns.tolist() == [[1, 5], [6, 9]]


def test_one_start_that_is_not_known_leaves_all_to_the_gap_model(tmp_path: Path) -> None:
    write_layers(tmp_path, [0, None])
    assert read_timeline(tmp_path, INFERENCES, 2).offset_ns is None


def task_of(folder: Path, methods: tuple[str, ...], **more: Any) -> Task:
    times = np.arange(0, 600 * MS, MS)
    power = Power({"VDD_IN": RailPower("VDD_IN", times, np.full(len(times), 5000.0))}, None)
    sums = LayerSums(np.full(N, 7.0 * MS), np.tile([6.0 * MS, 8.0 * MS], (20, 1)))
    loaded = {"rails": {"VDD_IN": {"mean_mw": 2000.0, "half_width_mw": 10.0}}, "kind": "loaded"}
    write_table(
        folder / "power.parquet",
        "power",
        {name: [] for name in ("t0_ns", "t1_ns", "channel", "raw", "errno")},
        channels=[],
    )
    return Task(
        folder, methods, power, INFERENCES, sums, [loaded], [], {"name": "x", "simulated": False},
        more.get("measure", {}), more.get("sampler", {}), {"VDD_IN": (30.0, 20.0)},
    )  # fmt: skip


def test_a_method_that_cannot_is_a_note_and_costs_no_other(tmp_path: Path) -> None:
    write_layers(tmp_path, [0, 4 * MS])
    said = {"replay": {"why": "this backend has no replay pass"}}
    found = attribute_run(task_of(tmp_path, ("replay", "window"), measure=said))
    assert found.methods == ["proportional"]
    assert found.notes == [
        "no energy by replay: this backend has no replay pass",
        "no energy by window: the sensor was not polled at the attribution rate",
    ]
    layers = [row for row in found.rows if row.kind == "layer"]
    assert [row.gross_mj for row in layers] == pytest.approx([15.0, 20.0])
    assert [row.dynamic_mj for row in layers] == pytest.approx([9.0, 12.0])
    assert [row.time_ms for row in layers] == pytest.approx([3.0, 4.0])
    assert [row.scaled_gross_mj for row in layers] == pytest.approx([30 * 15 / 40, 30 * 20 / 40])
    assert found.attribution["proportional"]["VDD_IN"]["closure"]["gross"] == pytest.approx(1.0)


def test_a_replay_pass_that_failed_after_its_first_segments_is_a_note(tmp_path: Path) -> None:
    write_layers(tmp_path, [0, 4 * MS])
    columns = {"kind": ["idle"], "layer": [None], "copies": [1], "round": [0], "iterations": [0]}
    write_table(tmp_path / "replay.parquet", "replay", {**columns, "start_ns": [1], "end_ns": [9]})
    said = {"replay": {"why": "RuntimeError: out of memory"}}
    found = attribute_run(task_of(tmp_path, ("replay",), measure=said))
    assert found.notes == ["no energy by replay: RuntimeError: out of memory"]
    assert found.methods == ["proportional"]


def test_an_error_of_a_method_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_layers(tmp_path, [0, 4 * MS])

    def refuse(task: Task, found: Attributed) -> None:
        raise MeasurementError("no clock")

    monkeypatch.setattr(attributing, "_interval", refuse)
    found = attribute_run(task_of(tmp_path, ("interval",)))
    assert found.notes == ["no energy by interval: no clock"]
    assert found.methods == ["proportional"]


def row(kind: str, gross: float | None, resolved: bool | None = None) -> EnergyRow:
    return EnergyRow("window", "total", kind, 0, gross, None, gross, None, None, 9, resolved)


def test_a_summary_says_how_much_is_resolved_and_how_it_closes() -> None:
    rows = [
        row("layer", 6.0, True),
        row("layer", None, False),
        row("group", 3.0, False),
        row("gap", 0.5),
        row("inference", 10.0),
        row("closure", 9.5),
    ]
    found = summarised(rows, {"closure": {"held_out": {"gross": 0.99}}, "delay_ns": 7})
    assert found["closure"]["gross"] == pytest.approx(0.95)
    assert found["closure"]["held_out"] == {"gross": 0.99}
    assert (found["resolved_layers"], found["layers"]) == (1, 2)
    assert found["resolved_share"] == pytest.approx(6 / 9.5)
    assert found["facts"] == {"delay_ns": 7}
    assert (found["closure"]["missing_layers"], found["closure"]["time_share"]) == (0, 1.0)


def test_what_is_in_no_sum_shows_beside_the_closure_and_is_no_share() -> None:
    known = replace(row("layer", 6.0, True), time_ms=3.0)
    nothing = {"layer": 1, "group": 1, "time_ms": 1.0}
    rows = [
        known,
        replace(row("layer", None, False), **nothing),
        replace(row("group", None, False), **{**nothing, "layer": None}),
        row("gap", 0.5),
        row("inference", 10.0),
        row("closure", 6.5),
    ]
    found = summarised(rows, {"closure": {"gross": 0.65, "interval_gross": [0.64, 0.66]}})
    assert (found["closure"]["missing_layers"], found["closure"]["time_share"]) == (1, 0.75)
    assert found["resolved_share"] == pytest.approx(0.6)  # of the whole, not of what is known
    # A share of what is known would give the missing layer's part to the others.
    assert {one.scaled_gross_mj for one in with_scaled(rows, 20.0, 20.0)} == {None}
    rows[2] = replace(rows[2], gross_mj=3.0)
    assert summarised(rows, {})["closure"]["missing_layers"] == 0
    assert with_scaled(rows, 20.0, 20.0)[0].scaled_gross_mj == pytest.approx(6 / 6.5 * 20)
