"""The GPU of a run: found by any name, watched beside it, waited for, and marked if shared."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgejoule import gpu_watch, invocation, resolving
from edgejoule.config import RunConfig
from edgejoule.dataset.versions.commands import _unreal
from edgejoule.energy.trace import rail_powers
from edgejoule.errors import MeasurementError, UsageError
from edgejoule.experiment import Task, _see_gpu
from edgejoule.measure_settings import keep_off_cpu
from edgejoule.power import gpu_choice, nvml
from edgejoule.power.cuda_devices import CudaDevice, CudaList
from edgejoule.power.sensor import Where
from edgejoule.processes import PROJECT_ROOT
from edgejoule.report.progress import Progress
from edgejoule.supervision import StopFlag
from edgejoule.watch import Watch
from tests.support_nvml import H200, MIB, OTHER, FakeNvidia, two_gpus

CUDA = CudaList(
    (
        CudaDevice(0, OTHER, "NVIDIA H200", "0000:5e:00.0"),
        CudaDevice(1, H200, "NVIDIA H200", "0000:1b:00.0"),
    )
)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvidia:
    """Two GPUs in NVML's order; CUDA shows them the other way round."""
    made = FakeNvidia(tmp_path, monkeypatch, two_gpus())
    opened = nvml.open_or_explain

    def open_fake(*_words: object) -> object:
        return opened(made.library)

    monkeypatch.setattr(gpu_watch, "open_or_explain", open_fake)
    monkeypatch.setattr(nvml, "open_or_explain", open_fake)
    monkeypatch.setattr(gpu_choice, "cuda_devices", lambda: CUDA)
    return made


def test_a_gpu_by_cudas_number_is_nvmls_other_one(fake: FakeNvidia) -> None:
    assert gpu_choice.find_gpu("cuda:0").uuid == OTHER
    assert gpu_choice.find_gpu("1b:00.0").device == "cuda:1"
    assert [gpu.uuid for gpu in gpu_choice.listed_by_nvml()] == [H200, OTHER]


def test_without_cudas_library_nvmls_list_counts(
    fake: FakeNvidia, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = CudaList((), "no CUDA driver (libcuda.so.1) here")
    monkeypatch.setattr(gpu_choice, "cuda_devices", lambda: none)
    assert gpu_choice.find_gpu("0").uuid == H200
    hidden = CudaList((), "no CUDA device is visible")
    monkeypatch.setattr(gpu_choice, "cuda_devices", lambda: hidden)
    with pytest.raises(UsageError, match="no CUDA device is visible"):
        gpu_choice.find_gpu("0")  # CUDA is here and was told to show nothing


def test_without_nvml_there_is_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_choice.listed_by_nvml() == []


def test_the_device_of_a_run_and_its_uuid(
    fake: FakeNvidia, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [resolving.named_gpu(name) for name in (None, "auto", "cpu", "cuda:1", "0")] == [
        None
    ] * 5
    gpu = resolving.named_gpu(H200)
    assert gpu is not None
    assert gpu.device == "cuda:1"
    assert resolving.gpu_uuid("cuda:1", gpu) == H200
    assert resolving.gpu_uuid("cuda:0", None) == OTHER
    assert resolving.gpu_uuid("cpu", None) is None
    assert resolving.gpu_uuid("cuda:7", None) is None  # the framework's own list counts


def waiting(longest_s: float | None) -> argparse.Namespace:
    return argparse.Namespace(wait_idle=longest_s)


def test_waiting_for_an_idle_gpu(fake: FakeNvidia, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        if clock[0] > 20:
            fake.say({"0.utilisation": "0 0"})

    monkeypatch.setattr(invocation.time, "sleep", sleep)
    monkeypatch.setattr(invocation.time, "monotonic", lambda: clock[0])
    where, progress, stop = Where(gpu_uuid=H200), Progress(quiet=True), StopFlag()
    invocation.wait_until_idle(waiting(None), where, progress, stop)
    assert clock == [0.0]
    fake.say({"0.utilisation": "90 0"})
    invocation.wait_until_idle(waiting(60.0), where, progress, stop)
    assert 20 < clock[0] < 30
    fake.say({"0.memory": f"{1000 * MIB} {50 * MIB} {446 * MIB} {504 * MIB}"})
    with pytest.raises(MeasurementError, match="was not idle within 10 s"):
        invocation.wait_until_idle(waiting(10.0), where, progress, stop)
    with pytest.raises(UsageError, match="none is measured"):
        invocation.wait_until_idle(waiting(10.0), Where(), progress, stop)


def test_a_watch_gives_what_the_driver_knows(fake: FakeNvidia) -> None:
    fake.say({"0.reasons": "0x24", "0.utilisation": "42 0"}, "0.enforced")
    watch = gpu_watch.open_gpu_watch(H200)
    assert watch.read() == {
        "gpu_sm_mhz": 1970,
        "gpu_memory_mhz": 3201,
        "gpu_temperature_c": 31,
        "gpu_load_percent": 42,
        "gpu_memory_used_mib": 4,  # 1000 less 946 free and 50 reserved
        "gpu_throttled": 1,  # 0x4 power cap, 0x20 thermal
        "gpu_clock_reasons_bits": 0x24,
    }
    fake.say({}, "0.temperature")
    assert "gpu_temperature_c" not in watch.read()  # a figure that goes is left out
    watch.close()


@pytest.mark.parametrize(
    ("before", "during", "after", "shared"),
    [
        ({}, {}, {}, False),
        ({"0.utilisation": "70 0"}, {"0.utilisation": "0 0"}, {}, True),
        ({}, {"0.compute": "1 0 0 77:300"}, {"0.compute": "0 0 0"}, True),
        ({}, {}, {"0.utilisation": "70 0"}, True),
    ],
)
def test_whether_a_run_shared_its_gpu(
    fake: FakeNvidia,
    before: dict[str, str],
    during: dict[str, str],
    after: dict[str, str],
    shared: bool,
) -> None:
    watch = gpu_watch.open_gpu_watch(H200)
    assert watch.shared() is None  # nobody has looked
    fake.say(before)
    watch.before = watch.look()
    fake.say(during)
    watch.look_during((1, 2))
    fake.say(after)
    watch.after = watch.look()
    assert watch.shared() is shared
    told = watch.to_json()
    assert told["gpu_uuid"] == H200
    assert told["looks"] == 1
    assert json.loads(json.dumps(told)) == told
    watch.close()


def test_a_gpu_that_nvml_does_not_know_is_not_judged(fake: FakeNvidia) -> None:
    watch = gpu_watch.open_gpu_watch("GPU-00000000-0000-0000-0000-000000000000")
    watch.before = watch.after = watch.look()
    watch.look_during(())
    assert (watch.shared(), watch.looks, watch.read()) == (None, 0, {})
    watch.close()


def config(**changes: object) -> RunConfig:
    return RunConfig(model="m", backend="torch", dtype="float32", **changes)  # type: ignore[arg-type]


def test_only_a_run_on_a_gpu_watches_it(
    fake: FakeNvidia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgejoule.phases import PhaseBoard

    PhaseBoard(tmp_path / "page.bin", tmp_path / "phases.jsonl").close()
    watch = Watch(tmp_path, Progress(quiet=True))

    def task(device: str, uuid: str | None) -> Task:
        return Task(config(device=device), "n", tmp_path, "l", where=Where(gpu_uuid=uuid))

    assert _see_gpu(task("cpu", None), watch) is None
    assert _see_gpu(task("cuda:0", None), watch) is None
    seen = _see_gpu(task("cuda:0", H200), watch)
    assert seen is watch.gpu
    assert seen is not None
    assert seen.before is not None
    assert seen.before.shared is False

    def no_nvml(_uuid: str) -> object:
        raise MeasurementError("no NVML here")

    monkeypatch.setattr(gpu_watch, "open_gpu_watch", no_nvml)
    assert _see_gpu(task("cuda:0", H200), watch) is None  # a Jetson: sysfs tells
    watch.close()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux only")
def test_who_leaves_the_sampler_its_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    assert keep_off_cpu(config(device="cuda:0"), 3) == 3
    assert keep_off_cpu(config(threads=2), 3) == 3
    assert keep_off_cpu(config(threads=0), 3) is None  # as many threads as there are CPUs
    assert keep_off_cpu(config(threads=4), 3) is None
    assert keep_off_cpu(config(device="cuda:0"), None) is None


def test_a_shared_run_is_no_real_one() -> None:
    run = {"simulated": False, "weights": "pretrained", "status": "complete"}
    assert _unreal(run) == []
    assert _unreal({**run, "shared_gpu": None}) == []
    assert _unreal({**run, "shared_gpu": True}) == ["somebody else used the GPU"]


def test_record_of_a_named_gpu(fake: FakeNvidia, tmp_path: Path) -> None:
    """The whole command, with stand-ins for both of NVIDIA's libraries."""
    libraries = tmp_path / "lib"
    libraries.mkdir()
    for name in ("libnvidia-ml.so.1", "libcuda.so.1"):
        (libraries / name).symlink_to(fake.library)
    fake.say({"1.field186": "1 456000", "cuda.count": "2"})
    for ordinal, device in enumerate(CUDA.devices):
        digits = device.uuid.removeprefix("GPU-").replace("-", "")
        named = {"name": device.name, "own": digits, "pci": device.pci_bus_id or ""}
        fake.say({f"cuda.{ordinal}.{key}": value for key, value in named.items()})
    output = tmp_path / "trace.parquet"
    words = ["record", "--sensor", "nvml", "--duration", "0.5", "--output", str(output), "--quiet"]
    command = [sys.executable, str(PROJECT_ROOT / "measure_power.py"), *words, "--device"]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    done = subprocess.run(
        [*command, "GPU-aaaa"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rails = rail_powers(output)
    assert set(rails["gpu_instant"].power_mw.tolist()) == {456000.0}
    done = subprocess.run(
        [*command, "GPU-bbbb"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
