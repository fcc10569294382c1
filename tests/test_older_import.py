"""Recordings of the older layout, each with one of its quirks: what becomes of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from edgejoule.config import SCHEMA_VERSION
from edgejoule.dataset.older.importing import Imported, import_folder
from edgejoule.dataset.older.importing_run import Said
from edgejoule.dataset.older.times import Zone, zone_of
from edgejoule.dataset.schema import read_metadata
from edgejoule.dataset.verify import verify
from tests.support_older import BASE, CONV, LAYERS, Berlin, Recording, log_text, stamp

UTC = zone_of("UTC")
FIXTURES = Path(__file__).resolve().parent.parent.parent / "shared" / "fixtures" / "torch_trt"
NOTHING = Said()
WALL_S = 1_732_166_404  # BASE in UTC


def bring(folder: Path, said: Said = NOTHING, **changes) -> Imported:
    """Write a recording, changed so, and import it."""
    dataclasses.replace(Recording(), **changes).write(folder / "old")
    return import_folder(folder / "old", folder / "ds", UTC, said=said)


def run_of(done: Imported) -> dict:
    (one,) = done.runs
    assert one.error == ""
    return json.loads((done.dataset / one.run / "run.json").read_text())


def notes_of(done: Imported) -> str:
    return "\n".join(run_of(done)["imported"]["notes"])


def accepted(done: Imported) -> bool:
    report = verify(done.dataset)
    assert report.ok(allow_incomplete=True), report.to_json()
    return report.ok()


def spans(done: Imported) -> tuple[list[float], list[float]]:
    """Starts and ends of the inferences, seconds after BASE."""
    table = pq.read_table(done.dataset / done.runs[0].run / "inferences.parquet")
    anchor = run_of(done)["clock"]["wall_anchor"]
    zero = anchor["wall_ns"] - WALL_S * 10**9
    return tuple([round((t + zero) * 1e-9, 9) for t in table[k].to_pylist()]
                 for k in ("start_ns", "end_ns"))  # fmt: skip


def engine_of(done: Imported) -> list[dict]:
    text = (done.dataset / done.runs[0].run / "engine.json").read_text()
    return json.loads(text)["layers"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return bring(tmp_path_factory.mktemp("whole"), Said("pretrained", "orin nano"))


def test_a_whole_recording_is_a_complete_run(whole):
    assert accepted(whole)
    run = run_of(whole)
    assert (run["name"], run["status"], run["missing"]) == ("net", "complete", [])
    assert (run["weights"], run["board_id"], run["schema_version"]) == (
        "pretrained",
        "orin nano",
        SCHEMA_VERSION,
    )
    assert run["started_at"] == "2024-11-21T05:20:04+00:00"
    config = run["config"]
    assert (config["model"], config["dtype"], config["input_shape"]) == (
        "net",
        "float16",
        [1, 3, 8, 8],
    )
    assert config["extra"] == {"optimization_level": 3, "min_block_size": 5}
    assert (config["runs"], config["warmup"], config["sensor"]) == (2, 50, "ina3221")
    imported = run["imported"]
    assert (imported["layout"], imported["times"]) == ("edgeprofiler", "callback")
    assert sorted(imported["files"]) == [
        "idling_power.json", "net/net_power_log.log", "net/net_tensorrt.json",
        "net/trt_profiling/trt_engine_info.json", "net/trt_profiling/trt_layer_latency.json",
    ]  # fmt: skip
    own = whole.dataset / "net" / "inspector.json"
    assert json.loads(own.read_text())["Layers"] == list(LAYERS)


def test_times_end_at_the_first_callback_and_start_by_the_latency(whole):
    assert spans(whole) == ([1.000, 1.020], [1.010, 1.030])
    table = pq.read_table(whole.dataset / "net" / "layers.parquet")
    assert table["duration_ms"].to_pylist() == [4.0, 2.0, 3.0] * 2
    assert table["layer"].to_pylist() == [0, 1, 2] * 2
    assert table["start_offset_ns"].null_count == 6


def test_layers_are_described_from_the_inspectors_words(whole):
    conv, pool, dense = engine_of(whole)
    assert (conv["type"], conv["operation"], conv["kernel"]) == (
        "CaskConvolution",
        "convolution",
        [3, 3],
    )
    assert (conv["flops"], conv["weights"]) == (2 * 4 * 64 * 27, 108)
    assert (pool["operation"], pool["padding"]) == ("pooling", [0, 0, 1, 1])
    assert dense["inputs"][0]["shape"] == [1, 64, 1, 1]


def test_power_is_as_read_and_energy_follows_from_it(whole):
    path = whole.dataset / "net" / "power.parquet"
    table, facts = pq.read_table(path), read_metadata(path)
    assert table["raw"].to_pylist() == [5000, 1000] * 2001
    assert [c["rail"] for c in facts["channels"]] == ["VDD_IN"] * 2
    assert facts["total"]["rails"] == ["VDD_IN"]
    rows = pq.read_table(whole.dataset / "net" / "energy.parquet").to_pylist()
    assert {row["rail"] for row in rows} == {"VDD_IN", "total"}
    # 5 W for 10 ms; by share of time 4, 2, 3 and 1 ms of gap. Above what, nobody knows.
    by_kind = {(r["kind"], r["layer"]): r["gross_mj"] for r in rows if r["rail"] == "total"}
    assert by_kind["inference", None] == pytest.approx(50.0)
    assert [by_kind["layer", k] for k in range(3)] == pytest.approx([20.0, 10.0, 15.0])
    assert by_kind["gap", None] == pytest.approx(5.0)
    assert {row["dynamic_mj"] for row in rows} == {None}


def test_idle_power_is_a_cold_baseline(whole):
    (entry,) = json.loads((whole.dataset / "net" / "idle.json").read_text())
    assert (entry["kind"], entry["when"]) == ("cold", "before")
    assert entry["rails"]["VDD_IN"]["mean_mw"] == 1000.0005
    assert entry["rails"]["VDD_IN"]["n"] == 0
    assert entry["stated"] == {"timestamp": "20241121-051743", "avg_idle_power": 1000000.5}


def test_which_supply_it_is_takes_a_board(tmp_path):
    done = bring(tmp_path / "none")
    assert "without --board nobody knows which supply in1 is" in notes_of(done)
    assert read_metadata(done.dataset / "net" / "power.parquet")["total"] is None
    assert accepted(done)
    done = bring(tmp_path / "agx", Said(board="agx orin"))
    facts = read_metadata(done.dataset / "net" / "power.parquet")
    assert (facts["channels"][0]["rail"], facts["total"]) == ("VDD_GPU_SOC", None)
    done = bring(tmp_path / "other", Said(board="toaster"))
    assert "'toaster' is not in the table" in notes_of(done)


@pytest.mark.parametrize("model", ["alexnet", "resnet18"])
def test_real_recordings_of_plain_numbers(tmp_path, model):
    if not FIXTURES.is_dir():
        pytest.skip("the recordings are not beside this checkout")
    own = tmp_path / "old" / model / "trt_profiling"
    own.mkdir(parents=True)
    for name in ("trt_engine_info.json", "trt_layer_latency.json"):
        (own / name).write_bytes((FIXTURES / model / name).read_bytes())
    done = import_folder(tmp_path / "old", tmp_path / "ds", UTC)
    run = run_of(done)
    assert run["missing"] == [f"no {model}_tensorrt.json: precision and input are not known"]
    assert (run["imported"]["times"], run["sensor"]["name"]) == ("modelled", "none")
    assert "laid back to back" in notes_of(done)
    accepted(done)
    lists = json.loads((own / "trt_layer_latency.json").read_text())
    table = pq.read_table(done.dataset / model / "layers.parquet")
    durations = table["duration_ms"].to_numpy().reshape(100, len(lists)).T
    assert durations.astype(float).tolist() == list(lists.values())
    layers = engine_of(done)
    assert [layer["name"] for layer in layers] == list(lists)
    convolutions = [layer for layer in layers if layer["type"] == "CaskConvolution"]
    assert convolutions
    assert all(layer["flops"] for layer in convolutions)


def test_plain_numbers_with_a_log_get_no_energy(tmp_path):
    done = bring(tmp_path, lists={"conv": [4.0, 4.0], "pool": [2.0, 2], "fc": [3.0, 3.0]})
    run = run_of(done)
    assert (run["status"], run["imported"]["times"]) == ("incomplete", "modelled")
    assert run["missing"] == ["no energy: when the inferences ran is not known"]
    assert not (done.dataset / "net" / "energy.parquet").exists()
    assert pq.read_metadata(done.dataset / "net" / "power.parquet").num_rows == 4002
    starts, ends = spans(done)
    assert starts[0] > 2.0  # behind the log, so that nobody integrates over it
    assert np.diff([starts[0], ends[0], starts[1], ends[1]]) == pytest.approx([0.01, 0, 0.01])
    accepted(done)


@pytest.mark.parametrize(
    ("changes", "missing", "absent"),
    [
        ({"log": None}, "no net_power_log.log: times only", "power.parquet"),
        ({"idling": None}, "no idling_power.json: idle power is not known", None),
        ({"engine": None}, "no trt_engine_info.json: layers are described by their names alone",
         "inspector.json"),
        ({"config": None}, "no net_tensorrt.json: precision and input are not known", None),
        ({"log": "\n"}, "net_power_log.log holds no reading", "power.parquet"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_missing_and_the_rest_is_imported(tmp_path, changes, missing, absent):
    done = bring(tmp_path, **changes)
    run = run_of(done)
    assert (run["status"], run["missing"]) == ("incomplete", [missing])
    assert absent is None or not (done.dataset / "net" / absent).exists()
    assert not accepted(done)
    assert pq.read_metadata(done.dataset / "net" / "layers.parquet").num_rows == 6


def test_without_latencies_inferences_start_by_their_layers(tmp_path):
    done = bring(tmp_path / "none", latencies=[])
    assert spans(done)[0] == [1.001, 1.021]
    assert "0 latencies for 2 inferences" in notes_of(done)
    done = bring(tmp_path / "more", latencies=[0.01] * 3)
    assert spans(done)[0] == [1.001, 1.021]
    done = bring(tmp_path / "short", latencies=[0.01, 0.008])
    assert spans(done)[0] == [1.000, 1.021]
    assert "1 latencies are shorter than the sum of their layers" in notes_of(done)
    assert accepted(done)


def test_a_last_inference_that_was_cut_is_left_out(tmp_path):
    lists = {
        "conv": [[4.0, stamp(1.010)], [4.0, stamp(1.030)]],
        "pool": [[2.0, stamp(1.010)], [2.0, stamp(1.030)]],
        "fc": [[3.0, stamp(1.010)]],
    }
    done = bring(tmp_path, lists=lists)
    run = run_of(done)
    assert run["summary"]["inferences"] == {"profiled": 1}
    assert "the first 1 of 2, which all have" in notes_of(done)
    assert run["missing"] == ["1 of 2 profiled inferences are recorded"]
    assert run["config"]["runs"] == 2
    assert spans(done) == ([1.000], [1.010])
    accepted(done)


def test_more_inferences_than_were_asked_for_are_kept(tmp_path):
    done = bring(tmp_path, config={"model": "net", "dtype": "float16", "runs": 1})
    assert (run_of(done)["status"], run_of(done)["config"]["runs"]) == ("complete", 2)
    assert "asked were 1 inferences, 2 are recorded" in notes_of(done)
    assert accepted(done)


def test_layers_that_contradict_the_callbacks_make_a_failed_run(tmp_path):
    lists = {"conv": [[4.0, stamp(1.010)], [24.0, stamp(1.030)]]}
    done = bring(tmp_path, lists=lists)
    run = run_of(done)
    assert run["status"] == "failed"
    assert "in 1 of 2 inferences the layers take longer" in run["missing"][0]
    found = verify(done.dataset).runs[0].findings
    assert "the measurement failed: in 1 of 2 inferences" in found[0].problem


def test_a_log_that_ends_too_early_gives_no_energy(tmp_path):
    short = log_text([(n / 1000, 5000.0, 1000.0) for n in range(1025)])
    done = bring(tmp_path, log=short)
    run = run_of(done)
    assert run["status"] == "incomplete"
    assert "no energy: rail in1: 1 of 2 inferences lie outside its trace" in run["missing"]
    accepted(done)


def test_a_rail_that_gives_power_has_no_energy(tmp_path):
    wrong_way = log_text([(n / 1000, 5000.0, -1000.0) for n in range(2001)])
    done = bring(tmp_path, log=wrong_way)
    assert run_of(done)["missing"] == [
        "no energy: by the readings of in1 layer 0 takes -20 mJ of -50 mJ"
    ]
    path = done.dataset / "net" / "power.parquet"
    assert set(pq.read_table(path)["raw"].to_pylist()) == {5000, -1000}
    accepted(done)


def test_inferences_of_no_length_have_no_energy(tmp_path):
    lists = {"conv": [[0.0, stamp(1.010)], [4.0, stamp(1.030)]]}
    done = bring(tmp_path, lists=lists, latencies=[])
    assert run_of(done)["missing"] == ["no energy: 1 inferences take no time"]
    accepted(done)
    lists = {"conv": [[0.0, stamp(1.010)]]}
    dataclasses.replace(Recording(), lists=lists, latencies=[]).write(tmp_path / "none")
    done = import_folder(tmp_path / "none", tmp_path / "other", UTC)
    assert "no inference takes any time" in done.runs[0].error


def test_wrong_equal_and_torn_lines_are_counted(tmp_path):
    right = log_text([(n / 1000, 5000.0, 1000.0) for n in range(2001)]).splitlines(keepends=True)
    right.insert(7, right[6])
    wrong = ["nonsense\n", "20241321-05:20:04.000001,1.0,2.0\n", "\n",
             "20241121-05:20:04.000001,5000.0\n", "20241121-05:20:04.000001,nan,1.0\n"]  # fmt: skip
    text = "".join([*right[:100], *wrong, *right[100:], "20241121-05:20:06.0010"])
    done = bring(tmp_path, log=text)
    notes = notes_of(done)
    assert "4 lines of the power log are none and are left out (line 101: nonsense)" in notes
    assert "1 lines of the power log have the time of the line before" in notes
    assert "the last line of the power log has no end and is left out" in notes
    assert pq.read_metadata(done.dataset / "net" / "power.parquet").num_rows == 4004
    assert accepted(done)


def test_readings_with_fractions_are_kept(tmp_path):
    text = log_text([(n / 1000, 5000.0, 1000.125) for n in range(2001)])
    done = bring(tmp_path, log=text)
    path = done.dataset / "net" / "power.parquet"
    assert [c["unit"] for c in read_metadata(path)["channels"]] == ["mV", "uA"]
    assert set(pq.read_table(path)["raw"].to_pylist()) == {5000, 1000125}
    assert "rounded" not in notes_of(done)
    text = log_text([(n / 1000, 5000.0, 1000.12345) for n in range(2001)])
    assert "2001 readings of the current were rounded to whole uA" in notes_of(
        bring(tmp_path / "finer", log=text)
    )


def test_a_clock_set_back_between_two_inferences(tmp_path):
    # At 1.015 s the clock went back by 0.5 s: the second inference is stamped 0.530 s.
    times = [(n / 1000 - (0.5 if n > 1015 else 0), 5000.0, 1000.0) for n in range(2001)]
    done = bring(tmp_path, log=log_text(times), ends=(1.010, 0.530))
    assert spans(done) == ([1.000, 1.020], [1.010, 1.030])
    assert "the power log was set back at 20241121-05:20:05.015000" in notes_of(done)
    assert "moved on by 0.500000 s" in notes_of(done)
    assert accepted(done)
    rows = pq.read_table(done.dataset / "net" / "energy.parquet").to_pylist()
    assert rows[-2]["gross_mj"] == pytest.approx(50.0)


def test_local_times_of_a_zone_with_summer_time(tmp_path):
    Recording().write(tmp_path / "old")
    done = import_folder(tmp_path / "old", tmp_path / "ds", Zone("Berlin", Berlin()))
    wall_ns = run_of(done)["clock"]["wall_anchor"]["wall_ns"]
    assert wall_ns == (int(BASE.replace(tzinfo=Berlin()).timestamp()) - 1) * 10**9
    assert wall_ns == (WALL_S - 3600 - 1) * 10**9
    assert "taken as those of Berlin" in notes_of(done)


def test_a_layer_that_runs_twice_under_one_name(tmp_path):
    engine = {"Layers": [CONV, {**LAYERS[1], "Name": "conv"}, LAYERS[2]]}
    lists = {
        "conv": [[4.0, stamp(1.010)], [2.0, stamp(1.010)], [4.5, stamp(1.03)], [2.5, stamp(1.03)]],
        "fc": [[3.0, stamp(1.010)], [3.0, stamp(1.030)]],
    }
    done = bring(tmp_path, engine=engine, lists=lists)
    assert [layer["type"] for layer in engine_of(done)] == [
        "CaskConvolution", "CaskPooling", "CaskGemmConvolution",
    ]  # fmt: skip
    table = pq.read_table(done.dataset / "net" / "layers.parquet")
    assert table["duration_ms"].to_pylist() == [4.0, 2.0, 3.0, 4.5, 2.5, 3.0]
    assert "conv runs 2 times in an inference: its times were dealt out" in notes_of(done)
    assert accepted(done)


@pytest.mark.parametrize(
    ("engine", "note", "types"),
    [
        ({"Layers": [*LAYERS, {"Name": "c", "LayerType": "Constant"}]},
         "1 layers of the engine have no times and are left out: c", 3),
        ({"Layers": [CONV, *LAYERS[2:]]},
         "1 layers with times are not in trt_engine_info.json", 2),
        ({"Layers": ["conv", "pool", "fc"]}, "holds names only, no types and sizes", 0),
        (["conv", "pool", "fc"], "holds names only, no types and sizes", 0),
        ([json.dumps({"Layers": [CONV]}), json.dumps({"Layers": list(LAYERS[1:])})], "", 3),
        (json.dumps({"Layers": list(LAYERS)}), "", 3),
        ({"Layers": list(reversed(LAYERS))}, "stand in another order", 3),
    ],
)  # fmt: skip
def test_what_the_engine_info_may_be(tmp_path, engine, note, types):
    done = bring(tmp_path, engine=engine)
    assert note in notes_of(done)
    assert [layer["name"] for layer in engine_of(done)] == ["conv", "pool", "fc"]
    assert sum(layer["type"] is not None for layer in engine_of(done)) == types
    kept = done.dataset / "net" / "inspector.json"
    source = tmp_path / "old" / "net" / "trt_profiling" / "trt_engine_info.json"
    assert kept.read_bytes() == source.read_bytes()
    assert accepted(done)


@pytest.mark.parametrize("engine", ["", None, {}, {"Layers": [{"Name": "other"}]}])
def test_an_engine_info_that_knows_no_layer(tmp_path, engine):
    done = bring(tmp_path, engine=engine)
    assert run_of(done)["status"] == "incomplete"
    assert "names alone" in run_of(done)["missing"][0]
    accepted(done)


def test_callbacks_out_of_order_and_rounded_durations_are_counted(tmp_path):
    lists = {
        "conv": [[4.1, stamp(1.010)], [4.0, stamp(1.030)]],
        "pool": [[2.0, stamp(1.009)], [2.0, stamp(1.030)]],
    }
    done = bring(tmp_path, lists=lists)
    assert "1 callbacks are earlier than that of the layer before" in notes_of(done)
    assert "1 durations are no float32 numbers" in notes_of(done)
    assert accepted(done)
