"""How much of any span of time each layer, gap and idle took: exact, behind a low-pass. Numpy.

    inference i   start |held|..start..|[layer 0]..[layer 1]..[layer 2]|..end..| end   idle
    box                  B      B+1         0          1          2       B+2

Everything is a cumulative time function: the time spent in a box up to t is what earlier inferences
spent in it plus the part of this one, so that a span costs two look-ups however many layers and
reads there are. With tau y' = x - y the integral of y is that of x less tau times y, and y of a box
is a difference of two exponentials plus what is left of the inferences before. At any moment y is
0 for all but a few layers: it is kept as a list of those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgejoule.energy.sensor_model import Floats
    from edgejoule.energy.timeline import Timeline

    Ints = npt.NDArray[np.int64]

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
class Shares:
    """The filtered share of layers at some of k times, all those that are not 0.

    A time and a layer may be there more than once: of the inference that runs, and of one before.

    Attributes:
        at: int64 (m,): which of the times.
        layer: int64 (m,).
        share: float64 (m,).
        ratio: float64 (m,): by what a placement's times are multiplied in the layer's inference.
    """

    at: Ints
    layer: Ints
    share: Floats
    ratio: Floats


@dataclass(frozen=True)
class Looked:
    """What is known of k times.

    Attributes:
        row: int64 (k,): the inference that runs, or ran last.
        inside: float64 (k, layers), ns: filtered time in each layer since that inference began.
        boxes: float64 (k, 4), ns: likewise held, before the first layer, from the first layer to
            the last, after it; but for what is idle they are all of the time.
        shares: Derivatives of `inside`.
        box_share: float64 (k, 4): derivatives of `boxes`.
        first: float64 (k,): how many first layers have begun, filtered, each times its ratio.
        last: float64 (k,): how many last layers have ended, likewise.
    """

    row: Ints
    inside: Floats
    boxes: Floats
    shares: Shares
    box_share: Floats
    first: Floats
    last: Floats

    def slope(self, powers: Floats) -> Floats:
        """Return the filtered power at the times, float64 (k,), of powers (layers + 5,)."""
        layers = self.inside.shape[1]
        idle, between = powers[layers + IDLE], powers[layers + BETWEEN]
        shares = self.shares
        of_layers = (powers[:layers] - between)[shares.layer] * shares.share
        result: Floats = self.box_share @ (powers[layers : layers + IDLE] - idle)
        result += np.bincount(shares.at, of_layers, len(self.row))
        result += idle
        return result


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
        self.mean_layer: Floats = self.layer.mean(axis=0)
        self._cumulative = np.zeros((len(spent) + 1, self.layers))
        np.cumsum(self.layer, axis=0, out=self._cumulative[1:])
        # Begins from the starts, as if no gap but what is held came before them.
        if self.offset is not None:
            self._begin: Floats = self.offset.astype(np.float64)
        else:
            self._begin = np.cumsum(self.layer, axis=1)
            self._begin -= self.layer
            self._begin += self.held[:, None]
        self._placed: tuple[Placement, Floats, Floats] | None = None

    def boundaries(self, rows: np.ndarray, placement: Placement) -> tuple[Floats, Floats, Floats]:
        """Return begin and end of every box of inferences from their starts, and their ratios.

        Args:
            rows: int64 (k,), the inferences.
            placement: Where gaps lie; not asked where the timeline has true starts.

        Returns:
            float64 (k, layers + 4) twice, float64 (k,).
        """
        begin, ratio = self._begins(rows, placement)
        starts = np.empty((len(rows), self.layers + 4))
        ends = np.empty_like(starts)
        starts[:, : self.layers] = begin
        np.add(begin, self.layer[rows], out=ends[:, : self.layers])
        edges = self._edges(rows, begin[:, 0], ends[:, self.layers - 1])
        starts[:, self.layers :] = edges[:, :-1]
        ends[:, self.layers :] = edges[:, 1:]
        return starts, ends, ratio

    def _begins(self, rows: Ints, placement: Placement) -> tuple[Floats, Floats]:
        """Return when layers begin, from the starts of inferences, (k, layers), and ratios (k,)."""
        ratio = self._ratio(rows, placement)
        begin = self._begin[rows]
        if self.offset is None:
            before = placement.before_ns[None, :]
            if placement.scaled:
                before = ratio[:, None] * before
            begin += np.minimum(before, self.free[rows][:, None])
        return begin, ratio

    def _ratio(self, rows: Ints | slice, placement: Placement) -> Floats:
        free = self.free[rows]
        if placement.scaled and self.mean_free > 0:
            return free / self.mean_free
        return np.ones(len(free))

    def _edges(self, rows: Ints | slice, first: Floats, last: Floats) -> Floats:
        """Return where held, start, between and end begin and end, float64 (k, 5)."""
        spent = self.end[rows] - self.start[rows]
        edges = np.empty((len(spent), 5))
        edges[:, 0] = 0.0
        np.minimum(self.held[rows], first, out=edges[:, 1])
        edges[:, 2] = first
        np.minimum(last, spent, out=edges[:, 3])
        edges[:, 4] = spent
        return edges

    def _before(self, placement: Placement) -> tuple[Floats, Floats]:
        """Return what came before each inference: time in the boxes that are no layers, and ratios.

        Returns:
            float64 (n, 4), float64 (n,): sums over the inferences before.
        """
        if self._placed is None or self._placed[0] is not placement:
            ratio, free = self._ratio(slice(None), placement), self.free
            first, last = self._begin[:, 0], self._begin[:, -1] + self.layer[:, -1]
            if self.offset is None:
                first = first + np.minimum(ratio * placement.before_ns[0], free)
                last = last + np.minimum(ratio * placement.before_ns[-1], free)
            edges = self._edges(slice(None), first, last)
            gaps, ratios = np.zeros((len(free), 4)), np.zeros(len(free))
            for box in range(4):
                np.cumsum((edges[:, box + 1] - edges[:, box])[:-1], out=gaps[1:, box])
            np.cumsum(ratio[:-1], out=ratios[1:])
            self._placed = (placement, gaps, ratios)
        return self._placed[1], self._placed[2]

    def running(self, at_ns: Floats) -> npt.NDArray[np.int64]:
        """Return the last inference that has begun at times, the first one before it."""
        row = np.searchsorted(self.start, at_ns, side="right") - 1
        result: npt.NDArray[np.int64] = np.clip(row, 0, len(self.start) - 1)
        return result

    def look(self, at_ns: Floats, placement: Placement, tau_ns: float) -> Looked:
        """Return what is known of times, ns from the origin, behind a low-pass."""
        row = self.running(at_ns)
        since = np.maximum(at_ns - self.start[row], 0.0)
        ages, left, edges, ratio, time = self._ages(row, since, placement)
        near = np.flatnonzero((ages > 0.0) & (left <= _NOTHING * tau_ns))
        inside = np.clip(ages, 0.0, time, out=time)
        reached = np.minimum(edges, since[:, None])
        boxes = np.diff(reached, axis=1)
        gone = 1.0 - _decayed(since[:, None] - edges, tau_ns)  # of each edge's step
        at, layer = np.divmod(near, self.layers)
        share = _decayed(left.flat[near], tau_ns) - _decayed(ages.flat[near], tau_ns)
        box_share = gone[:, :-1] - gone[:, 1:]
        before = self._before(placement)[1][row]
        first, last = before + ratio * gone[:, 2], before + ratio * gone[:, 3]
        found = [Shares(at, layer, share, ratio[at])]
        if tau_ns > 0:
            inside.flat[near] -= tau_ns * share
            self._of_before(at_ns, row, placement, tau_ns, (inside, box_share, first, last), found)
            boxes -= tau_ns * box_share
        return Looked(row, inside, boxes, _joined(found), box_share, first, last)

    def _ages(
        self, rows: Ints, since: Floats, placement: Placement
    ) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """Return time since layers' begins and ends, boxes' edges, ratios, and times in layers."""
        begin, ratio = self._begins(rows, placement)
        time = self.layer[rows]
        edges = self._edges(rows, begin[:, 0], begin[:, -1] + time[:, -1])
        ages = np.subtract(since[:, None], begin, out=begin)
        return ages, ages - time, edges, ratio, time

    def _of_before(
        self,
        at_ns: Floats,
        row: Ints,
        placement: Placement,
        tau_ns: float,
        known: tuple[Floats, Floats, Floats, Floats],
        found: list[Shares],
    ) -> None:
        """Add what is left of the inferences before, in place."""
        inside, box_share, first, last = known
        for back in range(1, len(self.start)):
            before = row - back
            late = np.flatnonzero(
                (before >= 0) & (at_ns - self.end[np.maximum(before, 0)] < _FORGOTTEN * tau_ns)
            )
            if not len(late):
                break
            rows = before[late]
            ages, left, edges, ratio, _ = self._ages(
                rows, at_ns[late] - self.start[rows], placement
            )
            near = np.flatnonzero(left < _NOTHING * tau_ns)
            at, layer = np.divmod(near, self.layers)
            share = _decayed(left.flat[near], tau_ns) - _decayed(ages.flat[near], tau_ns)
            inside[late[at], layer] -= tau_ns * share
            found.append(Shares(late[at], layer, share, ratio[at]))
            steps = _decayed((at_ns[late] - self.start[rows])[:, None] - edges, tau_ns)
            box_share[late] += steps[:, 1:] - steps[:, :-1]
            first[late] -= ratio * steps[:, 2]
            last[late] -= ratio * steps[:, 3]

    def spans(
        self,
        middle: Floats,
        width_ns: float,
        tau_ns: float,
        placement: Placement,
        area: Floats,
    ) -> tuple[Looked, Looked]:
        """Write what each column took of windows, and return what is known of their ends.

        Args:
            middle: float64 (k,), ns from the origin.
            width_ns: Their length.
            tau_ns: The low-pass; windows are of its output.
            placement: Where gaps lie.
            area: float64 (k, layers + 5), ns, written: layers, gaps and idle.

        Returns:
            Of the windows' ends and begins.
        """
        layers, half = self.layers, 0.5 * width_ns
        late = self.look(middle + half, placement, tau_ns)
        early = self.look(middle - half, placement, tau_ns)
        np.subtract(late.inside, early.inside, out=area[:, :layers])
        boxes = late.boxes - early.boxes
        apart = np.flatnonzero(late.row != early.row)
        if len(apart):
            to, from_ = late.row[apart], early.row[apart]
            area[apart, :layers] += self._cumulative[to] - self._cumulative[from_]
            gaps = self._before(placement)[0]
            boxes[apart] += gaps[to] - gaps[from_]
        # From the first layer to the last there are layers as well: their rest is gap.
        area[:, layers : layers + IDLE] = boxes
        # Products with 1: a sum along short rows is several times slower.
        area[:, layers + BETWEEN] -= area[:, :layers] @ np.ones(layers)
        area[:, layers + IDLE] = width_ns - boxes @ np.ones(4)
        return late, early


def _joined(found: list[Shares]) -> Shares:
    if len(found) == 1:
        return found[0]
    return Shares(
        np.concatenate([one.at for one in found]),
        np.concatenate([one.layer for one in found]),
        np.concatenate([one.share for one in found]),
        np.concatenate([one.ratio for one in found]),
    )


def _decayed(age: Floats, tau_ns: float) -> Floats:
    """Return what is left of a step after its age, 1 before it and 0 long after."""
    result = (age <= 0.0).astype(np.float64)
    if not tau_ns:
        return result
    # Few boundaries are recent: exponentials of those alone.
    recent = np.flatnonzero((age > 0.0) & (age < _NOTHING * tau_ns))
    result.flat[recent] = np.exp(age.flat[recent] * (-1.0 / tau_ns))
    return result
