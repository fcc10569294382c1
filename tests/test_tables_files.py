"""`data_version.py tables`: what is written; doc, dictionary and files agree; what is refused."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgejoule.cli.data_version import main
from edgejoule.dataset.schema import METADATA_KEY
from edgejoule.dataset.tables import files as table_files
from edgejoule.dataset.tables.classic import (
    CLASSIC_COLUMNS,
    classic_kind,
    classic_schema,
    classic_tables,
)
from edgejoule.dataset.tables.files import default_folder, write_tables
from edgejoule.dataset.tables.layer_columns import layer_table_schema
from edgejoule.dataset.tables.layer_table import layer_table
from edgejoule.dataset.tables.meanings import Column, columns_of, table_names
from edgejoule.dataset.tables.part_table import part_table_schema
from edgejoule.dataset.tables.run_columns import energy_table_schema, run_table_schema
from edgejoule.files import files_below, sha256_of
from tests.support_tables import LAYERS, build, energy_row, tensor

DOC = Path(__file__).resolve().parent.parent / "docs/Modelling.md"
SCHEMAS = {
    "layers": layer_table_schema(),
    "runs": run_table_schema(),
    "energy": energy_table_schema(),
    "parts": part_table_schema(),
    **{kind: classic_schema(kind) for kind in CLASSIC_COLUMNS},
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of two networks, one of them with a layer of three dimensions."""
    dataset = tmp_path_factory.mktemp("tables") / "raw_data"
    line = {**LAYERS[0], "inputs": [tensor(1, 4, 9)], "outputs": [tensor(1, 4, 9)], "kernel": [3]}
    build(dataset, "lenet")
    build(dataset, "other", layers=(line, *LAYERS[1:]), weights="random")
    write_tables(dataset, classic=True)
    return default_folder(dataset)


def table_at(folder: Path, name: str) -> pa.Table:
    return pq.read_table(folder / f"{name}.parquet", partitioning=None)


def rows_at(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def kind_of(type_: pa.DataType) -> str:
    return {"double": "float64", "list<element: int64>": "list<int64>"}.get(
        str(type_), str(type_).replace("list<item: int64>", "list<int64>")
    )


def in_doc(table: str) -> list[Column]:
    """The columns as the page has them, under the heading `### table: NAME`."""
    text = DOC.read_text(encoding="utf-8")
    section = text.split(f"### Columns of `{table}`\n", 1)[1].split("\n#", 1)[0]
    found = []
    for line in section.splitlines():
        if match := re.fullmatch(r"\| `(\w+)` \| (.*) \| (.*) \| (.*) \| (.*) \|", line):
            name, kind, unit, null, meaning = match.groups()
            found.append(Column(name, kind, unit, null, meaning))
    return found


@pytest.mark.parametrize("table", table_names())
def test_page_dictionary_schema_and_file_say_the_same(written: Path, table: str) -> None:
    columns = list(columns_of(table))
    schema = SCHEMAS[table]
    assert [(one.name, one.type) for one in columns] == [
        (field.name, kind_of(field.type)) for field in schema
    ]
    # What may be null says what null means, and nothing else does.
    assert [bool(one.null) for one in columns] == [field.nullable for field in schema]
    dictionary = json.loads((written / "tables.json").read_text(encoding="utf-8"))
    assert dictionary["tables"][table]["columns"] == [one.to_json() for one in columns]
    name = table if table not in CLASSIC_COLUMNS else f"classic/{table}"
    assert table_at(written, name).schema.remove_metadata() == schema
    assert (written / f"{name}.csv").read_text(encoding="utf-8").splitlines()[0] == ",".join(
        one.name for one in columns
    )
    assert in_doc(table) == columns


def test_a_unit_in_a_name_is_the_unit() -> None:
    ends = {"_ms": "ms", "_mj": "mJ", "_mw": "mW", "_mib": "MiB", "_db": "dB", "_per_s": "1/s"}
    for table in table_names():
        for column in columns_of(table):
            per_s = {"gflops_per_s": "GFLOP/s", "gbytes_per_s": "GB/s", "edp_uj_s": "uJ s"} | ends
            unit = next((unit for end, unit in per_s.items() if column.name.endswith(end)), None)
            assert unit in (None, column.unit), column


def test_the_dictionary_lists_every_file_with_its_hash(written: Path) -> None:
    dictionary = json.loads((written / "tables.json").read_text(encoding="utf-8"))
    assert set(files_below(written)) == {*dictionary["files"], "tables.json"}
    for name, facts in dictionary["files"].items():
        assert facts["sha256"] == sha256_of(written / name)
        if name.endswith(".parquet"):
            assert facts["rows"] == table_at(written, name.removesuffix(".parquet")).num_rows
    assert set(dictionary["dataset"]["runs"]) == {"lenet", "other"}
    assert dictionary["dataset"]["commit"] is None
    header = json.loads(table_at(written, "layers").schema.metadata[METADATA_KEY])
    assert header["dataset"] == dictionary["dataset"]


@pytest.mark.parametrize("name", ["layers", "runs", "energy", "classic/dense"])
def test_csv_holds_the_numbers_of_parquet(written: Path, name: str) -> None:
    table = table_at(written, name)
    rows = rows_at(written, name)
    assert len(rows) == table.num_rows > 0
    for plain, row in zip(rows, table.to_pylist(), strict=True):
        for column, value in row.items():
            text = plain[column]
            if value is None:
                assert text == ""
            elif isinstance(value, bool):
                assert text == str(value).lower()
            elif isinstance(value, (int, float)):
                assert float(text) == value
            elif isinstance(value, list):
                assert json.loads(text) == value
            else:
                assert text == value


def test_runs(written: Path) -> None:
    row = table_at(written, "runs").to_pylist()[0]
    # An inference of the plan: 0.4 + 0.3 + 0.2 ms in layers and a gap of 0.1 ms.
    assert row["latency_mean_ms"] == row["latency_p50_ms"] == row["latency_p99_ms"] == 1.0
    assert (row["inferences_per_s"], row["samples_per_s"], row["batch_size"]) == (1000, 1000, 1)
    assert (row["clean_inferences"], row["profiled_inferences"]) == (4, 6)
    assert (row["layers"], row["layers_without_flops"]) == (3, 0)
    assert row["flops_known"] == 235200 + 4704 + 1680
    assert row["weights_known"] == 156 + 850
    assert json.loads(row["config"])["model"] == "lenet"
    assert row["energy_gross_mj"] is None  # the summary of this run has no energy of the pass


def test_energy_of_a_run_is_of_the_clean_pass(tmp_path: Path) -> None:
    clean = {
        "gross_mj": 6.0,
        "gross_statistical_mj": 0.6,
        "dynamic_mj": 4.0,
        "dynamic_statistical_mj": None,
        "mean_mw": 3000.0,
    }
    summary = {"energy": {"rails": {"total": {"clean": clean}, "A": {"clean": clean}}}}
    build(tmp_path / "raw_data", run={"summary": summary})
    write_tables(tmp_path / "raw_data")
    row = table_at(tmp_path / "raw_data-tables", "runs").to_pylist()[0]
    # 6 mJ at 3 W are 2 ms.
    assert (row["energy_rail"], row["energy_gross_mj"], row["power_gross_mw"]) == ("total", 6, 3000)
    assert row["power_gross_statistical_mw"] == pytest.approx(300)
    assert (row["power_dynamic_mw"], row["idle_power_mw"]) == (2000, 1000)
    assert row["power_dynamic_statistical_mw"] is None


def test_energies_are_all_there_with_their_layers(written: Path) -> None:
    rows = table_at(written, "energy").to_pylist()
    assert len(rows) == 2 * (3 + 3)
    assert [row["kind"] for row in rows[:6]] == [*["layer"] * 3, "gap", "inference", "closure"]
    assert (rows[0]["layer_name"], rows[0]["operation"]) == ("conv1", "convolution")
    assert (rows[3]["layer"], rows[3]["layer_name"]) == (None, None)
    assert rows[4]["gross_mj"] == pytest.approx(5.0)


def test_the_classic_columns_are_the_older_ones() -> None:
    sizes = "input_size_0 input_size_1 input_size_2 output_size_0 output_size_1 output_size_2"
    end = "power runtime layer_name"
    assert {kind: " ".join(columns) for kind, columns in CLASSIC_COLUMNS.items()} == {
        "convolutional": f"batch_size {sizes} kernel_0 kernel_1 padding_0 padding_1 stride_0 "
        f"stride_1 {end}",
        "pooling": f"batch_size {sizes} kernel_0 kernel_1 stride_0 stride_1 {end}",
        "dense": f"batch_size input_size output_size {end}",
    }


def test_classic_rows(written: Path) -> None:
    (row,) = table_at(written, "classic/lenet/convolutional").to_pylist()
    # Above idle: (1000 - 200) mA x 5 V = 4 W, in microwatts.
    assert row["power"] == pytest.approx(4e6, rel=1e-6)
    assert row["runtime"] == pytest.approx(0.4, rel=1e-6)
    del row["power"], row["runtime"]
    assert row == {
        "batch_size": 1,
        "input_size_0": 1, "input_size_1": 32, "input_size_2": 32,
        "output_size_0": 6, "output_size_1": 28, "output_size_2": 28,
        "kernel_0": 5, "kernel_1": 5, "padding_0": 0, "padding_1": 0, "stride_0": 1, "stride_1": 1,
        "layer_name": "conv1",
    }  # fmt: skip
    (row,) = table_at(written, "classic/lenet/dense").to_pylist()
    assert (row["input_size"], row["output_size"]) == (84, 10)
    assert row["layer_name"] == 'fc, "the last"'
    # Both networks are in the one over all; the other's convolution has three dimensions.
    assert table_at(written, "classic/dense").num_rows == 2
    assert table_at(written, "classic/convolutional").num_rows == 1
    assert table_at(written, "classic/other/convolutional").num_rows == 0


def test_what_has_no_place_in_the_classic_tables_is_counted(tmp_path: Path) -> None:
    mean = {**LAYERS[1], "operation": "reduction"}
    bare = {**LAYERS[1], "operation": "reduction", "kernel": None, "index": 1}
    line = {**LAYERS[0], "inputs": [tensor(1, 4, 9)], "index": 2}
    unknown = {**LAYERS[0], "inputs": [{"name": "x", "shape": None}], "index": 3}
    build(
        tmp_path,
        layers=[{**mean, "index": 0}, bare, line, unknown],
        times_ms=[[1.0] * 4],
        sensor="none",
    )
    tables, left_out = classic_tables(layer_table(tmp_path))
    assert left_out == {"convolutional": 1, "pooling": 0, "dense": 0}
    assert tables["lenet"]["pooling"].num_rows == 1
    (row,) = tables["lenet"]["convolutional"].to_pylist()
    assert (row["input_size_0"], row["power"], row["kernel_0"]) == (None, None, 5)


def test_without_a_loaded_baseline_classic_power_is_above_the_cold_one(tmp_path: Path) -> None:
    rows = [energy_row("proportional", "total", k, gross_mj=2.0) for k in range(3)]
    rows.append(energy_row("proportional", "total", None))
    said: list[str] = []
    for name, kind in (("cold", "cold"), ("none", "sampler")):
        idle = [{"kind": kind, "when": "before", "rails": {"total": {"mean_mw": mean_mw}}}
                for mean_mw in (1400.0, 1600.0)]  # fmt: skip
        build(tmp_path / "raw_data", name, energy=rows, idle=idle)
    write_tables(tmp_path / "raw_data", classic=True, say=said.append)
    assert said == [
        "no loaded baseline: power in the classic tables is above the cold baseline for cold",
        "no loaded baseline: power in the classic tables is unknown for none",
    ]
    table = table_at(tmp_path / "raw_data-tables", "classic/pooling").to_pylist()
    # 2 mJ in 0.3 ms are 6666.7 mW, of which 1500 mW are idle.
    assert table[0]["power"] == pytest.approx((2e6 / 0.3) - 1.5e6, rel=1e-6)
    assert table[1]["power"] is None


def test_the_same_runs_give_the_same_bytes(written: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    write_tables(written.parent / "raw_data", again, classic=True)
    assert files_below(again) == files_below(written)
    for name in files_below(written):
        assert (again / name).read_bytes() == (written / name).read_bytes(), name


def command(*words: Any) -> int:
    return main(["tables", *map(str, words)])


def test_the_command_replaces_its_own_tables_whole(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, out = written.parent / "raw_data", tmp_path / "out"
    assert command(dataset, "-o", out, "--classic") == 0
    assert command(dataset, "-o", out, "--run", "lenet", "--format", "csv") == 0
    assert files_below(out) == [
        *(f"{name}.csv" for name in ("energy", "layers", "parts", "runs")),
        "tables.json",
    ]
    said = capsys.readouterr()
    assert said.out.splitlines()[-2:] == [
        f"{out}: 1 runs; rows: layers 3, runs 1, energy 6, parts 10",
        f"what each column means: {out / 'tables.json'}",
    ]
    assert "1 convolutional layers are not in the classic tables" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_other_things_is_refused_and_kept(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, out = written.parent / "raw_data", tmp_path / "out"
    assert command(dataset, "-o", out) == 0
    (out / "notes.txt").write_text("mine")
    assert command(dataset, "-o", out) == 2
    assert "out holds notes.txt, which is no table of this command" in capsys.readouterr().err
    assert (out / "notes.txt").read_text() == "mine"
    assert command(dataset, "-o", dataset / "lenet") == 2
    assert "lies inside the dataset" in capsys.readouterr().err
    assert command(dataset, "-o", tmp_path, "--format", "xlsx") == 2
    assert "no format 'xlsx'; use parquet, csv" in capsys.readouterr().err


def test_a_damaged_run_leaves_the_tables_as_they_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, out = tmp_path / "raw_data", tmp_path / "out"
    path = build(dataset) / "layers.parquet"
    assert command(dataset, "-o", out) == 0
    before = {name: (out / name).read_bytes() for name in files_below(out)}
    path.write_bytes(path.read_bytes()[:-1])
    capsys.readouterr()
    assert command(dataset, "-o", out) == 1
    said = capsys.readouterr().err
    assert said.splitlines()[0] == "layers of lenet: 0 of 1"  # how far it is, without a terminal
    assert len(said.splitlines()) == 2
    assert "layers.parquet cannot be used: it has other bytes than run.json says" in said
    assert {name: (out / name).read_bytes() for name in files_below(out)} == before


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 1)]
)
def test_an_end_in_the_middle_leaves_nothing_and_the_old_tables(
    written: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
) -> None:
    dataset, out = written.parent / "raw_data", tmp_path / "out"
    assert command(dataset, "-o", out, "--format", "csv") == 0
    before = files_below(out)

    def fail(table: pa.Table, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setitem(table_files._WRITERS, "parquet", fail)
    assert command(dataset, "-o", out) == code
    assert files_below(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    if code == 1:
        assert "the disk of" in capsys.readouterr().err


def test_the_last_rename_failing_brings_the_old_tables_back(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, out = written.parent / "raw_data", tmp_path / "out"
    write_tables(dataset, out, formats=("csv",))
    before = files_below(out)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp" and self.is_dir():
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(Exception, match=r"cannot be written .*; give a -o that belongs to you"):
        write_tables(dataset, out)
    assert files_below(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_tables_of_a_versioned_dataset_name_its_commit(tmp_path: Path) -> None:
    from edgejoule.dataset.versions.git import git_output, init_repository, run_git

    dataset = tmp_path / "raw_data"
    build(dataset)
    init_repository(dataset)
    (dataset / ".dvc").mkdir()
    run_git(dataset, "add", "dataset.json")
    run_git(dataset, "commit", "-q", "-m", "one")
    run_git(dataset, "tag", "data-1")
    write_tables(dataset, tmp_path / "out", formats=("csv",))
    facts = json.loads((tmp_path / "out/tables.json").read_text(encoding="utf-8"))["dataset"]
    assert facts["commit"] == (git_output(dataset, "rev-parse", "HEAD") or "").strip()
    assert facts["tags"] == ["data-1"]
    assert len(facts["commit"]) == 40


@pytest.mark.parametrize(
    ("layer_type", "operation", "kernel_0", "kind"),
    [
        ("CaskGemmConvolution", "convolution", 1, "dense"),
        ("CaskConvolution", "convolution", 3, "convolutional"),
        ("CaskPooling", "reduction", None, "pooling"),
        ("FusedConv", "convolution", 1, "convolutional"),
        ("Gemm", "dense", None, "dense"),
        ("Reduce", "reduction", 7, "pooling"),
        ("Reduce", "reduction", None, None),
        ("Relu", "activation", None, None),
    ],
)
def test_where_a_layer_of_the_classic_tables_goes(
    layer_type: str, operation: str, kernel_0: int | None, kind: str | None
) -> None:
    layer = {"layer_type": layer_type, "operation": operation, "kernel_0": kernel_0}
    assert classic_kind(layer) == kind
