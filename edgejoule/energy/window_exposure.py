"""How much of any span of time each layer, gap and idle took: exact, behind a low-pass. Numpy.

    inference i   start |held|..start..|[layer 0]..[layer 1]..[layer 2]|..end..| end   idle
    box                  B      B+1         0          1          2       B+2

Everything is a cumulative time function: the time spent in a box up to t is what earlier inferences
spent in it plus the part of this one, so that a span costs two look-ups however many layers and
reads there are. With tau y' = x - y the integral of y is that of x less tau times y, and y of a box
is a difference of two exponentials plus what is left of the inferences before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgejoule.energy.sensor_model import Floats
    from edgejoule.energy.timeline import Timeline

# Boxes behind the layers, and idle, which is the rest of the time.
HELD, START, BETWEEN, END, IDLE = range(5)
GAPS = 5
_NOTHING = 20.0
_FORGOTTEN = 16.0  # time constants after which nothing of a box is left


@dataclass(frozen=True)
class Placement:
    """Where the gaps of an inference lie.

    Attributes:
        before_ns: float64 (layers,): gap time before each layer, from the end of what the profiler
            holds; what is left of the inference's gap lies after the last layer.
        scaled: Whether it is for a mean inference and grows with each one's own gap; if not, it is
            the same in all, as far as their gaps reach.
    """

    before_ns: Floats
    scaled: bool = False


@dataclass(frozen=True)
class Looked:
    """Cumulative functions at k times.

    Attributes:
        area: float64 (k, layers + 5), ns: filtered time in each column up to then.
        value: float64 (k, layers + 5): its derivative, the filtered share of each column.
        first: float64 (k,): how many first layers have begun, filtered.
        last: float64 (k,): how many last layers have ended, filtered.
        ratio: float64 (k,): by what a placement's times are multiplied in the running inference.
    """

    area: Floats
    value: Floats
    first: Floats
    last: Floats
    ratio: Floats

    def part(self, first: int, end: int) -> Looked:
        """Return some of the times."""
        cut = slice(first, end)
        return Looked(
            self.area[cut], self.value[cut], self.first[cut], self.last[cut], self.ratio[cut]
        )


class Exposure:
    """Looks up cumulative times of a timeline.

    Args:
        timeline: Inferences and layers.
        origin_ns: Times are ns from here.
    """

    def __init__(self, timeline: Timeline, origin_ns: int) -> None:
        self.start = (timeline.start_ns - origin_ns).astype(np.float64)
        self.end = (timeline.end_ns - origin_ns).astype(np.float64)
        self.layer = timeline.layer_ns
        self.layers = timeline.layers
        self.offset = timeline.offset_ns
        held = timeline.held_ns
        spent = self.end - self.start
        gap = np.maximum(timeline.gap_ns, 0.0)
        self.held: Floats = np.zeros(len(spent))
        if held is not None:
            self.held = np.clip(held.astype(np.float64), 0.0, gap)
        self.free = gap - self.held
        self.mean_free = float(np.mean(self.free)) if len(self.free) else 0.0
        self._busy = self.layer.sum(axis=1)
        self._cumulative = np.zeros((len(spent) + 1, self.layers))
        np.cumsum(self.layer, axis=0, out=self._cumulative[1:])
        self._placed: tuple[Placement, Floats] | None = None

    def boundaries(self, rows: np.ndarray, placement: Placement) -> tuple[Floats, Floats, Floats]:
        """Return begin and end of every box of inferences from their starts, and their ratios.

        Args:
            rows: int64 (k,), the inferences.
            placement: Where gaps lie; not asked where the timeline has true starts.

        Returns:
            float64 (k, layers + 4) twice, float64 (k,).
        """
        duration = self.layer[rows]
        held, free = self.held[rows], self.free[rows]
        ratio = self._ratio(rows, placement)
        if self.offset is not None:
            begin = self.offset[rows].astype(np.float64)
        else:
            before = np.minimum(ratio[:, None] * placement.before_ns, free[:, None])
            begin = np.cumsum(duration, axis=1)
            begin -= duration
            begin += before
            begin += held[:, None]
        starts = np.empty((len(rows), self.layers + 4))
        ends = np.empty_like(starts)
        starts[:, : self.layers] = begin
        np.add(begin, duration, out=ends[:, : self.layers])
        spent = self.end[rows] - self.start[rows]
        first, last = begin[:, 0], np.minimum(ends[:, self.layers - 1], spent)
        edges = (np.zeros(len(rows)), np.minimum(held, first), first, last, spent)
        for box in range(4):
            starts[:, self.layers + box] = edges[box]
            ends[:, self.layers + box] = edges[box + 1]
        return starts, ends, ratio

    def _cumulative_boxes(self, placement: Placement) -> Floats:
        """Return time in the boxes that are no layers, before each inference, float64 (n, 4)."""
        if self._placed is None or self._placed[0] is not placement:
            if self.offset is not None:
                first = self.offset[:, 0].astype(np.float64)
                last = self.offset[:, -1] + self.layer[:, -1]
            else:
                ratio = self._ratio(slice(None), placement)
                first = self.held + np.minimum(ratio * placement.before_ns[0], self.free)
                last = self.held + np.minimum(ratio * placement.before_ns[-1], self.free)
                last = last + self._busy
            spent = self.end - self.start
            last = np.minimum(last, spent)
            edges = (np.zeros(len(spent)), np.minimum(self.held, first), first, last, spent)
            gaps = np.zeros((len(spent), 4))
            for box in range(4):
                length = edges[box + 1] - edges[box]
                np.cumsum(length[:-1], out=gaps[1:, box])
            self._placed = (placement, gaps)
        return self._placed[1]

    def _ratio(self, rows: npt.NDArray[np.int64] | slice, placement: Placement) -> Floats:
        free = self.free[rows]
        if placement.scaled and self.mean_free > 0:
            return free / self.mean_free
        return np.ones(len(free))

    def running(self, at_ns: Floats) -> npt.NDArray[np.int64]:
        """Return the last inference that has begun at times, the first one before it."""
        row = np.searchsorted(self.start, at_ns, side="right") - 1
        result: npt.NDArray[np.int64] = np.clip(row, 0, len(self.start) - 1)
        return result

    def look(self, at_ns: Floats, placement: Placement, tau_ns: float) -> Looked:
        """Return the cumulative functions at times, ns from the origin."""
        row = self.running(at_ns)
        since = np.maximum(at_ns - self.start[row], 0.0)
        starts, ends, ratio = self.boundaries(row, placement)
        boxes = self.layers + 4
        area = np.empty((len(row), boxes + 1))
        inside = np.clip(since[:, None] - starts, 0.0, ends - starts)
        area[:, : self.layers] = self._cumulative[row] + inside[:, : self.layers]
        area[:, self.layers : boxes] = (
            self._cumulative_boxes(placement)[row] + inside[:, self.layers :]
        )
        value = np.empty_like(area)
        begun = since > starts[:, 0]
        ended = since > ends[:, self.layers - 1]
        if tau_ns > 0:
            value[:, :boxes], first, last = self._filtered(
                at_ns, row, since, starts, ends, placement, tau_ns
            )
            area[:, :boxes] -= tau_ns * value[:, :boxes]
        else:
            value[:, :boxes] = (since[:, None] > starts) & (since[:, None] <= ends)
            first, last = (row + begun).astype(np.float64), (row + ended).astype(np.float64)
        self._settle_between(area, value)
        area[:, boxes] = at_ns - area[:, :boxes].sum(axis=1)
        value[:, boxes] = 1.0 - value[:, :boxes].sum(axis=1)
        return Looked(area, value, first, last, ratio)

    def _settle_between(self, area: Floats, value: Floats) -> None:
        # The box from the first layer to the last holds the layers as well: their rest is gap.
        between = self.layers + BETWEEN
        area[:, between] -= area[:, : self.layers].sum(axis=1)
        value[:, between] -= value[:, : self.layers].sum(axis=1)

    def _filtered(
        self,
        at_ns: Floats,
        row: np.ndarray,
        since: Floats,
        starts: Floats,
        ends: Floats,
        placement: Placement,
        tau_ns: float,
    ) -> tuple[Floats, Floats, Floats]:
        """Return the filtered share of each box, first layers begun and last ones ended."""
        last = self.layers - 1
        left = _decayed(since[:, None] - starts, tau_ns)
        first_left, value = left[:, 0].copy(), _decayed(since[:, None] - ends, tau_ns)
        last_left = value[:, last].copy()
        value -= left
        # A boundary ahead has left 1 of nothing: it counts 0 below, as 1 - 1.
        first, ended = row + 1.0 - first_left, row + 1.0 - last_left
        for back in range(1, len(self.start)):
            before = row - back
            near = np.flatnonzero(
                (before >= 0) & (at_ns - self.end[np.maximum(before, 0)] < _FORGOTTEN * tau_ns)
            )
            if not len(near):
                break
            rows = before[near]
            starts, ends, _ = self.boundaries(rows, placement)
            age = (at_ns[near] - self.start[rows])[:, None]
            left, more = _decayed(age - starts, tau_ns), _decayed(age - ends, tau_ns)
            first[near] -= left[:, 0]
            ended[near] -= more[:, last]
            value[near] += more - left
        return value, first, ended


def _decayed(age: Floats, tau_ns: float) -> Floats:
    """Return what is left of a step after its age, 1 before it and 0 long after."""
    result = (age <= 0.0).astype(np.float64)
    # Few boundaries are recent: exponentials of those alone.
    recent = np.flatnonzero((age > 0.0) & (age < _NOTHING * tau_ns))
    result.flat[recent] = np.exp(age.flat[recent] * (-1.0 / tau_ns))
    return result
