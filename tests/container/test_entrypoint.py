"""The image and its entrypoint, by commands of one's own."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.container.conftest import OWNER, TOKEN, Engine, Run, give

pytestmark = [pytest.mark.container, pytest.mark.timeout(900)]  # the first one builds

GROUP = 4242


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small mounted folder of an ordinary user."""
    made = tmp_path / "app"
    made.mkdir()
    give(made, OWNER)
    return made


def script(folder: Path, name: str, text: str, mode: int = 0o755) -> str:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    file.chmod(mode)
    os.chown(file, OWNER, OWNER)
    return f"./{name}"


def test_the_packages_of_the_base_stay_its_own(build_log: str, run: Run, folder: Path) -> None:
    notes = [line for line in build_log.splitlines() if line.startswith("image: ")]
    assert any(line.startswith("image: torch 2.") for line in notes)
    assert all("of the base, /usr/lib/python3/dist-packages/" in line for line in notes)
    code = (
        "import torch, numpy, pyarrow.parquet, onnx, dvc.api; print(torch.__file__, numpy.__file__)"
    )
    done = run(folder, "python3", "-c", code)
    assert done.stdout.split() == [
        f"/usr/lib/python3/dist-packages/{name}/__init__.py" for name in ("torch", "numpy")
    ], done.stderr


def test_runs_as_the_owner_with_the_groups_of_the_devices(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    node = tmp_path / "nvmap"
    os.mknod(node, 0o660 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero by another name
    os.chown(node, 0, GROUP)
    node.chmod(0o660)
    command = (
        "id -u; id -g; id -G; head -c 3 /dev/nvmap | wc -c; touch made; echo $HOME; touch $HOME/x"
    )
    done = run(folder, "sh", "-c", command, options=("--device", f"{node}:/dev/nvmap"))
    assert done.returncode == 0, done.stderr
    uid, gid, groups, read, home = done.stdout.split("\n")[:5]
    assert (uid, gid, read) == (str(OWNER), str(OWNER), "3")
    assert set(groups.split()) == {str(OWNER), str(GROUP)}
    assert home == "/app/.cache/home"
    assert (folder / "made").stat().st_uid == OWNER
    assert all(path.stat().st_uid == OWNER for path in folder.rglob("*"))


def test_rail_files_of_root_stay_readable(run: Run, folder: Path, tmp_path: Path) -> None:
    sysfs = tmp_path / "sys"
    chip = sysfs / "class" / "hwmon" / "hwmon3"
    chip.mkdir(parents=True)
    (sysfs / "fs" / "cgroup").mkdir(parents=True)  # where the runtime wants to mount
    for name, value, mode in (
        ("name", "ina3221\n", 0o444),
        ("in1_input", "5016\n", 0o400),
        ("curr1_input", "1096\n", 0o400),
        ("in2_input", "4990\n", 0o444),
    ):
        (chip / name).write_text(value, encoding="ascii")
        (chip / name).chmod(mode)
    code = (
        "import json, os; fds = json.loads(os.environ['EDGEJOULE_RAIL_FDS']);"
        "print(json.dumps([os.getuid(), {p: os.pread(fd, 99, 0).decode() for p, fd in fds.items()},"
        "[os.access(p, os.R_OK) for p in fds]]))"
    )
    options = ("-v", f"{sysfs}:/sys")
    done = run(folder, "python3", "-c", code, options=options)
    assert done.returncode == 0, done.stderr
    uid, values, open_to_all = json.loads(done.stdout)
    place = "/sys/class/hwmon/hwmon3"
    assert uid == OWNER
    assert values == {f"{place}/in1_input": "5016\n", f"{place}/curr1_input": "1096\n"}
    assert open_to_all == [False, False]


@pytest.mark.parametrize("user", [(), ("--user", f"{OWNER}:{OWNER}")], ids=["root", "user"])
def test_only_the_command_is_started_with_the_token(
    run: Run, folder: Path, user: tuple[str, ...]
) -> None:
    look = script(
        folder,
        "look.py",
        "import os, pathlib\n"
        "print(os.getuid(), os.environ['DAGSHUB_USER_TOKEN'])\n"
        "for place in pathlib.Path('/proc').glob('[0-9]*/environ'):\n"
        "    if place.parent.name != str(os.getpid()):\n"
        "        try:\n"
        "            data = place.read_bytes()\n"
        "        except PermissionError:\n"
        "            continue\n"
        "        print(place.parent.name, os.environ['DAGSHUB_USER_TOKEN'].encode() in data)\n",
    )
    done = run(folder, "python3", look, options=user)
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.split("\n")
    assert first == f"{OWNER} {TOKEN}"
    assert "1 False" in others
    assert not [line for line in others if line.endswith("True")]
    assert not [file for file in folder.rglob("*") if file.is_file() and TOKEN in file.read_text()]


def test_a_custom_script_runs_instead(run: Run, folder: Path) -> None:
    name = script(folder, "mine.sh", '#!/bin/sh\necho "mine $1 in $(pwd)"; exit 7\n')
    done = run(folder, name, "now")
    assert (done.returncode, done.stdout) == (7, "mine now in /app\n")
    script(folder, "mine.py", "print('python', __file__)\n", mode=0o644)
    assert run(folder, "mine.py").stdout == "python /app/mine.py\n"


@pytest.mark.parametrize(
    ("command", "status", "text"),
    [("./absent.sh", 127, "absent.sh is not there"), ("./plain.sh", 126, "chmod +x")],
)
def test_a_command_that_cannot_run_is_one_line(
    run: Run, folder: Path, command: str, status: int, text: str
) -> None:
    script(folder, "plain.sh", "echo no\n", mode=0o644)
    done = run(folder, command)
    assert done.returncode == status
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_mount_it_says_how_to_mount(run: Run) -> None:
    done = run(None)
    assert done.returncode == 127
    assert "-v $(pwd):/app" in done.stderr


def test_a_folder_of_root_keeps_root_and_says_so(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "of root"
    folder.mkdir()
    done = run(folder, "id", "-u")
    assert done.stdout == "0\n"
    assert "belongs to root" in done.stderr


def test_user_option(run: Run, folder: Path) -> None:
    done = run(folder, "sh", "-c", "id -u; touch made", options=("--user", f"{OWNER}:{OWNER}"))
    assert (done.returncode, done.stdout) == (0, f"{OWNER}\n")
    assert (folder / "made").stat().st_uid == OWNER


def test_git_works_in_a_folder_of_somebody_else(run: Run, folder: Path) -> None:
    data = folder / "raw_data"
    subprocess.run(["git", "init", "-q", data], check=True)
    give(folder, OWNER + 1)
    folder.chmod(0o777)
    options = ("--user", f"{OWNER}:{OWNER}")
    done = run(folder, "git", "-C", "/app/raw_data", "status", "--short", options=options)
    assert done.returncode == 0, done.stderr


def test_the_init_reaps_what_nobody_waits_for(run: Run, folder: Path) -> None:
    code = (
        "import os, pathlib, subprocess, time\n"
        "subprocess.run(['sh', '-c', 'for i in 1 2 3; do setsid sleep 0.2 & done'])\n"
        "time.sleep(1.5)\n"
        "states = [f.read_text().rsplit(') ', 1)[1][0] for f in"
        " pathlib.Path('/proc').glob('[0-9]*/stat')]\n"
        "print(pathlib.Path('/proc/1/comm').read_text().strip(), sorted(states))\n"
    )
    done = run(folder, "python3", "-c", code)
    assert done.stdout == "tini ['R', 'S']\n", done.stderr


def test_stop_reaches_the_command_and_its_children(
    engine: Engine, image: str, folder: Path
) -> None:
    name = script(
        folder,
        "long.sh",
        "#!/bin/bash\ntrap 'echo tidied > tidied; exit 0' TERM\n"
        "(trap 'echo child > child; exit 0' TERM; while :; do sleep 0.1; done) &\n"
        "touch started\nwhile :; do sleep 0.1; done\n",
    )
    mount = f"{folder}:/app"
    container = engine("podman", "run", "-d", "-v", mount, image, name).stdout.strip()
    deadline = time.monotonic() + 60
    while not (folder / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    begin = time.monotonic()
    engine("podman", "stop", "--time", "30", container)
    assert time.monotonic() - begin < 10
    state = engine("podman", "inspect", "--format", "{{.State.ExitCode}}", container)
    assert state.stdout.strip() == "0"
    assert (folder / "tidied").exists()
    assert (folder / "child").exists()
