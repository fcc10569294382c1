"""`measure_power.py trtexec` with a stand-in for the program: its options, files and words."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgejoule import files, trtexec
from edgejoule.cli import measure_power, power_trtexec
from edgejoule.errors import EXIT_INTERRUPTED, MeasurementError, UsageError
from edgejoule.inference.trt.engine_file import EngineFacts, write_engine_file
from edgejoule.power import gpu_choice
from edgejoule.power.gpus import Gpu
from edgejoule.supervision import StopFlag
from edgejoule.trtexec_energy import Clean, run_program

Said, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch

# What the program of TensorRT 8.5 does with its options, as far as they are used here.
PROGRAM = """#!{python}
import json, os, signal, sys, time
words = dict((w.lstrip("-").split("=", 1) + [""])[:2] for w in sys.argv[1:])
mode = {mode!r}
if "help" in words:
    print("\\n".join("  --" + name for name in {options!r}))
    sys.exit(0)
print("&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec", *sys.argv[1:], flush=True)
print("sees", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
if mode == "fails":
    print("[11/21/2026-10:00:00] [I] something")
    print("[11/21/2026-10:00:01] [E] Error[4]: cannot parse model")
    sys.exit(1)
if "saveEngine" in words:
    if mode != "no engine":
        open(words["saveEngine"], "w").write("plan " + " ".join(sys.argv[1:]))
    if "exportLayerInfo" in words:
        open(words["exportLayerInfo"], "w").write("{{}}")
    sys.exit(0)
seconds = 1.5
if "exportProfile" in words:
    layers = [("conv1", 3.0), ("relu", 1.0), ("conv1", 4.0)]
    json.dump([{{"count": 7}}] + [
        {{"name": n, "timeMs": 7 * t, "averageMs": t, "medianMs": t * 0.9, "percentage": 12.5 * t}}
        for n, t in layers], open(words["exportProfile"], "w"))
    sys.exit(0)
print("[I] Starting inference", flush=True)
if mode == "interrupted":
    os.kill(os.getppid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
if mode == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "stays":
    open(words["exportTimes"], "w").write(str(os.getpid()))
    time.sleep(600)
time.sleep(seconds)
if mode != "silent":
    print("[I] Timing trace has 150 queries over 1.5 s", flush=True)
if mode != "no times":
    json.dump([{{"startComputeMs": 10 * i, "endComputeMs": 10 * i + 8, "latencyMs": 8 + i % 3}}
               for i in range(150)], open(words["exportTimes"], "w"))
"""
OPTIONS = (
    "onnx", "saveEngine", "loadEngine", "fp16", "noTF32", "exportProfile", "exportTimes",
    "exportLayerInfo", "profilingVerbosity", "buildOnly", "noDataTransfers", "dumpProfile",
    "separateProfileRun", "workspace", "memPoolSize",
)  # fmt: skip
OPTIONS_8_0 = (
    "onnx", "saveEngine", "loadEngine", "fp16", "noTF32", "exportProfile", "exportTimes",
    "nvtxMode", "buildOnly", "noDataTransfers", "dumpProfile", "separateProfileRun", "workspace",
)  # fmt: skip
OPTIONS_7 = (
    "onnx", "saveEngine", "loadEngine", "fp16", "noTF32", "exportProfile", "exportTimes",
    "nvtxMode", "buildOnly", "dumpProfile", "workspace",
)  # fmt: skip
PLAN = b"ftrt" + bytes(20) + bytes((8, 5, 2, 2)) + bytes(100)


@pytest.fixture(autouse=True)
def _short_idle(monkeypatch: Patch) -> None:
    monkeypatch.setattr(power_trtexec, "_IDLE_S", 1.0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"onnx")
    return path


def program(tmp_path: Path, mode: str = "works", options: tuple[str, ...] = OPTIONS) -> Path:
    path = tmp_path / "trtexec"
    path.write_text(PROGRAM.format(python=sys.executable, mode=mode, options=options))
    path.chmod(0o755)
    return path


def run(
    tmp_path: Path, *words: str, mode: str = "works", options: tuple[str, ...] = OPTIONS
) -> int:
    found = program(tmp_path, mode, options)
    where = ["--trtexec", str(found), "--output", str(tmp_path / "out")]
    return measure_power.main(["trtexec", *words, *where, "--quiet"])


def test_a_model_from_build_to_layers(tmp_path: Path, model: Path, capsys: Said) -> None:
    assert run(tmp_path, "--onnx", str(model), "--sensor", "simulated", "--duration", "1") == 0
    out = tmp_path / "out"
    result = json.loads((out / "trtexec.json").read_text())
    assert result["tensorrt"] == "8502"
    assert result["workspace_mib"] is None
    assert "--dumpProfile" in (out / "profiled.log").read_text()
    assert "Profile" not in (out / "clean.log").read_text()
    built = (out / "model.plan").read_text()
    for word in ("--fp16", "--profilingVerbosity=detailed", "--buildOnly", "--exportLayerInfo="):
        assert word in built
    assert result["period_ms"] == pytest.approx(10.0)
    assert result["latency"] == {
        "inferences": 150, "mean_ms": 9.0, "median_ms": 9.0, "p90_ms": 10.0, "p99_ms": 10.0,
        "gpu_mean_ms": 8.0, "gpu_median_ms": 8.0,
    }  # fmt: skip
    assert [(one["name"], one["share"]) for one in result["layers"]] == [
        ("conv1", 0.375), ("relu", 0.125), ("conv1", 0.5),
    ]  # fmt: skip
    assert result["layers"][0]["median_ms"] == pytest.approx(2.7)
    energy = result["energy"]
    assert energy["simulated"] is True
    assert energy["gross_mj"] == pytest.approx(energy["mean_mw"] * 0.01)
    assert energy["dynamic_mj"] == pytest.approx((energy["mean_mw"] - energy["idle_mw"]) * 0.01)
    parts = sum(one["gross_mj"] for one in result["layers"])
    assert parts == pytest.approx(energy["gross_mj"])
    assert (out / "power.parquet").is_file()
    assert not (out / "power").exists()
    said = capsys.readouterr().out
    assert "no distribution and so no interval per layer" in said
    assert "SIMULATED: no power was measured" in said


def test_without_a_sensor_there_is_time_only(tmp_path: Path, model: Path) -> None:
    words = ("--onnx", str(model), "--sensor", "none", "--duration", "1", "--dtype", "float32")
    assert run(tmp_path, *words) == 0
    result = json.loads((tmp_path / "out" / "trtexec.json").read_text())
    assert result["energy"] == {"why": "no power sensor was read"}
    assert result["layers"][0]["gross_mj"] is None
    assert "--noTF32" in (tmp_path / "out" / "model.plan").read_text()


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("fails", "trtexec failed: [E] Error[4]: cannot parse model"),
        ("killed", "trtexec failed (SIGKILL): [I] Starting inference; look at"),
        ("no engine", "trtexec built no engine"),
        ("silent", "trtexec named no timed part"),
        ("no times", "trtexec left no readable times.json"),
    ],
)
def test_what_goes_wrong_is_said_in_its_words(
    tmp_path: Path, model: Path, capsys: Said, mode: str, said: str
) -> None:
    words = ("--onnx", str(model), "--sensor", "none", "--duration", "1")
    assert run(tmp_path, *words, mode=mode) == 1
    assert said in capsys.readouterr().err


def test_usage_is_checked_before_anything_runs(tmp_path: Path, model: Path, capsys: Said) -> None:
    sensor = ("--sensor", "none")
    assert run(tmp_path, "--onnx", str(tmp_path / "no.onnx"), *sensor) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert run(tmp_path, "--onnx", str(model), "--duration", "0.1", *sensor) == 2
    assert "give 1 second or more" in capsys.readouterr().err
    assert run(tmp_path, "--onnx", str(model), "--dtype", "int8", *sensor) == 2
    assert "for int8 give an engine" in capsys.readouterr().err
    assert run(tmp_path, "--onnx", str(model), *sensor) == 2
    assert "is there already" in capsys.readouterr().err


def test_the_program_is_found_or_the_mend_named(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(trtexec, "PLACES", (str(tmp_path / "elsewhere" / "trtexec"),))
    with pytest.raises(UsageError, match="apt install libnvinfer-bin"):
        trtexec.find_trtexec(None)
    with pytest.raises(UsageError, match="there is no program"):
        trtexec.find_trtexec(tmp_path / "nothing")
    found = program(tmp_path)
    assert trtexec.find_trtexec(None) == found


def test_old_options() -> None:
    old = frozenset({"nvtxMode", "fp16"})
    words = trtexec.build_words(Path("a"), Path("b"), "float16", old, Path("c"))
    assert words == ["--onnx=a", "--saveEngine=b", "--fp16", "--nvtxMode=verbose",
                     "--duration=0", "--iterations=1"]  # fmt: skip
    assert "--noTF32" not in trtexec.build_words(Path("a"), Path("b"), "float32", old, Path("c"))
    with pytest.raises(UsageError, match="this trtexec has no --bf16"):
        trtexec.build_words(Path("a"), Path("b"), "bfloat16", old, Path("c"))
    words = trtexec.clean_words(Path("b"), 3.0, Path("t"), old, copies=False)
    assert "--noDataTransfers" not in words


def test_tensorrt_7_is_refused_before_it_builds(tmp_path: Path, model: Path, capsys: Said) -> None:
    assert run(tmp_path, "--onnx", str(model), "--sensor", "none", options=OPTIONS_7) == 2
    said = capsys.readouterr().err
    assert "is of TensorRT 7: it attaches its profiler to every pass" in said
    assert "measure_power.py record --output trace.parquet -- trtexec" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["help.log"]


def test_an_old_trtexec_gets_a_workspace(tmp_path: Path, model: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(trtexec, "memory_mib", lambda: {"total": 3956.3})
    words = ("--onnx", str(model), "--sensor", "none", "--duration", "1")
    assert run(tmp_path, *words, options=OPTIONS_8_0) == 0
    assert "--workspace=989 " in (tmp_path / "out" / "model.plan").read_text()
    assert json.loads((tmp_path / "out" / "trtexec.json").read_text())["workspace_mib"] == 989
    monkeypatch.setattr(trtexec, "memory_mib", dict)
    assert trtexec.workspace_mib(frozenset(OPTIONS_8_0)) is None
    assert trtexec.workspace_mib(frozenset(OPTIONS)) is None


def test_the_program_sees_the_gpu_that_was_asked_for(
    tmp_path: Path, model: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(gpu_choice, "find_gpu", lambda device: Gpu(f"cuda:{device}", 1, "GPU-9"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    words = ("--onnx", str(model), "--sensor", "none", "--duration", "1")
    assert run(tmp_path, *words, "--device", "1") == 0
    for name in ("build.log", "clean.log", "profiled.log"):
        assert "sees GPU-9\n" in (tmp_path / "out" / name).read_text()
    (tmp_path / "out").rename(tmp_path / "before")
    assert run(tmp_path, *words) == 0
    assert "sees 0,1\n" in (tmp_path / "out" / "clean.log").read_text()


def test_an_engine_of_ours_is_measured_without_its_header(tmp_path: Path, capsys: Said) -> None:
    ours, plain, text = (tmp_path / name for name in ("net.ejplan", "net.plan", "net.txt"))
    facts = EngineFacts("net", "8.5.2", "Orin", (8, 7), "float16", "ab", (), (), "aarch64", "x")
    write_engine_file(ours, PLAN, facts)
    plain.write_bytes(PLAN)
    text.write_text("a text")
    words = ("--sensor", "none", "--duration", "1")
    assert run(tmp_path, "--engine", str(text), *words) == 2
    assert "net.txt is text; give the plan itself" in capsys.readouterr().err
    assert run(tmp_path, "--engine", str(ours), *words) == 0
    out = tmp_path / "out"
    assert (out / "model.plan").read_bytes() == PLAN
    assert f"--loadEngine={out / 'model.plan'} " in (out / "clean.log").read_text()
    out.rename(tmp_path / "before")
    assert run(tmp_path, "--engine", str(plain), *words) == 0
    assert not (out / "model.plan").exists()
    assert f"--loadEngine={plain} " in (out / "clean.log").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_log_lets_the_program_end(tmp_path: Path) -> None:
    times = tmp_path / "times.json"
    with pytest.raises(MeasurementError, match="the disk of /dev is full"):
        run_program(program(tmp_path), [f"--exportTimes={times}"], Path("/dev/full"), StopFlag())
    assert len(json.loads(times.read_text())) == 150


def test_a_full_disk_names_the_option_of_this_command(
    tmp_path: Path, model: Path, capsys: Said, monkeypatch: Patch
) -> None:
    def full(_path: Path, _document: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files, "write_json", full)
    assert run(tmp_path, "--onnx", str(model), "--sensor", "none", "--duration", "1") == 1
    assert "is full; free some space, or give another --output" in capsys.readouterr().err


def test_ctrl_c_in_the_clean_pass_is_no_failure_of_the_program(
    tmp_path: Path, model: Path, capsys: Said
) -> None:
    words = ("--onnx", str(model), "--sensor", "none", "--duration", "1")
    assert run(tmp_path, *words, mode="interrupted") == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "error: interrupted by SIGINT\n"


def test_ctrl_c_while_idle_ends_at_once_and_keeps_the_power(
    tmp_path: Path, model: Path, capsys: Said, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(power_trtexec, "_IDLE_S", 600.0)
    power_bin = tmp_path / "out" / "power" / "power.bin"

    def interrupt() -> None:
        while not power_bin.is_file() or power_bin.stat().st_size < 8192:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    words = ("--onnx", str(model), "--sensor", "simulated", "--duration", "1")
    assert run(tmp_path, *words) == EXIT_INTERRUPTED
    assert not (tmp_path / "out" / "clean.log").exists()
    table = tmp_path / "trace.parquet"
    said = capsys.readouterr().err
    assert f"measure_power.py convert {power_bin} --output trace.parquet" in said
    assert measure_power.main(["convert", str(power_bin), "--output", str(table)]) == 0
    assert table.stat().st_size > 0


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends it")
def test_the_program_dies_with_its_parent(tmp_path: Path) -> None:
    told = tmp_path / "times.json"
    script = (
        "import sys; from pathlib import Path; from edgejoule.supervision import StopFlag\n"
        "from edgejoule.trtexec_energy import run_program\n"
        "run_program(Path(sys.argv[1]), [sys.argv[2]], Path(sys.argv[3]), StopFlag())"
    )
    path = program(tmp_path, "stays")
    words = [str(path), f"--exportTimes={told}", str(tmp_path / "x.log")]
    parent = subprocess.Popen([sys.executable, "-c", script, *words])
    while not (told.exists() and told.read_text()):
        assert parent.poll() is None
        time.sleep(0.05)
    child = int(told.read_text())
    parent.kill()
    parent.wait()
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        for _ in range(400):
            if "(zombie)" in Path(f"/proc/{child}/status").read_text():
                return
            time.sleep(0.05)
        pytest.fail("the program outlived its parent")


def test_older_times_and_profiles(tmp_path: Path) -> None:
    times = tmp_path / "times.json"
    times.write_text(json.dumps([
        {"startInMs": 0, "endInMs": 1, "inMs": 1, "computeMs": 5, "outMs": 1, "latencyMs": 7,
         "endToEndMs": 9}
    ]))  # fmt: skip
    latency = trtexec.read_times(times)
    assert (latency.inferences, latency.median_ms, latency.gpu_mean_ms) == (1, 7.0, 5.0)
    profile = tmp_path / "profile.json"
    profile.write_text(
        '[{"count": 3}, {"name": "a", "timeMs": 6, "averageMs": 2, "percentage": 1}]'
    )
    count, (layer,) = trtexec.read_profile(profile)
    assert (count, layer.median_ms, layer.share) == (3, None, 1.0)


def test_names_of_layers_may_hold_control_characters(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text('[{"count": 1}, {"name": "conv\x1e[ONNX Layer: c]\n", "averageMs": 2}]')
    _, (layer,) = trtexec.read_profile(profile)
    assert layer.name == "conv\x1e[ONNX Layer: c]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no readable"), ("{}", "no list of objects"), ("[]", "holds no"),
        ('[{"name": "a"}]', "is not what trtexec writes"),
    ],
)  # fmt: skip
def test_damaged_files(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    for read in (trtexec.read_profile, trtexec.read_times):
        with pytest.raises(MeasurementError, match=said):
            read(path)


def test_real_recordings_of_trtexec() -> None:
    fixtures = Path(__file__).parents[1].parent / "shared" / "fixtures" / "trex"
    profiles = sorted(fixtures.glob("*.profile.json"))
    if not profiles:
        pytest.skip("no recordings beside this checkout")
    for path in profiles:
        count, layers = trtexec.read_profile(path)
        written = json.loads(path.read_text())
        assert count == written[0]["count"]
        assert len(layers) == len(written) - 1
        for layer, entry in zip(layers, written[1:], strict=True):
            assert 100 * layer.share == pytest.approx(entry["percentage"], rel=1e-3)


def test_power_is_taken_from_inside_the_timed_part() -> None:
    clean = Clean(0, 5_000_000_000, 20_000_000_000, 100, 10.0)
    assert clean.window_ns == (10_300_000_000, 19_700_000_000)
