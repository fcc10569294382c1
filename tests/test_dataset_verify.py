"""`verify` accepts a right run and names the file in which anything is wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgejoule.config import RunConfig, defaults_of, identity_sha256
from edgejoule.dataset.findings import ERROR, INCOMPLETE
from edgejoule.dataset.run_directory import seal, seal_file, set_defaults_if_absent
from edgejoule.dataset.schema import read_metadata
from edgejoule.dataset.verify import verify, verify_dataset, verify_run
from edgejoule.errors import UsageError
from edgejoule.files import canonical_json, config_sha256, write_json
from tests.support_dataset import Plan, build_run, config_of, reseal
from tests.support_edit import drop, edit_json, edit_table, put, swap

FILES = (
    "energy.parquet",
    "engine.json",
    "idle.json",
    "inferences.parquet",
    "layers.parquet",
    "power.parquet",
    "resources.parquet",
    "run.json",
    "run.log",
)

IMPORTED = {
    "layout": "edgeprofiler",
    "files": {"lenet_tensorrt.json": "0" * 64},
    "times": "callback",
    "notes": [],
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return build_run(tmp_path_factory.mktemp("dataset"))


@pytest.fixture
def run(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / sound.name))


def problems(path):
    return [(item.file, item.problem) for item in verify_run(path).findings]


def named(path):
    return {item.file for item in verify_run(path).findings if item.severity == ERROR}


def test_a_right_run_has_no_findings(sound):
    assert {path.name for path in sound.iterdir()} == set(FILES)
    assert problems(sound) == []


@pytest.mark.parametrize(
    "plan",
    [
        Plan(sensor="none"),
        Plan(starts=False),
        Plan(simulated=True, sensor="simulated"),
        Plan(profiled=1, warmup=0, clean=1, layer_ns=(5,), gap_ns=0),
    ],
)
def test_other_kinds_of_right_runs(tmp_path, plan):
    assert problems(build_run(tmp_path, plan)) == []


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_changed_byte_is_found_and_its_file_named(sound, tmp_path_factory, data):
    name = data.draw(st.sampled_from(FILES))
    folder = tmp_path_factory.mktemp("flipped") / sound.name
    shutil.copytree(sound, folder)
    raw = bytearray((folder / name).read_bytes())
    where = data.draw(st.integers(0, len(raw) - 1))
    raw[where] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(raw)
    assert name in named(folder)


@pytest.mark.parametrize("name", FILES)
def test_any_deleted_file_is_named(sound, run, name):
    shutil.copy(sound.parent / "dataset.json", run.parent)
    (run / name).unlink()
    report = verify_dataset(run.parent)
    found = {f"{item.file}" for item in report.findings if item.severity == ERROR}
    found |= {f"{one.path.name}/{item.file}" for one in report.runs for item in one.findings}
    assert found == {f"{run.name}/{name}"}
    assert not report.ok()


@pytest.mark.parametrize("table", ["power", "inferences", "layers", "energy", "resources"])
@pytest.mark.parametrize("row", [0, 1, -1])
def test_any_dropped_row_is_found(run, table, row):
    edit_table(run, table, lambda columns: drop(row % len(columns[next(iter(columns))]))(columns))
    assert f"{table}.parquet" in named(run)


@pytest.mark.parametrize(
    ("table", "change", "says"),
    [
        ("power", swap(4, 8), "time of channel 0 runs backwards (row 8)"),
        ("power", put("t1_ns", 5, 0), "t1_ns is before t0_ns (row 5)"),
        ("power", put("channel", 3, 4), "a channel that the table lacks (row 3)"),
        ("power", put("errno", 3, 61), "one of raw and errno must be null (row 3)"),
        ("inferences", drop(9), "indices of pass profiled are not 0, 1, 2, ..."),
        ("inferences", drop(11), "has 5 profiled inferences, asked were 6"),
        ("inferences", drop(0), "has 1 warmup inferences, the summary 2"),
        ("inferences", put("end_ns", 7, 0), "ends before it starts (row 7)"),
        ("inferences", put("end_ns", 7, 10_999_000_000), "outside of phase profiled (row 7)"),
        ("inferences", swap(2, 3), "indices of pass clean are not 0, 1, 2, ... (row 2 and 1 more)"),
        ("inferences", swap(5, 6), "starts before the inference before it ends"),
        ("inferences", put("pass", 5, "idle"), "has an unknown pass 'idle'"),
        ("inferences", put("start_ns", 0, 5), "outside of phase warmup (row 0)"),
        ("layers", drop(4), "inference 1 has layer 1 not at all (1 such)"),
        ("layers", put("layer", 4, 0), "inference 1 has layer 0 twice (1 such)"),
        ("layers", put("layer", 4, 3), "a layer that engine.json lacks (row 4)"),
        ("layers", put("inference", 17, 6), "an inference that inferences.parquet lacks (row 17)"),
        ("layers", swap(0, 17), "is not sorted by inference"),
        ("layers", put("start_offset_ns", 3, -1), "reaches out of its inference (row 3)"),
        ("layers", put("start_offset_ns", 5, 900_000), "reaches out of its inference (row 5)"),
        ("layers", put("duration_ms", 3, 0.55), "the layers of inference 1 take longer"),
        ("layers", put("duration_ms", 3, float("nan")), "a negative or unknown duration (row 3)"),
        ("energy", drop(0), "proportional on VDD_A: a row is missing or there twice"),
        ("energy", put("gross_mj", 0, 9.0), "layers and gap add up to"),
        ("energy", put("gross_mj", 4, 5.1), "layers and gap make up 98.04 % of the inference"),
        ("energy", put("n", 3, 5), "n is 5, not config.runs"),
        ("energy", put("kind", 3, "other"), "has an unknown kind 'other'"),
        ("energy", put("layer", 3, 7), "a row of kind gap has layer 7"),
        ("energy", put("rail", 4, "VDD_C"), "has a rail 'VDD_C' unknown here"),
        ("resources", swap(0, 1), "time runs backwards (row 1)"),
    ],
)
def test_what_was_sealed_wrong_is_found_by_its_sense(run, table, change, says):
    edit_table(run, table, change)
    reseal(run)
    found = [problem for file, problem in problems(run) if file == f"{table}.parquet"]
    assert any(says in problem for problem in found), found


def test_a_layer_may_stick_out_by_less_than_the_clock_of_its_runtime(run):
    edit_table(run, "layers", put("start_offset_ns", 5, 800_900))
    reseal(run)
    assert problems(run) == []


def test_a_changed_reading_contradicts_the_totals(run):
    edit_table(run, "power", put("raw", 400, 5400))
    reseal(run)
    assert any(
        file == "run.json" and "the trace gives" in problem for file, problem in problems(run)
    )


def test_a_wrong_energy_of_the_inference_contradicts_the_trace(run):
    def halve(columns):
        return {**columns, "gross_mj": [value / 2 for value in columns["gross_mj"]]}

    edit_table(run, "energy", halve)
    reseal(run)
    assert any("an inference takes" in problem for _, problem in problems(run))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "other"}, "names the run other, its folder does not"),
        ({"simulated": True}, "contradict each other"),
        ({"config_sha256": "0" * 64}, "config_sha256 is not the hash of config"),
        ({"status": "done"}, "status: 'done' is not one of"),
        ({"weights": 3}, "weights: 3 is not one of"),
        ({"schema_version": 6}, "schema_version 6 is newer than this edgejoule reads"),
        ({"schema_version": 3, "weights": "unknown"}, "weights: 'unknown' is not one of"),
        ({"schema_version": 3, "imported": IMPORTED}, "False schema does not allow"),
        ({"imported": {**IMPORTED, "times": "guessed"}}, "imported/times: 'guessed' is not one"),
        ({"surprise": 1}, "document: Additional properties are not allowed"),
        ({"status": "failed", "missing": ["x"]}, "the measurement failed: x"),
        (
            {
                "phases": [
                    {"phase": "clean", "start_ns": 5, "end_ns": 3},
                    {"phase": "profiled", "start_ns": 1, "end_ns": None},
                ]
            },
            "phase 0 (clean) ends before it starts",
        ),
    ],
)
def test_a_wrong_run_json_is_found(run, change, says):
    reseal(run, **change)
    found = [problem for file, problem in problems(run) if file == "run.json"]
    assert any(says in problem for problem in found), found


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_every_version_of_the_format_so_far_is_read(run, version):
    edit_table(run, "energy", lambda columns: columns, version)
    reseal(run, schema_version=version)
    assert json.loads((run / "run.json").read_bytes())["schema_version"] == version
    report = verify_run(run)
    assert (report.status, report.findings) == ("complete", ())
    assert verify(run).ok()


def test_a_run_may_be_imported_and_its_weights_unknown(run):
    reseal(run, weights="unknown", imported=IMPORTED)
    assert problems(run) == []


def test_the_datasets_own_files_carry_their_hash(run):
    data = run.parent
    set_defaults_if_absent(data, defaults_of(config_of(Plan())))
    baseline = {"timestamp": "20241121-051743", "avg_idle_power": 4234560.2, "rails": {}}
    write_json(data / "idling_power.json", seal_file(baseline))
    assert verify(data).findings == ()
    for name, key, value in (
        ("dataset.json", "created_at", "2020-01-01T00:00:00Z"),
        ("idling_power.json", "avg_idle_power", 1.0),
        ("idling_power.json", "timestamp", float("inf")),
    ):
        text = (data / name).read_bytes()
        document = json.loads(text)
        (data / name).write_text(json.dumps({**document, key: value}), encoding="utf-8")
        assert {item.file for item in verify(data).findings} == {name}
        (data / name).write_text(json.dumps(document), encoding="utf-8")
        assert "was rewritten" in verify(data).findings[0].problem
        del document["sha256"]
        (data / name).write_bytes(canonical_json(document))
        assert "'sha256' is a required property" in verify(data).findings[0].problem
        (data / name).write_bytes(text)
    assert verify(data).findings == ()


def test_the_datasets_own_files_of_earlier_versions_have_no_hash(run):
    data = run.parent
    defaults = defaults_of(config_of(Plan()))
    older = {"schema_version": 3, "defaults": defaults, "created_at": "2024-11-21T05:20:04Z"}
    write_json(data / "dataset.json", older)
    write_json(data / "idling_power.json", {"timestamp": "1", "avg_idle_power": 4234560.2})
    assert verify(data).findings == ()
    assert set_defaults_if_absent(data, {}) == defaults


def test_a_run_json_that_only_looks_the_same_is_found(run):
    content = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps(content), encoding="utf-8")
    assert problems(run) == [("run.json", "was rewritten: its bytes are not canonical JSON")]


def test_an_unlisted_file_is_named(run):
    (run / "sub").mkdir()
    (run / "sub" / "notes.txt").write_text("mine", encoding="utf-8")
    assert problems(run) == [("sub/notes.txt", "is not listed in run.json")]


def test_columns_of_another_type_are_named(run):
    path = run / "layers.parquet"
    table = pq.read_table(path)
    at = table.column_names.index("duration_ms")
    column = pa.field("duration_ms", pa.float64(), nullable=False)
    pq.write_table(table.set_column(at, column, table["duration_ms"].cast("float64")), path)
    reseal(run)
    assert ("layers.parquet", "column duration_ms is double, not float") in problems(run)
    pq.write_table(table.drop_columns(["layer"]), path)
    reseal(run)
    assert any("has the columns inference, duration_ms" in problem for _, problem in problems(run))
    nullable = pa.schema([field.with_nullable(True) for field in table.schema])
    pq.write_table(pa.Table.from_arrays(table.columns, schema=nullable), path)
    reseal(run)
    assert ("layers.parquet", "column inference may hold null") in problems(run)


def test_power_without_its_channel_table_is_found(run):
    path = run / "power.parquet"
    table = read_metadata(path)["channels"]
    for facts, says in (
        ({}, "has no channel table in its metadata"),
        ({"channels": [{"index": 0}]}, "its channel table lacks a field"),
        ({"channels": table[1:]}, "the indices of its channel table are not"),
        ({"channels": table, "simulated": True}, "simulated in its metadata contradicts"),
    ):
        metadata = {b"edgejoule": json.dumps(facts).encode()}
        pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
        reseal(run)
        found = [problem for file, problem in problems(run) if file == "power.parquet"]
        assert any(says in problem for problem in found), found


def test_engine_json_is_held_against_its_schema(run):
    edit_json(run / "engine.json", lambda engine: engine.pop("layers"))
    reseal(run)
    assert ("engine.json", "document: 'layers' is a required property") in problems(run)


def test_engine_json_with_holes_in_its_indices(run):
    edit_json(run / "engine.json", lambda engine: engine["layers"].pop(0))
    reseal(run)
    assert any("the indices of its layers are not" in problem for _, problem in problems(run))


def test_an_incomplete_run_is_said_to_be_incomplete_and_not_broken(run):
    reseal(run, status="incomplete", missing=["killed"], summary={})
    report = verify_dataset(run.parent)
    assert [(f.severity, f.problem) for f in report.runs[0].findings] == [
        (INCOMPLETE, "incomplete: killed")
    ]
    assert not report.ok()
    assert report.ok(allow_incomplete=True)


def test_a_complete_run_needs_its_files(run):
    (run / "layers.parquet").unlink()
    reseal(run)
    assert ("layers.parquet", "is missing from a complete run") in problems(run)


def test_layers_of_a_run_without_profiled_inferences(run):
    def only_clean(columns):
        rows = [row for row, name in enumerate(columns["pass"]) if name == "clean"]
        return {key: [values[row] for row in rows] for key, values in columns.items()}

    edit_table(run, "inferences", only_clean)
    reseal(run)
    assert ("layers.parquet", "has rows, but no inference was profiled") in problems(run)


def test_a_folder_that_is_no_dataset_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="is no folder"):
        verify(tmp_path / "nowhere")
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "table.parquet").touch()
    with pytest.raises(UsageError, match="is no dataset"):
        verify(tmp_path)


def test_a_run_without_its_run_json_is_still_looked_at(run):
    (run / "run.json").unlink()
    report = verify(run)
    assert [(f.file, f.severity) for f in report.runs[0].findings] == [("run.json", "error")]
    assert not report.ok(allow_incomplete=True)


def test_other_folders_of_a_dataset_are_only_noted(run):
    (run.parent / "plots").mkdir()
    (run.parent / "dataset.json").write_text("{}", encoding="utf-8")
    report = verify(run.parent)
    assert ("plots", "note") in [(f.file, f.severity) for f in report.findings]
    assert "dataset.json" in {f.file for f in report.findings if f.severity == ERROR}
    assert report.to_json()["runs"][0]["ok"] is True
    assert verify(run).ok()


def test_the_identity_is_that_of_the_configuration():
    config = RunConfig(model="a", backend="torch", dtype="float32", input_shape=(1, 3), extra={})
    assert config_sha256(config.to_json()) == identity_sha256(config)


def test_sealing_twice_changes_nothing():
    sealed = seal({"a": 1})
    assert seal(sealed) == sealed
    assert sealed["run_sha256"] != seal({"a": 2})["run_sha256"]


@pytest.mark.parametrize("batch", [1, 7])
def test_batches_do_not_change_what_is_found(run, monkeypatch, batch):
    monkeypatch.setattr("edgejoule.dataset.checks.common.BATCH", batch)
    assert problems(run) == []
    edit_table(run, "power", swap(4, 8))
    edit_table(run, "layers", drop(4))
    reseal(run)
    found = dict(problems(run))
    assert found["power.parquet"] == "time of channel 0 runs backwards (row 8)"
    assert found["layers.parquet"] == "inference 1 has layer 1 not at all (1 such)"


def test_numbers_in_reports_are_plain(sound):
    text = json.dumps(verify(sound).to_json())
    assert np.bool_ is not bool
    assert json.loads(text)["ok"] is True
