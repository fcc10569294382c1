"""Packets of a Perfetto trace, written one by one, by the classes of the `perfetto` package.

A trace file is nothing but its packets, each behind a tag and its length, so a file of any size is
written in the memory of one packet:

    0A length [ClockSnapshot] 0A length [TrackDescriptor] 0A length [TrackEvent] ...

Packets of one *sequence* share their interned texts: the first clears the state, brings all texts
and says what holds for all that follow (the clock, the track). Stamps of a sequence never fall.

A slice of a layer differs from the next execution's in its stamp alone. So a packet without a stamp
is serialised once (a *pattern*), and each event is the pattern's bytes and those of a packet that
has nothing but the stamp: fields of a message may stand in any order, and two serialised messages
one after the other are their merger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from edgejoule.report.text import printable

if TYPE_CHECKING:
    from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

LONGEST_NAME = 200
LONGEST_TEXT = 1000
_FLUSH_BYTES = 1 << 20
_PACKET_TAG = b"\x0a"  # field 1 of Trace, with a length
_CLEARED, _NEEDED = 1, 2  # SEQ_INCREMENTAL_STATE_CLEARED, SEQ_NEEDS_INCREMENTAL_STATE
_INT64 = 1 << 63


class Packets:
    """A trace file that is being written.

    Args:
        file: Where to, opened for bytes.

    Attributes:
        count: Packets so far.
        bytes: Their bytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        from perfetto.protos.perfetto.trace import perfetto_trace_pb2

        self.pb = perfetto_trace_pb2
        self.count = 0
        self.bytes = 0
        self._file = file
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._sequences = 0
        self._heads: dict[int, bytes] = {}
        stamp = perfetto_trace_pb2.TracePacket()
        self._stamp, self._stamped = stamp, stamp.SerializeToString

    def next_sequence(self) -> int:
        """Return the number of a new sequence."""
        self._sequences += 1
        return self._sequences

    def write(self, packet: bytes, t_ns: int | None = None) -> None:
        """Append a serialised packet, at a time if one is given."""
        stamp = b""
        if t_ns is not None:
            self._stamp.timestamp = t_ns
            stamp = self._stamped()
        length = len(packet) + len(stamp)
        head = self._heads.get(length)
        if head is None:
            head = self._heads[length] = _PACKET_TAG + varint(length)
        self._held += (head, packet, stamp)
        self._held_bytes += length + len(head)
        self.count += 1
        if self._held_bytes >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand what is held to the file."""
        self._file.write(b"".join(self._held))
        self.bytes += self._held_bytes
        self._held, self._held_bytes = [], 0


class Sequence:
    """Events of one sequence, on one track unless an event says otherwise.

    Texts have to be interned and patterns made before `begin`; events come after it, their times
    not falling.

    Args:
        packets: The file.
        track: The track of its events.
    """

    def __init__(self, packets: Packets, track: int) -> None:
        self._packets = packets
        self._pb = packets.pb
        self._number = packets.next_sequence()
        self._track = track
        self._interned = packets.pb.InternedData()
        self._iids: dict[str, dict[str, int]] = {}
        self._begun = False
        self._ends = self._pattern(packets.pb.TrackEvent.TYPE_SLICE_END).SerializeToString()
        self._value = self._pattern(packets.pb.TrackEvent.TYPE_COUNTER)

    def slice_pattern(
        self, name: str, category: str, values: Mapping[str, object] | None = None
    ) -> bytes:
        """Return a pattern of the begin of a slice, with what a click on it shows."""
        return self._named(self._pb.TrackEvent.TYPE_SLICE_BEGIN, name, category, values)

    def counted_slice(
        self, name: str, category: str, values: Mapping[str, object]
    ) -> Callable[[int], bytes]:
        """Return what makes patterns of slices that differ in their annotation `index`."""
        whole = self.slice_pattern(name, category, {"index": 0, **values})
        packet = self._pb.TracePacket.FromString(whole)
        index = packet.track_event.debug_annotations[0]

        def pattern(number: int) -> bytes:
            index.int_value = number
            return bytes(packet.SerializeToString())

        return pattern

    def mark_pattern(
        self,
        name: str,
        category: str,
        values: Mapping[str, object] | None = None,
        track: int | None = None,
    ) -> bytes:
        """Return a pattern of a mark, an event without a length."""
        kind = self._pb.TrackEvent.TYPE_INSTANT
        return self._named(kind, name, category, values, track)

    def begin(self) -> None:
        """Write the sequence's first packet: all its texts, its clock, its track."""
        first = self._pb.TracePacket(
            trusted_packet_sequence_id=self._number,
            sequence_flags=_CLEARED | _NEEDED,
            first_packet_on_sequence=True,
            interned_data=self._interned,
        )
        defaults = first.trace_packet_defaults
        defaults.timestamp_clock_id = self._pb.BUILTIN_CLOCK_MONOTONIC
        defaults.track_event_defaults.track_uuid = self._track
        self._packets.write(first.SerializeToString())
        self._begun = True

    def event(self, pattern: bytes, t_ns: int) -> None:
        """Write an event by its pattern."""
        self._packets.write(pattern, t_ns)

    def end(self, t_ns: int) -> None:
        """End the innermost open slice."""
        self._packets.write(self._ends, t_ns)

    def value(self, t_ns: int, value: float) -> None:
        """Write a counter's value."""
        packet = self._value
        packet.timestamp = t_ns
        packet.track_event.double_counter_value = value
        self._packets.write(packet.SerializeToString())

    def _named(
        self,
        kind: pb.TrackEvent.Type.ValueType,
        name: str,
        category: str,
        values: Mapping[str, object] | None,
        track: int | None = None,
    ) -> bytes:
        packet = self._pattern(kind)
        event = packet.track_event
        event.name_iid = self._iid("event_names", printable(name, LONGEST_NAME))
        event.category_iids.append(self._iid("event_categories", category))
        if track is not None:
            event.track_uuid = track
        self._annotate(event.debug_annotations, values or {})
        return bytes(packet.SerializeToString())

    def _pattern(self, kind: pb.TrackEvent.Type.ValueType) -> pb.TracePacket:
        packet = self._pb.TracePacket(
            trusted_packet_sequence_id=self._number, sequence_flags=_NEEDED
        )
        packet.track_event.type = kind
        return packet

    def _iid(self, table: str, text: str) -> int:
        known = self._iids.setdefault(table, {})
        if text not in known:
            if self._begun:
                raise RuntimeError(f"the text {text!r} comes after the sequence has begun")
            known[text] = len(known) + 1
            entry = getattr(self._interned, table).add()
            entry.iid = known[text]
            if table == "debug_annotation_string_values":
                entry.str = text.encode()
            else:
                entry.name = text
        return known[text]

    def _annotate(self, holder: Any, values: Mapping[str, object]) -> None:
        """Add annotations; a value that is not known, or no finite number, is left out."""
        for name, value in values.items():
            if value is None or (isinstance(value, float) and not math.isfinite(value)):
                continue
            one = holder.add()
            one.name_iid = self._iid("debug_annotation_names", printable(name, LONGEST_NAME))
            if isinstance(value, Mapping):
                self._annotate(one.dict_entries, value)
                if not one.dict_entries:
                    del holder[-1]
            elif isinstance(value, bool):
                one.bool_value = value
            elif isinstance(value, int) and -_INT64 <= value < _INT64:
                one.int_value = value
            elif isinstance(value, float):
                one.double_value = value
            else:
                text = printable(value, LONGEST_TEXT)
                one.string_value_iid = self._iid("debug_annotation_string_values", text)


def varint(number: int) -> bytes:
    """Return a number of zero or more as Protocol Buffers write it."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
