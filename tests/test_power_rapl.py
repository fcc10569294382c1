"""RAPL: zones, counters, permissions, hidden trees; what the total is."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.errors import EdgejouleError, MeasurementError
from edgejoule.power.rapl import RaplSensor, find_zones, looked_for, rapl_total
from edgejoule.power.sensor import FileBacked
from tests.support_power import without_privilege

RANGE_61_UJ = 262_143_328_850  # a client's: 2**32 - 1 steps of 1 J / 2**14
RANGE_15_UJ = 65_532_610_987  # a server's memory, AMD: 15.3 uJ as the kernel rounds it


def zone(
    root: Path,
    name: str,
    label: str | None,
    energy: str = "1000",
    wrap: str | None = "262143328850",
) -> Path:
    """Make a zone where the kernel makes it, with its link below class/powercap."""
    kind, _, rest = name.partition(":")
    parts = rest.split(":")
    path = root / "devices" / "virtual" / "powercap" / kind
    for depth in range(1, len(parts) + 1):
        path = path / f"{kind}:{':'.join(parts[:depth])}"
    path.mkdir(parents=True, exist_ok=True)
    if label is not None:
        (path / "name").write_text(f"{label}\n")
    (path / "energy_uj").write_text(f"{energy}\n")
    if wrap is not None:
        (path / "max_energy_range_uj").write_text(f"{wrap}\n")
    folder = root / "class" / "powercap"
    folder.mkdir(parents=True, exist_ok=True)
    for link, target in ((name, path), (kind, path.parents[len(parts) - 1])):
        if not (folder / link).is_symlink():
            (folder / link).symlink_to(os.path.relpath(target, folder))
    return path


def laptop(root: Path) -> Path:
    zone(root, "intel-rapl:0", "package-0", "5000")
    zone(root, "intel-rapl:0:0", "core", "3000")
    zone(root, "intel-rapl:0:1", "uncore", "1000")
    zone(root, "intel-rapl:0:2", "dram", "700", str(RANGE_15_UJ))
    zone(root, "intel-rapl:1", "psys", "9000")
    zone(root, "intel-rapl-mmio:0", "package-0", "5001")
    return root


def read_all(root: Path) -> dict[str, int]:
    with contextlib.closing(RaplSensor(str(root))) as sensor:
        return {channel.rail: sensor.read(channel.index) for channel in sensor.channels()}


def test_a_laptops_zones(tmp_path: Path) -> None:
    assert read_all(laptop(tmp_path)) == {
        "package-0": 5000,
        "core-0": 3000,
        "uncore-0": 1000,
        "dram-0": 700,
        "psys": 9000,
    }


def test_channels_and_group(tmp_path: Path) -> None:
    with contextlib.closing(RaplSensor(str(laptop(tmp_path)))) as sensor:
        package, *_, dram, _psys = sensor.channels()
        assert (package.quantity, package.unit, package.chip, package.source) == (
            "energy",
            "uJ",
            "intel-rapl:0",
            "energy_uj",
        )
        assert (package.wrap, package.sensor) == (RANGE_61_UJ, "rapl")
        assert package.lsb == pytest.approx(1e6 / 2**14)
        assert (dram.wrap, dram.lsb) == (RANGE_15_UJ, pytest.approx(1e6 / 2**16))
        (group,) = sensor.groups()
        assert (group.channels, group.blocking) == ((0, 1, 2, 3, 4), False)
        assert (group.refresh_ns, group.period_ns) == (1_000_000, 10_000_000)
        assert isinstance(sensor, FileBacked)
        texts = [os.pread(descriptor, 32, 0) for descriptor in sensor.descriptors()]
        assert texts == [b"5000\n", b"3000\n", b"1000\n", b"700\n", b"9000\n"]
        said = sensor.configuration()
    assert said["zones"]["dram-0"] == "intel-rapl:0:2"
    assert [item["zone"] for item in said["left_out"]] == ["intel-rapl-mmio:0"]
    assert "MMIO" in said["left_out"][0]["why"]


def test_a_counter_is_read_anew_each_time(tmp_path: Path) -> None:
    path = zone(tmp_path, "intel-rapl:0", "package-0", "5000")
    with contextlib.closing(RaplSensor(str(tmp_path))) as sensor:
        assert sensor.read(0) == 5000
        (path / "energy_uj").write_text("262143328000\n")
        assert sensor.read(0) == 262143328000
        (path / "energy_uj").write_text("")
        with pytest.raises(OSError, match="no number") as caught:
            sensor.read(0)
        assert caught.value.errno == errno.EBADMSG


def test_two_sockets_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (0, 1, 10):
        zone(tmp_path, f"intel-rapl:{number}", f"package-{number}", f"{number}00000000")
        zone(tmp_path, f"intel-rapl:{number}:0", "dram")
    assert [found.rail for found in find_zones(str(tmp_path))] == [
        "package-0",
        "dram-0",
        "package-1",
        "dram-1",
        "package-10",
        "dram-10",
    ]
    rails = read_all(tmp_path)
    total = rapl_total(rails)
    assert total is not None
    assert set(total.rails) == set(rails)


def test_dies_that_repeat_the_sockets_counter_are_counted_once(tmp_path: Path) -> None:
    """Zen 1 and 2: a zone per die, all with the one counter of the socket."""
    zone(tmp_path, "intel-rapl:0", "package-0-die-0", "68000000000")
    zone(tmp_path, "intel-rapl:0:0", "core", "100")
    zone(tmp_path, "intel-rapl:1", "package-0-die-1", "68000070000")  # read a little later
    zone(tmp_path, "intel-rapl:2", "package-1-die-0", "68000080000")  # another socket
    with contextlib.closing(RaplSensor(str(tmp_path))) as sensor:
        rails = [channel.rail for channel in sensor.channels()]
        left_out = sensor.configuration()["left_out"]
    assert rails == ["package-0-die-0", "core-0-die-0", "package-1-die-0"]
    assert left_out == [{"zone": "intel-rapl:1", "why": "the same counter as package-0-die-0"}]


def test_dies_with_counters_of_their_own_are_all_counted(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0-die-0", "68000000000")
    zone(tmp_path, "intel-rapl:1", "package-0-die-1", "71000000000")
    zone(tmp_path, "intel-rapl:2", "package-0-die-2", "0")
    zone(tmp_path, "intel-rapl:3", "package-0-die-3", "0")  # two zeros tell nothing
    assert len(read_all(tmp_path)) == 4


def test_equal_labels_stay_apart(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "psys", "1")
    zone(tmp_path, "intel-rapl:1", "psys", "2")
    assert read_all(tmp_path) == {"psys": 1, "psys@intel-rapl:1": 2}


@pytest.mark.parametrize(
    ("wrap", "lsb"),
    [
        (str(2**32 - 1) + "000000", 1e6),  # 1 J: psys of some servers
        ("123456789", None),
        ("0", None),
        ("much", None),
        (None, None),
    ],
)
def test_ranges_that_tell_the_step_and_others(
    tmp_path: Path, wrap: str | None, lsb: float | None
) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", wrap=wrap)
    with contextlib.closing(RaplSensor(str(tmp_path))) as sensor:
        assert sensor.channels()[0].lsb == lsb


def test_only_root_may_read() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to other users
        root = laptop(Path(folder))
        root.chmod(0o755)
        for path in root.rglob("energy_uj"):
            path.chmod(0)
        with without_privilege():
            with pytest.raises(
                MeasurementError, match=r"only root may read.*sudo chmod a\+r /sys/c"
            ):
                RaplSensor(folder)
            assert "CVE-2020-8694" in looked_for(folder)[0]


class Denied:
    """As if the kernel refused these files, whoever runs the test."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._open = os.open

    def __call__(self, path: str | Path, flags: int) -> int:
        if Path(path).parent.name in self._names:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return self._open(path, flags)


def test_a_refusal_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laptop(tmp_path)
    names = ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:0:1", "intel-rapl:0:2", "intel-rapl:1")
    monkeypatch.setattr("edgejoule.power.rapl.os.open", Denied(*names))
    with pytest.raises(MeasurementError, match="only root may read"):
        RaplSensor(str(tmp_path))


def test_one_refused_zone_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laptop(tmp_path)
    monkeypatch.setattr("edgejoule.power.rapl.os.open", Denied("intel-rapl:1"))
    assert looked_for(str(tmp_path)) == [
        "rapl: intel-rapl:0 package-0: 5000 uJ",
        "rapl: intel-rapl:0:0 core-0: 3000 uJ",
        "rapl: intel-rapl:0:1 uncore-0: 1000 uJ",
        "rapl: intel-rapl:0:2 dram-0: 700 uJ",
        "rapl: intel-rapl-mmio:0: left out, the same package through another register (MMIO)",
        "rapl: intel-rapl:1: left out, Permission denied (EACCES)",
    ]


def test_a_container_hides_the_tree(tmp_path: Path) -> None:
    laptop(tmp_path)
    powercap = tmp_path / "devices" / "virtual" / "powercap"
    powercap.rename(tmp_path / "elsewhere")
    powercap.mkdir()  # the empty tmpfs that a runtime mounts over it
    with pytest.raises(MeasurementError, match=r"RAPL is hidden.*container runtimes.*unmask"):
        RaplSensor(str(tmp_path))


def test_no_powercap_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"no RAPL below .*modprobe intel_rapl_msr"):
        RaplSensor(str(tmp_path))
    (tmp_path / "class" / "powercap").mkdir(parents=True)
    with pytest.raises(MeasurementError, match="no RAPL below"):
        RaplSensor(str(tmp_path))
    assert len(looked_for(str(tmp_path))) == 1


def test_mmio_alone(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl-mmio:0", "package-0")
    with pytest.raises(MeasurementError, match="MMIO alone"):
        RaplSensor(str(tmp_path))


def test_zones_without_numbers(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", "")
    zone(tmp_path, "intel-rapl:1", None)
    with pytest.raises(MeasurementError, match=r"no zone can be read .*no number"):
        RaplSensor(str(tmp_path))


def test_a_read_that_fails_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0")

    def fail(_self: RaplSensor, _index: int) -> int:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(RaplSensor, "read", fail)
    assert looked_for(str(tmp_path)) == ["rapl: intel-rapl:0 package-0: No such device (ENODEV)"]


def test_the_total_counts_each_part_once() -> None:
    total = rapl_total(["package-0", "core-0", "uncore-0", "dram-0", "psys"])
    assert total is not None
    assert total.rails == ("package-0", "dram-0")
    assert "memory" in total.contains
    without = rapl_total(["package-0", "core-0"])
    assert without is not None
    assert without.rails == ("package-0",)
    assert "memory, which has no counter" in without.excludes
    platform = rapl_total(["psys", "psys@intel-rapl:1"])
    assert platform is not None
    assert platform.rails == ("psys",)
    assert rapl_total(["core-0"]) is None
    assert rapl_total([]) is None


@settings(deadline=None)
@given(
    label=st.text(st.characters(codec="latin-1", exclude_characters="\0"), max_size=12),
    energy=st.binary(max_size=40),
    wrap=st.binary(max_size=40),
)
def test_any_content_is_values_or_the_projects_error(
    tmp_path_factory: pytest.TempPathFactory, label: str, energy: bytes, wrap: bytes
) -> None:
    root = tmp_path_factory.mktemp("rapl")
    path = zone(root, "intel-rapl:0", None)
    (path / "name").write_text(label, encoding="latin-1")
    (path / "energy_uj").write_bytes(energy)
    (path / "max_energy_range_uj").write_bytes(wrap)
    with contextlib.suppress(EdgejouleError):
        assert all(isinstance(value, int) for value in read_all(root).values())
