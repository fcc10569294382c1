"""`edgejoule.open`: frames against hand-made runs, and what it refuses."""

from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import edgejoule
from edgejoule.dataset.reading import Dataset
from edgejoule.errors import MeasurementError, UsageError
from tests.support_tables import LAYERS, build


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reading") / "raw_data"
    build(path, "lenet", rails=(("VDD_A", 1000), ("VDD_B", 300)))
    build(path, "plain", sensor="none", rails=())
    build(path, "cut", run={"status": "incomplete", "missing": ["killed"]})
    return path


@pytest.fixture
def data(dataset: Path) -> Dataset:
    return edgejoule.open(dataset)


def test_it_iterates_over_the_names_of_all_runs(data: Dataset) -> None:
    assert list(data) == ["cut", "lenet", "plain"]
    assert len(data) == 3
    assert "lenet" in data
    assert "vgg" not in data


def test_a_dataset_cannot_be_changed(data: Dataset) -> None:
    with pytest.raises(AttributeError):
        data.path = Path("elsewhere")  # type: ignore[misc]


def test_layers_and_runs_are_of_complete_runs_unless_one_is_asked_for(data: Dataset) -> None:
    assert data.layers(frame="arrow")["run"].unique().to_pylist() == ["lenet", "plain"]
    assert data.layers("plain", frame="arrow").num_rows == len(LAYERS)
    assert data.runs(frame="arrow")["run"].to_pylist() == ["lenet", "plain"]
    assert data.runs(incomplete=True, frame="arrow").num_rows == 3
    with pytest.raises(UsageError, match="cut is incomplete: killed"):
        data.layers("cut", frame="arrow")
    assert data.layers("cut", incomplete=True, frame="arrow").num_rows == len(LAYERS)


def test_the_rail_can_be_chosen(data: Dataset) -> None:
    layers = data.layers("lenet", rail="VDD_B", frame="arrow").to_pylist()
    assert layers[0]["energy_gross_mj"] == pytest.approx(0.6)


def test_durations_with_names(data: Dataset) -> None:
    plain = data.durations("lenet", frame="arrow")
    assert plain.column_names == ["inference", "layer", "duration_ms", "start_offset_ns"]
    assert plain.schema.metadata is None
    named = data.durations("lenet", names=True, frame="arrow")
    assert named.num_rows == 6 * 3
    row = named.to_pylist()[5]
    assert (row["inference"], row["layer"], row["layer_name"]) == (1, 2, LAYERS[2]["name"])
    assert (row["layer_type"], row["operation"], row["module_path"]) == ("Gemm", "dense", "")
    assert row["duration_ms"] == pytest.approx(0.2)


def test_durations_of_a_cut_run_can_be_read(data: Dataset) -> None:
    assert data.durations("cut", frame="arrow").num_rows == 18


def test_inferences(data: Dataset) -> None:
    rows = data.inferences("lenet", frame="arrow").to_pylist()
    assert [row["pass"] for row in rows] == ["warmup"] * 2 + ["clean"] * 4 + ["profiled"] * 6
    assert {row["end_ns"] - row["start_ns"] for row in rows} == {1_000_000}


def test_power_in_milliwatts_and_as_it_was_read(data: Dataset) -> None:
    table = data.power("lenet", frame="arrow")
    found = {(row["rail"], row["power_mw"]) for row in table.to_pylist()}
    assert found == {("VDD_A", 5000.0), ("VDD_B", 1500.0)}
    raw = data.power("lenet", raw=True, frame="arrow").to_pylist()
    assert {(row["rail"], row["quantity"], row["unit"], row["raw"]) for row in raw} == {
        ("VDD_A", "voltage", "mV", 5000),
        ("VDD_A", "current", "mA", 1000),
        ("VDD_B", "voltage", "mV", 5000),
        ("VDD_B", "current", "mA", 300),
    }
    assert table.num_rows == len(raw) / 2  # a rail has a point per current read


def test_the_total_is_a_rail_where_the_trace_names_it(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests import support_dataset

    real = support_dataset.RecordWriter

    def with_total(path: Path, kind: Any, header: dict[str, Any]) -> Any:
        if "channels" in header:
            words = {"contains": "both", "excludes": "nothing", "source": "a test"}
            header = {**header, "total": {"rails": ["VDD_A", "VDD_B"], **words}}
        return real(path, kind, header)

    monkeypatch.setattr(support_dataset, "RecordWriter", with_total)
    build(tmp_path, rails=(("VDD_A", 1000), ("VDD_B", 300)))
    table = edgejoule.open(tmp_path).power("lenet", frame="arrow")
    totals = {row["power_mw"] for row in table.to_pylist() if row["rail"] == "total"}
    assert totals == {6500.0}


def test_energy_of_all_and_of_one(data: Dataset) -> None:
    one = data.energy("lenet", frame="arrow")
    assert one.num_rows == 2 * 6
    assert data.energy(frame="arrow").num_rows == 2 * 6
    assert data.energy("cut", frame="arrow").num_rows == 6


def test_engine_and_run_are_the_files(data: Dataset) -> None:
    assert [layer["name"] for layer in data.engine("lenet")["layers"]] == [
        layer["name"] for layer in LAYERS
    ]
    assert data.run("cut")["missing"] == ["killed"]


def test_a_run_without_a_sensor_says_why_it_has_no_power(data: Dataset) -> None:
    with pytest.raises(MeasurementError, match=r"plain has no power\.parquet; .*power sensor"):
        data.power("plain", frame="arrow")
    assert data.energy("plain", frame="arrow").num_rows == 0


def test_an_unknown_run_is_refused(data: Dataset) -> None:
    with pytest.raises(UsageError, match=r"no run 'vgg'; it has cut, lenet, plain"):
        data.durations("vgg", frame="arrow")


def test_damage_is_refused_when_the_file_is_read(tmp_path: Path) -> None:
    path = build(tmp_path) / "inferences.parquet"
    data = edgejoule.open(tmp_path)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(MeasurementError, match=r"inferences\.parquet .* other bytes"):
        data.inferences("lenet", frame="arrow")
    assert data.durations("lenet", frame="arrow").num_rows == 18


def test_pandas_gives_what_read_parquet_gives(data: Dataset, dataset: Path) -> None:
    pandas = pytest.importorskip("pandas")
    from pandas.testing import assert_frame_equal

    own = data.durations("lenet")
    assert_frame_equal(own, pandas.read_parquet(dataset / "lenet/layers.parquet"))
    layers = data.layers("lenet")
    assert isinstance(layers, pandas.DataFrame)
    assert layers.runtime_ms.sum() == pytest.approx(0.9)
    assert str(data.power("lenet").rail.dtype) == "category"


def test_polars(data: Dataset) -> None:
    polars = pytest.importorskip("polars")
    layers = data.layers("lenet", frame="polars")
    assert isinstance(layers, polars.DataFrame)
    assert layers["runtime_ms"].sum() == pytest.approx(0.9)
    assert layers["input_shape"].to_list()[0] == [1, 1, 32, 32]
    assert data.durations("lenet", names=True, frame="polars").height == 18


@pytest.mark.parametrize(("frame", "mend"), [("pandas", "edgejoule[frames]"), ("polars", "polars")])
def test_a_library_that_is_not_there_is_named(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, frame: Any, mend: str
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == frame:
            raise ModuleNotFoundError(f"No module named '{frame}'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError) as refused:
        data.layers(frame=frame)
    assert f"pip install {mend}" in str(refused.value).replace("'", "")
    assert isinstance(data.layers(frame="arrow"), pa.Table)


def test_an_unknown_frame_is_refused(data: Dataset) -> None:
    with pytest.raises(UsageError, match="no frame 'excel'; use pandas, arrow, polars"):
        data.runs(frame="excel")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "address",
    ["https://dagshub.com/owner/name", "s3://bucket/raw_data", "git@host:owner/name.git"],
)
def test_an_address_is_refused_with_the_pull_that_brings_it(address: str) -> None:
    with pytest.raises(UsageError) as refused:
        edgejoule.open(address)
    assert f"data_version.py pull {address} --dataset" in str(refused.value)


def test_what_is_no_dataset_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is one run, not a dataset; open .*'lenet'"):
        edgejoule.open(dataset / "lenet")
    for wrong in (tmp_path, tmp_path / "nowhere", "C:\\raw_data"):
        with pytest.raises(UsageError, match="is no dataset"):
            edgejoule.open(wrong)


def test_opening_loads_no_library(dataset: Path) -> None:
    code = (
        "import sys, edgejoule; data = edgejoule.open(sys.argv[1]); assert len(data) == 3; "
        "print(sorted({'numpy', 'pyarrow', 'pandas', 'polars'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(dataset)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
