"""A choice in words and as JSON. Pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from edgejoule.report.choice import told_apart
from edgejoule.report.choice_case import BatteryLife, Case, Choice, Limits
from edgejoule.report.choice_reasons import FEWEST, TOTAL, told
from edgejoule.report.text import energy, printable, table

_BASES = {
    "rate": "measured at {rate:g} Hz",
    "full speed": "one inference after the other, at full speed",
    "back to back": "at FULL SPEED, not at {rate:g} Hz, where it was not measured",
}
_WEIGHTS = (
    "random weights: values decide power, so trained weights may draw another; how good such a "
    "network's answers are, nobody can know"
)
_TASKS = (
    "several models: how well each does its task is not known here; --models names which to compare"
)

_RAILS = (
    "the energies are of different rails ({rails}): the least may be that of the smallest part of "
    "a machine"
)
_MIXED = (
    "runs at full speed stand behind those measured at the rate: what is drawn between frames is "
    "in the energy of the latter only"
)


def choice_text(choice: Choice) -> str:
    """Return a choice for people."""
    best = choice.best
    blocks: list[list[str]] = [[f"asked for: {asked(choice.limits)}"]]
    if best is None:
        blocks.append(_nothing(choice))
    else:
        blocks.append(list(_winner(choice, best)))
    if len(choice.meeting) > 1:
        blocks.append(["these meet the limits too:", _table(choice.meeting[1:], choice.limits)])
    if choice.failing:
        lines = ["these do not:"]
        for case in choice.failing:
            lines.append(f"  {_name(case)}")
            lines += [f"    {printable(reason.text)}" for reason in case.reasons]
        blocks.append(lines)
    if notes := _notes(choice):
        blocks.append(notes)
    return "\n\n".join("\n".join(lines) for lines in blocks)


def asked(limits: Limits) -> str:
    """Return limits in words."""
    parts = []
    for name, kind in (
        ("latency_ms", "latency"),
        ("power_w", "power"),
        ("peak_power_w", "peak power"),
        ("memory_mib", "memory"),
        ("max_error", "error"),
    ):
        value = getattr(limits, name)
        if value is not None:
            words, unit = told(kind, limits)
            parts.append(f"{words} at most {value:g}{unit}")
    if limits.rate_hz is not None:
        missed = f"{100 * limits.missed:g} %"
        parts.append(f"{limits.rate_hz:g} frames a second with at most {missed} late or dropped")
    parts.append(f"least {limits.energy} energy per frame")
    return ", ".join(parts)


def choice_json(choice: Choice) -> dict[str, Any]:
    """Return a choice as plain values."""
    best = choice.best
    return {
        "limits": {**dataclasses.asdict(choice.limits), "models": list(choice.limits.models)},
        "best": None if best is None else best.run,
        "not_told_apart": [case.run for case in choice.alike],
        "meeting": [_case(case) for case in choice.meeting],
        "failing": [_case(case) for case in choice.failing],
        "nearest": [dataclasses.asdict(miss) for miss in choice.misses],
        "left_out": choice.outside,
        "notes": _notes(choice),
    }


def _case(case: Case) -> dict[str, Any]:
    one = case.candidate.overview
    return {
        "run": one.run,
        "model": one.model,
        "backend": one.backend,
        "dtype": one.dtype,
        "batch": one.batch,
        "board": one.board,
        "mode": one.mode,
        "marks": list(one.marks),
        "simulated": one.simulated,
        "verdict": one.verdict,
        "basis": case.basis,
        "latency_ms": case.latency_ms,
        "rail": one.rail,
        "power_w": case.power_w,
        "power_half_w": case.power_half_w,
        "energy_mj_per_frame": case.energy_mj,
        "energy_half_mj_per_frame": case.energy_half_mj,
        "battery": None if case.battery is None else dataclasses.asdict(case.battery),
        "no_battery": case.no_battery,
        "total_excludes": case.candidate.excludes,
        "reasons": [dataclasses.asdict(reason) for reason in case.reasons],
    }


def _name(case: Case) -> str:
    marks = case.candidate.overview.marks
    return printable(case.run) + (f" [{', '.join(map(printable, marks))}]" if marks else "")


def _winner(choice: Choice, best: Case) -> Iterator[str]:
    limits, one = choice.limits, best.candidate.overview
    yield f"best: {_name(best)}"
    facts = [
        one.model,
        one.backend,
        one.dtype,
        f"batch {one.batch}",
        one.mode and f"mode {one.mode}",
    ]
    facts += [one.board and f"on {one.board}"]
    yield f"  {', '.join(printable(fact) for fact in facts if fact)}"
    basis = _BASES[best.basis].format(rate=limits.rate_hz or 0.0)
    joules = energy(best.energy_mj, best.energy_half_mj)
    yield f"  {joules} {limits.energy} per frame on {printable(one.rail)}, {basis}"
    power = _watts(best.power_w, best.power_half_w)
    latency = "-" if best.latency_ms is None else f"{best.latency_ms:.4g} ms"
    yield f"  {limits.percentile} latency {latency}, average power {power}"
    yield from _battery(best, limits)
    for other in choice.alike:
        yield f"  not told apart from {_name(other)}: {_why_alike(best, other)}"
    if one.verdict == "look":
        yield "  read before you rely on it:"
        yield from (f"    {printable(reason)}" for reason in one.reasons)
    count = best.candidate.rate_inferences if best.basis == "rate" else one.inferences
    few = count is not None and count < FEWEST[limits.percentile]
    if few and limits.latency_ms is not None:
        yield f"  {limits.percentile} of {count} inferences: little more than the slowest"
    if _reaches(best, limits):
        yield "  its average power meets the limit, but the interval of it reaches beyond"
    limited = limits.power_w is not None or limits.peak_power_w is not None
    if limited and one.rail != TOTAL:
        rail = printable(one.rail)
        yield f"  the power is that of {rail}: what else the board draws is not in it"
    yield from _repeats(choice, best)


def _repeats(choice: Choice, best: Case) -> Iterator[str]:
    """Say what other runs of the chosen configuration came to: the least of several is lucky."""
    alike = [
        case
        for case in (*choice.meeting, *choice.failing)
        if _configuration(case) == _configuration(best)
    ]
    if len(alike) < 2:
        return
    known = sorted(case.energy_mj for case in alike if case.energy_mj is not None)
    within = f"{energy(known[0])} to {energy(known[-1])} per frame" if known else "energy not known"
    yield f"  it is the least of {len(alike)} runs of this configuration: {within}"
    failing = [case for case in alike if case.reasons]
    if failing:
        names = ", ".join(_name(case) for case in failing)
        yield f"  of these do not meet the limits: {names}"


def _configuration(case: Case) -> tuple[object, ...]:
    one = case.candidate.overview
    what = (one.model, one.backend, one.dtype, one.batch, one.weights, one.simulated)
    return (*what, one.device, one.board, one.mode, one.rail)


def _reaches(case: Case, limits: Limits) -> bool:
    known = limits.power_w is not None and case.power_w is not None
    return known and (case.power_w or 0.0) + (case.power_half_w or 0.0) > (limits.power_w or 0.0)


def _why_alike(best: Case, other: Case) -> str:
    if best.energy_half_mj is None or other.energy_half_mj is None:
        return "no interval is known"
    assert not told_apart(best, other)  # noqa: S101 (that is what makes it one of these)
    return f"{energy(other.energy_mj, other.energy_half_mj)}, the intervals overlap"


def _battery(case: Case, limits: Limits) -> Iterator[str]:
    if case.no_battery is not None:
        yield f"  no battery life: {printable(case.no_battery)}"
    if case.battery is None:
        return
    yield f"  {limits.battery_wh:g} Wh last {_hours(case.battery)}"
    excludes = case.candidate.excludes or "nobody noted what"
    yield f"    what the total leaves out is not in it: {printable(excludes)}"
    yield "    nor is what the battery and its converter lose: that was not measured"


def _hours(life: BatteryLife) -> str:
    parts = []
    for name, within in (("statistical", life.statistical), ("systematic", life.systematic)):
        if within is None:
            parts.append(f"{name} interval not known")
        else:
            most = "without end" if within[1] is None else f"{within[1]:.4g} h"
            parts.append(f"{name} {within[0]:.4g} to {most}")
    return f"{life.hours:.4g} h ({'; '.join(parts)})"


def _watts(value: float | None, half: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g} W" if half is None else f"{value:.4g} ± {half:.2g} W"


def _table(cases: Sequence[Case], limits: Limits) -> str:
    header = ["run", f"{limits.percentile} ms", "power", f"{limits.energy} per frame"]
    rows = [
        [
            _name(case),
            "-" if case.latency_ms is None else f"{case.latency_ms:.4g}",
            _watts(case.power_w, case.power_half_w),
            energy(case.energy_mj, case.energy_half_mj),
        ]
        for case in cases
    ]
    return table(header, rows, {1, 2, 3})


def _nothing(choice: Choice) -> list[str]:
    if not choice.failing:
        return ["no run was looked at" + (": --models left all out" if choice.outside else "")]
    lines = ["no run meets the limits"]
    for miss in choice.misses:
        words, unit = told(miss.kind, choice.limits)
        met = "meets it, and fails by others" if miss.met else "does not meet it"
        lines.append(
            f"  nearest in {words}: {printable(miss.run)} with {miss.value:.4g}{unit} "
            f"(limit {miss.limit:g}{unit}): {met}"
        )
    return lines


def _notes(choice: Choice) -> list[str]:
    cases = (*choice.meeting, *choice.failing)
    rows = [case.candidate.overview for case in cases]
    notes = []
    if any(case.energy_half_mj is not None for case in cases):
        notes.append("intervals are of 95 %, within one process: another start may differ more")
    if any("random weights" in one.marks for one in rows):
        notes.append(_WEIGHTS)
    rails = sorted({str(case.candidate.overview.rail) for case in choice.meeting})
    if len(rails) > 1:
        notes.append(_RAILS.format(rails=", ".join(map(printable, rails))))
    if len({one.model for one in rows}) > 1:
        notes.append(_TASKS)
    if len({case.basis for case in choice.meeting}) > 1:
        notes.append(_MIXED)
    if any(one.batch > 1 for one in rows):
        notes.append("a frame is one image of a batch; a batch is taken up when it is whole")
    if choice.outside:
        notes.append(f"--models left out {choice.outside} runs")
    return notes
