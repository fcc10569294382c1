"""Which GPU is meant, CUDA's own list, who else uses a GPU, and waiting until nobody does."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.errors import EdgejouleError, MeasurementError, UsageError
from edgejoule.power import cuda_devices as cuda_module
from edgejoule.power.cuda_devices import CudaDevice, ask_driver, cuda_devices
from edgejoule.power.gpu_sharing import Sharing, look, parse_duration, wait_idle
from edgejoule.power.gpus import Gpu, NvmlGpu, choose_gpu, nvml_gpus, pci_address
from edgejoule.power.nvml_library import open_nvml
from edgejoule.power.nvml_types import GpuProcess, Memory, NvmlError
from tests.support_nvml import H200, ONE_GPU, OTHER, SLICE, FakeNvidia, two_gpus

A, B, C = (f"GPU-{letter * 8}-0000-0000-0000-000000000000" for letter in "abc")
# NVML: by PCI address.
NVML = [
    NvmlGpu(0, A, "card A", "00000000:1B:00.0"),
    NvmlGpu(1, B, "card B", "00000000:5E:00.0"),
    NvmlGpu(2, C, "card C", "00010000:5E:00.0"),
]
# What CUDA_VISIBLE_DEVICES=2,1 leaves: two of them, the other way round.
REVERSED = [
    CudaDevice(0, C, "card C", "10000:5e:00.0"),
    CudaDevice(1, B, "card B", "0000:5e:00.0"),
]


# --- choosing


@pytest.mark.parametrize("device", ["cuda:0", "cuda", "0", C, C.lower(), "GPU-c", " cuda:0 "])
def test_the_ordinal_is_cudas_and_the_uuid_nvmls(device: str) -> None:
    gpu = choose_gpu(device, REVERSED, NVML)
    assert (gpu.device, gpu.ordinal, gpu.uuid, gpu.name) == ("cuda:0", 0, C, "card C")
    assert (gpu.why_no_uuid, gpu.mig) == ("", False)


@pytest.mark.parametrize(
    "device", ["cuda:1", "1", B, "0000:5e:00.0", "00000000:5E:00.0", "5e:00.0", "5E:00"]
)
def test_a_gpu_by_its_place(device: str) -> None:
    assert choose_gpu(device, REVERSED, NVML).uuid == B


@pytest.mark.parametrize("device", ["cpu", "CPU", " cpu"])
def test_the_cpu_passes(device: str) -> None:
    gpu = choose_gpu(device, [], [])
    assert (gpu.device, gpu.ordinal, gpu.uuid) == ("cpu", None, None)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (A, "is here but CUDA does not show it; CUDA_VISIBLE_DEVICES leaves cuda:0 card C"),
        ("GPU-aaaa", "is here but CUDA does not show it"),
        ("0000:1b:00.0", "is here but CUDA does not show it"),
        ("cuda:2", "no such device; there is cuda:0 card C .*, cuda:1 card B"),
        ("7", "no such device"),
        ("GPU-dddd", "no such device"),
        ("0000:77:00.0", "no such device"),
        ("0000:5e:00.1", "names no device"),  # a sound card's function
        ("GPU-", "fits 2 devices; it may be cuda:0 card C .* cuda:1 card B"),
        ("cuda:-1", "names no device; give cpu, cuda:N"),
        ("cuda:99999", "names no device"),
        ("", "names no device"),
        ("gpu", "names no device"),
    ],
)
def test_an_error_names_what_is_there(device: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        choose_gpu(device, REVERSED, NVML)


def test_without_cuda_the_reason_is_said() -> None:
    with pytest.raises(UsageError, match=r"no device here \(no CUDA driver here\); use --device"):
        choose_gpu("0", [], NVML, "no CUDA driver here")
    with pytest.raises(UsageError, match="names no device"):
        choose_gpu("nonsense", [], NVML)


def test_a_gpu_that_nvml_does_not_know_has_no_uuid() -> None:
    unknown = CudaDevice(0, "GPU-dddddddd-0000-0000-0000-000000000000", "Orin", None)
    assert choose_gpu("0", [unknown], []).why_no_uuid == "NVML lists no GPU"
    gpu = choose_gpu("0", [unknown], NVML)
    assert gpu.uuid is None
    assert gpu.why_no_uuid == f"NVML does not list {unknown.uuid}"
    # An unnamed device must match nothing, also not by its emptiness.
    nameless = CudaDevice(0, "", "Orin", None)
    assert choose_gpu("0", [nameless], [*NVML, NvmlGpu(3, "", "odd")]).uuid is None
    with pytest.raises(UsageError):
        choose_gpu("GPU-a", [nameless], [])


def test_a_slice_keeps_its_own_uuid() -> None:
    cut = NvmlGpu(0, A, "card A", "00000000:1B:00.0", (SLICE,))
    device = CudaDevice(0, SLICE, "card A MIG 1g.5gb", "0000:1b:00.0", A)
    for asked in ("cuda:0", SLICE, "MIG-9", A, "1b:00.0"):
        gpu = choose_gpu(asked, [device], [cut])
        assert (gpu.device, gpu.uuid, gpu.mig) == ("cuda:0", SLICE, True)
    assert choose_gpu("0", [device], []).uuid == SLICE  # an older driver names slices otherwise
    with pytest.raises(UsageError, match="is here but CUDA does not show it"):
        choose_gpu(SLICE, [CudaDevice(0, B, "card B")], [cut])


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_gpu_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert isinstance(choose_gpu(text, REVERSED, NVML), Gpu)


@settings(deadline=None)
@given(st.integers(0, 0xFFFF), st.integers(0, 0xFF), st.integers(0, 0x1F))
def test_pci_addresses_in_all_spellings(domain: int, bus: int, device: int) -> None:
    place = (domain, bus, device)
    assert pci_address(f"{domain:04x}:{bus:02x}:{device:02x}.0") == place
    assert pci_address(f"{domain:08X}:{bus:02X}:{device:02X}.0") == place
    assert pci_address(f"{bus:02x}:{device:02x}.0") == (0, bus, device)
    assert pci_address(f"{domain:05x}:{bus:02x}:{device:02x}.0") == place


def test_the_list_of_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {**two_gpus(), "1.mig": "1", "1.migs": "2", "1mig1.uuid": SLICE}
    fake = FakeNvidia(tmp_path, monkeypatch, answers)
    nvml = open_nvml(fake.library)
    assert nvml_gpus(nvml) == [
        NvmlGpu(0, H200, "NVIDIA H200", "00000000:1B:00.0", ()),
        NvmlGpu(1, OTHER, "NVIDIA H200", "00000000:5E:00.0", (SLICE,)),
    ]
    fake.say({"0.uuid!": "15", "1.pci!": "3"})
    assert nvml_gpus(nvml) == [NvmlGpu(1, OTHER, "NVIDIA H200", None, ())]


# --- CUDA's list

CUDA = {
    "cuda.count": "2",
    "cuda.0.name": "NVIDIA H200",
    "cuda.0.uuid": "11111111222233334444555555555555",
    "cuda.0.own": "11111111222233334444555555555555",
    "cuda.0.pci": "0000:1B:00.0",
    "cuda.1.name": "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
    "cuda.1.uuid": "aaaaaaaabbbbccccddddeeeeeeeeeeee",
    "cuda.1.own": "99999999222233334444555555555555",
    "cuda.1.pci": "0000:5E:00.0",
}
LISTED = (
    CudaDevice(0, H200, "NVIDIA H200", "0000:1b:00.0"),
    CudaDevice(1, SLICE, "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "0000:5e:00.0", OTHER),
)


@pytest.fixture
def cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvidia:
    return FakeNvidia(tmp_path, monkeypatch, CUDA)


def test_the_list_comes_from_another_process(cuda: FakeNvidia) -> None:
    found = cuda_devices(cuda.library)
    assert found.devices == LISTED
    assert found.why == ""
    assert [device.mig for device in found.devices] == [False, True]


def test_the_driver_is_asked(cuda: FakeNvidia, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask_driver(cuda.library).devices == LISTED
    assert cuda_module.main([cuda.library]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"devices": [asdict(device) for device in LISTED], "why": ""}


def test_a_driver_without_the_second_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = FakeNvidia(tmp_path, monkeypatch, CUDA, old=True)
    first, second = ask_driver(old.library).devices
    assert first == LISTED[0]
    # The slice's own UUID cannot be had; that it is a slice, its name says.
    assert (second.uuid, second.parent_uuid) == (OTHER.replace("GPU-", "MIG-"), None)
    old.say({"cuda.init!": "1"})
    assert ask_driver(old.library).why == "cuInit: CUDA error 1"


def test_a_device_that_says_little(cuda: FakeNvidia) -> None:
    cuda.say({"cuda.count": "1"}, "cuda.0.name", "cuda.0.uuid", "cuda.0.own", "cuda.0.pci")
    assert ask_driver(cuda.library).devices == (CudaDevice(0, "", "?"),)


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"cuda.init!": "100"}, "no CUDA device is visible"),
        ({"cuda.init!": "803"}, "older or newer"),
        ({"cuda.init!": "999"}, "cuInit: CUDA_ERROR_FAKE_999"),
        ({"cuda.init!": "777"}, "cuInit: CUDA error 777"),
        ({"cuda.count!": "5"}, "cuDeviceGetCount: CUDA_ERROR_FAKE_5"),
        ({"cuda.get!": "6"}, r"cuDeviceGet\(0\): CUDA_ERROR_FAKE_6"),
        ({"cuda.count": "0"}, "no CUDA device is visible"),
    ],
)
def test_no_devices_and_why(cuda: FakeNvidia, answers: dict[str, str], why: str) -> None:
    cuda.say(answers)
    found = ask_driver(cuda.library)
    assert found.devices == ()
    with pytest.raises(UsageError, match=why):
        choose_gpu("0", found.devices, [], found.why)


def test_no_driver() -> None:
    assert cuda_devices("libno-such.so").why == "no CUDA driver (libno-such.so) here"


def test_a_driver_that_crashes(cuda: FakeNvidia) -> None:
    cuda.say({"cuda.crash": "1"})
    found = cuda_devices(cuda.library)
    assert found.devices == ()
    assert "ended with status -6" in found.why


def test_a_driver_that_hangs(cuda: FakeNvidia) -> None:
    cuda.say({"cuda.hang": "1"})
    assert cuda_devices(cuda.library, timeout_s=1).why == "CUDA did not answer within 1 s"


def test_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_module.sys, "executable", "/nowhere/python")
    assert "No such file" in cuda_devices().why


def test_the_measured_process_environment_is_passed_on(cuda: FakeNvidia, tmp_path: Path) -> None:
    answers = tmp_path / "others"
    answers.write_text("cuda.count 0\n")
    assert cuda_devices(cuda.library, extra={"FAKE_NVML": str(answers)}).devices == ()


# --- who else is there


class FakeNvml:
    """Just what `look` asks for."""

    def __init__(
        self,
        compute: list[tuple[int, int | None]] | None = None,
        graphics: list[tuple[int, int | None]] | None = None,
        in_use_mib: int | None = 2,
        utilisation: int | None = 0,
        reserve: bool = True,
    ) -> None:
        self._lists = {"Compute": compute, "Graphics": graphics}
        self._in_use_mib, self._utilisation, self._reserve = in_use_mib, utilisation, reserve

    def by_uuid(self, uuid: str) -> str:
        if uuid != A:
            raise NvmlError(6, "nvmlDeviceGetHandleByUUID")
        return uuid

    def processes(self, _device: str, kind: str) -> tuple[GpuProcess, ...]:
        listed = self._lists[kind]
        if listed is None:
            raise NvmlError(3, "nvmlDeviceGetComputeRunningProcesses")
        return tuple(GpuProcess(pid, mib) for pid, mib in listed)

    def memory(self, _device: str) -> Memory:
        if self._in_use_mib is None:
            raise NvmlError(3, "nvmlDeviceGetMemoryInfo")
        reserved = 500 if self._reserve else None
        return Memory(100_000, 100_000 - 500 - self._in_use_mib, reserved)

    def utilisation_percent(self, _device: str) -> int:
        if self._utilisation is None:
            raise NvmlError(3, "nvmlDeviceGetUtilizationRates")
        return self._utilisation


def seen(nvml: FakeNvml, *own: int) -> Sharing:
    return look(nvml, A, own)


def test_nobody_else() -> None:
    found = seen(FakeNvml([], []))
    assert found == Sharing(False, (), 0, 0, 2, 0, found.why)
    assert found.idle
    assert found.to_json()["by"] == []


def test_another_compute_process() -> None:
    found = seen(FakeNvml([(10, 400), (11, 300)], [], 702, 90), 11)
    assert (found.shared, found.by) == (True, ("processes", "memory"))
    assert (found.foreign_pids_count, found.foreign_memory_mib) == (1, 402)
    assert not found.idle
    small = seen(FakeNvml([(10, 50)], [], 52))
    assert small.by == ("processes",)


def test_only_ours_runs() -> None:
    found = seen(FakeNvml([(11, 5000)], [], 5003, 97), 11)
    assert (found.shared, found.by) == (False, ())
    assert (found.foreign_pids_count, found.foreign_memory_mib) == (0, 3)
    assert not found.idle  # we use it


def test_a_container_hides_the_others_but_not_their_memory() -> None:
    found = seen(FakeNvml([], [], 30_000))
    assert (found.shared, found.by, found.foreign_pids_count) == (True, ("memory",), 0)
    busy = seen(FakeNvml([], [], 40, 60))
    assert (busy.shared, busy.by) == (True, ("utilisation",))


def test_a_container_hides_our_own_process_too() -> None:
    found = seen(FakeNvml([], [], 5000, 97), 11)
    assert found.shared is None
    assert found.foreign_memory_mib is None
    assert "container" in found.why
    # Ours is listed, but without its memory: the same.
    assert seen(FakeNvml([(11, None)], [], 5000, 97), 11).shared is None


def test_a_desktop_is_counted_but_is_no_sharing() -> None:
    found = seen(FakeNvml([], [(7, 300), (8, 100)], 620, 3))
    assert (found.shared, found.by) == (False, ())
    assert (found.foreign_graphics_count, found.foreign_memory_mib) == (2, 220)
    # A process in both lists is taken away once.
    assert seen(FakeNvml([(11, 100)], [(11, 100)], 103), 11).foreign_memory_mib == 3


def test_where_little_is_told() -> None:
    nothing = seen(FakeNvml(None, None, None, None))
    assert nothing.shared is None
    assert (nothing.foreign_pids_count, nothing.utilisation_percent) == (None, None)
    assert not nothing.idle
    older = seen(FakeNvml([], [], 900, 0, reserve=False))
    assert (older.shared, older.foreign_memory_mib) == (False, None)
    assert "by utilisation and the list alone" in older.why
    assert seen(FakeNvml([], [], 900, 0, reserve=False), 11).shared is None
    assert look(FakeNvml(), B).shared is None


def test_looking_through_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvidia(tmp_path, monkeypatch, ONE_GPU)
    nvml = open_nvml(fake.library)
    assert look(nvml, H200).idle
    fake.say({"0.compute": f"3 1000 {200 * 2**20}", "0.utilisation": "80 10"})
    found = look(nvml, H200, [1001])
    assert (found.foreign_pids_count, found.utilisation_percent) == (2, 80)


# --- waiting

IDLE = Sharing(False, (), 0, 0, 2, 0, "nobody else seen")
BUSY = Sharing(True, ("processes",), 1, 0, 900, 97, "in use by others")
OURS = Sharing(False, (), 0, 0, 2, 50, "nobody else seen")


class Waiting:
    def __init__(self, *looks: Sharing) -> None:
        self._looks = list(looks)
        self.now_s = 100.0

    def look(self) -> Sharing:
        self.now_s += 0.1
        return self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]

    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    def run(self, longest_s: float):
        return wait_idle(self.look, self.wait, longest_s, lambda: self.now_s)


def test_three_looks_in_a_row_show_an_idle_gpu() -> None:
    waited = Waiting(BUSY, IDLE, IDLE, BUSY, OURS, IDLE).run(600)
    assert (waited.looks, waited.last) == (8, IDLE)
    assert waited.seconds == pytest.approx(7 * 2.0 + 8 * 0.1)


def test_an_idle_gpu_is_waited_for_no_longer_than_the_looks_take() -> None:
    assert Waiting(IDLE).run(600).looks == 3


def test_waiting_ends() -> None:
    waiting = Waiting(BUSY)
    with pytest.raises(MeasurementError, match=r"not idle within 60 s: in use by others; end what"):
        waiting.run(60)
    assert waiting.now_s < 160.5


def test_what_cannot_be_told_is_not_waited_for() -> None:
    unknown = Sharing(None, (), None, None, None, None, "cannot be told: nothing")
    with pytest.raises(MeasurementError, match="cannot tell whether"):
        Waiting(unknown).run(60)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1.5h", 5400), (" 2m ", 120), ("0.5s", 0.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-1m", "0s", "1 m", "1d", "1e3s", "1m30s", "٣m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="is no duration; write 90s"):
        parse_duration(text)


@settings(deadline=None)
@given(st.text(max_size=400) | st.from_regex(r"\A[0-9]{1,400}[smh]\Z"))
def test_any_text_is_a_finite_duration_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(EdgejouleError):
        assert 0 < parse_duration(text) < float("inf")
