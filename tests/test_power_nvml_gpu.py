"""NVML on a real GPU: values that can be, sources that agree, the right one of several GPUs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from edgejoule.errors import EdgejouleError
from edgejoule.power.cuda_devices import cuda_devices
from edgejoule.power.gpu_sharing import look
from edgejoule.power.gpus import choose_gpu, nvml_gpus
from edgejoule.power.nvml import NvmlSensor, nvml_total, open_or_explain
from edgejoule.power.nvml_library import Nvml

pytestmark = pytest.mark.gpu


@pytest.fixture
def nvml() -> Iterator[Nvml]:
    try:
        opened = open_or_explain()
    except EdgejouleError as error:
        pytest.skip(str(error))
    yield opened
    opened.close()


@pytest.fixture
def sensor(nvml: Nvml) -> Iterator[NvmlSensor]:
    assert nvml.count() > 0
    with contextlib.closing(NvmlSensor()) as opened:
        yield opened


def by_rail(sensor: NvmlSensor) -> dict[str, int]:
    return {channel.rail: channel.index for channel in sensor.channels()}


def test_values_can_be(sensor: NvmlSensor) -> None:
    rails = by_rail(sensor)
    assert nvml_total(rails) is not None
    for rail in set(rails) & {"gpu_instant", "gpu_average"}:
        assert 1_000 < sensor.read(rails[rail]) < 3_000_000
    if "gpu_energy" in rails:
        before = sensor.read(rails["gpu_energy"])
        time.sleep(1.0)
        assert 1_000 < sensor.read(rails["gpu_energy"]) - before < 3_000_000 * 2


def test_the_period_and_the_configuration(sensor: NvmlSensor) -> None:
    for group in sensor.groups():  # an idle GPU's power may stand still for the time of watching
        if group.refresh_ns is not None or "counter" in group.name:
            assert 1_000_000 <= group.refresh_ns <= 1_000_000_000
    said = sensor.configuration()
    assert said["uuid"].startswith("GPU-")
    assert said["driver"]
    assert said["name"]


def test_the_counter_agrees_with_the_integral_of_instant_power(sensor: NvmlSensor) -> None:
    rails = by_rail(sensor)
    if not {"gpu_instant", "gpu_energy"} <= set(rails):
        pytest.skip("this GPU has no counter or no instant power")
    instant, energy = rails["gpu_instant"], rails["gpu_energy"]
    first = last = None  # the counter's ticks: time, value, integral until then
    integral_mj, value = 0.0, sensor.read(energy)
    then_ns, power_mw = time.monotonic_ns(), sensor.read(instant)
    end_ns = then_ns + 5_500_000_000
    while then_ns < end_ns:
        time.sleep(0.002)
        counter, now_ns = sensor.read(energy), time.monotonic_ns()
        integral_mj += power_mw * (now_ns - then_ns) * 1e-9
        then_ns, power_mw = now_ns, sensor.read(instant)
        if counter != value:
            value = counter
            last = (counter, integral_mj)
            first = first or last
    assert first is not None
    assert last is not None
    assert last[0] - first[0] == pytest.approx(last[1] - first[1], rel=0.05)


def test_cudas_devices_are_nvmls(nvml: Nvml) -> None:
    cuda = cuda_devices()
    if not cuda.devices:
        pytest.skip(cuda.why)
    listed = nvml_gpus(nvml)
    for device in cuda.devices:
        gpu = choose_gpu(f"cuda:{device.ordinal}", cuda.devices, listed)
        assert gpu.uuid == device.uuid, gpu.why_no_uuid
        assert choose_gpu(device.uuid, cuda.devices, listed).ordinal == device.ordinal
        if not device.mig:
            assert nvml.name(nvml.by_uuid(device.uuid)) == device.name
            assert device.pci_bus_id
            assert choose_gpu(device.pci_bus_id, cuda.devices, listed) == gpu


def test_the_order_is_the_measured_process_own(nvml: Nvml) -> None:
    whole = cuda_devices().devices
    if not whole:
        pytest.skip("no CUDA device")
    order = ",".join(device.uuid for device in reversed(whole))
    turned = cuda_devices(extra={"CUDA_VISIBLE_DEVICES": order}).devices
    assert [device.uuid for device in turned] == [device.uuid for device in reversed(whole)]
    hidden = cuda_devices(extra={"CUDA_VISIBLE_DEVICES": "-1"})
    assert hidden.devices == ()
    assert hidden.why


def test_torch_means_the_same_gpu() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    for device in cuda_devices().devices:
        known = torch.cuda.get_device_properties(device.ordinal)
        assert known.name == device.name
        if hasattr(known, "uuid"):
            assert device.uuid.endswith(str(known.uuid))


def test_a_look_at_who_uses_it(nvml: Nvml) -> None:
    device = next(device for _, device in nvml.devices())
    found = look(nvml, nvml.uuid(device))
    assert found.why
    assert found.utilisation_percent is None or 0 <= found.utilisation_percent <= 100
