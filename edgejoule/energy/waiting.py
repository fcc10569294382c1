"""Energy of inferences between which the pass waited. Numpy.

    |inference 1|  wait  |inference 2| wait |inference 3|
    |------- cell 1 -----|------ cell 2 ----|- cell 3 --|

A reading is a mean over milliseconds, or a refresh old: integrated over an inference alone it holds
some of the waiting as well, at idle power. Where the waits are drawn (`--energy window`) they are
an eighth of the pass, and the inference would come out some per cent too low. So each inference
gets what was drawn from its start to the next, less idle power for the time that it waited: all
dynamic energy is the inferences'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.integrate import energies_mj

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgejoule.energy.trace import RailPower


def energies_without_waiting(
    series: RailPower,
    start_ns: npt.NDArray[np.int64],
    end_ns: npt.NDArray[np.int64],
    spans_ns: npt.NDArray[np.int64],
    baseline_mw: float,
) -> npt.NDArray[np.float64]:
    """Return the energy of each inference, its waiting taken off at idle power.

    Args:
        series: The rail's power.
        start_ns: int64 (n,), rising.
        end_ns: int64 (n,).
        spans_ns: int64 (k, 2), in order: the stretches in which only these inferences ran. What
            comes after the last inference of a stretch is nobody's.
        baseline_mw: Idle power with the engine loaded.

    Returns:
        float64 (n,), mJ; nan where the trace does not tell.
    """
    cell_end_ns = np.append(start_ns[1:], end_ns[-1:])
    stretch = np.searchsorted(spans_ns[:, 0], start_ns, side="right")
    last = np.append(stretch[1:] != stretch[:-1], True)
    cell_end_ns = np.where(last, end_ns, cell_end_ns)
    waited_s = (cell_end_ns - end_ns) * 1e-9
    result: npt.NDArray[np.float64] = (
        energies_mj(series, start_ns, cell_end_ns) - baseline_mw * waited_s
    )
    return result
