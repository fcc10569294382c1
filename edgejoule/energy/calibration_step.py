"""The smallest step of a sensor's values, and what rounding does to their mean. Numpy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgejoule.energy.sensor_model import Floats


def find_step(values: Floats) -> tuple[float, float] | str:
    """Return the step of the values: the greatest that all of them are multiples of, but for 0.6.

    Drivers round to whole units, so that steps of 40 / 3 mA are seen as 13, 14, 13.

    Args:
        values: (n,), as read.

    Returns:
        The step and the half-width of its 95 % interval, or why there is none.
    """
    different = np.unique(values)
    if len(different) < 8:
        return f"only {len(different)} different values were read"
    gaps = np.diff(different)
    above = different - different[0]
    shortest = float(np.min(gaps))
    # From the largest candidate on: the first whose multiples all values are.
    for candidate in (float(np.median(gaps)), *(shortest / k for k in (1, 2, 3, 4, 5))):
        step, offset = candidate, 0.0
        for reach in np.geomspace(4 * step, max(float(above[-1]), 5 * step), 12):
            near = above[above <= reach]
            multiple = np.rint((near - offset) / step)
            if multiple[-1] > multiple[0]:  # a line through them: the first is rounded as well
                step, offset = (float(c) for c in np.polyfit(multiple, near, 1))
        multiple = np.rint((above - offset) / step)
        left = above - offset - multiple * step
        error = float(np.max(np.abs(left)))
        if abs(step - round(step)) < 1e-9 * step:
            step = float(round(step))
        if error <= min(0.6, 0.2 * step) or error <= 1e-6 * step:
            spread = float(np.std(multiple)) * math.sqrt(len(multiple))
            half = 2.0 * float(np.std(left)) / spread
            return step, half
    if np.all(different == np.rint(different)):
        step = float(np.gcd.reduce(gaps.astype(np.int64)))
        return step, 0.0
    return "the values lie on no common step"


def rounding(step: float, residual: float) -> float:
    """Return by how much rounding may shift a level: noise does not average out less than a step.

    First harmonic of the mean error of a quantiser with normal noise: step / pi x
    exp(-2 pi^2 noise^2 / step^2) (Widrow and Kollar, Quantization Noise, 2008).

    Args:
        step: Of the values, 0: none is known.
        residual: Standard deviation of what a fit leaves, in the same unit.
    """
    if step <= 0:
        return 0.0
    noise = max(0.0, (residual / step) ** 2 - 1 / 12)
    return step / math.pi * math.exp(-2 * math.pi**2 * noise)
