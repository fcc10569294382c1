"""The sensor's own figures: how late the sweeps of its channels began."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgejoule.report.figures.figure import Figure
from edgejoule.report.figures.names import plain
from edgejoule.report.figures.style import PALETTE, axis, five, frame
from edgejoule.report.tables import RunTables, number, part

_MOST_GROUPS = 6


def lateness_figure(run: RunTables) -> Figure | None:
    """Return the histogram of lateness, per group of channels and for the attribution rate."""
    sampler = part(run.summary, "sampler")
    groups = part(sampler, "groups")
    told = [
        (f"monitor, {name}" if len(groups) > 1 else "monitor rate", part(groups, name))
        for name in list(groups)[:_MOST_GROUPS]
    ] or [("monitor rate", sampler)]
    told.append(("attribution rate", part(sampler, "attribution")))
    shown = [(name, bins, said) for name, said in told if (bins := _bins(said))]
    if not shown:
        return None
    filled = [k for _, bins, _ in shown for k, count in enumerate(bins) if count]
    first, last = min(filled), max(filled)
    labels = [f"&lt; {_microseconds(k)}" for k in range(first, last + 1)]
    data = []
    for place, (name, bins, _) in enumerate(shown):
        whole = sum(bins)
        cut = [bins[k] if k < len(bins) else 0 for k in range(first, last + 1)]
        data.append(
            {
                "type": "bar",
                "name": f"{plain(name, 26)} ({whole} sweeps)",
                "x": list(range(len(cut))),
                "y": [five(100 * count / whole) if count else None for count in cut],
                "marker": {"color": PALETTE[place % len(PALETTE)]},
                "hoverinfo": "text+name",
                "hovertext": [
                    f"{count} sweeps ({100 * count / whole:.3g} %) {label} late"
                    for count, label in zip(cut, labels, strict=True)
                ],
            }
        )
    least = min(100 / sum(bins) for _, bins, _ in shown)
    layout = frame(
        run.marks,
        legend=True,
        barmode="group",
        bargap=0.15,
        xaxis=axis(
            "lateness of a sweep (each bar: from half of it)",
            tickmode="array",
            tickvals=list(range(len(labels))),
            ticktext=labels,
            tickangle=-60,
            showgrid=False,
        ),
        yaxis=axis("sweeps, %", type="log", dtick=1, range=_range(least)),
    )
    note = f"How long after its deadline a sweep of the sensor's channels began. {_facts(shown)}"
    return Figure("lateness", "Lateness of the sensor", note, run.marks, tuple(data), layout, 360)


def _bins(said: Mapping[str, Any]) -> list[int]:
    value = said.get("lateness_us_log2")
    if not isinstance(value, Sequence) or isinstance(value, str):
        return []
    whole = all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in value)
    return list(value[:64]) if whole and any(value) else []


def _microseconds(power: int) -> str:
    """Return 2^k us as people say it: 1024 us are a millisecond here."""
    units = ("µs", "ms", "s")
    step = min(power // 10, len(units) - 1)
    return f"{2 ** (power - 10 * step)} {units[step]}"


def _range(least: float) -> list[float | int | None]:
    import math

    return [five(math.floor(math.log10(least)) - 0.1), 2.08]


def _facts(shown: Sequence[tuple[str, list[int], Mapping[str, Any]]]) -> str:
    said = []
    for name, _, figures in shown:
        late, gaps = number(figures, "late_deadlines"), number(figures, "gaps")
        parts = []
        if late is not None:
            parts.append(f"{late:.0f} late deadlines")
        if gaps is not None:
            parts.append(f"{gaps:.0f} gaps")
        if parts:
            said.append(f"{name}: {', '.join(parts)}")
    return f"{'; '.join(said)}." if said else ""
