"""What the live view reads: the ends of real record files, as they grow and as they break."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from edgejoule.live_run import About, Latencies, LiveRun, PhaseNow, Power, heat_of
from edgejoule.records import INFERENCES, POWER, RESOURCES, RecordWriter
from edgejoule.report.experiment_view import RunView
from edgejoule.report.outlook import Asked, Whole
from edgejoule.tails import RecordTail

if sys.platform == "win32":
    pytest.skip("measuring needs Linux or macOS", allow_module_level=True)

S = 1_000_000_000
MS = 1_000_000
CHANNELS = [
    {"index": 0, "rail": "VDD_IN", "quantity": "voltage", "unit": "mV", "chip": "1-0040"},
    {"index": 1, "rail": "VDD_IN", "quantity": "current", "unit": "mA", "chip": "1-0040"},
    {"index": 2, "rail": "VDD_SOC", "quantity": "power", "unit": "mW", "chip": "1-0040"},
]
HEADER = {
    "sensor": "ina3221", "simulated": False, "channels": CHANNELS, "refresh_ns": 6_600_000,
    "total": {"rails": ["VDD_IN"], "contains": "all", "excludes": "", "source": "here"},
}  # fmt: skip


def power_writer(folder: Path, **changes: object) -> RecordWriter:
    return RecordWriter(folder / "power.bin", POWER, {**HEADER, **changes})


def sweep(writer: RecordWriter, t_ns: int, current_ma: int, soc_mw: int = 1000) -> None:
    """Write one sweep of all channels, 10 V on the voltage's."""
    for channel, raw in ((0, 10_000), (1, current_ma), (2, soc_mw)):
        start = t_ns + channel * MS
        writer.write(start, start + 100_000, raw, channel, 0)


def test_a_tail_gives_each_whole_record_once(tmp_path: Path) -> None:
    path = tmp_path / "resources.bin"
    tail = RecordTail(path)
    assert tail.read() == b""  # it is not there yet
    path.write_bytes(b"EJREC0")
    assert tail.read() == b""  # nor its header
    path.unlink()
    writer = RecordWriter(path, RESOURCES, {"columns": []})
    assert tail.read() == b""
    writer.write(1, 2, 3, 4)
    writer.flush()
    assert list(RESOURCES.struct.iter_unpack(tail.read())) == [(1, 2, 3, 4)]
    assert tail.read() == b""
    with path.open("ab") as file:
        file.write(RESOURCES.struct.pack(5, 6, 7, 8)[:13])  # a record that is being written
    assert tail.read() == b""
    with path.open("ab") as file:
        file.write(RESOURCES.struct.pack(5, 6, 7, 8)[13:] + RESOURCES.struct.pack(9, 9, 9, 9))
    assert [row[0] for row in RESOURCES.struct.iter_unpack(tail.read())] == [5, 9]
    tail.close()
    writer.close()


def test_a_tail_can_be_bounded_from_either_end(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "r", RESOURCES, {})
    for number in range(10):
        writer.write(number, 0, 0, 0)
    writer.close()

    def numbers(data: bytes) -> list[int]:
        return [row[0] for row in RESOURCES.struct.iter_unpack(data)]

    tail = RecordTail(tmp_path / "r")
    assert numbers(tail.read(4)) == [0, 1, 2, 3]
    assert numbers(tail.read(4)) == [4, 5, 6, 7]
    assert numbers(tail.read(4)) == [8, 9]
    tail.close()
    last = RecordTail(tmp_path / "r")
    assert numbers(last.read(3, last=True)) == [7, 8, 9]
    assert numbers(last.read(3, last=True)) == []
    last.close()


def test_a_file_that_shrank_or_is_none_gives_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no record file at all, but long enough")
    assert RecordTail(tmp_path / "x").read() == b""
    writer = RecordWriter(tmp_path / "r", RESOURCES, {})
    writer.write(1, 1, 1, 1)
    writer.close()
    tail = RecordTail(tmp_path / "r")
    assert tail.read()
    with (tmp_path / "r").open("r+b") as file:
        file.truncate(10)
    assert tail.read() == b""
    tail.close()


def test_latency_is_the_median_of_the_newest(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "inferences.bin", INFERENCES, {})
    seen = Latencies(tmp_path / "inferences.bin")
    seen.look()
    assert seen.now_ms is None
    assert seen.fresh(S) is None
    for index, ms in enumerate((1, 2, 30)):
        writer.write(index * 40 * MS, (index * 40 + ms) * MS, 0, index, 0)
    writer.flush()
    seen.look()
    assert (seen.now_ms, seen.pass_name) == (2.0, "warmup")
    # A thousand since the last look: the newest count, and those of the newest pass.
    for index in range(1000):
        ms = 5 if index < 900 else 7
        writer.write(S + index * MS, S + (index + ms) * MS, 0, index, 1)
    writer.flush()
    seen.look()
    assert (seen.now_ms, seen.pass_name) == (5.0, "clean")
    history = seen.history_ms(2 * S)
    assert len(history) == 60
    assert 5.0 < (history[-2] or 0.0) < 7.0
    assert history[-4] is None
    assert seen.fresh(2 * S) == 5.0
    assert seen.fresh(20 * S) is None  # nothing has run for long
    seen.close()
    writer.close()


def test_a_slow_inference_stands_in_every_second_that_it_ran(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "inferences.bin", INFERENCES, {})
    writer.write(1 * S, 4 * S + 1, 0, 0, 1)
    writer.flush()
    seen = Latencies(tmp_path / "inferences.bin")
    seen.look()
    assert [value is not None for value in seen.history_ms(4 * S)[-6:]] == [
        False, False, True, True, True, True,
    ]  # fmt: skip
    assert seen.fresh(12 * S) is not None  # one of three seconds may well still run
    seen.close()
    writer.close()


def test_power_is_that_of_the_trace(tmp_path: Path) -> None:
    power = Power(tmp_path / "power.bin")
    power.look(0)
    assert not power.is_there
    writer = power_writer(tmp_path)
    for step in range(200):
        sweep(writer, step * 10 * MS, 100)  # 1 W for two seconds
    writer.flush()
    power.look(0)
    total = power.total()
    assert total is not None
    assert (total.name, total.now_mw, total.mean_mw) == (
        "VDD_IN (total)", pytest.approx(1000.0), pytest.approx(1000.0),
    )  # fmt: skip
    # The phase changes between two looks: its mean is that of what came after.
    for step in range(200, 600):
        sweep(writer, step * 10 * MS, 100 if step < 300 else 300, 500)
    writer.flush()
    power.look(3 * S)
    rails = {rail.name: rail for rail in power.rails()}
    assert rails["VDD_IN"].now_mw == pytest.approx(3000.0)
    assert rails["VDD_IN"].mean_mw == pytest.approx(3000.0, rel=0.02)
    assert rails["VDD_SOC"].mean_mw == pytest.approx(500.0, rel=0.01)
    assert not power.simulated
    power.close()
    writer.close()


def test_a_sum_of_rails_is_the_total(tmp_path: Path) -> None:
    both = {"rails": ["VDD_IN", "VDD_SOC"], "contains": "", "excludes": "", "source": ""}
    writer = power_writer(tmp_path, total=both, simulated=True)
    for step in range(300):
        sweep(writer, step * 10 * MS, 200, 700)
    writer.flush()
    power = Power(tmp_path / "power.bin")
    power.look(0)
    total = power.total()
    assert total is not None
    assert total.name == "total"
    assert total.now_mw == pytest.approx(2700.0)
    assert total.mean_mw == pytest.approx(2700.0)
    assert power.simulated
    power.close()
    writer.close()


def test_a_board_without_a_total_has_rails_alone(tmp_path: Path) -> None:
    writer = power_writer(tmp_path, total=None)
    for step in range(100):
        sweep(writer, step * 10 * MS, 200)
    writer.close()
    power = Power(tmp_path / "power.bin")
    power.look(0)
    assert power.total() is None
    assert len(power.rails()) == 2
    power.close()


def test_heat() -> None:
    row = {
        "temperature_cpu_c": 40.0, "gpu_temperature_c": 50.0, "throttling_hot": 0.0,
        "throttled_oc1": 7.0, "throttled_cpu_core": 3.0, "gpu_throttled": 0.0,
        "rss_measuring_mib": 5.0, "memory_available_mib": 6.0, "cpu_mhz_mean": 1.0,
    }  # fmt: skip
    found = heat_of(row, {"throttled_oc1": 7.0, "throttled_cpu_core": 3.0})
    assert found["temperatures_c"] == (("gpu", 50.0), ("cpu", 40.0))
    assert found["throttled"] == ()
    assert (found["memory_mib"], found["available_mib"]) == (5.0, 6.0)
    slowed = {**row, "throttling_hot": 2.0, "throttled_oc1": 8.0, "gpu_throttled": 1.0}
    found = heat_of(slowed, {"throttled_oc1": 7.0, "throttled_cpu_core": 3.0})
    assert found["throttled"] == ("hot", "oc1", "gpu")
    nothing = heat_of({}, {})
    assert nothing["throttled"] is None
    assert nothing["temperatures_c"] == ()


class Shown:
    """Stands where the progress stands; always wants to show."""

    def __init__(self, look_s: float | None = 1.0) -> None:
        self.look_s = look_s
        self.views: list[RunView] = []
        self.lines: list[str] = []

    def show(self, phase, make) -> None:
        self.views.append(make())

    def line(self, text: str) -> None:
        self.lines.append(text)

    def clear(self) -> None:
        self.views.append(RunView("cleared"))


CONFIG = {"clean_seconds": 10.0, "runs": 100, "idle_duration_s": 2.0, "warmup": 5}
ABOUT = About("net", Asked(CONFIG, runs_after=1), None, (1, 2), Whole(1, 2, 90.0, 60.0))


def test_a_run_is_followed_from_its_files(tmp_path: Path) -> None:
    shown = Shown()
    live = LiveRun(tmp_path, shown, ABOUT, 0)
    live.tick(PhaseNow("setup", 0), S)
    first = shown.views[-1]
    assert (first.phase, first.phase_number, first.spent_s) == ("set-up", (1, 12), 1.0)
    assert not first.has_power
    # Nothing is known of this network but what the campaign estimated.
    assert (first.network_left_s, first.whole_left_s) == (89.0, 149.0)
    writer = power_writer(tmp_path, simulated=True)
    inferences = RecordWriter(tmp_path / "inferences.bin", INFERENCES, {})
    for step in range(100):
        sweep(writer, 2 * S + step * 10 * MS, 100)
        inferences.write(2 * S + step * 10 * MS, 2 * S + (step * 10 + 8) * MS, 0, step, 1)
    writer.flush()
    inferences.flush()
    live.announce("clean", None, 10.0)
    live.mark("random weights")
    live.mark("random weights")
    live.resources({"temperature_cpu_c": 40.0, "throttled_oc1": 3.0})
    live.resources({"temperature_cpu_c": 41.0, "throttled_oc1": 4.0})
    live.tick(PhaseNow("clean", 2 * S, 100, None, 100.0), 3 * S)
    view = shown.views[-1]
    assert view.marks == ("SIMULATED power", "random weights")
    assert (view.phase, view.done, view.rate_hz) == ("clean pass", 100, 100.0)
    assert view.phase_left_s == pytest.approx(9.0)
    assert view.latency_ms == pytest.approx(8.0)
    assert view.total_power is not None
    assert view.temperatures_c == (("cpu", 41.0),)
    assert view.throttled == ("oc1",)
    # 9 s clean, 2.5 observed, 0.96 profiled, 2 + 1 + 2 + 2 + 5 after; then all of it once more.
    once = 2 + 2 + 2 + 3 + 10 + 2.5 + 0.96 + 12
    assert view.network_left_s == pytest.approx(9 + 2.5 + 0.96 + 12 + once)
    assert view.whole_left_s == pytest.approx(9 + 2.5 + 0.96 + 12 + once + 60)
    # What interrupts the profiled pass belongs to it, and counts from its start.
    live.tick(PhaseNow("profiled", 4 * S, 10, 100, 10.0), 5 * S)
    live.tick(PhaseNow("harvest", 4 * S, 10, 100, 10.0), 6 * S)
    assert (shown.views[-1].phase, shown.views[-1].spent_s) == ("profiled pass", 2.0)
    live.close()
    assert shown.views[-1].model == "cleared"
    writer.close()
    inferences.close()


def test_with_quiet_no_file_is_opened(tmp_path: Path) -> None:
    shown = Shown(None)
    live = LiveRun(tmp_path, shown, ABOUT, 0)
    power_writer(tmp_path).close()
    live.tick(PhaseNow("clean", 0, 1, None, 1.0), S)
    assert shown.views == []
    assert live._power._tail.header is None
    live.close()


def test_files_are_looked_at_no_more_often_than_asked(tmp_path: Path) -> None:
    writer = power_writer(tmp_path)
    live = LiveRun(tmp_path, Shown(), ABOUT, 0)
    looks = []
    live._power.look = lambda _start_ns: looks.append(1)
    for step in range(400):
        live.tick(PhaseNow("clean", 0, step, None, 1.0), step * S // 100)
    assert len(looks) == 4
    live.close()
    writer.close()


def test_a_broken_trace_ends_the_view_and_not_the_run(tmp_path: Path) -> None:
    writer = power_writer(tmp_path, channels=[{**CHANNELS[2], "unit": "furlongs"}])
    writer.write(0, 1, 2, 2, 0)
    writer.flush()
    shown = Shown()
    live = LiveRun(tmp_path, shown, ABOUT, 0)
    for step in range(3):
        live.tick(PhaseNow("clean", 0), step * 2 * S)
    assert len(shown.lines) == 1
    assert shown.lines[0].startswith("the live view ended, the measurement goes on: ")
    live.close()
    writer.close()


@pytest.mark.parametrize(
    "error",
    [
        TypeError("\x1b[2Jx"),
        struct.error("x"),
        AttributeError("x"),
        RecursionError("x"),
        KeyError(),
    ],
)
def test_whatever_breaks_in_the_view_ends_the_view_alone(tmp_path: Path, error: Exception) -> None:
    def fail(_start_ns: int) -> None:
        raise error

    live = LiveRun(tmp_path, shown := Shown(), ABOUT, 0)
    live._power.look = fail
    for step in range(3):
        live.tick(PhaseNow("clean", 0), step * 2 * S)
    (line,) = shown.lines
    assert line.startswith("the live view ended, the measurement goes on: ")
    assert line.isprintable()
    live.close()


def test_a_view_that_looks_seldom_does_not_fall_behind(tmp_path: Path) -> None:
    writer = power_writer(tmp_path)
    live = LiveRun(tmp_path, shown := Shown(10.0), ABOUT, 0)
    live.tick(PhaseNow("clean", 0), S)
    for step in range(20_000):  # ten seconds of three channels read two thousand times a second
        sweep(writer, S + step * MS // 2, 100 if step < 15_000 else 500)
    writer.flush()
    live.tick(PhaseNow("clean", 0), 11 * S)
    total = shown.views[-1].total_power
    assert total is not None
    assert total.now_mw == pytest.approx(5000.0)
    live.close()
    writer.close()


def test_a_damaged_header_is_no_trace(tmp_path: Path) -> None:
    (tmp_path / "power.bin").write_bytes(b"EJREC001" + struct.pack("<I", 4) + b"{}{}")
    live = LiveRun(tmp_path, shown := Shown(), ABOUT, 0)
    live.tick(PhaseNow("clean", 0), S)
    assert not shown.views[-1].has_power
    live.close()


def test_marks_come_from_what_was_found(tmp_path: Path) -> None:
    """A user's file has the user's weights, whatever was asked for."""
    from edgejoule.phases import PhaseBoard
    from edgejoule.watch import Watch

    class Gpu:
        foreign_looks = 1

        def look_during(self, pids: tuple[int, ...]) -> None:
            self.pids = pids

        def read(self) -> dict[str, float]:
            return {"gpu_temperature_c": 61.0, "gpu_throttled": 1.0}

        def close(self) -> None:
            pass

    board = PhaseBoard(tmp_path / "page.bin", tmp_path / "phases.jsonl")
    board.mark("clean", 0)
    shown = Shown()
    watch = Watch(tmp_path, shown, LiveRun(tmp_path, shown, ABOUT, 0))
    watch.see_weights("pretrained")
    watch.see_weights("user")
    watch.see_gpu(Gpu())
    watch.board_is_there(str(tmp_path / "sys"), has_power=False)
    watch.follow("measuring", 1)
    watch.tick(S)
    watch.tick(2 * S)
    assert shown.views[-1].marks == ("user's weights", "shared GPU")
    assert ("gpu", 61.0) in shown.views[-1].temperatures_c
    assert shown.views[-1].throttled == ("gpu",)
    watch.on_message({"kind": "note", "text": "\x1b[2Ja note"})
    assert shown.lines[-1] == "\\x1b[2Ja note"
    watch.close()
    board.close()
