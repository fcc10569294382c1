"""The flags that say how energy is split over layers, and how that is checked."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from edgejoule.energy_methods import CHOICES, DEFAULT_OBSERVER_S, DEFAULT_REPLAY_BUDGET_S


def add_energy_options(
    group: argparse._ArgumentGroup,
    count: Callable[[str], int],
    positive: Callable[[str], float],
    seconds: Callable[[str], float],
) -> None:
    """Add the flags.

    Args:
        group: Where to.
        count: Parses a whole number from 1.
        positive: Parses a number above 0.
        seconds: Parses a number from 0.
    """
    group.add_argument(
        "--energy",
        default="auto",
        metavar="METHODS",
        help=f"how an inference's energy is split over its layers: of {', '.join(CHOICES)} one or "
        "more with commas between. window: a regression on what the sensor averages, replay: each "
        "layer alone again and again, proportional (always there): by time, which tells no layer's "
        "power from another's, interval: readings inside a layer's time, only to compare "
        "(default: auto, window where the sensor's refreshes can be polled, replay for NVIDIA GPUs "
        "and RAPL)",
    )
    group.add_argument(
        "--replay-budget",
        type=positive,
        metavar="S",
        help="longest replay pass; each layer ends when its interval is narrow enough "
        f"(default: {DEFAULT_REPLAY_BUDGET_S:g})",
    )
    group.add_argument(
        "--check-attribution",
        type=count,
        metavar="N",
        help="also rebuild the network with each of N layers executed 1, 2, 4 and 8 times in place "
        "and hold the increase in energy against what was attributed",
    )
    group.add_argument(
        "--observer-seconds",
        type=seconds,
        metavar="S",
        help="longest time spent on what sampler and profiler cost, on and off in turns; at most "
        f"a quarter of the clean pass (default: {DEFAULT_OBSERVER_S:g}; 0: not measured)",
    )
