"""Which run is chosen, by given figures: the rules, and properties that hold for any of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.report.choice import choose, told_apart
from edgejoule.report.choice_case import Candidate, Case, Choice, Limits, Tolerance
from edgejoule.report.choice_text import choice_json, choice_text
from edgejoule.report.overview import Overview

PLAIN = Overview(
    "a", "a", backend="onnxruntime", dtype="float16", p50_ms=8.0, p90_ms=9.0, p99_ms=10.0,
    mean_ms=8.0, throughput_hz=125.0, inferences=4000, rail="total", gross_mj=80.0,
    gross_half_mj=1.0, dynamic_mj=50.0, dynamic_half_mj=0.8, mean_w=10.0, peak_w=12.0, idle_w=4.0,
    memory_mib=500.0, relative_error=1e-3,
)  # fmt: skip
AT_30: dict[str, Any] = {
    "rate_hz": 30.0,
    "missed_deadlines": 0,
    "gross_mj_per_frame": 180.0,
    "rate_mean_w": 5.4,
}


def run(name: str = "a", *, frames: int | None = None, **changes: Any) -> Candidate:
    """A run of plain figures, with some replaced; those of a candidate go to it."""
    own = {"dropped", "clean_half_w", "rate_half_w", "tolerance", "excludes", "rate_ms",
           "rate_inferences"}  # fmt: skip
    mine = {key: changes.pop(key) for key in own & set(changes)}
    row = replace(PLAIN, run=name, model=changes.pop("model", name), **changes)
    if row.rate_hz:
        mine = {"rate_ms": {"p50": row.p50_ms, "p90": row.p90_ms, "p99": row.p99_ms}, **mine}
    return Candidate(row, frames=900 if frames is None and row.rate_hz else frames, **mine)


def reasons(choice: Choice, name: str) -> list[str]:
    (case,) = [one for one in choice.failing if one.run == name]
    return [reason.text for reason in case.reasons]


def only(choice: Choice) -> Case:
    assert choice.best is not None
    return choice.best


def test_the_least_energy_of_those_that_meet_the_limits() -> None:
    runs = [run("a", gross_mj=80), run("b", gross_mj=60, p99_ms=40), run("c", gross_mj=70)]
    choice = choose(runs, Limits(latency_ms=33))
    assert [case.run for case in choice.meeting] == ["c", "a"]
    assert reasons(choice, "b") == ["its p99 latency of 40 ms is above 33 ms"]
    assert choice.misses == ()


def test_every_reason_is_told() -> None:
    one = run(
        p99_ms=50, mean_w=20, peak_w=30, memory_mib=9000, relative_error=0.5, simulated=True,
        status="incomplete", throughput_hz=12,
    )  # fmt: skip
    limits = Limits(33, power_w=10, peak_power_w=20, rate_hz=30, memory_mib=4000, max_error=0.1)
    kinds = [reason.kind for reason in choose([one], limits).failing[0].reasons]
    assert kinds == ["unfinished", "simulated", "rate", "latency", "peak power", "memory", "error"]
    choice = choose([one], replace(limits, back_to_back=True))
    assert "power" in [reason.kind for reason in choice.failing[0].reasons]


@pytest.mark.parametrize(("percentile", "value"), [("p50", 8.0), ("p90", 9.0), ("p99", 10.0)])
def test_latency_is_the_percentile_that_was_asked_for(percentile: str, value: float) -> None:
    at = Limits(latency_ms=value, percentile=percentile)
    assert only(choose([run()], at)).latency_ms == value
    above = choose([run()], replace(at, latency_ms=value - 0.1))
    assert f"{percentile} latency of {value:g} ms" in reasons(above, "a")[0]


def test_at_a_rate_the_latency_is_that_of_the_rate_pass() -> None:
    # Clocks fall between frames: an inference takes longer than at full speed.
    slow = run(**AT_30, rate_ms={"p50": 20.0, "p90": 30.0, "p99": 32.0}, rate_inferences=200)
    limits = Limits(latency_ms=31, rate_hz=30)
    assert reasons(choose([slow], limits), "a") == ["its p99 latency of 32 ms is above 31 ms"]
    choice = choose([slow], replace(limits, percentile="p90"))
    assert only(choice).latency_ms == 30.0
    assert "p99 of 200 inferences" in choice_text(choose([slow], replace(limits, latency_ms=40)))
    # At full speed it is that of the clean pass, and so for a rate that was not measured.
    assert only(choose([slow], Limits(latency_ms=31))).latency_ms == 10.0
    asked = Limits(latency_ms=31, rate_hz=60, back_to_back=True)
    assert only(choose([slow], asked)).latency_ms == 10.0
    unknown = choose([run(**AT_30, rate_ms={})], limits)
    assert reasons(unknown, "a") == ["its p99 latency is not known"]


def test_the_least_of_several_repeats_is_said_to_be_that() -> None:
    runs = [
        run("r1", model="m", repeat=1, gross_mj=80.0),
        run("r2", model="m", repeat=2, gross_mj=70.0),
        run("r3", model="m", repeat=3, gross_mj=90.0, p99_ms=40.0),
        run("other", model="m", dtype="int8", gross_mj=100.0),
    ]
    text = choice_text(choose(runs, Limits(latency_ms=33)))
    assert "best: r2" in text
    assert "it is the least of 3 runs of this configuration: 70 mJ to 90 mJ per frame" in text
    assert "of these do not meet the limits: r3" in text
    assert "of this configuration" not in choice_text(choose(runs[:1], Limits()))


def test_rails_of_different_extent_are_not_passed_over() -> None:
    runs = [run("board"), run("gpu", rail="GPU", gross_mj=10.0)]
    choice = choose(runs, Limits(power_w=20))
    assert any("different rails (GPU, total)" in note for note in choice_json(choice)["notes"])
    assert "the power is that of GPU: what else the board draws" in choice_text(choice)
    assert "what else the board draws" not in choice_text(choose(runs[:1], Limits(power_w=20)))


def test_a_rate_has_to_be_measured() -> None:
    runs = [
        run("at", **AT_30),
        run("near", **{**AT_30, "rate_hz": 30.2, "gross_mj_per_frame": 179}),
        run("other", **{**AT_30, "rate_hz": 10.0, "gross_mj_per_frame": 1}),
        run("never"),
        run("slow", throughput_hz=12.0),
    ]
    choice = choose(runs, Limits(rate_hz=30))
    assert [case.run for case in choice.meeting] == ["near", "at"]
    assert reasons(choice, "other") == [
        "not measured at 30 Hz, but at 10 Hz: measure with --rate-hz 30"
    ]
    assert reasons(choice, "never") == ["not measured at 30 Hz: measure with --rate-hz 30"]
    assert reasons(choice, "slow") == ["its throughput of 12/s is below 30 Hz"]
    # Nothing of a pass at another rate is shown as if it were of this one.
    assert all(case.power_w is None and case.energy_mj is None for case in choice.failing)


def test_power_and_energy_are_of_the_rate_pass() -> None:
    case = only(choose([run(**AT_30, rate_half_w=0.03)], Limits(rate_hz=30, power_w=6)))
    assert (case.basis, case.power_w, case.energy_mj) == ("rate", 5.4, 180.0)
    assert case.energy_half_mj == pytest.approx(1.0)  # 0.03 W over a thirtieth of a second
    case = only(choose([run(**AT_30)], Limits(rate_hz=30, energy="dynamic")))
    assert case.energy_mj == pytest.approx(180 - 4000 / 30)
    assert case.energy_half_mj is None
    assert only(choose([run(**AT_30)], Limits())).power_w == 10.0


@pytest.mark.parametrize(
    ("late", "dropped", "frames", "missed", "meets"),
    [
        (0, 0, 900, 0.0, True),
        (0, 1, 900, 0.001, False),
        (1, 0, 1000, 0.001, True),
        (1, 1, 1000, 0.001, False),
        (30, 15, 900, 0.05, True),
        (None, 0, 900, 0.05, False),
        (0, 0, 0, 0.05, False),
    ],
)
def test_deadlines(late: int | None, dropped: int, frames: int, missed: float, meets: bool) -> None:
    one = run(frames=frames, dropped=dropped, **{**AT_30, "missed_deadlines": late})
    choice = choose([one], Limits(rate_hz=30, missed=missed))
    assert (choice.best is not None) == meets
    if not meets:
        assert [reason.kind for reason in choice.failing[0].reasons] == ["missed"]


def test_full_speed_in_place_of_a_rate_stands_behind_what_was_measured() -> None:
    runs = [run("at", **AT_30), run("never"), run("slow", throughput_hz=12.0)]
    choice = choose(runs, Limits(rate_hz=30, back_to_back=True))
    assert [(case.run, case.basis) for case in choice.meeting] == [
        ("at", "rate"),
        ("never", "back to back"),
    ]
    assert choice.meeting[1].energy_mj == 80.0
    assert choice.alike == ()
    assert reasons(choice, "slow") == ["its throughput of 12/s is below 30 Hz"]
    text = choice_text(choose(runs[1:], Limits(rate_hz=30, back_to_back=True)))
    assert "at FULL SPEED, not at 30 Hz, where it was not measured" in text
    assert "stand behind those measured at the rate" in choice_text(choice)


def test_a_frame_is_an_image_of_the_batch() -> None:
    one = run("b", batch=4, throughput_hz=300.0, gross_mj=200.0, dynamic_mj=100.0)
    case = only(choose([one], Limits()))
    assert (case.energy_mj, case.energy_half_mj) == (50.0, 0.25)
    assert case.latency_ms == 10.0
    choice = choose([one], Limits(rate_hz=30))
    assert reasons(choice, "b") == [
        "not measured at 30 Hz: measure with --rate-hz 7.5 (batches of 4)"
    ]
    slow: dict[str, Any] = {**AT_30, "rate_hz": 7.5, "gross_mj_per_frame": 600.0}
    case = only(choose([run("b", batch=4, rate_half_w=0.03, **slow)], Limits(rate_hz=30)))
    assert case.energy_mj == 150.0
    assert case.energy_half_mj == pytest.approx(1.0)
    # The first of four frames waits for three more to come.
    assert case.latency_ms == pytest.approx(10 + 100)


def test_simulated_and_unfinished_runs() -> None:
    runs = [
        run("made", simulated=True, marks=("SIMULATED power",), gross_mj=1),
        run("cut", status="incomplete", marks=("INCOMPLETE",), gross_mj=2),
        run("torn", verdict="broken", reasons=("missing: layers.parquet is missing",)),
        run("real", gross_mj=90),
    ]
    choice = choose(runs, Limits())
    assert [case.run for case in choice.meeting] == ["real"]
    assert "layers.parquet is missing" in reasons(choice, "torn")[0]
    choice = choose(runs, Limits(include_simulated=True))
    assert only(choice).run == "made"
    assert "best: made [SIMULATED power]" in choice_text(choice)
    assert {case.run for case in choice.failing} == {"cut", "torn"}


def test_what_is_not_known_meets_no_limit() -> None:
    limits = Limits(33, power_w=10, peak_power_w=20, memory_mib=4000, max_error=0.1)
    absent: dict[str, Any] = dict.fromkeys(
        ("p99_ms", "mean_w", "peak_w", "memory_mib", "relative_error", "gross_mj", "rail")
    )
    told = reasons(choose([run(**absent)], limits), "a")
    assert told == [
        "its p99 latency is not known",
        "its average power is not known",
        "its peak power is not known",
        "its memory is not known",
        "its mean relative error against float32 is not known",
        "its energy was not measured, or no rail stands for the run",
    ]


def test_battery_life() -> None:
    one = run(clean_half_w=0.5, tolerance=Tolerance(0.02, 0.05), excludes="the carrier board")
    life = only(choose([one], Limits(battery_wh=50))).battery
    assert life is not None
    assert life.hours == 5.0
    assert life.statistical == pytest.approx((50 / 10.5, 50 / 9.5))
    assert life.systematic == pytest.approx((50 / 10.25, 50 / 9.75))
    text = choice_text(choose([one], Limits(battery_wh=50)))
    assert "50 Wh last 5 h (statistical 4.762 to 5.263 h; systematic 4.878 to 5.128 h)" in text
    assert "not in it: the carrier board" in text
    assert "that was not measured" in text
    wild = only(choose([run(clean_half_w=11.0)], Limits(battery_wh=50))).battery
    assert wild is not None
    assert wild.statistical == pytest.approx((50 / 21, None))
    assert wild.systematic is None
    at_rate = only(choose([run(**AT_30)], Limits(battery_wh=54, rate_hz=30))).battery
    assert at_rate is not None
    assert at_rate.hours == pytest.approx(10)


def test_no_battery_life_from_a_part_of_the_board() -> None:
    case = only(choose([run(rail="VDD_GPU")], Limits(battery_wh=50)))
    assert case.battery is None
    assert "VDD_GPU is not the board's total" in str(case.no_battery)
    assert "no battery life" in choice_text(choose([run(rail="VDD_GPU")], Limits(battery_wh=50)))


def test_energies_that_are_not_told_apart() -> None:
    runs = [run("a", gross_mj=80), run("b", gross_mj=81.9), run("c", gross_mj=82.1)]
    choice = choose(runs, Limits())
    assert [case.run for case in choice.alike] == ["b"]
    assert "not told apart from b: 81.9 ± 1 mJ, the intervals overlap" in choice_text(choice)
    unknown = choose([run("a"), run("b", gross_mj=500, gross_half_mj=None)], Limits())
    assert [case.run for case in unknown.alike] == ["b"]
    assert "no interval is known" in choice_text(unknown)
    assert choice_json(choice)["not_told_apart"] == ["b"]


def test_the_nearest_where_none_meets_the_limits() -> None:
    runs = [
        run("a", p99_ms=40, mean_w=9),
        run("b", p99_ms=36, mean_w=12),
        run("s", p99_ms=1, simulated=True),
    ]
    choice = choose([*runs, run("c", throughput_hz=200)], Limits(33, rate_hz=500))
    assert [(m.kind, m.run, m.value, m.met) for m in choice.misses] == [
        ("latency", "c", 10, True),
        ("throughput", "c", 200, False),
    ]
    late = run("late", **{**AT_30, "missed_deadlines": 9})
    choice = choose([late, run("never")], Limits(rate_hz=30))
    assert [(m.kind, m.run, m.value) for m in choice.misses] == [
        ("throughput", "never", 125),
        ("missed", "late", 0.01),
    ]
    choice = choose(runs, Limits(33, power_w=10))
    assert [(m.kind, m.run, m.value, m.met) for m in choice.misses] == [
        ("latency", "b", 36, False),
        ("power", "a", 9, True),
    ]
    text = choice_text(choice)
    assert "nearest in p99 latency: b with 36 ms (limit 33 ms): does not meet it" in text
    assert (
        "nearest in average power: a with 9 W (limit 10 W): meets it, and fails by others" in text
    )


def test_models_and_notes() -> None:
    runs = [run("x1", model="x", marks=("random weights",)), run("y1", model="y", gross_mj=1)]
    choice = choose(runs, Limits(models=("x",)))
    assert only(choice).run == "x1"
    assert choice.outside == 1
    text = choice_text(choice)
    assert "--models left out 1 runs" in text
    assert "random weights: values decide power" in text
    assert "several models" not in text
    assert "several models" in choice_text(choose(runs, Limits()))
    assert choose(runs, Limits(models=("y1",))).best is not None
    assert "left all out" in choice_text(choose(runs, Limits(models=("z",))))


def test_what_to_read_before_relying_on_it() -> None:
    one = run(verdict="look", reasons=("the clean latency is unstable",), inferences=100,
              clean_half_w=0.5)  # fmt: skip
    text = choice_text(choose([one], Limits(latency_ms=33, power_w=10.2)))
    assert "read before you rely on it:\n    the clean latency is unstable" in text
    assert "p99 of 100 inferences: little more than the slowest" in text
    assert "the interval of it reaches beyond" in text


def test_hostile_names_are_shown_not_obeyed() -> None:
    name = "\x1b[2Jnice\n\ud800"
    choice = choose([run(name, board=name, rail="total"), run("b", p99_ms=99)], Limits(33))
    text = choice_text(choice)
    assert "\x1b" not in text
    assert "\\x1b[2Jnice" in text
    text.encode()


FIGURE = st.one_of(st.none(), st.floats(0.01, 1000))
CANDIDATES = st.lists(
    st.builds(
        lambda number, **figures: (number, figures),
        st.integers(0, 10**6),
        p99_ms=FIGURE,
        mean_w=FIGURE,
        peak_w=FIGURE,
        memory_mib=FIGURE,
        gross_mj=FIGURE,
        gross_half_mj=FIGURE,
        dynamic_mj=FIGURE,
        throughput_hz=FIGURE,
        rate_hz=st.sampled_from([None, 10.0, 30.0]),
        gross_mj_per_frame=FIGURE,
        rate_mean_w=FIGURE,
        idle_w=FIGURE,
        missed_deadlines=st.sampled_from([None, 0, 3]),
        batch=st.sampled_from([1, 4]),
        rail=st.sampled_from(["total", "VDD", None]),
        simulated=st.booleans(),
        status=st.sampled_from(["complete", "incomplete"]),
    ),
    max_size=8,
).map(lambda drawn: [run(f"r{place}-{n}", **more) for place, (n, more) in enumerate(drawn)])
LIMIT = st.one_of(st.none(), st.floats(0.1, 1000))
LIMITS = st.builds(
    Limits,
    latency_ms=LIMIT,
    power_w=LIMIT,
    peak_power_w=LIMIT,
    memory_mib=LIMIT,
    rate_hz=st.sampled_from([None, 30.0]),
    battery_wh=st.sampled_from([None, 50.0]),
    energy=st.sampled_from(["gross", "dynamic"]),
    back_to_back=st.booleans(),
    include_simulated=st.booleans(),
)


@given(CANDIDATES, LIMITS)
def test_the_chosen_run_meets_every_limit(candidates: list[Candidate], limits: Limits) -> None:
    choice = choose(candidates, limits)
    assert len(choice.meeting) + len(choice.failing) == len(candidates)
    for case in choice.meeting:
        one = case.candidate.overview
        assert one.status == "complete"
        assert limits.include_simulated or not one.simulated
        assert case.energy_mj is not None
        assert limits.latency_ms is None or (case.latency_ms or 1e9) <= limits.latency_ms
        assert limits.power_w is None or (case.power_w or 1e9) <= limits.power_w
        assert limits.peak_power_w is None or (one.peak_w or 1e9) <= limits.peak_power_w
        assert limits.memory_mib is None or (one.memory_mib or 1e9) <= limits.memory_mib
        if limits.rate_hz is not None and case.basis == "rate":
            assert (one.rate_hz or 0) * one.batch == pytest.approx(limits.rate_hz, rel=0.01)
        elif limits.rate_hz is not None:
            assert limits.back_to_back
            assert (one.throughput_hz or 0) >= limits.rate_hz
    assert all(case.reasons for case in choice.failing)
    assert (choice.best is None) == (not choice.meeting)
    alike = {case.run for case in choice.alike}
    assert all(not told_apart(only(choice), c) for c in choice.meeting if c.run in alike)


@given(CANDIDATES, LIMITS)
def test_who_does_not_win_decides_nothing(candidates: list[Candidate], limits: Limits) -> None:
    best = choose(candidates, limits).best
    for left_out in range(len(candidates)):
        if best is not None and candidates[left_out].overview.run != best.run:
            rest = candidates[:left_out] + candidates[left_out + 1 :]
            assert choose(rest, limits).best == best
    assert choose(candidates[::-1], limits).best == best


@given(
    CANDIDATES, LIMITS, st.sampled_from(["latency_ms", "power_w", "memory_mib"]), st.floats(0, 1)
)
def test_tighter_limits_never_give_a_better_run(
    candidates: list[Candidate], limits: Limits, name: str, part: float
) -> None:
    loose = choose(candidates, limits)
    tighter: dict[str, Any] = {name: part * (getattr(limits, name) or 500.0)}
    tight = choose(candidates, replace(limits, **tighter))
    assert {case.run for case in tight.meeting} <= {case.run for case in loose.meeting}
    if tight.best is not None:
        same_kind = only(loose).basis == tight.best.basis
        assert not same_kind or (only(loose).energy_mj or 0) <= (tight.best.energy_mj or 0)


@given(CANDIDATES, LIMITS)
def test_any_choice_can_be_told(candidates: list[Candidate], limits: Limits) -> None:
    import json

    choice = choose(candidates, limits)
    text = choice_text(choice)
    assert all(candidate.overview.run in text for candidate in candidates)
    assert "nan" not in text.lower().replace("finance", "")
    back = json.loads(json.dumps(choice_json(choice), allow_nan=False))
    assert [case["run"] for case in back["meeting"]] == [case.run for case in choice.meeting]
