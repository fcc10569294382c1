"""Runs written in the older text layout: form, means worked out by hand, what is said of them."""

from __future__ import annotations

import datetime
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from edgejoule.dataset.older.exporting import export
from edgejoule.dataset.older.times import zone_of
from edgejoule.dataset.older.writing import unique_names, write_layer_times
from edgejoule.dataset.run_directory import finish, seal_file
from edgejoule.dataset.schema import write_table
from edgejoule.errors import MeasurementError, UsageError
from edgejoule.files import write_json
from edgejoule.inference.trt.describe import describe_engine
from tests.support_dataset import Plan, build_run, channels_of, prepare, reseal, run_of
from tests.support_older import (
    CONV,
    DENSE,
    LAYERS,
    POOL,
    layer_powers,
    means_by_name,
    stamp,
    structure,
    tables,
    tensor,
)

FIXTURES = Path(__file__).resolve().parent.parent.parent / "shared" / "fixtures" / "torch_trt"
UTC = zone_of("UTC")
MS = 1_000_000
ANCHOR = {"monotonic_ns": 0, "wall_ns": 1_732_166_404_000_000_000}
PLAN = Plan(profiled=2, rails=(("VDD_IN", 1000),), layer_ns=(4 * MS, 2 * MS, 3 * MS))
# Milliseconds and mA, at 5000 mV. The layers end with their inferences, at 1010 and 1030 ms, a
# microsecond after one another.
LINES = ((1005, 9999), (1006, 1000), (1007, 1100), (1008, 1200), (1009, 1300), (1010, 1400),
         (1010.001, 2000), (1015, 9999), (1026, 500), (1030, 700), (1030.002, 900))  # fmt: skip


def engine_of(records, **changes):
    """`engine.json` of these inspector's records."""
    import dataclasses

    layers = describe_engine(json.dumps({"Layers": list(records)}))
    plain = json.loads(json.dumps([dataclasses.asdict(layer) for layer in layers]))
    engine = {"backend": "tensorrt", "versions": {}, "settings": {}, "start_offsets": False}
    return {**engine, "layers": plain, **changes}


def build(dataset: Path, *, inspector=True, records=LAYERS, name="net", plan=PLAN, engine=None):
    """A run of two inferences of 10 ms, with the trace above."""
    partial = prepare(dataset, plan, name=name)
    write_json(partial / "engine.json", engine or engine_of(records))
    if inspector:
        text = json.dumps({"Layers": list(records), "Bindings": ["t"]}, indent=4)
        (partial / "inspector.json").write_text(text)
    start = np.array([1000, 1020]) * MS
    write_table(
        partial / "inferences.parquet",
        "inferences",
        {"pass": ["profiled"] * 2, "index": [0, 1], "start_ns": start, "end_ns": start + 10 * MS,
         "due_ns": [None] * 2},
    )  # fmt: skip
    t_ns = np.repeat([round(t * MS) for t, _ in LINES], 2)
    raw = np.array([[5000, ma] for _, ma in LINES]).ravel()
    facts = {"channels": channels_of(plan), "sensor": "fake", "simulated": False,
             "refresh_ns": None, "configuration": None, "wall_anchor": ANCHOR}  # fmt: skip
    write_table(
        partial / "power.parquet",
        "power",
        {"t0_ns": t_ns, "t1_ns": t_ns, "channel": [0, 1] * len(LINES), "raw": raw,
         "errno": [None] * len(raw)},
        **facts,
    )  # fmt: skip
    run = run_of(plan)
    run["summary"].pop("phase_energies")
    return finish(partial, run, name)


def idling(dataset: Path) -> None:
    stated = {"timestamp": "20241121-051743", "avg_idle_power": 1_000_000.0, "rails": {}}
    write_json(dataset / "idling_power.json", seal_file(stated))


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    build(folder / "ds")
    idling(folder / "ds")
    return folder, export(folder / "ds", folder / "out", UTC)


def test_a_reader_of_that_layout_gets_the_means_worked_out_by_hand(exported):
    folder, _ = exported
    # conv, inference 1: 1006 to 1010 ms: (1000 + 1100 + 1200 + 1300 + 1400) / 5 = 1200 mA, 6 W;
    # inference 2: 1026 to 1030 ms: (500 + 700) / 2 = 600 mA, 3 W. pool: the one line after that,
    # 10 W, then none. fc: none, then the line of 900 mA, 4.5 W. In microwatts, idle is 1 W.
    assert means_by_name(layer_powers(folder / "out", "net")) == {
        "conv": (4.5e6, 3.5e6, 4.0),
        "pool": (10e6, 9e6, 2.0),
        "fc": (4.5e6, 3.5e6, 3.0),
    }


def test_the_tables_of_such_a_reader(exported):
    folder, _ = exported
    found = tables(folder / "out", "net")
    (conv,), (pool,), (dense,) = (found[name] for name in ("convolutional", "pooling", "dense"))
    assert conv["batch_size"] == 1
    assert [conv[f"input_size_{k}"] for k in range(3)] == [3, 8, 8]
    assert [conv[f"output_size_{k}"] for k in range(3)] == [4, 8, 8]
    assert [conv[key] for key in ("kernel_0", "padding_0", "stride_0")] == [3, 2, 1]
    assert [pool[key] for key in ("kernel_1", "padding_1", "stride_1")] == [2, 1, 2]
    assert (dense["input_size"], dense["output_size"]) == (64, 10)
    assert (conv["power"], pool["runtime"], dense["layer_name"]) == (4.5e6, 2.0, "fc")


def test_the_files_and_their_form(exported):
    folder, done = exported
    out = folder / "out"
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) == [
        "idling_power.json",
        "net/net_power_log.log",
        "net/net_tensorrt.json",
        "net/trt_profiling/trt_engine_info.json",
        "net/trt_profiling/trt_layer_latency.json",
    ]
    for path in out.rglob("*.json"):
        assert path.read_text(encoding="utf-8") == json.dumps(read(path), indent=4), path
    first = (out / "net" / "net_power_log.log").read_text().splitlines()[0]
    assert first == "20241121-05:20:05.005000,5000.0,9999.0"
    assert read(out / "idling_power.json") == {
        "timestamp": "20241121-051743", "avg_idle_power": 1000000.0,
    }  # fmt: skip
    about = read(out / "net" / "net_tensorrt.json")
    assert list(about) == ["config", "total_time", "timestamp", "latencies", "avg_latency",
                           "avg_throughput"]  # fmt: skip
    assert (about["latencies"], about["avg_latency"]) == ([0.01, 0.01], 0.01)
    assert (about["total_time"], about["avg_throughput"]) == (0.03, 2 / 0.03)
    assert about["timestamp"] == "20241121-052004"
    assert list(about["config"]) == ["model", "dtype", "input_shape", "warmup", "runs",
        "optimization_level", "min_block_size", "result_dir"]  # fmt: skip
    inspector = folder / "ds" / "net" / "inspector.json"
    info = out / "net" / "trt_profiling" / "trt_engine_info.json"
    assert info.read_bytes() == inspector.read_bytes()
    assert done.log.read_text(encoding="utf-8").splitlines() == done.lines


def test_callbacks_come_after_the_end_in_the_order_of_layers(exported):
    folder, _ = exported
    lists = read(folder / "out" / "net" / "trt_profiling" / "trt_layer_latency.json")
    assert lists["conv"] == [[4.0, stamp(1.010)], [4.0, stamp(1.030)]]
    assert lists["pool"] == [[2.0, stamp(1.010001)], [2.0, stamp(1.030001)]]
    assert list(lists) == ["conv", "pool", "fc"]


@pytest.mark.parametrize("model", ["alexnet", "resnet18"])
def test_layer_files_have_the_structure_of_real_ones(exported, model):
    if not FIXTURES.is_dir():
        pytest.skip("the recordings are not beside this checkout")
    own = exported[0] / "out" / "net" / "trt_profiling"
    theirs = FIXTURES / model
    real = read(theirs / "trt_layer_latency.json")
    # Plain numbers there; with times each is a pair of the number and a text.
    assert {json.dumps(structure(v)) for v in real.values()} == {'["float"]'}
    mine = read(own / "trt_layer_latency.json")
    assert {json.dumps(structure(v)) for v in mine.values()} == {'[["float", "str"]]'}
    real, mine = read(theirs / "trt_engine_info.json"), read(own / "trt_engine_info.json")
    assert list(real) == list(mine)
    assert structure(real["Bindings"]) == structure(mine["Bindings"])
    for kind in ("CaskConvolution", "CaskPooling", "CaskGemmConvolution"):
        one = next(layer for layer in real["Layers"] if layer["LayerType"] == kind)
        own_layer = next(layer for layer in mine["Layers"] if layer["LayerType"] == kind)
        for key in own_layer:
            assert structure(own_layer[key]) == structure(one[key]), (kind, key)


def test_without_the_inspectors_file_the_tables_are_the_same(exported, tmp_path):
    folder, _ = exported
    build(tmp_path / "ds", inspector=False)
    idling(tmp_path / "ds")
    done = export(tmp_path / "ds", tmp_path / "out", UTC)
    assert tables(tmp_path / "out", "net") == tables(folder / "out", "net")
    info = read(tmp_path / "out" / "net" / "trt_profiling" / "trt_engine_info.json")
    for mine, real in zip(info["Layers"], LAYERS, strict=True):
        for key in real:
            assert structure(mine[key]) == structure(real[key]), key
    assert any("3 of 3 layers are described from engine.json" in line for line in done.lines)


def test_layers_of_another_backend_keep_their_word(tmp_path):
    build_run(tmp_path / "ds")
    done = export(tmp_path / "ds", tmp_path / "out", UTC)
    info = read(tmp_path / "out" / "lenet" / "trt_profiling" / "trt_engine_info.json")
    assert {layer["LayerType"] for layer in info["Layers"]} == {"Conv"}
    assert any("LayerType is the word of onnxruntime" in line for line in done.lines)
    assert any("no idle power is known" in line for line in done.lines)
    # Two rails and no word on what makes up the total: nothing is added up, nothing is invented.
    assert not (tmp_path / "out" / "lenet" / "lenet_power_log.log").exists()
    assert any("the board's total is not known: there is no power log" in x for x in done.lines)


def test_a_total_of_several_rails_goes_as_power(tmp_path):
    from edgejoule.dataset.schema import read_metadata

    run = build_run(tmp_path / "ds")
    path = run / "power.parquet"
    import pyarrow.parquet as pq

    table, facts = pq.read_table(path), read_metadata(path)
    total = {"rails": ["VDD_A", "VDD_B"], "contains": "", "excludes": "", "source": ""}
    columns = {name: table[name].to_pylist() for name in table.column_names}
    write_table(path, "power", columns, **{**facts, "total": total})
    reseal(run)
    done = export(tmp_path / "ds", tmp_path / "out", UTC)
    lines = (tmp_path / "out" / "lenet" / "lenet_power_log.log").read_text().splitlines()
    # 5 V x (1000 + 300) mA
    assert {line.partition(",")[2] for line in lines} == {"1000.0,6500.0"}
    assert any("VDD_A + VDD_B as 1000.0 mV x mW" in line for line in done.lines)


def test_a_run_without_sensor_has_no_log(tmp_path):
    build_run(tmp_path / "ds", sensor="none")
    done = export(tmp_path / "ds", tmp_path / "out", UTC)
    assert done.runs[0]["power_lines"] == 0
    assert any("no power was recorded" in line for line in done.lines)


def test_names_that_repeat_become_keys_and_keep_their_own(tmp_path):
    assert unique_names(["a", "a", "a #2", "b", "a"]) == ["a", "a #3", "a #2", "b", "a #4"]
    records = (CONV, {**POOL, "Name": "conv"}, DENSE)
    build(tmp_path / "ds", records=records)
    done = export(tmp_path / "ds", tmp_path / "out", UTC)
    own = tmp_path / "out" / "net" / "trt_profiling"
    assert list(read(own / "trt_layer_latency.json")) == ["conv", "conv #2", "fc"]
    layers = read(own / "trt_engine_info.json")["Layers"]
    assert layers[1] == {**POOL, "Name": "conv #2", "EdgejouleName": "conv"}
    assert layers[0] == CONV
    assert any("1 layers have a name that another one has" in line for line in done.lines)


def test_what_a_strict_reader_refuses_is_said(tmp_path):
    odd = {**CONV, "Inputs": [tensor(3, 8, 8)]}
    build(tmp_path / "ds", records=(odd, POOL, DENSE))
    done = export(tmp_path / "ds", tmp_path / "out", UTC)
    assert any("1 layers have tensors of other than 2 or 4" in line for line in done.lines)
    (tmp_path / "out" / "idling_power.json").write_text('{"avg_idle_power": 0.0}')
    with pytest.raises(ValueError, match="conv has tensors of other"):
        tables(tmp_path / "out", "net")


def test_times_are_local(tmp_path):
    build(tmp_path / "ds")
    export(tmp_path / "ds", tmp_path / "out", zone_of("-03:30"))
    lists = read(tmp_path / "out" / "net" / "trt_profiling" / "trt_layer_latency.json")
    at = datetime.datetime.strptime(lists["conv"][0][1], "%Y%m%d-%H:%M:%S.%f")
    assert at == datetime.datetime(2024, 11, 21, 1, 50, 5, 10_000)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("plain", [False, True])
def test_written_in_pieces_as_the_standard_library_writes(tmp_path, count, plain, monkeypatch):
    monkeypatch.setattr("edgejoule.dataset.older.writing._LINES", 2)
    names = ['a "quoted" \u00e4', "b/../c"][: 2 if count else 1]
    rows = np.array([[0.1, 1e-7, 123456.78][:count]] * len(names), np.float32)
    times = np.array([1_732_166_404_000_000 + k for k in range(count)])
    path = tmp_path / "x.json"
    write_layer_times(path, names, rows, None if plain else lambda layer: times + layer)
    document = read(path)
    assert path.read_text() == json.dumps(document, indent=4)
    numbers = [v if plain else v[0] for v in document[names[0]]]
    assert numbers == rows[0].astype(float).tolist()


def test_no_layer_at_all_is_an_empty_object(tmp_path):
    write_layer_times(tmp_path / "x", [], np.empty((0, 3), np.float32), None)
    assert (tmp_path / "x").read_text() == json.dumps({}, indent=4)


def test_writing_needs_a_layers_text_and_no_more(tmp_path):
    rows = np.full((12, 10_000), 0.5, np.float32)
    times = np.arange(10_000) * 1000 + 1_732_166_404_000_000
    tracemalloc.start()
    write_layer_times(tmp_path / "x", [str(n) for n in range(12)], rows, lambda layer: times)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "x").stat().st_size > 9e6
    assert peak < 6e6


def test_where_it_must_not_go(tmp_path):
    build(tmp_path / "ds")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "empty").mkdir()
    for folder in ("ds", "ds/out", "full", "full/x"):
        with pytest.raises(UsageError):
            export(tmp_path / "ds", tmp_path / folder, UTC)
    with pytest.raises(UsageError, match="has no run 'x'; it has net"):
        export(tmp_path / "ds", tmp_path / "out", UTC, runs=["x"])
    with pytest.raises(UsageError, match="holds no run"):
        export(tmp_path / "empty", tmp_path / "out", UTC)
    assert not (tmp_path / "out").exists()
    export(tmp_path / "ds", tmp_path / "empty", UTC, runs=["net"])
    assert (tmp_path / "empty" / "net").is_dir()


def test_a_run_that_cannot_be_written_is_left_out_and_nothing_half_stays(tmp_path):
    build(tmp_path / "ds")
    broken = build(tmp_path / "ds", name="broken")
    (broken / "layers.parquet").unlink()
    reseal(broken)
    done = export(tmp_path / "ds", tmp_path / "out", UTC)
    assert done.left_out == {"broken": "it has no layers.parquet"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["net"]
    with pytest.raises(MeasurementError, match="broken: it has no layers"):
        export(tmp_path / "ds", tmp_path / "other", UTC, runs=["broken"])
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"ds", "out", "out.export.log"}


@pytest.mark.parametrize("file", ["engine.json", "layers.parquet", "power.parquet", "idle.json"])
def test_a_run_of_other_bytes_is_left_out(tmp_path, file):
    path = build(tmp_path / "ds") / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(MeasurementError, match=f"{file} cannot be used: it has other bytes"):
        export(tmp_path / "ds", tmp_path / "out", UTC)


def test_time_that_the_profiler_takes_is_said(tmp_path):
    run = build(tmp_path / "ds")
    reseal(run, summary={"profiled": {"held_ms_mean": 4.66}})
    done = export(tmp_path / "ds", tmp_path / "out", UTC)
    assert any("holds each inference up by 4.66 ms" in line for line in done.lines)


def test_interrupted_it_leaves_nothing(tmp_path):
    build(tmp_path / "ds")

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "ds", tmp_path / "out", UTC, say=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["ds"]
