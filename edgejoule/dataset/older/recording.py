"""One recording of the older layout, read and put on one axis of time: all but the writing.

Whatever had to be decided on the way is a note, and whatever a complete run would have and this
one does not is `missing`. Numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from edgejoule.dataset.older.clock import Step, apart_ns, follow, spans_of, unroll
from edgejoule.dataset.older.engine import EngineWords, Joined, join, occurrences, read_engine_words
from edgejoule.dataset.older.facts import Idling, RunFile, read_idling, read_run_file
from edgejoule.dataset.older.layers import LayerLists, read_layer_times
from edgejoule.dataset.older.layout import Recording
from edgejoule.dataset.older.power_log import PowerLog, read_power_log
from edgejoule.dataset.older.times import US, Zone, format_stamps, to_utc
from edgejoule.errors import MeasurementError

Said = Callable[[str, int, int], None]


@dataclass
class Read:
    """A recording, ready to be written.

    Attributes:
        recording: Where it is from.
        facts: What it says of its configuration.
        words: What the engine says of itself.
        joined: The layers.
        durations_ms: Per layer float32 (inferences,).
        start_ns, end_ns: The inferences, int64, from `wall_ns` on.
        power_ns: int64 (readings,), rising; None without a log.
        log: The readings.
        idling: Idle power.
        wall_ns: UNIX time of 0; None where only durations are known.
        started_ns: UNIX time at which the recording began, as far as it is known.
        modelled: Times of inferences are laid back to back, not measured.
        notes: What was decided.
        missing: What a complete run would have.
        wrong: Why the recording contradicts itself, empty if it does not.
    """

    recording: Recording
    facts: RunFile
    words: EngineWords
    joined: Joined
    durations_ms: list[np.ndarray]
    start_ns: np.ndarray
    end_ns: np.ndarray
    power_ns: np.ndarray | None
    log: PowerLog | None
    idling: Idling | None
    wall_ns: int | None
    started_ns: int | None
    modelled: bool
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong: str = ""

    @property
    def inferences(self) -> int:
        """How many there are."""
        return len(self.end_ns)


def read_recording(recording: Recording, zone: Zone, said: Said) -> Read:
    """Read all files of a recording.

    Args:
        recording: The files.
        zone: The zone of its local times.
        said: Is told what is read, and how many bytes of how many.

    Raises:
        MeasurementError: One of them is damaged or makes no sense.
    """
    facts = read_run_file(recording.run_file)
    words = read_engine_words(recording.engine_info)
    idling = read_idling(recording.idling)
    lists = read_layer_times(
        recording.layer_times, lambda done, total: said("layer times", done, total)
    )
    notes: list[str] = []
    missing: list[str] = []
    names, durations, callbacks, count = _common(words, lists, notes, missing)
    joined = join(words, names)
    notes += [*joined.notes, *_list_notes(lists)]
    missing += joined.missing
    log = None
    if recording.power_log is not None:
        log = read_power_log(
            recording.power_log, lambda done, total: said("power log", done, total)
        )
        notes += _log_notes(log)
    sums_ns = np.zeros(count)
    for row in durations:
        sums_ns += row.astype(np.float64) * 1e6
    latency_ns = _latencies(facts, count, max(map(len, lists.durations_ms)), notes)
    base = _Base(zone, notes)
    power_us = base.power_us(log)
    end_us = None if callbacks is None else base.end_us(callbacks)
    first_us = min(
        (int(times[0]) for times in (power_us, end_us) if times is not None and len(times)),
        default=None,
    )
    zero_us = None if first_us is None else (first_us // US - 1) * US
    power_ns = None
    if power_us is not None and zero_us is not None and len(power_us):
        power_ns, equal = apart_ns(power_us - zero_us)
        if equal:
            notes.append(
                f"{equal} lines of the power log have the time of the line before: they stand a "
                "nanosecond after it"
            )
    end_ns = None if end_us is None or zero_us is None else (end_us - zero_us) * 1000
    spans = spans_of(end_ns, sums_ns, latency_ns)
    notes += spans.notes
    if not (spans.end_ns - spans.start_ns).any():
        raise MeasurementError(f"{recording.layer_times}: no inference takes any time")
    start_ns, stop_ns = spans.start_ns, spans.end_ns
    if start_ns[0] < 0 and zero_us is not None:
        # A first inference of more than a second: the axis begins before it.
        back = -(int(start_ns[0]) // 1_000_000_000) * 1_000_000_000
        zero_us -= back // 1000
        start_ns, stop_ns = start_ns + back, stop_ns + back
        power_ns = None if power_ns is None else power_ns + back
    if end_ns is None:
        notes.append(
            "no callback has a time: the inferences are laid back to back, and no power is "
            "attributed to them"
        )
        if power_ns is not None:
            # Behind the log, so that nobody integrates power over times that are not measured.
            start_ns, stop_ns = start_ns + power_ns[-1] + 1, stop_ns + power_ns[-1] + 1
    started_us = base.one_us(facts.started_us)
    if started_us is None:
        started_us = first_us
    if started_us is not None:
        notes.insert(0, f"local times are taken as those of {zone.name}")
    return Read(
        recording=recording,
        facts=facts,
        words=words,
        joined=joined,
        durations_ms=durations,
        start_ns=start_ns,
        end_ns=stop_ns,
        power_ns=power_ns,
        log=log,
        idling=idling,
        wall_ns=None if zero_us is None else zero_us * 1000,
        started_ns=None if started_us is None else started_us * 1000,
        modelled=end_ns is None,
        notes=notes,
        missing=missing,
        wrong=_contradiction(spans.wrong, count),
    )


def _contradiction(wrong: int, count: int) -> str:
    if not wrong:
        return ""
    return (
        f"in {wrong} of {count} inferences the layers take longer than the time since the "
        "inference before: layers that ran side by side, or a clock that was set"
    )


def _common(
    words: EngineWords, lists: LayerLists, notes: list[str], missing: list[str]
) -> tuple[list[str], list[np.ndarray], np.ndarray | None, int]:
    """Return names and durations of the inferences that all layers have, and the callbacks."""
    lengths = [len(row) for row in lists.durations_ms]
    times = occurrences(words, lists.names, lengths)
    each = [length // runs for length, runs in zip(lengths, times, strict=True)]
    count, most = min(each), max(each)
    if not count:
        name = lists.names[each.index(0)]
        raise MeasurementError(f"{lists.names and name[:60]!r} has no times: no inference is whole")
    if most > count:
        short = sum(length < most for length in each)
        notes.append(
            f"{short} layers have fewer inferences than the others: the first {count} of {most}, "
            "which all have, are taken"
        )
        if most - count > 1:
            missing.append(
                f"layers have between {count} and {most} inferences: more than a last one that "
                "was cut"
            )
    names: list[str] = []
    rows: list[np.ndarray] = []
    for name, row, runs in zip(lists.names, lists.durations_ms, times, strict=True):
        if runs > 1:
            notes.append(f"{name[:60]} runs {runs} times in an inference: its times were dealt out")
        for turn in range(runs):
            names.append(name)
            rows.append(row[turn::runs][:count])
    callbacks = lists.callbacks_us
    return names, rows, None if callbacks is None else callbacks[:: times[0]][:count], count


def _list_notes(lists: LayerLists) -> list[str]:
    notes = []
    if lists.rounded:
        notes.append(
            f"{lists.rounded} durations are no float32 numbers and were rounded (by 6e-8 at most)"
        )
    if lists.unordered:
        notes.append(
            f"{lists.unordered} callbacks are earlier than that of the layer before: the clock was "
            "set back meanwhile, or layers report in another order"
        )
    return notes


def _log_notes(log: PowerLog) -> list[str]:
    notes = []
    if log.wrong:
        notes.append(
            f"{log.wrong} lines of the power log are none and are left out ({log.first_wrong})"
        )
    if log.torn:
        notes.append("the last line of the power log has no end and is left out")
    return notes


def _latencies(facts: RunFile, count: int, longest: int, notes: list[str]) -> np.ndarray | None:
    """Return the latencies of the inferences that are taken, ns; None where the layers tell."""
    found = facts.latencies_s
    if found is None:
        notes.append("no latencies: inferences start by the sum of their layers")
        return None
    if len(found) not in {count, longest}:
        notes.append(
            f"{len(found)} latencies for {longest} inferences: inferences start by the sum of "
            "their layers"
        )
        return None
    return np.array(found[:count], np.float64) * 1e9


class _Base:
    """From local stamps to UTC microseconds that only rise; the log's clock is the inferences'."""

    def __init__(self, zone: Zone, notes: list[str]) -> None:
        self._zone = zone
        self._notes = notes
        self._steps: list[Step] = []
        self._near: tuple[int, int] | None = None

    def power_us(self, log: PowerLog | None) -> np.ndarray | None:
        """Return the times of the log."""
        if log is None or not len(log.local_us):
            return None
        utc = to_utc(log.local_us, self._zone, "the power log")
        self._notes += utc.notes
        times_us, self._steps = unroll(utc.us, "the power log")
        for step in self._steps:
            self._say("the power log", step.before_us, step.shift_us)
        self._near = (int(times_us[0]), int(times_us[-1]))
        return times_us

    def end_us(self, callbacks: np.ndarray) -> np.ndarray:
        """Return the ends of the inferences: the first layer's callbacks."""
        utc = to_utc(callbacks, self._zone, "the callbacks", self._near)
        self._notes += utc.notes
        moved = follow(utc.us, self._steps)
        times_us, steps = unroll(moved, "the callbacks")
        for step in steps:
            self._say("the callbacks", step.before_us, step.shift_us)
        return times_us

    def one_us(self, local_us: int | None) -> int | None:
        """Return a single time."""
        return None if local_us is None else local_us - self._zone.offset_us(local_us)

    def _say(self, what: str, before_us: int, shift_us: int) -> None:
        at = format_stamps(self._zone.to_local_us(np.array([before_us])))[0]
        self._notes.append(
            f"the clock of {what} was set back at {at}: all after it is moved on by "
            f"{shift_us / US:.6f} s"
        )
