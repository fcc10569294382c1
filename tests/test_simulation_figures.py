"""The figures of the attribution benchmark, from answers whose errors are known."""

import math

import pytest

from benchmarks.attribution import TOTAL, answers, attributed, keep, read_kept
from benchmarks.attribution_figures import Answer, Layer, Limits, figures_of, judge
from edgejoule.energy.rows import EnergyRow
from edgejoule.simulation import SCENARIOS


def layer(number: int, true_mj: float, mj: float | None, half_mj: float = 0.1) -> Layer:
    big = true_mj >= 1.0
    return Layer(number, true_mj, true_mj, big, number == 3, mj, half_mj, mj)


def answer(*layers: Layer, groups=(), held_out: float | None = None) -> Answer:
    return Answer(
        "window", list(layers), list(groups), (1.0, 1.1), (10.0, 9.9), 0.98, held_out, 1.0
    )


def test_a_layer_that_is_not_resolved_is_missed_without_limit() -> None:
    found = figures_of([answer(layer(0, 2.0, 2.02), layer(1, 4.0, None), layer(2, 2.0, None))])
    assert found["resolved"] == pytest.approx(1 / 3)
    assert found["missed"] == math.inf
    assert found["error"] == pytest.approx(0.01)


def test_small_layers_count_for_coverage_of_all_only() -> None:
    found = figures_of([answer(layer(0, 2.0, 2.05), layer(1, 0.1, 0.9), layer(2, 3.0, 3.2))])
    assert found["layers"] == 2
    assert found["covered"] == 0.5
    assert found["covered_all"] == pytest.approx(1 / 3)
    assert found["worst"] == pytest.approx(0.2 / 3)


def test_groups_and_gap_are_held_against_the_truth() -> None:
    found = figures_of([answer(layer(0, 2.0, 2.0), groups=[(3.0, 3.05, 0.1), (5.0, 6.0, 0.5)])])
    assert found["groups"] == 2
    assert found["covered_groups"] == 0.5
    assert found["gap_error"] == pytest.approx(0.01)
    assert found["inference_error"] == pytest.approx(0.01)


def test_ranks_are_those_of_energy_and_of_power() -> None:
    right = answer(layer(0, 2.0, 2.1), layer(1, 3.0, 3.1), layer(2, 4.0, 3.9))
    wrong = answer(layer(0, 2.0, 4.0), layer(1, 3.0, 3.0), layer(2, 4.0, 2.0))
    assert figures_of([right])["rank_power"] == pytest.approx(1.0)
    assert figures_of([wrong])["rank_energy"] == pytest.approx(-1.0)


def test_held_out_closure_is_the_distance_from_one() -> None:
    found = figures_of([answer(layer(0, 2.0, 2.0), held_out=one) for one in (0.98, 1.01, 1.03)])
    assert found["held_out"] == pytest.approx(0.02)


def test_limits_are_met_or_not() -> None:
    limits = Limits(resolved=0.9, missed=0.03, rank=0.95, half=0.06)
    good = figures_of([answer(*[layer(n, 2.0 + n, 2.01 + n) for n in range(5)])])
    assert judge(limits, good) == dict.fromkeys(
        ("resolved", "missed", "rank", "half", "covered"), True
    )
    bad = figures_of([answer(layer(0, 2.0, 2.5), layer(1, 3.0, None))])
    met = judge(limits, bad)
    assert not met["resolved"]
    assert not met["covered"]
    assert not met["rank"]


def test_silence_is_no_error_where_it_is_allowed() -> None:
    silent = figures_of([answer(layer(0, 2.0, None), layer(1, 3.0, None))])
    assert judge(Limits(error=0.06), silent) == {"error": True, "covered": True}
    assert not judge(Limits(resolved=0.9, missed=0.03), silent)["missed"]


def test_rows_are_held_against_the_layers_that_they_name() -> None:
    import dataclasses

    from edgejoule.simulation import simulate

    run = simulate(dataclasses.replace(SCENARIOS["base"], inferences=60), 0)
    true_mj = run.truth[TOTAL].layer_mj

    def row(kind: str, at: int | None, mj: float | None, *, resolved=True, group=None):
        return EnergyRow(
            "window", TOTAL, kind, at, mj, 0.1, None, None, None, 60, resolved, group=group
        )

    rows = [row("layer", at, float(true_mj[at])) for at in range(2, 20)]
    rows += [row("layer", at, None, resolved=False, group=0) for at in (0, 1)]
    rows += [row("group", None, float(true_mj[:2].sum()), group=0)]
    rows += [row(kind, None, 1.0) for kind in ("gap", "inference", "closure")]
    found = attributed("window", run, rows, None, 0.0)
    assert [one.layer for one in found.layers if one.mj is None] == [0, 1]
    assert found.groups[0][0] == pytest.approx(float(true_mj[:2].sum()))
    assert all(one.mj == pytest.approx(one.true_mj) for one in found.layers if one.mj is not None)


def test_a_pass_is_attributed_by_every_method_in_turn() -> None:
    found = answers(("base", 0, 200, ("interval", "proportional")))
    assert [one.method for one in found] == ["interval", "proportional"]
    for one in found:
        assert len(one.layers) == 20
        assert one.inference[1] == pytest.approx(one.inference[0], rel=0.1)


def test_passes_that_were_made_are_read_back_and_a_cut_line_is_left_out(tmp_path) -> None:
    path = tmp_path / "passes.jsonl"
    task = ("base", 4, None, ("window",))
    made = [answer(layer(0, 2.0, 2.1), layer(1, 3.0, None), groups=[(3.0, 3.1, 0.2)])]
    keep(path, task, made)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"task": ["base", 5')
    assert read_kept(path) == {task: made}
    assert read_kept(tmp_path / "none") == {}
