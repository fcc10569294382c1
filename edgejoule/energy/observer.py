"""What measuring does to what is measured: sampler and profiler, on against off. Numpy.

    off on on off | on off off on | ...      blocks of inferences, in fours of random order
    `pair' `pair'                            effect of a pair: ln(mean on / mean off)

Neighbours in time are compared, so that heat and clocks that drift fall out; the interval is that
of the mean over the pairs. Power under the profiler comes from the trace. Without the sampler there
is no trace, but an energy counter goes on counting: its rise from the last tick before the rest to
the first one after it says what was used meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgejoule.energy.replay_segments import LAYER, Segments, segment_power
from edgejoule.energy.statistics import t95
from edgejoule.energy.tick_clock import regular_ticks

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgejoule.energy.trace import RailPower

FACTORS = ("sampler", "profiler")
_PERCENT = 100.0
# A counter's stretch over a rest may hold so much of what is not the rest.
_MOST_FOREIGN = 0.5
_OLD_SHARE = 0.03


def observer_effect(
    said: Mapping[str, Any] | None,
    rails: Mapping[str, RailPower],
    reach_ns: Callable[[str], int],
) -> dict[str, Any] | None:
    """Return by how much sampler and profiler change latency, power and energy per inference.

    Args:
        said: `observer` of `measure.json`.
        rails: The run's power per rail, sums among them.
        reach_ns: How far a reading of a rail reaches back in time.

    Returns:
        `sampler` and `profiler`, each with `latency_percent`, `interval_percent`, `resolved` (its
        interval does not hold 0; None where there is none), `median_percent`, `pairs`,
        `inferences`, `rails` (rail -> `power_percent`, `power_interval_percent`, `energy_percent`,
        `energy_interval_percent`, `pairs`) and `why`. None without an observer pass.
    """
    if said is None:
        return None
    blocks = list(said.get("blocks") or ())
    found: dict[str, Any] = {"seconds": said.get("seconds"), "why": said.get("why")}
    for factor in FACTORS:
        own = [block for block in blocks if block["factor"] == factor]
        found[factor] = _of_factor(factor, own, rails, reach_ns, said.get("why"))
    return found


def pairs_of(blocks: Sequence[Mapping[str, Any]], factor: str) -> list[tuple[int, int]]:
    """Return pairs (on, off) of neighbouring blocks, by their places; each block is in one."""
    by_four: dict[int, list[int]] = {}
    for place, block in enumerate(blocks):
        by_four.setdefault(int(block["four"]), []).append(place)
    pairs = []
    for places in by_four.values():
        for first, second in zip(places[::2], places[1::2], strict=False):
            on_first = bool(blocks[first][factor])
            if on_first != bool(blocks[second][factor]):
                pairs.append((first, second) if on_first else (second, first))
    return pairs


def paired_percent(
    on: npt.NDArray[np.float64], off: npt.NDArray[np.float64]
) -> tuple[float, list[float] | None] | None:
    """Return by how much `on` lies above `off`, in per cent, with its 95 % interval.

    Args:
        on: float64 (n,), of each pair; nan: not known.
        off: float64 (n,).

    Returns:
        The effect and its interval (None below two pairs); None without a pair.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(on / off)
    logs = logs[np.isfinite(logs)]
    if not len(logs):
        return None
    mean = float(logs.mean())
    effect = _PERCENT * math.expm1(mean)
    if len(logs) < 2:
        return effect, None
    half = t95(len(logs) - 1) * float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
    return effect, [_PERCENT * math.expm1(mean - half), _PERCENT * math.expm1(mean + half)]


def _of_factor(
    factor: str,
    blocks: Sequence[Mapping[str, Any]],
    rails: Mapping[str, RailPower],
    reach_ns: Callable[[str], int],
    why: str | None,
) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "latency_percent": None,
        "interval_percent": None,
        "resolved": None,
        "median_percent": None,
        "pairs": 0,
        "inferences": 0,
        "rails": {},
        "why": why,
    }
    pairs = pairs_of(blocks, factor)
    if not pairs:
        return {**entry, "why": why or "no blocks of it were measured"}
    on, off = np.array(pairs).T
    mean = np.array([block["mean_ns"] for block in blocks], np.float64)
    median = np.array([block["median_ns"] for block in blocks], np.float64)
    effect = paired_percent(mean[on], mean[off])
    of_median = paired_percent(median[on], median[off])
    entry |= {
        "pairs": len(pairs),
        "inferences": int(sum(block["inferences"] for block in blocks)),
        "median_percent": None if of_median is None else of_median[0],
    }
    if effect is not None:
        entry |= {
            "latency_percent": effect[0],
            "interval_percent": effect[1],
            "resolved": None if effect[1] is None else not effect[1][0] <= 0 <= effect[1][1],
        }
    for rail, series in rails.items():
        power = _block_power(blocks, series, reach_ns(rail))
        of_power = paired_percent(power[on], power[off])
        if of_power is None:
            continue
        of_energy = paired_percent(power[on] * mean[on], power[off] * mean[off])
        entry["rails"][rail] = {
            "power_percent": of_power[0],
            "power_interval_percent": of_power[1],
            "energy_percent": None if of_energy is None else of_energy[0],
            "energy_interval_percent": None if of_energy is None else of_energy[1],
            "pairs": int(np.count_nonzero(np.isfinite(power[on] / power[off]))),
        }
    return entry


def _block_power(
    blocks: Sequence[Mapping[str, Any]], series: RailPower, reach_ns: int
) -> npt.NDArray[np.float64]:
    """Return mean power of each block, mW; nan where the trace does not tell it."""
    if series.parts:
        parts = [_block_power(blocks, part, reach_ns) for part in series.parts]
        return np.asarray(np.sum(parts, axis=0), np.float64)
    start = np.array([block["start_ns"] for block in blocks], np.int64)
    end = np.array([block["end_ns"] for block in blocks], np.int64)
    rest = np.array([not block["sampler"] for block in blocks], bool)
    zero = np.zeros(len(blocks), np.int64)
    segments = Segments(zero + LAYER, zero - 1, zero + 1, zero, start, end, zero + 1)
    power: npt.NDArray[np.float64] = segment_power(series, segments, reach_ns, 0).mean_mw
    power = np.where(rest, math.nan, power)
    if series.late_ns is None or not rest.any():
        return power  # readings say nothing of a time in which nothing was read
    counted = regular_ticks(series)
    # A tick off its clock may be as old as one usually is, at the first read after a rest too.
    usual_ns = float(np.median(series.t_ns[1::2] + 1 - series.t_ns[::2]))
    shortest_ns = 0.0 if counted is not series else usual_ns / _OLD_SHARE
    # Two blocks side by side without the sampler are one rest.
    near = start[1:] - end[:-1] < (end - start)[1:] // 2
    joined = np.flatnonzero(rest[1:] & rest[:-1] & near).tolist()
    first, last = start.copy(), end.copy()
    for place in joined:
        first[place + 1] = first[place]
    for place in reversed(joined):
        last[place] = last[place + 1]
    power[rest] = [
        _over_rest(counted, int(a), int(b), shortest_ns)
        for a, b in zip(first[rest], last[rest], strict=True)
    ]
    return power


def _over_rest(counter: RailPower, start_ns: int, end_ns: int, shortest_ns: float) -> float:
    """Return a counter's power over a rest of the sampler: of the stretches that cover it."""
    begins, ends = counter.t_ns[::2], counter.t_ns[1::2] + 1
    first = int(np.searchsorted(begins, start_ns, side="right")) - 1
    last = int(np.searchsorted(ends, end_ns))
    if first < 0 or last >= len(ends) or last < first:
        return math.nan
    length_s = (ends[first : last + 1] - begins[first : last + 1]) * 1e-9
    covered_s = float(length_s.sum())
    asked_s = (end_ns - start_ns) * 1e-9
    foreign_s = covered_s - asked_s
    if covered_s * 1e9 < shortest_ns or foreign_s > _MOST_FOREIGN * covered_s:
        return math.nan
    return float(counter.power_mw[::2][first : last + 1] @ length_s) / covered_s
