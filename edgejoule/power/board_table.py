"""The boards that this project knows: chips, rails, which rail feeds which, and the total. Data.

docs/Boards.md shows the same table to users; a test holds the two together. Nobody of this project
has run it on any of these boards: every line comes from the sources that it names. "NVIDIA forum
N" is https://forums.developer.nvidia.com/t/N. Device trees are those of the Linux kernel,
arch/arm64/boot/dts/nvidia. energymon is github.com/energymon/energymon, jetson/JetsonPowerRails.md,
which read the device trees and the guide of L4T 32.6.1.

A rail can lie inside another (`parent`): VDD_SOC is fed through VDD_IN, so a total that adds both
counts it twice. Bus numbers are what somebody has seen; a chip is found by what follows them.

Standard library only.
"""

from __future__ import annotations

from edgejoule.power.board_types import Board, BoardChip, Rail, TotalRule

_CARRIER = "the carrier board with its fan, drives and USB devices; losses of the power supply"
_CARRIER_APART = "NVIDIA forum 348662 (2.18 W read here beside 2.6 W at the carrier's input, idle)"
_MODULE = "the module: CPU, GPU, accelerators, SoC, memory"


def _nested(shunt_uohm: int | None, outer: str, *inner: str) -> tuple[Rail, ...]:
    """Return a rail and those that it feeds."""
    return (Rail(outer, None, shunt_uohm), *(Rail(label, outer, shunt_uohm) for label in inner))


def _flat(shunt_uohm: int | None, *labels: str) -> tuple[Rail, ...]:
    return tuple(Rail(label, None, shunt_uohm) for label in labels)


_ORIN_SMALL = (BoardChip("0040", _nested(5000, "VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"), bus="1"),)
_ORIN_SMALL_TOTAL = (
    TotalRule(
        ("VDD_IN",),
        _MODULE,
        _CARRIER,
        f"NVIDIA forum 200883 (said of Xavier NX, which has the same rails); {_CARRIER_APART}",
    ),
)
_ORIN_SMALL_SOURCES = ("Linux tegra234-p3767.dtsi", "NVIDIA forum 348662")
_ORIN_SMALL_NOTES = (
    "Orin Nano and Orin NX have the same chip, rails and total; the device tree's model text has "
    "been seen naming the sibling, its part number (p3767-000x) decides",
)

_AGX_ORIN = (
    BoardChip("0040", _flat(2000, "VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), bus="1"),
    BoardChip(
        "0041",
        (
            None,
            Rail(
                "VDDQ_VDD2_1V8AO",
                "VIN_SYS_5V0",
                2000,
                optional=True,
                note="taken to lie inside VIN_SYS_5V0 (NVIDIA forum 223111), so it is not added; "
                "no schematic was seen",
            ),
            None,
        ),
        bus="1",
    ),
)
_AGX_ORIN_TOTAL = TotalRule(
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    "the module's measured inputs: GPU and SoC, CPU and accelerators, its 5 V supply with memory",
    _CARRIER,
    "NVIDIA forum 223111; git.astron.nl RD/pmt merge request 114 saw a meter at the input read "
    "more by the carrier's share",
    "this board has no rail for its whole input: the total is a sum of three",
)

BOARDS: tuple[Board, ...] = (
    Board(
        "Jetson Orin Nano",
        "tegra234",
        ("p3767-0003", "p3767-0004", "p3767-0005"),
        (("orin", "nano"),),
        _ORIN_SMALL,
        _ORIN_SMALL_TOTAL,
        _ORIN_SMALL_SOURCES,
        _ORIN_SMALL_NOTES,
    ),
    Board(
        "Jetson Orin NX",
        "tegra234",
        ("p3767-0000", "p3767-0001", "p3767-0002"),
        (("orin", "nx"),),
        _ORIN_SMALL,
        _ORIN_SMALL_TOTAL,
        _ORIN_SMALL_SOURCES,
        _ORIN_SMALL_NOTES,
    ),
    Board(
        "Jetson AGX Orin",
        "tegra234",
        ("p3701",),
        (("agx", "orin"),),
        _AGX_ORIN,
        (_AGX_ORIN_TOTAL,),
        ("Linux tegra234-p3701.dtsi", "NVIDIA forum 223111"),
        ("32 GB, 64 GB and industrial modules share these rails",),
    ),
    Board(
        "IGX Orin",
        "tegra234",
        ("p3740",),
        (("igx", "orin"),),
        (
            *_AGX_ORIN,
            BoardChip(
                "0041",
                _flat(2000, "CVB_ATX_12V", "CVB_ATX_3V3", "CVB_ATX_5V"),
            ),
        ),
        (_AGX_ORIN_TOTAL,),
        ("Linux tegra234-p3701.dtsi", "Linux tegra234-p3740-0002.dtsi"),
        (
            "the CVB_ATX rails are measured on the carrier, on another bus; whether they feed the "
            "module too is not known, so they are shown and not added",
        ),
    ),
    Board(
        "Jetson Xavier NX",
        "tegra194",
        ("p3668",),
        (("xavier", "nx"),),
        (BoardChip("0040", _nested(5000, "VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"), bus="7"),),
        (TotalRule(("VDD_IN",), _MODULE, _CARRIER, "NVIDIA forum 200883"),),
        ("Linux tegra194-p3668.dtsi", "energymon", "alumet's README (bus)"),
    ),
    Board(
        "Jetson AGX Xavier",
        "tegra194",
        ("p2888", "p2972"),
        (("agx", "xavier"),),
        (
            BoardChip("0040", _flat(5000, "GPU", "CPU", "SOC")),
            BoardChip("0041", _flat(5000, "CV", "VDDRQ", "SYS5V")),
        ),
        (
            TotalRule(
                ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
                "the module's measured inputs: GPU, CPU, SoC, accelerators, memory, its 5 V supply",
                _CARRIER,
                "energymon; NVIDIA's AGX Xavier design guide DG-09840, chapter 5 (VDDRQ is fed "
                "from SYS_VIN_HV, SYS5V is SYS_VIN_MV: parallel)",
                "this board has no rail for its whole input: the total is a sum of six",
            ),
        ),
        ("Linux tegra194-p2888.dtsi", "energymon"),
    ),
    Board(
        "Jetson Nano",
        "tegra210",
        ("p3448-0000", "p3448-0002", "p3450-0000"),
        (("jetson", "nano"),),
        (BoardChip("0040", _nested(None, "POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"), bus="6"),),
        (
            TotalRule(
                ("POM_5V_IN",),
                "the 5 V input: CPU, GPU, SoC, memory",
                "losses of the power supply; whether the carrier is in it is not clear",
                "NVIDIA forum 73608, quoted in jetson_stats issue 51 (it says the board's input)",
            ),
        ),
        ("energymon", "jetson_stats issues 51 and 131"),
        ("the module with 4 GB; no source names the shunts",),
    ),
    Board(
        "Jetson Nano 2GB",
        "tegra210",
        ("p3448-0003", "p3541"),
        (("jetson", "nano", "2gb"),),
        (),
        (),
        ("energymon",),
        ("it has no power monitor: measure it with a meter at its input",),
    ),
    Board(
        "Jetson TX2",
        "tegra186",
        ("p3310", "p3489", "p2771"),
        (("jetson", "tx2"), ("jetson", "tx2i"), ("quill",)),
        (
            BoardChip(
                "0040",
                (
                    Rail("VDD_SYS_GPU", "VDD_IN", 10_000, ("VDD_GPU",)),
                    Rail("VDD_SYS_SOC", "VDD_IN", 10_000, ("VDD_SOC",)),
                    Rail(
                        "VDD_4V0_WIFI",
                        "VDD_IN",
                        10_000,
                        ("VDD_3V8_WIFI", "VDD_WIFI"),
                        optional=True,
                        note="not on the TX2i",
                    ),
                ),
                bus="0",
            ),
            BoardChip(
                "0041",
                (
                    Rail("VDD_IN", None, 5000),
                    Rail("VDD_SYS_CPU", "VDD_IN", 10_000, ("VDD_CPU",)),
                    Rail("VDD_SYS_DDR", "VDD_IN", 10_000, ("VDD_5V0_DDR", "VDD_DDR")),
                ),
                bus="0",
            ),
            BoardChip(
                "0042",
                (
                    Rail("VDD_MUX", optional=True),
                    Rail("VDD_5V0_IO_SYS", "VDD_MUX", optional=True, also=("VDD_5V_IO_SYS",)),
                    Rail("VDD_3V3_SYS", "VDD_MUX", optional=True),
                ),
            ),
            BoardChip(
                "0043",
                (
                    Rail("VDD_3V3_IO_SLP", "VDD_MUX", 10_000, optional=True),
                    Rail("VDD_1V8_IO", "VDD_MUX", 10_000, optional=True),
                    Rail("VDD_3V3_SYS_M2", "VDD_MUX", 10_000, ("VDD_M2_IN",), optional=True),
                ),
            ),
        ),
        (
            TotalRule(
                ("VDD_IN",),
                _MODULE,
                _CARRIER + "; the developer kit measures its carrier apart, as VDD_MUX",
                "energymon; NVIDIA forum 201037 (VDD_IN and VDD_MUX are parallel)",
            ),
        ),
        ("Linux tegra186-p3310.dtsi and tegra186-p2771-0000.dts", "energymon"),
        (
            "also TX2 4GB and TX2i; the chips 0042 and 0043 are the developer kit's carrier, and "
            "that their rails lie inside VDD_MUX is inferred from its being the carrier's supply",
        ),
    ),
    Board(
        "Jetson TX2 NX",
        "tegra186",
        ("p3636",),
        (("tx2", "nx"),),
        (BoardChip("0040", _nested(None, "VDD_IN", "VDD_CPU_GPU", "VDD_SOC")),),
        (TotalRule(("VDD_IN",), _MODULE, _CARRIER, "energymon; by analogy to Xavier NX"),),
        ("Linux tegra186-p3509-0000+p3636-0001.dts", "energymon"),
        (
            "the Linux device tree gives shunts of 5 micro-ohms, which looks like a mistake for "
            "5000: if the kernel uses it, currents come out a thousand times too large",
        ),
    ),
    Board(
        "Jetson TX1",
        "tegra210",
        ("p2180", "p2371-2180"),
        (("jetson", "tx1"),),
        (
            BoardChip("0040", _nested(None, "VDD_IN", "VDD_GPU", "VDD_CPU")),
            BoardChip(
                "0042",
                (
                    Rail("VDD_MUX", optional=True),
                    Rail("VDD_5V_IO_SYS", "VDD_MUX", optional=True),
                    Rail("VDD_3V3_SYS", "VDD_MUX", optional=True),
                ),
            ),
            BoardChip(
                "0043",
                (
                    Rail("VDD_3V3_IO", "VDD_MUX", also=("VDD_3V3_IO_SLP",), optional=True),
                    Rail("VDD_1V8_IO", "VDD_MUX", optional=True),
                    Rail("VDD_M2_IN", "VDD_MUX", also=("VDD_3V3_SYS_M2",), optional=True),
                ),
            ),
        ),
        (
            TotalRule(
                ("VDD_IN",),
                _MODULE,
                _CARRIER + "; the developer kit measures its carrier apart, as VDD_MUX",
                "energymon (VDD_IN and VDD_MUX appear to be parallel)",
            ),
        ),
        ("energymon",),
        ("no source names the shunts; the chips 0042 and 0043 are the developer kit's carrier",),
    ),
    Board(
        "Jetson AGX Thor",
        "tegra264",
        ("p3834",),
        (("agx", "thor"), ("jetson", "thor")),
        (
            BoardChip(
                None,
                tuple(
                    Rail(label, "VIN") for label in ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")
                ),
            ),
            BoardChip(None, (Rail("VIN", optional=True),), driver="ina238"),
        ),
        (
            TotalRule(
                ("VIN",),
                "all that the board's input feeds: module and carrier board",
                "losses of the power supply; whatever is fed before the INA238's shunt",
                "NVIDIA forum 366461; jetson_stats pull request 900",
            ),
            TotalRule(
                ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
                "the module's measured inputs: GPU, CPU and SoC and memory controller, its 5 V "
                "supply",
                _CARRIER + "; what the module draws beside these three",
                "tegrastats and hwmon logs of third parties; by analogy to AGX Orin",
                "without the INA238 (rail VIN) the total is a sum of three module rails: less than "
                "the board draws, and not to be compared with totals by VIN",
            ),
        ),
        ("jetson_stats pull request 900", "NVIDIA forum 366461", "logs of third parties (labels)"),
        (
            "no device tree with these chips was seen: addresses, buses and shunts are not known; "
            "others saw VDD_GPU read 0 mW while the GPU was idle",
        ),
    ),
)
