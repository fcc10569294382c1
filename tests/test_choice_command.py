"""`report.py best` on datasets on disk: figures out of run.json and the trace, exit codes."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from edgejoule.cli import report_best
from edgejoule.report.choice_candidates import candidate_of
from edgejoule.report.choice_case import Tolerance
from edgejoule.report.overview import overview_of
from edgejoule.report.tables import load_run
from tests.support_tables import build

TOTAL = {"rails": ["VDD_IN"], "contains": "the module", "excludes": "the carrier board",
         "source": "made up"}  # fmt: skip


def summary(p99_ms: float, gross_mj: float, rate: dict[str, Any] | None = None) -> dict[str, Any]:
    clean = {
        "inferences": 4000, "mean_ms": 8.0, "interval_mean_ms": [7.9, 8.1], "median_ms": 8.0,
        "p90_ms": 9.0, "p99_ms": p99_ms, "min_ms": 7.0, "max_ms": 20.0,
    }  # fmt: skip
    energy = {
        "gross_mj": gross_mj, "gross_statistical_mj": 0.5, "dynamic_mj": gross_mj - 8.0,
        "dynamic_statistical_mj": 0.4, "mean_mw": 5000.0, "n": 4000,
    }  # fmt: skip
    accuracy = {"gain_rel": 0.01, "offset_mw": 10.0, "step_mw": 10.0, "sources": [],
                "assumptions": []}  # fmt: skip
    return {
        "inferences": {"clean": 4000, "profiled": 6},
        "clean": clean,
        "profiled": {**clean, "held_ms_mean": 0.0},
        "profiled_over_clean": 1.0,
        "rate": rate,
        "memory": {"peak_mib": 300.0, "how": "resident", "limit": None},
        "energy": {
            "rail": "total",
            "rails": {"total": {"clean": energy}},
            "accuracy": {"total": accuracy},
        },
    }


def rate(hz: float = 30.0, **changes: Any) -> dict[str, Any]:
    figures = {"gross_mj_per_frame": 120.0, "mean_mw": 3600.0, "between_frames_mw": 1000.0}
    counted = {"frames": 900, "dropped": 0, "missed_deadlines": 0, "inferences": 900,
               "median_ms": 14.0, "p90_ms": 16.0, "p99_ms": 18.0}  # fmt: skip
    return {"rate_hz": hz, **counted, "energy": {"total": figures}, **changes}


def add(dataset: Path, name: str, *figures: Any, **more: Any) -> Path:
    sensor = {"name": "ina3221", "simulated": False, "total": TOTAL}
    run = {"summary": summary(*figures), "sensor": sensor, **more}
    return build(dataset, name, run=run, times_ms=[[0.4, 0.3, 0.2]] * 6)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    add(folder, "small", 12.0, 40.0, rate())
    add(folder, "large", 50.0, 200.0)
    add(folder, "made", 1.0, 1.0, rate(), simulated=True)
    return folder


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any]]:
    status = report_best.main([*map(str, words), "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_best_of_a_dataset(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = told(capsys, dataset, "--latency-ms", 33, "--power-w", 10)
    assert status == 0
    assert found["best"] == "small"
    (case,) = found["meeting"]
    assert (case["energy_mj_per_frame"], case["latency_ms"], case["power_w"]) == (40.0, 12.0, 5.0)
    assert {one["run"]: [r["kind"] for r in one["reasons"]] for one in found["failing"]} == {
        "large": ["latency"],
        "made": ["simulated"],
    }
    status, found = told(capsys, dataset, "--include-simulated")
    assert found["best"] == "made"
    assert found["meeting"][0]["marks"] == ["SIMULATED power"]


def test_at_a_rate_with_a_battery(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (dataset, "--rate-hz", 30, "--battery-wh", 50)
    status, found = told(capsys, *words)
    assert status == 0
    (case,) = found["meeting"]
    assert (case["energy_mj_per_frame"], case["power_w"], case["basis"]) == (120.0, 3.6, "rate")
    assert case["latency_ms"] == 18.0
    assert case["battery"]["hours"] == pytest.approx(50 / 3.6)
    bound_w = 0.01 * 3.6 + 0.02
    assert case["battery"]["systematic"] == pytest.approx(
        [50 / (3.6 + bound_w), 50 / (3.6 - bound_w)]
    )
    assert case["total_excludes"] == "the carrier board"
    large = next(one for one in found["failing"] if one["run"] == "large")
    assert [one["text"] for one in large["reasons"]] == [
        "not measured at 30 Hz: measure with --rate-hz 30"
    ]
    assert report_best.main([str(word) for word in words]) == 0
    out = capsys.readouterr().out
    assert "120 mJ gross per frame on total, measured at 30 Hz" in out
    assert "50 Wh last 13.89 h" in out
    assert "not in it: the carrier board" in out
    status, found = told(capsys, dataset, "--rate-hz", 30, "--back-to-back")
    assert [one["run"] for one in found["meeting"]] == ["small", "large"]


def test_none_meets_the_limits(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_best.main([str(dataset), "--latency-ms", "5"]) == 1
    out = capsys.readouterr().out
    assert "no run meets the limits\n  nearest in p99 latency: small with 12 ms (limit 5 ms)" in out
    status, found = told(capsys, dataset, "--latency-ms", 5)
    assert (status, found["best"]) == (1, None)
    assert found["nearest"][0]["run"] == "small"


def test_a_run_that_cannot_be_read_is_named(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (dataset / "large" / "run.json").write_text("{")
    status, found = told(capsys, dataset)
    assert status == 0
    assert len(found["damaged"]) == 1
    assert found["damaged"][0].startswith("large: ")
    assert report_best.main([str(dataset)]) == 0
    assert "these cannot be read:\n  large: " in capsys.readouterr().out


def test_a_terminal_without_the_signs_gets_escapes(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding="ascii"))
    assert report_best.main([str(dataset)]) == 0
    sys.stdout.flush()
    assert b"40 \\xb1 0.5 mJ gross per frame" in data.getvalue()


def test_models(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = told(capsys, dataset, "--models", "large,made")
    assert (status, found["best"], found["left_out"]) == (0, "large", 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--back-to-back"], "give --rate-hz"),
        (["--models", "dream"], "is of dream"),
        (["--models", ","], "names no model"),
    ],
)
def test_usage(
    dataset: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert report_best.main([str(dataset), *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--latency-ms", "0"],
        ["--latency-ms", "nan"],
        ["--power-w", "-1"],
        ["--missed", "101"],
        ["--percentile", "p42"],
        ["--battery-wh", "inf"],
    ],
)
def test_limits_that_are_none(
    dataset: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        report_best.main([str(dataset), *words])
    assert end.value.code == 2


def test_no_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_best.main([str(tmp_path / "nowhere")]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_intervals_come_from_the_trace(tmp_path: Path) -> None:
    """A power that rises by steps over the clean pass: blocks scatter as they do."""
    import pyarrow.parquet as pq

    from edgejoule.dataset.schema import read_metadata, write_table
    from edgejoule.energy.statistics import t95

    path = add(tmp_path / "set", "a", 12.0, 40.0)
    run = json.loads((path / "run.json").read_text())
    (clean,) = (one for one in run["phases"] if one["phase"] == "clean")
    table = pq.read_table(path / "power.parquet")
    columns = {name: table[name].to_pylist() for name in table.column_names}
    metadata = {**read_metadata(path / "power.parquet"), "total": TOTAL}
    half = (clean["start_ns"] + clean["end_ns"]) / 2
    for row, (t, channel) in enumerate(zip(columns["t0_ns"], columns["channel"], strict=True)):
        if channel == 1:
            columns["raw"][row] = 900 if t < half else 1100  # 4.5 W, then 5.5 W
    write_table(path / "power.parquet", "power", columns, **metadata)
    loaded = load_run(path)
    found = candidate_of(loaded, overview_of(loaded))
    # Twenty blocks, ten of either power: a deviation of 0.5 W times the root of 20 / 19.
    expected = t95(19) * 0.5 * (20 / 19) ** 0.5 / 20**0.5
    assert found.clean_half_w == pytest.approx(expected, rel=0.1)
    assert found.rate_half_w is None
    assert found.tolerance == Tolerance(0.01, 0.02)
    assert found.excludes == "the carrier board"
    assert candidate_of(loaded, overview_of(loaded), intervals=False).clean_half_w is None
