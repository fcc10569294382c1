"""Boards: the table, recognition by each kind of clue, totals that never count a rail twice."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.errors import EdgejouleError, UsageError
from edgejoule.power import board_table, boards
from edgejoule.power.board_table import BOARDS
from edgejoule.power.board_types import Board, BoardChip
from edgejoule.power.boards import board_of, boards_by_parts, boards_by_text, total_rails
from edgejoule.power.clues import Clues, read_clues, soc_of
from edgejoule.power.ina3221 import Ina3221Sensor
from edgejoule.power.recognise import Recognition, recognise
from edgejoule.power.sensor import Channel
from edgejoule.power_mode_table import KNOWN_MODES
from tests.support_power import make_chip

BY_NAME = {board.name: board for board in BOARDS}
MEASURED = [board for board in BOARDS if board.chips]
NOBODY: dict[str, str] = {}


def channels(
    chip: str, *labels: str, sensor: str = "", shunt_uohm: int | None = None
) -> list[dict[str, Any]]:
    """Return the channels of rails, voltage and current each."""
    return [
        {
            "rail": label,
            "chip": chip,
            "quantity": quantity,
            "sensor": sensor,
            "shunt_uohm": shunt_uohm,
        }
        for label in labels
        for quantity in ("voltage", "current")
    ]


def channels_of(board: Board, *, optional: bool = True) -> list[dict[str, Any]]:
    """Return what a board of the table shows; two chips of one address are on two buses."""
    found: list[dict[str, Any]] = []
    for bus, chip in enumerate(board.chips):
        for rail in chip.rails:
            if rail is not None and (optional or not rail.optional):
                found += channels(
                    f"{bus}-{chip.address or '0044'}", rail.label, shunt_uohm=rail.shunt_uohm
                )
    return found


def sysfs_of(root: Path, board: Board) -> None:
    """Make a board's INA3221 chips as the kernel shows them."""
    for bus, chip in enumerate(board.chips):
        if chip.driver == "ina3221":
            labels = [None if rail is None else rail.label for rail in chip.rails]
            directory = make_chip(
                root,
                f"{bus}-{chip.address or '0040'}",
                labels,
                hwmon=bus + 2,
                shunt_uohm=None,
                enabled=[0 if label is None else 1 for label in labels],
            )
            for number, rail in enumerate(chip.rails, 1):
                if rail is not None and rail.shunt_uohm:
                    (directory / f"shunt{number}_resistor").write_text(f"{rail.shunt_uohm}\n")


def put(root: Path, name: str, content: str | bytes) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


ORIN = channels("1-0040", "VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC", shunt_uohm=5000)
AGX = channels("1-0040", "VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", shunt_uohm=2000)
THOR = channels("2-0040", "VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")


# --- the table ---


def test_the_boards_that_users_have_are_all_there() -> None:
    assert set(BY_NAME) == {
        *("Jetson Orin Nano", "Jetson Orin NX", "Jetson AGX Orin", "IGX Orin"),
        *("Jetson Xavier NX", "Jetson AGX Xavier", "Jetson Nano", "Jetson Nano 2GB"),
        *("Jetson TX2", "Jetson TX2 NX", "Jetson TX1", "Jetson AGX Thor"),
    }


def ancestors(parents: Mapping[str, str | None], label: str) -> list[str]:
    above: list[str] = []
    parent = parents.get(label)
    while parent is not None:
        assert parent not in above, "a rail that feeds itself"
        above.append(parent)
        parent = parents.get(parent)
    return above


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_no_total_counts_a_rail_twice(board: Board) -> None:
    parents = {rail.label: rail.parent for rail in board.rails}
    assert len(parents) == len(board.rails)  # a label once per board
    assert {parent for parent in parents.values() if parent} <= parents.keys()
    for rule in board.totals:
        assert set(rule.rails) <= parents.keys()
        assert len(set(rule.rails)) == len(rule.rails)
        for label in rule.rails:
            assert not set(ancestors(parents, label)) & set(rule.rails)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_every_line_has_a_source_and_a_whole_is_said(board: Board) -> None:
    assert board.sources
    assert board.soc in ("tegra186", "tegra194", "tegra210", "tegra234", "tegra264")
    for rule in board.totals:
        assert all((rule.contains, rule.excludes, rule.source))
    for chip in board.chips:
        assert chip.driver in ("ina3221", "ina238")
        assert len(chip.rails) == (3 if chip.driver == "ina3221" else 1)


def test_what_the_device_trees_say() -> None:
    """Shunts and addresses as Linux' device trees have them, written down here a second time."""

    def rails(name: str, chip: int) -> dict[str, int | None]:
        rows = BY_NAME[name].chips[chip].rails
        return {row.label: row.shunt_uohm for row in rows if row is not None}

    assert rails("Jetson Orin NX", 0) == {"VDD_IN": 5000, "VDD_CPU_GPU_CV": 5000, "VDD_SOC": 5000}
    assert rails("Jetson AGX Orin", 1) == {"VDDQ_VDD2_1V8AO": 2000}
    assert rails("Jetson AGX Xavier", 1) == {"CV": 5000, "VDDRQ": 5000, "SYS5V": 5000}
    assert rails("Jetson TX2", 1) == {"VDD_IN": 5000, "VDD_SYS_CPU": 10000, "VDD_SYS_DDR": 10000}
    assert rails("IGX Orin", 2) == {"CVB_ATX_12V": 2000, "CVB_ATX_3V3": 2000, "CVB_ATX_5V": 2000}
    assert [chip.address for chip in BY_NAME["IGX Orin"].chips] == ["0040", "0041", "0041"]
    assert BY_NAME["Jetson AGX Thor"].chips[1].driver == "ina238"


def test_what_is_uncertain_is_said() -> None:
    for name, word in (
        ("Jetson TX2 NX", "5 micro-ohms"),
        ("IGX Orin", "CVB_ATX"),
        ("Jetson AGX Thor", "no device tree"),
        ("Jetson Nano 2GB", "no power monitor"),
    ):
        assert word in " ".join(BY_NAME[name].notes)
    vddq = BY_NAME["Jetson AGX Orin"].chips[1].rails[1]
    assert vddq is not None
    assert "no schematic" in vddq.note


# --- each board, by what it shows ---


@pytest.mark.parametrize("board", MEASURED, ids=lambda board: board.name)
def test_every_board_through_the_real_reader(board: Board, tmp_path: Path) -> None:
    sysfs_of(tmp_path, board)
    sensor = Ina3221Sensor(str(tmp_path))
    left_out = sensor.configuration()["left_out"]
    clues = Clues(family="Tegra", soc_id={"tegra234": "35", "tegra194": "25"}.get(board.soc))
    known = recognise(sensor.channels(), clues, left_out)
    sensor.close()
    assert board.name in known.names
    rule = board.totals[-1] if board.name == "Jetson AGX Thor" else board.totals[0]
    assert known.total is not None
    assert known.total.rails == rule.rails
    assert (known.total.contains, known.total.excludes) == (rule.contains, rule.excludes)
    assert known.expected_missing == ()


@pytest.mark.parametrize("board", MEASURED, ids=lambda board: board.name)
@pytest.mark.parametrize("optional", [True, False])
def test_every_board_by_its_signature(board: Board, optional: bool) -> None:
    known = recognise(channels_of(board, optional=optional), Clues(family=board.soc))
    assert board.name in known.names
    siblings = {"Jetson Orin Nano", "Jetson Orin NX"}
    assert set(known.names) in ({board.name}, siblings)
    assert known.certain == (len(known.names) == 1)
    assert known.total is not None
    assert known.name is not None


@pytest.mark.parametrize("board", MEASURED, ids=lambda board: board.name)
def test_every_board_by_its_labels_alone(board: Board) -> None:
    labels = [rail.label for rail in board.rails]
    known = recognise(channels("tegrastats", *labels, sensor="tegrastats"))
    short = board_of(labels)
    assert short is not None
    assert board.name in known.names
    assert board.name in short.boards
    assert known.total is not None
    assert known.total.rails == total_rails(labels) == short.total


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_every_board_by_its_part_number(board: Board) -> None:
    for start in board.parts:
        part = start if "-" in start else f"{start}-0000"
        clues = Clues(compatible=(f"nvidia,{part}", f"nvidia,{board.soc}"))
        known = recognise(channels_of(board), clues)
        assert known.names == (board.name,)
        assert known.certain
        assert (known.total is None) == (not board.totals)
        assert soc_of(clues) == (board.soc, "the device tree")


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_every_board_by_its_name(board: Board) -> None:
    short = board.name.removeprefix("Jetson ")
    for text in (board.name, short, short.lower().replace(" ", "-"), f" {short.upper()} "):
        known = recognise(channels_of(board), Clues(override=text.strip()))
        assert known.names == (board.name,)
        assert known.how == "EDGEJOULE_BOARD says so"
    assert recognise((), Clues(override=board.name)).total is None


# Texts that machines have shown: device trees' model, soc0's machine.
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "Jetson Orin Nano"),
        ("NVIDIA Orin Nano Developer Kit - DSBOARD-ORNXS", "Jetson Orin Nano"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "Jetson Orin NX"),
        ("Jetson AGX Orin", "Jetson AGX Orin"),
        ("NVIDIA IGX Orin Development Kit", "IGX Orin"),
        ("NVIDIA Jetson Xavier NX Developer Kit", "Jetson Xavier NX"),
        ("NVIDIA Jetson AGX Xavier", "Jetson AGX Xavier"),
        ("NVIDIA Jetson Nano Developer Kit", "Jetson Nano"),
        ("jetson-nano", "Jetson Nano"),
        ("NVIDIA Jetson Nano 2GB Developer Kit", "Jetson Nano 2GB"),
        ("quill", "Jetson TX2"),
        ("NVIDIA Jetson TX2 NX Developer Kit", "Jetson TX2 NX"),
        ("jetson_tx1", "Jetson TX1"),
        ("NVIDIA Jetson AGX Thor Developer Kit", "Jetson AGX Thor"),
        ("AYN Thor", None),  # a handheld of another maker
        ("Raspberry Pi 5 Model B", None),
        ("", None),
    ],
)
def test_model_texts(text: str, name: str | None) -> None:
    assert [board.name for board in boards_by_text(text)] == ([name] if name else [])


# --- the order of trust ---


def test_part_number_before_model_text() -> None:
    """A model text has been seen naming an Orin NX where the module was an Orin Nano."""
    clues = Clues(
        model="NVIDIA Jetson Orin NX Engineering Reference Developer Kit Super",
        compatible=("nvidia,p3768-0000+p3767-0003-super", "nvidia,p3767-0003", "nvidia,tegra234"),
        machine="NVIDIA Jetson Orin NX Engineering Reference Developer Kit Super",
    )
    known = recognise(ORIN, clues)
    assert known.names == ("Jetson Orin Nano",)
    assert known.how.endswith("compatible says nvidia,p3768-0000+p3767-0003-super")
    assert recognise(ORIN, Clues(model=clues.model)).how.startswith("the device tree's model says")
    masked = recognise(ORIN, Clues(machine=clues.machine))
    assert (masked.name, masked.certain) == ("Jetson Orin NX", True)
    assert masked.how.startswith("/sys/devices/soc0/machine says NVIDIA Jetson")
    overruled = recognise(ORIN, Clues(model=clues.model, override="xavier nx"))
    assert overruled.names == ("Jetson Xavier NX",)


def test_the_carrier_of_an_igx_goes_before_its_module() -> None:
    compatible = ("nvidia,p3740-0002+p3701-0008", "nvidia,p3701-0008", "nvidia,tegra234")
    assert [board.name for board in boards_by_parts(compatible)] == ["IGX Orin"]
    assert [b.name for b in boards_by_parts(("nvidia,p3701-0008",))] == ["Jetson AGX Orin"]


@pytest.mark.parametrize(
    ("clues", "names"),
    [
        (Clues(), {"Jetson Orin Nano", "Jetson Orin NX", "Jetson Xavier NX"}),
        (Clues(family="Tegra", soc_id="35"), {"Jetson Orin Nano", "Jetson Orin NX"}),
        (Clues(family="tegra194", soc_id=""), {"Jetson Xavier NX"}),
        (Clues(cuda_name="Orin"), {"Jetson Orin Nano", "Jetson Orin NX"}),
        (Clues(cuda_name="Xavier"), {"Jetson Xavier NX"}),
        (
            Clues(cuda_name="NVIDIA H200"),
            {"Jetson Orin Nano", "Jetson Orin NX", "Jetson Xavier NX"},
        ),
        # Somebody else's chip number 35 says nothing.
        (
            Clues(family="i.MX", soc_id="35"),
            {"Jetson Orin Nano", "Jetson Orin NX", "Jetson Xavier NX"},
        ),
    ],
)
def test_ambiguous_boards_keep_a_total_that_they_share(clues: Clues, names: set[str]) -> None:
    known = recognise(ORIN, clues)
    assert set(known.names) == names
    assert known.total is not None
    assert known.total.rails == ("VDD_IN",)
    assert known.parents == {"VDD_CPU_GPU_CV": "VDD_IN", "VDD_SOC": "VDD_IN"}
    if len(names) > 1:
        assert not known.certain
        assert "cannot be told apart here; their rails and total are the same" in known.notes[-1]


def test_ambiguous_names_read_well() -> None:
    assert recognise(ORIN, Clues(cuda_name="Orin")).name == "Jetson Orin Nano or Orin NX"
    assert recognise(ORIN).name == "Jetson Orin Nano, Orin NX or Xavier NX"
    assert Recognition((), "").name is None


def test_a_soc_that_has_no_such_board_is_no_match() -> None:
    known = recognise(ORIN, Clues(family="tegra264"))
    assert (known.names, known.total) == ((), None)
    assert "SoC tegra264 (/sys/devices/soc0/family)" in known.how


def test_a_total_that_differs_is_none() -> None:
    one, two = BY_NAME["Jetson Orin NX"], BY_NAME["Jetson AGX Xavier"]
    both = ("nvidia,p3767-0000", "nvidia,p2888-0000")
    assert boards_by_parts(both) == (one, two)
    known = recognise(channels_of(one), Clues(compatible=both))
    assert known.total is None
    assert not known.certain
    assert any("it is not the same on Jetson Orin NX or AGX Xavier" in n for n in known.notes)


# --- what a container shows ---


def test_clues_in_an_unprivileged_container(tmp_path: Path) -> None:
    sys, proc = tmp_path / "sys", tmp_path / "proc"
    (sys / "firmware").mkdir(parents=True)  # masked: an empty folder
    proc.mkdir()
    (proc / "device-tree").symlink_to(sys / "firmware/devicetree/base")  # leads nowhere
    put(sys, "devices/soc0/machine", "NVIDIA Jetson AGX Orin Developer Kit\n")
    put(sys, "devices/soc0/family", "Tegra\n")
    put(sys, "devices/soc0/soc_id", "35\n")
    put(sys, "devices/soc0/revision", "A01\n")
    clues = read_clues(sys, proc, NOBODY, "Orin")
    assert clues == Clues(
        machine="NVIDIA Jetson AGX Orin Developer Kit",
        family="Tegra",
        soc_id="35",
        revision="A01",
        cuda_name="Orin",
    )
    assert soc_of(clues) == ("tegra234", "/sys/devices/soc0/soc_id")
    assert recognise(AGX, clues).names == ("Jetson AGX Orin",)


def test_clues_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "proc/device-tree/model", b"NVIDIA Jetson Xavier NX Developer Kit\0")
    put(tmp_path, "proc/device-tree/compatible", b"nvidia,p3509-0000+p3668-0000\0nvidia,tegra194\0")
    monkeypatch.setenv("EDGEJOULE_BOARD", "  ")
    clues = read_clues(tmp_path / "sys", tmp_path / "proc")
    assert clues.compatible == ("nvidia,p3509-0000+p3668-0000", "nvidia,tegra194")
    assert clues.override is None
    assert soc_of(clues) == ("tegra194", "the device tree")
    assert read_clues(tmp_path, tmp_path, {"EDGEJOULE_BOARD": " x "}) == Clues(override="x")
    assert soc_of(Clues()) is None


# --- rails that are missing ---


def test_a_disabled_channel_of_the_total_means_no_total(tmp_path: Path) -> None:
    labels = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    make_chip(tmp_path, "1-0040", labels, shunt_uohm=2000, enabled=(1, 1, 0))
    sensor = Ina3221Sensor(str(tmp_path))
    left_out = sensor.configuration()["left_out"]
    known = recognise(sensor.channels(), left_out=left_out)
    sensor.close()
    assert known.names == ("Jetson AGX Orin",)
    assert known.total is None
    assert known.expected_missing == ("VIN_SYS_5V0",)
    assert "no total: VIN_SYS_5V0 (switched off (enable is 0)) cannot be read" in known.notes
    # Nobody says why it is missing: an IGX Orin of which more is missing cannot be excluded.
    again = recognise(AGX[:4])
    assert (again.name, again.total, again.certain) == ("Jetson AGX Orin or IGX Orin", None, False)
    assert again.expected_missing == ("VIN_SYS_5V0",)


def test_a_missing_rail_outside_the_total_costs_nothing() -> None:
    known = recognise(ORIN[:4], Clues(cuda_name="Orin"))
    assert known.total is not None
    assert known.expected_missing == ("VDD_SOC",)
    assert known.parents == {"VDD_CPU_GPU_CV": "VDD_IN"}


def test_one_label_that_many_boards_have_is_not_enough() -> None:
    assert recognise(ORIN[:2]).names == ()
    assert recognise(ORIN[4:]).names == ()


def test_voltage_without_current_is_no_power() -> None:
    half = [c for c in ORIN if (c["rail"], c["quantity"]) != ("VDD_IN", "current")]
    known = recognise(half, Clues(cuda_name="Orin"))
    assert known.total is None
    assert "no total: VDD_IN (only its voltage) cannot be read" in known.notes
    power = [{"rail": "VIN", "chip": "2-0044", "quantity": "power"}]
    total = recognise(THOR + power).total
    assert total is not None
    assert total.rails == ("VIN",)


def test_a_rail_that_permission_hides_has_its_reason() -> None:
    hidden = {"chip": "2-0044", "rail": "VIN", "why": "Permission denied (EACCES)"}
    known = recognise(THOR, left_out=[hidden])
    assert known.total is None  # a sum of three would be another whole than on the run before
    assert known.expected_missing == ("VIN",)
    assert "no total: VIN (Permission denied (EACCES)) cannot be read" in known.notes


def test_thor_without_its_ina238_says_so() -> None:
    known = recognise(THOR)
    assert known.total is not None
    assert known.total.rails == ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")
    assert any("without the INA238" in note for note in known.notes)
    whole = recognise(THOR + channels("2-0044", "VIN"))
    assert whole.total is not None
    assert whole.total.rails == ("VIN",)
    assert set(whole.parents.values()) == {"VIN"}
    assert not any("without the INA238" in note for note in whole.notes)


# --- what does not fit ---


def test_an_unknown_board_is_told_how_to_add_itself() -> None:
    known = recognise(channels("1-0040", "5V", "3V3", "12V"))
    assert (known.names, known.name, known.total, known.parents) == ((), None, None, {})
    assert "5V, 3V3, 12V (1-0040)" in known.how
    assert "docs/Boards.md" in known.how
    assert recognise(()).how.startswith("neither device tree nor soc0")
    assert recognise(channels("1-0040", "1-0040_ch1")).names == ()


def test_labels_at_another_address_or_shunt_are_another_board() -> None:
    assert recognise(channels("1-0045", "VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")).names == ()
    other = channels("1-0040", "VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC", shunt_uohm=10_000)
    assert recognise(other).names == ()
    # The bus does not matter, and a chip whose address cannot be seen is known by its labels.
    for chip in ("7-0040", "hwmon3"):
        assert recognise(channels(chip, "VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")).names


def test_a_wrong_shunt_on_a_board_that_names_itself_is_said() -> None:
    other = channels("1-0040", "VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC", shunt_uohm=10_000)
    known = recognise(other, Clues(compatible=("nvidia,p3767-0000",)))
    assert known.total is not None
    assert not known.certain
    assert sum("its shunt is set to 10000 micro-ohms here" in note for note in known.notes) == 3


def test_a_label_too_many_on_a_chip_is_another_board() -> None:
    assert recognise(ORIN + channels("1-0040", "VDD_FOO")).names == ()
    lines = channels("tegrastats", "VDD_IN", "VDD_CPU", "VDD_GPU", "VDD_FOO", sensor="tegrastats")
    assert recognise(lines).names == ()


def test_a_carriers_own_chip_does_not_hide_the_module() -> None:
    known = recognise(ORIN + channels("2-0044", "CARRIER_12V"), Clues(cuda_name="Orin"))
    assert known.name == "Jetson Orin Nano or Orin NX"
    assert "not in the table, shown as they are: CARRIER_12V" in known.notes
    more = recognise(THOR + channels("3-0041", "CVB_ATX_12V"))
    assert (more.name, more.certain) == ("Jetson AGX Thor", False)  # it may be a sibling


def test_a_board_that_says_another_name_than_its_rails_has_no_total() -> None:
    known = recognise(ORIN, Clues(model="NVIDIA Jetson AGX Orin Developer Kit"))
    assert (known.names, known.total, known.certain) == (("Jetson AGX Orin",), None, False)
    assert any("are not those of Jetson AGX Orin" in note for note in known.notes)


# --- several sensors ---


def test_other_sensors_are_passed_over() -> None:
    more = [
        {"rail": "GPU", "chip": "GPU-1234", "quantity": "power", "sensor": "nvml"},
        {"rail": "package-0", "chip": "intel-rapl:0", "quantity": "energy"},
    ]
    with_sensor = [{**channel, "sensor": "ina3221"} for channel in ORIN]
    assert recognise(with_sensor + more).total == recognise(ORIN).total
    assert recognise(more).names == ()
    # Whose channels they are counts, not what their device happens to be called.
    assert recognise([{**channel, "sensor": "battery"} for channel in ORIN]).names == ()


def test_chips_are_not_added_to_what_tegrastats_reads_of_them() -> None:
    again = channels("tegrastats", "VDD_GPU_SOC@tegrastats", "NEW@tegrastats", sensor="tegrastats")
    chips = [{**channel, "sensor": "ina3221"} for channel in AGX]
    total = recognise(chips + again).total
    assert total is not None
    assert total.rails == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    # A sum of readings of two sensors with two rhythms is none.
    third = channels("tegrastats", "VIN_SYS_5V0", sensor="tegrastats")
    assert recognise(chips[:4] + third).total is None


def test_two_rails_of_one_label_count_once() -> None:
    twice = ORIN + channels("2-0040", "VDD_IN@2-0040")
    total = recognise(twice, Clues(cuda_name="Orin")).total
    assert total is not None
    assert total.rails == ("VDD_IN",)


def test_the_simulated_board_is_known_by_its_rails_alone() -> None:
    made_up = [{**channel, "sensor": "simulated"} for channel in ORIN]
    here = Clues(model="NVIDIA Jetson AGX Orin Developer Kit", override="tx1", family="tegra234")
    assert recognise(made_up, here) == recognise(ORIN)


def test_tegrastats_on_a_tx2_uses_other_names() -> None:
    labels = ("VDD_IN", "VDD_CPU", "VDD_GPU", "VDD_SOC", "VDD_WIFI", "VDD_DDR")
    known = recognise(channels("tegrastats", *labels))
    assert known.names == ("Jetson TX2",)
    assert known.parents["VDD_WIFI"] == "VDD_IN"
    assert total_rails(labels) == ("VDD_IN",)
    assert recognise(channels("tegrastats", *labels[:3])).names == ("Jetson TX1",)


# --- EDGEJOULE_BOARD ---


@pytest.mark.parametrize("text", ["orin", "xavier", "Orin Nanoo", "jetson-nan0", "agx"])
def test_a_misspelt_board_lists_the_known_ones(text: str) -> None:
    if text == "agx":  # too short to be a slip of any name
        assert recognise(ORIN, Clues(override=text)).total is None
        return
    with pytest.raises(UsageError, match="known are Jetson Orin Nano, Jetson Orin NX") as caught:
        recognise(ORIN, Clues(override=text))
    assert caught.value.exit_code == 2
    assert f"EDGEJOULE_BOARD={text}" in str(caught.value)


def test_a_name_of_ones_own_has_no_total_and_says_so() -> None:
    known = recognise(ORIN, Clues(override="my rig", model="NVIDIA Jetson Orin NX"))
    assert (known.names, known.name, known.total) == (("my rig",), "my rig", None)
    assert "the table has no such board, so there is no total" in known.how
    assert recognise(ORIN, Clues(override="orin-nx-03")).names == ("Jetson Orin NX",)


def test_an_override_whose_rails_are_not_here() -> None:
    with pytest.raises(UsageError) as caught:
        recognise(ORIN, Clues(override="AGX Orin"))
    assert "Jetson AGX Orin has VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0" in str(caught.value)
    assert "what is read here is VDD_IN, VDD_CPU_GPU_CV, VDD_SOC" in str(caught.value)
    hidden = [{"rail": "VIN_SYS_5V0", "why": "EACCES"}]
    assert recognise(AGX[:4], Clues(override="AGX Orin"), hidden).total is None
    nano = recognise((), Clues(override="nano 2gb"))
    assert nano.notes == BY_NAME["Jetson Nano 2GB"].notes


# --- what is handed on ---


def test_channels_as_objects_and_as_json() -> None:
    objects = [
        Channel(i, c["rail"], c["quantity"], "mV", c["chip"], "in1_input", c["shunt_uohm"])
        for i, c in enumerate(ORIN)
    ]
    known = recognise(objects)
    assert known == recognise(ORIN)
    plain = json.loads(json.dumps(known.to_json()))
    assert plain["total"]["rails"] == ["VDD_IN"]
    assert plain["name"] == known.name
    assert plain["names"] == list(known.names)
    assert json.loads(json.dumps(recognise(()).to_json()))["total"] is None


LABELS = sorted(
    {label for board in BOARDS for rail in board.rails for label in (rail.label, *rail.also)}
)
CHIPS = ["1-0040", "1-0041", "2-0041", "2-0042", "2-0043", "2-0044", "tegrastats", "hwmon1", "x"]
ANY_CHANNEL = st.fixed_dictionaries(
    {
        "rail": st.sampled_from([*LABELS, "FOO", "VDD_IN@2-0040", "1-0040_ch1"])
        | st.text(max_size=8),
        "chip": st.sampled_from(CHIPS) | st.text(max_size=8),
    },
    optional={
        "quantity": st.sampled_from(["voltage", "current", "power", "energy"]),
        "shunt_uohm": st.sampled_from([None, 5, 2000, 5000, 10_000]),
        "sensor": st.sampled_from(["", "ina3221", "ina238", "tegrastats", "nvml", "simulated"]),
    },
)
ANY_CLUES = st.builds(
    Clues,
    model=st.none() | st.sampled_from([board.name for board in BOARDS]) | st.text(max_size=30),
    compatible=st.lists(st.sampled_from(["nvidia,p3767-0000", "nvidia,tegra234"]), max_size=2).map(
        tuple
    ),
    family=st.none() | st.sampled_from(["Tegra", "tegra186"]) | st.text(max_size=9),
    soc_id=st.none() | st.sampled_from(["35", "24"]) | st.text(max_size=5),
    cuda_name=st.none() | st.sampled_from(["Orin", "Xavier"]),
    override=st.none()
    | st.sampled_from([board.name for board in BOARDS])
    | st.text(min_size=1, max_size=9),
)


@given(
    st.lists(ANY_CHANNEL, max_size=12),
    ANY_CLUES,
    st.lists(
        st.fixed_dictionaries({"rail": st.sampled_from(LABELS), "why": st.just("EACCES")}),
        max_size=3,
    ),
)
def test_whatever_is_there_nothing_is_counted_twice(
    there: list[dict[str, Any]], clues: Clues, left_out: list[dict[str, Any]]
) -> None:
    known = None
    with contextlib.suppress(EdgejouleError):
        known = recognise(there, clues, left_out)
    if known is None:  # refused, which only EDGEJOULE_BOARD can cause
        assert clues.override
        return
    rails = {str(channel["rail"]) for channel in there}
    assert known.parents.keys() | set(known.parents.values()) <= rails
    assert known.how
    if known.total is None:
        return
    assert known.names
    assert set(known.total.rails) <= rails
    for rail in known.total.rails:
        assert not set(ancestors(known.parents, rail)) & set(known.total.rails)
    table = [board for board in BOARDS if board.name in known.names]
    labels = {boards.label_of(rail) for rail in known.total.rails}
    for board in table:
        parents = {rail.label: rail.parent for rail in board.rails}
        assert all(not set(ancestors(parents, label)) & labels for label in labels)


@given(st.sets(st.sampled_from([*LABELS, "FOO"]), max_size=10))
def test_the_label_shortcut_never_counts_twice(labels: set[str]) -> None:
    found = total_rails(labels)
    board = board_of(labels)
    assert (found is None) == (board is None)
    if found is None or board is None:
        return
    assert set(found) <= labels
    for name in board.boards:
        parents = {rail.label: rail.parent for rail in BY_NAME[name].rails}
        for label in board.total:
            assert not set(ancestors(parents, label)) & set(board.total)


# --- the page for users ---


def test_the_page_shows_the_table() -> None:
    """docs/Boards.md holds, for each board, exactly the lines that the table gives."""
    page = (Path(__file__).resolve().parent.parent / "docs/Boards.md").read_text(encoding="utf-8")
    for board in BOARDS:
        assert page_of(board) in page, page_of(board)
    for mode in KNOWN_MODES:
        row = f"| {mode.board} | {mode.name} | {len(mode.online)} of {mode.cpus} |"
        row += f" {mode.cpu_khz / 1000:g} MHz | {mode.gpu_hz / 1e6:g} MHz |\n"
        assert row in page
    assert page.count("\n### ") == len(BOARDS)
    assert "Nobody of this project has run it on any\nof these boards" in page
    assert page.count(" of 6 |") + page.count(" of 12 |") + page.count(" of 4 |") == len(
        KNOWN_MODES
    )


def page_of(board: Board) -> str:
    """Return a board's part of the page."""
    lines = [f"### {board.name}", ""]
    for chip in board.chips:
        lines += _rows(board, chip)
    for rule in board.totals:
        title = "Total" if rule is board.totals[0] else "Total where that is missing"
        lines.append(f"- {title}: `{' + '.join(rule.rails)}`, {rule.contains}")
        lines.append(f"- Not in it: {rule.excludes}")
        lines.append(f"- Source of the total: {rule.source}")
        lines += [f"- Note: {rule.note}"] if rule.note else []
    lines += ["- Total: none"] if not board.totals else []
    lines.append(f"- Source of the rails: {'; '.join(board.sources)}")
    lines.append(f"- Known by: {board.soc}; part numbers {', '.join(board.parts)}")
    lines += [f"- Note: {note}" for note in board.notes]
    lines += [f"- Note on {rail.label}: {rail.note}" for rail in board.rails if rail.note]
    return "\n".join(lines) + "\n"


def _rows(board: Board, chip: BoardChip) -> Sequence[str]:
    where = f"0x{chip.address[2:]}" if chip.address else "address not known"
    bus = f", seen on bus {chip.bus}" if chip.bus else ""
    lines = [f"- {chip.driver.upper()} at {where}{bus}"]
    depth = {rail.label: rail.parent for rail in board.rails}
    for number, rail in enumerate(chip.rails, 1):
        if rail is None:
            lines.append(f"  - channel {number}: not connected")
            continue
        shunt = f", {rail.shunt_uohm / 1000:g} mOhm" if rail.shunt_uohm else ""
        inside = f", inside {depth[rail.label]}" if depth[rail.label] else ""
        also = f", also called {' or '.join(rail.also)}" if rail.also else ""
        seldom = ", not everywhere" if rail.optional else ""
        lines.append(f"  - channel {number}: `{rail.label}`{shunt}{inside}{also}{seldom}")
    return lines


def test_sources_of_the_table_are_places() -> None:
    assert board_table.__doc__
    assert "NVIDIA forum" in board_table.__doc__
