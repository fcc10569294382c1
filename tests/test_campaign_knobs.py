"""Knobs and plan: every bad value is found before anything starts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.energy_methods import Methods
from edgejoule.errors import UsageError
from edgejoule.knobs import Knobs, read_knobs
from edgejoule.plan import (
    Estimate,
    History,
    Network,
    choose_networks,
    estimate,
    experiment_networks,
    history,
    matrix_gflops,
    plan_text,
)
from tests.support_dataset import Plan, build_run


def test_defaults() -> None:
    knobs = read_knobs({})
    assert knobs == Knobs()
    assert (knobs.runs, knobs.idle_duration_s, str(knobs.result_dir)) == (30000, 120, "raw_data")
    assert (knobs.weights, knobs.push, knobs.run_idle_s) == ("pretrained", "off", 5.0)


def test_every_knob_is_read() -> None:
    knobs = read_knobs(
        {
            "MODELS": "a, b c,a", "RUNS": "5", "CLEAN_RUNS": "6", "CLEAN_SECONDS": "7",
            "WARMUP": "0", "DTYPE": "int8", "BATCH": "2",
            "IDLE_DURATION": "1.5", "RESULT_DIR": "d", "BACKEND": "torch",
            "SENSOR": "none", "WEIGHTS": "random", "OPTIMIZATION_LEVEL": "0",
            "MIN_BLOCK_SIZE": "3", "REPEATS": "4", "PUSH": "end", "DAGSHUB_USER_TOKEN": "secret",
            "DAGSHUB_OWNER": "me", "DAGSHUB_REPO_NAME": "r", "COMMIT_MESSAGE": "m",
            "CREATE_REPO": "1", "YES": "yes", "WAIT_IDLE": "10m",
            "CALIBRATION": "photos", "INPUT": "frames",
            "MEMORY_LIMIT_GIB": "3.5", "CUDA_GRAPHS": "1",
            "ENERGY": "replay", "REPLAY_BUDGET": "90", "CHECK_ATTRIBUTION": "2",
        }
    )  # fmt: skip
    assert knobs == Knobs(
        ("a", "b", "c"), 5, 6, 7.0, 0, "int8", 2, 1.5, Path("d"), "torch", "none", "random", 0, 3,
        4, "end", "me", "r", "m", create_repository=True, yes=True, token=True,
        wait_idle="10m", input="frames",
        calibration="photos", memory_limit_gib=3.5, cuda_graphs=True,
        energy="replay", replay_budget_s=90.0, check_attribution=2,
    )  # fmt: skip
    assert knobs.run_idle_s == 1.5
    assert "secret" not in repr(knobs)


def test_token_alone_pushes_each_network() -> None:
    assert read_knobs({"DAGSHUB_USER_TOKEN": "x"}).push == "each"
    assert read_knobs({"DAGSHUB_USER_TOKEN": "x", "PUSH": "off"}).push == "off"
    assert read_knobs({"PUSH": "later"}).push == "later"


def test_empty_is_not_set() -> None:
    assert read_knobs({"RUNS": "", "MODELS": "  ", "PUSH": ""}) == Knobs()


def test_demo_is_small_and_what_is_given_wins() -> None:
    knobs = read_knobs({"RUNS": "7"}, demo=True)
    assert knobs.runs == 7
    assert (knobs.sensor, knobs.weights, str(knobs.result_dir)) == (
        "simulated",
        "random",
        "demo_data",
    )
    assert read_knobs({"DAGSHUB_USER_TOKEN": "x"}, demo=True).push == "off"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WAIT_IDLE", "soon"),
        *((name, value) for name in ("RUNS", "CLEAN_RUNS", "BATCH", "REPEATS", "MIN_BLOCK_SIZE")
          for value in ("0", "-1", "x", "1.5", "1e3")),
        *(("IDLE_DURATION", value) for value in ("0", "-3", "nan", "inf", "long")),
        ("WARMUP", "-1"), ("WARMUP", "x"), ("OPTIMIZATION_LEVEL", "-1"), ("DTYPE", "float8"),
        ("WEIGHTS", "some"), ("PUSH", "always"), ("PUSH", "each"), ("YES", "maybe"),
        ("CREATE_REPO", "2"), ("MODELS", ","), ("CUDA_GRAPHS", "2"), ("DTYPE", "int8"),
        ("REPLAY_BUDGET", "0"), ("CHECK_ATTRIBUTION", "0"),
        *(("MEMORY_LIMIT_GIB", value) for value in ("0", "-1", "inf", "much")),
    ],
)  # fmt: skip
def test_bad_values_name_the_knob(name: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_knobs({name: value})
    assert caught.value.message.startswith(f"{name}=")
    assert caught.value.mend
    assert caught.value.exit_code == 2


def test_calibration_belongs_to_int8_and_fp8() -> None:
    with pytest.raises(UsageError, match="DTYPE=fp8 needs CALIBRATION; give a folder of images"):
        read_knobs({"DTYPE": "fp8"})
    with pytest.raises(UsageError, match="CALIBRATION is for int8 and fp8, DTYPE is auto"):
        read_knobs({"CALIBRATION": "photos"})


@given(st.dictionaries(st.sampled_from(["RUNS", "WARMUP", "IDLE_DURATION", "YES"]), st.text()))
def test_any_text_is_read_or_refused(environment: dict[str, str]) -> None:
    try:
        knobs = read_knobs(environment)
    except UsageError:
        return
    assert knobs.runs >= 1
    assert 0 < knobs.idle_duration_s < float("inf")


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package beside the project that lists and describes networks."""
    (tmp_path / "somezoo.py").write_text(
        "from edgejoule.errors import UsageError\n"
        "from edgejoule.inference.workload import ModelFacts\n"
        "LIST = ('small', 'large')\n"
        "def tell(spec):\n"
        "    if spec == 'shapeless': return ModelFacts(spec, None)\n"
        "    if spec not in LIST: raise UsageError(f'no network {spec}')\n"
        "    more = {'download_mib': 70.0, 'gflops': 2.0} if spec == 'large' else {}\n"
        "    return ModelFacts(spec, (1, 3, 8, 8), None, ('onnx',), **more)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "somezoo"
    sys.modules.pop("somezoo", None)


def test_networks_come_by_name(zoo: str, tmp_path: Path) -> None:
    names = experiment_networks(f"{zoo}:LIST")
    assert names == ("small", "large")
    build_run(tmp_path / "d", Plan(model="small"))
    found = choose_networks(Knobs(result_dir=tmp_path / "d"), names, f"{zoo}:tell")
    assert found == [
        Network("small", "small", None, 0.0, None, True, ("onnx",)),
        Network("large", "large", None, 70.0, 2.0, False, ("onnx",)),
    ]
    knobs = Knobs(batch=4, weights="random", result_dir=tmp_path / "none")
    (large,) = choose_networks(knobs, ["large"], f"{zoo}:tell")
    assert large == Network("large", "large", (4, 3, 8, 8), 0.0, 8.0, False, ("onnx",))


def test_what_cannot_be_chosen(zoo: str) -> None:
    for reference in ("nowhere:LIST", f"{zoo}:NOTHING", f"{zoo}:tell"):
        with pytest.raises(UsageError, match="no list of networks"):
            experiment_networks(reference)
    with pytest.raises(UsageError, match="no description"):
        choose_networks(Knobs(), ["small"], f"{zoo}:nothing")
    with pytest.raises(UsageError, match="no network tiny"):
        choose_networks(Knobs(), ["tiny"], f"{zoo}:tell")
    with pytest.raises(UsageError, match="BATCH=2"):
        choose_networks(Knobs(batch=2), ["shapeless"], f"{zoo}:tell")


def test_history_reads_complete_runs_only(tmp_path: Path) -> None:
    run = build_run(tmp_path, Plan(model="lenet"))
    content = json.loads((run / "run.json").read_text())
    content["summary"] |= {
        "clean": {"median_ms": 2.0},
        "profiled": {"median_ms": 3.0, "inferences": 6},
    }
    (run / "run.json").write_text(json.dumps(content))
    for name, text in (("torn", "{"), ("odd", "[]"), ("half", json.dumps({"status": "failed"}))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    assert history(tmp_path, "onnxruntime") == {"lenet": History(2.0, 3.0, 3)}
    assert history(tmp_path, "torch") == {}
    assert history(tmp_path / "none", None) == {}


def test_estimate_says_what_it_rests_on() -> None:
    knobs = Knobs(runs=1000, clean_runs=100, warmup=0, idle_duration_s=10, sensor="none")
    networks = [
        Network("known", "known"),
        Network("counted", "counted", gflops=4.0),
        Network("unknown", "unknown"),
        Network("there", "there", there=True),
    ]
    known = {"known": History(10.0, 12.0, 50)}
    guess = estimate(knobs, networks, known, gpu=False, gflops_per_s=100.0)
    fixed = 15 + 5 * 5 + 8
    counted_s = 4 / 40 + 0.0002
    expected = (
        10 + (fixed + 1 + 12) + (fixed + counted_s * (100 + 1200)) + (fixed + 0.05 * (100 + 1200))
    )
    assert guess.seconds == pytest.approx(expected)
    assert guess.final_mib == pytest.approx(1000 * 8 * (50 + 100 + 100) / 2**20)
    assert guess.peak_mib == pytest.approx(1000 * 24 * 100 / 2**20)
    for part in ("1 by earlier runs", "1 by operations at 40 GFLOP/s", "1 by an assumed 50 ms"):
        assert part in guess.basis
    done = estimate(knobs, networks[3:], known, gpu=True, gflops_per_s=None)
    assert done == Estimate(10, 0.0, 0.0, "nothing left to do")
    on_gpu = estimate(knobs, networks[1:2], {}, gpu=True, gflops_per_s=None)
    assert "assumed 1000 GFLOP/s" in on_gpu.basis


def test_more_of_anything_takes_longer() -> None:
    networks = [Network("n", "n")]

    def seconds(**changes: int) -> float:
        return estimate(Knobs(**changes), networks, {}, gpu=False, gflops_per_s=None).seconds

    base = seconds()
    assert seconds(runs=60000) > base
    assert seconds(repeats=2) > base
    assert seconds(batch=2) > base


def test_passes_for_the_energy_of_layers_take_their_time() -> None:
    knobs = Knobs(clean_seconds=20.0, runs=1000)
    networks = [Network("n", "n")]

    def seconds(methods: Methods | None) -> float:
        guess = estimate(knobs, networks, {}, gpu=False, gflops_per_s=None, methods=methods)
        return guess.seconds

    base = seconds(None)
    assert seconds(Methods((), "")) - base == pytest.approx(5.0)  # a quarter of the clean pass
    assert seconds(Methods(("replay",), "", 90.0)) - base == pytest.approx(95.0)
    assert seconds(Methods(("replay",), "", 90.0, 3)) - base == pytest.approx(185.0)
    # 50 ms an inference on a CPU: waits of up to 3 ms, half of it on average.
    assert seconds(Methods(("window",), "")) - base == pytest.approx(5.0 + 1.5)


def test_plan_text() -> None:
    knobs = Knobs(clean_runs=20, repeats=3, push="later", runs=9)
    networks = [Network("a", "a\x1b"), Network("b", "b", there=True)]
    text = plan_text(knobs, networks, Estimate(7300, 2048, 1, "dice"), "torch", "cpu")
    for part in (
        "2: a\\x1b, b",
        "1 already",
        "warm-up 50, clean 20, profiled 9, 3 repeats",
        "torch on cpu, auto, batch 1, pretrained",
        "120 s once, 4 x 5 s per run",
        "data_version.py push does it later",
        "about 2 h 02 min",
        "about 2.0 GiB, while it runs 1 MiB more",
        "dice",
    ):
        assert part in text


def test_speed_of_this_machine_is_a_number() -> None:
    assert matrix_gflops(0.01) > 0
