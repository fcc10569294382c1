"""A quantity that is constant between edges, seen through a low-pass, averaged over any span.

Means are exact: the area under the curve is summed once over all edges and looked up, so that a
minute at a resolution of nanoseconds costs as much as its number of edges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Steps:
    """A piecewise constant signal.

    Attributes:
        edges: float64 (n + 1,), increasing, ns.
        levels: float64 (n,): the value from each edge to the next.
    """

    edges: Floats
    levels: Floats
    _settled: dict[float, Floats] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def areas(self) -> Floats:
        """The integral up to each edge, float64 (n + 1,)."""
        areas = np.zeros(len(self.edges))
        np.cumsum(self.levels * np.diff(self.edges), out=areas[1:])
        return areas

    def area(self, at: Floats) -> Floats:
        """Return the integral from the first edge up to each time; beyond the edges it goes on."""
        place = self._place(at)
        return self.areas[place] + self.levels[place] * (at - self.edges[place])

    def mean(self, start: Floats, end: Floats) -> Floats:
        """Return the mean over each span."""
        return (self.area(end) - self.area(start)) / (end - start)

    def filtered_mean(self, start: Floats, end: Floats, tau: float) -> Floats:
        """Return the mean over each span behind a first-order low-pass of time constant tau.

        From tau y' = x - y: the integral of y is that of x less tau times the change of y.
        """
        mean = self.mean(start, end)
        if tau <= 0:
            return mean
        change = self._filtered(end, tau) - self._filtered(start, tau)
        return mean - tau * change / (end - start)

    def _place(self, at: Floats) -> npt.NDArray[np.intp]:
        return np.clip(np.searchsorted(self.edges, at, side="right") - 1, 0, len(self.levels) - 1)

    def _filtered(self, at: Floats, tau: float) -> Floats:
        """Return the low-pass's output at each time; it starts settled at the first level."""
        if tau not in self._settled:
            self._settled[tau] = _behind_low_pass(self.edges, self.levels, tau)
        at_edges = self._settled[tau]
        place = self._place(at)
        level = self.levels[place]
        return level + (at_edges[place] - level) * np.exp((self.edges[place] - at) / tau)


def _behind_low_pass(edges: Floats, levels: Floats, tau: float) -> Floats:
    """Return the low-pass's output at each edge, float64 (n + 1,).

    y -> keep y + (1 - keep) level is an affine map per step; the maps are composed in doubling
    strides, until nothing is left of what lies further back.
    """
    keep = np.ones(len(edges))
    add = np.zeros(len(edges))
    keep[1:] = np.exp(-np.diff(edges) / tau)
    add[1:] = (1 - keep[1:]) * levels
    keep[0], add[0] = 0.0, levels[0]
    stride = 1
    while stride < len(edges) and keep.max() > 1e-18:
        add[stride:] += keep[stride:] * add[:-stride]
        keep[stride:] *= keep[:-stride].copy()
        stride *= 2
    return add
