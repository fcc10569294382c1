"""The simulated board: its books against brute force, and the trace against its truth."""

from __future__ import annotations

import itertools
import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.energy.calibration import fit_rail
from edgejoule.energy.calibration_load import load_of
from edgejoule.energy.integrate import energy_mj
from edgejoule.energy.sensor_model import Filtered, Waveform
from edgejoule.energy.trace import rail_powers_of_samples, read_samples
from edgejoule.errors import EdgejouleError
from edgejoule.files import write_json
from edgejoule.phases import PhaseBoard
from edgejoule.power.acquire import start_sampler, start_simulator
from edgejoule.power.exciter import Edge, write_edges
from edgejoule.power.exciter_schedule import plan_edges
from edgejoule.power.simulated_board import RAILS, Board, EnergyBook, Load
from edgejoule.power.simulated_chip import (
    EDGES_FILE,
    AnnouncedEdges,
    ChipParameters,
    LoadSignal,
    edge_of,
    read_chip,
)
from edgejoule.power.simulator import Chip, Observer, Tree

PHASE_NAMES = ("idle_before", "load", "clean", "cooldown", "idle_after")


@given(
    cuts=st.lists(st.integers(0, 10_000), min_size=1, max_size=8).map(sorted),
    windows=st.lists(st.tuples(st.integers(1, 3000), st.floats(0, 9000)), min_size=1, max_size=12),
    settle_every=st.integers(1, 5),
    ended=st.booleans(),
)
def test_windows_are_cut_exactly_at_the_marks(
    cuts: list[int], windows: list[tuple[int, float]], settle_every: int, ended: bool
) -> None:
    names = [PHASE_NAMES[i % len(PHASE_NAMES)] for i in range(len(cuts))]
    if ended:
        names[-1] = "end"
    book = EnergyBook(settle_ns=4000)  # a mark is seen at once here, a window settles later
    marks = list(zip(cuts, names, strict=True))
    expected: dict[str, float] = {}
    start = 0
    for number, (length, power) in enumerate(windows):
        end = start + length
        while marks and marks[0][0] <= end:
            book.mark(*marks.pop(0))
        book.add(1, start, end, power)
        for at, name in enumerate(names):
            stop = cuts[at + 1] if at + 1 < len(cuts) else end
            overlap = min(end, stop) - max(start, cuts[at])
            if overlap > 0 and name != "end":
                expected[name] = expected.get(name, 0.0) + power * overlap * 1e-9
        if number % settle_every == 0:
            book.settle(end)
        start = end
    for mark in marks:
        book.mark(*mark)
    book.settle(None)
    truth = book.to_json(start)
    found = truth["energy_mj"][RAILS[1].label]
    for name in set(expected) | set(found):
        assert found.get(name, 0.0) == pytest.approx(expected.get(name, 0.0), abs=1e-12)
    assert truth["late_marks"] == 0
    spans = truth["spans"]
    assert [span["start_ns"] for span in spans] == cuts[: len(spans)]
    assert all(a["end_ns"] <= b["start_ns"] for a, b in itertools.pairwise(spans))


def test_a_mark_that_comes_too_late_is_counted() -> None:
    book = EnergyBook(settle_ns=10)
    book.mark(0, "idle_before")
    book.add(0, 0, 100, 1000.0)
    book.settle(200)
    book.mark(50, "load")
    book.mark(40, "clean")  # a log that steps back begins no earlier than the mark before
    truth = book.to_json(300)
    assert truth["late_marks"] == 2
    assert [span["start_ns"] for span in truth["spans"]] == [0, 50, 50]


def test_the_model_rises_with_load_and_repeats_with_its_seed() -> None:
    now = 10_000_000_000
    board = Board(3, 0)
    for rail in range(len(RAILS)):
        idle = board.target_mw(rail, Load("idle_before"), now)
        loaded = board.target_mw(rail, Load("idle_loaded_before"), now)
        young = board.target_mw(rail, Load("clean", now), now)
        old = board.target_mw(rail, Load("clean", now - 10**9), now)
        assert idle < loaded < min(young, old)
        swing = RAILS[rail].swing * RAILS[rail].inference_mw
        assert old - young == pytest.approx(2 * swing, rel=1e-3)
    total, *parts = (board.target_mw(r, Load("clean", 0), now) for r in range(len(RAILS)))
    assert total > sum(parts)
    twin, other = Board(3, 0), Board(4, 0)
    load = Load("clean", 0)
    steps = [[b.step(0, load, now, 6_600_000) for _ in range(5)] for b in (board, twin, other)]
    assert steps[0] == steps[1] != steps[2]
    assert twin.registers(5000.0) == Board(3, 0).registers(5000.0)


def test_power_follows_with_a_time_constant_and_heat_follows_power() -> None:
    board = Board(0, 0)
    cold = board.temperature_c
    load = Load("clean", 0)
    for step in range(1, 40):
        board.step(0, load, step * 6_600_000, 6_600_000)
    assert board.power_mw[0] == pytest.approx(board.target_mw(0, load, 260_000_000), rel=0.02)
    assert board.warm(4_000_000_000) > cold
    assert board.warm(60_000_000_000) == pytest.approx(30 + 1.5e-3 * board.power_mw[0], abs=0.1)


def test_registers_move_in_steps_and_keep_the_mean() -> None:
    board = Board(1, 0)
    values = [board.registers(1303.7) for _ in range(20_000)]
    assert all(mv % 8 == 0 and ma % 8 == 0 for mv, ma in values)
    mean_mw = sum(mv * ma for mv, ma in values) / len(values) / 1000
    assert mean_mw == pytest.approx(1303.7, rel=2e-3)


def test_the_tree_is_rewritten_in_place(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    hwmon = tmp_path / "class" / "hwmon" / "hwmon0"
    with (hwmon / "curr1_input").open("rb", buffering=0) as kept:
        for value in (123456, -8, 0):
            tree.show(0, 5000, value)
            kept.seek(0)
            text = kept.read()
            assert (int(text), len(text)) == (value, 8)
    tree.show_temperature(37.4321)
    assert int((tmp_path / "class/thermal/thermal_zone0/temp").read_text()) == 37432
    assert (hwmon / "device").resolve().name == "1-0040"
    tree.close()
    Tree(tmp_path).close()  # again over what is there


def test_the_observer_waits_for_page_and_log(tmp_path: Path) -> None:
    page, log = tmp_path / "page.bin", tmp_path / "phases.jsonl"
    observer = Observer(page, log)
    assert observer.look() == Load("setup")
    assert observer.new_marks() == []
    page.touch()
    assert observer.look() == Load("setup")  # there, but empty yet
    board = PhaseBoard(page, log)
    assert observer.look() == Load("setup")  # nobody has marked a phase
    board.mark("clean", 5)
    board.begin_inference(7, 6)
    assert observer.look() == Load("clean", 6)
    board.end_inference()
    assert observer.look() == Load("clean", None)
    with log.open("a") as file:
        file.write('{"phase": "nonsense", "start_ns": 1}\nnot json\n{"phase": "un')
    assert observer.new_marks() == [(5, "clean")]
    with log.open("a") as file:
        file.write('load", "start_ns": 9}\n')
    assert observer.new_marks() == [(9, "unload")]
    board.close()
    observer.close()
    Observer(page, log).close()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "sysfs").write_text("in the way")
    with pytest.raises(EdgejouleError, match="cannot make the simulated board's files"):
        start_simulator(tmp_path)


# phase, seconds, milliseconds an inference takes, milliseconds between two
PLAN = (
    ("idle_before", 1.2, 0, 0),
    ("load", 0.2, 0, 0),
    ("idle_loaded_before", 1.2, 0, 0),
    ("warmup", 0.3, 3, 0.1),
    ("clean", 1.5, 3, 0.1),
    ("rate", 1.5, 4, 12),
    ("profiled", 1.2, 20, 1),
    ("idle_loaded_after", 1.2, 0, 0),
    ("unload", 0.05, 0, 0),
    ("idle_after", 1.2, 0, 0),
)


def play(run: Path) -> None:
    """Mark phases and inferences as a measuring process does, and sleep instead of working."""
    board = PhaseBoard(run / "page.bin", run / "phases.jsonl")
    simulator = start_simulator(run, seed=5)
    sampler, ready = start_sampler("simulated", run)
    assert ready["simulated"] is True
    time.sleep(0.1)
    for phase, seconds, busy_ms, pause_ms in PLAN:
        deadline = time.monotonic() + seconds
        board.mark(phase)
        index = 0
        while (left := deadline - time.monotonic()) > 0:
            if busy_ms:
                board.begin_inference(index, time.monotonic_ns())
                index += 1
            time.sleep(min(left, busy_ms * 1e-3 if busy_ms else left))
            board.end_inference()
            if pause_ms:
                time.sleep(pause_ms * 1e-3)
    board.mark("end")
    time.sleep(0.1)
    assert sampler.stop() == 0
    assert simulator.stop() == 0
    board.close()


@pytest.mark.alone
def test_energy_from_the_trace_is_the_true_energy(tmp_path: Path) -> None:
    play(tmp_path)
    truth = json.loads((tmp_path / "truth.json").read_text())
    header, samples = read_samples(tmp_path / "power.bin")
    rails = rail_powers_of_samples(header["channels"], samples)
    assert (truth["simulated"], truth["late_marks"], header["simulated"]) == (True, 0, True)
    assert [span["phase"] for span in truth["spans"]] == [phase for phase, *_ in PLAN]
    for span in truth["spans"]:
        length_ns = span["end_ns"] - span["start_ns"]
        if length_ns < 1_000_000_000:
            continue
        for label, energy in span["energy_mj"].items():
            found = energy_mj(rails[label], span["start_ns"], span["end_ns"])
            assert found.coverage == 1.0
            # Where the scheduler kept the sampler from reading for long, nothing can be known.
            excess_ns = max(0, found.largest_gap_ns - 70_000_000)
            allowed = 0.01 + excess_ns / length_ns
            assert found.energy_mj == pytest.approx(energy, rel=allowed), (span["phase"], label)
    for label in rails:
        of_phase = truth["energy_mj"][label]
        assert of_phase["clean"] / 1.5 > 1.1 * of_phase["idle_before"] / 1.2
        sums = sum(span["energy_mj"][label] for span in truth["spans"])
        assert sum(of_phase.values()) == pytest.approx(sums)


# --- the modelled chip -------------------------------------------------------


@given(
    steps=st.lists(
        st.tuples(st.integers(1, 4_000_000), st.sampled_from([1.0, -1.0, 0.5])), max_size=20
    ),
    tau_ns=st.sampled_from([0, 50_000, 3_000_000]),
)
def test_the_load_signal_is_the_model_of_a_sensor(
    steps: list[tuple[int, float]], tau_ns: int
) -> None:
    signal = LoadSignal(tau_ns)
    at, times, levels = 10**13, [], [0.0]
    for gap, step in steps:
        at += gap
        signal.step(at, step)
        times.append(at)
        levels.append(levels[-1] + step)
    wave = Waveform(np.array(times, np.int64), np.array(levels))
    for start in (10**13 - 5, 10**13 + 3_000_000, at - 1000):
        window = np.array([start]), np.array([start + 1_100_000])
        expected = Filtered(wave, tau_ns).mean(*window)[0]
        assert signal.mean(start, start + 1_100_000) == pytest.approx(expected, abs=1e-6)
        plain = Filtered(wave, 0).mean(*window)[0]
        assert signal.mean(start, start + 1_100_000, filtered=False) == pytest.approx(
            plain, abs=1e-6
        )


@pytest.mark.parametrize(
    "parameters",
    [
        ChipParameters(delay_ns=1_100_000, tau_ns=300_000),
        ChipParameters(delay_ns=2_000_000, tau_ns=600_000, samples=4),
        ChipParameters(refresh_ns=20_000_000, window_ns=5_000_000, delay_ns=4_000_000),
    ],
)
def test_the_modelled_chip_has_the_figures_that_it_was_given(
    tmp_path: Path, parameters: ChipParameters
) -> None:
    """Play the chip without a process or a clock, read it as a sampler would, and calibrate."""
    start = 10**13
    refresh = parameters.refresh_ns
    plan = [start + 10**9 + at for at in plan_edges(12 * 10**9, refresh, 1)]
    edges = [Edge(at, at, -1.0 if k % 2 else 1.0) for k, at in enumerate(plan)]
    write_edges(tmp_path / EDGES_FILE, edges)
    chip = Chip(Board(3, start), parameters, tmp_path / EDGES_FILE)
    chip.look()
    shown, values = [], []
    late = random.Random(0)
    due = start + 777_000
    while due < plan[-1]:
        # Every now and then this process sleeps through some conversions.
        slept = late.choice([0] * 50 + [1, 2]) * refresh + late.randrange(20_000)
        values.append(chip.convert(0, due, due + slept, 0)[1])
        shown.append(due + slept)
        due += (slept // refresh + 1) * refresh
    chip.close()
    rng = np.random.default_rng(0)
    polls = start + 10**7 + np.cumsum(rng.uniform(0.12, 0.25, 20 * len(shown)) * refresh)
    polls = polls[polls < shown[-1]].astype(np.int64)
    seen = np.array(values)[np.searchsorted(np.array(shown), polls, side="right") - 1]
    found = fit_rail(polls, polls + 2000, seen, load_of(edges))
    for name, truth in parameters.to_json().items():
        if truth:
            assert found[name].value == pytest.approx(truth, rel=0.05), name
    assert found["low"].value == pytest.approx(RAILS[0].idle_mw / 4.98, rel=0.01)
    drawn = chip.drawn_mw(0, plan[0] - 10**8, plan[0])
    assert drawn == pytest.approx(RAILS[0].idle_mw)
    assert chip.drawn_mw(0, plan[0], plan[0]) == RAILS[0].idle_mw


def test_a_chip_is_described_by_a_file(tmp_path: Path) -> None:
    path = tmp_path / "chip.json"
    assert read_chip(path) is None
    path.write_text('{"samples": 4, "tau_ns": 100000}')
    assert read_chip(path) == ChipParameters(samples=4, tau_ns=100_000)
    for text, says in (
        ("[]", "describes no chip"),
        ('{"colour": 1}', "describes no chip"),
        ('{"samples": 0}', "no such chip"),
        ('{"refresh_ns": 10}', "no such chip"),
        ('{"tau_ns": -1}', "whole numbers"),
        ('{"tau_ns": 1.5}', "whole numbers"),
        ('{"tau_ns": true}', "whole numbers"),
        ("{", "damaged"),
    ):
        path.write_text(text)
        with pytest.raises(EdgejouleError, match=says):
            read_chip(path)


def test_announced_edges_are_followed_as_they_come(tmp_path: Path) -> None:
    signal = LoadSignal(0)
    edges = AnnouncedEdges(tmp_path / EDGES_FILE, signal)
    edges.look()  # not there yet
    with (tmp_path / EDGES_FILE).open("w") as file:
        file.write(Edge(100, 102, 1.0).line() + "\nnonsense\n" + Edge(200, 200, -1.0).line()[:9])
        file.flush()
        edges.look()
        assert edges.count == 1
        file.write(Edge(200, 200, -1.0).line()[9:] + "\n")
    edges.look()
    assert edges.count == 2
    assert signal.mean(0, 202) == pytest.approx(99 / 202)
    edges.close()
    edges.close()


@given(st.binary(max_size=60))
def test_no_line_raises(line: bytes) -> None:
    found = edge_of(line)
    assert found is None or isinstance(found, tuple)


def test_what_is_no_edge() -> None:
    assert edge_of(b'{"before_ns": 1, "after_ns": 4, "step": 1}') == (2, 1.0)
    assert edge_of(b'{"before_ns": 1, "after_ns": 4, "step": Infinity}') is None
    assert edge_of(b'{"before_ns": Infinity, "after_ns": 4, "step": 1}') is None
    assert edge_of(b"[1]") is None


def test_the_boards_process_plays_a_chip(tmp_path: Path) -> None:
    write_json(tmp_path / "chip.json", {"refresh_ns": 10_000_000, "samples": 4})
    board = PhaseBoard(tmp_path / "page.bin", tmp_path / "phases.jsonl")
    child = start_simulator(tmp_path)
    hwmon = tmp_path / "sysfs" / "class" / "hwmon" / "hwmon0"
    assert (hwmon / "update_interval").read_text() == "10\n"
    assert (hwmon / "samples").read_text() == "4\n"
    start = board.mark("idle_before")
    edges = [Edge(start, start, 1.0), Edge(start + 10**12, start + 10**12, -1.0)]
    write_edges(tmp_path / EDGES_FILE, edges)
    deadline = time.monotonic() + 60
    high_ma = (RAILS[0].idle_mw + RAILS[0].inference_mw) / 5
    while int((hwmon / "curr1_input").read_text()) < 0.95 * high_ma:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert child.stop() == 0
    board.close()
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert truth["chip"] == ChipParameters(refresh_ns=10_000_000, samples=4).to_json()
    (span,) = truth["spans"]
    seconds = (span["end_ns"] - span["start_ns"]) * 1e-9
    mean_mw = span["energy_mj"]["VDD_IN"] / seconds
    assert mean_mw == pytest.approx(RAILS[0].idle_mw + RAILS[0].inference_mw, rel=0.05)


def test_a_chip_that_cannot_be_is_reported(tmp_path: Path) -> None:
    write_json(tmp_path / "chip.json", {"samples": 0})
    with pytest.raises(EdgejouleError, match="no such chip can be simulated"):
        start_simulator(tmp_path)
