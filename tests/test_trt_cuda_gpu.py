"""The CUDA runtime through ctypes on a real GPU; torch at most brings the library."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from edgejoule.errors import UsageError
from edgejoule.inference.trt.cuda import Cuda, load_cuda
from edgejoule.inference.trt.cuda_types import CudaError, CudaOutOfMemory
from edgejoule.power.cuda_devices import cuda_devices
from edgejoule.processes import PROJECT_ROOT

pytestmark = pytest.mark.gpu
MIB = 2**20


@pytest.fixture(scope="module")
def cuda() -> Cuda:
    try:
        return load_cuda()
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture
def stream(cuda: Cuda) -> Iterator[int]:
    made = cuda.stream()
    yield made
    cuda.destroy_stream(made)


def test_the_device_is_the_drivers(cuda: Cuda) -> None:
    told = {device.uuid: device.name for device in cuda_devices().devices}
    assert cuda.device_count() == len(told)
    for index in range(cuda.device_count()):
        device = cuda.device(index)
        assert told[str(device.uuid)] == device.name
        assert device.compute_capability >= (5, 0)
        cuda.use(index)
        assert cuda.memory()[1] <= device.total_bytes
        assert cuda.memory()[1] > 0.9 * device.total_bytes
    cuda.use(0)


def test_bytes_go_there_and_back(cuda: Cuda, stream: int) -> None:
    data = np.random.default_rng(1).integers(0, 255, 5 * MIB, np.uint8)
    back = np.zeros_like(data)
    first, second = cuda.allocate(data.nbytes), cuda.allocate(data.nbytes)
    assert first % 256 == second % 256 == 0
    kept = data.copy()
    cuda.copy_to_device(first, data, stream)
    data[:] = 0  # may change at once
    cuda.copy_on_device(second, first, data.nbytes, stream)
    cuda.copy_to_host(back, second, stream)
    cuda.synchronise(stream)
    assert np.array_equal(back, kept)
    cuda.free(first)
    cuda.free(second)


def test_memory_is_seen(cuda: Cuda) -> None:
    free, total = cuda.memory()
    address = cuda.allocate(256 * MIB)
    less, same = cuda.memory()
    assert same == total
    assert 255 * MIB <= free - less <= 400 * MIB
    cuda.free(address)
    assert cuda.memory()[0] >= less + 255 * MIB


def test_too_much_memory_is_told_apart_and_does_no_harm(cuda: Cuda, stream: int) -> None:
    with pytest.raises(CudaOutOfMemory, match="cudaErrorMemoryAllocation") as caught:
        cuda.allocate(2 * cuda.memory()[1])
    assert not caught.value.fatal
    address = cuda.allocate(MIB)
    cuda.fill(address, 1, MIB, stream)
    cuda.synchronise(stream)
    cuda.free(address)


def test_events_time_copies(cuda: Cuda, stream: int) -> None:
    size = 512 * MIB
    first, second = cuda.allocate(size), cuda.allocate(size)
    start, middle, end = cuda.event(), cuda.event(), cuda.event()
    with pytest.raises(CudaError, match="cudaErrorInvalidResourceHandle"):
        cuda.elapsed_ms(start, end)
    for _ in range(2):  # the first touches the memory
        cuda.record(start, stream)
        cuda.copy_on_device(second, first, size, stream)
        cuda.record(middle, stream)
        for _ in range(4):
            cuda.copy_on_device(second, first, size, stream)
        cuda.record(end, stream)
        cuda.wait_event(end)
    one, four = cuda.elapsed_ms(start, middle), cuda.elapsed_ms(middle, end)
    assert 2 * size / 1e6 / one < 20_000  # GB/s, more than any memory gives
    assert 2 < four / one < 8
    for event in (start, middle, end):
        cuda.destroy_event(event)
    cuda.free(first)
    cuda.free(second)


def test_a_graph_replays_a_copy(cuda: Cuda, stream: int) -> None:
    first, second = cuda.allocate(4), cuda.allocate(4)
    host = np.zeros(4, np.uint8)
    cuda.begin_capture(stream)
    cuda.copy_on_device(second, first, 4, stream)
    graph = cuda.end_capture(stream)
    for value in (3, 4):
        cuda.fill(first, value, 4, stream)
        cuda.launch(graph, stream)
        cuda.copy_to_host(host, second, stream)
        cuda.synchronise(stream)
        assert host.tolist() == [value] * 4
    cuda.destroy_graph(graph)
    cuda.free(first)
    cuda.free(second)


def test_a_capture_that_fails_leaves_the_stream_usable(cuda: Cuda, stream: int) -> None:
    cuda.begin_capture(stream)
    with pytest.raises(CudaError, match="cudaErrorStreamCapture"):
        cuda.synchronise(stream)
    with pytest.raises(CudaError, match="cudaErrorStreamCapture"):
        cuda.end_capture(stream)
    cuda.begin_capture(stream)
    cuda.abandon_capture(stream)
    cuda.synchronise(stream)


def test_another_thread_uses_it(cuda: Cuda) -> None:
    found: list[int] = []

    def work() -> None:
        cuda.use(0)
        stream, address, host = cuda.stream(), cuda.allocate(8), np.zeros(8, np.uint8)
        cuda.fill(address, 9, 8, stream)
        cuda.copy_to_host(host, address, stream)
        cuda.synchronise(stream)
        cuda.free(address)
        cuda.destroy_stream(stream)
        found.extend(host.tolist())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [9] * 8


@pytest.mark.usefixtures("cuda")
def test_it_shares_the_device_with_torch() -> None:
    """A process of its own: the runtime that torch loaded is taken, and one sees the other's."""
    pytest.importorskip("torch")
    code = """
import numpy, torch
from edgejoule.inference.trt.cuda import load_cuda
from edgejoule.inference.trt.cuda_find import loaded
tensor = torch.full((1000,), 5.0, device="cuda")
torch.cuda.synchronize()
before = loaded()
cuda = load_cuda()
assert not before or cuda.path == before[0], (cuda.path, before)
host, stream = numpy.zeros(1000, numpy.float32), cuda.stream()
cuda.copy_to_host(host, tensor.data_ptr(), stream)
cuda.synchronise(stream)
assert (host == 5).all()
try:
    cuda.allocate(2 * cuda.memory()[1])
except Exception as error:
    assert type(error).__name__ == "CudaOutOfMemory"
(tensor + 1).sum().item()  # torch does not find that error
print("shared", cuda.runtime_version, cuda.path)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout.startswith("shared"), done.stderr
