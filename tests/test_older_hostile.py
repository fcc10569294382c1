"""Folders of the older layout that are damaged, hostile or interrupted; the command's words."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgejoule.cli.data_version import main
from edgejoule.dataset.older.importing import ImportedRun, import_folder
from edgejoule.dataset.older.importing_run import Said
from edgejoule.dataset.older.times import zone_of
from edgejoule.dataset.recover import recover
from edgejoule.dataset.run_directory import PARTIAL, run_directories
from edgejoule.dataset.verify import verify
from edgejoule.errors import UsageError
from tests.support_older import CONV, DURATIONS, Recording, stamp

ROOT = Path(__file__).resolve().parent.parent
UTC = zone_of("UTC")
NOTHING = Said()
TIMES = "trt_profiling/trt_layer_latency.json"
INFO = "trt_profiling/trt_engine_info.json"


def bring(folder: Path, said: Said = NOTHING) -> ImportedRun:
    """Import the one recording of a folder."""
    (one,) = import_folder(folder / "old", folder / "ds", UTC, said=said).runs
    return one


def write(folder: Path, file: str, text: str | bytes) -> None:
    """Write a recording with other content in one of its files."""
    Recording().write(folder / "old")
    path = folder / "old" / file
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def is_refused(folder: Path, words: str) -> None:
    """The recording is named in one line with these words, and the dataset holds nothing of it."""
    one = bring(folder)
    assert one.action == "failed", one
    assert words in one.error, one.error
    assert "\n" not in one.error
    assert len(one.error) < 600
    left = folder / "ds" / PARTIAL
    assert run_directories(folder / "ds") == []
    assert not left.exists() or [p.name for p in left.iterdir()] == [".gate"]


PAIR = f'[[4.0, "{stamp(1.01)}"], [4.0, "{stamp(1.03)}"]]'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is damaged"),
        ("{", "is damaged"),
        ("[1, 2]", "holds no layer"),
        ("{}", "holds no layer"),
        ('"text"', "holds no layer"),
        (b'{"a": [1.0, \xff]}', "is damaged"),
        ('{"a": [NaN]}', "is damaged"),
        ('{"a": [1e999]}', "is damaged"),
        ('{"a": [1.0, 1e12]}', "has a duration of 1e+12 ms at inference 1"),
        (f'{{"a": [{"9" * 400}]}}', "trt_layer_latency.json"),
        ('{"a": [-0.5]}', "has a duration of -0.5 ms at inference 0"),
        ('{"a": [true]}', "is no list of numbers"),
        ('{"a": ["1.0"]}', "is no list of numbers"),
        ('{"a": [[1.0, 2.0]]}', "is no list of numbers"),
        ('{"a": [["1.0", "20241121-05:22:50.156286"]]}', "is no list of numbers"),
        ('{"a": [[1.0]]}', "is no list of numbers"),
        ('{"a": [[1.0, "yesterday"]]}', "'yesterday' is no time"),
        ('{"a": [[1.0, "20241121-05:22:50.15628\u0666"]]}', "is no time"),
        ('{"a": [1.0, [1.0, "20241121-05:22:50.156286"]]}', "holds plain numbers among pairs"),
        (f'{{"a": {PAIR}, "b": [1.0, 1.0]}}', "the layers before it times as well"),
        (f'{{"b": [1.0, 1.0], "a": {PAIR}}}', "the layers before it plain numbers"),
        ('{"a": {"b": 1}}', "is no list of numbers"),
        ('{"a": []}', "has no times: no inference is whole"),
        ('{"a": [1.0], "a": [1.0]}', "stands there twice"),
        ('{"a": ' + "[" * 1_000_000, "is no list of numbers"),
        ('{"a": [[1.0, "20241121-05:22:50.156286", 1]]}', "is no list of numbers"),
        ('{"a": [1.0, {}]}', "is no list of numbers"),
        ('{"a": 1.0}', "is no list of numbers"),
        (f'{{"{"x" * 5000}": [-1]}}', "..."),
    ],
)
def test_layer_times_that_are_none(tmp_path, text, words):
    write(tmp_path, f"net/{TIMES}", text)
    is_refused(tmp_path, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"),
        ("5", "is no object"),
        (b"\xff\xfe", "it is no UTF-8"),
        ('{"Layers": 5}', "has no list of layers"),
        ('{"Layers": [5]}', "neither an object nor a name"),
        (json.dumps({"Layers": [{**CONV, "Extra": float("nan")}]}), "holds what is no JSON"),
        ("[" * 100_000, "no JSON"),
        (json.dumps({"Layers": [{**CONV, "Groups": -1}]}), "less than the minimum"),
    ],
)
def test_engine_infos_that_are_none(tmp_path, text, words):
    write(tmp_path, f"net/{INFO}", text)
    is_refused(tmp_path, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "holds no JSON object"),
        ("{", "is damaged"),
        ('{"config": []}', "config is no object"),
        ('{"config": {"dtype": 16}}', "dtype is no text"),
        ('{"config": {"runs": 0}}', "runs is no whole number from 1"),
        ('{"config": {"runs": 1e3}}', "runs is no whole number"),
        ('{"config": {"input_shape": [1, -3]}}', "input_shape is no list of sizes"),
        ('{"latencies": [0.01, "x"]}', "latencies is no list of seconds"),
        ('{"latencies": [0.01, NaN]}', "latencies is no list of seconds"),
        ('{"latencies": [0.01, -1]}', "latencies is no list of seconds"),
        (f'{{"latencies": [{"9" * 400}]}}', "latencies is no list of seconds"),
        ("[" * 100_000, "is damaged (nested too deeply)"),
    ],
)
def test_configurations_that_are_none(tmp_path, text, words):
    write(tmp_path, "net/net_tensorrt.json", text)
    is_refused(tmp_path, words)


@pytest.mark.parametrize("power", ["null", '"4"', "-1", "NaN", "1e400", "true"])
def test_idle_power_that_is_none(tmp_path, power):
    write(tmp_path, "idling_power.json", f'{{"avg_idle_power": {power}}}')
    is_refused(tmp_path, "avg_idle_power is no power in microwatts")


def test_a_log_that_is_something_else(tmp_path):
    write(tmp_path, "net/net_power_log.log", b"\0" * 5_000_000)
    is_refused(tmp_path, "is no power log: it has a line of more than")


def test_a_log_of_nonsense_is_no_reading(tmp_path):
    huge = "".join(f"20241121-05:20:04.000001,{v}\n" for v in ("999999999999.0,1.0", "1e9,1.0",
                   "900000000.0,900000000.0"))  # fmt: skip
    write(tmp_path, "net/net_power_log.log", "a,b,c\n" + huge)
    one = bring(tmp_path)
    assert (one.status, one.missing) == ("incomplete", ["net_power_log.log holds no reading"])
    assert any(note.startswith("4 lines of the power log are none") for note in one.notes)


def test_names_of_layers_are_only_text(tmp_path):
    names = ["../../x", "a/b", "\x00", "\u00e4", ""]
    lists = {name: [[1.0, stamp(1.010)], [1.0, stamp(1.030)]] for name in names}
    Recording(lists=lists, engine=None).write(tmp_path / "old")
    assert bring(tmp_path).action == "imported"
    layers = json.loads((tmp_path / "ds" / "net" / "engine.json").read_text())["layers"]
    assert [layer["name"] for layer in layers] == names
    assert verify(tmp_path / "ds").ok(allow_incomplete=True)


def test_names_of_folders_become_names_of_runs(tmp_path):
    Recording(model="my net (v2)").write(tmp_path / "old")
    config = {"model": "../../../etc/passwd", "dtype": "float16", "runs": 2}
    Recording(model="..hidden", config=config).write(tmp_path / "old")
    done = import_folder(tmp_path / "old", tmp_path / "ds", UTC)
    assert [(run.model, run.run) for run in done.runs] == [("my net (v2)", "my_net_v2")]
    assert sorted(p.name for p in (tmp_path / "ds").iterdir() if p.name[0] != ".") == [
        "dataset.json", "my_net_v2",
    ]  # fmt: skip
    Recording(config=config).write(tmp_path / "other")
    done = import_folder(tmp_path / "other", tmp_path / "ds", UTC, models=["net"])
    assert done.runs[0].run == "net"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ds", "old", "other"]


@pytest.mark.parametrize("model", ["../old/net", "/net", "..", "", "net/", "nothing"])
def test_a_model_must_be_one_of_the_folders(tmp_path, model):
    Recording().write(tmp_path / "old")
    with pytest.raises(UsageError, match=r"has no recording .* it has net"):
        import_folder(tmp_path / "old", tmp_path / "ds", UTC, models=[model])


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize("file", ["net/net_power_log.log", f"net/{INFO}", f"net/{TIMES}",
                                  "net/net_tensorrt.json", "idling_power.json",
                                  "net/trt_profiling", "net"])  # fmt: skip
def test_links_are_not_followed(tmp_path, file):
    Recording().write(tmp_path / "old")
    path = tmp_path / "old" / file
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    is_refused(tmp_path, f"{path} is a symbolic link; put a copy in its place")


@pytest.mark.skipif(sys.platform == "win32", reason="there are none")
def test_pipes_are_not_read(tmp_path):
    Recording(log=None).write(tmp_path / "old")
    os.mkfifo(tmp_path / "old" / "net" / "net_power_log.log")
    is_refused(tmp_path, "is no plain file")


def test_one_damaged_recording_does_not_stop_the_others(tmp_path):
    write(tmp_path, f"net/{TIMES}", "{")
    Recording(model="other").write(tmp_path / "more")
    (tmp_path / "more" / "other").rename(tmp_path / "old" / "other")
    (tmp_path / "old" / "notes").mkdir()
    done = import_folder(tmp_path / "old", tmp_path / "ds", UTC)
    assert [(run.model, run.action) for run in done.runs] == [
        ("net", "failed"), ("other", "imported"),
    ]  # fmt: skip
    assert (done.failed, done.no_recordings) == (True, ["notes"])
    assert verify(tmp_path / "ds").ok()


def test_where_it_must_not_go(tmp_path):
    Recording().write(tmp_path / "old")
    Recording().write(tmp_path / "older")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    for dataset in ("old", "old/ds", ".", "older", "full"):
        with pytest.raises(UsageError):
            import_folder(tmp_path / "old", tmp_path / dataset, UTC)
    with pytest.raises(UsageError, match="give the folder above it"):
        import_folder(tmp_path / "old" / "net", tmp_path / "ds", UTC)
    with pytest.raises(UsageError, match="is no folder"):
        import_folder(tmp_path / "nothing", tmp_path / "ds", UTC)
    assert not (tmp_path / "ds").exists()


def test_again_it_is_known_and_another_of_its_name_is_refused(tmp_path):
    Recording().write(tmp_path / "old")
    assert bring(tmp_path).action == "imported"
    before = (tmp_path / "ds" / "net" / "run.json").read_bytes()
    assert bring(tmp_path).action == "known"
    shutil.rmtree(tmp_path / "old")
    dataclasses.replace(Recording(), latencies=[0.02, 0.01]).write(tmp_path / "old")
    assert "is another run already; import into another" in bring(tmp_path).error
    assert (tmp_path / "ds" / "net" / "run.json").read_bytes() == before


def test_with_the_board_said_later_it_is_known_still(tmp_path):
    Recording().write(tmp_path / "old")
    assert bring(tmp_path).action == "imported"
    again = bring(tmp_path, said=Said(board="orin nano"))
    assert (again.action, again.run, again.other) == ("known", "net", ["board"])
    assert [run.name for run in run_directories(tmp_path / "ds")] == ["net"]


@pytest.mark.once("long, and an import is the same in every Python")
@pytest.mark.skipif(sys.platform == "win32", reason="nothing is killed so there")
def test_killed_at_any_step_it_leaves_a_whole_run_or_none(tmp_path):
    Recording().write(tmp_path / "old")
    command = [sys.executable, "-m", "tests.support_older_kill", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    killed = json.loads(done.stdout)["killed"]
    assert killed > 20
    ends = set()
    for point in range(killed):
        dataset = tmp_path / str(point)
        if not dataset.is_dir():
            continue
        if (dataset / PARTIAL).is_dir():
            recover(dataset)
            left = [path.name for path in (dataset / PARTIAL).iterdir()]
            assert set(left) <= {".gate"}, point
        runs = [run.name for run in run_directories(dataset)]
        assert runs in ([], ["net"]), point
        if runs:
            assert verify(dataset).ok(), point
        ends.add(bool(runs))
    assert ends == {False, True}


def test_interrupted_it_leaves_nothing(tmp_path, monkeypatch):
    Recording().write(tmp_path / "old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgejoule.dataset.older.importing_run.write_layers", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bring(tmp_path)
    assert [path.name for path in (tmp_path / "ds" / PARTIAL).iterdir()] == [".gate"]
    assert run_directories(tmp_path / "ds") == []


def test_the_command_imports_says_and_exports(tmp_path, capsys):
    Recording().write(tmp_path / "old")
    old, dataset, out = (str(tmp_path / name) for name in ("old", "ds", "out"))
    words = ["import", old, "--dataset", dataset, "--timezone", "UTC"]
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "net: would import as net: 3 layers x 2 inferences" in said
    assert "without --board nobody knows which supply in1 is" in said
    assert not (tmp_path / "ds").exists()
    assert main([*words, "--board", "orin nano", "--weights", "random", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["runs"][0]["action"], said["runs"][0]["status"]) == ("imported", "complete")
    assert main(words) == 0
    assert "net: was imported before, as net, with other weights and board" in (
        capsys.readouterr().out
    )
    assert main(["export", dataset, "-o", out, "--timezone", "UTC"]) == 0
    assert "1 runs, 6 layer times" in capsys.readouterr().out
    assert list(DURATIONS) == list(json.loads((tmp_path / "out" / "net" / TIMES).read_text()))
    assert main(["export", dataset, "-o", out]) == 2
    assert "is not empty" in capsys.readouterr().err
    (tmp_path / "old" / "net" / TIMES).write_text("{")
    assert main([*words[:3], str(tmp_path / "other")]) == 1
    assert "is damaged" in capsys.readouterr().out
