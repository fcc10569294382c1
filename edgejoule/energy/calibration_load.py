"""From a recording of pulses to what a fit needs: the load as a waveform, and reads. Numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgejoule.energy.sensor_model import Waveform
from edgejoule.errors import MeasurementError

if TYPE_CHECKING:
    import numpy.typing as npt

_TO_FIT = ("current", "power")


class Stamped(Protocol):
    """An edge of the load, as `edgejoule.power.exciter` logs it."""

    @property
    def before_ns(self) -> int:
        """It came after this."""

    @property
    def after_ns(self) -> int:
        """And before this."""

    @property
    def step(self) -> float:
        """By how much the load rose."""


def load_of(edges: Sequence[Stamped]) -> Waveform:
    """Add edges up to a load between 0 and 1; each lies in the middle between its stamps.

    Raises:
        MeasurementError: There are none.
    """
    if not edges:
        raise MeasurementError("the load has no edges", "calibrate again")
    at = np.array([e.before_ns + (e.after_ns - e.before_ns) // 2 for e in edges], np.int64)
    steps = np.array([e.step for e in edges], np.float64)
    order = np.argsort(at, kind="stable")
    power = np.concatenate([[0.0], np.cumsum(steps[order])])
    return Waveform(at[order], power)


def blur_ns(edges: Sequence[Stamped]) -> float:
    """Return how well the edges' times are known: the 95th percentile of after less before."""
    return float(np.quantile([e.after_ns - e.before_ns for e in edges], 0.95)) if edges else 0.0


def channels_to_fit(channels: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the channels that can be calibrated: a current or a power, one per rail.

    A voltage hardly follows a load, and a counter has no window.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for quantity in _TO_FIT:
        for channel in channels:
            if channel["quantity"] == quantity:
                found.setdefault(channel["rail"], channel)
    return sorted(found.values(), key=lambda channel: int(channel["index"]))


def reads_of(
    samples: npt.NDArray[Any], channel: int, start_ns: int, end_ns: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return before, after and value of a channel's good reads within a span of time."""
    chosen = (samples["channel"] == channel) & (samples["errno"] == 0)
    chosen &= (samples["t0_ns"] >= start_ns) & (samples["t1_ns"] <= end_ns)
    rows = samples[chosen]
    return rows["t0_ns"], rows["t1_ns"], rows["raw"]
