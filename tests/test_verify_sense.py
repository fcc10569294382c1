"""What a careful liar changes and seals anew is found by its sense, in its file and row."""

import json
import shutil
from pathlib import Path

import pytest

from edgejoule.dataset.verify import verify_run
from edgejoule.files import write_json
from tests.support_dataset import MS, MV, Plan, build_run, phases_of, reseal
from tests.support_edit import double, drop, edit_json, edit_table, exchange, put, swap

PLAN = Plan()
INF, NAN = float("inf"), float("nan")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that says all that a real one says: counts, latencies, baselines with their times."""
    run = build_run(tmp_path_factory.mktemp("sense"), PLAN)
    content = json.loads((run / "run.json").read_text(encoding="utf-8"))
    rows = {name: facts["rows"] for name, facts in content["files"].items()}
    span_ms = PLAN.span_ns / MS
    told = {"mean_ms": span_ms, "median_ms": span_ms, "min_ms": span_ms, "max_ms": span_ms}
    profiled = {**told, "inferences": PLAN.profiled, "layers_ms_median": 0.9}
    summary = {**content["summary"], "clean": told, "profiled": profiled}
    write_json(run / "sampler.json", {"reads": rows["power.parquet"]})
    passes = {name: {"inferences": getattr(PLAN, name)} for name in ("warmup", "clean")}
    counted = {"inferences": PLAN.profiled, "rows": rows["layers.parquet"], "held_us": [0] * 6}
    write_json(run / "measure.json", {**passes, "rate": None, "profiled": counted})
    idle = phases_of(PLAN)[0]
    window = {"start_ns": idle["start_ns"], "end_ns": idle["end_ns"]}
    rails = {rail: {"mean_mw": MV * ma / 1000, "n": 100} for rail, ma in PLAN.rails}
    entry = {"kind": "sampler", "when": "before", **window, "rails": rails}
    edit_json(run / "idle.json", lambda found: found.append(entry))
    reseal(run, summary=summary)
    assert verify_run(run).findings == ()
    return run


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / whole.name))


def found_in(run, file):
    return [item.problem for item in verify_run(run).findings if item.file == file]


@pytest.mark.parametrize(
    ("table", "change", "says"),
    [
        # Dropped, and there twice.
        ("power", drop(100), "rows, the sampler made"),
        ("power", double(100), "time of channel 0 runs backwards (row 101)"),
        ("inferences", drop(3), "indices of pass clean are not 0, 1, 2, ... (row 3"),
        ("inferences", double(3), "starts before the inference before it ends (row 4)"),
        ("layers", drop(7), "inference 2 has layer 1 not at all"),
        ("layers", double(7), "inference 2 has layer 1 twice"),
        ("energy", drop(7), "proportional on VDD_B: a row is missing or there twice"),
        ("energy", double(7), "proportional on VDD_B: a row is missing or there twice"),
        ("resources", double(1), "time runs backwards (row 2)"),
        # In another order, rows or values.
        ("power", swap(40, 80), "time of channel 0 runs backwards (row 44"),
        ("power", exchange("t0_ns", 40, 41), "t1_ns is before t0_ns (row 40)"),
        ("inferences", exchange("start_ns", 7, 8), "ends before it starts (row 7)"),
        ("layers", exchange("duration_ms", 3, 4), "starts before the layer before it ends (row 5)"),
        ("layers", exchange("start_offset_ns", 3, 4), "starts before the layer before it ends"),
        ("layers", swap(2, 3), "is not sorted by inference (row 3"),
        ("energy", exchange("layer", 0, 1), "VDD_A: gross_mj of layer 1 is 2.0, by time and trace"),
        ("energy", exchange("rail", 0, 6), "VDD_A: gross_mj of layer 0 is 0.6"),
        ("resources", swap(0, 2), "time runs backwards (row 1"),
        # Negative, not finite, not there.
        ("layers", put("duration_ms", 4, -0.3), "has a negative or unknown duration (row 4)"),
        ("layers", put("duration_ms", 4, INF), "has a negative or unknown duration (row 4)"),
        ("layers", put("start_offset_ns", 4, None), "lacks a start that others have (row 4)"),
        ("inferences", put("due_ns", 4, 5), "has a due_ns in pass clean (row 4)"),
        ("energy", put("gross_mj", 2, NAN), "gross_mj is nan (row 2)"),
        ("energy", put("dynamic_mj", 2, -INF), "dynamic_mj is -inf (row 2)"),
        (
            "energy",
            put("gross_statistical_mj", 2, -1.0),
            "statistical_mj is negative (row 2)",
        ),
        ("energy", put("dynamic_mj", 2, None), "dynamic_mj is null in some rows only"),
        ("energy", put("dynamic_mj", 4, 9.0), "make up 44.44 % of the inference (dynamic_mj)"),
        ("resources", put("cpu_mhz", 1, INF), "cpu_mhz is no number (row 1)"),
    ],
)
def test_a_sealed_lie_is_found_in_its_file_and_row(run, table, change, says):
    edit_table(run, table, change)
    reseal(run)
    found = found_in(run, f"{table}.parquet")
    assert any(says in problem for problem in found), found


def test_an_energy_that_moves_from_one_layer_to_another_is_found(run):
    def move(columns):
        columns["gross_mj"][0] += 0.1
        columns["gross_mj"][1] -= 0.1
        return columns

    edit_table(run, "energy", move)
    reseal(run)
    (problem,) = found_in(run, "energy.parquet")
    assert problem.startswith("VDD_A: gross_mj of layer 0 is 2.1")


def test_a_negative_energy_is_found_though_the_sums_match(run):
    def move(columns):
        columns["gross_mj"][0] -= 2.5
        columns["gross_mj"][1] += 2.5
        return columns

    edit_table(run, "energy", move, version=3)
    reseal(run, schema_version=3)  # a version whose split is not computed again
    assert "proportional on VDD_A: layer 0 takes -0.5 mJ of 5 mJ" in found_in(run, "energy.parquet")


def test_a_rail_that_is_left_out_is_found(run):
    edit_table(run, "energy", lambda columns: {key: v[:6] for key, v in columns.items()})
    reseal(run)
    assert found_in(run, "energy.parquet") == ["lacks rail VDD_B, which the trace has"]


def test_durations_without_starts_are_held_against_the_energies(tmp_path):
    run = build_run(tmp_path, starts=False)
    edit_table(run, "layers", exchange("duration_ms", 3, 4))
    reseal(run)
    (first, second) = found_in(run, "energy.parquet")
    assert first.startswith("VDD_A: gross_mj of layer 0 is 2.0")
    assert second.startswith("VDD_B: gross_mj of layer 0 is 0.6")
    edit_table(run, "layers", put("start_offset_ns", 2, 5))
    reseal(run)
    says = "has a start, engine.json says that none is measured (row 2)"
    assert found_in(run, "layers.parquet") == [says]


def test_a_latency_that_the_tables_do_not_give_is_found(run):
    content = json.loads((run / "run.json").read_text(encoding="utf-8"))
    for name, key in (("clean", "mean_ms"), ("profiled", "max_ms"), ("profiled", "inferences")):
        wrong = {**content["summary"][name], key: 0.5}
        reseal(run, summary={**content["summary"], name: wrong})
        (problem,) = found_in(run, "run.json")
        assert problem.startswith(f"{key} of pass {name}: the tables give")
    wrong = {**content["summary"]["profiled"], "layers_ms_median": None}
    reseal(run, summary={**content["summary"], "profiled": wrong})
    assert found_in(run, "run.json")[0].startswith("layers_ms_median of pass profiled")


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (
            "idle.json",
            lambda d: d[1]["rails"]["VDD_A"].update(mean_mw=4000),
            "has 4000 mW, the trace",
        ),
        ("idle.json", lambda d: d[1]["rails"]["VDD_A"].update(mean_mw=None), "has None mW"),
        ("idle.json", lambda d: d[1].update(end_ns=d[1]["start_ns"]), "ends before it starts"),
        (
            "idle.json",
            lambda d: d[1]["rails"].update(X={"mean_mw": 1, "n": 1}),
            "a rail 'X' unknown",
        ),
        ("measure.json", lambda d: d["profiled"]["held_us"].pop(), "5 values for 6 inferences"),
    ],
)
def test_a_json_file_that_contradicts_the_tables_is_found(run, file, change, says):
    edit_json(run / file, change)
    reseal(run)
    assert any(says in problem for problem in found_in(run, file)), found_in(run, file)


def test_counts_of_the_measuring_process_are_held_against_the_tables(run):
    edit_json(run / "measure.json", lambda found: found["profiled"].update(rows=19))
    edit_json(run / "measure.json", lambda found: found["warmup"].update(inferences=3))
    reseal(run)
    assert found_in(run, "layers.parquet") == ["has 18 rows, measure.json says 19"]
    assert found_in(run, "run.json") == ["has 2 warmup inferences, measure.json says 3"]


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999", "[" * 100_000])
def test_a_json_file_holds_numbers_that_are_numbers(run, text):
    path = run / "engine.json"
    path.write_text(path.read_text(encoding="utf-8").replace("null", text, 1), encoding="utf-8")
    reseal(run)
    (problem,) = found_in(run, "engine.json")
    assert "not finite" in problem or "is damaged" in problem
    content = (run / "run.json").read_text(encoding="utf-8")
    (run / "run.json").write_text(content.replace("5000.0", "5e999", 1), encoding="utf-8")
    assert found_in(run, "run.json") == ["holds a number that is not finite"]


def test_what_the_trace_says_of_the_sensor_is_what_the_run_says(run):
    content = json.loads((run / "run.json").read_text(encoding="utf-8"))
    other = [{**one, "lsb": 4.0} for one in content["sensor"]["channels"]]
    for change, says in (
        ({"channels": other}, "channels in its metadata contradicts run.json"),
        ({"refresh_ns": 5}, "refresh_ns in its metadata contradicts run.json"),
        ({"name": "other"}, "sensor in its metadata contradicts run.json"),
    ):
        reseal(run, sensor={**content["sensor"], **change})
        assert says in found_in(run, "power.parquet")


def test_frames_of_a_rate_are_due_one_after_the_other(tmp_path):
    run = build_run(tmp_path)

    def as_rate(columns):
        rows = [row for row, name in enumerate(columns["pass"]) if name == "clean"]
        for row in rows:
            columns["pass"][row] = "rate"
            columns["due_ns"][row] = columns["start_ns"][row] - 10
        return columns

    edit_table(run, "inferences", as_rate)
    content = json.loads((run / "run.json").read_text(encoding="utf-8"))
    phases = [{**p, "phase": p["phase"].replace("clean", "rate")} for p in content["phases"]]
    counts = {"warmup": 2, "rate": 4, "profiled": 6}
    reseal(run, phases=phases, summary={"inferences": counts})
    assert verify_run(run).findings == ()
    for change, says in (
        (put("due_ns", 3, None), "has no due_ns in pass rate (row 3)"),
        (put("due_ns", 3, 1 << 60), "starts before it is due (row 3)"),
        (put("due_ns", 3, 7), "is due no later than the one before it (row 3)"),
    ):
        before = (run / "inferences.parquet").read_bytes()
        edit_table(run, "inferences", change)
        reseal(run)
        assert says in found_in(run, "inferences.parquet")
        (run / "inferences.parquet").write_bytes(before)


def test_layers_may_overlap_where_the_engine_says_so(run):
    edit_table(run, "layers", exchange("start_offset_ns", 3, 4))
    edit_json(run / "engine.json", lambda engine: engine.update(overlap=True))
    reseal(run)
    assert verify_run(run).findings == ()


def test_the_order_of_an_inferences_rows_means_nothing(run):
    edit_table(run, "layers", swap(3, 5))
    reseal(run)
    assert verify_run(run).findings == ()
