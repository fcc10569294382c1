"""Calibration against simulated sensors of known figures, and its file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.energy.calibration import PARAMETERS, RailCalibration, fit_rail
from edgejoule.energy.calibration_clock import ClockFit, NoClock, fit_clock
from edgejoule.energy.calibration_file import (
    SCHEMA,
    Calibration,
    read_calibration,
    write_calibration,
)
from edgejoule.energy.calibration_load import blur_ns, channels_to_fit, load_of, reads_of
from edgejoule.energy.sensor_model import SensorParameters, Waveform, simulate
from edgejoule.errors import EdgejouleError, MeasurementError, UsageError
from edgejoule.power.exciter import Edge
from edgejoule.power.exciter_schedule import plan_edges
from tests.support_power import SAMPLE

START = 9_000_000_000_000
INA = SensorParameters(6.6e6, 1.1e6, delay_ns=1.1e6, tau_ns=300e3, lsb=8.0, noise=4.0)
PART_TIME = SensorParameters(100e6, 25e6, delay_ns=10e6, tau_ns=5e6, lsb=1.0, noise=400.0)
FIGURES = ("refresh_ns", "window_ns", "samples", "delay_ns", "tau_ns", "lsb")


def polls(
    rng: np.random.Generator, seconds: float, refresh_ns: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return irregular reads, at most a quarter of a refresh apart."""
    gaps = rng.uniform(0.12, 0.25, int(seconds * 1e9 / (0.12 * refresh_ns))) * refresh_ns
    t0 = START + np.cumsum(gaps).astype(np.int64)
    t0 = t0[t0 < START + seconds * 1e9]
    return t0, t0 + rng.integers(20_000, 60_000, len(t0))


def pulses(seconds: float, refresh_ns: float, levels: tuple[float, float], seed: int) -> Waveform:
    edges = plan_edges(int(seconds * 1e9 * 0.95), int(refresh_ns), seed)
    at = START + int(seconds * 1e9 * 0.02) + np.array(edges, np.int64)
    power = np.full(len(at) + 1, levels[0])
    power[1::2] = levels[1]
    return Waveform(at, power)


def recording(
    model: SensorParameters,
    seconds: float,
    levels: tuple[float, float] = (600.0, 1200.0),
    seed: int = 0,
    poll_ns: float | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Waveform]:
    rng = np.random.default_rng(seed)
    refresh = poll_ns or model.refresh_ns
    t0, t1 = polls(rng, seconds, refresh)
    load = pulses(seconds, refresh, levels, seed)
    model = dataclasses.replace(model, phase_ns=START + rng.uniform(0, model.refresh_ns))
    return t0, t1, simulate(model, load, t0 + (t1 - t0) // 2, rng), load


@pytest.mark.parametrize(
    ("model", "seconds", "levels"),
    [
        (INA, 20.0, (600.0, 1200.0)),
        (dataclasses.replace(INA, samples=4, noise=8.0), 20.0, (600.0, 1800.0)),
        (dataclasses.replace(INA, samples=16, noise=8.0), 30.0, (600.0, 1800.0)),
        (dataclasses.replace(PART_TIME), 60.0, (90e3, 400e3)),
    ],
    ids=["ina3221", "N=4", "N=16", "part time"],
)
def test_each_figure_is_found(
    model: SensorParameters, seconds: float, levels: tuple[float, float]
) -> None:
    found = fit_rail(*recording(model, seconds, levels, seed=2), rail="R", unit="mA")
    for name in FIGURES:
        truth = getattr(model, name)
        parameter = found[name]
        assert parameter.value == pytest.approx(truth, rel=0.05), name
        assert parameter.low is not None
        assert parameter.high is not None
        # Twice the interval holds the truth for any of these seeds; coverage is tested below.
        slack = parameter.high - parameter.low + 1e-9 * truth
        assert parameter.low - slack <= truth <= parameter.high + slack, name
    assert found["low"].value == pytest.approx(levels[0], rel=0.005)
    assert found["high"].value == pytest.approx(levels[1], rel=0.005)
    assert found.groups == ()
    assert found.model is not None
    assert found.model.window_ns == found["window_ns"].value


@pytest.mark.once("ten fits of a kind that is fitted in the other tests too; 30 s")
def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    # 10 repetitions of 5 figures, 95 %: fewer than 40 of 50 would come by chance once in 10^4.
    held = []
    for seed in range(10):
        found = fit_rail(*recording(INA, 12.0, seed=seed))
        truth = {name: getattr(INA, name) for name in FIGURES if name != "lsb"}
        for name, value in truth.items():
            parameter = found[name]
            assert parameter.low is not None
            assert parameter.high is not None
            held.append(parameter.low <= value <= parameter.high)
            if name in {"refresh_ns", "window_ns", "delay_ns"}:  # and say something
                assert parameter.high - parameter.low < 0.2 * value
    assert sum(held) >= 40


def test_no_low_pass_is_an_interval_from_nothing() -> None:
    found = fit_rail(*recording(dataclasses.replace(INA, tau_ns=0.0), 15.0, seed=1))
    tau, samples = found["tau_ns"], found["samples"]
    assert tau.low == 0.0
    assert tau.high is not None
    assert 0 < tau.high < 100e3
    assert samples.low == 1.0
    assert samples.value == pytest.approx(1.0, abs=0.01)


def test_a_running_mean_longer_than_its_refresh() -> None:
    model = SensorParameters(100e6, 1e9, delay_ns=50e6, lsb=1.0, noise=300.0)
    found = fit_rail(*recording(model, 60.0, (90e3, 400e3), seed=3))
    assert found["refresh_ns"].value == pytest.approx(100e6, rel=0.001)
    assert found["window_ns"].value == pytest.approx(1e9, rel=0.01)
    assert found["centre_ns"].value == pytest.approx(550e6, rel=0.01)


@pytest.fixture(scope="module")
def weak() -> RailCalibration:
    """A fit with figures that are not resolved, in groups."""
    return fit_rail(*recording(dataclasses.replace(INA, noise=16.0), 6.0, (600.0, 640.0), seed=4))


def test_a_weak_load_leaves_figures_unresolved_and_names_what_hangs_together(
    weak: RailCalibration,
) -> None:
    found = weak
    unresolved = [p for p in found.parameters if not p.resolved]
    assert {"delay_ns", "tau_ns"} <= {p.name for p in unresolved}
    assert all(p.why and p.value is None for p in unresolved)
    assert found["refresh_ns"].resolved
    assert found.groups
    for group in found.groups:
        assert len(group.members) > 1
        assert group.known == "centre_ns"


def test_a_sensor_faster_than_the_reads_is_not_resolved() -> None:
    fast = dataclasses.replace(INA, refresh_ns=280e3, window_ns=140e3, delay_ns=0.0)
    found = fit_rail(*recording(fast, 5.0, poll_ns=2e6))
    assert found.model is None
    assert not found["refresh_ns"].resolved
    assert "faster than the reads" in found["refresh_ns"].why
    assert "the refresh is not known" in found["window_ns"].why
    assert found["lsb"].value == 8.0


def test_a_rail_that_does_not_follow_says_so() -> None:
    t0, t1, _, load = recording(INA, 10.0)
    rng = np.random.default_rng(0)
    flat = dataclasses.replace(INA, noise=16.0, phase_ns=START)
    values = simulate(flat, Waveform.constant(500.0), t0, rng)
    found = fit_rail(t0, t1, values, load)
    assert found["refresh_ns"].value == pytest.approx(6.6e6, rel=1e-3)
    assert found["window_ns"].why == "the rail does not follow the load"
    assert not found["high"].resolved
    still = fit_rail(t0, t1, np.full(len(t0), 7), load)
    assert "changed 0 times" in still["refresh_ns"].why
    assert "1 different" in still["lsb"].why
    empty = fit_rail([], [], [], load)
    assert "no reads" in empty["refresh_ns"].why


def test_edges_outside_the_reads_and_short_data_are_said() -> None:
    t0, t1, values, load = recording(INA, 10.0)
    later = Waveform(load.edges_ns + 10**12, load.power)
    assert "edges fell into" in fit_rail(t0, t1, values, later)["window_ns"].why
    short = slice(0, 300)  # some 55 refreshes
    why = fit_rail(t0[short], t1[short], values[short], load)["window_ns"].why
    assert "are needed" in why


def test_late_values_and_outliers_are_left_out() -> None:
    t0, t1, values, load = recording(INA, 15.0, seed=5)
    clean = fit_rail(t0, t1, values, load)
    # Every hundredth refresh shows the old value for two thirds of its time, once it is wild.
    spoilt = values.copy()
    clock = fit_clock(t0, t1, values)
    assert isinstance(clock, ClockFit)
    number = clock.number((t0 - clock.origin_ns).astype(float))
    for n in np.unique(np.floor(number))[50::100]:
        inside = (number >= n) & (number < n + 0.66)
        before = np.flatnonzero(number < n)[-1]
        spoilt[inside] = values[before]
    spoilt[(number >= 700) & (number < 701)] = 30_000
    found = fit_rail(t0, t1, spoilt, load)
    for name in ("window_ns", "delay_ns", "centre_ns"):
        assert found[name].value == pytest.approx(clean[name].value, rel=0.05), name
    assert found.facts["outliers"] >= 1


def test_what_is_no_load_or_no_reads_is_refused() -> None:
    t0, t1, values, load = recording(INA, 5.0)
    with pytest.raises(UsageError, match="as many starts"):
        fit_rail(t0, t1[:-1], values, load)
    with pytest.raises(UsageError, match="shows nothing"):
        fit_rail(t0, t1, values, Waveform.constant(1.0))
    with pytest.raises(UsageError, match="shows nothing"):
        fit_rail(t0, t1, values, Waveform(load.edges_ns, np.ones(len(load.power))))


@pytest.mark.parametrize(
    ("step", "expected"), [(8.0, 8.0), (40 / 3, 40 / 3), (20.0, 20.0), (0.25, 0.25)]
)
def test_the_step_is_found_also_behind_rounding(step: float, expected: float) -> None:
    t0, t1, values, load = recording(dataclasses.replace(INA, lsb=0.0, noise=30.0), 5.0)
    stepped = np.rint(values / step) * step
    if step > 1:
        stepped = np.rint(stepped)
    assert fit_rail(t0, t1, stepped, load)["lsb"].value == pytest.approx(expected, rel=2e-3)


def test_values_on_no_common_step() -> None:
    t0, t1, values, load = recording(INA, 5.0)
    odd = np.array([0, 10, 20, 33, 41, 50, 69, 71, 83, 97.5], float)[np.arange(len(values)) % 10]
    found = fit_rail(t0, t1, odd, load)["lsb"]
    assert found.value is None or found.value < 1.5


# --- the clock alone ---------------------------------------------------------


def clock_of(
    model: SensorParameters, seconds: float = 30.0, seed: int = 0, thin: float = 0.0
) -> tuple[ClockFit, np.ndarray]:
    t0, t1, values, _ = recording(model, seconds, seed=seed)
    keep = np.random.default_rng(seed).random(len(t0)) >= thin
    found = fit_clock(t0[keep], t1[keep], values[keep])
    assert isinstance(found, ClockFit)
    return found, t0


def test_missed_polls_and_quiet_stretches_cost_no_count() -> None:
    # A third of the polls is missing, and without noise most neighbours are equal.
    found, _ = clock_of(dataclasses.replace(INA, noise=0.0), thin=0.33)
    assert abs(found.refresh_ns - 6.6e6) < 3 * found.refresh_half_ns
    assert found.refresh_half_ns < 100
    assert found.phase_half_ns < 100e3


def test_a_drifting_clock_is_followed() -> None:
    model = dataclasses.replace(INA, drift_per_s=2e-5)
    found, _ = clock_of(model)
    assert found.drift_per_s == pytest.approx(2e-5, rel=0.05)
    steps = np.diff(found.shown(np.arange(-2000.0, 2000.0)))
    assert steps[-1] / steps[0] - 1 == pytest.approx(2e-5 * 4000 * 6.6e-3, rel=0.05)
    there = found.number(found.shown(np.array([-1500.0, 0.0, 1500.5])))
    np.testing.assert_allclose(there, [-1500.0, 0.0, 1500.5], atol=1e-6)


def test_a_wandering_clock_is_corrected() -> None:
    model = dataclasses.replace(INA, walk_ns=20_000.0)
    found, _ = clock_of(model, 60.0, seed=3)
    assert found.wander_ns > 50e3
    assert clock_of(INA)[0].wander_ns == 0.0


def test_what_shows_no_rhythm() -> None:
    rng = np.random.default_rng(0)
    t0, t1 = polls(rng, 5.0, 6.6e6)
    assert isinstance(fit_clock(t0, t1, np.zeros(len(t0))), NoClock)
    noise = fit_clock(t0, t1, rng.integers(0, 9, len(t0)))
    assert isinstance(noise, NoClock)
    sparse = np.arange(0, len(t0), 40)
    gaps = np.zeros(len(t0))
    gaps[sparse] = 1
    fast = fit_clock(t0, t1, gaps)  # a blip of one read each: up and down in every refresh
    assert isinstance(fast, (NoClock, ClockFit))
    # Reads in pairs with long gaps between: each change lies in a gap.
    pairs = np.sort(np.concatenate([START + np.arange(200) * 10**9 + k * 10**6 for k in range(9)]))
    jumps = np.repeat(np.arange(200), 9)
    why = fit_clock(pairs, pairs + 1000, jumps)
    assert isinstance(why, NoClock)
    assert "gaps" in why.why


# --- load and reads ----------------------------------------------------------


def test_edges_of_several_workers_add_up() -> None:
    edges = [Edge(10, 12, 0.5), Edge(14, 14, 0.5), Edge(20, 20, -0.5), Edge(30, 30, -0.5)]
    load = load_of(edges[::-1])
    assert load.edges_ns.tolist() == [11, 14, 20, 30]
    assert load.power.tolist() == [0.0, 0.5, 1.0, 0.5, 0.0]
    assert blur_ns(edges) == pytest.approx(1.7)
    assert blur_ns([]) == 0.0
    with pytest.raises(MeasurementError, match="no edges"):
        load_of([])


def test_currents_before_powers_and_good_reads_only() -> None:
    names = [("A", "voltage"), ("A", "current"), ("B", "energy"), ("C", "power"), ("A", "power")]
    channels: list[dict[str, Any]] = [
        {"index": k, "rail": rail, "quantity": quantity} for k, (rail, quantity) in enumerate(names)
    ]
    assert [channel["index"] for channel in channels_to_fit(channels)] == [1, 3]
    rows = [(1, 2, 5, 1, 0), (3, 4, 6, 1, 61), (5, 6, 7, 0, 0), (7, 8, 9, 1, 0), (9, 20, 9, 1, 0)]
    samples = np.array(rows, SAMPLE)
    t0, t1, raw = reads_of(samples, 1, 1, 8)
    assert (t0.tolist(), t1.tolist(), raw.tolist()) == ([1, 7], [2, 8], [5, 9])


# --- the file ----------------------------------------------------------------


@pytest.fixture(scope="module")
def rail() -> RailCalibration:
    return fit_rail(*recording(INA, 6.0, seed=7), rail="VDD_IN")


def calibration(rail: RailCalibration) -> Calibration:
    return Calibration(
        sensor="simulated",
        simulated=True,
        rails=(rail,),
        made={"load": "announced", "seed": 0},
        machine={"board_id": "x"},
        configuration={},
        versions={"edgejoule": "0"},
        wall_ns=1,
    )


def test_a_file_comes_back_as_it_was(rail: RailCalibration, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    whole = calibration(rail)
    write_calibration(path, whole)
    assert read_calibration(path) == whole
    assert whole.rail("VDD_IN") is rail
    assert whole.rail("VDD_SOC") is None
    document = json.loads(path.read_text())
    assert document["schema"] == SCHEMA
    assert list(document["rails"][0]["parameters"]).sort() == list(PARAMETERS).sort()


def _spoil(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def spoil(document: dict[str, Any]) -> None:
        place: Any = document
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to

    return spoil


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_spoil("schema", to="other"), "no edgejoule.calibration file"),
        (_spoil("schema_version", to=99), "its version is 99"),
        (_spoil("simulated", to=None), "simulated"),
        (_spoil("rails", to={}), "no list"),
        (_spoil("rails", 0, to=3), "no object"),
        (_spoil("rails", 0, "unit", to=3), "no text"),
        (_spoil("wall_ns", to=True), "no number"),
        (_spoil("rails", 0, "parameters", "refresh_ns", "value", to=math.nan), "NaN"),
        (_spoil("rails", 0, "parameters", "refresh_ns", "high", to=math.inf), "Infinity"),
        (_spoil("rails", 0, "parameters", "refresh_ns", "value", to=1), "does not hold"),
        (_spoil("rails", 0, "parameters", "refresh_ns", "value", to=10**400), "finite"),
        (_spoil("rails", 0, "parameters", to={}), "not those of this version"),
        (_spoil("rails", 0, "model", to={}), "not of this version"),
        (_spoil("rails", 0, "model", "refresh_ns", to=-1), "above 0"),
        (_spoil("rails", 0, "groups", to=[{"members": ["x"], "known": "y", "why": ""}]), "names"),
    ],
)
def test_a_foreign_or_damaged_file_is_refused(
    rail: RailCalibration, tmp_path: Path, spoil: Callable[[dict[str, Any]], None], says: str
) -> None:
    document = calibration(rail).to_json()
    document = json.loads(json.dumps(document))
    spoil(document)
    path = tmp_path / "c.json"
    path.write_text(json.dumps(document))
    with pytest.raises(MeasurementError, match=says):
        read_calibration(path)


def test_a_group_and_a_missing_model_come_back(weak: RailCalibration, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_calibration(path, calibration(dataclasses.replace(weak, model=None)))
    assert read_calibration(path).rails[0].groups == weak.groups


def test_unreadable_files_and_figures_that_are_none(rail: RailCalibration, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="cannot be read"):
        read_calibration(tmp_path / "absent.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(MeasurementError, match="damaged"):
        read_calibration(tmp_path / "bytes.json")
    broken = dataclasses.replace(rail, facts={"reads": math.nan})
    with pytest.raises(MeasurementError, match="cannot be written"):
        write_calibration(tmp_path / "c.json", calibration(broken))
    assert not (tmp_path / "c.json").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60)
@given(value=JSON, where=st.integers(0, 10**6), raw=st.none() | st.binary(max_size=60))
def test_no_file_raises_anything_but_our_errors(
    rail: RailCalibration,
    tmp_path_factory: pytest.TempPathFactory,
    value: Any,
    where: int,
    raw: bytes | None,
) -> None:
    document = json.loads(json.dumps(calibration(rail).to_json()))
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, inner in list(items):
            places.append((node, key))
            if isinstance(inner, (dict, list)):
                walk(inner)

    walk(document)
    node, key = places[where % len(places)]
    node[key] = value
    path = tmp_path_factory.mktemp("fuzz") / "c.json"
    path.write_bytes(json.dumps(document).encode() if raw is None else raw)
    with contextlib.suppress(EdgejouleError):
        read_calibration(path)
