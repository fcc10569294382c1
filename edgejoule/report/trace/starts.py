"""When layers began: as measured, or by the model of the gaps where there are durations only.

The model is the one that the window regression fitted to the run's power, if it did:

    inference   |held|  before_0  [layer 0]  more  [layer 1]  ...  [last]  the rest of the gap |

    before_k = start + launch x k + share x (time in layers before k) + own_k

clipped to the gap, never falling, and in proportion to each inference's own gap if that fitted
better (`energy/window_design.py`). Without such a fit layers follow one another from the
inference's start, as the rule `interval` places them (`energy/interval.py`). Either is a model, not
a measurement, and is called so wherever it is shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgejoule.report.tables import number, part

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_MEASURED = ("true starts", "no gaps")


@dataclass(frozen=True)
class GapModel:
    """Where the gaps of an inference lie.

    Attributes:
        before_ns: float64 (layers,): gap time before each layer.
        mean_free_ns: The mean inference's gap, None: the same times in all inferences.
        told: The model in words.
    """

    before_ns: npt.NDArray[np.float64]
    mean_free_ns: float | None
    told: str

    def begins_ns(
        self,
        layer: npt.NDArray[np.int64],
        duration_ns: npt.NDArray[np.float64],
        first: npt.NDArray[np.int64],
        free_ns: npt.NDArray[np.float64],
        held_ns: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.float64]:
        """Return when layers begin, from their inference's start.

        Args:
            layer: int64 (m,), sorted by inference, then layer.
            duration_ns: float64 (m,).
            first: int64 (m,): the row of the first layer of the same inference.
            free_ns: float64 (m,): the gap of the inference, without what the profiler held.
            held_ns: float64 (m,): what the profiler held, before the first layer.
        """
        import numpy as np

        spent = np.cumsum(duration_ns) - duration_ns
        spent = spent - spent[first]
        ratio = 1.0 if self.mean_free_ns is None else free_ns / self.mean_free_ns
        before = self.before_ns[layer] * ratio
        begin: npt.NDArray[np.float64] = held_ns + np.clip(before, 0.0, free_ns) + spent
        return begin


def gap_model(
    run: Mapping[str, Any], mean_ns: npt.NDArray[np.float64], mean_free_ns: float
) -> GapModel:
    """Return the model that a run's layers are placed by.

    Args:
        run: Its `run.json`.
        mean_ns: float64 (layers,): mean time of each layer, in the order of execution.
        mean_free_ns: Mean gap of its profiled inferences, without what the profiler held.
    """
    import numpy as np

    for rail, facts in _placements(run):
        found = _fitted(facts, rail, mean_ns, mean_free_ns)
        if found is not None:
            return found
    told = "one after the other from the inference's start; no gap model was fitted"
    return GapModel(np.zeros(len(mean_ns)), None, told)


def _placements(run: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return what the window regression found on each rail, the total's parts first."""
    window = part(run, "summary", "energy", "attribution", "window")
    found = []
    for rail in sorted(window, key=lambda name: name != "total"):
        facts = part(window, rail, "facts")
        found += [(name, part(facts, "rails", name)) for name in part(facts, "rails")]
        found.append((rail, facts))
    return [(rail, part(facts, "placement")) for rail, facts in found if "placement" in facts]


def _fitted(
    facts: Mapping[str, Any], rail: str, mean_ns: npt.NDArray[np.float64], mean_free_ns: float
) -> GapModel | None:
    import numpy as np

    chosen = facts.get("chosen")
    rule = [number(facts, name) for name in ("start_ns", "launch_ns", "share")]
    own = facts.get("own_ns")
    if not isinstance(chosen, str) or chosen in _MEASURED or not isinstance(own, Sequence):
        return None
    numbers = [one for one in [*rule, *own] if _finite(one)]
    if len(own) != len(mean_ns) or len(numbers) != 3 + len(own) or mean_free_ns <= 0:
        return None
    start, launch, share, *rest = (float(one) for one in numbers)
    ahead = np.cumsum(mean_ns) - mean_ns
    before = start + launch * np.arange(len(mean_ns)) + share * ahead + np.array(rest)
    before = np.maximum.accumulate(np.clip(before, 0.0, mean_free_ns))
    told = f"gaps as fitted to the power of {rail} ({chosen})"
    others = [one for one in facts.get("not_told_from") or () if one != chosen]
    if others:
        told += f", not told from: {'; '.join(map(str, others))}"
    return GapModel(before, mean_free_ns if "in proportion" in chosen else None, told)


def _finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value)
