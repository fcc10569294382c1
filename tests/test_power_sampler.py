"""The sampler as a real process: on trees of files, on the simulated board, and killed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgejoule.energy.trace import read_samples
from edgejoule.errors import EdgejouleError, MeasurementError
from edgejoule.power import acquire
from edgejoule.power.acquire import start_sampler, start_simulator
from edgejoule.power.rhythm import choose_period_ns
from edgejoule.power.sensor import Group, Where
from edgejoule.processes import PROJECT_ROOT, Child, start_child
from tests.support_power import gone_within, make_chip, orin_nx


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    return directory


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    root = tmp_path / "sys"
    orin_nx(root)
    return root


def wait_for_samples(run: Path, count: int) -> None:
    """Wait until so many rows are on the disk."""
    deadline = time.monotonic() + 20
    while len(read_samples(run / "power.bin")[1]) < count:
        assert time.monotonic() < deadline, "no samples"
        time.sleep(0.05)


def error_of(child: Child) -> dict[str, object]:
    """Wait for the child's error message and its end."""
    message = child.wait_for("error", 20)
    assert message is not None
    assert child.process.wait(10) == 1
    child.stop()
    return message


def test_every_channel_is_read_with_its_own_stamps(run: Path, sysfs: Path) -> None:
    anchor = {"monotonic_ns": 1, "wall_ns": 2}
    child, ready = start_sampler("ina3221", run, Where(str(sysfs)), anchor)
    assert (ready["sensor"], ready["simulated"]) == ("ina3221", False)
    assert (ready["refresh_ns"], ready["period_ns"]) == (6_600_000, 6_600_000)
    assert len(ready["channels"]) == 6
    wait_for_samples(run, 60)
    assert child.stop() == 0
    header, samples = read_samples(run / "power.bin")
    assert header["channels"] == ready["channels"]
    assert header["wall_anchor"] == anchor
    assert header["configuration"]["chips"]["1-0040"]["update_interval_ms"] == 7
    assert samples["channel"][:7].tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert samples["raw"][:6].tolist() == [5001, 100, 5002, 200, 5003, 300]
    assert not samples["errno"].any()
    assert np.all(samples["t0_ns"] <= samples["t1_ns"])
    assert np.all(samples["t1_ns"][:-1] <= samples["t0_ns"][1:])
    report = json.loads((run / "sampler.json").read_text())
    assert len(samples) == report["reads"] == 6 * report["sweeps"]
    assert report["errors"] == {}
    assert set(report["refreshes"].values()) == {0}  # equal values: written, and no refresh
    assert 0 < report["cpu_s"] < report["seconds"]
    assert sum(report["lateness_us_log2"]) == report["sweeps"]
    done = next(message for message in child.received if message["kind"] == "done")
    assert done["sweeps"] == report["sweeps"]


def test_sweeps_lie_on_one_grid_and_never_burst(run: Path, sysfs: Path) -> None:
    child, ready = start_sampler("ina3221", run, Where(str(sysfs)), period_ns=20_000_000)
    assert ready["period_ns"] == 20_000_000
    wait_for_samples(run, 120)
    os.kill(child.process.pid, signal.SIGSTOP)
    time.sleep(0.5)
    os.kill(child.process.pid, signal.SIGCONT)
    wait_for_samples(run, 300)
    assert child.stop() == 0
    _, samples = read_samples(run / "power.bin")
    starts = samples["t0_ns"][samples["channel"] == 0]
    phase = (starts - starts[0]) / 20e6
    # A sweep is never early: the next one is on the grid, however late the last was.
    assert np.all(np.diff(np.floor(phase + 0.01)) >= 1)
    report = json.loads((run / "sampler.json").read_text())
    assert report["gaps"] >= 1
    assert report["skipped_deadlines"] >= 20
    assert report["largest_gap_ns"] >= 400_000_000


def test_a_stop_command_and_sigterm_end_it_tidily(run: Path, sysfs: Path) -> None:
    child, _ = start_sampler("ina3221", run, Where(str(sysfs)))
    child.send(kind="something else")
    child.send(kind="stop")
    assert child.wait_for("done", 10) is not None
    assert child.process.wait(10) == 0
    child.stop()
    for name in ("power.bin", "sampler.json"):
        (run / name).unlink()
    child, _ = start_sampler("ina3221", run, Where(str(sysfs)))
    child.process.send_signal(signal.SIGTERM)
    assert child.process.wait(10) == 0
    child.stop()
    assert (run / "sampler.json").is_file()


def test_a_failed_read_is_a_row(run: Path, sysfs: Path) -> None:
    # Reading offset 0 of this file fails with EIO: a real error of a real file.
    broken = sysfs / "class" / "hwmon" / "hwmon0" / "curr2_input"
    broken.unlink()
    broken.symlink_to("/proc/self/mem")
    child, ready = start_sampler("ina3221", run, Where(str(sysfs)))
    wait_for_samples(run, 60)
    child.stop()
    _, samples = read_samples(run / "power.bin")
    channel = next(c["index"] for c in ready["channels"] if c["source"] == "curr2_input")
    failed = samples["errno"] != 0
    assert set(samples["errno"][failed].tolist()) == {errno.EIO}
    assert np.array_equal(failed, samples["channel"] == channel)
    assert not samples["raw"][failed].any()
    report = json.loads((run / "sampler.json").read_text())
    assert report["errors"] == {"EIO": report["sweeps"]}


def test_a_vanished_sensor_ends_it_and_keeps_the_rows(run: Path, sysfs: Path) -> None:
    # Files of a process that ends fail with ESRCH, as those of an unbound driver with ENODEV.
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    try:
        for file in (sysfs / "class" / "hwmon" / "hwmon0").glob("*_input"):
            file.unlink()
            file.symlink_to(f"/proc/{victim.pid}/oom_score")
        child, _ = start_sampler("ina3221", run, Where(str(sysfs)))
        wait_for_samples(run, 60)
    finally:
        victim.kill()
        victim.wait()
    message = error_of(child)
    assert "no channel of the sensor has given a value for 2 s" in str(message["message"])
    assert "ESRCH" in str(message["message"])
    assert message["mend"]
    _, samples = read_samples(run / "power.bin")
    bad = samples["errno"] == errno.ESRCH
    assert bad.any()
    assert not bad[:6].any()
    span_ns = samples["t1_ns"][bad][-1] - samples["t0_ns"][bad][0]
    assert span_ns >= 2_000_000_000
    assert json.loads((run / "sampler.json").read_text())["errors"]["ESRCH"] == bad.sum()


def test_a_full_disk_keeps_whole_records(run: Path, sysfs: Path) -> None:
    import resource

    child, _ = start_sampler("ina3221", run, Where(str(sysfs)), period_ns=1_000_000)
    wait_for_samples(run, 60)
    # A limit on the file's size in the middle of a record: a disk that is full from here on.
    limit = (run / "power.bin").stat().st_size + 32 * 50 + 11
    resource.prlimit(child.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    message = error_of(child)
    assert "cannot write" in str(message["message"])
    assert message["mend"] == "free some disk space"
    assert (run / "power.bin").stat().st_size == limit
    _, samples = read_samples(run / "power.bin")
    assert np.all(np.diff(samples["t0_ns"]) > 0)
    assert np.all(np.diff(samples["channel"]) % 6 == 1)  # nothing twice, nothing out of step


def test_an_output_that_cannot_be_made(run: Path, sysfs: Path) -> None:
    (run / "power.bin").write_text("there already")
    with pytest.raises(EdgejouleError, match=r"cannot write .*power.bin: File exists"):
        start_sampler("ina3221", run, Where(str(sysfs)))
    assert (run / "power.bin").read_text() == "there already"


def test_no_value_at_all_is_refused_before_it_starts(run: Path, sysfs: Path) -> None:
    for file in (sysfs / "class" / "hwmon" / "hwmon0").glob("*_input"):
        file.write_text("?\n")
    with pytest.raises(MeasurementError.__base__, match="gives a value"):
        start_sampler("ina3221", run, Where(str(sysfs)))
    assert not (run / "power.bin").exists()


def test_errors_before_it_is_ready_are_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgejouleError, match="no INA3221 below"):
        start_sampler("ina3221", run, Where(str(tmp_path / "nowhere")))
    with pytest.raises(EdgejouleError, match="no INA3221 below"):
        start_sampler("simulated", run)  # without the simulated board
    with pytest.raises(MeasurementError, match="was not ready within 0 s"):
        start_simulator(run, timeout_s=0.0)
    log = run / "run.log"
    child = start_child("ghost", "edgejoule.power.no_such_module", {}, log)
    with pytest.raises(MeasurementError, match=r"the ghost died before it was ready: .*No module"):
        acquire._await_ready(child, log, 20)
    child = start_child("sampler", "edgejoule.power.sampler", {"output": 3}, log)
    with pytest.raises(MeasurementError, match="the sampler failed: TypeError"):
        acquire._await_ready(child, log, 20)


def test_root_only_rails_reach_the_sampler(
    run: Path, sysfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sysfs / "class" / "hwmon" / "hwmon0" / "in1_input"
    descriptor = os.open(file, os.O_RDONLY)
    monkeypatch.setenv("EDGEJOULE_RAIL_FDS", json.dumps({str(file): descriptor}))
    child, _ = start_sampler("ina3221", run, Where(str(sysfs)))
    held = Path(f"/proc/{child.process.pid}/fd/{descriptor}")
    assert held.samefile(file)
    child.stop()
    os.close(descriptor)


def test_the_period() -> None:
    def period_ns(asked: int | None, refresh: int | None, sweep: int, advised: int | None) -> int:
        return choose_period_ns(asked, Group("chip", (0,), refresh, period_ns=advised), sweep)

    assert period_ns(None, 7_000_000, 20_000, None) == 7_000_000
    assert period_ns(None, 7_000_000, 20_000, 6_600_000) == 6_600_000
    assert period_ns(None, None, 20_000, None) == 10_000_000
    assert period_ns(3_000_000, 7_000_000, 20_000, 6_600_000) == 3_000_000
    assert period_ns(None, 100_000, 20_000, None) == 500_000
    assert period_ns(None, 7_000_000, 48_000_000, None) == 54_000_000  # a driver that waits


PARENT = """
    import sys, time
    from pathlib import Path
    from edgejoule.phases import PhaseBoard
    from edgejoule.power.acquire import start_sampler, start_simulator

    run = Path(sys.argv[1])
    board = PhaseBoard(run / "page.bin", run / "phases.jsonl")
    board.mark("idle_before")
    simulator = start_simulator(run)
    sampler, _ = start_sampler("simulated", run)
    print(simulator.process.pid, sampler.process.pid, flush=True)
    time.sleep(100)
"""


@pytest.fixture
def parent(run: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A stand-in for the experiment, with simulator and sampler, and their pids."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(run)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
    )
    assert process.stdout is not None
    yield process, [int(word) for word in process.stdout.readline().split()]
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_killed_parent_leaves_no_process_and_a_readable_trace(
    run: Path, parent: tuple[subprocess.Popen[str], list[int]]
) -> None:
    process, pids = parent
    wait_for_samples(run, 600)
    killed_ns = time.monotonic_ns()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert gone_within(pids, 10)
    _, samples = read_samples(run / "power.bin")
    assert samples["t1_ns"][-1] > killed_ns - 1_000_000_000
    assert json.loads((run / "sampler.json").read_text())["reads"] == len(samples)
    truth = json.loads((run / "truth.json").read_text())
    assert truth["energy_mj"]["VDD_IN"]["idle_before"] > 0


def test_a_killed_sampler_loses_at_most_a_second(
    run: Path, parent: tuple[subprocess.Popen[str], list[int]]
) -> None:
    _, (_, sampler) = parent
    wait_for_samples(run, 600)
    killed_ns = time.monotonic_ns()
    os.kill(sampler, signal.SIGKILL)
    assert gone_within([sampler], 10)
    header, samples = read_samples(run / "power.bin")
    assert samples["t1_ns"][-1] > killed_ns - 1_000_000_000
    assert header["simulated"] is True
    assert not (run / "sampler.json").exists()


def test_reading_power_needs_only_the_standard_library() -> None:
    script = """
        import sys

        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {"numpy", "pyarrow", "pandas", "torch", "rich", "scipy"}:
                    raise ImportError(f"{name} is not on a bare board")

        sys.meta_path.insert(0, Block())
        import edgejoule.power.acquire, edgejoule.power.boards, edgejoule.power.ina3221
        import edgejoule.power.recording, edgejoule.power.sampler, edgejoule.power.sensors
        import edgejoule.power.simulated_board, edgejoule.power.simulator
        import edgejoule.cli.measure_power, edgejoule.cli.measure_idling_power
        from edgejoule.cli.measure_power import main
        sys.exit(main(["rails", "--sysfs-root", sys.argv[1]]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), "/nowhere"],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "auto takes none: there is no power sensor here" in done.stdout


def test_two_chips_are_one_sensor(run: Path, tmp_path: Path) -> None:
    root = tmp_path / "two"
    make_chip(root, "1-0040", ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))
    make_chip(root, "1-0041", (None, "VDDQ_VDD2_1V8AO", None), hwmon=1, enabled=(0, 1, 0))
    child, ready = start_sampler("ina3221", run, Where(str(root)))
    child.stop()
    assert len(ready["channels"]) == 8
