"""The memory limit: who holds it, what is refused, what is counted."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgejoule.errors import UsageError
from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.memory_limit import (
    Budget,
    Enforcement,
    OverLimit,
    limit_bytes,
    limit_host,
    limit_tensorrt,
    limit_torch,
    tensorrt_allocator,
)
from edgejoule.inference.trt.cuda_types import CudaError, CudaOutOfMemory
from edgejoule.processes import PROJECT_ROOT
from tests.support_cudart import MIB, FakeCuda

GIB = 2**30


class BaseAllocator:
    """As pybind11's: an object whose base was not made is refused."""

    def __init__(self) -> None:
        self.made = True


TRT = SimpleNamespace(IGpuAllocator=BaseAllocator)


def options(gib: float | None, device: str = "cpu") -> BuildOptions:
    return BuildOptions("float32", device, memory_limit_gib=gib)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(tmp_path, monkeypatch)


def test_without_a_limit_nothing_is_held() -> None:
    for held in (limit_host, limit_tensorrt, limit_torch):
        assert held(options(None)) == Enforcement(None, "none", "no limit was asked for")


@pytest.mark.parametrize("gib", [0.0, -1.0, float("nan")])
def test_a_limit_that_leaves_nothing_is_refused(gib: float) -> None:
    for held in (limit_host, limit_tensorrt, limit_torch):
        with pytest.raises(UsageError, match=f"--memory-limit-gib {gib:g} leaves no memory"):
            held(options(gib))


def test_on_a_cpu_it_is_watched() -> None:
    for held in (limit_host, limit_torch):
        found = held(options(1.5))
        assert (found.limit_bytes, found.kind) == (1.5 * GIB, "soft")
        assert "nothing is refused" in found.how
    assert limit_bytes(options(0.25)) == GIB // 4
    assert limit_tensorrt(options(2.0)).to_json() == {
        "limit_bytes": 2 * GIB,
        "kind": "hard",
        "how": "an IGpuAllocator for engines, contexts, inputs and outputs; the CUDA context and "
        "the kernels of libraries are not counted",
    }


# torch on a GPU, by what it is asked


class FakeTorch(SimpleNamespace):
    """The two calls of torch.cuda."""

    def __init__(self, total: int) -> None:
        self.asked: list[tuple[float, int]] = []
        super().__init__(
            cuda=SimpleNamespace(
                get_device_properties=lambda _index: SimpleNamespace(total_memory=total),
                set_per_process_memory_fraction=lambda *asked: self.asked.append(asked),
            )
        )


def test_torch_is_given_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = FakeTorch(8 * GIB)
    monkeypatch.setitem(sys.modules, "torch", torch)
    found = limit_torch(options(2.0, "cuda:1"))
    assert torch.asked == [(0.25, 1)]
    assert (found.kind, found.limit_bytes) == ("hard", 2 * GIB)
    assert "the CUDA context and the kernels of libraries are not counted" in found.how
    found = limit_torch(options(80.0, "cuda"))
    assert torch.asked[1] == (1.0, 0)
    assert found.how.endswith("the GPU itself has 8.00 GiB")


# TensorRT's allocator


def test_the_allocator_counts_and_refuses(fake: FakeCuda) -> None:
    allocator = tensorrt_allocator(TRT, fake.load(), 10 * MIB)
    budget = allocator.budget
    assert allocator.made
    first = allocator.allocate(6 * MIB, 256, 0)
    assert fake.is_device(first, 6 * MIB)
    assert budget.why() == ""
    assert allocator.allocate_async(5 * MIB, 256, 7, 0) == 0
    assert allocator.allocate(0, 0, 0) == 0
    second = allocator.allocate_async(4 * MIB, 0, 0, 7)
    assert allocator.reallocate(second, 256, 8 * MIB) == 0
    assert budget.live_bytes == budget.peak_bytes == 10 * MIB
    assert allocator.allocate(1, 1, 0) == 0
    assert budget.to_json() == {
        "allocator_live_bytes": 10 * MIB,
        "allocator_peak_bytes": 10 * MIB,
        "refusals": 2,
        "largest_refused_bytes": 5 * MIB,
    }
    assert budget.why() == (
        "--memory-limit-gib 0.00976562 refuses 0.0 MiB with 10.0 MiB in use; give more, or take a "
        "smaller batch or --input-shape"
    )
    assert allocator.deallocate_async(second, 7)
    assert allocator.deallocate(0)
    allocator.free(first)  # as TensorRT 8.6 may
    assert (budget.live_bytes, budget.peak_bytes) == (0, 10 * MIB)
    assert fake.alive() == {}


def test_the_devices_own_refusal_is_no_violation_of_the_limit(fake: FakeCuda) -> None:
    allocator = tensorrt_allocator(TRT, fake.load(), None)
    assert allocator.allocate(65 * MIB, 256, 0) == 0
    assert (allocator.budget.refusals, allocator.budget.live_bytes) == (0, 0)
    assert "cudaMalloc: cudaErrorMemoryAllocation (out of memory)" in allocator.budget.why()
    address = allocator.allocate(MIB, 256, 0)
    fake.say({"cudaFree!": "700"})
    assert allocator.deallocate(address) is False
    assert "cudaErrorIllegalAddress" in allocator.budget.why()


def test_memory_that_was_not_given_is_told(
    fake: FakeCuda, capfd: pytest.CaptureFixture[str]
) -> None:
    allocator = tensorrt_allocator(TRT, fake.load(), None)
    assert allocator.deallocate(12345) is False
    assert "TensorRT frees 12345, which it was not given" in capfd.readouterr().err


def test_ones_own_buffers_come_from_the_same_budget(fake: FakeCuda) -> None:
    allocator = tensorrt_allocator(TRT, fake.load(), 8 * MIB)
    assert allocator.allocate(6 * MIB, 256, 0)
    with pytest.raises(OverLimit, match=r"refuses 3.0 MiB with 6.0 MiB in use") as caught:
        allocator.budget.allocate(3 * MIB)
    assert isinstance(caught.value, CudaOutOfMemory)
    assert "smaller batch" in str(caught.value)
    address = allocator.budget.allocate(MIB)
    assert allocator.budget.live_bytes == 7 * MIB
    allocator.budget.free(address)
    assert allocator.budget.live_bytes == 6 * MIB


def test_only_allocating_and_freeing_are_asked_of_the_memory() -> None:
    class Elsewhere:
        def allocate(self, nbytes: int) -> int:
            raise CudaOutOfMemory(2, "torch", f"no {nbytes} bytes", "allocate")

        def free(self, address: int) -> None:
            raise AssertionError(address)

    allocator = tensorrt_allocator(TRT, Elsewhere(), GIB)
    assert allocator.allocate(100, 256, 0) == 0
    assert "no 100 bytes" in allocator.budget.why()


def test_several_threads_do_not_overbook() -> None:
    given: list[int] = []

    class Slow:
        def allocate(self, nbytes: int) -> int:
            given.append(nbytes)
            return 4096 * len(given)

        def free(self, address: int) -> None:
            del address

    budget = Budget(Slow(), 100)
    refused: list[CudaError] = []

    def work() -> None:
        for _ in range(50):
            try:
                budget.free(budget.allocate(60))
            except CudaError as error:
                refused.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.live_bytes == 0
    assert budget.peak_bytes == 60  # two at a time never fitted
    assert budget.refusals == len(refused)
    assert len(given) + len(refused) == 200


# On a real GPU


@pytest.mark.gpu
@pytest.mark.torch
def test_torch_on_a_gpu_is_refused_what_goes_beyond() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    code = """
import json, torch
from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.memory_limit import limit_torch
held = limit_torch(BuildOptions("float32", "cuda:0", memory_limit_gib=0.5))
a = torch.zeros(300 * 2**20, dtype=torch.uint8, device="cuda")
try:
    b = torch.zeros(300 * 2**20, dtype=torch.uint8, device="cuda")
    said = ""
except Exception as error:
    said = f"{type(error).__name__}: {error}"
del a
c = torch.zeros(400 * 2**20, dtype=torch.uint8, device="cuda")
free, total = torch.cuda.mem_get_info()
print(json.dumps({"said": said, "kind": held.kind, "reserved": torch.cuda.max_memory_reserved(),
                  "taken": total - free}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["said"].startswith("OutOfMemoryError")
    assert found["kind"] == "hard"
    assert found["reserved"] <= GIB // 2
    assert found["taken"] > found["reserved"] - 101 * MIB  # the context stands beside it
