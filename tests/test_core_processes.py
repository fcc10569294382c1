"""Children: secrets kept from them, no orphans, every way to end told apart."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgejoule.errors import EdgejouleError, Interrupted, MeasurementError
from edgejoule.processes import child_environment, start_child
from edgejoule.supervision import StopFlag, Supervisor, kernel_memory_kills, stop_on_signals
from tests.support_kill import alive

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="measuring needs POSIX")
ROOT = Path(__file__).resolve().parent.parent


def start(do, tmp_path, **config):
    return start_child(
        "test child", "tests.support_children", {"do": do, **config}, tmp_path / "log"
    )


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_a_child_sees_no_secret_and_finds_the_project(tmp_path, monkeypatch):
    secrets = {"DAGSHUB_USER_TOKEN": "s3cret", "AWS_SECRET_ACCESS_KEY": "s3cret",
               "MY_PASSWORD": "s3cret", "openai_api_key": "s3cret"}  # fmt: skip
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    child = start("done", tmp_path)
    environment = child.wait_for("ready", 20)["environment"]
    child.stop()
    assert "s3cret" not in json.dumps(environment)
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    assert child_environment({"A": "1"})["A"] == "1"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_process_with_a_token_hides_its_environment(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from edgejoule.processes import hide_environment\n"
        "hide_environment(); print('hidden', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "DAGSHUB_USER_TOKEN": "s3cret"},
    )  # fmt: skip
    assert process.stdout.readline() == b"hidden\n"
    owner = Path(f"/proc/{process.pid}/environ").stat().st_uid
    process.communicate()
    assert owner == 0  # only root may read it, whoever runs the process


def test_commands_and_end_of_file_reach_the_child(tmp_path):
    child = start("obey", tmp_path)
    assert child.wait_for("ready", 20)
    child.send(command="mark", value=3)
    assert child.stop() == 0
    done = next(message for message in child.received if message["kind"] == "done")
    assert done["commands"] == [{"command": "mark", "value": 3}]
    child.send(command="late")  # gone: no error


def test_a_child_that_will_not_end_is_killed(tmp_path):
    child = start("deaf", tmp_path)
    pid = child.wait_for("ready", 20)["pid"]
    assert child.stop(grace_s=0.1) == -signal.SIGKILL
    assert not alive(pid)


def test_what_a_child_started_ends_with_it(tmp_path):
    child = start("breed", tmp_path)
    pid = child.wait_for("child", 20)["pid"]
    assert alive(pid)
    child.stop()
    assert wait_until(lambda: not alive(pid))


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signal")
@pytest.mark.parametrize("do", ["obey", "deaf"])
def test_no_child_outlives_a_killed_parent(do, tmp_path):
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1])\n"
        "from edgejoule.processes import start_child\n"
        "child = start_child('c', 'tests.support_children', {'do': sys.argv[2]},"
        " pathlib.Path(sys.argv[3]))\n"
        "print(child.wait_for('ready', 20)['pid'], flush=True); import time; time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT), do, str(tmp_path / "log")], stdout=subprocess.PIPE
    )
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.wait()
    assert wait_until(lambda: not alive(pid))


@pytest.fixture
def supervisor():
    ticks = []
    one = Supervisor(StopFlag(), ticks.append)
    one.ticks = ticks
    yield one
    one.stop_all()


@pytest.mark.parametrize(
    ("do", "error", "text"),
    [
        ("refuse", EdgejouleError, "bad wish; wish better"),
        ("crash", MeasurementError, "RuntimeError: something broke"),
        ("quit", MeasurementError, "status 7"),
        ("die", MeasurementError, "SIGKILL"),
    ],
)
def test_each_way_to_fail_is_told_apart(do, error, text, supervisor, tmp_path):
    child = supervisor.add(start(do, tmp_path))
    with pytest.raises(error, match=text) as caught:
        supervisor.run_to_end(child)
    if do == "refuse":
        assert caught.value.exit_code == 2
    if do == "crash":
        assert "Traceback" in (tmp_path / "log").read_text()


def test_a_kill_for_memory_is_named_with_the_smaller_setting(supervisor, tmp_path, monkeypatch):
    supervisor.smaller = "try half the batch"
    counts = kernel_memory_kills()
    child = supervisor.add(start("die", tmp_path))
    monkeypatch.setattr("edgejoule.supervision.kernel_memory_kills", lambda: counts + 1)
    with pytest.raises(MeasurementError, match="for lack of memory; try half the batch"):
        supervisor.run_to_end(child)


def test_memory_kills_are_counted_from_the_kernels_files(tmp_path):
    (tmp_path / "vmstat").write_text("nr_free_pages 5\noom_kill 3\n")
    (tmp_path / "memory.events").write_text("low 0\noom 4\noom_kill 2\n")
    assert kernel_memory_kills(str(tmp_path), str(tmp_path)) == 5
    assert kernel_memory_kills(str(tmp_path / "no"), str(tmp_path / "no")) == 0


def test_the_result_comes_back_and_time_ticks(supervisor, tmp_path):
    heard = []
    child = supervisor.add(start("done", tmp_path, value=42))
    assert supervisor.run_to_end(child, heard.append)["value"] == 42
    assert heard[0]["kind"] == "ready"
    assert supervisor.children == []
    assert supervisor.ticks


def test_a_bystander_that_dies_ends_the_wait(supervisor, tmp_path):
    supervisor.add(start("die", tmp_path))
    with pytest.raises(MeasurementError, match="test child was ended by SIGKILL"):
        supervisor.wait(20)


def test_a_bystander_that_dies_ends_the_run(supervisor, tmp_path):
    supervisor.add(start("die", tmp_path))
    worker = supervisor.add(start("obey", tmp_path))
    with pytest.raises(MeasurementError, match="ended by SIGKILL"):
        supervisor.run_to_end(worker)


def test_ending_a_child_tells_whether_it_ended_well(supervisor, tmp_path):
    child = supervisor.add(start("obey", tmp_path))
    child.wait_for("ready", 20)
    supervisor.end(child)
    assert supervisor.children == []
    broken = supervisor.add(start("quit", tmp_path))
    broken.process.wait()
    with pytest.raises(MeasurementError, match="status 7"):
        supervisor.end(broken)


def test_a_signal_ends_the_wait_and_a_second_breaks_in(supervisor):
    with stop_on_signals() as flag:
        supervisor.stop = flag
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGTERM"):
            supervisor.wait(20)
        with pytest.raises(Interrupted, match="twice"):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) != flag
