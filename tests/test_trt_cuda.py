"""The CUDA runtime through ctypes, against a stand-in that does its work as late as CUDA may."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgejoule.errors import UsageError
from edgejoule.inference.trt import cuda_find
from edgejoule.inference.trt.cuda import Cuda, load_cuda
from edgejoule.inference.trt.cuda_types import CudaDevice, CudaError, CudaOutOfMemory
from edgejoule.processes import PROJECT_ROOT
from tests.support_cudart import MIB, FakeCuda, compiled


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(tmp_path, monkeypatch)


@pytest.fixture
def cuda(fake: FakeCuda) -> Cuda:
    return fake.load()


def test_a_device_says_what_it_is(cuda: Cuda, fake: FakeCuda) -> None:
    assert (cuda.runtime_version, cuda.driver_version) == ("12.6", "12.6")
    assert cuda.device_count() == 1
    uuid = "GPU-11111111-2222-3333-4444-55555555abcd"
    assert cuda.device(0) == CudaDevice("Orin", (8, 7), 64 * MIB, True, uuid)
    fake.say({"0.name": "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "0.integrated": "0"})
    assert cuda.device(0).uuid == uuid.replace("GPU-", "MIG-")
    assert not cuda.device(0).integrated
    fake.say({}, "0.uuid")
    assert cuda.device(0).uuid is None
    with pytest.raises(CudaError, match="cudaErrorInvalidDevice"):
        cuda.device(1)


def test_bytes_go_there_and_back(cuda: Cuda, fake: FakeCuda) -> None:
    data = np.arange(1000, dtype=np.float32)
    back = np.zeros_like(data)
    stream = cuda.stream()
    first, second = cuda.allocate(data.nbytes), cuda.allocate(data.nbytes)
    assert first % 256 == second % 256 == 0
    assert cuda.memory() == (64 * MIB - 8000, 64 * MIB)
    cuda.copy_to_device(first, data, stream)
    data += 1  # may change at once
    cuda.copy_on_device(second, first, data.nbytes, stream)
    cuda.copy_to_host(back, second, stream)
    assert not back.any()  # nobody waited
    cuda.synchronise(stream)
    assert np.array_equal(back, data - 1)
    cuda.fill(first, 255, 4, stream)
    cuda.copy_to_host(back, first, stream)
    cuda.synchronise(stream)
    assert np.isnan(back[0])
    assert back[1] == 1
    cuda.free(first)
    cuda.free(second)
    cuda.destroy_stream(stream)
    assert fake.alive() == {}
    assert fake.count("peak_bytes") == 8000


def test_only_contiguous_arrays_are_copied(cuda: Cuda) -> None:
    stream, address = cuda.stream(), cuda.allocate(64)
    with pytest.raises(ValueError, match="C-contiguous"):
        cuda.copy_to_device(address, np.zeros((4, 4), np.float32).T[:2], stream)
    with pytest.raises(ValueError, match="C-contiguous"):
        cuda.copy_to_host(np.zeros(16, np.float32)[::2], address, stream)
    empty = np.zeros(0, np.float32)
    cuda.copy_to_device(address, empty, stream)
    with pytest.raises(ValueError, match="-1 bytes"):
        cuda.allocate(-1)
    assert cuda.allocate(0)  # an address, though nothing is behind it


def test_no_memory_is_told_apart_and_forgotten(cuda: Cuda, fake: FakeCuda) -> None:
    with pytest.raises(CudaOutOfMemory) as caught:
        cuda.allocate(65 * MIB)
    assert "cudaMalloc: cudaErrorMemoryAllocation (out of memory)" in str(caught.value)
    assert "smaller batch" in str(caught.value)
    assert not caught.value.fatal
    assert fake.last_error() == 0  # torch's next launch would have taken it for its own
    assert cuda.allocate(MIB)
    fake.say({"0.used": str(63 * MIB)})  # another process
    with pytest.raises(CudaOutOfMemory):
        cuda.allocate(MIB)


def test_a_lost_device_says_so_for_ever(cuda: Cuda) -> None:
    stream, address = cuda.stream(), cuda.allocate(16)
    cuda.begin_capture(stream)
    cuda.fill(address, 1, 16, stream)
    graph = cuda.end_capture(stream)
    cuda.free(address)
    cuda.launch(graph, stream)
    with pytest.raises(CudaError, match="cudaStreamSynchronize: cudaErrorIllegalAddress") as caught:
        cuda.synchronise(stream)
    assert caught.value.fatal
    with pytest.raises(CudaError, match="cudaErrorIllegalAddress"):
        cuda.allocate(16)


def test_events_take_the_streams_time(cuda: Cuda, fake: FakeCuda) -> None:
    stream, start, end = cuda.stream(), cuda.event(), cuda.event()
    with pytest.raises(CudaError, match="cudaErrorInvalidResourceHandle"):
        cuda.elapsed_ms(start, end)
    cuda.record(start, stream)
    fake.enqueue(stream, lambda: fake.advance(stream, 2.5))
    cuda.record(end, stream)
    with pytest.raises(CudaError, match="cudaErrorNotReady"):
        cuda.elapsed_ms(start, end)
    cuda.wait_event(end)
    assert cuda.elapsed_ms(start, end) == 2.5
    cuda.destroy_event(start)
    cuda.destroy_event(end)
    cuda.destroy_stream(stream)
    assert fake.alive() == {}


@pytest.mark.parametrize("old", [False, True])
def test_a_graph_replays_what_was_enqueued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    fake = FakeCuda(tmp_path, monkeypatch, {"log": str(tmp_path / "calls")}, old=old)
    cuda = fake.load()
    stream, address, host = cuda.stream(), cuda.allocate(4), np.zeros(4, np.uint8)
    ran: list[int] = []
    cuda.begin_capture(stream)
    assert fake.capturing(stream)
    cuda.fill(address, 7, 4, stream)
    fake.enqueue(stream, lambda: ran.append(1))
    graph = cuda.end_capture(stream)
    assert ran == []
    for _ in range(3):
        cuda.launch(graph, stream)
    cuda.copy_to_host(host, address, stream)
    cuda.synchronise(stream)
    assert ran == [1, 1, 1]
    assert host.tolist() == [7] * 4
    assert fake.count("launches") == 3
    assert fake.count("recorded") == 0  # the recording itself is not kept
    cuda.destroy_graph(graph)
    cuda.free(address)
    cuda.destroy_stream(stream)
    assert fake.alive() == {}
    calls = (tmp_path / "calls").read_text().split()
    assert ("cudaGraphInstantiate" if old else "cudaGraphInstantiateWithFlags") in calls


def test_a_capture_that_fails_leaves_the_stream_usable(cuda: Cuda, fake: FakeCuda) -> None:
    stream = cuda.stream()
    cuda.begin_capture(stream)
    with pytest.raises(CudaError, match="cudaErrorStreamCaptureUnsupported"):
        cuda.allocate(16)
    with pytest.raises(CudaError, match="cudaErrorStreamCaptureInvalidated"):
        cuda.end_capture(stream)
    cuda.begin_capture(stream)
    with pytest.raises(CudaError, match="cudaErrorStreamCaptureUnsupported"):
        cuda.synchronise(stream)
    cuda.abandon_capture(stream)
    cuda.abandon_capture(stream)  # nothing is captured any more
    cuda.begin_capture(stream)
    cuda.abandon_capture(stream)  # whole, and not wanted
    cuda.begin_capture(stream)
    fake.say({"cudaGraphInstantiateWithFlags!": "2"})
    with pytest.raises(CudaOutOfMemory):
        cuda.end_capture(stream)
    cuda.synchronise(stream)
    assert fake.alive() == {"streams": 1}
    assert fake.last_error() == 0


def test_another_thread_names_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(tmp_path, monkeypatch, {"count": "2"}).load()
    cuda.use(1)
    seen: list[int] = []

    def work() -> None:
        seen.append(cuda.current())
        cuda.use(1)
        seen.append(cuda.current())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0, 1]
    with pytest.raises(CudaError, match="cudaErrorInvalidDevice"):
        cuda.use(2)


def test_waiting_lets_other_threads_run(cuda: Cuda, fake: FakeCuda) -> None:
    stream, other_ran = cuda.stream(), threading.Event()
    thread = threading.Thread(target=other_ran.set)

    def work() -> None:  # called from within cudaStreamSynchronize
        thread.start()
        assert other_ran.wait(60)

    fake.enqueue(stream, work)
    cuda.synchronise(stream)
    assert other_ran.is_set()


# What a user sees


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"driver": "0"}, "there is no NVIDIA driver here .*--gpus all"),
        ({"driver": "11080"}, r"driver serves CUDA 11\.8, .* is 12\.6 .*InsufficientDriver"),
        ({"count": "0"}, "no CUDA device is visible .*CUDA_VISIBLE_DEVICES"),
        ({"cudaGetDeviceCount!": "803"}, "older or newer than the CUDA libraries beside it"),
        ({"cudaGetDeviceCount!": "999"}, "CUDA: cudaGetDeviceCount: unrecognized error code"),
        ({"cudaDriverGetVersion!": "34"}, "a stub library of the toolkit"),
        ({"cudaRuntimeGetVersion!": "803"}, "cudaErrorSystemDriverMismatch|older or newer"),
    ],
)
def test_why_no_gpu_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: dict[str, str], message: str
) -> None:
    fake = FakeCuda(tmp_path, monkeypatch, answers)
    with pytest.raises(UsageError, match=message) as caught:
        fake.load()
    assert "no GPU can be used" in str(caught.value)
    assert "--backend onnxruntime" in str(caught.value)


def test_without_a_runtime_the_message_says_what_to_install() -> None:
    with pytest.raises(UsageError, match=r"no CUDA runtime .*nvidia-jetpack.*pip install"):
        load_cuda(["libnothing.so.1"])


def test_another_library_is_no_runtime(fake: FakeCuda) -> None:
    names = [ctypes.util.find_library("c") or "libc.so.6", "nothing.so", fake.library]
    assert load_cuda(names).path == fake.library


def test_a_broken_runtime_gives_way(fake: FakeCuda) -> None:
    fake.say({"cudaGetDeviceCount!": "999"})

    def load(path: str) -> object:
        if path == "whole":
            fake.say({}, "cudaGetDeviceCount!")
        return ctypes.CDLL(fake.library)

    assert load_cuda(["broken", "whole"], load).path == "whole"


def test_a_runtime_too_new_for_the_driver_gives_way(fake: FakeCuda) -> None:
    fake.say({"runtime": "13000"})
    loads: list[str] = []

    def load(path: str) -> object:
        loads.append(path)
        if path == "older":
            fake.say({"runtime": "12060"})
        return ctypes.CDLL(fake.library)

    assert load_cuda(["newer", "older", "oldest"], load).path == "older"
    assert loads == ["newer", "older"]


def test_a_runtime_that_hides_its_version_is_still_named(fake: FakeCuda) -> None:
    fake.say({"cudaRuntimeGetVersion!": "35", "driver": "10020", "runtime": "11000"})
    with pytest.raises(UsageError, match=r"serves CUDA 10\.2, .* of a version that it does not"):
        fake.load()


# Where it is looked for


def test_a_loaded_runtime_comes_first(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(
        "7f00-7f01 r-xp 00000000 fe:00 11 /usr/lib/libcudart_static_looks_alike.txt\n"
        "7f02-7f03 r--p 00000000 fe:00 12 /opt/my env/libcudart-d0da41ae.so.11.0\n"
        "7f03-7f04 r-xp 00000000 fe:00 12 /opt/my env/libcudart-d0da41ae.so.11.0\n"
        "7f04-7f05 rw-p 00000000 00:00 0\n"
        "7f05-7f06 r-xp 00000000 fe:00 13 /opt/b/libcudart.so.12\n"
    )
    assert cuda_find.loaded(maps) == [
        "/opt/my env/libcudart-d0da41ae.so.11.0",
        "/opt/b/libcudart.so.12",
    ]
    assert cuda_find.loaded(tmp_path / "none") == []
    found = list(cuda_find.candidates(maps=maps, folders=[], toolkit=tmp_path))
    assert found == [*cuda_find.loaded(maps), *cuda_find.NAMES]


def test_packages_and_toolkits_follow_the_loaders_own(tmp_path: Path) -> None:
    packages = (
        "nvidia/cuda_runtime/lib/libcudart.so.12",
        "nvidia/cu13/lib/libcudart.so.13",
        "torch/lib/libcudart-aabbcc11.so.11.0",
    )
    toolkit = (
        "cuda-11.4/targets/aarch64-linux/lib/libcudart.so.11.4.298",
        "cuda-12.6/lib64/libcudart.so.12.6.77",
    )
    for name in packages:
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / name).touch()
    for name in toolkit:
        (tmp_path / "local" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "local" / name).touch()
    (tmp_path / "local" / "cuda").symlink_to("cuda-12.6")
    found = list(
        cuda_find.candidates(
            maps=tmp_path / "none",
            folders=[str(tmp_path / "nowhere"), str(tmp_path / "site")],
            toolkit=tmp_path / "local",
        )
    )
    named = len(cuda_find.NAMES)
    assert tuple(found[:named]) == cuda_find.NAMES
    site, local = f"{tmp_path}/site/", f"{tmp_path}/local/"
    assert found[named:-2] == [site + packages[1], site + packages[0], site + packages[2]]
    assert found[-1] == local + toolkit[0]
    assert Path(found[-2]).resolve() == Path(local + toolkit[1])  # once, under one of its names


def test_a_child_finds_it_by_the_loaders_path(fake: FakeCuda) -> None:
    code = (
        "from edgejoule.inference.trt.cuda import load_cuda; c = load_cuda();"
        "import sys; print(c.path, c.device(0).name, 'numpy' in sys.modules)"
    )
    environment = {**os.environ, **fake.environment}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == ["libcudart.so.12", "Orin", "False"], done.stderr


def test_the_stand_in_has_what_the_binding_asks(fake: FakeCuda) -> None:
    """And the binding names nothing that no version has."""
    from edgejoule.inference.trt import cuda as module

    library = ctypes.CDLL(compiled())
    absent = [name for name in module._SIGNATURES if not hasattr(library, name)]
    assert absent == []
    used = set(re.findall(r"\"(cuda[A-Z]\w+)\"", Path(module.__file__).read_text()))
    assert used >= set(module._SIGNATURES)


def test_an_error_of_each_call_is_raised(cuda: Cuda, fake: FakeCuda) -> None:
    stream, event, address = cuda.stream(), cuda.event(), cuda.allocate(16)
    data = np.zeros(4, np.float32)
    calls: dict[str, Callable[[], object]] = {
        "cudaSetDevice": lambda: cuda.use(0),
        "cudaGetDevice": cuda.current,
        "cudaMemGetInfo": cuda.memory,
        "cudaMalloc": lambda: cuda.allocate(1),
        "cudaFree": lambda: cuda.free(address),
        "cudaMemcpyAsync": lambda: cuda.copy_to_device(address, data, stream),
        "cudaMemsetAsync": lambda: cuda.fill(address, 0, 1, stream),
        "cudaStreamCreateWithFlags": cuda.stream,
        "cudaStreamSynchronize": lambda: cuda.synchronise(stream),
        "cudaStreamDestroy": lambda: cuda.destroy_stream(0),
        "cudaEventCreate": cuda.event,
        "cudaEventRecord": lambda: cuda.record(event, stream),
        "cudaEventSynchronize": lambda: cuda.wait_event(event),
        "cudaEventElapsedTime": lambda: cuda.elapsed_ms(event, event),
        "cudaEventDestroy": lambda: cuda.destroy_event(0),
        "cudaStreamBeginCapture": lambda: cuda.begin_capture(stream),
        "cudaStreamEndCapture": lambda: cuda.end_capture(stream),
        "cudaGraphLaunch": lambda: cuda.launch(0, stream),
        "cudaGraphExecDestroy": lambda: cuda.destroy_graph(0),
        "cudaGetDeviceProperties": lambda: cuda.device(0),
        "cudaDeviceGetAttribute": lambda: cuda.device(0),
    }
    for name, call in calls.items():
        fake.say({f"{name}!": "803"})
        with pytest.raises(CudaError) as caught:
            call()
        assert caught.value.function == name
        assert caught.value.name == "cudaErrorSystemDriverMismatch"
        assert caught.value.exit_code == 1
        fake.say({}, f"{name}!")
