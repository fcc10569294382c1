"""Errors, configuration, phases and record files: what every process relies on."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule import errors
from edgejoule.config import (
    RunConfig,
    build_sha256,
    check_name,
    defaults_of,
    differences,
    identity_sha256,
    run_name,
    slug,
)
from edgejoule.phases import PageReader, PhaseBoard, PhaseSpan, read_phases
from edgejoule.records import LAYERS, POWER, RecordWriter, read_header

BASE = RunConfig(model="resnet18", backend="torch", dtype="float32", input_shape=(1, 3, 224, 224))


def test_an_error_is_one_line_with_its_mend(capsys):
    def command():
        raise errors.UsageError("no such\nmodel", "did you mean lenet?")

    assert errors.run_command(command) == 2
    assert capsys.readouterr().err == "error: no such model; did you mean lenet?\n"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.MeasurementError("x"), 1),
        (errors.UsageError("x"), 2),
        (errors.TokenError("x"), 3),
        (errors.ServerError("x"), 4),
        (errors.EdgejouleError("x", exit_code=5), 5),
        (errors.Interrupted("x"), 130),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 0),
    ],
)
def test_each_error_has_its_exit_code(error, status, monkeypatch):
    import io

    monkeypatch.setattr("sys.stderr", io.StringIO())

    def command():
        raise error

    assert errors.run_command(command) == status


def test_debug_shows_the_traceback():
    def command():
        raise errors.UsageError("x")

    with pytest.raises(errors.UsageError):
        errors.run_command(command, debug=True)

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        errors.run_command(interrupted, debug=True)


def test_a_command_without_a_status_is_done():
    assert errors.run_command(lambda: None) == 0


def test_identity_changes_with_every_knob_and_survives_json():
    import dataclasses

    assert RunConfig.from_json(json.loads(json.dumps(BASE.to_json()))) == BASE
    changed = {
        "model": "vgg11", "backend": "onnxruntime", "dtype": "bfloat16", "device": "cuda:0",
        "input_shape": None, "input": "zeros", "input_sha256": "a", "weights": "random",
        "model_sha256": "b", "seed": 1, "warmup": 1, "runs": 2, "clean_runs": 3,
        "clean_seconds": 3.0,
        "precision_percent": 2.0, "rate_hz": 30.0, "idle_duration_s": 1.0, "sensor": "simulated",
        "threads": 1, "repeat": 1, "rebuild": 1, "mode": "MAXN", "board": "orin",
        "extra": {"min_block_size": 1}, "engine": "e", "calibration": "normal",
        "calibration_sha256": "c", "memory_limit_gib": 4.0, "energy": "window",
        "replay_budget_s": 60.0, "check_attribution": 3, "observer_s": 0.0,
    }  # fmt: skip
    assert changed.keys() == {field.name for field in dataclasses.fields(RunConfig)}
    for name, value in changed.items():
        other = dataclasses.replace(BASE, **{name: value})
        assert identity_sha256(other) != identity_sha256(BASE), name
        assert [text.split()[0] for text in differences(BASE.to_json(), other.to_json())] == [name]


def test_a_run_that_uses_no_new_knob_keeps_its_identity():
    """Runs that schema version 2 wrote are still found complete, not measured again."""
    import dataclasses

    added = {"engine", "calibration", "calibration_sha256", "memory_limit_gib"}
    added |= {"energy", "replay_budget_s", "check_attribution", "observer_s"}
    assert added.isdisjoint(BASE.to_json())
    limited = dataclasses.replace(BASE, memory_limit_gib=4.0)
    assert limited.to_json().keys() - BASE.to_json().keys() == {"memory_limit_gib"}
    assert RunConfig.from_json(limited.to_json()) == limited


def test_a_build_depends_on_what_is_built_only():
    import dataclasses

    assert build_sha256(dataclasses.replace(BASE, runs=7, sensor="x")) == build_sha256(BASE)
    for name, value in {"dtype": "int8", "calibration": "normal", "memory_limit_gib": 2.0}.items():
        assert build_sha256(dataclasses.replace(BASE, **{name: value})) != build_sha256(BASE)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "resnet18"),
        ({"backend": "onnxruntime"}, "resnet18--onnxruntime-float32-b1"),
        ({"input_shape": (8, 3, 224, 224)}, "resnet18--torch-float32-b8"),
        ({"mode": "MAXN 25W"}, "resnet18--MAXN_25W"),
        ({"repeat": 2}, "resnet18--r2"),
        (
            {"dtype": "bfloat16", "mode": "15W", "board": "Orin NX", "repeat": 1},
            "resnet18--torch-bfloat16-b1-15W-Orin_NX-r1",
        ),
    ],
)
def test_a_run_is_named_after_what_differs_from_the_defaults(changes, name):
    import dataclasses

    config = dataclasses.replace(BASE, **changes)
    assert run_name("resnet18", config, defaults_of(BASE)) == name


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "x" * 121, "-flag", "a b"])
def test_a_name_that_is_no_folder_is_refused(name):
    with pytest.raises(errors.UsageError, match="cannot name a run"):
        check_name(name)


@given(st.text(max_size=60))
def test_any_text_becomes_a_name(text):
    assert check_name("m" + slug(text))


def test_phases_and_inferences_are_seen_by_a_reader(tmp_path):
    board = PhaseBoard(tmp_path / "page.bin", tmp_path / "phases.jsonl")
    reader = PageReader(tmp_path / "page.bin")
    first = board.mark("idle_before")
    state = reader.read()
    assert (state.phase, state.phase_start_ns, state.inference) == ("idle_before", first, -1)
    second = board.mark("clean", at_ns=first + 5)
    board.begin_inference(7, second + 1)
    state = reader.read()
    assert (state.phase, state.inference, state.inference_start_ns) == ("clean", 7, second + 1)
    board.end_inference()
    assert reader.read().inference == -1
    # the measuring process opens the same page and goes on with it
    other = PhaseBoard(tmp_path / "page.bin", tmp_path / "phases.jsonl")
    other.begin_inference(0, 1)
    assert reader.read().phase == "clean"
    third = other.mark("end")
    assert read_phases(tmp_path / "phases.jsonl") == [
        PhaseSpan("idle_before", first, second),
        PhaseSpan("clean", second, third),
    ]
    for one in (board, other, reader):
        one.close()


def test_a_page_in_mid_write_is_not_believed(tmp_path):
    board = PhaseBoard(tmp_path / "page.bin", tmp_path / "phases.jsonl")
    board.mark("clean")
    data = bytearray((tmp_path / "page.bin").read_bytes())
    (sequence,) = struct.unpack_from("<Q", data, 8)
    struct.pack_into("<Q", data, 8, sequence + 1)
    (tmp_path / "page.bin").write_bytes(bytes(data))
    reader = PageReader(tmp_path / "page.bin")
    assert reader.read() is None
    # a writer that comes after the one that died in mid-write makes it whole again
    PhaseBoard(tmp_path / "page.bin", tmp_path / "phases.jsonl").mark("warmup")
    assert reader.read().phase == "warmup"


def test_a_cut_phase_log_reads_up_to_the_cut(tmp_path):
    log = tmp_path / "phases.jsonl"
    log.write_text('{"phase": "setup", "start_ns": 1}\n{"phase": "load", "start_ns": 5}\n{"pha')
    assert read_phases(log) == [PhaseSpan("setup", 1, 5), PhaseSpan("load", 5, None)]


rows = st.lists(st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 5), max_size=30)


@given(rows=rows)
def test_records_come_back_as_they_were_written(rows, tmp_path_factory):
    import numpy as np

    path = tmp_path_factory.mktemp("records") / "power.bin"
    writer = RecordWriter(path, POWER, {"channels": [], "note": "ä"})
    for row in rows:
        writer.write(*row)
    writer.close()
    header, offset = read_header(path)
    assert header["note"] == "ä"
    assert offset % 8 == 0
    dtype = [tuple(field) for field in header["fields"]]
    found = np.frombuffer(path.read_bytes()[offset:], dtype=dtype)
    assert [tuple(int(value) for value in row) for row in found] == rows


def test_records_are_on_disk_after_a_flush_interval(tmp_path):
    path = tmp_path / "layers.bin"
    writer = RecordWriter(path, LAYERS, {}, flush_s=0.5)
    _, offset = read_header(path)
    writer.write(1, 2, 3, 4)
    writer.tick(writer._last_flush_ns + 499_999_999)
    assert path.stat().st_size == offset
    writer.tick(writer._last_flush_ns + 500_000_000)
    assert path.stat().st_size == offset + LAYERS.struct.size
    writer.close()
    writer.close()
    with pytest.raises(FileExistsError):
        RecordWriter(path, LAYERS, {})


@pytest.mark.parametrize(
    "content",
    [b"", b"EJREC", b"PAR1aaaaaaaaaaaaaaaaaaa", b"EJREC001\xff\x00\x00\x00{}",
     b"EJREC001\x02\x00\x00\x00[]", b"EJREC001\x02\x00\x00\x00{}", b"EJREC001\x02\x00\x00\x00{{"],
)  # fmt: skip
def test_a_foreign_or_cut_record_file_is_refused(content, tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    with pytest.raises(errors.MeasurementError, match=r"x\.bin"):
        read_header(path)
