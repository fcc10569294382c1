"""What a run says of its attribution: closure, what is resolved, and the checks, as figures.

Everything may be absent: older formats have none of it, and what a run does not say is not shown.
The figures come from `summary.energy` where it has them, else from the rows of `energy.parquet`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from edgejoule.dataset.tables.attribution_columns import duplicated
from edgejoule.energy.rollup import Rollup
from edgejoule.energy.rows import METHODS
from edgejoule.report.energies import batch_of, best_of
from edgejoule.report.tables import RunTables, number, part, texts
from edgejoule.report.text import ABSENT, edp, energy, percent, printable

WORDS = {
    "replay": "replay",
    "window": "window regression",
    "proportional": "proportional to time",
    "interval": "readings within a layer's interval",
}
# `proportional` and `interval` do not ask which layers they can tell apart.
TELL_APART = ("replay", "window")


@dataclass(frozen=True)
class Closure:
    """Sum of the parts over the measured whole; None where not known.

    Attributes:
        value: The ratio.
        interval: Both ends of its 95 % interval.
    """

    value: float | None = None
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        """Return it in percent, with its interval."""
        if self.value is None:
            return ABSENT
        if self.interval is None:
            return percent(self.value)
        low, high = self.interval
        return f"{percent(self.value)} ({percent(low)} to {percent(high)})"


@dataclass(frozen=True)
class MethodFigures:
    """A method on a rail.

    Attributes:
        method: The method.
        rail: The rail.
        layers: How many layers there are.
        resolved_layers: How many it tells from everything else; None: it does not ask.
        resolved_share: Of the energy, what these take.
        groups: Sizes of the groups of several layers that it knows together only.
        gross: Closure, idle included.
        dynamic: Closure above idle.
        held_out: Gross closure on blocks of time that were not fitted.
        other_rule: Dynamic closure by replay's other rule.
        missing: Layers of which nothing is known: they are in no sum, which then does not close.
        time_share: Of the layers' time, what the sum covers; None: not known.
    """

    method: str
    rail: str
    layers: int | None
    resolved_layers: int | None
    resolved_share: float | None
    groups: tuple[int, ...]
    gross: Closure
    dynamic: Closure
    held_out: Closure
    other_rule: Closure
    missing: int = 0
    time_share: float | None = None

    @property
    def resolved(self) -> str:
        """How many layers are resolved, in words."""
        if self.resolved_layers is None:
            return ABSENT
        return f"{self.resolved_layers} of {ABSENT if self.layers is None else self.layers}"


def method_figures(run: RunTables) -> list[MethodFigures]:
    """Return every method on every rail, the best method first, the run's own rail before others.

    A run that knows no method but the proportional one has none: that adds up by construction.
    """
    told = part(run.summary, "energy", "attribution")
    rollups = {(one.method, one.rail): one for one in run.rollups}
    pairs = list(rollups)
    for method in told:
        pairs += [(method, rail) for rail in part(told, method) if (method, rail) not in rollups]
    if not {method for method, _ in pairs} - {"proportional"}:
        return []
    order = [*METHODS, *sorted({method for method, _ in pairs} - set(METHODS))]
    pairs.sort(key=lambda pair: (order.index(pair[0]), pair not in rollups))
    return [
        _figures(method, rail, part(told, method, rail), rollups.get((method, rail)))
        for method, rail in pairs
    ]


def _figures(
    method: str, rail: str, told: Mapping[str, Any], rollup: Rollup | None
) -> MethodFigures:
    closure = part(told, "closure")
    gross, dynamic = _closure(closure, "gross"), _closure(closure, "dynamic")
    resolved, layers = number(told, "resolved_layers"), number(told, "layers")
    share = number(told, "resolved_share")
    groups: tuple[int, ...] = ()
    if rollup is not None:
        gross = gross if gross.value is not None else Closure(rollup.closure_gross)
        dynamic = dynamic if dynamic.value is not None else Closure(rollup.closure_dynamic)
        layers = rollup.layers
        if method in TELL_APART:
            resolved = rollup.resolved_layers
            share = rollup.resolved_share if share is None else share
        groups = tuple(len(one.layers) for one in rollup.pieces if len(one.layers) > 1)
    held = closure.get("held_out")
    held_out = _closure(held, "gross") if isinstance(held, Mapping) else _closure(closure, None)
    if held_out.value is not None and held_out.interval is None:
        # A fit reproduces its own total: its intervals are those of what it did not see.
        held_out = replace(held_out, interval=gross.interval)
        gross, dynamic = replace(gross, interval=None), replace(dynamic, interval=None)
    return MethodFigures(
        method,
        rail,
        None if layers is None else int(layers),
        None if resolved is None else int(resolved),
        share,
        groups,
        gross,
        dynamic,
        held_out,
        Closure(number(closure, "other_rule")),
        int(number(closure, "missing_layers") or 0),
        number(closure, "time_share"),
    )


def _closure(said: Mapping[str, Any], name: str | None) -> Closure:
    """Return a closure by its name, None for the held-out one."""
    key = name or "held_out"
    return Closure(number(said, key), ends(said.get(f"interval_{key}")))


def ends(value: Any) -> tuple[float, float] | None:
    """Return both ends of an interval, None if there are no two numbers."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return None
    low, high = (number({"end": end}, "end") for end in value)
    return None if low is None or high is None else (low, high)


def method_line(found: MethodFigures, word: str = "") -> str:
    """Return a method in one line, for a terminal; `word` is what marks simulated figures."""
    said = [f"{WORDS.get(found.method, found.method)} on {found.rail}:{word}"]
    if found.resolved_layers is not None:
        of = "" if found.resolved_share is None else f" ({percent(found.resolved_share)} % of it)"
        said.append(f"{found.resolved} layers resolved{of}")
    if found.groups:
        several = "" if len(found.groups) == 1 else "s"
        said.append(f"{len(found.groups)} group{several} of {', '.join(map(str, found.groups))}")
    closures = [
        f"{closure} % {name}"
        for name, closure in (
            ("gross", found.gross),
            ("dynamic", found.dynamic),
            ("on blocks that were not fitted", found.held_out),
            ("by the other rule", found.other_rule),
        )
        if closure.value is not None
    ]
    if closures and found.missing:
        share = found.time_share
        of = "" if share is None else f" ({percent(share)} % of all layers' time)"
        left = f"{found.missing} of {ABSENT if found.layers is None else found.layers} layers"
        said.append(f"no closure, but the sum without {left}{of}: {', '.join(closures)}")
    elif closures:
        said.append(f"closure {', '.join(closures)}")
    return printable(f"{said[0]} {'; '.join(said[1:])}" if said[1:] else f"{said[0]} no figures")


def unresolved_lines(run: RunTables, word: str = "") -> list[str]:
    """Return which layers have no figure of their own and why, a line per method that asks.

    Args:
        run: The run.
        word: What marks simulated figures.
    """
    names = {layer.index: printable(layer.name, 40) for layer in run.layers}
    lines = []
    for rollup in run.rollups:
        if rollup.method not in TELL_APART:
            continue
        by_why: dict[str, list[str]] = {}
        count = 0
        for piece in rollup.pieces:
            if piece.kind == "gap" or (piece.kind == "layer" and piece.resolved is not False):
                continue
            count += len(piece.layers)
            named = [names.get(index, f"layer {index}") for index in piece.layers]
            whole = len(piece.layers) == rollup.layers > 1
            together = len(piece.layers) > 1 and piece.resolved is not False
            why = "known only together" if together else piece.why or "no reason is recorded"
            text = f"all {rollup.layers}" if whole else _some(named, " + ")
            by_why.setdefault(printable(why, 200), []).append(text)
        if not by_why:
            continue
        reasons = [f"{_some(found, ', ')} ({why})" for why, found in by_why.items()]
        hint = "; more --runs may tell more" if rollup.method == "window" else ""
        if hint and not any(one.method == "replay" for one in run.rollups):
            hint = "; more --runs, or --energy replay, may tell more"
        lines.append(
            f"not resolved by {WORDS[rollup.method]} on {printable(rollup.rail)}: {word}{count} of "
            f"{rollup.layers} layers: {_some(reasons, '; ')}{hint}"
        )
    return lines


def _some(found: list[str], between: str, most: int = 4) -> str:
    more = f"{between}{len(found) - most} more" if len(found) > most else ""
    return between.join(found[:most]) + more


@dataclass(frozen=True)
class Duplicated:
    """A layer of the duplication check; None where not known.

    Attributes:
        layer: Its index.
        name: Its name.
        copies: How often it was executed in place.
        slope_mj: What one more execution costs, above idle.
        slope_half_mj: Half-width of its 95 % interval.
        attributed_mj: What was attributed to the layer, above idle.
        ratio: Slope over attributed.
        interval: Of the ratio.
        outlier: Whether they differ by more than the check allows.
        why: Why there is no figure.
    """

    layer: int | None
    name: str
    copies: str
    slope_mj: float | None
    slope_half_mj: float | None
    attributed_mj: float | None
    ratio: Closure
    outlier: bool
    why: str


def duplication(run: RunTables) -> list[Duplicated]:
    """Return the layers of the duplication check, none where there was no check."""
    names = {layer.index: layer.name for layer in run.layers}
    found = []
    for one in duplicated(part(run.summary, "energy").get("duplication")):
        index = number(one, "layer")
        layer = None if index is None else int(index)
        copies = one.get("copies")
        several = copies if isinstance(copies, (list, tuple)) else [copies]
        found.append(
            Duplicated(
                layer,
                names.get(layer, ABSENT) if layer is not None else ABSENT,
                ", ".join(str(count) for count in several if count is not None) or ABSENT,
                number(one, "slope_mj"),
                number(one, "slope_half_mj"),
                number(one, "attributed_mj"),
                Closure(number(one, "ratio"), ends(one.get("ratio_interval"))),
                one.get("outlier") is True,
                str(one.get("why") or ""),
            )
        )
    return found


def duplication_line(found: list[Duplicated]) -> str:
    """Return the check in one line: median and range of the ratios, and every outlier by name."""
    ratios = [one.ratio.value for one in found if one.ratio.value is not None]
    count = f"{len(found)} layer{'' if len(found) == 1 else 's'}"
    if not ratios:
        return f"duplication check: {count}, no figure"
    text = f"duplication check: {count}, what one more execution costs over what was attributed: "
    text += f"median {percent(median(ratios))} %"
    if len(ratios) > 1:
        text += f", {percent(min(ratios))} to {percent(max(ratios))} %"
    outliers = [one for one in found if one.outlier]
    if outliers:
        named = [f"{printable(one.name, 40)} {one.ratio} %" for one in outliers]
        text += f"; outliers: {', '.join(named)}"
    return text


def observer_lines(run: RunTables) -> list[str]:
    """Return what sampler and profiler do to the network, one line each."""
    said = part(run.summary, "energy", "observer") or part(run.summary, "observer")
    lines = []
    for who in ("sampler", "profiler"):
        figures = part(said, who)
        parts = []
        for what, key, word in (
            ("latency", "latency_percent", "interval_percent"),
            ("energy", "energy_percent", "energy_interval_percent"),
        ):
            value = number(figures, key)
            if value is None:
                continue
            interval = ends(figures.get(word))
            text = f"{what} {value:+.2f} %"
            text += "" if interval is None else f" ({interval[0]:+.2f} to {interval[1]:+.2f} %)"
            parts.append(text)
        if not parts:
            continue
        if figures.get("resolved") is False:
            parts.append("not told from zero")
        lines.append(f"observer effect of the {who}: {', '.join(parts)}")
    why = said.get("why")
    if not lines and why:
        lines.append(f"observer effect: not measured, {printable(why)}")
    return lines


def board_line(run: RunTables) -> str | None:
    """Say what the simulated board cannot show, None for a run on anything else."""
    sensor, backend = part(run.run, "sensor").get("name"), part(run.run, "config").get("backend")
    if sensor != "simulated" or backend == "simulated" or not run.rollups:
        return None
    return (
        "the simulated board knows no layers and draws about the same power in each: energies of "
        "layers show here how a method works, not which layer needs more power"
    )


def systematic_line(run: RunTables, sign: str = "±", word: str = "") -> str | None:
    """Return the systematic bound of an inference, None where nothing is known of it."""
    best = best_of(run.rollups)
    if best is None:
        return None
    bound_mj, gross_mj = best.inference.systematic_mj, best.inference.gross_mj
    accuracy = part(run.summary, "energy", "accuracy", best.rail)
    sources = ", ".join(_sources(accuracy.get("sources")))
    if bound_mj is None:
        return None if not accuracy else "systematic bound: not known for this sensor"
    share = "" if not gross_mj else f", {percent(abs(bound_mj / gross_mj))} % of the gross energy"
    text = f"systematic bound (gain, offset, step, choice of baseline): {word}{sign} "
    text += f"{energy(bound_mj)} per profiled inference{share}"
    assumed = ", ".join(_sources(accuracy.get("assumptions")))
    text += f"; {printable(sources, 300)}" if sources else ""
    return f"{text}; assumed: {printable(assumed, 300)}" if assumed else text


def _sources(said: Any) -> list[str]:
    if isinstance(said, Mapping):
        return [f"{name}: {source}" for name, source in said.items() if source]
    return list(texts(said)) or ([said] if isinstance(said, str) else [])


def inference_line(run: RunTables, word: str = "") -> str | None:
    """Return energy per image and energy-delay product of the clean pass."""
    clean = part(run.summary, "energy", "clean")
    gross_mj = number(clean, "gross_mj")
    if gross_mj is None:
        return None
    batch = batch_of(run.run)
    dynamic_mj = number(clean, "dynamic_mj")
    parts = []
    if batch > 1:
        text = f"per image (batch {batch}): {word}{energy(gross_mj / batch)} gross"
        if dynamic_mj is not None:
            text += f", {word}{energy(dynamic_mj / batch)} dynamic"
        parts.append(text)
    mean_ms = number(part(run.summary, "clean"), "mean_ms")
    if mean_ms is not None:
        parts.append(f"energy-delay product {word}{edp(gross_mj * mean_ms)}")
    return "; ".join(parts) or None
