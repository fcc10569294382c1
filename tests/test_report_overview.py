"""One row per run: figures of known runs, and what speaks against them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgejoule.report.overview import Overview, overview_of
from edgejoule.report.series import ConditionSeries, PhaseSpan, RailSeries, RunSeries
from edgejoule.report.tables import RunTables, load_run
from edgejoule.report.verdict import unsaid_notes
from tests import support_tables
from tests.support_tables import energy_row

CLEAN = {"inferences": 400, "mean_ms": 2.0, "interval_mean_ms": [1.98, 2.02], "median_ms": 1.9,
         "p90_ms": 2.4, "p99_ms": 3.1}  # fmt: skip
JOULES = {"gross_mj": 20.0, "gross_statistical_mj": 0.2, "dynamic_mj": 16.0,
          "dynamic_statistical_mj": 0.3, "mean_mw": 10_000.0}  # fmt: skip
SUMMARY: dict[str, Any] = {
    "clean": CLEAN,
    "profiled_over_clean": 1.1,
    "rate": {"rate_hz": 30.0, "missed_deadlines": 3,
             "energy": {"total": {"gross_mj_per_frame": 50.0, "mean_mw": 1500.0}}},
    "energy": {"rail": "total", "rails": {"total": {"clean": JOULES}}, "clean": JOULES},
    "memory": {"peak_mib": 812.5, "limit": None},
    "warmup": {"steady": True},
    "sampler": {"sweeps": 1000, "reads": 6000, "late_deadlines": 3, "gaps": 0, "errors": {}},
    "notes": [],
}  # fmt: skip
RUN: dict[str, Any] = {
    "status": "complete",
    "config": {"model": "resnet18", "backend": "torch", "dtype": "float16", "device": "cuda:0",
               "input_shape": [4, 3, 8, 8], "repeat": 2, "rebuild": 1},
    "machine": {"gpu": {"names": ["Orin"]}, "cpu": {"model": "A78"}},
    "board_id": "orin-nano",
    "power_mode": "15W",
    "sensor": {"name": "ina3221"},
    "weights": "pretrained",
    "simulated": False,
    "accuracy": {"mean_relative_error": 1e-3},
    "summary": SUMMARY,
}  # fmt: skip
IDLE = [
    {"kind": "loaded", "when": when, "rails": {"total": {"mean_mw": mean, "n": 9}}, "verdicts": []}
    for when, mean in (("before", 1900.0), ("after", 2100.0))
]


def changed(document: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    """Return a copy with one value replaced; `where` is a path of keys."""
    copy: dict[str, Any] = json.loads(json.dumps(document))
    holder = copy
    *path, last = where.split(".")
    for key in path:
        holder = holder.setdefault(key, {})
    holder[last] = value
    return copy


def tables(run: dict[str, Any] = RUN, idle: Any = IDLE, **fields: Any) -> RunTables:
    return RunTables(Path("x/resnet18"), run, idle=idle, **fields)


def row(where: str | None = None, value: Any = None, **fields: Any) -> Overview:
    return overview_of(tables(RUN if where is None else changed(RUN, where, value), **fields))


def test_every_figure_of_a_run() -> None:
    found = row()
    expected = {
        "run": "resnet18", "model": "resnet18", "backend": "torch", "dtype": "float16", "batch": 4,
        "device": "Orin", "board": "orin-nano", "mode": "15W", "repeat": 2, "rebuild": 1,
        "status": "complete", "marks": (), "simulated": False, "sensor": "ina3221",
        "weights": "pretrained", "inferences": 400, "p50_ms": 1.9, "p90_ms": 2.4, "p99_ms": 3.1,
        "mean_ms": 2.0, "mean_half_ms": pytest.approx(0.02), "throughput_hz": 2000.0,
        "rail": "total", "gross_mj": 20.0, "gross_half_mj": 0.2, "dynamic_mj": 16.0,
        "dynamic_half_mj": 0.3, "gross_mj_per_image": 5.0, "mean_w": 10.0, "idle_w": 2.0,
        "rate_hz": 30.0, "missed_deadlines": 3, "gross_mj_per_frame": 50.0, "rate_mean_w": 1.5,
        "memory_mib": 812.5, "memory_limit_mib": None, "profiled_over_clean": 1.1,
        "relative_error": 1e-3, "peak_w": None, "temperature_c": None, "method": None,
        "closure_gross": None, "verdict": "sound", "reasons": (),
    }  # fmt: skip
    assert {name: getattr(found, name) for name in expected} == expected


def test_peaks_come_with_the_series() -> None:
    some = np.array([0.0, 1.0])
    power = RailSeries("total", some, some, some, some, 2, 0, 12.5)
    heat = [ConditionSeries(f"t{n}", "temperature", "\u00b0C", some, np.array([np.nan, value]))
            for n, value in enumerate((40.0, 71.5))]  # fmt: skip
    found = row(series=RunSeries(0, (), (power,), (), tuple(heat)))
    assert (found.peak_w, found.temperature_c) == (12.5, 71.5)


def test_a_board_without_a_total() -> None:
    """The rail of the sensor that sees the device stands for the run; of several none does."""
    channels = [{"rail": "gpu", "sensor": "nvml"}, {"rail": "package-0", "sensor": "rapl"}]
    run = changed(RUN, "sensor", {"name": "nvml,rapl", "channels": channels})
    rails = {"gpu": {"clean": JOULES}, "package-0": {"clean": {**JOULES, "gross_mj": 1.0}}}
    run = changed(run, "summary.energy", {"rail": None, "rails": rails})
    found = overview_of(tables(run))
    assert (found.rail, found.gross_mj) == ("gpu", 20.0)
    run = changed(run, "sensor.channels", [{**one, "sensor": "ina"} for one in channels])
    found = overview_of(tables(run))
    assert (found.rail, found.gross_mj, found.idle_w) == (None, None, None)
    assert found.reasons == ("no rail stands for the whole run: energy is known per rail only",)


def test_without_a_sensor_a_run_may_be_sound() -> None:
    run = changed(RUN, "sensor", {"name": "none"})
    found = overview_of(tables(changed(run, "summary.energy", {"why": "no sensor"}), idle=None))
    assert (found.gross_mj, found.sensor, found.verdict) == (None, None, "sound")


LATE = {"sweeps": 1000, "reads": 6000, "late_deadlines": 80, "gaps": 0, "errors": {}}
NOTE = "the clean latency is unstable: its mean is known within 12% only; look for heat"
IDLE_NOTE = "baseline loaded before is not idle: the CPUs were busy 13.4 % of the time"


@pytest.mark.parametrize(
    ("where", "value", "reason"),
    [
        ("summary.warmup", {"steady": False, "inferences": 90, "reason": "20 s are over"},
         "the warm-up ended unsteady after 90 inferences: 20 s are over"),
        ("summary.clean.interval_mean_ms", [1.8, 2.2],
         "the clean latency is unstable: its mean is known within 10.0 % only"),
        ("summary.notes", [NOTE], NOTE),
        ("summary.notes", [IDLE_NOTE], IDLE_NOTE),
        ("summary.profiled_over_clean", 2.4, "its pass takes 2.40 times the clean one"),
        ("shared_gpu", True, "somebody else used the GPU during the run"),
        ("summary.sampler", LATE, "8.0 % of the sampler's 1000 sweeps began late"),
        ("summary.sampler", {**LATE, "late_deadlines": 0, "gaps": 1, "largest_gap_ns": 2.5e9},
         "the trace of power has 1 gaps in 1000 sweeps, the longest of 2.5 s"),
        ("summary.sampler", {**LATE, "late_deadlines": 0, "errors": {"ENODATA": 60}},
         "60 of 6000 reads of the sensor failed (ENODATA)"),
        ("summary.energy", {"why": "all reads failed"},
         "there is no energy although a sensor was read: all reads failed"),
        ("summary.energy.rails.total.clean.dynamic_mj", None, "no energy above idle"),
        ("accuracy.note", "the values differ by 9 % on average", "the values differ by 9 %"),
        ("accuracy.not_finite", 7, "7 values of the outputs are NaN or infinite"),
        ("summary.outputs", {"finite": False}, "outputs hold NaN or infinite values"),
        ("summary.memory.limit", {"limit_mib": 512, "peak_above": True},
         "memory reached 812 MiB, above its limit of 512 MiB"),
        ("summary.memory.limit", {"limit_mib": 900, "peak_above": False, "violations": 2,
                                  "samples": 30}, "above its limit of 900 MiB in 2 of 30 samples"),
        ("summary.energy.observer", {"sampler": {"resolved": True, "latency_percent": 3.25}},
         "the sampler itself changes the latency by +3.2 %"),
        ("summary.energy.duplication", [{"layer": 0, "ratio": 1.5, "outlier": True},
                                        {"layer": 1, "ratio": 1.1}],
         "contradicts the energy of 1 of 2 layers; the median over all of them is 130.0 %"),
        ("imported", {"layout": "edgeprofiler"}, None),
    ],
)  # fmt: skip
def test_what_makes_one_look(where: str, value: Any, reason: str | None) -> None:
    found = row(where, value)
    if reason is None:
        assert (found.verdict, found.reasons) == ("sound", ())
        return
    assert found.verdict == "look"
    assert len(found.reasons) == 1
    assert reason in found.reasons[0]
    assert "nan" not in found.reasons[0].split()


def test_a_note_and_its_figure_are_one_reason() -> None:
    run = changed(changed(RUN, "summary.clean.interval_mean_ms", [1.5, 2.5]), "summary.notes",
                  [NOTE, "built with fewer tactics", "the graph was cut in two"])  # fmt: skip
    assert overview_of(tables(run)).reasons == (NOTE,)
    run = changed(RUN, "accuracy.note", "far off")
    run = changed(run, "summary.notes", ["far off"])
    assert overview_of(tables(run)).reasons == ("far off",)


def test_notes_that_are_no_reason_are_left() -> None:
    run = tables(changed(RUN, "summary.notes", [NOTE, "built with fewer tactics"]))
    assert unsaid_notes(run, overview_of(run).reasons) == ("built with fewer tactics",)


def test_a_baseline_that_was_not_idle() -> None:
    verdict = {"kind": "not_idle", "why": "the CPUs were busy 50 %", "mend": "stop them"}
    idle = [{**IDLE[0], "verdicts": [verdict]}, IDLE[1]]
    found = row(idle=idle)
    assert found.reasons == ("baseline loaded before is not idle: the CPUs were busy 50 %",)
    noted = row("summary.notes", [IDLE_NOTE], idle=idle)
    assert noted.reasons == (IDLE_NOTE,)


def test_throttling_counts_while_the_network_runs() -> None:
    t_s = np.arange(6.0)
    spans = (PhaseSpan("idle_before", 0, 2), PhaseSpan("clean", 2.5, 6))

    def series(*conditions: ConditionSeries) -> RunSeries:
        return RunSeries(0, spans, conditions=conditions)

    def one(name: str, unit: str, values: list[float]) -> ConditionSeries:
        return ConditionSeries(name, "throttling", unit, t_s, np.array(values))

    idle_only = one("gpu_throttled", "", [1, 1, 1, 0, 0, 0])
    assert row(series=series(idle_only)).verdict == "sound"
    during = row(series=series(one("gpu_throttled", "", [0, 0, 0, 1, 0, np.nan])))
    assert during.reasons == (
        "clocks were held down (gpu_throttled) in 1 of 2 looks while the network ran",
    )
    counted = row(series=series(one("throttled_oc1", "events", [0, 5, 5, 5, 6, 8])))
    assert counted.reasons == ("throttled_oc1 rose by 3 while the network ran",)
    # Without the series the baselines' own look is all there is.
    idle = [{**IDLE[0], "conditions": {"throttled": {"gpu": 4}}}]
    assert row(idle=idle).reasons == (
        "clocks were held down during the baseline loaded before: gpu, 4",
    )


@pytest.mark.parametrize(
    ("run", "fields", "reason"),
    [
        (changed(RUN, "status", "incomplete"), {}, "the run is incomplete"),
        (changed(RUN, "status", "failed"), {}, "the run failed: a check of the measurement itself"),
        (RUN, {"missing": ("engine.json is missing",)}, "missing: engine.json is missing"),
        (RUN, {"series": RunSeries(missing=("power.parquet is missing",))},
         "missing: power.parquet is missing"),
        (changed(RUN, "summary.clean", None), {}, "no clean pass was recorded"),
    ],
)  # fmt: skip
def test_what_is_broken(run: dict[str, Any], fields: dict[str, Any], reason: str) -> None:
    found = overview_of(tables(changed(run, "shared_gpu", True), **fields))
    assert found.verdict == "broken"
    assert reason in found.reasons[0]
    assert found.reasons[-1].startswith("somebody else used the GPU")


def test_an_imported_run_has_no_clean_pass_and_is_not_broken() -> None:
    run = changed(changed(RUN, "summary", {}), "imported", {"layout": "edgeprofiler"})
    found = overview_of(tables(run, idle=None))
    assert (found.verdict, len(found.reasons)) == ("look", 1)
    assert "without a clean pass" in found.reasons[0]


# methods, from rows of energy.parquet


def attributed(tmp_path: Path, method: str, gap: float, summary: Any = None) -> Overview:
    rows = [energy_row(method, "VDD_IN", n, gross_mj=1.0, resolved=True) for n in range(3)]
    rows.append(energy_row(method, "VDD_IN", None, gross_mj=gap))
    whole = {"kind": "inference", "gross_mj": 5.0, "systematic_mj": 0.4}
    rows.append(energy_row(method, "VDD_IN", None, **whole))
    rows.append(energy_row(method, "VDD_IN", None, kind="closure", gross_mj=3.0 + gap))
    path = support_tables.build(tmp_path, energy=rows)
    run = json.loads((path / "run.json").read_text(encoding="utf-8"))
    run["summary"] = summary or SUMMARY
    (path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return overview_of(load_run(path))


def test_closure_of_a_method_that_could_miss_something(tmp_path: Path) -> None:
    found = attributed(tmp_path, "replay", 2.2)
    assert found.method == "replay"
    assert found.closure_gross == pytest.approx(1.04)
    assert found.resolved_share == pytest.approx(1.0)
    assert found.systematic_mj == 0.4
    assert found.layers == 3
    assert (found.verdict, found.reasons) == ("sound", ())


def test_a_closure_far_from_one(tmp_path: Path) -> None:
    found = attributed(tmp_path, "replay", 3.0)
    assert found.reasons == (
        "layers and gap add up to 120.0 % of the inference measured apart (replay)",
    )


def test_a_split_by_time_closes_by_construction(tmp_path: Path) -> None:
    found = attributed(tmp_path, "proportional", 3.0)
    assert (found.method, found.closure_gross, found.verdict) == ("proportional", None, "sound")


def test_a_fit_is_judged_by_what_it_did_not_see(tmp_path: Path) -> None:
    told = {"window": {"VDD_IN": {"closure": {"gross": 1.0, "held_out": 0.8}, "layers": 3}}}
    summary = changed(SUMMARY, "energy.attribution", told)
    found = attributed(tmp_path, "window", 2.0, summary)
    assert (found.closure_gross, found.closure_held_out) == (1.0, 0.8)
    assert "add up to 80.0 %" in found.reasons[0]


def test_layers_that_are_missing_leave_no_closure(tmp_path: Path) -> None:
    closure = {"gross": 0.6, "missing_layers": 1, "time_share": 0.7}
    told = {"replay": {"VDD_IN": {"closure": closure, "layers": 3}}}
    found = attributed(tmp_path, "replay", 0.0, changed(SUMMARY, "energy.attribution", told))
    assert found.closure_gross is None
    assert found.reasons == (
        "replay has no figure for 1 of 3 layers; it covers 70.0 % of the layers' time",
    )


# anything


def keys(document: Any) -> set[str]:
    if not isinstance(document, dict):
        return set()
    return set(document) | {key for value in document.values() for key in keys(value)}


ANY_KEY = st.sampled_from(sorted(keys(RUN) | {"verdicts", "why", "throttled", "conditions"}))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, -(10**400), "\ud800", "<b>", "cuda:0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_KEY, inner, max_size=4),
    max_leaves=15,
)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=300, deadline=None)
@given(st.sampled_from(sorted(RUN)), json_values, ANY_KEY, json_values, json_values)
def test_any_run_json_has_a_row(part: str, value: Any, key: str, inner: Any, idle: Any) -> None:
    run = {**RUN, part: value, "summary": {**SUMMARY, key: inner}}
    found = overview_of(RunTables(Path("x"), run, idle=idle))
    for field in dataclasses.fields(Overview):
        value = getattr(found, field.name)
        if isinstance(value, float):
            assert np.isfinite(value), field.name
    assert found.verdict in {"sound", "look", "broken"}
    assert (found.verdict == "sound") == (not found.reasons)
    assert all(isinstance(reason, str) and reason for reason in found.reasons)
