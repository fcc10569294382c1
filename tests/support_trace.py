"""Reads a Perfetto trace back, by the package's own classes, and holds it against its own rules."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

TABLES = {
    "event_names": "name",
    "event_categories": "name",
    "debug_annotation_names": "name",
    "debug_annotation_string_values": "str",
}


@dataclass
class Slice:
    """A slice; `inside` is the slice around it."""

    track: int
    name: str
    category: str
    values: dict[str, Any]
    begin: int
    end: int = -1
    inside: Slice | None = None


@dataclass
class Decoded:
    """What a trace says."""

    tracks: dict[int, pb.TrackDescriptor] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)
    marks: list[Slice] = field(default_factory=list)
    counters: dict[int, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    clock: pb.ClockSnapshot | None = None

    def named(self, words: str) -> int:
        """The number of the one track whose name begins so."""
        found = [uuid for uuid, one in self.tracks.items() if one.name.startswith(words)]
        assert len(found) == 1, (words, [one.name for one in self.tracks.values()])
        return found[0]

    def of(self, category: str) -> list[Slice]:
        return [one for one in self.slices if one.category == category]


def decode(path: Path) -> Decoded:
    """Return what a trace says; what breaks the format's rules fails here."""
    trace = pb.Trace.FromString(path.read_bytes())
    found = Decoded()
    states: dict[int, _State] = {}
    stacks: dict[int, list[Slice]] = defaultdict(list)
    for place, packet in enumerate(trace.packet):
        sequence = packet.trusted_packet_sequence_id
        assert sequence > 0
        if packet.HasField("clock_snapshot"):
            assert place == 0
            found.clock = packet.clock_snapshot
        elif packet.HasField("track_descriptor"):
            one = packet.track_descriptor
            assert one.uuid not in found.tracks
            assert one.uuid > 0
            assert one.HasField("process") or one.parent_uuid in found.tracks
            found.tracks[one.uuid] = one
        else:
            state = states.get(sequence)
            if state is None:
                state = states[sequence] = _State(packet)
                continue
            _event(found, state, stacks, packet)
    assert all(not stack for stack in stacks.values()), "a slice is not ended"
    return found


class _State:
    """What the first packet of a sequence declares."""

    def __init__(self, packet: pb.TracePacket) -> None:
        cleared = pb.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        assert packet.sequence_flags & cleared, "the first packet clears the state"
        assert packet.first_packet_on_sequence
        defaults = packet.trace_packet_defaults
        assert defaults.timestamp_clock_id == pb.BUILTIN_CLOCK_MONOTONIC
        self.track = defaults.track_event_defaults.track_uuid
        self.texts = {
            table: {one.iid: getattr(one, text) for one in getattr(packet.interned_data, table)}
            for table, text in TABLES.items()
        }
        for table, known in self.texts.items():
            assert len(known) == len(getattr(packet.interned_data, table)), "an iid twice"
            assert 0 not in known
        self.latest = -1


def _event(
    found: Decoded, state: _State, stacks: dict[int, list[Slice]], packet: pb.TracePacket
) -> None:
    assert packet.HasField("track_event")
    assert packet.sequence_flags == pb.TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
    assert not packet.HasField("interned_data")
    event, t = packet.track_event, packet.timestamp
    assert t >= state.latest, "stamps of a sequence fall"
    state.latest = t
    track = event.track_uuid or state.track
    assert track in found.tracks, "a track that nobody declared"
    if event.type == pb.TrackEvent.TYPE_COUNTER:
        assert found.tracks[track].HasField("counter")
        assert event.HasField("double_counter_value")
        found.counters[track].append((t, event.double_counter_value))
        return
    if event.type == pb.TrackEvent.TYPE_SLICE_END:
        one = stacks[track].pop()
        one.end = t
        assert t >= one.begin
        return
    name = state.texts["event_names"][event.name_iid]
    (category,) = (state.texts["event_categories"][iid] for iid in event.category_iids)
    one = Slice(track, name, category, _values(state, event.debug_annotations), t)
    if event.type == pb.TrackEvent.TYPE_INSTANT:
        found.marks.append(one)
        return
    assert event.type == pb.TrackEvent.TYPE_SLICE_BEGIN
    one.inside = stacks[track][-1] if stacks[track] else None
    stacks[track].append(one)
    found.slices.append(one)


def _values(state: _State, annotations: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in annotations:
        name = state.texts["debug_annotation_names"][one.name_iid]
        assert name not in found
        kind = one.WhichOneof("value")
        if one.dict_entries:
            found[name] = _values(state, one.dict_entries)
        elif kind == "string_value_iid":
            text = state.texts["debug_annotation_string_values"][one.string_value_iid]
            found[name] = text.decode()
        else:
            assert kind in {"int_value", "double_value", "bool_value"}, kind
            found[name] = getattr(one, kind)
    return found
