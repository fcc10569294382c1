"""The default experiment in the image, with the user's own `docker run` line."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.container.conftest import OWNER, TOKEN, Engine, Run, copy_project, give

pytestmark = [pytest.mark.container, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
GROUP = 4242
KNOBS = {
    "MODELS": "lenet",
    "RUNS": "50",
    "WARMUP": "5",
    "CLEAN_RUNS": "100",
    "IDLE_DURATION": "2",
    "WEIGHTS": "random",
    "SENSOR": "simulated",
    "BACKEND": "torch",
    "YES": "1",
    "PUSH": "off",
}


def knobs(**changed: str) -> tuple[str, ...]:
    return tuple(
        part for name, value in {**KNOBS, **changed}.items() for part in ("-e", f"{name}={value}")
    )


def verify(dataset: Path) -> subprocess.CompletedProcess[str]:
    """Run `data_version.py verify` here, outside the container."""
    command = [sys.executable, str(ROOT / "data_version.py"), "verify", str(dataset)]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)


def finished_runs(dataset: Path) -> dict[str, dict[str, object]]:
    return {
        file.parent.name: json.loads(file.read_text(encoding="utf-8"))
        for file in dataset.glob("[!.]*/run.json")
    }


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".git" not in path.relative_to(folder).parts[:1]]


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A device node that only a group unknown to the image may use."""
    made = tmp_path / "nvmap"
    os.mknod(made, 0o660 | stat.S_IFCHR, os.makedev(1, 5))
    os.chown(made, 0, GROUP)
    made.chmod(0o660)
    return made


def test_the_default_experiment(run: Run, project: Path, node: Path) -> None:
    # A model is foreign code: this one looks for the token wherever its user can look.
    spy = project / "model" / "lenet.py"
    spy.write_text(
        spy.read_text(encoding="utf-8")
        + "\nimport os as _os, pathlib as _p\n"
        + "_seen = [str(n) for n in _os.environ if 'TOKEN' in n]\n"
        + "for _f in _p.Path('/proc').glob('[0-9]*/environ'):\n"
        + "    try:\n"
        + "        _seen += [str(_f)] if b'tok-' in _f.read_bytes() else []\n"
        + "    except OSError:\n"
        + "        continue\n"
        + "with _p.Path('/app/.cache/seen').open('a') as _file:\n"
        + "    _file.write(f'{_os.getuid()} {_seen}\\n')\n",
        encoding="utf-8",
    )
    before = {path for path in project.rglob("*") if path.is_file()}
    device = ("--device", f"{node}:/dev/nvmap")
    done = run(project, options=(*device, *knobs()), timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    dataset = project / "raw_data"
    checked = verify(dataset)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    (described,) = finished_runs(dataset).values()
    assert described["simulated"] is True
    assert described["weights"] == "random"

    assert {path.stat().st_uid for path in project.rglob("*")} == {OWNER}
    new = {path for path in project.rglob("*") if path.is_file()} - before
    assert not [path for path in new if TOKEN.encode() in path.read_bytes()]
    assert TOKEN not in done.stdout + done.stderr

    # The edited source took effect, in every process that loaded it, and none saw the token.
    seen = (project / ".cache" / "seen").read_text(encoding="utf-8").splitlines()
    assert set(seen) == {f"{OWNER} []"}

    # Again: nothing is missing, so nothing is measured.
    again = run(project, options=knobs(), timeout=300)
    assert again.returncode == 0, again.stderr
    assert list(finished_runs(dataset).values()) == [described]


def test_with_the_user_option(run: Run, project: Path) -> None:
    done = run(project, options=("--user", f"{OWNER}:{OWNER}", *knobs(SENSOR="none")), timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert verify(project / "raw_data").returncode == 0
    assert {path.stat().st_uid for path in project.rglob("*")} == {OWNER}


def test_a_custom_script_over_the_same_commands(run: Run, project: Path) -> None:
    script = project / "mine.sh"
    script.write_text(
        "#!/usr/bin/env bash\nset -e\n"
        "python3 measure_inference_power.py --model lenet --weights random --backend torch"
        " --runs 20 --clean-runs 20 --warmup 5 --sensor none --result-dir mine\n"
        "edgejoule --help >/dev/null\n",
        encoding="utf-8",
    )
    script.chmod(0o755)
    give(project, OWNER)
    done = run(project, "./mine.sh", timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert verify(project / "mine").returncode == 0


def test_rail_files_of_root_are_sampled(run: Run, project: Path, tmp_path: Path) -> None:
    """Rail files that only root may read reach the sampler through the whole experiment."""
    sysfs = tmp_path / "sys"
    (sysfs / "fs" / "cgroup").mkdir(parents=True)
    chip = sysfs / "bus" / "i2c" / "devices" / "1-0040" / "hwmon" / "hwmon3"
    chip.mkdir(parents=True)
    (sysfs / "class" / "hwmon").mkdir(parents=True)
    (sysfs / "class" / "hwmon" / "hwmon3").symlink_to(os.path.relpath(chip, sysfs / "class/hwmon"))
    (chip / "device").symlink_to("../..")
    for name, value, mode in (
        ("name", "ina3221", 0o444),
        ("in1_label", "VDD_IN", 0o444),
        ("in1_enable", "1", 0o444),
        ("in1_input", "5016", 0o400),
        ("curr1_input", "1096", 0o400),
        ("shunt1_resistor", "5000", 0o444),
        ("update_interval", "10", 0o444),
    ):
        (chip / name).write_text(f"{value}\n", encoding="ascii")
        (chip / name).chmod(mode)
    options = ("-v", f"{sysfs}:/sys", *knobs(SENSOR="ina3221"))
    done = run(project, options=options, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (described,) = finished_runs(project / "raw_data").values()
    assert described["simulated"] is False
    parquet = pytest.importorskip("pyarrow.parquet")
    (file,) = (project / "raw_data").glob("*/power.parquet")
    assert set(parquet.read_table(file).column("raw").to_pylist()) == {5016, 1096}


def test_stop_in_the_middle_and_go_on(engine: Engine, image: str, run: Run, project: Path) -> None:
    options = knobs(MODELS="lenet", RUNS="2000000", REPEATS="1")
    mount = f"{project}:/app"
    container = engine("podman", "run", "-d", "-v", mount, *options, image).stdout.strip()
    partial = project / "raw_data" / ".partial"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        # In the middle of measuring, not of getting ready.
        if any(file.stat().st_size > 4096 for file in partial.glob("*/layers.bin")):
            break
        time.sleep(0.2)
    else:
        pytest.fail(engine("podman", "logs", container, check=False).stderr[-3000:])
    begin = time.monotonic()
    engine("podman", "stop", "--time", "30", container)
    assert time.monotonic() - begin < 10
    state = engine("podman", "inspect", "--format", "{{.State.ExitCode}}", container)
    logs = engine("podman", "logs", container, check=False)
    assert state.stdout.strip() == "130", logs.stdout[-2000:] + logs.stderr[-2000:]
    assert not [
        name
        for name, found in finished_runs(project / "raw_data").items()
        if found["status"] == "complete"
    ]

    # The next start goes on with what is missing; here with fewer inferences, to end.
    done = run(project, options=knobs(), timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = finished_runs(project / "raw_data")
    assert [run["status"] for run in found.values() if run["status"] == "complete"]
    assert verify(project / "raw_data").returncode == 0


def test_a_folder_of_root(run: Run, tmp_path: Path) -> None:
    folder = copy_project(tmp_path / "of root", owner=0)
    done = run(folder, "./run_experiment.sh", "--dry-run", options=knobs(), timeout=300)
    assert done.returncode == 0, done.stderr
    assert "belongs to root" in done.stderr
    assert "lenet" in done.stdout
    shutil.rmtree(folder)
