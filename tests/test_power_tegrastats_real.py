"""Lines of tegrastats that users published, against values read off them by eye.

The lines stand beside the checkout (`../shared/fixtures/tegrastats_real.tsv`: name, source, line),
not in it. Each field of each line is held to the table below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgejoule.power.tegrastats import Cpu, Engine, Memory, Rail, Sample, Temperature, parse_line

FIXTURE = Path(__file__).resolve().parent.parent.parent / "shared/fixtures/tegrastats_real.tsv"
OFF = "off"


def cores(mhz: int, *loads: int) -> list[Any]:
    return [(load, mhz) for load in loads]


def same(**powers: int) -> dict[str, tuple[int, ...]]:
    """Rails whose mean is what they draw now."""
    return {name: (power, power) for name, power in powers.items()}


def thrice(**powers: int) -> dict[str, tuple[int, ...]]:
    return {name: (power, power, power) for name, power in powers.items()}


# ram: used, total, free blocks, MiB of each. swap: used, total, cached. iram: used, total and
# largest block in kB. cpus: (load, MHz) or off. engines: (load, MHz ...), a load or a MHz may be
# None. celsius: now, or (now, highest). rails: mW now, mean, highest.
EXPECTED: dict[str, dict[str, Any]] = {
    "JP3_TX1_L4T28.1": {
        "ram": (3607, 3983, 47, 4),
        "swap": (873, 8192, 281),
        "cpus": cores(1734, 17, 11, 65, 0),
        "engines": {"EMC": (1, 1600), "APE": (None, 25), "GR3D": (39, 76)},
    },
    "JP4_TX1": {
        "ram": (1179, 3983, 120, 4),
        "iram": (0, 252, 252),
        "cpus": cores(102, 1, 4, 0, 0),
        "engines": {"EMC_FREQ": (7, 408), "GR3D_FREQ": (0, 76), "APE": (None, 25)},
        "celsius": {
            **{"AO": 42.5, "CPU": 37.5, "GPU": 39.0, "PLL": 37.0, "Tdiode": 42.75},
            **{"PMIC": 100.0, "Tboard": 42.0, "thermal": 38.5},
        },
        "rails": {"VDD_IN": (2532, 2698), "VDD_CPU": (76, 178), "VDD_GPU": (19, 19)},
    },
    "JP4_TX2NX": {
        "ram": (1345, 7829, 1290, 4),
        "swap": (0, 512, 0),
        "cpus": [(2, 345), OFF, OFF, OFF, OFF, OFF],
        "engines": {"EMC_FREQ": (13, 40), "GR3D_FREQ": (0, 114), "APE": (None, 150)},
        "celsius": {
            **{"BCPU": 35.0, "MCPU": 35.0, "GPU": 41.0, "PLL": 35.0, "AO": 35.5, "Tboard": 35.0},
            **{"Tdiode": 36.0, "PMIC": 100.0, "thermal": 35.5},
        },
        "rails": {
            **{"VDD_IN": (2003, 2658), "VDD_CPU": (320, 518), "VDD_GPU": (400, 735)},
            **{"VDD_SOC": (400, 415), "VDD_WIFI": (0, 0), "VDD_DDR": (240, 348)},
        },
    },
    "JP4_TX2_sudo": {
        "ram": (1873, 3830, 144, 4),
        "cpus": [(8, 2016), (26, 2034), (24, 2035), (7, 2026), (7, 2034), (6, 2034)],
        "engines": {
            **{"EMC_FREQ": (0, 1600), "GR3D_FREQ": (0, 114), "APE": (None, 150)},
            **{"MTS fg": (0, None), "MTS bg": (1, None)},
        },
        "celsius": {
            **{"PLL": 39.0, "MCPU": 39.0, "PMIC": 50.0, "Tboard": 35.0, "GPU": 37.0, "BCPU": 39.0},
            **{"thermal": 38.5, "Tdiode": 37.0},
        },
        "rails": {
            **{"VDD_SYS_GPU": (77, 77), "VDD_SYS_SOC": (539, 539), "VDD_IN": (2930, 3405)},
            **{"VDD_SYS_CPU": (539, 937), "VDD_SYS_DDR": (727, 758)},
        },
    },
    "JP4_Nano": {
        "ram": (1462, 3957, 457, 4),
        "iram": (0, 252, 252),
        "cpus": cores(1036, 43, 44, 36, 34),
        "engines": {
            **{"EMC_FREQ": (6, 1600), "GR3D_FREQ": (51, 307)},
            **{"NVDEC": (None, 192), "APE": (None, 25)},
        },
        "celsius": {
            **{"PLL": 20.5, "CPU": 24.5, "PMIC": 100.0, "GPU": 22.0, "AO": 29.5},
            "thermal": 22.75,
        },
        "rails": {"POM_5V_IN": (3353, 1616), "POM_5V_GPU": (450, 61), "POM_5V_CPU": (613, 2)},
    },
    "JP4_AGXXavier_nosudo": {
        "ram": (14700, 15692, 3, 2),
        "swap": (898, 8192, 23),
        "cpus": cores(1190, 0, 0, 0, 0, 0, 0, 0, 0),
        "engines": {"EMC_FREQ": (0, None), "GR3D_FREQ": (0, None)},
        "celsius": {
            **{"AO": 30.0, "GPU": 30.5, "Tboard": 31.0, "Tdiode": 32.0, "AUX": 30.5, "CPU": 31.5},
            **{"thermal": 30.8, "PMIC": 100.0},
        },
        "rails": same(GPU=463, CPU=618, SOC=2936, CV=0, VDDRQ=309, SYS5V=3306),
    },
    "JP5_AGXXavier_fragment": {
        "engines": {
            **{"EMC_FREQ": (0, 1331), "GR3D_FREQ": (0, 114)},
            **{"VIC_FREQ": (None, 115), "APE": (None, 150)},
        },
        "celsius": {
            **{"AUX": 36.0, "CPU": 36.5, "thermal": 35.7, "Tboard": 37.0, "AO": 35.0, "GPU": 35.0},
            **{"Tdiode": 38.75, "PMIC": 50.0},
        },
        "rails": same(GPU=467, CPU=467, SOC=1245, CV=0, VDDRQ=311, SYS5V=2768),
        # The name was cut off, so that it is not known to be the list of CPUs.
        "unknown": ("[0%@1190,1%@1190,0%@1190,0%@1189,0%@1190,0%@1191,0%@1190,0%@1190]",),
    },
    "JP5_AGXOrin_sudo": {
        "wall": "04-24-2023 00:01:24",
        "ram": (1282, 62795, 15152, 4),
        "swap": (0, 31398, 0),
        "cpus": cores(729, *([0] * 12)),
        "engines": {
            **{"EMC_FREQ": (0, 2133), "GR3D_FREQ": (0, 0), "GR3D2_FREQ": (0, 0)},
            **{"VIC_FREQ": (None, 729), "APE": (None, 174)},
        },
        "celsius": {
            **{"CPU": 42.593, "Tboard": 32.0, "SOC2": 39.343, "Tdiode": 33.25, "SOC0": 39.375},
            **{"tj": 42.593, "SOC1": 40.468},
        },
        "off": ("CV0", "CV1", "GPU", "CV2"),
        "rails": {
            **same(VDD_GPU_SOC=2399, VDD_CPU_CV=400, VIN_SYS_5V0=4032, NC=0, VDDQ_VDD2_1V8AO=301),
            "NC#2": (0, 0),
        },
    },
    "JP5_AGXOrin32_nosudo": {
        "wall": "03-08-2024 07:49:04",
        "ram": (1438, 30622, 6704, 4),
        "swap": (0, 15311, 0),
        "cpus": cores(729, 2, 0, 4, 0, 2, 0, 0, 2),
        "engines": {"EMC_FREQ": (0, None), "GR3D_FREQ": (0, None)},
        "celsius": {
            **{"CPU": 44.437, "Tboard": 36.0, "SOC2": 42.562, "Tdiode": 35.75, "SOC0": 42.062},
            **{"tj": 44.437, "SOC1": 43.031},
        },
        "off": ("CV0", "CV1", "GPU", "CV2"),
    },
    "JP5_OrinNX_off": {
        "wall": "01-24-2024 09:17:09",
        "ram": (3503, 7337, 7, 1),
        "swap": (430, 3668, 1),
        "cpus": [*cores(729, 11, 13, 9, 18), OFF, OFF],
        "engines": {
            **{"EMC_FREQ": (0, 2133), "GR3D_FREQ": (0, 305), "GR3D2_FREQ": (0, 0)},
            **{"VIC_FREQ": (None, 115), "APE": (None, 174)},
        },
        "celsius": {
            **{"CV0": 42.718, "CPU": 44.093, "SOC2": 42.625, "SOC0": 43.281, "CV1": 42.25},
            **{"GPU": 41.343, "tj": 46.968, "SOC1": 46.968, "CV2": 42.875},
        },
        "rails": same(VDD_IN=4915, VDD_CPU_GPU_CV=449, VDD_SOC=1431),
    },
    "JP6_OrinNano_busy": {
        "wall": "11-15-2024 08:38:09",
        "ram": (6185, 7620, 8, 2),
        "swap": (851, 3810, 1),
        "cpus": cores(729, 15, 11, 14, 13, 11, 8),
        "engines": {
            **{"EMC_FREQ": (43, 2133), "GR3D_FREQ": (63, 621), "NVDEC": OFF, "NVJPG": OFF},
            **{"NVJPG1": OFF, "VIC": OFF, "OFA": OFF, "APE": (None, 200)},
        },
        "celsius": {
            **{"cpu": 53.968, "soc2": 52.437, "soc0": 50.75, "gpu": 53.343, "tj": 53.968},
            "soc1": 51.656,
        },
        "rails": same(VDD_IN=12479, VDD_CPU_GPU_CV=4667, VDD_SOC=2817),
    },
    "JP6_OrinNano_nosudo": {
        "wall": "06-18-2025 11:25:24",
        "ram": (3452, 7620, 25, 4),
        "swap": (1518, 16384, 174),
        "cpus": [*cores(1420, 1, 2, 0, 2), *cores(729, 2, 1)],
        "engines": {"GR3D_FREQ": (0, None)},
        "celsius": {
            **{"cpu": 50.031, "soc2": 49.031, "soc0": 50.0, "gpu": 49.031, "tj": 50.25},
            "soc1": 50.25,
        },
        "rails": same(VDD_IN=4824, VDD_CPU_GPU_CV=518, VDD_SOC=1475),
    },
    "JP6_OrinNX_codecs": {
        "wall": "05-15-2025 18:30:28",
        "ram": (6982, 7620, 5, 1),
        "swap": (2640, 16384, 202),
        "cpus": [*cores(1984, 97, 95, 95, 91, 88), (93, 247)],
        "engines": {
            **{"EMC_FREQ": (18, 3199), "GR3D_FREQ": (84, 713), "NVENC": (1, 115)},
            **{"NVDEC": (40, 115), "NVJPG": OFF, "NVJPG1": OFF, "VIC": (31, 115), "OFA": OFF},
            **{"NVDLA0": OFF, "PVA0_FREQ": OFF, "APE": (None, 174)},
        },
        "celsius": {
            **{"cv0": 63.031, "cpu": 65.562, "soc2": 64.156, "soc0": 63.031, "cv1": 62.937},
            **{"gpu": 63.5, "tj": 65.562, "soc1": 64.718, "cv2": 60.875},
        },
        "rails": {
            **{"VDD_IN": (17946, 15710), "VDD_CPU_GPU_CV": (8896, 7585)},
            "VDD_SOC": (3923, 3515),
        },
    },
    "JP6_AGXOrin_R36.4.4": {
        "wall": "05-09-2026 18:42:06",
        "ram": (18207, 62841, 466, 4),
        "swap": (86, 31420, 0),
        "cpus": [
            *((14, 2188), (5, 2112), (8, 2035), (14, 2201)),
            *cores(1267, 46, 47, 2, 10),
            *cores(1036, 4, 5, 6, 10),
        ],
        "engines": {
            **{"EMC_FREQ": (3, 2133), "GR3D_FREQ": (0, 0, 0), "NVENC": (79, 166), "NVDEC": OFF},
            **{"NVJPG": OFF, "NVJPG1": OFF, "VIC": (36, 115), "OFA": OFF, "NVDLA0": OFF},
            **{"NVDLA1": OFF, "PVA0_FREQ": OFF, "APE": (None, 174)},
        },
        "celsius": {
            **{"cpu": 52.562, "soc2": 48.437, "soc0": 49.093, "tj": 52.562, "soc1": 49.656},
        },
        "rails": same(VDD_GPU_SOC=2412, VDD_CPU_CV=1607, VIN_SYS_5V0=4707),
    },
    "JP7.1_Thor_R38.4": {
        "wall": "05-17-2026 10:00:32",
        "ram": (4208, 125773, 31, 4),
        "swap": (0, 2048, 0),
        "cpus": cores(972, 1, 0, 0, 0, 1, 0, 1, 1, 0, 0, 3, 0, 0, 1),
        "engines": {
            # No load is printed: that is not a load of 0.
            **{"EMC_FREQ": (0, 665), "GR3D_FREQ": (None, 0, 0, 0), "NVENC0_FREQ": (None, 0)},
            **{"NVENC1_FREQ": (None, 0), "NVDEC0_FREQ": (None, 0), "NVDEC1_FREQ": (None, 0)},
            **{"NVJPG0_FREQ": (None, 0), "VIC": OFF, "OFA_FREQ": (None, 0), "PVA0_FREQ": OFF},
            "APE": (None, 300),
        },
        "celsius": {"cpu": 34.468, "tj": 34.5, "soc012": 33.781, "soc345": 34.5},
        "rails": same(VDD_GPU=0, VDD_CPU_SOC_MSS=4165, VIN_SYS_5V0=4126),
    },
    "JP7_Thor_nosudo": {
        "wall": "01-20-2026 22:46:22",
        "ram": (17842, 125772, 79, 4),
        "cpus": [
            *cores(972, 0, 0),
            *cores(1566, 0, 0),
            *cores(972, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0),
        ],
        "celsius": {"cpu": 30.468, "tj": 31.218, "soc012": 30.218, "soc345": 31.218},
        "rails": same(VDD_GPU=0, VDD_CPU_SOC_MSS=5535, VIN_SYS_5V0=5040, VIN=16802),
    },
    "JP7.2_Thor_R39.2": {
        "wall": "07-23-2026 15:29:27",
        "ram": (9091, 125811, 19, 4),
        "swap": (0, 2048, 0),
        "cpus": cores(972, 40, 16, 18, 20, 13, 11, 15, 19, 10, 15, 28, 11, 11, 15),
        "engines": {
            **{"EMC_FREQ": (7, 3200), "GR3D_FREQ": (None, 314, 314, 314)},
            **{"NVENC0_FREQ": (None, 1556), "NVENC1_FREQ": (None, 1556)},
            **{"NVDEC0_FREQ": (None, 1556), "NVDEC1_FREQ": (None, 1556)},
            **{"NVJPG0_FREQ": (None, 1556), "VIC": (59, 423), "OFA_FREQ": (None, 1556)},
            **{"PVA0_FREQ": OFF, "APE": (None, 300)},
        },
        "celsius": {
            **{"cpu": (34.312, 34.843), "tj": (35.906, 35.906), "soc012": (34.093, 34.437)},
            **{"gpu": (35.906, 35.906), "soc345": (34.437, 34.437)},
        },
        "rails": {
            **{"VDD_GPU": (4925, 4925, 4925), "VDD_CPU_SOC_MSS": (7953, 8332, 8710)},
            "VIN_SYS_5V0": (6667, 6717, 6767),
        },
    },
    "JP7.2_AGXOrin_R39.2": {
        "wall": "07-25-2026 09:08:28",
        "ram": (20642, 62817, 1, 2),
        "cpus": cores(2201, 23, 10, 4, 14, 30, 18, 10, 10, 33, 7, 5, 27),
        "engines": {
            **{"EMC_FREQ": (3, 3199), "GR3D_FREQ": (12, 1300, 1300), "NVENC0": OFF},
            **{"NVDEC0": OFF, "NVJPG0": OFF, "NVJPG1": OFF, "VIC": OFF, "OFA": OFF},
            **{"NVDLA0": OFF, "NVDLA1": OFF, "PVA0_FREQ": OFF, "APE": (None, 174)},
        },
        "celsius": {
            **{"cpu": (52.968, 52.968), "soc2": (48.406, 48.406), "soc0": (49.531, 49.531)},
            "gpu": (47.625, 47.625),
        },
        "rails": thrice(VDD_GPU_SOC=5139, VDD_CPU_CV=3268, VIN_SYS_5V0=5500),
    },
    "JP7.2_OrinNano_R39": {
        "wall": "09-01-2026 09:25:18",
        "ram": (5739, 7546, 1, 2),
        "swap": (2047, 2048, 209),
        "cpus": cores(1728, 72, 75, 88, 79, 87, 78),
        "engines": {"GR3D_FREQ": (33, None)},
        "celsius": {
            **{"cpu": (50.0, 50.0), "soc2": (47.937, 47.937), "soc0": (48.437, 48.437)},
            **{"gpu": (48.75, 48.75), "tj": (50.0, 50.0), "soc1": (48.5, 48.5)},
        },
        "rails": thrice(VDD_IN=9761, VDD_CPU_GPU_CV=4238, VDD_SOC=1825),
    },
}


def lines() -> dict[str, str]:
    if not FIXTURE.is_file():
        return {}
    rows = [row.split("\t") for row in FIXTURE.read_text(encoding="utf-8").splitlines() if row]
    return {name: line for name, _source, line in rows}


def expected_sample(name: str) -> Sample:
    """Build what the parser must return from the table."""
    want = EXPECTED[name]
    memories = []
    if "ram" in want:
        used, total, blocks, size = want["ram"]
        memories.append(Memory("RAM", used, total, blocks, size))
    if "swap" in want:
        used, total, cached = want["swap"]
        memories.append(Memory("SWAP", used, total, cached_mib=cached))
    if "iram" in want:
        used, total, block = (kib / 1024 for kib in want["iram"])
        memories.append(Memory("IRAM", used, total, largest_block_mib=block))
    cpus = [
        Cpu(number, None, None, off=True) if cpu == OFF else Cpu(number, *cpu)
        for number, cpu in enumerate(want.get("cpus", ()))
    ]
    engines = [
        Engine(engine, off=True)
        if said == OFF
        else Engine(engine, said[0], None if said[1:] == (None,) else said[1:])
        for engine, said in want.get("engines", {}).items()
    ]
    celsius = [
        Temperature(sensor, *(said if isinstance(said, tuple) else (said,)))
        for sensor, said in want.get("celsius", {}).items()
    ]
    return Sample(
        want.get("wall"),
        tuple(memories),
        tuple(cpus),
        tuple(engines),
        tuple(celsius),
        want.get("off", ()),
        tuple(Rail(rail, *power) for rail, power in want.get("rails", {}).items()),
        want.get("unknown", ()),
    )


@pytest.mark.parametrize("name", EXPECTED)
def test_a_real_line(name: str) -> None:
    if not FIXTURE.is_file():
        pytest.skip("the published lines are not beside this checkout")
    assert parse_line(lines()[name]) == expected_sample(name)


def test_the_table_has_every_line() -> None:
    if not FIXTURE.is_file():
        pytest.skip("the published lines are not beside this checkout")
    assert set(lines()) == set(EXPECTED)
    assert len(EXPECTED) == 19
