"""The tidy table against numbers worked out by hand, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.dataset.schema import METADATA_KEY
from edgejoule.dataset.tables.layer_columns import COLUMNS, layer_table_schema
from edgejoule.dataset.tables.layer_table import choose_energy, choose_rail, layer_table
from edgejoule.dataset.tables.source import SourceRun, layer_runtimes
from edgejoule.errors import MeasurementError, UsageError
from tests.support_tables import LAYERS, build, energy_row, write_layers

RNG = np.random.default_rng(5)


def rows_of(dataset: Path, **how: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = layer_table(dataset, **how).to_pylist()
    return found


def test_time_energy_and_power_of_a_layer(tmp_path: Path) -> None:
    build(tmp_path)
    row = rows_of(tmp_path)[0]
    # 5 V x 1 A for 0.4 ms, of which 1 W idle; constant, so that no interval is wide.
    assert row["runtime_ms"] == pytest.approx(0.4, rel=1e-6)
    assert row["runtime_median_ms"] == pytest.approx(0.4, rel=1e-6)
    assert row["runtime_statistical_ms"] == pytest.approx(0.0, abs=1e-9)
    assert row["runtime_share"] == pytest.approx(4 / 9, rel=1e-6)
    assert row["energy_gross_mj"] == pytest.approx(2.0)
    assert row["energy_dynamic_mj"] == pytest.approx(1.6)
    assert row["power_gross_mw"] == pytest.approx(5000, rel=1e-6)
    assert row["power_dynamic_mw"] == pytest.approx(4000, rel=1e-6)
    assert (row["energy_method"], row["energy_rail"]) == ("proportional", "VDD_IN")
    assert (row["inferences"], row["energy_dynamic_statistical_mj"]) == (6, None)


def test_mean_median_and_interval_of_uneven_times(tmp_path: Path) -> None:
    times = [[1.0, 0.5, 0.25], [2.0, 0.5, 0.25], [3.0, 0.5, 0.25], [6.0, 0.5, 0.25]]
    layer = energy_row("proportional", "VDD_IN", 0, gross_mj=6.0, gross_statistical_mj=1.5)
    build(tmp_path, times_ms=times, energy=[layer, energy_row("proportional", "VDD_IN", None)])
    first, second, _ = rows_of(tmp_path)
    assert (first["runtime_ms"], first["runtime_median_ms"]) == (3.0, 2.5)
    # Standard deviation of 1, 2, 3, 6 is sqrt(14/3); Student's t of three degrees is 3.182.
    half_ms = 3.182 * math.sqrt(14 / 3) / 2
    assert first["runtime_statistical_ms"] == pytest.approx(half_ms, rel=1e-3)
    assert first["runtime_share"] == pytest.approx(3.0 / 3.75)
    assert first["power_gross_mw"] == pytest.approx(6.0 / 3.0 * 1000)
    assert first["power_gross_statistical_mw"] == pytest.approx(1.5 / 3.0 * 1000)
    assert first["power_dynamic_mw"] is None
    # A layer without a row has neither energy nor a method.
    assert (second["energy_method"], second["energy_gross_mj"]) == (None, None)


def test_every_column_stands_in_order_and_with_its_type(tmp_path: Path) -> None:
    build(tmp_path)
    table = layer_table(tmp_path)
    assert table.schema.remove_metadata() == layer_table_schema()
    assert table.column_names == list(COLUMNS)
    assert b"layers" in table.schema.metadata[METADATA_KEY]


def test_what_the_engine_and_the_run_say_stands_in_each_row(tmp_path: Path) -> None:
    machine = {"cpu": {"model": "Example CPU"}, "gpu": {"names": ["Example GPU"]}}
    build(tmp_path, run={"board_id": "a board", "power_mode": "15W", "machine": machine})
    row = rows_of(tmp_path)[2]
    assert (row["run"], row["network"], row["layer"]) == ("lenet", "lenet", 2)
    assert (row["layer_name"], row["operation"]) == (LAYERS[2]["name"], "dense")
    assert (row["module_path"], row["fused"], row["kernel_0"]) == ("", None, None)
    assert (row["board"], row["power_mode"], row["processor"]) == ("a board", "15W", "Example CPU")
    assert (row["simulated"], row["weights_kind"], row["status"]) == (
        False,
        "pretrained",
        "complete",
    )
    assert row["versions"] == '{"edgejoule": "0.1.0"}'
    assert (row["edgejoule_version"], row["backend_version"]) == ("0.1.0", "1.0")


def test_simulated_and_random_runs_stay_and_say_so(tmp_path: Path) -> None:
    build(tmp_path, simulated=True, weights="random")
    row = rows_of(tmp_path)[0]
    assert (row["simulated"], row["weights_kind"]) == (True, "random")


def test_a_file_of_the_users_is_named_without_its_folder(tmp_path: Path) -> None:
    build(tmp_path, "a", config={"model": "C:\\nets\\my.v2.onnx", "model_sha256": "0" * 64})
    build(tmp_path, "b", config={"model": "/nets/my.v2.onnx", "model_sha256": "0" * 64})
    build(tmp_path, "c", config={"model": "timm/net.a"})
    assert {(row["run"], row["network"]) for row in rows_of(tmp_path)} == {
        ("a", "my.v2"),
        ("b", "my.v2"),
        ("c", "timm/net.a"),
    }


def test_the_gpu_is_the_processor_where_it_computed(tmp_path: Path) -> None:
    summary = {"settings": {"gpu": "Example GPU 2"}}
    build(tmp_path, config={"device": "cuda:1"}, run={"summary": summary})
    assert rows_of(tmp_path)[0]["processor"] == "Example GPU 2"


def test_incomplete_and_failed_runs_are_left_out_and_named(tmp_path: Path) -> None:
    build(tmp_path, "good")
    build(tmp_path, "cut", run={"status": "incomplete", "missing": ["killed by the kernel"]})
    build(tmp_path, "bad", run={"status": "failed", "missing": ["the outputs are not finite"]})
    said: list[str] = []
    assert {row["run"] for row in rows_of(tmp_path, say=said.append)} == {"good"}
    assert said == [
        "bad is left out: failed: the outputs are not finite",
        "cut is left out: incomplete: killed by the kernel",
    ]
    found = {row["run"]: row["status"] for row in rows_of(tmp_path, incomplete=True)}
    assert found == {"good": "complete", "cut": "incomplete", "bad": "failed"}
    with pytest.raises(UsageError, match="cut is incomplete: killed by the kernel"):
        layer_table(tmp_path, runs=["cut"])


def test_of_a_cut_run_the_whole_inferences_count(tmp_path: Path) -> None:
    write_layers(tmp_path, [[1.0, 2.0], [3.0, 4.0], [100.0]])
    times = layer_runtimes(tmp_path / "layers.parquet", 2)
    assert (times.inferences, times.mean_ms.tolist()) == (2, [2.0, 3.0])


def test_no_inference_gives_no_time(tmp_path: Path) -> None:
    write_layers(tmp_path, [])
    times = layer_runtimes(tmp_path / "layers.parquet", 2)
    assert times.inferences == 0
    assert np.isnan(times.mean_ms).all()
    assert times.half_ms == [None, None]


@pytest.mark.parametrize("values_at_once", [1, 90, 200, 1 << 24])
def test_groups_of_layers_change_nothing(tmp_path: Path, values_at_once: int) -> None:
    durations = RNG.random((45, 7)).astype(np.float32)
    write_layers(tmp_path, durations.tolist())
    found = layer_runtimes(tmp_path / "layers.parquet", 7, values_at_once=values_at_once)
    np.testing.assert_allclose(found.mean_ms, durations.mean(axis=0, dtype=np.float64))
    np.testing.assert_allclose(found.median_ms, np.median(durations, axis=0))
    assert None not in found.half_ms


@pytest.mark.parametrize("file", ["engine.json", "layers.parquet", "energy.parquet", "run.json"])
def test_a_flipped_byte_is_refused_by_name(tmp_path: Path, file: str) -> None:
    path = build(tmp_path) / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(MeasurementError, match=rf"{file}.*verify"):
        layer_table(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"name": "lenet"}'])
def test_a_damaged_run_json_is_refused_with_a_mend(tmp_path: Path, content: bytes) -> None:
    (build(tmp_path) / "run.json").write_bytes(content)
    with pytest.raises(MeasurementError, match=r"run\.json.*verify.*lenet` says"):
        layer_table(tmp_path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    (build(tmp_path) / "layers.parquet").unlink()
    with pytest.raises(MeasurementError, match=r"layers\.parquet cannot be used: it is missing"):
        layer_table(tmp_path)


def test_an_unknown_run_and_a_run_in_place_of_a_dataset_are_refused(tmp_path: Path) -> None:
    run = build(tmp_path)
    with pytest.raises(UsageError, match=r"no run 'vgg'; it has lenet"):
        layer_table(tmp_path, runs=["vgg"])
    with pytest.raises(UsageError, match="is one run, not a dataset"):
        layer_table(run)
    with pytest.raises(UsageError, match="is no folder"):
        layer_table(tmp_path / "nowhere")


def test_two_rails_without_a_total_are_not_added_up(tmp_path: Path) -> None:
    build(tmp_path, rails=(("VDD_A", 1000), ("VDD_B", 300)))
    said: list[str] = []
    row = rows_of(tmp_path, say=said.append)[0]
    assert (row["energy_gross_mj"], row["energy_rail"]) == (None, None)
    assert said == [
        "no energy of layers in this table for lenet: its total is not known; choose one of "
        "VDD_A, VDD_B with --rail"
    ]
    row = rows_of(tmp_path, rail="VDD_B")[0]
    assert (row["energy_gross_mj"], row["energy_rail"]) == (pytest.approx(0.6), "VDD_B")


def test_runs_without_energy_are_named_in_one_line_per_reason(tmp_path: Path) -> None:
    for name in "abcde":
        build(tmp_path, name, sensor="none", rails=())
    build(tmp_path, "f")
    said: list[str] = []
    rows = rows_of(tmp_path, say=said.append)
    assert said == [
        "no energy of layers in this table for a, b, c and 2 more: no power sensor was read"
    ]
    assert {row["run"] for row in rows if row["energy_gross_mj"] is not None} == {"f"}


def test_a_rail_or_method_that_no_run_has_is_refused(tmp_path: Path) -> None:
    build(tmp_path)
    with pytest.raises(UsageError, match=r"by VDD_X; there is proportional on VDD_IN"):
        layer_table(tmp_path, rail="VDD_X")
    with pytest.raises(UsageError, match=r"by replay; there is"):
        layer_table(tmp_path, method="replay")


def source(device: str = "cpu", channels: tuple[tuple[str, str], ...] = ()) -> SourceRun:
    sensor = {
        "name": "nvml,rapl",
        "channels": [{"rail": rail, "sensor": name} for rail, name in channels],
    }
    run = {"config": {"device": device}, "sensor": sensor, "summary": {}}
    return SourceRun(Path("run"), run)


def test_the_best_method_is_taken_on_the_total() -> None:
    pairs = [("proportional", "total"), ("window", "total"), ("window", "A"), ("replay", "total")]
    assert choose_energy(source(), pairs) == ("replay", "total")
    assert choose_energy(source(), pairs[:3]) == ("window", "total")
    assert choose_energy(source(), pairs, "proportional") == ("proportional", "total")
    assert choose_energy(source(), pairs, None, "A") == ("window", "A")


def test_without_a_total_the_only_rail_of_the_devices_sensor() -> None:
    channels = (("gpu_instant", "nvml"), ("package-0", "rapl"))
    rails = [rail for rail, _ in channels]
    assert choose_rail(source("cuda:0", channels), rails, None) == "gpu_instant"
    assert choose_rail(source("cpu", channels), rails, None) == "package-0"
    more = (*channels, ("dram-0", "rapl"))
    assert choose_rail(source("cpu", more), [rail for rail, _ in more], None) is None
