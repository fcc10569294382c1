"""Power modes of boards whose modes are all known. Data, with a source each.

With it the mode is inferred where nvpmodel.conf is not to be seen. A board whose list is not
complete is not in it: a mode that is missing here could be the one in force.

Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass

_AGX_ORIN = (
    "jetson_stats tests/nvpmodel (output of `nvpmodel -p --verbose`) and jetson_clocks --show, "
    "64 GB developer kit"
)
_ORIN_NANO = (
    "nvpmodel -q --verbose and jetson_clocks --show in public reports of developer kits with L4T "
    "36.4.3 and 39.2.1; the 15 W mode before Super by canonical's nvpmodel snap"
)
_NANO = "Tegra Linux Driver Package Development Guide 32.1, power management for Jetson Nano"


@dataclass(frozen=True)
class KnownMode:
    """A mode as it is in force.

    Attributes:
        board: Board of `edgejoule.power.board_table`.
        name: Name in nvpmodel.conf.
        cpus: CPUs that the board has, online or not (a variant with fewer has other modes).
        online: CPUs online.
        cpu_khz: Limit of their clock.
        gpu_hz: Limit of the GPU's clock.
        source: Where this is from.
    """

    board: str
    name: str
    cpus: int
    online: frozenset[int]
    cpu_khz: int
    gpu_hz: int
    source: str


def _mode(
    board: str, name: str, cpus: int, online: int, cpu_khz: int, gpu_hz: int, source: str
) -> KnownMode:
    return KnownMode(board, name, cpus, frozenset(range(online)), cpu_khz, gpu_hz, source)


KNOWN_MODES = (
    _mode("Jetson AGX Orin", "MAXN", 12, 12, 2_201_600, 1_300_500_000, _AGX_ORIN),
    _mode("Jetson AGX Orin", "MODE_15W", 12, 4, 1_113_600, 420_750_000, _AGX_ORIN),
    _mode("Jetson AGX Orin", "MODE_30W", 12, 8, 1_728_000, 624_750_000, _AGX_ORIN),
    _mode("Jetson AGX Orin", "MODE_50W", 12, 12, 1_497_600, 828_750_000, _AGX_ORIN),
    _mode("Jetson Orin Nano", "15W", 6, 6, 1_510_400, 624_750_000, _ORIN_NANO),
    _mode("Jetson Orin Nano", "15W", 6, 6, 1_497_600, 612_000_000, _ORIN_NANO),
    _mode("Jetson Orin Nano", "25W", 6, 6, 1_344_000, 918_000_000, _ORIN_NANO),
    _mode("Jetson Orin Nano", "MAXN_SUPER", 6, 6, 1_728_000, 1_020_000_000, _ORIN_NANO),
    _mode("Jetson Nano", "MAXN", 4, 4, 1_479_000, 921_600_000, _NANO),
    _mode("Jetson Nano", "5W", 4, 2, 918_000, 640_000_000, _NANO),
)
