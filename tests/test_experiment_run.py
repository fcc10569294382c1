"""Whole runs on the simulated board: what they leave, what can be asked, how they end badly."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgejoule.cli import data_version, measure_inference

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="measuring needs POSIX")
ROOT = Path(__file__).resolve().parent.parent
FAST = ["--warmup", "5", "--runs", "40", "--clean-runs", "30", "--idle-duration", "0.3"]


def measure(*arguments, timeout=120, **options):
    command = [sys.executable, str(ROOT / "measure_inference_power.py"), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, **options
    )


def tool(verb, *arguments):
    """Run a verb of data_version.py in this process and return its status."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return data_version.main([verb, *map(str, arguments)])


def lenet(dataset, *more):
    return ["--model", "lenet", "--weights", "random", "--backend", "onnxruntime",
            "--result-dir", dataset, *more]  # fmt: skip


def left(dataset):
    """Return what stands in the folder of unfinished runs, but for its own lock."""
    return [path for path in dataset.glob(".partial/*") if path.name != ".gate"]


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """One run with every pass, its phases long enough for energy."""
    dataset = tmp_path_factory.mktemp("simulated") / "data"
    done = measure(
        *lenet(dataset), "--sensor", "simulated", "--warmup", "50", "--runs", "3000",
        "--clean-seconds", "2", "--precision", "50%", "--rate-hz", "20", "--idle-duration", "1.5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dataset, done


@pytest.mark.alone
def test_a_simulated_run_is_whole_and_marked(simulated):
    dataset, done = simulated
    assert tool("verify", dataset) == 0
    run = read(dataset / "lenet" / "run.json")
    assert run["simulated"] is True
    assert run["weights"] == "random"
    assert "SIMULATED" in done.stdout
    assert "random weights" in done.stdout
    phases = list(dict.fromkeys(span["phase"] for span in run["phases"]))
    # Whether there is time for what sampler and profiler cost goes by how fast this machine is.
    assert [phase for phase in phases if phase not in {"observed", "unsampled"}] == [
        "setup", "idle_before", "load", "idle_loaded_before", "warmup", "clean", "rate",
        "harvest", "profiled", "idle_loaded_after", "unload", "cooldown", "idle_after",
    ]  # fmt: skip
    assert run["command"][0] == "measure_inference_power.py"
    assert left(dataset) == []


@pytest.mark.alone
def test_energy_per_phase_is_what_the_board_says_it_used(simulated):
    """Within 1 % on every phase of a second or more, beyond what the sampler itself missed."""
    run = simulated[0] / "lenet"
    summary, truth = read(run / "run.json")["summary"], read(run / "truth.json")
    assert truth["late_marks"] == 0
    gap_s = summary["sampler"]["largest_gap_ns"] * 1e-9
    checked = 0
    for phase, rails in summary["phase_energies"].items():
        for rail, found in rails.items():
            if rail == "total" or found["seconds"] < 1.0:
                continue
            true_mj = truth["energy_mj"][rail][phase]
            # A process that did not run for 70 ms saw nothing of it; that much more is allowed.
            allowed = 0.01 + 0.1 * max(0.0, gap_s - 0.07) / found["seconds"]
            assert found["energy_mj"] == pytest.approx(true_mj, rel=allowed), (phase, rail)
            checked += 1
    assert checked >= 15


@pytest.mark.alone
def test_energy_per_inference_and_its_parts_add_up(simulated):
    import pyarrow.parquet as pq

    run = simulated[0] / "lenet"
    energy = read(run / "run.json")["summary"]["energy"]
    assert energy["rail"] == "total"
    assert energy["total_of"] == ["VDD_IN"]
    assert 0 < energy["clean"]["dynamic_mj"] < energy["clean"]["gross_mj"]
    rows = [row for row in pq.read_table(run / "energy.parquet").to_pylist()
            if row["rail"] == "total"]  # fmt: skip
    assert {row["method"] for row in rows} >= {"proportional"}
    assert energy["methods"][-1] == "proportional"
    rows = [row for row in rows if row["method"] == "proportional"]
    whole = next(row for row in rows if row["kind"] == "inference")
    parts = [row["gross_mj"] for row in rows if row["kind"] in {"layer", "gap"}]
    assert sum(parts) == pytest.approx(whole["gross_mj"], rel=1e-6)
    assert whole["gross_mj"] == pytest.approx(energy["profiled"]["gross_mj"])


@pytest.mark.alone
def test_the_rate_pass_keeps_its_times(simulated):
    rate = read(simulated[0] / "lenet" / "run.json")["summary"]["rate"]
    assert rate["rate_hz"] == 20
    assert rate["frames"] == 200
    assert 0 <= rate["missed_deadlines"] <= rate["frames"]
    assert rate["energy"]["total"]["gross_mj_per_frame"] > 0


@pytest.mark.alone
def test_a_complete_run_is_not_measured_again_and_another_knob_is_named(simulated):
    dataset, _ = simulated
    again = [
        *lenet(dataset), "--sensor", "simulated", "--warmup", "50", "--runs", "3000",
        "--clean-seconds", "2", "--precision", "50%", "--rate-hz", "20", "--idle-duration",
    ]  # fmt: skip
    stamp = (dataset / "lenet" / "run.json").stat().st_mtime_ns
    same = measure(*again, "1.5")
    assert same.returncode == 0
    assert "nothing to do" in same.stderr
    other = measure(*again, "1.6")
    assert other.returncode == 2
    assert "idle_duration_s (1.5 there, 1.6 asked)" in other.stderr
    assert "--overwrite" in other.stderr
    assert (dataset / "lenet" / "run.json").stat().st_mtime_ns == stamp


def test_without_a_sensor_a_run_is_whole_and_says_why_energy_is_missing(tmp_path):
    done = measure(*lenet(tmp_path / "d", "--sensor", "none", "--json", *FAST))
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)["summary"]
    assert "asked for no sensor" in summary["energy"]["why"]
    assert summary["profiled_over_clean"] > 0
    assert summary["profiled"]["inferences"] == 40
    assert summary["clean"]["inferences"] == 30
    assert tool("verify", tmp_path / "d") == 0
    files = {path.name for path in (tmp_path / "d" / "lenet").iterdir()}
    assert "power.parquet" not in files
    replaced = measure(*lenet(tmp_path / "d", "--sensor", "none", "--overwrite", "--seed", "1"),
                       *FAST, "--quiet")  # fmt: skip
    assert replaced.returncode == 0, replaced.stderr
    assert replaced.stdout == ""
    assert read(tmp_path / "d" / "lenet" / "run.json")["config"]["seed"] == 1


@pytest.mark.once("whole runs, setting up and resuming are in both passes by the tests before")
def test_repeats_over_builds_each_leave_a_run(tmp_path):
    done = measure(
        *lenet(tmp_path / "d", "--sensor", "none", "--repeats", "2", "--rebuilds", "2", *FAST),
        "--quiet",
    )
    assert done.returncode == 0, done.stderr
    runs = sorted(path.name for path in (tmp_path / "d").glob("lenet*"))
    assert runs == ["lenet--r1", "lenet--r2", "lenet--r3", "lenet--r4"]
    configs = [read(tmp_path / "d" / name / "run.json")["config"] for name in runs]
    assert [config["rebuild"] for config in configs] == [0, 0, 1, 1]
    assert len({read(tmp_path / "d" / name / "run.json")["config_sha256"] for name in runs}) == 4
    assert tool("verify", tmp_path / "d") == 0
    assert left(tmp_path / "d") == []


def test_setting_up_and_measuring_apart(tmp_path):
    parts = lenet(tmp_path / "d", "--sensor", "none", "--artefacts", tmp_path / "a", *FAST)
    early = measure(*parts, "--skip-setup")
    assert early.returncode == 2
    assert "--setup-only" in early.stderr
    set_up = measure(*parts, "--setup-only")
    assert set_up.returncode == 0, set_up.stderr
    assert set_up.stdout.strip() == str(tmp_path / "a")
    assert not (tmp_path / "d").exists() or not list((tmp_path / "d").glob("lenet*"))
    done = measure(*parts, "--skip-setup", "--run-name", "apart")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "d" / "apart" / "run.json").exists()
    assert (tmp_path / "a" / "artefacts").exists()


@pytest.fixture
def own_models(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"this is no protobuf at all")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("not a dataset")
    (tmp_path / "file").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--model", "resnet81"], 2, "resnet18"),
        (["--model", "no/such.onnx"], 2, "no/such.onnx"),
        (["--model", "bad.onnx"], 2, "bad.onnx"),
        (["--input-shape", "1", "3", "32", "32"], 2, "1x1x32x32"),
        (["--input-shape", "0", "1", "32", "32"], 2, "less than 1"),
        (["--dtype", "int4"], 2, "float32"),
        (["--backend", "onnx"], 2, "onnxruntime"),
        (["--runs", "0"], 2, "less than 1"),
        (["--runs", "-5"], 2, "less than 1"),
        (["--warmup", "-1"], 2, "less than 1"),
        (["--rate-hz", "0"], 2, "above 0"),
        (["--idle-duration", "nan"], 2, "above 0"),
        (["--precision", "much"], 2, "no number"),
        (["--clean-runs", "x"], 2, "no whole number"),
        (["--sensor", "ina9999"], 2, "known are"),
        (["--sensor", "ina3221", "--sysfs-root", "notes"], 2, "ina3221"),
        (["--result-dir", "notes"], 2, "is no dataset"),
        (["--result-dir", "file"], 2, "file"),
        (["--run-name", "../x"], 2, "cannot name a run"),
        (["--min-block-size", "5"], 2, "--min-block-size"),
        (["--input", "no.npy"], 2, "no.npy"),
        (["--loader", "no_such_package:load"], 2, "no_such_package"),
        (["--device", "cuda:9"], 2, "cuda:9"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line_with_exit_2_and_leaves_nothing(
    arguments, status, text, own_models, monkeypatch, capfd
):
    monkeypatch.chdir(own_models)
    try:
        code = measure_inference.main([*lenet("d", "--sensor", "none", *FAST), *arguments])
    except SystemExit as end:  # argparse's own
        code = end.code
    stderr = capfd.readouterr().err
    lines = stderr.strip().splitlines()
    assert code == status, stderr
    assert text in lines[-1]
    assert "Traceback" not in stderr
    assert "error:" in lines[-1]
    assert left(own_models / "d") == []


@pytest.fixture
def mounted(tmp_path):
    """A way to get a small file system of one's own; skipped where mounting is not allowed."""
    mounts = []

    def mount(options):
        point = tmp_path / f"mount{len(mounts)}"
        point.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)],
            capture_output=True,
            check=False,
        )
        if made.returncode:
            pytest.skip("a file system cannot be mounted here")
        mounts.append(point)
        return point

    yield mount
    for point in mounts:
        subprocess.run(["umount", str(point)], check=True)


def test_a_folder_that_cannot_be_written_is_named(mounted):
    readonly = mounted("ro,size=1m")
    done = measure(*lenet(readonly / "data", "--sensor", "none", *FAST))
    assert done.returncode == 2
    assert f"{readonly / 'data'}" in done.stderr.strip().splitlines()[-1]


@pytest.mark.once("60 000 inferences until the disk is full; the writers are tested in both")
def test_a_full_disk_keeps_what_was_measured_and_says_so(mounted):
    dataset = mounted("size=3m") / "d"
    large = ["--warmup", "5", "--runs", "20000", "--clean-runs", "40000"]
    done = measure(*lenet(dataset, "--sensor", "simulated", *large, "--idle-duration", "0.3"))
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1, done.stderr
    assert "error:" in last
    assert "space" in last.lower() or "full" in last.lower()
    assert "Traceback" not in done.stderr
    assert list((dataset / ".partial").glob("lenet-*/power.bin"))
    assert not (dataset / "lenet").exists()


@pytest.mark.once("signals end it alike on any Python; waits for several phases")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_tidies_up_and_keeps_what_was_measured(signum, tmp_path):
    from tests.support_kill import alive, descendants

    command = [sys.executable, str(ROOT / "measure_inference_power.py"),
               *map(str, lenet(tmp_path / "d", "--sensor", "simulated", "--clean-seconds", "60")),
               "--idle-duration", "0.3"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    children = {}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        children.update(descendants(process.pid))
        logs = list((tmp_path / "d" / ".partial").glob("*/phases.jsonl"))
        if logs and '"clean"' in logs[0].read_text():
            break
        time.sleep(0.05)
    time.sleep(1.0)
    os.kill(process.pid, signum)
    started = time.monotonic()
    _, stderr = process.communicate(timeout=30)
    assert time.monotonic() - started < 10  # docker stop gives no more
    assert process.returncode == 130
    assert f"interrupted by {signum.name}" in stderr
    assert "recover" in stderr
    assert not [pid for pid in children if alive(pid)]
    assert tool("recover", tmp_path / "d") == 0
    run = next((tmp_path / "d").glob("lenet--incomplete-*"))
    assert read(run / "run.json")["status"] == "incomplete"
    assert tool("verify", tmp_path / "d") == 1
    assert tool("verify", tmp_path / "d", "--allow-incomplete") == 0


def test_a_users_function_is_measured_and_its_failure_is_one_line(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "net.py").write_text(
        "import os, torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        print('hello from the model', sorted(k for k in os.environ if 'TOKEN' in k))\n"
        "        return x.mean(dim=(2, 3))\n"
        "def make():\n    return Net()\n"
        "def broken():\n    raise ValueError('no such layer')\n"
        "class Nothing(torch.nn.Module):\n"
        "    def forward(self, x):\n        return None\n"
        "def nothing():\n    return Nothing()\n"
    )
    base = ["--backend", "torch", "--sensor", "none", "--result-dir", tmp_path / "d",
            "--input-shape", "1", "3", "8", "8", *FAST]  # fmt: skip
    environment = {**os.environ, "DAGSHUB_USER_TOKEN": "s3cret-token"}
    done = measure("--model", f"{tmp_path}/net.py:make", *base, env=environment)
    assert done.returncode == 0, done.stderr
    log = next((tmp_path / "d").glob("net*/run.log")).read_text()
    assert "hello from the model []" in log
    for path in (tmp_path / "d").rglob("*"):
        assert not path.is_file() or b"s3cret-token" not in path.read_bytes()
    broken = measure("--model", f"{tmp_path}/net.py:broken", *base)
    assert broken.returncode == 2
    assert "no such layer" in broken.stderr.strip().splitlines()[-1]
    nothing = measure("--model", f"{tmp_path}/net.py:nothing", *base)
    assert nothing.returncode in {1, 2}
    assert "Traceback" not in nothing.stderr
    assert "net" in nothing.stderr.strip().splitlines()[-1]
