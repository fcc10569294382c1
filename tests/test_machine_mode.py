"""The power mode: read where it is written, inferred from CPUs and clocks where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.clock_limits import Limits, Range, read_limits
from edgejoule.machine import describe_machine
from edgejoule.power.board_table import BOARDS
from edgejoule.power_mode import (
    FoundMode,
    PowerMode,
    compare,
    find_power_mode,
    parse_conf,
    power_modes,
)
from edgejoule.power_mode_table import KNOWN_MODES, KnownMode
from tests.test_machine_facts import put

STEPS = "115200 729600 1113600 1190400 1344000 1497600 1728000 2201600"
GPU_STEPS = "306000000 420750000 612000000 624750000 828750000 918000000 1020000000 1300500000"


def conf_of(modes: dict[str, tuple[int, int, int]], *, cpus: int = 12) -> str:
    """Return an nvpmodel.conf as boards have it: name -> CPUs online, CPU kHz, GPU Hz."""
    lines = ["# a comment", "< PARAM TYPE=FILE NAME=CPU_ONLINE >"]
    lines += [f"CORE_{n} /sys/devices/system/cpu/cpu{n}/online" for n in range(cpus)]
    for cluster in range(cpus // 4):
        lines.append(f"< PARAM TYPE=CLOCK NAME=CPU_A78_{cluster} >")
        lines.append(f"MAX_FREQ /sys/devices/system/cpu/cpu{4 * cluster}/cpufreq/scaling_max_freq")
    lines += ["< PARAM TYPE=CLOCK NAME=GPU >", "MAX_FREQ /sys/devices/17000000.gpu/max_freq"]
    lines += ["< PARAM TYPE=CLOCK NAME=EMC >", "MAX_FREQ /sys/kernel/nvpmodel_clk_cap/emc", ""]
    for number, (name, (online, cpu_khz, gpu_hz)) in enumerate(modes.items()):
        lines.append(f"< POWER_MODEL ID={number} NAME={name} >")
        lines += [f"CPU_ONLINE CORE_{n} {int(n < online)}" for n in range(cpus)]
        lines.append("GPU_POWER_CONTROL_ENABLE GPU_PWR_CNTL_EN on")
        for cluster in range(cpus // 4):
            lines.append(f"CPU_A78_{cluster} MIN_FREQ 729600")
            lines.append(f"CPU_A78_{cluster} MAX_FREQ {cpu_khz}")
        lines += [f"GPU MAX_FREQ {gpu_hz}", "EMC MAX_FREQ 0", "DLA0_CORE MAX_FREQ -1"]
    return "\n".join([*lines, "< PM_CONFIG DEFAULT=2 >", ""])


AGX_MODES = {
    "MAXN": (12, -1, -1),
    "MODE_15W": (4, 1_113_600, 420_750_000),
    "MODE_30W": (8, 1_728_000, 624_750_000),
    "MODE_50W": (12, 1_497_600, 828_750_000),
}
AGX_CONF = conf_of(AGX_MODES)


def machine(
    root: Path,
    online: int,
    cpu_khz: int | None,
    gpu_hz: int | None,
    *,
    cpus: int = 12,
    top_khz: int = 2_201_600,
    steps: bool = True,
) -> Path:
    """Make a sysfs in a power mode; return it."""
    sys = root / "sys"
    put(sys, "devices/system/cpu/online", f"0-{online - 1}\n")
    for number in range(cpus):
        folder = f"devices/system/cpu/cpu{number}"
        put(sys, f"{folder}/online", f"{int(number < online)}\n")
        if number < online and cpu_khz is not None:
            put(sys, f"{folder}/cpufreq/scaling_max_freq", f"{cpu_khz}\n")
            put(sys, f"{folder}/cpufreq/cpuinfo_max_freq", f"{top_khz}\n")
            if steps:
                put(sys, f"{folder}/cpufreq/scaling_available_frequencies", STEPS + " \n")
    if gpu_hz is not None:
        gpu = "class/devfreq/17000000.gpu"
        put(sys, f"{gpu}/max_freq", f"{gpu_hz}\n")
        if steps:
            put(sys, f"{gpu}/available_frequencies", GPU_STEPS + "\n")
    return sys


def put_conf(root: Path, text: str) -> None:
    put(root, "etc/nvpmodel.conf", text)


# --- written down ---


def test_the_files_of_nvpmodel_go_first(tmp_path: Path) -> None:
    sys = machine(tmp_path, 12, 1_497_600, 828_750_000)
    put_conf(tmp_path, AGX_CONF)
    put(tmp_path, "var/lib/nvpmodel/status", "pmode:0002 fmode:quiet")
    assert find_power_mode(tmp_path, sys, ["Jetson AGX Orin"]) == FoundMode(
        "MODE_30W", 2, "nvpmodel", False, (), "/var/lib/nvpmodel/status says mode 2"
    )


def test_a_number_without_names_is_no_name_of_another_board(tmp_path: Path) -> None:
    put(tmp_path, "var/lib/nvpmodel/status", "pmode:0003")
    found = find_power_mode(tmp_path, tmp_path / "sys", ["Jetson AGX Orin"])
    assert (found.name, found.number, found.inferred) == ("mode 3", 3, False)
    assert "not known without /etc/nvpmodel.conf" in found.why


def test_files_mounted_elsewhere(tmp_path: Path) -> None:
    put(tmp_path, "mounted/etc/nvpmodel.conf", AGX_CONF)
    put(tmp_path, "mounted/var/lib/nvpmodel/status", "pmode:0001")
    assert find_power_mode(tmp_path / "mounted", tmp_path).name == "MODE_15W"


# --- inferred from the conf ---


@pytest.mark.parametrize("steps", [True, False])
@pytest.mark.parametrize(
    ("name", "online", "cpu_khz", "gpu_hz"),
    [
        ("MAXN", 12, 2_201_600, 1_300_500_000),
        ("MODE_15W", 4, 1_113_600, 420_750_000),
        ("MODE_30W", 8, 1_728_000, 624_750_000),
        ("MODE_50W", 12, 1_497_600, 828_750_000),
    ],
)
def test_each_mode_of_the_conf(
    tmp_path: Path, name: str, online: int, cpu_khz: int, gpu_hz: int, steps: bool
) -> None:
    put_conf(tmp_path, AGX_CONF)
    found = find_power_mode(tmp_path, machine(tmp_path, online, cpu_khz, gpu_hz, steps=steps))
    assert (found.name, found.inferred, found.candidates) == (name, True, (name,))
    assert found.number == list(AGX_MODES).index(name)
    assert found.source == "clock limits and /etc/nvpmodel.conf"
    assert f"fit {name} alone" in found.why


def test_a_cap_that_the_driver_moved_to_a_step(tmp_path: Path) -> None:
    put_conf(tmp_path, conf_of({"A": (12, 1_200_000, 620_000_000), "B": (12, 1_728_000, 0)}))
    assert find_power_mode(tmp_path, machine(tmp_path, 12, 1_190_400, 624_750_000)).name == "A"
    # What fits to the digit goes before what nearly fits.
    put_conf(tmp_path, conf_of({"A": (12, 1_200_000, 0), "B": (12, 1_190_400, 0)}))
    assert find_power_mode(tmp_path, machine(tmp_path, 12, 1_190_400, 1_300_500_000)).name == "B"
    # Not the next step but one.
    put_conf(tmp_path, conf_of({"A": (12, 1_200_000, 620_000_000)}))
    assert find_power_mode(tmp_path, machine(tmp_path, 12, 1_113_600, 624_750_000)).name is None


def test_modes_that_both_fit_are_listed(tmp_path: Path) -> None:
    put_conf(tmp_path, conf_of({"A": AGX_MODES["MODE_30W"], "B": AGX_MODES["MODE_30W"]}))
    found = find_power_mode(tmp_path, machine(tmp_path, 8, 1_728_000, 624_750_000))
    assert (found.name, found.number, found.inferred) == (None, None, False)
    assert found.candidates == ("A", "B")
    assert "fit A, B" in found.why


def test_the_memory_clocks_cap_tells_two_modes_apart(tmp_path: Path) -> None:
    one = conf_of({"MODE_15W_2CORE": (2, 1_728_000, -1)}, cpus=4)
    two = one.replace("ID=0 NAME=MODE_15W_2CORE", "ID=6 NAME=MODE_20W_2CORE")
    body = two[two.index("< POWER_MODEL") :].replace("EMC MAX_FREQ 0", "EMC MAX_FREQ 1866000000")
    put_conf(tmp_path, one.replace("EMC MAX_FREQ 0", "EMC MAX_FREQ 1600000000") + body)
    sys = machine(tmp_path, 2, 1_728_000, 1_300_500_000, cpus=4)
    assert find_power_mode(tmp_path, sys).candidates == ("MODE_15W_2CORE", "MODE_20W_2CORE")
    put(sys, "kernel/nvpmodel_clk_cap/emc", "1866000000\n")
    assert find_power_mode(tmp_path, sys).name == "MODE_20W_2CORE"


def test_power_gating_tells_two_modes_apart(tmp_path: Path) -> None:
    text = """
    < PARAM TYPE=FILE NAME=TPC_POWER_GATING >
    TPC_PG_MASK /sys/devices/gpu.0/tpc_pg_mask
    < POWER_MODEL NAME=FEW ID=4 >
    TPC_POWER_GATING TPC_PG_MASK 248
    < POWER_MODEL ID=5 NAME=ALL >
    TPC_POWER_GATING TPC_PG_MASK 0
    """
    put_conf(tmp_path, text)
    assert find_power_mode(tmp_path, tmp_path / "sys").name is None
    put(tmp_path, "sys/devices/gpu.0/tpc_pg_mask", "248\n")
    assert find_power_mode(tmp_path, tmp_path / "sys").name == "FEW"


def test_a_conf_reads_nothing_outside_sysfs(tmp_path: Path) -> None:
    put(tmp_path, "secret", "1\n")
    put(tmp_path, "sys/here", "1\n")
    for path in ("/secret", "/sys/../secret", str(tmp_path / "secret")):
        text = f"< PARAM TYPE=FILE NAME=X >\nX_PG_MASK {path}\n"
        put_conf(tmp_path, text + "< POWER_MODEL ID=0 NAME=A >\nX X_PG_MASK 1\n")
        assert find_power_mode(tmp_path, tmp_path / "sys").name is None
    put_conf(
        tmp_path, text.replace(path, "/sys/here") + "< POWER_MODEL ID=0 NAME=A >\nX X_PG_MASK 1\n"
    )
    assert find_power_mode(tmp_path, tmp_path / "sys").name == "A"


def test_clocks_that_fit_no_mode(tmp_path: Path) -> None:
    put_conf(tmp_path, AGX_CONF)
    found = find_power_mode(tmp_path, machine(tmp_path, 12, 729_600, 828_750_000))
    assert (found.name, found.source, found.candidates) == (None, None, ())
    assert "fit none of its modes" in found.why
    assert find_power_mode(tmp_path, tmp_path / "nothing").name is None


def test_a_conf_without_the_paths_needs_one_cpu_with_that_limit(tmp_path: Path) -> None:
    put_conf(
        tmp_path,
        "<POWER_MODEL ID=0 NAME=A>\nCPU_A78_0 MAX_FREQ 1113600\n"
        "< POWER_MODEL ID=1 NAME=B >\nCPU_A78_0 MAX_FREQ 1728000\n",
    )
    sys = machine(tmp_path, 4, 1_728_000, None)
    assert find_power_mode(tmp_path, sys).name == "B"
    put(sys, "devices/system/cpu/cpu3/cpufreq/scaling_max_freq", "1113600\n")
    assert find_power_mode(tmp_path, sys).candidates == ("A", "B")


def test_compare() -> None:
    assert compare(5, None) is None
    assert compare(5, Range(None)) is None
    assert compare(-1, Range(100)) is None  # what the hardware can do is not told
    for uncapped in (-1, 0, 2_147_483_647, 9_223_372_036_854_775_807, 120):
        assert compare(uncapped, Range(100, 100)) == "exact"
        assert compare(uncapped, Range(90, 100)) == "no"
    assert compare(50, Range(50, 100)) == "exact"
    assert compare(50, Range(51, 100)) == "near"
    assert compare(50, Range(52, 100)) == "no"
    assert compare(50, Range(40, 100, (20, 40, 60, 100))) == "near"
    assert compare(50, Range(60, 100, (20, 40, 60, 100))) == "near"
    assert compare(50, Range(20, 100, (20, 40, 60, 100))) == "no"


# --- inferred from the table ---


@pytest.mark.parametrize("mode", KNOWN_MODES, ids=lambda mode: f"{mode.board} {mode.name}")
def test_each_mode_of_the_table(tmp_path: Path, mode: KnownMode) -> None:
    assert mode.source
    assert mode.board in {board.name for board in BOARDS}
    sys = machine(tmp_path, len(mode.online), mode.cpu_khz, mode.gpu_hz, cpus=mode.cpus)
    found = find_power_mode(tmp_path, sys, [mode.board])
    assert (found.name, found.inferred, found.number) == (mode.name, True, None)
    assert found.source == "clock limits and the table of modes"
    # One CPU fewer, another variant of the board: its modes are others.
    less = machine(tmp_path / "x", len(mode.online), mode.cpu_khz, mode.gpu_hz, cpus=mode.cpus + 1)
    assert find_power_mode(tmp_path, less, [mode.board]).name is None


def test_the_table_needs_both_clocks(tmp_path: Path) -> None:
    for cpu_khz, gpu_hz in ((1_728_000, None), (None, 624_750_000)):
        sys = machine(tmp_path / str(cpu_khz), 8, cpu_khz, gpu_hz)
        assert find_power_mode(tmp_path, sys, ["Jetson AGX Orin"]).name is None
    assert find_power_mode(tmp_path, tmp_path / "no", ["Jetson AGX Orin"]).name is None


def test_near_what_the_table_says(tmp_path: Path) -> None:
    """Jetson Nano in 5W has been seen at 921600 kHz, where the guide says 918 MHz."""
    sys = machine(tmp_path, 2, 921_600, 640_000_000, cpus=4)
    assert find_power_mode(tmp_path, sys, ["Jetson Nano"]).name == "5W"


def test_a_board_whose_modes_are_not_known_gives_no_name(tmp_path: Path) -> None:
    sys = machine(tmp_path, 6, 1_344_000, 918_000_000, cpus=6)
    both = find_power_mode(tmp_path, sys, ["Jetson Orin Nano", "Jetson Orin NX"])
    assert (both.name, both.inferred, both.candidates) == (None, False, ("25W",))
    assert "the modes of Jetson Orin NX, which this can be too, are not known" in both.why
    assert find_power_mode(tmp_path, sys, ["Jetson Orin Nano"]).name == "25W"
    thor = find_power_mode(tmp_path, sys, ["Jetson AGX Thor"])
    assert (thor.name, thor.candidates) == (None, ())
    assert "no list of all modes of Jetson AGX Thor" in thor.why
    assert "no list of all modes of this machine" in find_power_mode(tmp_path, sys).why


# --- in the description of the machine ---


def test_in_a_container_without_a_device_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEJOULE_BOARD", raising=False)
    sys = machine(tmp_path, 8, 1_728_000, 624_750_000)
    put(sys, "devices/soc0/machine", "NVIDIA Jetson AGX Orin Developer Kit\n")
    put(sys, "devices/soc0/family", "Tegra\n")
    put(sys, "devices/soc0/soc_id", "35\n")
    found = describe_machine(sys, tmp_path / "proc", tmp_path, tmp_path)
    assert found["board_id"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert found["board_source"] == "soc0"
    assert found["board"]["names"] == ["Jetson AGX Orin"]
    assert found["board"]["certain"] is True
    assert found["soc"] == {
        "chip": "tegra234",
        "machine": "NVIDIA Jetson AGX Orin Developer Kit",
        "family": "Tegra",
        "soc_id": "35",
        "revision": None,
    }
    assert (found["power_mode"], found["power_mode_inferred"]) == ("MODE_30W", True)
    assert found["power_mode_source"] == "clock limits and the table of modes"
    assert found["power_mode_candidates"] == ["MODE_30W"]
    assert found["power_modes"] is None


def test_a_board_known_by_its_rails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEJOULE_BOARD", raising=False)
    rails = [
        {"rail": rail, "chip": "1-0040", "shunt_uohm": 5000}
        for rail in ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
    ]
    found = describe_machine(tmp_path, tmp_path, tmp_path, tmp_path, rails, "Orin")
    again = describe_machine(tmp_path, tmp_path, tmp_path, tmp_path, rails[::-1], "Orin")
    assert found["board_id"] == again["board_id"] == "Jetson Orin Nano or Orin NX"
    assert found["board_source"] == "signature"
    assert found["board"]["certain"] is False
    assert found["soc"]["chip"] == "tegra234"
    unknown = describe_machine(tmp_path, tmp_path, tmp_path, tmp_path, rails[:1])
    assert (unknown["board_id"], unknown["board_source"]) == (None, "cpu")
    assert "docs/Boards.md" in unknown["board"]["how"]


def test_a_named_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEJOULE_BOARD", "orin-nano-7")
    sys = machine(tmp_path, 6, 1_344_000, 918_000_000, cpus=6)
    found = describe_machine(sys, tmp_path, tmp_path, tmp_path)
    assert (found["board_id"], found["board_source"]) == ("orin-nano-7", "EDGEJOULE_BOARD")
    assert found["board"]["names"] == ["Jetson Orin Nano"]
    assert found["power_mode"] == "25W"


# --- the parser ---


def test_the_grammar() -> None:
    conf = parse_conf(AGX_CONF)
    assert [rule.mode for rule in conf.rules] == [
        PowerMode(name, number) for number, name in enumerate(AGX_MODES)
    ]
    assert conf.default == 2
    assert conf.paths is not None
    assert conf.paths["GPU", "MAX_FREQ"] == "/sys/devices/17000000.gpu/max_freq"
    settings = {(s.what, s.argument): s.value for s in conf.rules[0].settings}
    assert settings["CPU_A78_2", "MAX_FREQ"] == -1
    assert settings["GPU_POWER_CONTROL_ENABLE", "GPU_PWR_CNTL_EN"] is None
    odd = parse_conf(
        "< POWER_MODEL NAME=MAXN ID=3 > # note\n  A B 1 # more\n#< POWER_MODEL ID=1 NAME=NO >\n"
        "< POWER_MODEL ID=x NAME=NO >\nA B 2\n< POWER_MODEL ID=4 >\nA B 3\n< /POWER_MODEL >\n"
        "< POWER_MODEL ID=99999999999 NAME=NO >\n< PM_CONFIG DEFAULT=no >\n"
    )
    assert [rule.mode for rule in odd.rules] == [PowerMode("MAXN", 3)]
    assert [(s.what, s.value) for s in odd.rules[0].settings] == [("A", 1)]
    assert odd.default is None


WORDS = ["<", ">", "POWER_MODEL", "PARAM", "PM_CONFIG", "ID=1", "NAME=A", "TYPE=CLOCK", "DEFAULT=1"]
WORDS += ["CPU_ONLINE", "CORE_0", "CPU_A78_0", "GPU", "EMC", "MAX_FREQ", "X_PG_MASK", "-1", "0"]
WORDS += ["1113600", "9" * 30, "/sys/devices/x", "/sys/devices/system/cpu/cpu0/x", "#", "\n", "\n"]
LINES = st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=40).map(" ".join)


@given(LINES | st.text(max_size=200))
def test_any_text_is_parsed_or_passed_over(text: str) -> None:
    conf = parse_conf(text)
    assert all(rule.mode.name for rule in conf.rules)


@given(LINES, st.binary(max_size=40), st.text(max_size=20))
def test_damaged_files_never_end_it(
    tmp_path_factory: pytest.TempPathFactory, conf: str, status: bytes, limit: str
) -> None:
    root = tmp_path_factory.mktemp("damaged")
    sys = machine(root, 1, 1_728_000, None, cpus=1)
    put(sys, "devices/system/cpu/cpu0/cpufreq/scaling_max_freq", limit)
    put(sys, "devices/system/cpu/cpu0/cpufreq/scaling_available_frequencies", limit)
    put(sys, "devices/system/cpu/online", limit)
    put_conf(root, conf)
    put(root, "var/lib/nvpmodel/status", b"pmode:" + status)
    found = find_power_mode(root, sys, ["Jetson Nano"])
    assert found.why
    assert found.name is None or found.source
    power_modes(root)


def test_limits(tmp_path: Path) -> None:
    sys = machine(tmp_path, 2, 1_728_000, 624_750_000, cpus=3)
    limits = read_limits(sys)
    assert (limits.present, limits.online, sorted(limits.cpu_khz)) == (3, frozenset({0, 1}), [0, 1])
    assert limits.cpu_khz[1].upper == 1_728_000
    assert limits.gpu_hz is not None
    assert (limits.gpu_hz.upper, limits.gpu_hz.hardware) == (624_750_000, 1_300_500_000)
    put(sys, "class/devfreq/gpu-gpc-0/max_freq", "1\n")  # Thor has several: not one limit
    assert read_limits(sys).gpu_hz is None
    assert read_limits(tmp_path / "no") == Limits(0, None)
