"""`measure_power.py simulate`: a whole run, right by `verify`, with the truth beside it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from edgejoule.cli.measure_power import main
from edgejoule.cli.power_simulate import against_truth
from edgejoule.dataset.verify import verify
from edgejoule.energy.reads import channel_reads
from edgejoule.simulation import SCENARIOS, simulate

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "data"
    for scenario, count, energy in (
        ("gap30-starts", 400, "window,interval"),
        ("agx-orin", 200, "interval"),
        ("nvml", 1200, "interval"),
    ):
        words = ["simulate", "--scenario", scenario, "--seed", "3", "--inferences", str(count)]
        assert main([*words, "--energy", energy, "--result-dir", str(folder)]) == 0
    return folder


def load(run: Path, name: str):
    return json.loads((run / name).read_text(encoding="utf-8"))


def session(scenario: str, count: int, clean: int):
    return simulate(
        dataclasses.replace(SCENARIOS[scenario], inferences=count, clean=clean, idle_s=8.0), 3
    )


def test_the_runs_are_right_and_marked_as_simulated(dataset: Path) -> None:
    report = verify(dataset)
    errors = [finding for run in report.runs for finding in run.findings]
    assert [str(error) for error in errors if error.severity == "error"] == []
    for run in dataset.glob("*-s3"):
        document = load(run, "run.json")
        assert document["simulated"] is True
        assert document["sensor"]["simulated"] is True
        assert document["status"] == "complete"


def test_the_truth_is_that_of_the_seed(dataset: Path) -> None:
    expected = session("agx-orin", 200, 50).truth
    found = load(dataset / "agx-orin-s3", "truth.json")
    assert found["simulated"] is True
    assert set(found["layers"]) == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "total"}
    for rail, truth in found["layers"].items():
        assert truth["energy_mj"] == pytest.approx(expected[rail].layer_mj)
        assert truth["gap_mj"] == pytest.approx(expected[rail].gap_mj)
    rails = [np.array(one["energy_mj"]) for name, one in found["layers"].items() if name != "total"]
    assert sum(rails) == pytest.approx(np.array(found["layers"]["total"]["energy_mj"]))


@pytest.mark.parametrize(
    ("scenario", "count", "rail"), [("gap30-starts", 400, "VDD_IN"), ("nvml", 1200, "GPU0")]
)
def test_what_is_read_back_is_what_was_simulated(dataset, scenario, count, rail) -> None:
    run = session(scenario, count, count // 4)
    expected = run.reads[rail]
    first, last = int(expected.t0_ns[0]), int(expected.t1_ns[-1])
    found = channel_reads(dataset / f"{scenario}-s3" / "power.parquet", [rail], first, last)[rail]
    assert np.array_equal(found.t0_ns, expected.t0_ns)
    assert np.array_equal(found.raw, expected.raw)
    assert found.power_mw == pytest.approx(expected.power_mw, rel=1e-9)
    assert found.lsb_mw == pytest.approx(expected.lsb_mw, rel=5e-3)
    assert found.refresh_ns == expected.refresh_ns


def test_attribution_polls_are_made_in_the_profiled_pass_alone(dataset: Path) -> None:
    import pyarrow.parquet as pq

    run = load(dataset / "gap30-starts-s3", "run.json")
    spans = {one["phase"]: (one["start_ns"], one["end_ns"]) for one in run["phases"]}
    table = pq.read_table(dataset / "gap30-starts-s3" / "power.parquet")
    current = table["channel"].to_numpy() == 1
    t0 = table["t0_ns"].to_numpy()[current]

    def rate(phase: str) -> float:
        start, end = spans[phase]
        return np.count_nonzero((t0 >= start) & (t0 < end)) / (end - start) * 1e9

    assert rate("profiled") > 3 * rate("clean")
    assert rate("clean") == pytest.approx(1e9 / 6.6e6, rel=0.1)


def test_the_idle_power_is_found_again(dataset: Path) -> None:
    truth = load(dataset / "gap30-starts-s3", "truth.json")["layers"]["VDD_IN"]
    idle = load(dataset / "gap30-starts-s3", "idle.json")
    loaded = [one["rails"]["VDD_IN"]["mean_mw"] for one in idle if one["kind"] == "loaded"]
    assert np.mean(loaded) == pytest.approx(truth["idle_mw"], rel=0.01)


def test_a_run_that_is_there_stays(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", "--scenario", "agx-orin", "--seed", "3", "--energy", "interval"]
    words += ["--result-dir", str(dataset)]
    before = (dataset / "agx-orin-s3" / "run.json").stat().st_mtime_ns
    assert main([*words, "--inferences", "200"]) == 0
    assert "complete: nothing to do" in capsys.readouterr().out
    assert main([*words, "--inferences", "201"]) == 2
    assert "exists with another configuration" in capsys.readouterr().err
    assert (dataset / "agx-orin-s3" / "run.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--scenario", "nope"], "there is no scenario nope"),
        (["--inferences", "3"], "--inferences 3: cannot be simulated"),
        (["--seed", "-1"], "--seed -1: no such seed"),
        (["--energy", "replay"], "replay"),
        (["--run-name", "a/b"], "cannot name a run"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(tmp_path, capsys, words, says) -> None:
    assert main(["simulate", *words, "--result-dir", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_without_a_folder_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate"]) == 2
    assert "no --result-dir" in capsys.readouterr().err


def test_all_scenarios_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(SCENARIOS)


def test_a_failed_closing_leaves_nothing(tmp_path, monkeypatch) -> None:
    from edgejoule import closing

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(closing, "close_run", fail)
    words = ["simulate", "--inferences", "40", "--result-dir", str(tmp_path / "new")]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        raise SystemExit(main(words))
    left = [path.name for path in (tmp_path / "new" / ".partial").iterdir()]
    assert [name for name in left if not name.startswith(".")] == []


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_every_scenario_can_be_played(name: str) -> None:
    run = simulate(dataclasses.replace(SCENARIOS[name], inferences=60), 0)
    truth = run.truth["total"]
    assert np.all(truth.layer_mj > 0)
    assert truth.layer_mj.sum() + truth.gap_mj == pytest.approx(truth.inference_mj)
    assert set(run.reads) | {"total"} == set(run.idle_mw)
    for reads in run.reads.values():
        assert np.all(np.diff(reads.t0_ns) > 0)
        assert np.all(reads.t1_ns > reads.t0_ns)


def test_what_is_printed_tells_how_far_each_method_is_from_the_truth(dataset: Path) -> None:
    import pyarrow.parquet as pq

    run = dataset / "gap30-starts-s3"
    lines = against_truth(run).splitlines()
    assert lines[0].startswith("SIMULATED")
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if line.startswith("proportional") and "VDD_IN" in line)
    truth = load(run, "truth.json")["layers"]["VDD_IN"]["energy_mj"]
    found = {
        one["layer"]: one["gross_mj"]
        for one in pq.read_table(run / "energy.parquet").to_pylist()
        if (one["method"], one["rail"], one["kind"]) == ("proportional", "VDD_IN", "layer")
    }
    errors = [abs(found[layer] / mj - 1) for layer, mj in enumerate(truth)]
    words = row.split()
    assert words[2:5] == [str(len(truth)), "of", str(len(truth))]
    assert float(words[5]) == pytest.approx(100 * np.median(errors), abs=0.051)
    assert float(words[6]) == pytest.approx(100 * max(errors), abs=0.051)
