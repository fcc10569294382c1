"""All figures of one run, in the order of the page."""

from __future__ import annotations

from edgejoule.report.figures.figure import Figure
from edgejoule.report.figures.latency import latency_figures
from edgejoule.report.figures.layers import energy_figure, time_figure
from edgejoule.report.figures.modules import module_figure
from edgejoule.report.figures.over_time import condition_figures, power_figure
from edgejoule.report.figures.roofline import roofline_figure
from edgejoule.report.figures.sensor import lateness_figure
from edgejoule.report.figures.shares import operation_figure, share_figure
from edgejoule.report.tables import RunTables


def run_figures(run: RunTables) -> tuple[Figure, ...]:
    """Return the figures that the run has data for.

    Args:
        run: Read with `series=True`; without it what is drawn over time is left out.
    """
    found = [
        power_figure(run),
        time_figure(run),
        energy_figure(run),
        module_figure(run),
        operation_figure(run),
        roofline_figure(run),
        share_figure(run),
        *latency_figures(run),
        *condition_figures(run),
        lateness_figure(run),
    ]
    return tuple(one for one in found if one is not None)
