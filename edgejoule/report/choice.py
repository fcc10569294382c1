"""Which measured run meets given limits with the least energy per frame, and why no other does.

    candidates -- limits --> cases: figures under these limits, and every reason against each
               -- those without a reason, by energy --> the choice

Nothing is extrapolated. A run is judged by what was measured of it: at a rate only if it was
measured at that rate. A *frame* is one image. A run of batch b whose rate pass ran at r Hz took up
r x b frames a second, and the first frame of each batch waited (b - 1) / (r x b) s for the others:
that is part of its latency. Pure functions; standard library.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from edgejoule.report.choice_case import Candidate, Case, Choice, Limits, Miss
from edgejoule.report.choice_reasons import battery_life, figures, measured, reasons, untouchable
from edgejoule.report.overview import Overview


def choose(candidates: Sequence[Candidate], limits: Limits) -> Choice:
    """Return which run meets the limits with the least energy per frame.

    Equal energies go by latency, then by name, so that the choice is one.
    """
    taken = [one for one in candidates if _asked_for(one.overview, limits)]
    cases = [case_of(one, limits) for one in taken]
    meeting = sorted((one for one in cases if not one.reasons), key=_order)
    failing = sorted((one for one in cases if one.reasons), key=lambda one: one.run)
    return Choice(
        limits,
        tuple(meeting),
        tuple(failing),
        tuple(one for one in meeting[1:] if _comparable(meeting[0], one)),
        () if meeting else nearest(cases, limits),
        len(candidates) - len(taken),
    )


def _comparable(best: Case, other: Case) -> bool:
    return other.basis == best.basis and not told_apart(best, other)


def told_apart(one: Case, other: Case) -> bool:
    """Return whether the intervals of two energies do not overlap; unknown ones are not told."""
    if one.energy_mj is None or other.energy_mj is None:
        return False
    if one.energy_half_mj is None or other.energy_half_mj is None:
        return False
    return abs(one.energy_mj - other.energy_mj) > one.energy_half_mj + other.energy_half_mj


def case_of(candidate: Candidate, limits: Limits) -> Case:
    """Return a run's figures under the limits, and every reason against it."""
    case = figures(candidate, limits)
    battery, why = battery_life(case, limits)
    return replace(case, reasons=reasons(case, limits), battery=battery, no_battery=why)


def nearest(cases: Iterable[Case], limits: Limits) -> tuple[Miss, ...]:
    """Return, per limit that is a figure, the run that comes nearest to it."""
    listed = [one for one in cases if not untouchable(one)]
    found = []
    for kind, limit, value_of in measured(limits):
        values = [(value, one.run) for one in listed if (value := value_of(one)) is not None]
        if values:
            # A rate is to be reached, everything else not to be exceeded.
            value, run = max(values) if kind == "throughput" else min(values)
            met = value >= limit if kind == "throughput" else value <= limit
            found.append(Miss(kind, run, value, limit, met))
    return tuple(found)


def _order(case: Case) -> tuple[bool, float, float, str]:
    """What was measured at the rate comes before what was not: their energies are not of a kind."""
    far = float("inf")
    energy = far if case.energy_mj is None else case.energy_mj
    latency = far if case.latency_ms is None else case.latency_ms
    return case.basis == "back to back", energy, latency, case.run


def _asked_for(overview: Overview, limits: Limits) -> bool:
    return not limits.models or overview.model in limits.models or overview.run in limits.models
