"""Which rails a board has and which of them make up its total. Data, with a source each.

A rail can lie inside another (VDD_SOC is fed through VDD_IN), so adding up what there is would
count twice. A board is known by its whole set of labels; an unknown set has no total.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class BoardRails:
    """What is known of the rails of a family of boards.

    Attributes:
        boards: Names of the boards.
        rails: All labels by which the family is known; a board may show more.
        total: The rails whose sum is the total.
        scope: What the total covers.
        source: Where this is from.
    """

    boards: tuple[str, ...]
    rails: frozenset[str]
    total: tuple[str, ...]
    scope: str
    source: str


BOARDS = (
    BoardRails(
        ("Jetson Orin Nano", "Jetson Orin NX", "Jetson Xavier NX"),
        frozenset({"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}),
        ("VDD_IN",),
        "module",
        "Linux dts tegra234-p3767.dtsi, tegra194-p3668.dtsi; NVIDIA forum 200883",
    ),
    BoardRails(
        ("Jetson TX2 NX",),
        frozenset({"VDD_IN", "VDD_CPU_GPU", "VDD_SOC"}),
        ("VDD_IN",),
        "module",
        "energymon JetsonPowerRails.md",
    ),
    BoardRails(
        ("Jetson TX2",),
        frozenset({"VDD_IN", "VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_SYS_CPU"}),
        ("VDD_IN",),
        "module",
        "energymon JetsonPowerRails.md",
    ),
    BoardRails(
        ("Jetson TX1",),
        frozenset({"VDD_IN", "VDD_GPU", "VDD_CPU"}),
        ("VDD_IN",),
        "module",
        "energymon JetsonPowerRails.md",
    ),
    BoardRails(
        ("Jetson Nano",),
        frozenset({"POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"}),
        ("POM_5V_IN",),
        "module",
        "energymon JetsonPowerRails.md; jetson_stats issue 51",
    ),
    BoardRails(
        # VDDQ_VDD2_1V8AO on the second chip is fed by VIN_SYS_5V0: adding it would count it twice.
        ("Jetson AGX Orin",),
        frozenset({"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"}),
        ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
        "module",
        "Linux dts tegra234-p3701.dtsi; energymon JetsonPowerRails.md; NVIDIA forum 223111",
    ),
    BoardRails(
        ("Jetson AGX Xavier",),
        frozenset({"GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"}),
        ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
        "module",
        "Linux dts tegra194-p2888.dtsi; energymon JetsonPowerRails.md",
    ),
)


def board_of(rails: Iterable[str]) -> BoardRails | None:
    """Return the family whose labels are all among `rails` (the largest one), or None."""
    there = frozenset(rails)
    fitting = [board for board in BOARDS if board.rails <= there]
    return max(fitting, key=lambda board: len(board.rails), default=None)


def total_rails(rails: Iterable[str]) -> tuple[str, ...] | None:
    """Return the rails whose sum is the board's total, or None on an unknown board."""
    board = board_of(rails)
    return None if board is None else board.total
