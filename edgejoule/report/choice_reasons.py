"""A run's figures under limits, and everything that speaks against it. Standard library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from edgejoule.report.choice_case import RATE_TOLERANCE, BatteryLife, Case, Reason

if TYPE_CHECKING:
    from edgejoule.report.choice_case import Basis, Candidate, Limits

TOTAL = "total"
# Reasons that no other limits would mend.
_FOR_EVER = ("simulated", "unfinished", "energy")
# A percentile of fewer inferences than this is little more than the slowest of them.
FEWEST = {"p50": 10, "p90": 30, "p99": 300}


def figures(candidate: Candidate, limits: Limits) -> Case:
    """Return what is judged: latency, average power and energy per frame, without reasons."""
    one = candidate.overview
    basis = _basis(candidate, limits)
    power = half = energy = energy_half = None
    if basis == "rate":
        # Of a rate pass at another rate nothing is shown: it would be taken for this one.
        if _at_rate(candidate, limits.rate_hz or 0.0):
            power, half = one.rate_mean_w, candidate.rate_half_w
            energy, energy_half = _rate_energy(candidate, limits)
    else:
        power, half = one.mean_w, candidate.clean_half_w
        gross = limits.energy == "gross"
        whole = one.gross_mj if gross else one.dynamic_mj
        whole_half = one.gross_half_mj if gross else one.dynamic_half_mj
        energy = None if whole is None else whole / one.batch
        energy_half = None if whole_half is None else whole_half / one.batch
    return Case(candidate, basis, latency_ms(candidate, limits), power, half, energy, energy_half)


def latency_ms(candidate: Candidate, limits: Limits) -> float | None:
    """Return the latency that is judged: of the pass that is judged, with what a batch waits.

    At a rate clocks fall between frames: what the clean pass took at full speed says nothing of it.
    The first frame of a batch waits until the last has come, at the rate that is asked for.
    """
    one = candidate.overview
    found: float | None = getattr(one, f"{limits.percentile}_ms")
    if limits.rate_hz is None:
        return found
    if _at_rate(candidate, limits.rate_hz):
        found = candidate.rate_ms.get(limits.percentile)
    return None if found is None else found + (one.batch - 1) / limits.rate_hz * 1e3


def reasons(case: Case, limits: Limits) -> tuple[Reason, ...]:
    """Return everything that speaks against a run."""
    return (
        *_standing(case, limits),
        *_rate(case, limits),
        *(
            reason
            for kind, limit, value_of in measured(limits)
            if kind not in {"throughput", "missed"}  # which `_rate` tells
            for reason in _beyond(case, kind, limit, value_of(case), limits)
        ),
        *_energy(case, limits),
    )


def untouchable(case: Case) -> bool:
    """Return whether no other limits would let a run win."""
    return any(reason.kind in _FOR_EVER for reason in case.reasons)


def measured(limits: Limits) -> list[tuple[str, float, Callable[[Case], float | None]]]:
    """Return the limits that are figures: kind, limit, and a run's figure."""
    offered: list[tuple[str, float | None, Callable[[Case], float | None]]] = [
        ("latency", limits.latency_ms, lambda case: case.latency_ms),
        ("power", limits.power_w, lambda case: case.power_w),
        ("peak power", limits.peak_power_w, lambda case: case.candidate.overview.peak_w),
        ("memory", limits.memory_mib, lambda case: case.candidate.overview.memory_mib),
        ("error", limits.max_error, lambda case: case.candidate.overview.relative_error),
        ("throughput", limits.rate_hz, lambda case: case.candidate.overview.throughput_hz),
        ("missed", limits.missed if limits.rate_hz else None, lambda case: _lost(case, limits)),
    ]
    return [(kind, limit, value) for kind, limit, value in offered if limit is not None]


def battery_life(case: Case, limits: Limits) -> tuple[BatteryLife | None, str | None]:
    """Return how long a battery lasts, or why that cannot be told."""
    if limits.battery_wh is None:
        return None, None
    one, power = case.candidate.overview, case.power_w
    if power is None or power <= 0:
        return None, "no average power is known"
    if one.rail != TOTAL:
        return None, f"the rail {one.rail} is not the board's total, which a battery has to feed"
    tolerance = case.candidate.tolerance

    def within(half_w: float | None) -> tuple[float, float | None] | None:
        if half_w is None:
            return None
        energy_wh = limits.battery_wh or 0.0
        most = energy_wh / (power - half_w) if power > half_w else None
        return energy_wh / (power + half_w), most

    return BatteryLife(
        limits.battery_wh / power,
        within(case.power_half_w),
        within(None if tolerance is None else tolerance.of_power(power)),
    ), None


def _basis(candidate: Candidate, limits: Limits) -> Basis:
    if limits.rate_hz is None:
        return "full speed"
    if limits.back_to_back and not _at_rate(candidate, limits.rate_hz):
        return "back to back"
    return "rate"


def _at_rate(candidate: Candidate, rate_hz: float) -> bool:
    """Return whether a run was measured at a rate, as far as rates agree at all."""
    measured_hz = candidate.frame_hz
    return measured_hz is not None and abs(measured_hz - rate_hz) <= RATE_TOLERANCE * rate_hz


def _rate_energy(candidate: Candidate, limits: Limits) -> tuple[float | None, float | None]:
    """Return energy per frame of the rate pass, and half-width of its interval."""
    one = candidate.overview
    if one.gross_mj_per_frame is None or not one.rate_hz:
        return None, None
    gross = one.gross_mj_per_frame / one.batch
    if limits.energy == "gross":
        half = candidate.rate_half_w
        return gross, None if half is None else half * 1e3 / (one.rate_hz * one.batch)
    if one.idle_w is None:
        return None, None
    # The baseline's own interval is not in the overview: without it there is none.
    return gross - one.idle_w * 1e3 / (one.rate_hz * one.batch), None


def _standing(case: Case, limits: Limits) -> Iterator[Reason]:
    one = case.candidate.overview
    if one.status != "complete":
        yield Reason("unfinished", f"the run is {one.status}")
    elif one.verdict == "broken":
        why = "; ".join(one.reasons) or "a part is missing"
        yield Reason("unfinished", f"the run is broken: {why}")
    if one.simulated and not limits.include_simulated:
        yield Reason("simulated", "its power is simulated: --include-simulated would admit it")


def _rate(case: Case, limits: Limits) -> Iterator[Reason]:
    rate = limits.rate_hz
    if rate is None:
        return
    one, frame_hz = case.candidate.overview, case.candidate.frame_hz
    if case.basis == "rate" and _at_rate(case.candidate, rate):
        yield from _missed(case, limits)
        return
    slow = one.throughput_hz is not None and one.throughput_hz < rate
    if slow:
        yield Reason(
            "rate",
            f"its throughput of {one.throughput_hz:.3g}/s is below {rate:g} Hz",
            one.throughput_hz,
            rate,
        )
    if case.basis == "back to back":
        if one.throughput_hz is None:
            yield Reason("rate", "its throughput is not known")
    elif not slow:
        asked = f"measure with --rate-hz {rate / one.batch:g}"
        if one.batch > 1:
            asked += f" (batches of {one.batch})"
        other = "" if frame_hz is None else f", but at {frame_hz:g} Hz"
        yield Reason("rate", f"not measured at {rate:g} Hz{other}: {asked}")


def _missed(case: Case, limits: Limits) -> Iterator[Reason]:
    share = _lost(case, limits)
    if share is None:
        yield Reason("missed", "how many deadlines it missed is not known")
    elif share > limits.missed:
        text = f"{100 * share:.3g} % of {case.candidate.frames} frames were late or dropped"
        yield Reason("missed", f"{text}, more than {100 * limits.missed:g} %", share, limits.missed)


def _lost(case: Case, limits: Limits) -> float | None:
    """Return the share of late or dropped frames at the asked rate, if it was measured."""
    late, frames = case.candidate.overview.missed_deadlines, case.candidate.frames
    if late is None or not frames or not _at_rate(case.candidate, limits.rate_hz or 0.0):
        return None
    return (late + case.candidate.dropped) / frames


def _beyond(
    case: Case, kind: str, limit: float, value: float | None, limits: Limits
) -> Iterator[Reason]:
    words, unit = told(kind, limits)
    if value is None:
        unmeasured = case.basis == "rate" and not _at_rate(case.candidate, limits.rate_hz or 0.0)
        if kind != "power" or not unmeasured:  # that it was not measured at the rate is said
            yield Reason(kind, f"its {words} is not known", None, limit)
    elif not value <= limit:
        yield Reason(
            kind, f"its {words} of {value:.4g}{unit} is above {limit:g}{unit}", value, limit
        )


def told(kind: str, limits: Limits) -> tuple[str, str]:
    """Return a limit in words, and its unit with a space before it."""
    return {
        "latency": (f"{limits.percentile} latency", " ms"),
        "power": ("average power", " W"),
        "peak power": ("peak power", " W"),
        "memory": ("memory", " MiB"),
        "error": ("mean relative error against float32", ""),
        "throughput": ("throughput", "/s"),
        "missed": ("late or dropped frames", " of all"),
    }[kind]


def _energy(case: Case, limits: Limits) -> Iterator[Reason]:
    if case.energy_mj is not None:
        return
    if case.basis == "rate" and not _at_rate(case.candidate, limits.rate_hz or 0.0):
        return  # that it was not measured at this rate is said
    one = case.candidate.overview
    if one.rail is None:
        yield Reason("energy", "its energy was not measured, or no rail stands for the run")
    elif limits.energy == "dynamic":
        yield Reason("energy", f"no energy above idle is known on {one.rail}")
    else:
        yield Reason("energy", f"no energy per frame is known on {one.rail}")
