"""tegrastats as a sensor, with a script in its place that prints what it is told to."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgejoule.errors import MeasurementError
from edgejoule.power import tegrastats_sensor
from edgejoule.power.sensor import Channel, Group
from edgejoule.power.tegrastats_sensor import (
    AVERAGING,
    TegrastatsSensor,
    become,
    find_program,
    interval_ms,
    looked_for,
)
from edgejoule.processes import PROJECT_ROOT, child_environment
from tests.support_power import gone_within

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tegrastats is a Linux program")

FIRST = "RAM 1/2MB CPU [1%@5] VDD_IN 5000mW/4000mW NC 0mW/0mW NC 0mW/0mW VDD_SOC 700mW/1mW"
# Prints the first line, then whatever is appended to the file `feed` beside it, until it is killed.
# The arguments, the pid and the environment are left in files for the test.
SCRIPT = """#!/bin/sh
cd "{folder}" || exit 9
echo "$@" > arguments; env > environment; cat > stdin; touch feed; echo $$ > pid
printf '%s\\n' "{first}"
exec tail -n +1 -f feed
"""
DEADLINE_S = 60.0


class Fake:
    """The script, and how its lines are fed."""

    def __init__(self, folder: Path, script: str = SCRIPT, first: str = FIRST) -> None:
        self.folder = folder
        self.program = folder / "tegrastats"
        self.program.write_text(script.format(folder=folder, first=first))
        self.program.chmod(0o755)
        self.now_ns = 0

    def open(self, *words: str, first_line_s: float = DEADLINE_S) -> TegrastatsSensor:
        command = (str(self.program), *(words or ("--interval", "100")))
        return TegrastatsSensor(command, first_line_s=first_line_s, clock_ns=lambda: self.now_ns)

    def feed(self, text: str) -> None:
        with (self.folder / "feed").open("a") as file:
            file.write(text)

    @property
    def pid(self) -> int:
        return int((self.folder / "pid").read_text())


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


@pytest.fixture
def sensor(fake: Fake) -> Iterator[TegrastatsSensor]:
    opened = fake.open()
    yield opened
    opened.close()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def error_of(sensor: TegrastatsSensor, index: int = 0) -> int | None:
    try:
        sensor.read(index)
    except OSError as error:
        return error.errno
    return None


def test_the_rails_of_the_first_line_are_its_channels(sensor: TegrastatsSensor, fake: Fake) -> None:
    assert sensor.channels() == (
        Channel(
            *(0, "VDD_IN", "power", "mW", "tegrastats", "VDD_IN"),
            sensor="tegrastats",
            averaging=AVERAGING,
        ),
        Channel(
            *(1, "VDD_SOC", "power", "mW", "tegrastats", "VDD_SOC"),
            sensor="tegrastats",
            averaging=AVERAGING,
        ),
    )
    assert sensor.groups() == (Group("tegrastats", (0, 1), 100_000_000),)
    assert (sensor.name, sensor.simulated) == ("tegrastats", False)
    assert [sensor.read(0), sensor.read(1)] == [5000, 700]
    configuration = sensor.configuration()
    assert configuration["command"] == [str(fake.program), "--interval", "100"]
    assert configuration["interval_ms"] == 100.0
    assert [item["rail"] for item in configuration["left_out"]] == ["NC", "NC#2"]
    assert configuration["broken_lines"] == 0


def test_the_newest_whole_line_counts(sensor: TegrastatsSensor, fake: Fake) -> None:
    fake.feed(
        "RAM 1/2MB VDD_IN 1mW/1mW VDD_SOC 2mW/1mW\n\nRAM 1/2MB VDD_IN 3mW/1mW VDD_SOC 4mW/1mW\n"
        "RAM 1/2MB VDD_IN 9"
    )
    until(lambda: sensor.read(0) == 3)
    assert sensor.read(1) == 4
    fake.feed("87mW/1mW\nnot a line\n")
    until(lambda: (sensor.read(0), sensor.configuration()["broken_lines"]) == (987, 1))
    assert error_of(sensor, 1) == errno.ENODATA  # the newest line has no VDD_SOC
    assert sensor.read(0) == 987
    fake.feed(FIRST + "\n")
    until(lambda: error_of(sensor, 1) is None)
    assert sensor.read(1) == 700


def test_no_lines_for_long_is_no_power(sensor: TegrastatsSensor, fake: Fake) -> None:
    assert sensor.read(0) == 5000
    fake.now_ns = 3_000_000_000
    assert sensor.read(0) == 5000
    fake.now_ns += 1
    assert error_of(sensor) == errno.ETIMEDOUT
    fake.feed(FIRST + "\n")
    until(lambda: error_of(sensor) is None)


def test_it_has_ended(sensor: TegrastatsSensor, fake: Fake) -> None:
    os.kill(fake.pid, signal.SIGKILL)
    until(lambda: error_of(sensor) == errno.ENODEV)
    assert error_of(sensor) == errno.ENODEV
    sensor.close()


def test_close_ends_the_program(fake: Fake) -> None:
    sensor = fake.open()
    sensor.close()
    assert gone_within([fake.pid], DEADLINE_S)
    assert error_of(sensor) == errno.ENODEV
    sensor.close()


def test_a_program_that_ignores_the_signal_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tegrastats_sensor, "_GRACE_S", 0.2)
    fake = Fake(tmp_path, SCRIPT.replace("exec tail", "trap '' TERM; sleep 600 & tail"))
    sensor = fake.open()
    until(lambda: len(children_of(fake.pid)) >= 2)
    pids = [fake.pid, *children_of(fake.pid)]
    sensor.close()
    assert gone_within(pids, DEADLINE_S)


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def test_it_sees_no_secret_and_has_no_input(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSHUB_TOKEN", "hidden")
    monkeypatch.setenv("HARMLESS", "shown")
    fake.open("--interval", "50").close()
    environment = (fake.folder / "environment").read_text()
    assert "hidden" not in environment
    assert "shown" in environment
    assert (fake.folder / "stdin").read_text() == ""
    assert (fake.folder / "arguments").read_text() == "--interval 50\n"


PARENT = """
import sys, time
from edgejoule.power.tegrastats_sensor import TegrastatsSensor
sensor = TegrastatsSensor((sys.argv[1], "--interval", "100"), first_line_s=60)
print("ready", flush=True)
time.sleep(600)
"""


def test_it_does_not_outlive_who_started_it(fake: Fake) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(fake.program)],
        stdout=subprocess.PIPE,
        cwd=PROJECT_ROOT,
        env=child_environment(),
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone_within([fake.pid], DEADLINE_S)


def test_a_parent_that_is_gone_already(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_words: object) -> None:
        raise AssertionError

    monkeypatch.setattr(tegrastats_sensor, "die_with_parent", lambda _signum: None)
    monkeypatch.setattr(os, "execv", never)
    become([str(os.getppid() + 1), "/bin/true"])


def test_becoming(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(tegrastats_sensor, "die_with_parent", asked.append)
    monkeypatch.setattr(os, "execv", lambda *words: asked.append(words))
    become([str(os.getppid()), "/bin/x", "-a"])
    assert asked == [signal.SIGKILL, ("/bin/x", ["/bin/x", "-a"])]

    def refuse(*_words: object) -> None:
        raise OSError(errno.ENOEXEC, "Exec format error")

    monkeypatch.setattr(os, "execv", refuse)
    with pytest.raises(SystemExit, match="/bin/x: Exec format error"):
        become([str(os.getppid()), "/bin/x"])


def test_no_rails_without_root(tmp_path: Path) -> None:
    fake = Fake(tmp_path, first="RAM 1/2MB CPU [1%@5] NC 0mW/0mW CPU@44.4C")
    with pytest.raises(MeasurementError, match=r"no rails here; .*run with sudo"):
        fake.open()
    assert gone_within([fake.pid], DEADLINE_S)


def test_a_program_that_ends_at_once(tmp_path: Path) -> None:
    fake = Fake(tmp_path, "#!/bin/sh\necho cannot open the board >&2\nexit 3\n")
    with pytest.raises(
        MeasurementError, match=r"ended with status 3 \(cannot open the board\); try it by hand"
    ):
        fake.open()
    fake = Fake(tmp_path, "#!/bin/sh\nexit 0\n")
    with pytest.raises(MeasurementError, match="ended with status 0; try it"):
        fake.open()


def test_a_program_that_cannot_be_run(tmp_path: Path) -> None:
    fake = Fake(tmp_path, "#!/nowhere/interpreter\n")
    with pytest.raises(MeasurementError, match="No such file or directory"):
        fake.open()


def test_a_program_that_prints_nothing(tmp_path: Path) -> None:
    fake = Fake(tmp_path, "#!/bin/sh\nexec sleep 600\n")
    with pytest.raises(MeasurementError, match=r"no line within 0.3 s; try it by hand: /.*/tegra"):
        fake.open(first_line_s=0.3)


def test_a_program_that_floods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tegrastats_sensor, "_LONGEST_LINE", 1000)
    script = SCRIPT.replace("exec tail", "head -c 300000 /dev/zero | tr '\\\\0' x; exec tail")
    fake = Fake(tmp_path, script)
    sensor = fake.open()
    until(lambda: sensor.read(0) == 5000 and sensor.configuration()["broken_lines"] >= 1)
    fake.feed("\n" + FIRST.replace("5000", "6000") + "\n")
    until(lambda: sensor.read(0) == 6000)
    sensor.close()


def test_where_the_program_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty, usual = tmp_path / "empty", tmp_path / "usual"
    empty.mkdir()
    usual.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.setattr(tegrastats_sensor, "USUAL_FOLDER", str(usual))
    assert find_program() is None
    assert looked_for() == [f"tegrastats: not on PATH and not in {usual}"]
    with pytest.raises(MeasurementError, match=r"no tegrastats on PATH or in .*; it comes with"):
        TegrastatsSensor()
    program = Fake(usual).program
    assert find_program() == str(program)
    assert looked_for() == [f"tegrastats: {program}"]
    first = Fake(empty).program
    assert find_program() == str(first)


def test_intervals_of_commands() -> None:
    assert interval_ms(("tegrastats",)) == 1000.0
    assert interval_ms(("tegrastats", "--interval", "250")) == 250.0
    assert interval_ms(("tegrastats", "--interval=20", "--readall")) == 20.0
    for words in (("--interval",), ("--interval", "x"), ("--interval=0",), ("--interval=9999999",)):
        with pytest.raises(MeasurementError, match="--interval"):
            interval_ms(("tegrastats", *words))
