"""The tracks of a trace: one process with its threads and counters, each named with its marks.

    process  resnet18 [SIMULATED power, random weights]
      thread  phases
      thread  inferences and layers
      thread  layers at the same time 2       only where layers overlap
      thread  replay pass
      counter power VDD_IN                    W
      counter temperature_gpu                 one per column of the resources

A run does not record the numbers of its process and threads, and Perfetto wants some: they are made
up, and the process's description says so.
"""

from __future__ import annotations

from collections.abc import Sequence as Several
from typing import TYPE_CHECKING

from edgejoule.report.text import printable
from edgejoule.report.trace.packets import LONGEST_NAME, LONGEST_TEXT, Packets

if TYPE_CHECKING:
    from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

_PROCESS = 1


class Tracks:
    """Declares tracks.

    Args:
        packets: The file.
        name: The process's name.
        marks: What must stand with every track.
        description: What else to say of the process.
    """

    def __init__(self, packets: Packets, name: str, marks: Several[str], description: str) -> None:
        self._packets = packets
        self._sequence = packets.next_sequence()
        self._marks = f" [{', '.join(marks)}]" if marks else ""
        self._threads = 0
        self._count = 0
        self.process = self._next()
        one = self._descriptor(self.process, name, description)
        one.process.pid = _PROCESS
        one.process.process_name = one.name
        if "child_ordering" in one.DESCRIPTOR.fields_by_name:  # releases since 2024
            one.child_ordering = packets.pb.TrackDescriptor.EXPLICIT
        self._write(one)

    def thread(self, name: str, description: str = "") -> int:
        """Declare a thread's track and return its number."""
        self._threads += 1
        one = self._child(name, description)
        one.thread.pid = _PROCESS
        # The thread that bears the process's number is its main thread, which none of these is.
        one.thread.tid = _PROCESS + self._threads
        one.thread.thread_name = one.name
        self._write(one)
        return int(one.uuid)

    def counter(self, name: str, unit: str, description: str = "") -> int:
        """Declare a counter's track and return its number."""
        one = self._child(name, description)
        one.counter.unit_name = unit
        self._write(one)
        return int(one.uuid)

    def _child(self, name: str, description: str) -> pb.TrackDescriptor:
        one = self._descriptor(self._next(), name, description)
        one.parent_uuid = self.process
        if "sibling_order_rank" in one.DESCRIPTOR.fields_by_name:
            one.sibling_order_rank = one.uuid
        return one

    def _descriptor(self, uuid: int, name: str, description: str) -> pb.TrackDescriptor:
        room = LONGEST_NAME - len(self._marks)
        one = self._packets.pb.TrackDescriptor(
            uuid=uuid, name=printable(name, max(room, 20)) + self._marks
        )
        if description and "description" in one.DESCRIPTOR.fields_by_name:
            one.description = printable(description, LONGEST_TEXT)
        return one

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _write(self, one: pb.TrackDescriptor) -> None:
        packet = self._packets.pb.TracePacket(
            trusted_packet_sequence_id=self._sequence, track_descriptor=one
        )
        self._packets.write(packet.SerializeToString())


def write_clock(packets: Packets, monotonic_ns: int, wall_ns: int | None) -> None:
    """Say that all stamps are CLOCK_MONOTONIC, and what time of day one of them was.

    Args:
        packets: The file; this has to be its first packet, those behind it are read by it.
        monotonic_ns: A time of the run.
        wall_ns: The same in UNIX time, None where nobody noted it.
    """
    pb2 = packets.pb
    packet = pb2.TracePacket(trusted_packet_sequence_id=packets.next_sequence())
    packet.timestamp = monotonic_ns
    packet.timestamp_clock_id = pb2.BUILTIN_CLOCK_MONOTONIC
    snapshot = packet.clock_snapshot
    snapshot.primary_trace_clock = pb2.BUILTIN_CLOCK_MONOTONIC
    snapshot.clocks.add(clock_id=pb2.BUILTIN_CLOCK_MONOTONIC, timestamp=monotonic_ns)
    if wall_ns is not None:
        snapshot.clocks.add(clock_id=pb2.BUILTIN_CLOCK_REALTIME, timestamp=wall_ns)
    packets.write(packet.SerializeToString())
