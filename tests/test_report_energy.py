"""Energy of layers in the reports: methods, groups, modules, checks, roofline, repeats."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgejoule.energy.rollup_amounts import Amount
from edgejoule.report import markdown, terminal
from edgejoule.report.attribution import (
    Closure,
    duplication,
    duplication_line,
    inference_line,
    method_figures,
    method_line,
    observer_lines,
    systematic_line,
    unresolved_lines,
)
from edgejoule.report.energies import batch_of
from edgejoule.report.energy_sections import best_rollup, piece_name, shown_modules
from edgejoule.report.repeats import repeats_of, repeats_text
from edgejoule.report.sections import section
from edgejoule.report.tables import RunTables, load_run
from edgejoule.report.text import edp, ms
from tests.support_tables import LAYERS, build, energy_row

MODULES = ("features.0", "features.1", "classifier.fc")
NET = [{**layer, "module_path": path} for layer, path in zip(LAYERS, MODULES, strict=True)]
TIMES = [[4.0, 2.0, 1.0]] * 4
WHY = "its interval is too wide for a figure"


def rows(method: str = "window", rail: str = "total") -> list[dict[str, Any]]:
    def row(layer: int | None, **values: Any) -> dict[str, Any]:
        return energy_row(method, rail, layer, **values)

    apart: dict[str, Any] = {"gross_mj": None, "resolved": False, "group": 1, "why": WHY}
    return [
        row(0, gross_mj=8.0, gross_statistical_mj=0.4, dynamic_mj=6.0, resolved=True),
        row(1, **apart),
        row(2, **apart),
        row(None, kind="group", gross_mj=3.0, dynamic_mj=1.5, resolved=True, group=1),
        row(None, gross_mj=1.0, dynamic_mj=0.5),
        row(None, kind="inference", gross_mj=12.5, dynamic_mj=8.2, systematic_mj=0.5),
        row(None, kind="closure", gross_mj=12.0, dynamic_mj=8.0),
    ]


CLEAN = {"gross_mj": 12.0, "gross_statistical_mj": 0.3, "dynamic_mj": 8.0,
         "dynamic_statistical_mj": 0.2, "mean_mw": 3000.0, "n": 100}  # fmt: skip
SUMMARY: dict[str, Any] = {
    "clean": {"mean_ms": 4.0, "median_ms": 4.0, "inferences": 100},
    "profiled": {"mean_ms": 8.0, "median_ms": 8.0, "inferences": 4},
    "energy": {
        "rail": "total",
        "clean": CLEAN,
        "rails": {"total": {"clean": CLEAN}},
        "attribution": {
            "window": {
                "total": {
                    "closure": {"gross": 0.96, "dynamic": 0.976, "interval_gross": [0.98, 1.0],
                                "held_out": 0.99},
                    "resolved_layers": 1,
                    "layers": 3,
                    "resolved_share": 0.73,
                }
            },
            "replay": {
                "VDD_A": {"closure": {"gross": 0.98, "other_rule": 0.57}, "resolved_layers": 2,
                          "layers": 3}
            },
        },
        "duplication": {
            "layers": [
                {"layer": 0, "copies": [1, 2, 4], "slope_mj": 6.1, "slope_half_mj": 0.2,
                 "attributed_mj": 6.0, "ratio": 1.017, "ratio_interval": [0.98, 1.05]},
                {"layer": 1, "copies": [1, 2], "slope_mj": 1.0, "attributed_mj": 1.5,
                 "ratio": 0.667, "outlier": True},
                {"layer": 2, "why": "the network came out different"},
            ]
        },
        "observer": {
            "sampler": {"latency_percent": 0.3, "interval_percent": [-0.1, 0.7], "resolved": False},
            "profiler": {"latency_percent": 12.5, "resolved": True, "energy_percent": 9.0},
        },
        "accuracy": {"total": {"sources": ["a data sheet"], "assumptions": ["a shunt within 1 %"]}},
    },
    "roofline": {"peak_gflops": 1.0, "peak_gbs": 0.01, "dtype": "float32", "how": "torch on cpu"},
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunTables:
    config = {"input_shape": [4, 1, 32, 32]}
    path = build(tmp_path_factory.mktemp("data"), "net", layers=NET, times_ms=TIMES, energy=rows(),
                 config=config, run={"summary": SUMMARY})  # fmt: skip
    return load_run(path)


def changed(run: RunTables, **energy: Any) -> RunTables:
    summary = {**run.summary, "energy": {**run.summary["energy"], **energy}}
    return replace(run, run={**run.run, "summary": summary})


def test_methods_with_their_closures(whole: RunTables) -> None:
    replay, window = method_figures(whole)
    assert method_line(replay) == (
        "replay on VDD_A: 2 of 3 layers resolved; closure 98.0 % gross, 57.0 % by the other rule"
    )
    assert method_line(window) == (
        "window regression on total: 1 of 3 layers resolved (73.0 % of it); 1 group of 2; closure "
        "96.0 % gross, 97.6 % dynamic, 99.0 (98.0 to 100.0) % on blocks that were not fitted"
    )
    text = section(whole)
    assert (
        "| window regression | total | 1 of 3 | 73.0 % | 1 | 96.0 | 97.6 | 99.0 (98.0 to 100.0) |"
        in text
    )


def test_a_sum_in_which_layers_are_missing_is_called_no_closure(whole: RunTables) -> None:
    told = {"layers": 3, "closure": {"dynamic": 0.9, "missing_layers": 1, "time_share": 0.85}}
    run = changed(whole, attribution={"replay": {"VDD_A": told}})
    (replay,) = (one for one in method_figures(run) if one.method == "replay")
    assert method_line(replay) == (
        "replay on VDD_A: no closure, but the sum without 1 of 3 layers (85.0 % of all layers' "
        "time): 90.0 % dynamic"
    )
    assert "| 85.0 %, 1 missing |" in section(run)


def test_without_a_summary_the_rows_tell(whole: RunTables) -> None:
    run = changed(whole, attribution=None)
    (window,) = method_figures(run)
    assert (window.gross.value, window.dynamic.value) == (12.0 / 12.5, 8.0 / 8.2)
    assert (window.resolved, window.resolved_share) == ("1 of 3", pytest.approx(8 / 11))
    assert window.held_out == Closure()
    held = {"window": {"total": {"closure": {"held_out": {"gross": 0.9}}}}}
    assert method_figures(changed(whole, attribution=held))[0].held_out.value == 0.9


def test_the_largest_layers_and_groups(whole: RunTables) -> None:
    page = section(whole)
    assert "Most energy, 2 of 3 layers, by window regression on total" in page
    first = next(line for line in page.splitlines() if line.startswith("| 1 | conv1 | features.0"))
    # 8 mJ in 4 ms are 2 W; 235200 operations for 8 mJ; 2.35 of 4 ms at the memory's roof.
    assert "| 8 ± 0.4 mJ | 6 mJ | 66.7 | 2 W | 32 uJ s | 0.0588 | 0.0294 | memory | 58.8 |" in first
    assert '| 2 | 2 layers together: pool1, fc, "the last" | - | 3 mJ | 1.5 mJ | 25.0 |' in page
    assert "Above the memory's roof: its data come from a cache (pool1)." in page
    text = terminal.run_text(whole)
    assert re.search(r"1\s+conv1\s+8 \+- 0.4 mJ\s+6 mJ\s+66.7\s+2 W\s+0.0294\s+58.8", text)
    assert re.search(r"2\s+pool1\s.*not resolved", text)


def test_modules_and_operations(whole: RunTables) -> None:
    page = section(whole)
    assert "| (everything) | 3 | 8 | 12 mJ | 8 mJ | 100.0 |" in page
    assert "| (the model) | 3 | 7 | 11 mJ | 7.5 mJ | 91.7 |" in page
    assert "| features | 1 | 4 | 8 ± 0.4 mJ | 6 mJ | 66.7 | 2 W | 32 uJ s | 1 layers known" in page
    assert "| pooling + dense | 2 | 3 | 3 mJ | 1.5 mJ | 25.0 |" in page
    assert "the half-width of a module is the sum of the half-widths, that of everything" in page


def test_a_large_tree_is_cut_to_a_page(tmp_path: Path) -> None:
    layers = [
        {**LAYERS[0], "index": k, "module_path": f"a{k // 20}.b{k // 4 % 5}.c{k % 4}"}
        for k in range(60)
    ]
    energies = [energy_row("replay", "total", k, gross_mj=1.0, resolved=True) for k in range(60)]
    energies.append(energy_row("replay", "total", None, gross_mj=6.0))
    path = build(tmp_path, layers=layers, times_ms=[[1.0] * 60] * 2, energy=energies)
    rollup = best_rollup(load_run(path))
    assert rollup is not None
    shown = shown_modules(rollup)
    # The whole, the model, three blocks of five; the sixty layers below have no room.
    assert [node.depth for node in shown].count(4) == 0
    assert [node.path for node in shown if node.depth == 2] == ["a0", "a1", "a2"]
    assert (len(shown), shown[-1].kind) == (2 + 3 + 15 + 1, "gap")


def test_the_duplication_check_names_every_outlier(whole: RunTables) -> None:
    found = duplication(whole)
    assert duplication_line(found) == (
        "duplication check: 3 layers, what one more execution costs over what was attributed: "
        "median 84.2 %, 66.7 to 101.7 %; outliers: pool1 66.7 %"
    )
    page = section(whole)
    assert "| conv1 | 1, 2, 4 | 6.1 ± 0.2 mJ | 6 mJ | 101.7 (98.0 to 105.0) |  |" in page
    assert "| - | - | - | - | the network came out different |" in page
    listed = changed(whole, duplication=SUMMARY["energy"]["duplication"]["layers"])
    assert duplication(listed) == found
    assert duplication_line(found[2:]) == "duplication check: 1 layer, no figure"


def test_what_measuring_costs(whole: RunTables) -> None:
    assert observer_lines(whole) == [
        "observer effect of the sampler: latency +0.30 % (-0.10 to +0.70 %), not told from zero",
        "observer effect of the profiler: latency +12.50 %, energy +9.00 %",
    ]
    short = changed(whole, observer={"why": "the clean pass is too short"})
    assert observer_lines(short) == ["observer effect: not measured, the clean pass is too short"]


def test_bound_image_and_product(whole: RunTables) -> None:
    assert systematic_line(whole) == (
        "systematic bound (gain, offset, step, choice of baseline): ± 0.5 mJ per profiled "
        "inference, 4.0 % of the gross energy; a data sheet; assumed: a shunt within 1 %"
    )
    assert inference_line(whole, "SIMULATED ") == (
        "per image (batch 4): SIMULATED 3 mJ gross, SIMULATED 2 mJ dynamic; energy-delay product "
        "SIMULATED 48 uJ s"
    )
    assert "- Measured roofline: 1 GFLOP/s in float32, 0.01 GB/s; they meet at 100" in section(
        whole
    )
    assert [edp(value) for value in (None, 6.6, 12_340.0, 2.5e7)] == [
        "-", "6.6 uJ s", "12.34 mJ s", "25 J s",
    ]  # fmt: skip
    assert batch_of({"input": {"shapes": {"x": [8, 3]}}}) == 8
    assert [batch_of({"config": {"input_shape": shape}}) for shape in ([], [True], [-1], "ab")] == [
        1, 1, 1, 1,
    ]  # fmt: skip


def test_a_bound_that_is_not_known_says_so(tmp_path: Path) -> None:
    unknown = [{**row, "systematic_mj": None} for row in rows()]
    build(tmp_path, "net", times_ms=TIMES, energy=unknown, run={"summary": SUMMARY})
    run = load_run(tmp_path / "net")
    assert systematic_line(run) == "systematic bound: not known for this sensor"
    assert systematic_line(changed(run, accuracy=None)) is None


def test_every_simulated_figure_is_marked(tmp_path: Path) -> None:
    build(tmp_path, "net", layers=NET, times_ms=TIMES, energy=rows(), simulated=True,
          config={"input_shape": [4, 1, 32, 32]}, run={"summary": SUMMARY})  # fmt: skip
    run = load_run(tmp_path / "net")
    page = markdown.report("data", [run])
    lines = page.splitlines()
    for place, line in enumerate(lines):
        if re.search(r"\d m?[JW]\b|uJ s", line):
            at = place
            while line.startswith("|") and not lines[at].startswith("| ---"):
                at -= 1
            assert "simulated" in (line + lines[at - 1]).lower(), line
    for line in terminal.energy_lines(run):
        assert "SIMULATED" in line or line.startswith("observer effect"), line
    # What stands on a terminal is of the run's own rail.
    assert not any("VDD_A" in line for line in terminal.energy_lines(run))
    header = str(terminal.energy_table(run)).splitlines()[1]
    assert header.count("SIMULATED") == 4


def test_rows_that_do_not_add_up_are_named_and_left_out(tmp_path: Path) -> None:
    wrong = [{**row, "gross_mj": 20.0} if row["kind"] == "closure" else row for row in rows()]
    good = [{**row, "method": "interval"} for row in rows()]
    build(tmp_path, "net", times_ms=TIMES, energy=[*wrong, *good])
    run = load_run(tmp_path / "net")
    assert [one.method for one in run.rollups] == ["interval"]
    assert run.missing == (
        "energy.parquet: window on total: its rows add up to 12 mJ, its closure says 20 mJ",
    )
    # The older rule is never the best, so layers have no energy.
    assert best_rollup(run) is None
    assert "mJ (" not in terminal.layer_table(run)
    assert "readings within a layer" in section(run)


def test_repeats_are_stable_or_not(tmp_path: Path) -> None:
    for spread, name in ((0.002, "calm"), (0.05, "wild")):
        for k in (1, 2, 3):
            clean = {**CLEAN, "gross_mj": 12 * (1 + spread * k)}
            energy = {"rail": "total", "clean": clean, "rails": {"total": {"clean": clean}}}
            run, config = {"summary": {**SUMMARY, "energy": energy}}, {"model": name, "repeat": k}
            build(tmp_path, f"{name}-r{k}", config=config, simulated=name == "wild", run=run)
    build(tmp_path, "single")
    runs = [load_run(path) for path in sorted(tmp_path.iterdir()) if (path / "run.json").exists()]
    assert [(one.names[0], simulated) for one, simulated in repeats_of(runs)] == [
        ("calm-r1", False),
        ("wild-r1", True),
    ]
    calm, wild = repeats_text(runs).splitlines()
    assert calm.startswith("calm, 3 processes: 12.05 +- ")
    assert calm.endswith("deviation 0.20 %, stable")
    assert "SIMULATED 13.2 +- " in wild
    assert re.search(r"deviation 4.5\d %, unstable \(", wild)
    page = markdown.report("data", runs)
    assert re.search(r"\| calm \| 3 \| 1 \| 12.05 ± .* \| 0.20 \| stable \|", page)
    assert re.search(r"\| wild \| 3 \| 1 \| 13.2 ± .* mJ \(simulated\) \|.*\*\*unstable", page)
    assert "## Repeats" not in markdown.report("data", [runs[-1]])


def test_runs_in_pieces_have_no_repeats() -> None:
    runs = [RunTables(Path("x"), run) for run in ({}, {"config": {}}, {"config": 7, "summary": []})]
    assert repeats_text([*runs, *runs]) == ""


def test_layers_without_a_figure_say_why_in_one_line(whole: RunTables) -> None:
    (line,) = unresolved_lines(whole, "SIMULATED ")
    assert line == (
        'not resolved by window regression on total: SIMULATED 2 of 3 layers: pool1 + fc, "the '
        'last" (known only together); more --runs, or --energy replay, may tell more'
    )
    assert line.replace("SIMULATED ", "") in terminal.run_text(whole)
    assert "- Not resolved by window regression on total: 2 of 3 layers" in section(whole)
    alone = [replace(piece, resolved=False, why=WHY) for piece in whole.rollups[0].pieces]
    run = replace(whole, rollups=(replace(whole.rollups[0], pieces=tuple(alone)),))
    assert f'conv1, pool1 + fc, "the last" ({WHY}); more' in unresolved_lines(run)[0]
    resolved = tuple(replace(one, resolved=True) for one in alone if one.kind != "group")
    run = replace(whole, rollups=(replace(whole.rollups[0], pieces=resolved),))
    assert unresolved_lines(run) == []


def test_the_interval_of_a_fit_is_that_of_what_it_did_not_see(whole: RunTables) -> None:
    closure = {"gross": 1.004, "held_out": 1.0, "interval_gross": [0.999, 1.001]}
    said = {"window": {"total": {"closure": closure}}, "replay": {"VDD_A": {"closure": {
        "gross": 0.98, "interval_gross": [0.97, 0.99], "held_out": None}}}}  # fmt: skip
    replay, window = method_figures(changed(whole, attribution=said))
    assert (str(window.gross), str(window.held_out)) == ("100.4", "100.0 (99.9 to 100.1)")
    assert str(replay.gross) == "98.0 (97.0 to 99.0)"


def test_waiting_between_inferences_is_said(whole: RunTables) -> None:
    said = "Between profiled inferences the host waited a random time"
    config = {**whole.run["config"], "energy": "replay,window"}
    assert said in section(replace(whole, run={**whole.run, "config": config}))
    assert said not in section(whole)


def test_a_split_by_time_is_called_that(tmp_path: Path) -> None:
    shares = [energy_row("proportional", "total", layer, gross_mj=2.0) for layer in range(3)]
    page = section(load_run(build(tmp_path, "net", layers=NET, times_ms=TIMES, energy=shares)))
    for what in ("operations", "modules with all below them"):
        assert f"Energy of {what}, in proportion to time, which tells no layer's power" in page


def test_the_simulated_board_says_that_it_knows_no_layers(whole: RunTables) -> None:
    def on(sensor: str, backend: str) -> RunTables:
        config = {**whole.run["config"], "backend": backend}
        return replace(whole, run={**whole.run, "sensor": {"name": sensor}, "config": config})

    said = "the simulated board knows no layers"
    assert said in terminal.run_text(on("simulated", "torch"))
    assert "- The simulated board knows no layers" in section(on("simulated", "torch"))
    # A simulated network has powers of its own, and a real sensor shows real ones.
    assert said not in terminal.run_text(on("simulated", "simulated"))
    assert said not in terminal.run_text(on("nvml", "torch"))


def test_a_method_that_knows_nothing_is_not_the_best(tmp_path: Path) -> None:
    nothing = {"gross_mj": None, "resolved": False, "group": 0, "why": "the pass was too short"}
    blind = [energy_row("window", "total", layer, **nothing) for layer in range(3)]
    blind.append(energy_row("window", "total", None, **{**nothing, "kind": "group"}))
    shares = [energy_row("proportional", "total", layer, gross_mj=2.0) for layer in range(3)]
    path = build(tmp_path, "net", layers=NET, times_ms=TIMES, energy=[*blind, *shares])
    run = load_run(path)
    assert best_rollup(run) is run.rollups[1]
    text = terminal.run_text(run)
    assert "mJ (proportional to time" in text
    assert "3 of 3 layers: all 3 (the pass was too short)" in text
    assert "Most energy, 0 of" not in section(run)


def test_a_terminal_of_80_columns_is_kept_to(whole: RunTables) -> None:
    long = [replace(layer, name="layer " * 12 + str(layer.index)) for layer in whole.layers]
    run = replace(whole, layers=tuple(long))
    text = terminal.run_text(run, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "gross" in text
    assert "share %" in text
    assert "roof %" not in text
    assert max(map(len, terminal.run_text(run).splitlines())) > 80


def test_a_group_is_named_as_far_as_there_is_room(whole: RunTables) -> None:
    known = {layer.index: layer for layer in whole.layers}
    group = next(piece for piece in whole.rollups[0].pieces if piece.kind == "group")
    assert piece_name(group, known) == '2 layers together: pool1, fc, "the last"'
    assert piece_name(group, known, 38) == "2 layers together: pool1 and 1 more"
    assert piece_name(group, known, 20) == "2 layers together"


def test_less_than_a_nanosecond_has_no_power() -> None:
    assert Amount(1e-4, time_ms=1e-8).power_gross_mw is None
    assert Amount(1e-4, time_ms=1e-3).power_gross_mw == pytest.approx(100.0)
    assert (ms(1.7e-9), ms(-2e-8), ms(0.0005)) == ("0", "0", "0.0005")
