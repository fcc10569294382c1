"""Reading all channels of one rhythm and noting what was read, at as little cost as Python allows.

A sweep of six files costs about a tenth of opening, reading and closing them
(`benchmarks/sampler.py`): descriptors stay open, one `pread` each, text that has not changed is not
parsed again, the rows of a sweep are packed in one piece.

The end of one read is the start of the next, so that a sweep needs one look at the clock per file.

Standard library only.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgejoule.power.sensor import FileBacked, Sensor
from edgejoule.records import RecordWriter

_WORDS = 4  # of a record: t0_ns, t1_ns, raw, channel and errno (POWER in records.py)
_LENGTH = 32
_RAW_BITS = 64 - 1
_MICROSECOND_BINS = 32


@dataclass
class Tally:
    """What is counted of one rhythm.

    Attributes:
        sweeps: Sweeps made.
        reads: Files read, failed ones included.
        late_deadlines: Sweeps that began later than a tenth of the period.
        skipped_deadlines: Deadlines that had passed before the sweep before them ended.
        gaps: Times between two sweeps of more than three periods.
        largest_gap_ns: The longest time between two sweeps.
        max_lateness_ns: The latest begin of a sweep.
        sweep_ns: Time spent in sweeps.
        lateness_us_log2: Element k counts sweeps that began less than 2**k us late.
        errors: Failed reads by errno's name.
        failing_since_ns: Since when no channel gives a value, None while one does.
        last_error: The last failure, in words.
    """

    sweeps: int = 0
    reads: int = 0
    late_deadlines: int = 0
    skipped_deadlines: int = 0
    gaps: int = 0
    largest_gap_ns: int = 0
    max_lateness_ns: int = 0
    sweep_ns: int = 0
    lateness_us_log2: list[int] = field(default_factory=lambda: [0] * _MICROSECOND_BINS)
    errors: dict[str, int] = field(default_factory=dict)
    failing_since_ns: int | None = None
    last_error: str = ""

    def late_by(self, lateness_ns: int) -> None:
        """Count how late a sweep began."""
        bin_of = min(_MICROSECOND_BINS - 1, (lateness_ns // 1000).bit_length())
        self.lateness_us_log2[bin_of] += 1
        self.max_lateness_ns = max(self.max_lateness_ns, lateness_ns)


class Changes:
    """How often each channel's value changed, whichever rhythm saw it first.

    Args:
        channels: Number of channels of the sensor.

    Attributes:
        counts: Changes by channel.
        values: Each channel's latest value, None before the first.
    """

    def __init__(self, channels: int) -> None:
        self.counts = [0] * channels
        self.values: list[int | None] = [None] * channels

    def note(self, channel: int, value: int) -> None:
        """Take a reading; the first value is no change: nothing is known of when it came."""
        last = self.values[channel]
        if value != last:
            self.counts[channel] += last is not None
            self.values[channel] = value


class Sweeper:
    """Reads some channels of a sensor in order and writes one row each.

    Args:
        sensor: An open sensor.
        channels: Which of its channels, in the order of reading.
        writer: Where rows go.
        tally: What is counted.
        changes: Where changed values are noted.
    """

    def __init__(
        self,
        sensor: Sensor,
        channels: Sequence[int],
        writer: RecordWriter,
        tally: Tally,
        changes: Changes,
    ) -> None:
        self._changes = changes
        self._sensor = sensor
        self._channels = tuple(channels)
        self._writer = writer
        self._tally = tally
        self._words = [0] * (_WORDS * len(self._channels))
        self._words[3::_WORDS] = [_channel_word(channel, 0) for channel in self._channels]
        self._pack = struct.Struct(f"<{len(self._words)}q").pack
        self._raw_words = [slot * _WORDS + 2 for slot in range(len(self._channels))]
        self._texts: list[bytes] = []
        self._plan: list[tuple[int, int, int]] = []
        self._look_up()

    def sweep(self) -> None:
        """Read all channels in order.

        The common case, files that can all be read, stands here in one piece: a call costs as much
        as the read of a file does.
        """
        tally, clock = self._tally, time.monotonic_ns
        start_ns = now_ns = clock()
        words, pread, texts = self._words, os.pread, []
        try:
            for descriptor, t0_word, t1_word in self._plan:
                texts.append(pread(descriptor, _LENGTH, 0))
                words[t0_word] = now_ns
                words[t1_word] = now_ns = clock()
            # Lists are compared in one step: between two refreshes that is all.
            if texts != self._texts:
                self._take(texts)
            packed = self._pack(*words)
        except (OSError, ValueError, struct.error):
            texts = []
        if texts:
            self._writer.write_packed(packed, len(texts))
            tally.failing_since_ns = None
        else:
            now_ns = self._slow()
        tally.sweeps += 1
        tally.reads += len(self._channels)
        tally.sweep_ns += now_ns - start_ns

    def _look_up(self) -> None:
        """Take the sensor's descriptors, if every channel has one."""
        if not isinstance(self._sensor, FileBacked):
            return
        all_of_them = self._sensor.descriptors()
        own = [all_of_them[channel] for channel in self._channels]
        known = [descriptor for descriptor in own if descriptor is not None]
        self._plan = []
        if len(known) == len(own):
            self._plan = [(fd, slot * _WORDS, slot * _WORDS + 1) for slot, fd in enumerate(known)]
        self._texts = [b""] * len(self._channels)

    def _take(self, texts: list[bytes]) -> None:
        """Put changed values into the rows and note them."""
        words, values, counts = self._words, self._changes.values, self._changes.counts
        for text, old, word, channel in zip(
            texts, self._texts, self._raw_words, self._channels, strict=True
        ):
            if text != old:
                words[word] = value = int(text)
                last = values[channel]
                if value != last:  # another rhythm may have seen it before
                    counts[channel] += last is not None
                    values[channel] = value
        self._texts = texts

    def _slow(self) -> int:
        """Read channel by channel through the sensor, which knows what to do with a failure."""
        clock, read, write = time.monotonic_ns, self._sensor.read, self._writer.write
        first_ns, any_value = clock(), False
        for channel in self._channels:
            code = 0
            t0_ns = clock()
            try:
                raw = read(channel)
                if raw.bit_length() > _RAW_BITS:
                    raw, code = 0, errno.EBADMSG
            except OSError as error:
                raw, code = 0, error.errno or errno.EIO
            write(t0_ns, clock(), raw, channel, code)
            if code:
                name = errno.errorcode.get(code, str(code))
                self._tally.errors[name] = self._tally.errors.get(name, 0) + 1
                self._tally.last_error = f"{os.strerror(code)} ({name})"
            else:
                any_value = True
                self._changes.note(channel, raw)
        if any_value:
            self._tally.failing_since_ns = None
        elif self._tally.failing_since_ns is None:
            self._tally.failing_since_ns = first_ns
        if self._plan and any_value:
            self._look_up()  # a channel that came back may have another descriptor
        return clock()


def _channel_word(channel: int, code: int) -> int:
    """Return the last eight bytes of a record, channel and errno, as one number."""
    return channel | code << 32
