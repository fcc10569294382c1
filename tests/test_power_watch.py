"""`measure_power.py watch`: the growing trace, the screen, the command."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from edgejoule.cli import measure_power, power_watch
from edgejoule.energy.integrate import energy_mj
from edgejoule.energy.running import HISTORY_S, RunningTrace
from edgejoule.energy.trace import rail_powers_of_samples
from edgejoule.errors import MeasurementError
from edgejoule.processes import PROJECT_ROOT
from edgejoule.records import POWER, RecordWriter
from edgejoule.report import live
from edgejoule.report.live import LiveState, RailView, live_view, plain_line, to_json
from tests.support_power import SAMPLE, gone_within, make_chip, voltage_and_current

MS = 1_000_000
SECOND = 1000 * MS
UPTIME = 8_640_000_000_000_001
COUNTER = {"index": 2, "rail": "PKG", "quantity": "energy", "unit": "mJ", "wrap": 5000}
POWER_RAIL = {"index": 3, "rail": "GPU", "quantity": "power", "unit": "uW", "averaging": "1 s mean"}
CHANNELS: list[dict[str, Any]] = [*voltage_and_current(), COUNTER, POWER_RAIL]
HEADER = {"channels": CHANNELS, "sensor": "test", "simulated": False, "refresh_ns": 7 * MS}


def rows_of(seed: int, sweeps: int, period_ns: int = 7 * MS) -> np.ndarray:
    """Return sweeps of all four channels with failures, an irregular pace, a counter that wraps."""
    rng = np.random.default_rng(seed)
    starts = UPTIME + np.arange(sweeps) * period_ns + rng.integers(0, period_ns // 4, sweeps)
    samples = np.zeros((sweeps, 4), SAMPLE)
    for channel in range(4):
        samples["t0_ns"][:, channel] = starts + channel * MS
        samples["t1_ns"][:, channel] = starts + channel * MS + 500_000
        samples["channel"][:, channel] = channel
    samples["raw"][:, 0] = rng.integers(4800, 5200, sweeps)
    samples["raw"][:, 1] = rng.integers(500, 1500, sweeps)
    samples["raw"][:, 2] = np.cumsum(rng.integers(0, 3, sweeps) * 5) % 5000
    samples["raw"][:, 3] = rng.integers(1_000_000, 9_000_000, sweeps)
    failed = rng.random((sweeps, 4)) < 0.05
    samples["errno"][failed] = 61
    samples["raw"][failed] = 0
    return samples.ravel()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sweeps=st.integers(1, 700),
    cuts=st.lists(st.floats(0, 1), max_size=12),
)
def test_a_trace_in_pieces_gives_what_the_whole_gives(
    seed: int, sweeps: int, cuts: list[float]
) -> None:
    samples = rows_of(seed, sweeps)
    whole = rail_powers_of_samples(CHANNELS, samples)
    trace = RunningTrace(HEADER, ("VDD_IN",))
    edges = sorted(int(cut * len(samples)) for cut in cuts)
    for piece in np.split(samples, edges):
        trace.feed(piece)
    assert set(trace.rails) == set(whole)
    for name, series in whole.items():
        rail = trace.rails[name]
        if not len(series.t_ns):
            assert rail.first_ns is None
            continue
        if rail.last_ns is None or rail.first_ns is None:
            continue
        known = series.t_ns <= rail.last_ns
        assert rail.last_ns in series.t_ns
        assert rail.first_ns == series.t_ns[0]
        assert series.t_ns[-1] - rail.last_ns <= 1000 * MS  # what may still change
        assert rail.min_mw == pytest.approx(series.power_mw[known].min())
        assert rail.max_mw == pytest.approx(series.power_mw[known].max())
        if rail.last_ns > rail.first_ns:
            found = energy_mj(series, rail.first_ns, rail.last_ns)
            assert rail.energy_mj == pytest.approx(found.energy_mj, rel=1e-9)
            assert rail.mean_mw == pytest.approx(found.mean_mw, rel=1e-9)
    errors = int(np.count_nonzero(samples["errno"]))
    assert sum(trace.errors.values()) == errors
    assert set(trace.errors) <= {"ENODATA"}
    assert trace.reads == len(samples)


def test_hours_take_no_more_room_than_seconds() -> None:
    trace = RunningTrace(HEADER)
    sizes = []
    for k in range(30):
        samples = rows_of(k, 300)
        for name in ("t0_ns", "t1_ns"):
            samples[name] += k * 300 * 7 * MS
        trace.feed(samples)
        assert trace._kept is not None
        sizes.append(len(trace._kept))
    # Two seconds of three channels, and three reads of the counter.
    assert max(sizes) < 1.2 * 2000 / 7 * 3
    assert all(len(rail.seconds) <= HISTORY_S for rail in trace.rails.values())
    assert all(len(rail.recent) <= 2 * 500 / 7 + 2 for rail in trace.rails.values())
    trace.feed(samples[:0])  # nothing new


def two_rails(seconds: int, power: Callable[[np.ndarray], np.ndarray]) -> RunningTrace:
    channels = [
        {"index": k, "rail": f"R{k}", "quantity": "power", "unit": "mW", "chip": "x"}
        for k in (0, 1)
    ]
    n = seconds * 100
    samples = np.zeros(2 * n, SAMPLE)
    samples["t0_ns"] = samples["t1_ns"] = np.arange(2 * n) * 5 * MS
    samples["channel"] = np.tile([0, 1], n)
    samples["raw"] = np.repeat(power(np.arange(n) / 100), 2).astype(int)
    trace = RunningTrace({"channels": channels}, ("R0", "R1"))
    for piece in np.array_split(samples, 17):
        trace.feed(piece)
    return trace


def test_the_total_of_several_rails() -> None:
    trace = two_rails(6, lambda t: np.where((t >= 2) & (t < 4), 3000, 1000))
    total = trace.total()
    assert total is not None
    assert total.now_mw == 2000.0
    assert total.energy_mj == pytest.approx(2 * (4 * 1000 + 2 * 3000), rel=0.01)
    assert total.mean_mw == pytest.approx(total.energy_mj / 6, rel=0.01)
    assert (total.min_mw, total.max_mw) == (2000.0, 6000.0)
    assert total.history_mw(5)[-6:] == (2000.0, 2000.0, 6000.0, 6000.0, 2000.0, 2000.0)
    assert total.history_mw(5)[:-6] == (None,) * 54
    early = two_rails(1, lambda t: np.full(len(t), 1000)).total()
    assert early is not None
    assert (early.min_mw, early.max_mw) == (None, None)  # no whole second yet
    nothing = RunningTrace({"channels": CHANNELS}, ("VDD_IN", "GONE"))
    assert nothing.total() is None
    nothing.feed(rows_of(1, 10))
    assert nothing.total() is None
    assert RunningTrace(HEADER).total() is None


def test_rates_and_gaps_are_counted_as_they_come() -> None:
    samples = rows_of(3, 1000)
    samples["errno"] = 0
    samples["raw"][3::4] = np.arange(1000) // 10  # a new value with every tenth read
    holed = samples[: 4 * 500], samples[4 * 520 :]  # 20 sweeps are missing
    trace = RunningTrace({**HEADER, "groups": [{"channels": [0, 1, 2, 3]}, {"channels": []}]})
    for half in holed:
        for piece in np.array_split(half, 7):
            trace.feed(piece)
    rates = trace.rates_hz()
    assert rates[0][0] == pytest.approx(1000 / 7, rel=0.05)
    assert rates[3][1] == pytest.approx(1000 / 70, rel=0.1)
    assert trace.gaps == 1
    assert trace.largest_gap_ns == pytest.approx(147 * MS, abs=4 * MS)
    assert RunningTrace(HEADER).rates_hz() == {}
    assert RunningTrace(HEADER).newest_s() == 0


def test_a_trace_of_failures_only() -> None:
    samples = rows_of(1, 20)
    samples["errno"] = 5
    trace = RunningTrace(HEADER, ("VDD_IN",))
    trace.feed(samples)
    assert trace.errors == {"EIO": 80}
    state = power_watch.state_of(trace, HEADER)
    assert state.total is None
    assert {row.now_mw for row in state.rails} == {None}
    text = screen(state, 80)
    assert "80 EIO" in text
    assert "no total" in text


# The screen.

HISTORY = (None,) * 20 + tuple(4000 + 3000 * abs(math.sin(k / 5)) for k in range(40))
RAILS = (
    RailView("VDD_IN", 5312.0, 5100.0, 4800.0, 8912.0, 612_345.0, HISTORY, 148.0),
    RailView("VDD_CPU_GPU_CV", 2312.0, 2100.0, 120.0, 4912.0, 212_345.0, HISTORY, 148.0),
    RailView("gpu", 412_345.0, 9.0, 0.0, 700_000.0, 3.2e9, HISTORY, 9.6, "mean over 1 s"),
    RailView("nothing"),
)
STATE = LiveState(
    sensor="ina3221,nvml",
    seconds=75.0,
    rails=RAILS,
    total=RailView("total", 5312.0, 5100.0, 4800.0, 8912.0, 612_345.0, HISTORY),
    total_of=("VDD_IN",),
    contains="the module: CPU, GPU, accelerators, SoC, memory",
    excludes="the carrier board with its fan, drives and USB devices",
    polls_hz=151.5,
    new_values_hz=148.0,
    refresh_ms=6.6,
    errors={"ENODATA": 12},
    gaps=2,
    largest_gap_ms=41.0,
    sampler_percent=1.23,
    note="a note",
)


def screen(state: LiveState, width: int, *, ascii_only: bool = False, color: bool = False) -> str:
    out = io.StringIO()
    console = Console(width=width, file=out, force_terminal=color, no_color=not color)
    console.print(live_view(state, width, ascii_only=ascii_only))
    return out.getvalue()


@pytest.mark.parametrize("width", [24, 40, 41, 59, 60, 79, 80, 100, 120, 200])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_the_screen_fits_every_width(width: int, ascii_only: bool) -> None:
    lines = screen(STATE, width, ascii_only=ascii_only).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[1].startswith("rail")
    table = lines[1 : 3 + len(RAILS)]
    assert [line[:3] for line in table[1:]] == ["VDD", "VDD", "gpu", "not", "tot"]
    assert len({line.rstrip() for line in table}) == len(table)  # no line was wrapped
    assert "5.31 W" in table[1]
    if ascii_only:
        assert "\n".join(lines).isascii()


def test_what_the_screen_shows_at_three_widths() -> None:
    narrow, usual, wide = (screen(STATE, width) for width in (40, 80, 120))
    assert "energy" in narrow
    assert "last minute" not in narrow
    assert "VDD_C" in narrow
    for text in (usual, wide):
        assert "last minute" in text
        assert "VDD_CPU_GPU_CV" in text
        assert "mean" in text
        assert "\u2588" in text
    for title in ("min", "max", "new/s"):
        assert title in wide
    assert "of 700 kW" not in wide
    assert "of 700 W" in wide
    flat = " ".join(wide.split())
    assert "total = VDD_IN: the module: CPU, GPU, accelerators, SoC, memory" in flat
    assert "without the carrier board" in flat
    assert "gpu: mean over 1 s" in flat
    assert "read 152/s, new values 148/s, refresh 6.6 ms" in flat
    assert "gaps: 2 (longest step 41 ms)" in flat
    assert "failed reads: 12 ENODATA" in flat
    assert "the sampler takes 1.2 % of a core" in flat
    assert "a note" in flat
    assert "\x1b[" in screen(STATE, 80, color=True)
    assert "\x1b[" not in usual


def test_simulated_is_always_on_the_screen() -> None:
    made_up = LiveState("simulated", True, rails=RAILS)
    for width in (20, 40, 80):
        assert "SIMULATED" in screen(made_up, width)
    assert plain_line(made_up).endswith("SIMULATED")
    assert to_json(made_up)["simulated"] is True
    assert "SIMULATED" not in screen(STATE, 80)


def test_a_view_before_the_first_reading() -> None:
    empty = LiveState("nvml")
    assert screen(empty, 80).splitlines() == [
        "nvml, 0.0 s",
        "waiting for readings",
        "gaps: 0",
        "failed reads: none",
    ]
    assert "waiting for readings" in plain_line(empty)
    assert json.dumps(to_json(empty), allow_nan=False)


def test_names_from_a_sensor_cannot_steer_the_terminal() -> None:
    evil = LiveState("x\x1b[2J", rails=(RailView("A\x1b]0;B\x07C", 1.0),), errors={"\x1bc": 1})
    assert "\x1b" not in screen(evil, 80) + plain_line(evil)
    assert "[bold]" in screen(LiveState("x", rails=(RailView("[bold]", 1.0),)), 80)


def test_the_plain_line_and_the_object() -> None:
    line = plain_line(STATE)
    assert line.startswith("75.0 s, total 5.31 W, VDD_IN 5.31 W")
    assert "total since the start 612 J" in line
    plain = to_json(STATE)
    assert plain["rails"][0]["energy_mj"] == 612_345.0
    assert "history_mw" not in plain["total"]
    assert json.loads(json.dumps(plain, allow_nan=False))["errors"] == {"ENODATA": 12}
    assert plain_line(LiveState("x", seconds=7000.0)).startswith("1 h 57 min")


@pytest.mark.parametrize(
    ("value", "power", "energy"),
    [
        (None, "-", "-"),
        (0.4, "0 mW", "0 mJ"),
        (-812.0, "-812 mW", "-812 mJ"),
        (5312.0, "5.31 W", "5.31 J"),
        (53_120.0, "53.1 W", "53.1 J"),
        (531_200.0, "531 W", "531 J"),
        (5_312_000.0, "5312 W", "5.31 kJ"),
        (5.3e9, "5300000 W", "5.30 MJ"),
    ],
)
def test_figures_are_short(value: float | None, power: str, energy: str) -> None:
    assert live.watts(value) == power
    assert live.joules(value) == energy


@settings(deadline=None)
@given(share=st.none() | st.floats(-1, 2), width=st.integers(0, 40), ascii_only=st.booleans())
def test_a_bar_is_as_wide_as_it_should_be(
    share: float | None, width: int, ascii_only: bool
) -> None:
    text = live.bar(share, width, ascii_only=ascii_only)
    assert len(text) == width
    if share is not None and share >= 1:
        assert text == ("#" if ascii_only else "\u2588") * width


@settings(deadline=None)
@given(
    values=st.lists(st.none() | st.floats(-10, 1e5), max_size=70),
    width=st.integers(1, 80),
    top=st.floats(0, 1e5),
)
def test_a_course_is_as_wide_as_it_should_be(
    values: list[float | None], width: int, top: float
) -> None:
    assert len(live.sparkline(values, width, top)) == width


def test_a_course_is_drawn_right() -> None:
    assert live.sparkline([0.0, 50.0, 100.0], 5, 100.0) == "  \u2581\u2585\u2588"
    assert live.sparkline([0.0, 100.0] * 30, 5, 100.0, ascii_only=True) == "+++++"
    assert live.sparkline([None, 1.0], 2, 0.0) == "  "
    assert live.bar(0.5, 4) == "\u2588\u2588  "
    assert live.bar(0.55, 4) == "\u2588\u2588\u258e "


# The tail of the file.


def test_the_tail_gives_each_whole_record_once(tmp_path: Path) -> None:
    path = tmp_path / "power.bin"
    writer = RecordWriter(path, POWER, HEADER)
    tail = power_watch.PowerTail(path)
    assert tail.header["sensor"] == "test"
    assert len(tail.read()) == 0
    writer.write(1, 2, 3, 0, 0)
    writer.write(4, 5, 6, 1, 0)
    writer.flush()
    assert tail.read()["raw"].tolist() == [3, 6]
    with path.open("ab") as file:  # half of a record, then its rest
        whole = POWER.struct.pack(7, 8, 9, 0, 0)
        file.write(whole[:10])
        file.flush()
        assert len(tail.read()) == 0
        file.write(whole[10:])
    assert tail.read()["raw"].tolist() == [9]
    tail.close()
    writer.close()


def grown(tmp_path: Path) -> tuple[Path, int]:
    path = tmp_path / "power.bin"
    writer = RecordWriter(path, POWER, HEADER)
    for k in range(100_000):
        writer.write(k, k, k, 0, 0)
    writer.close()
    return path, path.stat().st_blocks


def test_what_was_read_is_given_back(tmp_path: Path) -> None:
    path, blocks = grown(tmp_path)
    size = path.stat().st_size
    tail = power_watch.PowerTail(path)
    assert tail.read()["raw"][-1] == 99_999
    with path.open("ab") as file:
        file.write(POWER.struct.pack(1, 2, 3, 0, 0))
    assert tail.read()["raw"].tolist() == [3]
    tail.close()
    assert path.stat().st_size == size + 32
    if path.stat().st_blocks == blocks:
        pytest.skip("this file system cannot make holes")
    assert path.stat().st_blocks < blocks / 4
    power_watch.PowerTail(path).close()  # the header is still there


def test_a_trace_that_cannot_be_given_back_ends_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = grown(tmp_path)
    tail = power_watch.PowerTail(path, release=lambda *_: False)
    assert len(tail.read()) == 100_000
    with path.open("ab") as file:
        file.write(bytes(64))
    monkeypatch.setattr(power_watch, "_MOST_BYTES", 1 << 21)
    with pytest.raises(MeasurementError, match="cannot release what was read"):
        tail.read()
    tail.close()


def test_elsewhere_nothing_can_be_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert power_watch.release_stretch(0, 0, 1) is False
    monkeypatch.setattr(sys, "platform", "linux")
    assert power_watch.release_stretch(-1, 0, 1) is False

    def without(*_: object, **__: object) -> object:
        return object()

    monkeypatch.setattr("ctypes.CDLL", without)
    assert power_watch.release_stretch(0, 0, 1) is False


def test_the_samplers_share_of_a_core(tmp_path: Path) -> None:
    stat = tmp_path / "7" / "stat"
    stat.parent.mkdir()
    ticks = os.sysconf("SC_CLK_TCK")

    def used(seconds: float) -> None:
        cpu = int(seconds * ticks)
        stat.write_text(f"7 (a ) b) S 1 {'0 ' * 9}{cpu // 2} {cpu - cpu // 2} 0 0\n")

    used(10.0)
    load = power_watch.CpuLoad(7, str(tmp_path))
    begin_s = load._last[0]
    used(10.5)
    load.look(begin_s + 0.5)
    assert load.percent is None  # too soon to mean anything
    load.look(begin_s + 2.0)
    assert load.percent == pytest.approx(25.0, abs=1.0)
    stat.unlink()
    load.look(begin_s + 4.0)
    assert load.percent is None
    used(11.0)
    load.look(begin_s + 6.0)
    assert load.percent is None
    used(12.0)
    load.look(begin_s + 8.0)
    assert load.percent == pytest.approx(50.0, abs=1.0)
    assert power_watch.CpuLoad(8, str(tmp_path)).percent is None


# The command.


def test_one_table_of_the_simulated_board(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["watch", "--sensor", "simulated", "--once", "--duration", "1.2"]
    assert measure_power.main(words) == 0
    out = capsys.readouterr().out
    assert "SIMULATED: no power is measured" in out
    assert "VDD_CPU_GPU_CV" in out
    assert "total = VDD_IN" in out
    assert "\x1b" not in out


def test_objects_for_programs_and_lines_for_logs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "sys"
    make_chip(root, "1-0040", ("A", "B", "C"))
    where = ["--sensor", "ina3221", "--sysfs-root", str(root), "--duration", "1.6"]
    assert measure_power.main(["watch", *where, "--json", "--interval", "0.3"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines
    last = lines[-1]
    assert (last["sensor"], last["simulated"], last["total"]) == ("ina3221", False, None)
    assert {row["name"]: row["now_mw"] for row in last["rails"]} == {
        "A": pytest.approx(500.1),
        "B": pytest.approx(1000.4),
        "C": pytest.approx(1500.9),
    }
    assert last["new_values_hz"] == 0.0  # the tree's numbers never change
    assert measure_power.main(["watch", *where, "--interval", "0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all("A 500 mW, B 1.00 W, C 1.50 W" in line for line in lines)
    assert lines


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--interval", "0"], 2, "--interval 0"),
        (["--duration", "inf"], 2, "--duration inf"),
        (["--duration", "-1"], 2, "give seconds above 0"),
        (["--sensor", "none"], 1, "no power sensor can be read here"),
        (["--sensor", "nonsense"], 2, "unknown sensor"),
    ],
)
def test_wrong_words(
    words: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure_power.main(["watch", *words]) == status
    assert says in capsys.readouterr().err


def in_terminal(words: list[str], signum: int | None, directory: Path) -> tuple[int, str]:
    """Run the command on a pseudo-terminal; send a signal once something is drawn."""
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(PROJECT_ROOT / "measure_power.py"), "watch", *words],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "TMPDIR": str(directory), "COLUMNS": "90"},
        start_new_session=True,
    )
    os.close(follower)
    text, sent = b"", False
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            data = os.read(leader, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not data:
            break
        text += data
        if signum is not None and not sent and b"VDD_SOC" in text:
            process.send_signal(signum)
            sent = True
    os.close(leader)
    return process.wait(20), text.decode(errors="replace")


def test_on_a_terminal_until_ctrl_c(tmp_path: Path) -> None:
    status, text = in_terminal(["--sensor", "simulated"], signal.SIGINT, tmp_path)
    assert status == 0, text
    assert "\x1b[?1049h" in text  # a screen of its own
    assert text.rindex("\x1b[?1049l") < text.rindex("VDD_IN")  # and the last picture stays
    assert "Traceback" not in text
    assert list(tmp_path.iterdir()) == []


def test_a_view_with_an_end_that_is_cut_short_is_interrupted(tmp_path: Path) -> None:
    words = ["--sensor", "simulated", "--duration", "50", "--interval", "0.2"]
    status, text = in_terminal(words, signal.SIGTERM, tmp_path)
    assert status == 130, text
    assert list(tmp_path.iterdir()) == []


def test_a_sensor_that_vanishes_ends_the_view_in_words(tmp_path: Path) -> None:
    root = tmp_path / "sys"
    directory = make_chip(root, "1-0040", ("A", "B", "C"))
    words = ["watch", "--sensor", "ina3221", "--sysfs-root", str(root)]
    process = subprocess.Popen(
        [sys.executable, str(PROJECT_ROOT / "measure_power.py"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert "A 500 mW" in process.stdout.readline()
    children = [
        int(word)
        for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]
    for path in directory.glob("*_input"):
        path.write_text("gone\n")
    try:
        assert process.wait(30) == 1
    finally:
        process.kill()
    assert "no channel of the sensor has given a value for 2 s" in process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert gone_within(children, 5)
