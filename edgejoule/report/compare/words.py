"""What the terminal, Markdown and JSON say alike: sides, counts, percentages, and what failed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from edgejoule.report.compare.loading import QUANTITIES
from edgejoule.report.compare.pairing import Group
from edgejoule.report.compare.result import (
    BETTER,
    COMMON,
    NOT_COMPARED,
    NOT_SHOWN,
    WORSE,
    Comparison,
    Judged,
    JudgedLayer,
    PairResult,
)
from edgejoule.report.tables import part
from edgejoule.report.text import ABSENT, energy, ms, power

VERDICTS = (BETTER, WORSE, NOT_SHOWN, NOT_COMPARED)
CALLED = {
    **{key: text for key, (text, _) in QUANTITIES.items()},
    COMMON: "all layers in common",
    "time": "time",
    "energy": "energy",
}


def percent(share: float | None) -> str:
    """Return a relative change with its sign: `+3.2 %`; a multiple where it is above tenfold."""
    if share is None:
        return ABSENT
    if share >= 10.0:
        return f"x{1.0 + share:.3g}"
    return f"{100.0 * share:+.3g} %" if abs(share) >= 0.0005 else "0.0 %"


def interval(one: Judged) -> str:
    """Return the corrected interval of what is judged."""
    if one.low is None or one.high is None:
        return ABSENT
    return f"{percent(one.low)} to {percent(one.high)}"


def amount(value: float | None, unit: str) -> str:
    """Return a figure with its unit."""
    if value is None:
        return ABSENT
    if unit == "mJ":
        return energy(value)
    return power(value) if unit == "mW" else f"{ms(value)} {unit}"


def counts(judged: Sequence[Judged]) -> str:
    """Return how many of each verdict: `1 better, 2 worse, 30 no difference shown`."""
    found = Counter(one.verdict for one in judged)
    said = [word for word in VERDICTS if found[word] or word != NOT_COMPARED]
    return ", ".join(f"{found[word]} {word}" for word in said)


def group_text(group: Group) -> str:
    """Return which runs a group has, when they were measured, and what marks them."""
    names = [run.tables.name for run in group.runs]
    said = names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]} ({len(names)} runs)"
    dates = sorted({str(run.tables.run.get("started_at") or "")[:10] for run in group.runs} - {""})
    when = "" if not dates else dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    marks = sorted({mark for run in group.runs for mark in run.tables.marks})
    return ", ".join([text for text in (said, when, *marks) if text])


def machine_text(group: Group) -> str:
    """Return the machine of a group in a few words."""
    run = group.first.run
    machine = part(run, "machine")
    names = part(machine, "gpu").get("names")
    gpu = ", ".join(map(str, names)) if isinstance(names, list) else names
    cpu = part(machine, "cpu").get("model")
    facts = [run.get("board_id"), None if cpu == run.get("board_id") else cpu, gpu]
    return ", ".join(str(fact) for fact in facts if fact) or "machine not known"


def what_text(group: Group) -> str:
    """Return model, backend and dtype."""
    config = group.config
    parts = [config.get("model"), config.get("backend"), config.get("dtype")]
    return " ".join(str(one) for one in parts if one)


def version_changes(result: PairResult) -> list[str]:
    """Return which libraries, driver, kernel or system differ: `onnxruntime 1.30 -> 1.31`."""
    first, second = result.pair.first.first.run, result.pair.second.first.run
    found = []
    for left, right in (
        (part(first, "versions"), part(second, "versions")),
        (_system(first), _system(second)),
    ):
        found += [
            f"{name} {_or_absent(left, name)} -> {_or_absent(right, name)}"
            for name in sorted({*left, *right})
            if left.get(name) != right.get(name)
        ]
    return found


def _system(run: Mapping[str, object]) -> dict[str, object]:
    machine = part(run, "machine")
    return {
        "driver": part(machine, "gpu").get("driver"),
        "kernel": machine.get("kernel"),
        "jetpack": machine.get("jetpack"),
        "distribution": machine.get("distribution"),
    }


def _or_absent(holder: Mapping[str, object], name: str) -> str:
    return str(holder.get(name) or "none")


def ranked(result: PairResult) -> list[JudgedLayer]:
    """Return the layers, those that are shown first, the largest change first."""

    def size(layer: JudgedLayer) -> tuple[int, float, int]:
        shown = any(one.verdict in (BETTER, WORSE) for one in layer.judged)
        judged = [one for one in layer.judged if one.verdict in (BETTER, WORSE)] or layer.judged
        largest = max((_log_size(one.own) for one in judged), default=0.0)
        return (0 if shown else 1, -largest, layer.first.index)

    return sorted(result.layers, key=size)


def _log_size(share: float | None) -> float:
    return 0.0 if share is None or share <= -1.0 else abs(math.log1p(share))


def shown(layer: JudgedLayer) -> bool:
    """Return whether anything of a layer is shown."""
    return any(one.verdict in (BETTER, WORSE) for one in layer.judged)


def all_figures(comparison: Comparison) -> list[Judged]:
    """Return the judged figures of all runs."""
    return [one for result in comparison.results for one in result.figures]


_WATCHED = {"latency": ("latency",), "energy": ("gross", "dynamic"), "power": ("power",)}


def unwatched(comparison: Comparison, fail_on: Sequence[str]) -> list[str]:
    """Return what a check would watch, A has, and could not be compared, one line each."""
    found = []
    for result in comparison.results:
        name = result.pair.second.first.name
        for kind in fail_on:
            if kind == "layers":
                judged = [layer.time for layer in result.layers]
                there = any(run.blocks is not None for run in result.pair.first.runs)
            else:
                judged = [one for one in result.figures if one.quantity in _WATCHED[kind]]
                there = any(
                    quantity in run.figures or quantity in run.untold
                    for run in result.pair.first.runs
                    for quantity in _WATCHED[kind]
                )
            if there and all(one.verdict == NOT_COMPARED for one in judged):
                why = next((f" ({one.why})" for one in judged if one.why), "")
                found.append(f"{name}: {kind}{why}")
    return found


def failures(comparison: Comparison, over: float, fail_on: Sequence[str]) -> list[str]:
    """Return what is shown worse by more than `over`, one line each, the worst first.

    Verdicts hold within a family (`comparing`). A check looks at several at once, and all of them
    together may be wrong with a chance of 5 %: so what fails it has to hold after Bonferroni's
    correction for how many families it looks at.
    """
    from edgejoule.report.compare.student import ALPHA

    found: list[tuple[float, str]] = []
    families = _families(comparison) if "layers" in fail_on else 1

    def beyond(one: Judged) -> bool:
        sure = one.p_adjusted is not None and one.p_adjusted * families <= ALPHA
        return one.verdict == WORSE and one.own is not None and one.own > over and sure

    for result in comparison.results:
        name = result.pair.second.first.name
        for one in result.figures:
            kind = {"gross": "energy", "dynamic": "energy"}.get(one.quantity, one.quantity)
            # What all layers have in common is their part of the latency.
            if (kind if kind != COMMON else "layers") in fail_on and beyond(one):
                found.append((one.own or 0.0, f"{name}: {CALLED[one.quantity]} {percent(one.own)}"))
        if "layers" not in fail_on:
            continue
        for layer in result.layers:
            for one in layer.judged:
                if beyond(one):
                    text = f"{name}, layer {layer.second.index} {layer.second.name}: "
                    found.append((one.own or 0.0, f"{text}{one.quantity} {percent(one.own)}"))
    return [text for _, text in sorted(found, key=lambda item: -item[0])]


def _families(comparison: Comparison) -> int:
    """Return how many families are judged: all figures, and of each pair times and energies."""
    kinds = [
        [layer.judged[place] for layer in result.layers]
        for result in comparison.results
        for place in (0, 1)
    ]
    return 1 + sum(any(one.verdict != NOT_COMPARED for one in judged) for judged in kinds)
