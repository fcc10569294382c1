"""Intervals over blocks, processes and builds: coverage, components, verdicts."""

from dataclasses import replace

import numpy as np
import pytest

from edgejoule.energy.hierarchy import RunValue, over_runs, run_value, scope_of
from edgejoule.energy.repeats import parts_over_runs, summarise_repeats
from edgejoule.energy.rows import EnergyRow
from edgejoule.errors import MeasurementError


def measured(rng, shape, build=0.0, process=0.0, block=0.1, blocks=20):
    """Runs of a true mean of 10: `shape` is processes per build."""
    runs = []
    for index, processes in enumerate(shape):
        of_build = rng.normal(0, build)
        for _ in range(processes):
            level = 10 + of_build + rng.normal(0, process)
            values = level + rng.normal(0, block, blocks)
            error = values.std(ddof=1) / np.sqrt(blocks)
            runs.append(RunValue(values.mean(), error, blocks, index))
    return runs


@pytest.mark.parametrize(
    ("shape", "build", "process", "block"),
    [
        ((1,), 0.0, 0.0, 0.3),
        ((5,), 0.0, 0.1, 0.1),
        ((5,), 0.0, 0.0, 0.3),
        ((3, 2), 0.1, 0.1, 0.1),
        ((3, 2), 0.1, 0.0, 0.1),
        ((3, 2), 0.0, 0.1, 0.1),
        ((1, 1, 1, 1), 0.1, 0.1, 0.1),
        ((3, 3, 3, 3), 0.1, 0.02, 0.1),
        ((4, 4, 1), 0.1, 0.1, 0.3),
    ],
)
def test_nominal_95_percent_covers_the_truth_at_every_level(shape, build, process, block):
    held = 0
    for seed in range(300):
        runs = measured(np.random.default_rng(seed), shape, build, process, block)
        found = over_runs(runs)
        held += abs(found.mean - 10) <= found.half_width
    assert held >= 0.93 * 300


def test_one_process_would_promise_too_much():
    """Why levels matter: intervals within a process do not hold what processes scatter."""
    held = 0
    for seed in range(200):
        found = over_runs(measured(np.random.default_rng(seed), (1,), 0.0, 0.1, 0.1))
        held += abs(found.mean - 10) <= found.half_width
    assert held < 0.5 * 200


def test_degrees_of_freedom_are_those_of_the_highest_level():
    rng = np.random.default_rng(1)
    assert over_runs(measured(rng, (1,))).degrees_of_freedom == pytest.approx(19)
    assert over_runs(measured(rng, (5,))).degrees_of_freedom == 4
    two = over_runs(measured(rng, (3, 2), 0.1, 0.1))
    assert two.degrees_of_freedom == 1
    # With other builds in mind two say little; of these two, three degrees of freedom tell more.
    wide = [over_runs(measured(np.random.default_rng(s), (3, 2), 0.1, 0.05)) for s in range(50)]
    ratio = [found.half_width / found.of_these_builds for found in wide]
    assert np.median(ratio) > 3
    assert min(ratio) >= 1


def test_a_runs_blocks_give_its_mean_and_error():
    values = np.random.default_rng(2).normal(10, 0.3, 20)
    found = run_value(values, 3)
    assert (found.blocks, found.build, found.drift_rel) == (20, 3, None)
    assert found.value == pytest.approx(values.mean())
    assert found.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(20))
    assert run_value(values[:1]).standard_error is None
    assert run_value(values + np.linspace(-2, 2, 20)).drift_rel == pytest.approx(0.42, abs=0.06)


def test_satterthwaite_lies_between_the_least_and_the_sum():
    runs = [RunValue(10.0, 0.1, 20), RunValue(10.0, 0.001, 20)]
    found = over_runs(runs)
    assert found.half_width == pytest.approx(2.093 * 0.05, rel=1e-3)  # the noisy run's 19
    even = over_runs([RunValue(10.0, 0.1, 20), RunValue(10.0, 0.1, 20)])
    assert even.half_width == pytest.approx(2.024 * 0.1 / np.sqrt(2), rel=2e-3)  # 38


def test_the_parts_of_the_variance_are_found():
    sums = np.zeros(3)
    for seed in range(200):
        found = over_runs(measured(np.random.default_rng(seed), (4,) * 6, 0.3, 0.2, 0.4))
        sums += np.square([found.build_rsd, found.process_rsd, found.within_rsd]) * found.mean**2
    assert sums / 200 == pytest.approx([0.3**2, 0.2**2, 0.4**2 / 20], rel=0.12)


@pytest.mark.parametrize(
    ("shape", "build", "process", "block", "reason"),
    [
        ((5, 5), 0.5, 0.02, 0.02, "builds differ by"),
        ((6,), 0.0, 0.5, 0.02, "beyond the 0.0"),
        ((6,), 0.0, 0.0, 2.0, "what varies within a process explains it"),
        ((1, 1, 1), 0.0, 0.5, 0.02, "one process per build does not say which"),
    ],
)
def test_what_is_unstable_says_why(shape, build, process, block, reason):
    found = over_runs(measured(np.random.default_rng(3), shape, build, process, block))
    assert found.rsd > 0.01
    assert found.verdict == "unstable"
    assert reason in found.why


def test_a_drift_within_processes_is_named():
    rng = np.random.default_rng(5)
    rising = [run_value(level + np.linspace(-1, 1, 20) + rng.normal(0, 0.05, 20))
              for level in (10.0, 10.3, 9.6, 10.1, 9.9)]  # fmt: skip
    found = over_runs(rising)
    assert found.verdict == "unstable"
    assert "5 of them drift within, by up to 2" in found.why


def test_five_that_agree_are_stable_and_one_says_nothing():
    found = over_runs(measured(np.random.default_rng(1), (3, 2), 0.01, 0.03, 0.1))
    assert (found.verdict, found.scope) == ("stable", "over 5 processes and 2 builds")
    assert found.rsd <= 0.01
    assert found.why.startswith("5 processes and 2 builds differ by 0.")
    alone = over_runs(measured(np.random.default_rng(1), (1,)))
    assert (alone.verdict, alone.scope, alone.rsd) == ("unknown", "within this process", None)
    assert "repeat it in fresh processes" in alone.why
    assert scope_of(4, 1) == "over 4 processes"
    with pytest.raises(MeasurementError, match="no run"):
        over_runs([])
    with pytest.raises(MeasurementError, match="without a value"):
        run_value(np.array([]))


def test_without_blocks_processes_still_say_something():
    found = over_runs([RunValue(value, None, 1) for value in (10.0, 10.2, 9.8)])
    assert found.half_width == pytest.approx(4.303 * 0.2 / np.sqrt(3), rel=1e-3)
    assert found.within_rsd is None
    nothing = over_runs([RunValue(10.0, None, 1)])
    assert nothing.half_width is None


def run_json(name, repeat, rebuild, gross, **changes):
    config = {"model": "resnet18", "backend": "torch", "repeat": repeat, "rebuild": rebuild}
    part = {"gross_mj": gross, "gross_statistical_mj": 0.02, "dynamic_mj": gross - 5,
            "dynamic_statistical_mj": 0.03, "n": 500}  # fmt: skip
    return {
        "name": name,
        "status": "complete",
        "config": {**config, **changes},
        "summary": {
            "clean": {"mean_ms": 2.0, "interval_mean_ms": [1.99, 2.01], "inferences": 500},
            "energy": {"rail": "total", "rails": {"total": {"clean": part}, "VDD": {}}},
        },
    }


def test_repeats_of_one_experiment_are_found_among_runs():
    runs = [
        run_json("r-r2", 2, 0, 20.02),
        run_json("other", 0, 0, 50.0, dtype="int8"),
        run_json("r-r1", 1, 0, 20.0),
        run_json("r-r3", 3, 1, 20.05),
        {"name": "cut", "status": "incomplete", "config": {"model": "resnet18"}, "summary": {}},
    ]
    first, second = summarise_repeats(runs)
    assert first.names == ("r-r1", "r-r2", "r-r3")
    assert first.config == {"model": "resnet18", "backend": "torch"}
    assert (first.rail, first.gross.scope) == ("total", "over 3 processes and 2 builds")
    assert first.gross.mean == pytest.approx((20.01 + 20.05) / 2)
    assert first.gross.within_rsd == pytest.approx(0.02 / 2.093 / first.gross.mean, rel=1e-3)
    assert first.gross.verdict == first.latency_ms.verdict == "stable"
    assert first.dynamic.mean == pytest.approx(first.gross.mean - 5)
    assert second.names == ("other",)
    assert second.gross.verdict == "unknown"


def test_runs_without_energy_or_of_another_board_are_no_reason_to_fail():
    runs = [run_json(f"r{i}", i, 0, 20.0) for i in (1, 2, 3)]
    runs[0]["summary"]["energy"] = {"why": "no sensor"}
    runs[2]["board_id"] = "another"
    mixed, apart = summarise_repeats(runs)
    assert mixed.names == ("r1", "r2")
    assert (mixed.gross, mixed.rail) == (None, None)
    assert mixed.latency_ms.mean == 2.0
    assert apart.names == ("r3",)
    runs[1]["summary"] = None
    assert summarise_repeats(runs[1:2])[0].latency_ms is None


def energies(*layers, group=None):
    """Rows of one run: energies of layers, None for one that is not resolved."""
    rows = [
        EnergyRow("window", "VDD", "layer", index, gross, None if gross is None else 0.1,
                  None, None, None, 9, gross is not None, None if gross is not None else index)
        for index, gross in enumerate(layers)
    ]  # fmt: skip
    if group is not None:
        rows.append(EnergyRow("window", "VDD", "group", None, group, 0.2, None, None, None, 9, True,
                              layers.index(None)))  # fmt: skip
    return [*rows, EnergyRow("window", "VDD", "gap", None, 1.0, 0.1, 0.5, 0.1, None, 9, None)]


def test_layers_of_repeats_are_summed_up_where_every_run_has_a_number():
    runs = [energies(5.0, None, 2.0, group=3.0), energies(5.2, None, 2.0, group=3.1),
            energies(4.8, None, None, group=2.9)]  # fmt: skip
    found = {(part.kind, part.layers): part for part in parts_over_runs(runs, [0, 0, 0])}
    assert set(found) == {("layer", (0,)), ("group", (1,)), ("gap", ())}
    first = found["layer", (0,)]
    assert first.gross.mean == pytest.approx(5.0)
    assert first.gross.half_width == pytest.approx(4.303 * 0.2 / np.sqrt(3), rel=1e-3)
    assert (first.gross.scope, first.dynamic) == ("over 3 processes", None)
    assert found["gap", ()].dynamic.mean == 0.5
    assert parts_over_runs([], []) == []
    # A group of other layers is another part, whatever its smallest index.
    pair = [replace(row, group=1) if row.layer == 2 else row for row in runs[2]]
    kinds = [part.kind for part in parts_over_runs([*runs[:2], pair], [0, 0, 0])]
    assert kinds == ["layer", "gap"]


def test_builds_that_made_other_layers_are_no_repeats_of_layers():
    found = parts_over_runs([energies(5.0, 2.0), energies(5.0, 1.0, 1.0)], [0, 1])
    assert [part.kind for part in found] == ["gap"]
