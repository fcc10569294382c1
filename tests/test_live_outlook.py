"""Time left of a phase, a run, a network and an experiment: arithmetic and what it rests on."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.config import RunConfig
from edgejoule.report.outlook import (
    ENVIRONMENT,
    PHASE_TITLES,
    Announced,
    Asked,
    Past,
    Whole,
    expected_phases,
    network_left_s,
    part_of,
    past_run,
    phase_left_s,
    phase_seconds,
    rest_s,
    run_left_s,
    whole_left_s,
)

CONFIG = RunConfig(
    "net", "torch", "float32", runs=1000, clean_runs=100, idle_duration_s=5.0, warmup=50
).to_json()
PAST = Past({"setup": 300.0, "load": 4.0, "warmup": 6.0, "cooldown": 9.0}, 10.0, 15.0)

seconds = st.floats(0, 1e6)
unsure = st.none() | seconds
whole = st.builds(
    lambda position, more, own, rest: Whole(position, position + more, own, rest),
    st.integers(1, 20), st.integers(0, 20), unsure, unsure,
)  # fmt: skip


def test_without_a_latency_nothing_is_guessed() -> None:
    found = expected_phases(Asked(CONFIG))
    assert found["idle_before"] == found["idle_after"] == 5.0
    assert found["setup"] is None
    assert found["clean"] is None
    assert found["profiled"] is None
    assert run_left_s(found, "clean", 3.0) is None
    assert run_left_s(found, "idle_loaded_after", 2.0) == pytest.approx(2 + 1 + 5 + 5 + 5)


def test_an_earlier_run_says_how_long() -> None:
    found = expected_phases(Asked(CONFIG), PAST)
    assert found["setup"] == 300.0
    assert found["load"] == 4.0
    assert found["clean"] == pytest.approx(1.0)
    assert found["profiled"] == pytest.approx(15.0)
    assert found["cooldown"] == 9.0
    # What is measured now is worth more; the profiler's share is that of then.
    assert expected_phases(Asked(CONFIG), PAST, 20.0)["profiled"] == pytest.approx(30.0)


def test_only_the_phases_of_this_run_count() -> None:
    plain = list(expected_phases(Asked(CONFIG)))
    assert "rate" not in plain
    assert "replay" not in plain
    assert "setup" not in expected_phases(Asked(CONFIG, has_setup=False))
    more = {**CONFIG, "rate_hz": 30.0, "replay_budget_s": 60.0, "check_attribution": 2}
    found = expected_phases(Asked(more))
    assert (found["rate"], found["replay"]) == (10.0, 120.0)
    assert [name for name in found if name != "closing"] == list(PHASE_TITLES)
    none = expected_phases(Asked({**CONFIG, "observer_s": 0.0}))
    assert "observed" not in none


def test_waits_between_profiled_inferences_count() -> None:
    config = {**CONFIG, "energy": "window"}
    assert expected_phases(Asked(config), PAST)["profiled"] == pytest.approx(15.0 + 1.5)


def test_what_the_measuring_process_announces() -> None:
    said = {"profiled": Announced(1000, 12.0), "replay": Announced(None, 33.0),
            "warmup": Announced(None, 0.0)}  # fmt: skip
    config = {**CONFIG, "replay_budget_s": 60.0}
    found = expected_phases(Asked(config), None, None, said)
    assert found["profiled"] == 12.0
    assert found["replay"] == 33.0
    assert found["warmup"] == 3.0
    assert expected_phases(Asked(config), PAST, None, said)["profiled"] == pytest.approx(15.0)


def test_parts_of_a_phase() -> None:
    assert part_of("unsampled", "observed") == "observed"
    assert part_of("harvest", "observed") == "observed"
    assert part_of("harvest", "clean") == "profiled"
    assert part_of("clean", "warmup") == "clean"
    spans = [("setup", 0, 5), ("observed", 5, 6), ("unsampled", 6, 8), ("harvest", 8, 9),
             ("profiled", 9, 12), ("harvest", 12, 13), ("idle_after", 13, None)]  # fmt: skip
    found = phase_seconds(
        {"phase": name, "start_ns": a * 10**9, "end_ns": None if b is None else b * 10**9}
        for name, a, b in spans
    )
    assert found == {"setup": 5.0, "observed": 4.0, "profiled": 4.0}


def write_run(folder: Path, model: str = "net", started: str = "2026-01-01", **changes) -> None:
    folder.mkdir(parents=True)
    run = {
        "status": "complete",
        "started_at": started,
        "config": {**CONFIG, "model": model},
        "phases": [{"phase": "setup", "start_ns": 0, "end_ns": 7 * 10**9}],
        "summary": {"clean": {"median_ms": 2.0}, "profiled": {"median_ms": 3.0}},
        **changes,
    }
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")


def test_the_newest_run_of_the_same_model_is_found(tmp_path: Path) -> None:
    assert past_run(tmp_path / "none", CONFIG) is None
    write_run(tmp_path / "a")
    newer = {"clean": {"median_ms": 4.0}, "profiled": {"median_ms": 5.0}}
    write_run(tmp_path / "b", started="2026-02-01", summary=newer)
    write_run(tmp_path / "c", started="2025-01-01")
    write_run(tmp_path / "d", "other", started="2026-03-01")
    write_run(tmp_path / "e", started="2026-03-01", status="incomplete")
    write_run(tmp_path / ".partial" / "f", started="2026-03-01")
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "run.json").write_text("[1]")
    (tmp_path / "h").mkdir()
    (tmp_path / "h" / "run.json").write_bytes(b"\xff{")
    (tmp_path / "i").mkdir()
    (tmp_path / "i" / "run.json").write_text("[" * 50_000)
    assert past_run(tmp_path, CONFIG) == Past({"setup": 7.0}, 4.0, 5.0)
    assert past_run(tmp_path, {**CONFIG, "backend": "onnxruntime"}) is None


@given(seconds, unsure, st.integers(0, 10**6), st.none() | st.integers(0, 10**6), unsure)
def test_a_phase_is_never_negative(spent, expected, done, total, rate) -> None:
    left = phase_left_s(spent, expected, done, total, rate)
    assert left is None or left >= 0
    assert (left is None) == (expected is None and not (total and rate))


@given(unsure, st.lists(unsure, min_size=13, max_size=13), st.integers(0, 5), whole | st.none())
def test_the_whole_is_no_less_than_the_network_nor_that_than_the_run(
    left, lengths, after, told
) -> None:
    asked = Asked(CONFIG, runs_after=after)
    names = list(expected_phases(asked))
    expected = dict(zip(names, lengths, strict=True))
    for phase in (*names, "end"):
        run = run_left_s(expected, phase, left)
        network = network_left_s(asked, expected, run)
        everything = whole_left_s(told, network)
        assert run is None or run >= (left or 0.0)
        assert network is None or network >= (run or 0.0)
        assert everything is None or everything >= (network or 0.0)
        assert told is not None or everything is None


@given(st.floats(0.05, 500), st.floats(0.5, 2), st.integers(1, 3))
def test_time_left_decreases_as_a_run_goes_on(latency_ms, wrong, after) -> None:
    """A run whose latency is not what the run before had: it jumps where that is seen, then falls.

    Phases are walked in ten steps each, at the pace that is measured.
    """
    asked = Asked({**CONFIG, "runs": 500}, runs_after=after)
    past = Past({"setup": 10.0}, latency_ms * wrong, latency_ms * wrong * 1.2)
    real = expected_phases(asked, Past({"setup": 10.0}, latency_ms, latency_ms * 1.2))
    seen = []
    for phase, length in real.items():
        assert length is not None
        known = None if phase in ("setup", "idle_before", "load") else latency_ms
        expected = expected_phases(asked, past, known)
        for step in range(10):
            left = phase_left_s(length * step / 10, expected[phase])
            network = network_left_s(asked, expected, run_left_s(expected, phase, left))
            assert network is not None
            assert network >= 0
            seen.append(network)
    # With the real latency known it only ever falls.
    late = seen[40:]
    assert all(b <= a + 1e-6 * (1 + a) for a, b in pairwise(late))


def test_repeats_count_without_their_set_up() -> None:
    expected = {"setup": 100.0, "clean": 10.0, "closing": 5.0}
    assert network_left_s(Asked(CONFIG, runs_after=2), expected, 3.0) == 33.0
    assert network_left_s(Asked(CONFIG), expected, 3.0) == 3.0


def test_the_rest_of_an_experiment() -> None:
    assert rest_s([], []) == 0.0
    assert rest_s([10.0, 20.0], []) == 30.0
    assert rest_s([10.0, 20.0], [(5.0, 10.0), (5.0, 10.0)]) == 60.0  # all took twice as long
    assert rest_s([10.0, 0.0], [(5.0, 10.0)]) == 20.0  # what is there counts nothing
    assert rest_s([None, None], []) is None
    assert rest_s([None, None], [(None, 7.0)]) == 14.0
    assert rest_s([10.0], [(0.0, 3.0)]) == 10.0


@given(st.lists(unsure), st.lists(st.tuples(unsure, seconds)))
def test_the_rest_is_never_negative(expected, finished) -> None:
    rest = rest_s(expected, finished)
    assert rest is None or rest >= 0


@given(whole)
def test_what_a_campaign_tells_arrives(told) -> None:
    assert Whole.from_environment(told.to_environment()) == told


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "7", "null", "{}", '{"position": 3, "count": 2}', '{"position": 0, "count": 1}',
     '{"position": 1, "count": 1, "rest_s": -1}', '{"position": 1, "count": 1, "rest_s": NaN}',
     '{"position": 1e999, "count": 1}', '{"position": 1, "count": 1, "network_s": "x"}',
     '{"position": ' * 50_000],
)  # fmt: skip
def test_what_makes_no_sense_is_not_taken(text: str) -> None:
    assert Whole.from_environment({ENVIRONMENT: text}) is None
    assert Whole.from_environment({}) is None


def test_the_last_network_is_the_whole() -> None:
    assert whole_left_s(Whole(2, 2, None, None), 12.0) == 12.0
    assert whole_left_s(Whole(1, 2, None, None), 12.0) is None
    assert whole_left_s(Whole(1, 2, None, 30.0), 12.0) == 42.0
    assert whole_left_s(None, 12.0) is None
