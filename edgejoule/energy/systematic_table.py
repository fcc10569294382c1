"""What is known of the accuracy of sensors, each figure with its source. Data.

A figure that no source gives is None, and the text says so. Temperature drift is taken to the
temperature named in the assumptions.
"""

from __future__ import annotations

from dataclasses import dataclass

_AWAY_K = 40.0  # from the data sheets' 25 C


@dataclass(frozen=True)
class Accuracy:
    """A sensor's accuracy.

    Attributes:
        shunt_offset_uv: Largest offset of the voltage over the shunt.
        bus_offset_mv: Largest offset of the supply's voltage.
        gain_rel: Largest relative error of the power at full signal, without the shunt resistor.
        has_shunt: Whether a resistor on the board, with a tolerance of its own, is part of it.
        shows_power: The reading is the power itself: no voltage and no shunt are needed.
        sources: Where the figures are from.
        assumptions: What is taken for granted in them.
    """

    shunt_offset_uv: float | None
    bus_offset_mv: float | None
    gain_rel: float | None
    has_shunt: bool
    shows_power: bool
    sources: tuple[str, ...]
    assumptions: tuple[str, ...] = ()


# No public document names the resistors of NVIDIA's modules; 1 % is the common grade of current
# sensing resistors.
SHUNT_TOLERANCE_REL = 0.01
SHUNT_ASSUMED = (
    "shunt resistor within 1 % (an assumption: no published document gives the tolerance of this "
    "board's)"
)
_WARM = f"sensor chip up to {25 + _AWAY_K:.0f} C"

INA3221 = Accuracy(
    shunt_offset_uv=80.0 + 0.5 * _AWAY_K,
    bus_offset_mv=16.0 + 0.080 * _AWAY_K,
    gain_rel=2 * (0.0025 + 50e-6 * _AWAY_K),
    has_shunt=True,
    shows_power=False,
    sources=(
        "INA3221: TI SBOS576A (2013), electrical characteristics, largest values: shunt offset "
        "80 uV and 0.5 uV/K, bus offset 16 mV and 80 uV/K, gain error of either 0.25 % and "
        "50 ppm/K",
    ),
    assumptions=(_WARM,),
)
INA238 = Accuracy(
    shunt_offset_uv=5.0 + 0.02 * _AWAY_K,
    bus_offset_mv=5.0 + 0.040 * _AWAY_K,
    gain_rel=0.007,
    has_shunt=True,
    shows_power=False,
    sources=(
        "INA238: TI SLYS025/SLYS026, electrical characteristics, largest values: shunt offset 5 uV "
        "and 20 nV/K, bus offset 5 mV and 40 uV/K, total error of power 0.7 % at full scale over "
        "temperature",
    ),
    assumptions=(_WARM,),
)
NVML = Accuracy(
    shunt_offset_uv=None,
    bus_offset_mv=None,
    gain_rel=0.05,
    has_shunt=False,
    shows_power=True,
    sources=(
        "NVML: NVIDIA's reference of nvmlDeviceGetPowerUsage, within 5 % of the power on Fermi and "
        "Kepler; nothing is said of newer GPUs",
        "a comparison of over 70 GPUs with meters (Yang, Adamek, Armour, arXiv 2312.02741) is "
        "where to look a card up; no figure is taken from it",
    ),
    assumptions=("5 % holds for this GPU too (an assumption: NVIDIA gives no figure for it)",),
)
RAPL = Accuracy(
    shunt_offset_uv=None,
    bus_offset_mv=None,
    gain_rel=None,
    has_shunt=False,
    shows_power=True,
    sources=(
        "RAPL: Intel's Software Developer's Manual (volume 3, RAPL) gives units and update time "
        "and no accuracy; on most processors the counters are a model's estimate (Desrochers, "
        "Paradis, Weaver, MEMSYS 2016, doi 10.1145/2989081.2989088)",
    ),
)
BATTERY = Accuracy(
    shunt_offset_uv=None,
    bus_offset_mv=None,
    gain_rel=None,
    has_shunt=False,
    shows_power=True,
    sources=("battery: the kernel's power_supply class gives no accuracy of a fuel gauge",),
)
TEGRASTATS = Accuracy(
    shunt_offset_uv=INA3221.shunt_offset_uv,
    bus_offset_mv=INA3221.bus_offset_mv,
    gain_rel=INA3221.gain_rel,
    has_shunt=True,
    shows_power=False,
    sources=(
        *INA3221.sources,
        "tegrastats prints power alone: with neither voltage nor shunt its offset is not known",
    ),
    assumptions=INA3221.assumptions,
)
SIMULATED = Accuracy(
    shunt_offset_uv=0.0,
    bus_offset_mv=0.0,
    gain_rel=0.0,
    has_shunt=False,
    shows_power=True,
    sources=("simulated board: gain and offset are exact by construction",),
)


def unknown(name: str) -> Accuracy:
    """Return the accuracy of a sensor that this table does not know: none."""
    return Accuracy(None, None, None, False, True, (f"{name}: no figure of its accuracy is known",))
