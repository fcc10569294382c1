"""`report.py compare`: pairing, refusals, exit codes, what is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.cli.report_compare import main
from edgejoule.report.compare.comparing import compare
from edgejoule.report.compare.loading import load_side
from edgejoule.report.compare.result import Judged
from edgejoule.report.compare.words import failures
from tests.support_compare import LEVELS, durations, write_repeats, write_run


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    status = main([str(word) for word in words])
    said = capsys.readouterr()
    return status, said.out, said.err


def as_json(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    _, out, _ = run(capsys, *words, "--json")
    found: dict[str, Any] = json.loads(out)
    return found


def verdicts(pair: dict[str, Any], what: str = "time") -> list[str]:
    return [layer[what]["verdict"] for layer in pair["layers"]]


def test_a_run_with_itself_shows_no_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_run(tmp_path, "net", durations(0))
    found = as_json(capsys, path, path, "--fail-over", "0%", "--fail-on", "latency,layers")
    for kind in found["totals"].values():
        assert kind["better"] == kind["worse"] == 0
    assert found["totals"]["layer_times"]["no_difference_shown"] == len(LEVELS)
    assert found["failed"] == []
    status, text, _ = run(capsys, path, path)
    assert status == 0
    assert "within one process each: may not hold in a fresh process" in text


def test_repeats_half_as_slow_again_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_repeats(tmp_path / "a", range(4))
    second = tmp_path / "b"
    for repeat in range(1, 5):
        ms = durations(10 + repeat) * 1.5
        write_run(second, f"net-r{repeat}", ms, config={"repeat": repeat})
    (pair,) = as_json(capsys, first, second)["pairs"]
    found = {one["quantity"]: one for one in pair["figures"]}
    for quantity in ("latency", "gross", "dynamic", "common"):
        assert found[quantity]["verdict"] == "worse"
        assert found[quantity]["change"] == pytest.approx(0.5, abs=0.15)
    assert found["power"]["verdict"] == "no difference shown"
    # All layers moved alike: none of them on its own.
    assert set(verdicts(pair)) == {"no difference shown"}
    assert all(layer["time"]["change"] > 0.3 for layer in pair["layers"])
    assert pair["scope"] == "over fresh processes (4 against 4)"


def test_a_layer_that_slowed_is_worse_and_fails_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_repeats(tmp_path / "a", range(3))
    second = write_repeats(tmp_path / "b", range(10, 13), {7: 1.3})
    found = as_json(capsys, first, second)
    (pair,) = found["pairs"]
    assert [i for i, word in enumerate(verdicts(pair)) if word == "worse"] == [7]
    assert verdicts(pair, "energy")[7] == "worse"
    assert main([str(first), str(second), "--fail-over", "5%", "--fail-on", "layers"]) == 5
    said = capsys.readouterr()
    assert "worse by more than 5 %: " in said.err
    assert "layer 7 layer7" in said.err
    assert main([str(first), str(second), "--fail-over", "50%", "--fail-on", "layers"]) == 0
    # The other way round it is better, which fails nothing.
    assert main([str(second), str(first), "--fail-over", "5%", "--fail-on", "layers"]) == 0


def test_single_runs_of_other_precision_are_compared_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(tmp_path, "net", durations(0, own=0.0, common=0.0))
    half = durations(1, own=0.0, common=0.0) / 2
    second = write_run(tmp_path, "half", half, config={"dtype": "float16"})
    status, text, _ = run(capsys, first, second, "--all")
    assert status == 0
    assert "differs: dtype: float32 -> float16" in text
    (pair,) = as_json(capsys, first, second)["pairs"]
    assert not pair["common_told_apart"]
    assert set(verdicts(pair)) == {"better"}


def test_datasets_pair_by_configuration_then_by_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for folder, dtype in ((a, "float32"), (b, "float16")):
        write_run(folder, "same", durations(1), config={"model": "one"})
        write_run(folder, "other", durations(2), config={"model": "two", "dtype": dtype})
    write_run(a, "gone", durations(3), config={"model": "three"})
    found = as_json(capsys, a, b)
    pairs = {pair["a"]["runs"][0]["name"]: pair for pair in found["pairs"]}
    assert set(pairs) == {"same", "other"}
    assert pairs["same"]["knobs"] == []
    assert pairs["other"]["knobs"] == ["dtype: float32 -> float16"]
    assert [one["runs"][0]["name"] for one in found["a"]["alone"]] == ["gone"]
    status, text, err = run(capsys, a, b, "--fail-over", "5%")
    assert status == 1
    assert "gone" in err
    assert "only in A: gone" in text
    assert run(capsys, a, b)[0] == 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"config": {"model": "another"}}, "model: net and another"),
        ({"run": {"weights": "random"}}, "weights: pretrained and random"),
        (
            {
                "run": {
                    "input": {"kind": "normal", "sha256": "bb", "shapes": {"input": [1, 3, 8, 8]}}
                }
            },
            "input's hash: aa and bb",
        ),
        (
            {
                "run": {
                    "input": {"kind": "normal", "sha256": "aa", "shapes": {"input": [2, 3, 8, 8]}}
                }
            },
            "input shape",
        ),
        ({"run": {"board_id": "board two"}}, "board: board one and board two"),
        ({"run": {"machine": {"cpu": {"model": "x"}}}}, "CPU: a cpu and x"),
        ({"run": {"simulated": True}}, "power: measured or none and simulated"),
    ],
)
def test_what_is_not_equal_is_refused_unless_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], named: str
) -> None:
    first = write_run(tmp_path, "one", durations(0))
    second = write_run(tmp_path, "two", durations(1), **changes)
    status, out, err = run(capsys, first, second)
    assert (status, out) == (2, "")
    assert named in err
    assert err.count("\n") == 1
    status, out, _ = run(capsys, first, second, "--force")
    assert status == 0
    assert named in out.split("A: run")[0]


def test_a_broken_run_exits_1_and_a_dataset_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        write_run(folder, "net", durations(0))
    broken = write_run(b, "bad", durations(1))
    (broken / "run.json").write_text("{")
    status, _, err = run(capsys, broken, a / "net")
    assert status == 1
    assert err.count("\n") == 1
    status, text, err = run(capsys, a, b)
    assert status == 1
    assert "bad" in err
    assert "B: BROKEN" in text
    assert run(capsys, tmp_path / "nowhere", a)[0] == 1
    (broken / "run.json").unlink()
    status, _, err = run(capsys, broken, a / "net")
    assert (status, "run.json is missing" in err) == (1, True)
    assert run(capsys, tmp_path, a)[0] == 2


def test_an_incomplete_run_is_not_compared_unless_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(tmp_path, "one", durations(0))
    second = write_run(tmp_path, "two", durations(1), run={"status": "incomplete"})
    assert run(capsys, first, second)[0] == 1
    status, text, _ = run(capsys, first, second, "--force")
    assert status == 0
    assert "two is not complete" in text


def test_other_engines_pair_by_name_then_by_module(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ms = durations(0)[:, :6]
    left = ["conv", "twice", "twice", "old", "mine", "last"]
    right = ["conv", "twice", "new", "alone", "last", "more"]
    modules = ["a", "b", "c", "block.1", "x", "z"]
    first = write_run(tmp_path, "one", ms, names=left, modules=modules)
    second = write_run(
        tmp_path, "two", ms, names=right, modules=["a", "q", "block.1", "y", "z", "w"],
        config={"dtype": "int8"},
    )  # fmt: skip
    (pair,) = as_json(capsys, first, second)["pairs"]
    found = [(one["a"]["name"], one["b"]["name"]) for one in pair["layers"]]
    assert found == [("conv", "conv"), ("old", "new"), ("last", "last")]
    assert [one["name"] for one in pair["alone"]["a"]] == ["twice", "twice", "mine"]
    _, text, _ = run(capsys, first, second)
    assert "only in A: 3 layers" in text
    assert "only in B: 3 layers" in text


def test_missing_parts_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_run(tmp_path, "one", durations(0), power_mw=None)
    second = write_run(tmp_path, "two", durations(1), layers=False)
    status, text, _ = run(capsys, first, second)
    assert status == 0
    assert "A has no figure told from zero" in text
    assert "layers are not compared: B has no times of layers" in text
    assert "nan" not in text.lower()
    third = write_run(tmp_path, "three", durations(2), resolved={4: False})
    (pair,) = as_json(capsys, write_run(tmp_path, "four", durations(3)), third)["pairs"]
    assert pair["layers"][4]["energy"]["verdict"] == "not compared"
    assert pair["layers"][4]["energy"]["why"] == "not resolved in every run"
    assert pair["layers"][3]["energy"]["verdict"] != "not compared"


def test_hostile_names_are_shown_and_harmless(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = ["<script>alert(1)</script>", "a|b\x1b[31m", "x" * 500, "n\u00e4m\u00e9", "`c`", "*d*"]
    ms = durations(0)[:, :6]
    wave = 0.5 * (np.arange(6) % 2)  # every second layer changes by a half
    runs = [
        write_run(
            tmp_path, f"r{place}", ms * (1.0 + place * wave), names=evil,
            config={"dtype": f"f<b>{place}"},
        )
        for place in range(2)
    ]  # fmt: skip
    page = tmp_path / "page.md"
    status, text, _ = run(capsys, *runs, "--all", "--markdown", page)
    assert status == 0
    assert "\x1b" not in text
    assert "<script>" in text  # a terminal shows it
    assert max(map(len, text.splitlines())) < 300
    said = page.read_text(encoding="utf-8")
    assert "<script>" not in said.replace("\\<", "")
    assert "\x1b" not in said
    rows = [line for line in said.splitlines() if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") in (7, 9) for line in rows)
    assert "xxx\\~xxx" in said


def test_wrong_words_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--least", "x"], ["--fail-over", "-1%"], ["--fail-on", "speed"]):
        with pytest.raises(SystemExit) as left:
            main(["a", "b", *words])
        assert left.value.code == 2
    capsys.readouterr()
    path = write_run(tmp_path, "net", durations(0))
    assert run(capsys, path, path, "--markdown", tmp_path / "no" / "x.md")[0] == 2


def test_a_check_fails_where_what_it_watches_could_not_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(tmp_path, "one", durations(0))
    second = write_run(tmp_path, "two", durations(0), power_mw=None)
    assert run(capsys, first, second)[0] == 0
    status, _, err = run(capsys, first, second, "--fail-over", "5%")
    assert status == 1
    assert "could not be compared: two: energy (B has no figure told from zero)" in err
    assert run(capsys, first, second, "--fail-over", "5%", "--fail-on", "latency")[0] == 0
    # What A never had is nothing that could get worse.
    assert run(capsys, second, first, "--fail-over", "5%")[0] == 0
    third = write_run(tmp_path, "three", durations(0), layers=False)
    words = ("--fail-over", "5%", "--fail-on", "layers")
    assert run(capsys, first, third, *words)[0] == 1
    assert run(capsys, third, first, *words)[0] == 0
    # Worse weighs more than not compared.
    slow = write_run(tmp_path, "slow", durations(0) * 2, power_mw=None)
    assert run(capsys, first, slow, "--fail-over", "5%")[0] == 5


def test_figures_that_are_not_told_from_zero_in_every_run_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The runs that are told are those where it came out large.
    first = write_repeats(tmp_path / "a", range(3))
    second = write_repeats(tmp_path / "b", range(10, 13))
    path = second / "net-r2" / "run.json"
    plain = json.loads(path.read_text())
    clean = plain["summary"]["energy"]["rails"]["total"]["clean"]
    clean["dynamic_statistical_mj"] = 2 * clean["dynamic_mj"]
    path.write_text(json.dumps(plain))
    (pair,) = as_json(capsys, first, second)["pairs"]
    found = {one["quantity"]: one for one in pair["figures"]}
    assert found["dynamic"]["why"] == "B: not told from zero in every run"
    assert found["gross"]["verdict"] == "no difference shown"
    del plain["summary"]["energy"]
    path.write_text(json.dumps(plain))
    (pair,) = as_json(capsys, first, second)["pairs"]
    assert "B: 1 of its runs have no gross energy" in pair["notes"]


def test_runs_pair_with_those_of_their_own_board_and_mode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for place, mode in enumerate(("MAXN", "15W")):
        for folder in (a, b) if mode == "15W" else (a,):
            write_run(folder, f"net-{mode}", durations(place), run={"power_mode": mode})
    write_run(a, "elsewhere", durations(3), run={"board_id": "board two", "power_mode": "15W"})
    found = as_json(capsys, a, b)
    (pair,) = found["pairs"]
    assert pair["a"]["runs"][0]["name"] == pair["b"]["runs"][0]["name"] == "net-15W"
    assert pair["knobs"] == []
    alone = [group["runs"][0]["name"] for group in found["a"]["alone"]]
    assert alone == ["elsewhere", "net-MAXN"]


def test_what_a_layer_shows_is_what_its_p_value_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_repeats(tmp_path / "a", range(3))
    second = write_repeats(tmp_path / "b", range(10, 13), {1: 1.04, 4: 1.02, 7: 1.1})
    (pair,) = as_json(capsys, first, second)["pairs"]
    for layer in pair["layers"]:
        one = layer["time"]
        assert (one["p_adjusted"] <= 0.05) == (one["low"] > 0 or one["high"] < 0)


def test_a_check_over_many_families_asks_for_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def judged(p_adjusted: float) -> Judged:
        return Judged("time", 1.0, 1.1, "ms", 0.1, 0.1, 0.01, 0.2, p_adjusted, "worse")

    first = write_run(tmp_path / "a", "net", durations(0))
    found = compare(load_side(first), load_side(first))
    (result,) = found.results
    layer = replace(result.layers[0], time=judged(0.02))
    for pairs, failed in ((1, 1), (2, 0)):
        # Figures, and of each pair times and energies: 3 families with one pair, 5 with two.
        layer = replace(layer, time=judged(0.016 if pairs == 1 else 0.011))
        results = (replace(result, layers=(layer, *result.layers[1:])), *found.results[: pairs - 1])
        many = replace(found, results=results)
        assert len(failures(many, 0.05, ("layers",))) == failed


def test_fail_on_alone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path, "net", durations(0))
    status, _, err = run(capsys, path, path, "--fail-on", "layers")
    assert status == 2
    assert "--fail-over" in err
