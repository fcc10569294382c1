"""Energy per inference of a program that is only seen from outside (`trtexec`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The timed part's ends are known to some milliseconds only: power is taken from inside.
_INSIDE = 0.03


@dataclass(frozen=True)
class Clean:
    """The clean pass as seen from outside: CLOCK_MONOTONIC ns.

    Attributes:
        idle_start_ns: When idle began.
        idle_end_ns: When it ended and trtexec was started.
        ended_ns: When trtexec said that the timed part was over.
        inferences: How many it then named.
        seconds: Over how long.
    """

    idle_start_ns: int
    idle_end_ns: int
    ended_ns: int
    inferences: int
    seconds: float

    @property
    def window_ns(self) -> tuple[int, int]:
        """The inside of the timed part."""
        length = self.seconds * 1e9
        return (
            self.ended_ns - round((1 - _INSIDE) * length), self.ended_ns - round(_INSIDE * length)
        )  # fmt: skip


def clean_energy(power_bin: Path, clean: Clean) -> dict[str, Any]:
    """Return energy per inference of the total, or of each rail where no total is known.

    The interval is of the mean power, from block means; idle is without the engine loaded, which
    is what can be had around a program of its own.
    """
    from edgejoule.energy.integrate import energy_mj
    from edgejoule.energy.statistics import combine, mean_of
    from edgejoule.energy.trace import rail_powers_of_samples, read_samples, total_power
    from edgejoule.power.totals import total_rails_of

    header, samples = read_samples(power_bin)
    rails = rail_powers_of_samples(header["channels"], samples)
    total_of = total_rails_of(header, tuple(n for n, rail in rails.items() if len(rail.t_ns)))
    if total_of is not None:
        rails["total"] = total_power([rails[name] for name in total_of])
    start_ns, end_ns = clean.window_ns
    period_s = clean.seconds / clean.inferences
    figures: dict[str, Any] = {}
    for name, series in rails.items():
        loaded = energy_mj(series, start_ns, end_ns)
        idle = energy_mj(series, clean.idle_start_ns, clean.idle_end_ns)
        inside = (series.t_ns >= start_ns) & (series.t_ns <= end_ns)
        before = (series.t_ns >= clean.idle_start_ns) & (series.t_ns <= clean.idle_end_ns)
        half = mean_of(series.power_mw[inside]).half_width
        idle_half = mean_of(series.power_mw[before]).half_width
        figures[name] = {
            "mean_mw": loaded.mean_mw,
            "idle_mw": idle.mean_mw,
            "gross_mj": loaded.mean_mw * period_s,
            "gross_statistical_mj": None if half is None else half * period_s,
            "dynamic_mj": (loaded.mean_mw - idle.mean_mw) * period_s,
            "dynamic_statistical_mj": _times(combine(half, idle_half), period_s),
            "coverage": loaded.coverage,
        }
    found: dict[str, Any] = {
        "rail": "total" if total_of else None,
        "total_of": total_of,
        "rails": figures,
        "sensor": header["sensor"],
        "simulated": header["simulated"],
        "idle": "before trtexec was started: the engine is not loaded",
    }
    return {**found, **figures["total"]} if total_of else found


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
