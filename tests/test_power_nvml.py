"""NVML: the ctypes binding against a compiled stand-in, and the sensor above it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgejoule.errors import EdgejouleError, MeasurementError, UsageError
from edgejoule.power import nvml as module
from edgejoule.power import nvml_types as types
from edgejoule.power.nvml import NvmlSensor, nvml_total, watch_period, watch_periods
from edgejoule.power.nvml_library import Nvml, open_nvml
from tests.support_nvml import H200, MIB, ONE_GPU, OTHER, SLICE, FakeNvidia, two_gpus


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvidia:
    return FakeNvidia(tmp_path, monkeypatch)


@pytest.fixture
def nvml(fake: FakeNvidia) -> Iterator[Nvml]:
    opened = open_nvml(fake.library)
    yield opened
    opened.close()


def old_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvidia:
    return FakeNvidia(tmp_path, monkeypatch, old=True)


# --- the binding


def test_structures_have_the_sizes_of_nvml_h() -> None:
    sizes = {
        types.FieldValue: 40,
        types.PciInfo: 68,
        types.MemoryV1: 24,
        types.MemoryV2: 40,
        types.ProcessInfo: 24,
        types.Utilization: 8,
    }
    assert {kind: ctypes.sizeof(kind) for kind in sizes} == sizes
    assert types.FieldValue.timestamp.offset == 8
    assert types.FieldValue.valueType.offset == 24
    assert types.FieldValue.value.offset == 32
    assert types.PciInfo.busId.offset == 36
    assert types.ProcessInfo.usedGpuMemory.offset == 8


def test_every_query_gives_what_the_library_says(nvml: Nvml) -> None:
    device = nvml.by_index(0)
    assert nvml.driver_version() == "580.159.03"
    assert nvml.count() == 1
    assert nvml.name(device) == "NVIDIA H200"
    assert nvml.uuid(device) == H200
    assert nvml.uuid(nvml.by_uuid(H200)) == H200
    assert nvml.uuid(nvml.by_pci("00000000:1B:00.0")) == H200
    assert nvml.pci_bus_id(device) == "00000000:1B:00.0"
    assert nvml.compute_capability(device) == (9, 0)
    assert nvml.power_limit_mw(device) == 700000
    assert nvml.enforced_power_limit_mw(device) == 650000
    assert nvml.default_power_limit_mw(device) == 700000
    assert nvml.power_limit_range_mw(device) == (200000, 700000)
    assert [nvml.clock_mhz(device, which) for which in types.CLOCKS] == [1980, 1970, 3201]
    assert [nvml.max_clock_mhz(device, which) for which in types.CLOCKS] == [1981, 1971, 3202]
    assert nvml.temperature_c(device) == 31
    assert nvml.clock_reasons(device) == ("gpu_idle",)
    assert nvml.utilisation_percent(device) == 0
    assert nvml.persistence_mode(device) is True
    assert nvml.mig_mode(device) is False
    assert nvml.power_reader(device)() == 121000
    assert nvml.energy_reader(device)() == 987654321012
    assert nvml.field_reader(device, 185)() == 122000
    assert nvml.field_reader(device, 186)() == 123000


def test_the_names_of_clock_reasons_and_bits_that_are_new(fake: FakeNvidia, nvml: Nvml) -> None:
    fake.say({"0.reasons": hex(0x4 | 0x40 | 0x800)})
    reasons = nvml.clock_reasons(nvml.by_index(0))
    assert reasons == ("sw_power_cap", "hw_thermal_slowdown", "bit_0x800")


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("0 1500.9", 1500),
        ("1 4000000000", 4000000000),
        ("2 5000000000", 5000000000),
        ("3 18000000000000000000", 18000000000000000000),
        ("4 -5000000000", -5000000000),
        ("5 -7", -7),
        ("6 65535", 65535),
    ],
)
def test_a_field_of_each_type(fake: FakeNvidia, nvml: Nvml, said: str, value: int) -> None:
    fake.say({"0.field186": said})
    assert nvml.field_reader(nvml.by_index(0), 186)() == value


def test_a_field_of_a_type_that_is_not_known(fake: FakeNvidia, nvml: Nvml) -> None:
    fake.say({"0.field186": "7 1"})
    with pytest.raises(types.NvmlError, match="NOT_SUPPORTED"):
        nvml.field_reader(nvml.by_index(0), 186)()


def test_a_reader_gives_the_present_value_each_time(fake: FakeNvidia, nvml: Nvml) -> None:
    read = nvml.field_reader(nvml.by_index(0), 186)
    assert read() == 123000
    fake.say({"0.field186": "1 124000"})
    assert read() == 124000
    fake.say({"0.field186!": "15"})
    with pytest.raises(types.NvmlError) as caught:
        read()
    assert (caught.value.code, caught.value.name) == (15, "NVML_ERROR_GPU_IS_LOST")
    fake.say({}, "0.field186!")
    fake.say({"fields!": "10"})
    with pytest.raises(types.NvmlError, match="TIMEOUT"):
        read()


def test_memory_with_and_without_the_reserve(
    fake: FakeNvidia, nvml: Nvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = nvml.memory(nvml.by_index(0))
    assert memory == types.Memory(1000, 946, 50)
    assert memory.in_use_mib == 4
    fake.say({"0.memory!": "15"})
    with pytest.raises(types.NvmlError, match="LOST"):
        nvml.memory(nvml.by_index(0))
    # A driver that says "not supported" to the newer call, and one that lacks it.
    fake.say({"0.memory_v1": f"{1000 * MIB} {900 * MIB} {100 * MIB}"}, "0.memory", "0.memory!")
    assert nvml.memory(nvml.by_index(0)) == types.Memory(1000, 900, None)
    assert types.Memory(1000, 900, None).in_use_mib is None
    old = old_library(tmp_path, monkeypatch)
    old.say({"0.memory_v1": f"{1000 * MIB} {900 * MIB} {100 * MIB}"})
    older = open_nvml(old.library)
    assert older.memory(older.by_index(0)) == types.Memory(1000, 900, None)


@pytest.mark.parametrize("old", [False, True])
def test_lists_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool) -> None:
    fake = FakeNvidia(tmp_path, monkeypatch, old=old)
    nvml = open_nvml(fake.library)
    device = nvml.by_index(0)
    assert nvml.processes(device, "Compute") == ()
    fake.say({"0.compute": f"70 1000 {3 * MIB}", "0.graphics": f"1 7 {2**64 - 1}"})
    found = nvml.processes(device, "Compute")
    assert len(found) == 70
    assert found[69] == types.GpuProcess(1069, 3)
    assert nvml.processes(device, "Graphics") == (types.GpuProcess(7, None),)
    fake.say({"0.compute!": "4"})
    with pytest.raises(types.NvmlError, match="NO_PERMISSION"):
        nvml.processes(device, "Compute")
    fake.say({"0.compute!": "7"})  # says "too small" whatever the room
    with pytest.raises(types.NvmlError, match="INSUFFICIENT_SIZE"):
        nvml.processes(device, "Compute")


def test_an_old_driver_lacks_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = old_library(tmp_path, monkeypatch)
    fake.say({"0.reasons": "0x8"})
    nvml = open_nvml(fake.library)
    assert nvml.clock_reasons(nvml.by_index(0)) == ("hw_slowdown",)
    with pytest.raises(types.NvmlError) as caught:
        nvml._call("nvmlDeviceGetMemoryInfo_v2")
    assert caught.value.unsupported


def test_clock_reasons_that_the_gpu_does_not_give(fake: FakeNvidia, nvml: Nvml) -> None:
    fake.say({}, "0.reasons")
    with pytest.raises(types.NvmlError, match="NOT_SUPPORTED"):
        nvml.clock_reasons(nvml.by_index(0))


def test_a_lost_gpu_is_left_out_of_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeNvidia(tmp_path, monkeypatch, {**two_gpus(), "0.open!": "15"})
    nvml = open_nvml(fake.library)
    assert [(index, nvml.uuid(device)) for index, device in nvml.devices()] == [(1, OTHER)]


def test_slices(fake: FakeNvidia, nvml: Nvml) -> None:
    fake.say({"0.mig": "1", "0.migs": "7", "0mig0.uuid": SLICE, "0mig5.uuid": SLICE + "5"})
    device = nvml.by_index(0)
    assert nvml.mig_mode(device) is True
    assert [nvml.uuid(part) for part in nvml.mig_devices(device)] == [SLICE, SLICE + "5"]


def test_errors_have_code_name_and_errno() -> None:
    told = {
        types.NOT_SUPPORTED: errno.ENODATA,
        types.FUNCTION_NOT_FOUND: errno.ENODATA,
        types.NO_DATA: errno.ENODATA,
        types.NO_PERMISSION: errno.EACCES,
        types.GPU_IS_LOST: errno.ENODEV,
        types.RESET_REQUIRED: errno.ENODEV,
        types.TIMEOUT: errno.ETIMEDOUT,
        999: errno.EIO,
        4711: errno.EIO,
    }
    assert {code: types.NvmlError(code, "f").as_os_error().errno for code in told} == told
    assert str(types.NvmlError(3, "f")) == "f: NVML_ERROR_NOT_SUPPORTED"
    assert types.NvmlError(4711, "f").name == "NVML_ERROR_4711"


# --- finding the period


class Hardware:
    """Sources whose values change at times of their own, on a clock that only waiting moves."""

    def __init__(self, *periods_ns: int | None, read_ns: int = 20_000) -> None:
        self.now_ns = 5_000_000_000
        self.waited = 0
        self._periods_ns = periods_ns
        self._read_ns = read_ns

    def clock_ns(self) -> int:
        return self.now_ns

    def wait(self, seconds: float) -> None:
        self.waited += 1
        self.now_ns += int(seconds * 1e9)

    def read(self, place: int) -> int:
        self.now_ns += self._read_ns
        period_ns = self._periods_ns[place]
        return 0 if period_ns is None else self.now_ns // period_ns

    def watch(self, seconds: float = 1.0) -> tuple[int | None, ...]:
        reads = [lambda place=place: self.read(place) for place in range(len(self._periods_ns))]
        return watch_periods(reads, seconds, self.clock_ns, self.wait)


def test_periods_are_found_within_a_poll() -> None:
    instant, average, counter = Hardware(102_000_000, 20_000_000, 100_000_000).watch()
    assert instant == pytest.approx(102_000_000, abs=1_100_000)
    assert average == pytest.approx(20_000_000, abs=1_100_000)
    assert counter == pytest.approx(100_000_000, abs=1_100_000)


def test_what_does_not_change_has_no_period_and_watching_ends() -> None:
    hardware = Hardware(None, 100_000_000)
    nothing, counter = hardware.watch()
    assert nothing is None
    assert counter is not None
    assert hardware.now_ns == pytest.approx(6_000_000_000, abs=2_000_000)


def test_two_changes_are_too_few() -> None:
    assert Hardware(400_000_000).watch() == (None,)
    assert Hardware(400_000_000).watch(0) == (None,)


def test_watching_ends_early_when_all_is_known() -> None:
    hardware = Hardware(10_000_000)
    hardware.watch(1000)
    assert hardware.now_ns < 5_200_000_000


def test_equal_values_of_two_refreshes_do_not_double_the_period() -> None:
    hardware = Hardware(50_000_000)
    values = iter(range(10**6))

    def read() -> int:
        refresh = hardware.read(0)
        next(values)
        return refresh - (refresh % 5 == 0)  # each fifth refresh repeats the value before it

    found = watch_period(read, hardware.clock_ns, 2.0, hardware.wait)
    assert found == pytest.approx(50_000_000, abs=1_100_000)


def test_a_failing_read_is_no_change() -> None:
    hardware = Hardware(50_000_000)

    def read() -> int:
        value = hardware.read(0)
        if hardware.waited % 2:
            raise OSError(errno.EIO, "now and then")
        return value

    found = watch_period(read, hardware.clock_ns, 2.0, hardware.wait)
    assert found == pytest.approx(50_000_000, abs=3_000_000)


# --- the sensor


def sensor_of(fake: FakeNvidia, uuid: str | None = None, watch_s: float = 0) -> NvmlSensor:
    return NvmlSensor(uuid, fake.library, watch_s=watch_s)


def test_all_sources_that_give_a_value_are_channels(fake: FakeNvidia) -> None:
    with contextlib.closing(sensor_of(fake)) as sensor:
        rows = [(c.index, c.rail, c.quantity, c.unit, c.source) for c in sensor.channels()]
        assert rows == [
            (0, "gpu_instant", "power", "mW", "field 186"),
            (1, "gpu_average", "power", "mW", "field 185"),
            (2, "gpu_energy", "energy", "mJ", "nvmlDeviceGetTotalEnergyConsumption"),
        ]
        assert {(c.chip, c.sensor) for c in sensor.channels()} == {(H200, "nvml")}
        assert [c.averaging is None for c in sensor.channels()] == [True, False, True]
        assert [sensor.read(index) for index in range(3)] == [123000, 122000, 987654321012]
        power, counter = sensor.groups()
        assert (power.name, power.channels) == (H200, (0, 1))
        assert (counter.name, counter.channels) == (f"{H200} counter", (2,))
        assert (power.refresh_ns, power.period_ns) == (None, 20_000_000)
        assert (sensor.name, sensor.simulated) == ("nvml", False)


def test_the_configuration_says_what_is_known_and_what_is_not(fake: FakeNvidia) -> None:
    with contextlib.closing(sensor_of(fake)) as sensor:
        said = sensor.configuration()
    assert said["driver"] == "580.159.03"
    assert said["uuid"] == H200
    assert said["power_limit_range_mw"] == [200000, 700000]
    assert said["clock_reasons"] == ["gpu_idle"]
    assert said["periods_ns"] == {"gpu_instant": None, "gpu_average": None, "gpu_energy": None}
    assert said["unavailable"] == {
        "applications_graphics_clock_mhz": "NVML_ERROR_NOT_SUPPORTED",
        "applications_memory_clock_mhz": "NVML_ERROR_NOT_SUPPORTED",
    }
    assert said["left_out"] == []
    assert "index 0 of 1" in said["chosen"]


def test_the_refresh_is_the_shortest_period_that_was_found(
    fake: FakeNvidia, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def watch(reads, seconds):
        asked.append(seconds)
        assert [read() for read in reads] == [123000, 122000, 987654321012]
        return (None, 101_000_000, 100_000_000)

    monkeypatch.setattr(module, "watch_periods", watch)
    with contextlib.closing(sensor_of(fake, watch_s=0.5)) as sensor:
        assert asked == []  # to be opened and read once costs no watching
        power, counter = sensor.groups()
        assert (power.refresh_ns, power.period_ns) == (101_000_000, 20_200_000)
        assert (counter.refresh_ns, counter.period_ns) == (100_000_000, 50_000_000)
        assert sensor.configuration()["periods_ns"]["gpu_average"] == 101_000_000
        assert asked == [0.5]


def test_a_gpu_without_the_newer_fields(fake: FakeNvidia) -> None:
    fake.say({"0.field186!": "2"}, "0.field185", "0.field186")
    with contextlib.closing(sensor_of(fake)) as sensor:
        rails = [(c.rail, c.source, c.averaging) for c in sensor.channels()]
        left_out = sensor.configuration()["left_out"]
    assert rails[0] == (
        "gpu_average",
        "nvmlDeviceGetPowerUsage",
        "mean over 1 s (NVML API reference)",
    )
    assert rails[1][0] == "gpu_energy"
    assert [(item["rail"], item["why"]) for item in left_out] == [
        ("gpu_instant", "NVML_ERROR_INVALID_ARGUMENT"),
        ("gpu_average", "NVML_ERROR_NOT_SUPPORTED"),
    ]


@pytest.mark.parametrize("capability", ["8.0", "7.0", "6.1"])
def test_the_older_call_is_instant_on_ga100_and_before(fake: FakeNvidia, capability: str) -> None:
    fake.say({"0.capability": capability}, "0.field185", "0.field186")
    with contextlib.closing(sensor_of(fake)) as sensor:
        first = sensor.channels()[0]
    assert (first.rail, first.averaging) == ("gpu_instant", None)
    assert first.source == "nvmlDeviceGetPowerUsage"


def test_ga100_with_the_field_has_no_second_instant(fake: FakeNvidia) -> None:
    fake.say({"0.capability": "8.0"}, "0.field185")
    with contextlib.closing(sensor_of(fake)) as sensor:
        assert [channel.rail for channel in sensor.channels()] == ["gpu_instant", "gpu_energy"]


def test_the_older_call_of_an_unknown_gpu_says_that_it_may_be_either(fake: FakeNvidia) -> None:
    fake.say({}, "0.field185", "0.capability")
    with contextlib.closing(sensor_of(fake)) as sensor:
        average = sensor.channels()[1]
    assert average.rail == "gpu_average"
    assert "instant on GA100" in (average.averaging or "")


def test_a_jetson_gives_no_value(fake: FakeNvidia) -> None:
    fake.say({"0.name": "Orin (nvgpu)"}, "0.field185", "0.field186", "0.power", "0.energy")
    with pytest.raises(MeasurementError, match=r"Orin.*gives no power.*NOT_SUPPORTED.*INA"):
        sensor_of(fake)
    assert len(module.looked_for(None, fake.library)) == 1


def test_a_failure_that_may_pass_belongs_into_the_trace(fake: FakeNvidia) -> None:
    fake.say({"0.energy!": "10"})
    with contextlib.closing(sensor_of(fake)) as sensor:
        assert sensor.channels()[2].rail == "gpu_energy"
        with pytest.raises(OSError, match="TIMEOUT") as caught:
            sensor.read(2)
        assert caught.value.errno == errno.ETIMEDOUT
        fake.say({}, "0.energy!")
        assert sensor.read(2) == 987654321012
        assert "Connection timed out" not in "".join(module.looked_for(None, fake.library))


def test_a_gpu_that_is_lost_at_the_start(fake: FakeNvidia) -> None:
    fake.say({"0.energy!": "15"})
    with pytest.raises(MeasurementError, match=r"GPU_IS_LOST.*nvidia-smi"):
        sensor_of(fake)


def test_a_gpu_that_is_lost_later(fake: FakeNvidia) -> None:
    with contextlib.closing(sensor_of(fake)) as sensor:
        fake.say({"0.field186!": "15"})
        with pytest.raises(OSError, match="LOST") as caught:
            sensor.read(0)
    assert caught.value.errno == errno.ENODEV


def test_a_gpu_is_taken_by_its_uuid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvidia(tmp_path, monkeypatch, {**two_gpus(), "1.field186": "1 77000"})
    with contextlib.closing(sensor_of(fake, OTHER)) as sensor:
        assert (sensor.channels()[0].chip, sensor.read(0)) == (OTHER, 77000)
        assert sensor.configuration()["chosen"] == "by its UUID"
    with pytest.raises(UsageError, match=f"no GPU GPU-nobody; it knows {H200}, {OTHER}"):
        sensor_of(fake, "GPU-nobody")


def test_a_slice_has_no_power(fake: FakeNvidia) -> None:
    with pytest.raises(UsageError, match="slice has no power of its own"):
        sensor_of(fake, SLICE)
    fake.say({"0.mig": "1"})
    with pytest.raises(UsageError, match="slice has no power of its own"):
        sensor_of(fake)
    # The whole GPU asked for by name is another matter: its power is that of all slices.
    with contextlib.closing(sensor_of(fake, H200)) as sensor:
        assert sensor.configuration()["mig_mode"] is True


def test_no_library_no_driver_no_gpu(fake: FakeNvidia) -> None:
    with pytest.raises(MeasurementError, match=r"no NVML \(libno-such.so\) here; it comes with"):
        NvmlSensor(library="libno-such.so")
    for code, said in (
        ("9", "DRIVER_NOT_LOADED.*load NVIDIA"),
        ("18", "MISMATCH.*was updated"),
        ("4", "NO_PERMISSION.*may not open"),
        ("999", "UNKNOWN.*dmesg"),
    ):
        fake.say({"init!": code})
        with pytest.raises(MeasurementError, match=said):
            sensor_of(fake)
    fake.say({"count": "0"}, "init!")
    with pytest.raises(MeasurementError, match="opens none of its 0 GPUs"):
        sensor_of(fake)
    with pytest.raises(UsageError, match="it knows none"):
        sensor_of(fake, H200)


def test_an_error_while_looking_a_uuid_up(fake: FakeNvidia) -> None:
    def load(path: str) -> object:
        library = ctypes.CDLL(path)
        library.nvmlDeviceGetHandleByUUID = lambda *_: 15
        return library

    with pytest.raises(MeasurementError, match="GPU_IS_LOST"):
        NvmlSensor(H200, fake.library, load=load)


def test_what_was_looked_for(fake: FakeNvidia) -> None:
    fake.say({}, "0.field186")
    assert module.looked_for(None, fake.library) == [
        f"nvml: {H200} gpu_average (field 185): 122000 mW",
        f"nvml: {H200} gpu_energy (nvmlDeviceGetTotalEnergyConsumption): 987654321012 mJ",
        "nvml: gpu_instant (field 186): none, NVML_ERROR_NOT_SUPPORTED",
    ]
    fake.say({"0.energy!": "10"})
    assert "TIMEOUT" in module.looked_for(None, fake.library)[1]
    assert module.looked_for(library="libno-such.so")[0].startswith("nvml: no NVML")


@pytest.mark.parametrize("missing", sorted(key for key in ONE_GPU if key.startswith("0.")))
@pytest.mark.parametrize("code", ["3", "4", "15", "999"])
def test_whatever_fails_is_the_projects_own_error(
    fake: FakeNvidia, missing: str, code: str
) -> None:
    fake.say({f"{missing}!": code})
    with (
        contextlib.suppress(EdgejouleError),
        contextlib.closing(sensor_of(fake)) as sensor,
    ):
        sensor.configuration()


def test_the_total_is_one_rail() -> None:
    assert nvml_total(["gpu_instant", "gpu_average", "gpu_energy"]).rails == ("gpu_energy",)
    assert nvml_total(["gpu_average", "gpu_instant"]).rails == ("gpu_instant",)
    total = nvml_total(["gpu_average"])
    assert total is not None
    assert total.rails == ("gpu_average",)
    assert "memory" in total.contains
    assert "CPU" in total.excludes
    assert nvml_total(["VDD_IN"]) is None
