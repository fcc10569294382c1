"""Working directories, conversion of record files, sealing, names, defaults."""

import errno
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.dataset.convert import BATCH_RECORDS
from edgejoule.dataset.run_directory import (
    PARTIAL,
    check_result_folder,
    convert,
    create_partial,
    existing_run,
    finish,
    is_dataset,
    read_defaults,
    run_directories,
    set_defaults_if_absent,
)
from edgejoule.dataset.schema import (
    DATASET_FILES,
    JSON_FILES,
    TABLES,
    read_metadata,
    row_count,
    schema_problems,
    table_schema,
    write_table,
)
from edgejoule.dataset.verify import verify_run
from edgejoule.errors import MeasurementError, UsageError
from edgejoule.files import disk_error, files_below, sha256_of
from edgejoule.records import LAYERS, NULL_NS, POWER, RecordWriter
from tests.support_dataset import (
    Plan,
    build_run,
    channels_of,
    prepare,
    request_of,
    run_of,
    write_partial,
)

ROOT = Path(__file__).resolve().parent.parent
DEFAULTS = {"backend": "torch", "dtype": "float32", "batch": 1, "mode": None, "board": None}


def test_the_working_directory_says_all_that_recovery_needs(tmp_path):
    partial = create_partial(tmp_path / "new" / "data", "lenet", request_of(Plan()))
    assert partial.parent == tmp_path / "new" / "data" / PARTIAL
    request = json.loads((partial / "request.json").read_text(encoding="utf-8"))
    assert request["name"] == "lenet"
    assert partial.name == f"lenet-{request['id']}"
    assert request["parent"]["pid"] == os.getpid()
    assert request["config"]["model"] == "lenet"
    assert create_partial(tmp_path / "new" / "data", "lenet", {}) != partial


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs users")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UsageError, match="is no folder"):
        create_partial(file, "lenet", {})
    with pytest.raises(UsageError, match="is in the way"):
        create_partial(file / "below", "lenet", {})
    if os.geteuid() != 0:
        (tmp_path / "mine").mkdir(mode=0o500)
        with pytest.raises(UsageError, match="cannot be written"):
            create_partial(tmp_path / "mine", "lenet", {})


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (errno.ENOSPC, MeasurementError, "is full"),
        (errno.EACCES, UsageError, "cannot be written"),
        (errno.EROFS, UsageError, "cannot be written"),
        (errno.EIO, MeasurementError, "data"),
    ],
)
def test_what_a_disk_says(number, kind, says):
    error = disk_error(Path("data"), OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert says in str(error)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_at_the_conversion_is_one_line(tmp_path):
    partial = write_partial(tmp_path)
    (partial / "layers.parquet.tmp").symlink_to("/dev/full")
    with pytest.raises(MeasurementError, match="is full"):
        convert(partial)
    assert (partial / "layers.bin").exists()


def test_a_folder_of_other_things_is_no_dataset(tmp_path):
    check_result_folder(tmp_path / "nowhere")
    check_result_folder(tmp_path)
    (tmp_path / ".git").mkdir()
    check_result_folder(tmp_path)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"is no dataset: it holds thesis\.tex"):
        create_partial(tmp_path, "lenet", {})
    (tmp_path / "idling_power.json").touch()
    check_result_folder(tmp_path)
    assert is_dataset(tmp_path)
    assert not is_dataset(tmp_path / "thesis.tex")


@pytest.mark.parametrize("name", ["", "../out", ".hidden", "a/b", "x" * 121])
def test_a_name_cannot_leave_the_dataset(tmp_path, name):
    with pytest.raises(UsageError, match="cannot name a run"):
        create_partial(tmp_path, name, {})
    assert not (tmp_path / PARTIAL).exists()


def test_conversion_keeps_every_value(tmp_path):
    plan = Plan(starts=False, replay=2)
    facts = convert(write_partial(tmp_path, plan))
    (partial,) = (tmp_path / PARTIAL).glob("lenet-*")
    assert set(facts) == {f"{name}.parquet" for name in TABLES if name != "energy"}
    for name, one in facts.items():
        assert one.sha256 == sha256_of(partial / name)
        assert one.bytes == (partial / name).stat().st_size
        assert one.rows == row_count(partial / name)
    layers = pq.read_table(partial / "layers.parquet")
    assert layers["inference"].to_pylist() == [i for i in range(6) for _ in range(3)]
    assert layers["duration_ms"].to_pylist()[:3] == [np.float32(v) for v in (0.4, 0.3, 0.2)]
    assert layers["start_offset_ns"].null_count == 18
    inferences = pq.read_table(partial / "inferences.parquet")
    assert inferences["pass"].to_pylist() == ["warmup"] * 2 + ["clean"] * 4 + ["profiled"] * 6
    assert inferences["due_ns"].null_count == 12
    replay = pq.read_table(partial / "replay.parquet").to_pydict()
    assert replay["kind"] == 2 * ["idle", "whole", *["layer"] * 3, *["duplicate"] * 3]
    assert replay["layer"] == 2 * [None, None, 0, 1, 2, 1, 1, 1]
    assert replay["copies"] == 2 * [1, 1, 1, 1, 1, 1, 2, 4]
    assert replay["round"] == [0] * 8 + [1] * 8
    assert replay["iterations"][:3] == [0, 19, 47]
    assert replay["end_ns"][2] - replay["start_ns"][2] == 47 * plan.layer_ns[0]
    resources = pq.read_table(partial / "resources.parquet").to_pydict()
    assert resources["cpu_mhz"] == [1500.0] * 3
    assert resources["temperature_c"] == [45.25, None, 45.25]
    metadata = read_metadata(partial / "power.parquet")
    assert metadata["channels"] == channels_of(plan)
    assert metadata["refresh_ns"] == plan.sample_ns
    assert metadata["cut_records"] == 0


def test_failed_reads_are_null_with_their_reason(tmp_path):
    writer = RecordWriter(tmp_path / "power.bin", POWER, {"channels": channels_of(Plan())})
    writer.write(10, 11, 5000, 0, 0)
    writer.write(12, 13, 0, 1, 61)
    writer.write(14, 15, 0, 1, 0)
    writer.close()
    convert(tmp_path)
    table = pq.read_table(tmp_path / "power.parquet").to_pydict()
    assert table["raw"] == [5000, None, 0]
    assert table["errno"] == [None, 61, None]


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, 200), rows=st.integers(0, 5))
def test_a_cut_file_gives_its_whole_records(tmp_path_factory, cut, rows):
    folder = tmp_path_factory.mktemp("cut")
    writer = RecordWriter(folder / "layers.bin", LAYERS, {})
    for row in range(rows):
        writer.write(NULL_NS, row, row, 0)
    writer.close()
    path = folder / "layers.bin"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(max(0, size - cut))
    whole = rows - (cut + LAYERS.struct.size - 1) // LAYERS.struct.size
    facts = convert(folder)
    if whole < 0 and not facts:
        return  # cut within the header
    assert facts["layers.parquet"].rows == max(0, whole)
    assert facts["layers.parquet"].cut_records == int(cut % LAYERS.struct.size > 0 and whole >= 0)


def test_a_damaged_header_is_an_error(tmp_path):
    (tmp_path / "layers.bin").write_bytes(b"not a record file at all" * 9)
    with pytest.raises(MeasurementError, match="is not a record file"):
        convert(tmp_path)


def test_a_long_run_is_converted_in_little_memory_and_little_space(tmp_path):
    header = RecordWriter(tmp_path / "layers.bin", LAYERS, {})
    header.close()
    inferences, layers = 8_000, 200
    random = np.random.default_rng(0)
    dtype = np.dtype([(field, code) for field, code in LAYERS.fields])
    with (tmp_path / "layers.bin").open("ab") as file:
        for start in range(0, inferences, 500):
            block = np.zeros(500 * layers, dtype)
            block["inference"] = np.repeat(np.arange(start, start + 500), layers)
            block["layer"] = np.tile(np.arange(layers), 500)
            block["duration_ns"] = 20_000 + random.gamma(2.0, 2_000, len(block)).astype(np.int64)
            block["start_offset_ns"] = block["layer"] * 30_000 + random.integers(
                0, 4_000, len(block)
            )
            block.tofile(file)
    raw_bytes = (tmp_path / "layers.bin").stat().st_size
    tracemalloc.start()
    facts = convert(tmp_path)["layers.parquet"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert facts.rows == inferences * layers
    assert facts.rows > 3 * BATCH_RECORDS
    assert peak < 6 * BATCH_RECORDS * dtype.itemsize  # and not a multiple of the file
    assert facts.bytes < raw_bytes / 4


def test_every_table_is_read_back_as_it_was_declared(tmp_path):
    run = build_run(tmp_path, replay=1)
    for name in TABLES:
        found = pq.read_schema(run / f"{name}.parquet")
        figures = ("cpu_mhz", "temperature_c") if name == "resources" else ()
        assert found.remove_metadata() == table_schema(name, figures), name


@pytest.mark.parametrize(
    "change",
    [
        {"layer": ["x"]},
        {"rail": [None]},
        {"layer": [70_000]},
        {"surprise": [1]},
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, change):
    row = {
        "method": ["proportional"], "rail": ["A"], "kind": ["layer"], "layer": [0],
        "gross_mj": [1.0], "gross_statistical_mj": [None], "dynamic_mj": [None],
        "dynamic_statistical_mj": [None], "systematic_mj": [None], "n": [1], "resolved": [None],
        "group": [None], "time_ms": [0.5], "alone_ms": [None], "dynamic_other_mj": [None],
        "scaled_gross_mj": [None], "scaled_dynamic_mj": [None], "why": [None],
    }  # fmt: skip
    write_table(tmp_path / "energy.parquet", "energy", row)
    with pytest.raises(MeasurementError, match=r"bad\.parquet"):
        write_table(tmp_path / "bad.parquet", "energy", {**row, **change})
    assert not (tmp_path / "bad.parquet").exists()


def test_a_finished_run_holds_its_data_and_nothing_of_the_work(tmp_path):
    run = build_run(tmp_path)
    assert files_below(run) == [
        "energy.parquet", "engine.json", "idle.json", "inferences.parquet", "layers.parquet",
        "power.parquet", "resources.parquet", "run.json", "run.log",
    ]  # fmt: skip
    content = existing_run(tmp_path, "lenet")
    assert content["name"] == "lenet"
    assert set(content["files"]) == set(files_below(run)) - {"run.json"}
    assert [phase["phase"] for phase in content["phases"]][:2] == ["idle_before", "warmup"]
    assert content["phases"][-1]["end_ns"] is not None
    assert existing_run(tmp_path, "other") is None
    assert run_directories(tmp_path) == [run]


def test_an_existing_run_is_kept_unless_overwritten(tmp_path):
    run = build_run(tmp_path)
    before = (run / "run.json").read_bytes()
    partial = prepare(tmp_path, Plan(profiled=3))
    with pytest.raises(UsageError, match="exists already"):
        finish(partial, run_of(Plan(profiled=3)), "lenet")
    assert (run / "run.json").read_bytes() == before
    assert (partial / "layers.bin").exists()
    assert finish(partial, run_of(Plan(profiled=3)), "lenet", overwrite=True) == run
    assert verify_run(run).findings == ()
    assert existing_run(tmp_path, "lenet")["summary"]["inferences"]["profiled"] == 3
    assert [path.name for path in (tmp_path / PARTIAL).iterdir()] == [".gate"]


def test_a_run_that_appeared_meanwhile_is_not_replaced(tmp_path):
    first, second = prepare(tmp_path, Plan()), prepare(tmp_path, Plan())
    finish(first, run_of(Plan()), "lenet")
    with pytest.raises(UsageError, match="exists already"):
        finish(second, run_of(Plan()), "lenet")
    assert second.is_dir()


def test_a_run_json_that_does_not_fit_is_refused_before_anything_is_deleted(tmp_path):
    partial = prepare(tmp_path, Plan())
    with pytest.raises(MeasurementError, match="does not fit its schema: weights"):
        finish(partial, {**run_of(Plan()), "weights": "guessed"}, "lenet")
    assert (partial / "layers.bin").exists()
    assert not (tmp_path / "lenet").exists()


def test_a_damaged_run_is_not_taken_for_none(tmp_path):
    run = build_run(tmp_path)
    (run / "run.json").write_text("[]", encoding="utf-8")
    with pytest.raises(MeasurementError, match="no JSON object"):
        existing_run(tmp_path, "lenet")
    (run / "run.json").unlink()
    with pytest.raises(MeasurementError, match="cannot be read"):
        existing_run(tmp_path, "lenet")


def test_the_first_run_sets_the_defaults(tmp_path):
    data = tmp_path / "data"
    assert read_defaults(data) is None
    assert set_defaults_if_absent(data, DEFAULTS) == DEFAULTS
    assert set_defaults_if_absent(data, {**DEFAULTS, "batch": 8}) == DEFAULTS
    assert read_defaults(data) == DEFAULTS
    assert [path.name for path in data.iterdir()] == ["dataset.json"]
    text = (data / "dataset.json").read_text(encoding="utf-8")
    (data / "dataset.json").write_text(text.replace("float32", "float16"), encoding="utf-8")
    with pytest.raises(MeasurementError, match=r"is damaged \(was changed after it was written"):
        read_defaults(data)
    (data / "dataset.json").write_text('{"schema_version": 1}', encoding="utf-8")
    with pytest.raises(MeasurementError, match="is damaged"):
        read_defaults(data)


def test_of_several_first_runs_one_sets_the_defaults(tmp_path):
    code = (
        "import json, sys; from pathlib import Path\n"
        "from edgejoule.dataset.run_directory import set_defaults_if_absent\n"
        "sys.stdin.read(1)\n"
        f"mine = {{**{DEFAULTS!r}, 'batch': int(sys.argv[2])}}\n"
        "print(json.dumps(set_defaults_if_absent(Path(sys.argv[1]), mine)))\n"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "data"), str(batch)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for batch in range(1, 5)
    ]  # fmt: skip
    for racer in racers:
        racer.stdin.write("x")
        racer.stdin.flush()
    said = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
    assert all(one == said[0] for one in said)
    assert read_defaults(tmp_path / "data") == said[0]


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def no_links(*_arguments):
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", no_links)
    assert set_defaults_if_absent(tmp_path, DEFAULTS) == DEFAULTS
    assert set_defaults_if_absent(tmp_path, {**DEFAULTS, "batch": 2}) == DEFAULTS


def test_schemas_are_schemas():
    import jsonschema

    from edgejoule.dataset.schema import json_schema

    for name in {*JSON_FILES.values(), *DATASET_FILES.values()}:
        jsonschema.Draft202012Validator.check_schema(json_schema(name))
    assert schema_problems("idle", {}) == ["document: {} is not of type 'array'"]


def test_reading_and_checking_need_neither_frameworks_nor_linux(tmp_path):
    run = build_run(tmp_path)
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'dvc', 'fcntl', 'resource',\n"
        "             'termios', 'pwd', 'grp'):\n"
        "    sys.modules[name] = None\n"
        "from edgejoule.cli.data_version import main\n"
        "sys.exit(main(['verify', sys.argv[1]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 right, 0 incomplete, 0 wrong" in done.stdout
