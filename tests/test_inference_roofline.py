"""The measured roofs: sizes, repetitions and time kept; each library on a small problem."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edgejoule.errors import Interrupted
from edgejoule.inference import roofline
from edgejoule.inference.roofline import (
    array_size,
    best_product,
    best_stream,
    measure_roofline,
    measure_with,
    repeated,
    sides_within,
)
from edgejoule.inference.roofline_numpy import free_host_bytes

MIB = 2**20


class Pretended:
    """Kernels of known speed whose times are told, not spent."""

    how = "pretended"
    cache_bytes: int | None = 4 * MIB
    free_bytes: int | None = None
    no_product: str | None = None

    def __init__(self) -> None:
        self.sides: list[int] = []
        self.closed = False

    def product(self, side: int) -> Callable[[int], Sequence[float]]:
        self.sides.append(side)
        # 100 GFLOP/s, and twice that at 1024; every second time is a tenth slower.
        rate = 2e11 if side == 1024 else 1e11
        return lambda count: [2 * side**3 / rate * (1 + 0.1 * (k % 2)) for k in range(count)]

    def streams(self, array_bytes: int) -> dict[str, tuple[int, Callable[[int], Sequence[float]]]]:
        assert array_bytes == 16 * MIB  # four times the cache
        return {
            "copy": (2 * array_bytes, lambda count: [2 * array_bytes / 1e10] * count),
            "triad": (3 * array_bytes, lambda count: [3 * array_bytes / 2e10] * count),
        }

    def close(self) -> None:
        self.closed = True


def test_the_best_of_sizes_and_streams_is_the_roof() -> None:
    kernels = Pretended()
    found = measure_with(kernels, "float32", 60.0)
    assert found["peak_gflops"] == pytest.approx(200.0)
    assert found["product"] == "1024 x 1024"
    assert found["peak_gbs"] == pytest.approx(20.0)
    assert found["stream"] == "triad"
    assert found["n"] == {"gflops": 20, "gbs": 20}
    # Ten times t and ten times 1.1 t: their deviation over their mean.
    assert found["spread"]["gflops"] == pytest.approx(0.05 * (20 / 19) ** 0.5 / 1.05)
    assert found["spread"]["gbs"] == pytest.approx(0.0, abs=1e-12)
    assert (found["dtype"], found["array_mib"], found["cache_mib"]) == ("float32", 16.0, 4.0)


def test_sizes_grow_only_as_far_as_the_time_lasts() -> None:
    kernels = Pretended()
    best_product(kernels.product, 1.0)
    # 2048 cubed takes 0.17 s here; 4096 would be made and run for more than what is left.
    assert kernels.sides == [256, 512, 1024, 2048]
    kernels.sides.clear()
    best = best_product(kernels.product, 0.0)
    assert (kernels.sides, best.n) == ([256], 1)


def test_repetitions_fit_into_the_time() -> None:
    assert len(repeated(lambda count: [0.1] * count, 1.05)) == 9
    assert len(repeated(lambda count: [0.1] * count, 0.0)) == 1
    assert len(repeated(lambda count: [1e-6] * count, 5.0)) == 20
    # A clock that did not move makes no infinite roof.
    assert best_stream(lambda: {"a": (1, lambda count: [0.0] * count)}, 1.0).per_s <= 1e9


@pytest.mark.parametrize(
    ("cache", "free", "size"),
    [
        (None, None, 128 * MIB),  # nobody says: as if it were 32 MiB
        (1 * MIB, None, 16 * MIB),
        (60 * MIB, None, 240 * MIB),
        (1024 * MIB, None, 1024 * MIB),
        (60 * MIB, 400 * MIB, 50 * MIB),
        (60 * MIB, 1000, MIB),
    ],
)
def test_arrays_are_beyond_the_cache_and_within_the_memory(
    cache: int | None, free: int | None, size: int
) -> None:
    assert array_size(cache, free) == size


def test_products_fit_into_the_memory() -> None:
    assert sides_within(None) == roofline.SIDES
    # Three matrices of 1024 x 1024 x 4 bytes are 12 MiB.
    assert sides_within(48 * MIB) == (256, 512, 1024)
    assert sides_within(48 * MIB - 1) == (256, 512)
    assert sides_within(1) == (256,)
    kernels = Pretended()
    kernels.free_bytes = 160 * MIB
    measure_with(kernels, "float32", 60.0)
    assert kernels.sides == [256, 512, 1024]


def test_available_memory_is_what_the_kernel_says(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  99 kB\nMemAvailable:    2048 kB\n")
    assert free_host_bytes(tmp_path / "meminfo") == 2 * MIB
    other = free_host_bytes(tmp_path / "absent")  # another system: by its own word, or not known
    assert other is None or other > 0


def test_a_dtype_without_a_product_still_has_its_memory_roof() -> None:
    kernels = Pretended()
    kernels.no_product = "no product in fp8"
    found = measure_with(kernels, "fp8", 60.0)
    assert (found["peak_gflops"], found["why"]) == (None, "no product in fp8")
    assert found["peak_gbs"] == pytest.approx(20.0)
    assert (found["n"]["gflops"], kernels.sides) == (0, [])


@pytest.mark.parametrize("error", [MemoryError("none left"), RuntimeError("out of memory")])
def test_what_a_library_raises_is_a_reason_and_memory_goes_back(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    kernels = Pretended()

    def fail(side: int) -> Callable[[int], Sequence[float]]:
        raise error

    monkeypatch.setattr(kernels, "product", fail)
    monkeypatch.setattr(roofline, "_kernels", lambda *_: kernels)
    found = measure_roofline("torch", "cpu", "float32")
    assert (found["peak_gflops"], found["peak_gbs"]) == (None, None)
    assert str(error) in found["why"]
    assert kernels.closed


def test_a_wish_to_stop_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise Interrupted("the parent asked to stop")

    monkeypatch.setattr(roofline, "_kernels", stop)
    with pytest.raises(Interrupted):
        measure_roofline("torch", "cpu", "float32")


def test_without_a_library_on_the_device_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(roofline.sys.modules, "torch", raising=False)
    found = measure_roofline("tensorrt", "cuda:0", "float16")
    assert found["peak_gflops"] is None
    assert found["why"].startswith("backend tensorrt loads no library")


def plausible(found: dict[str, object], how: str) -> None:
    assert str(found["how"]).startswith(how), found
    for name in ("peak_gflops", "peak_gbs"):
        value = found[name]
        assert isinstance(value, float)
        # From a slow emulator to the largest servers: a slip of a power of ten in a unit is out.
        assert 0.05 < value < 50_000


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_MOST_ARRAY_BYTES", 16 * MIB)
    monkeypatch.setattr(roofline, "SIDES", (128, 256))


def test_numpy_measures_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    monkeypatch.delitem(roofline.sys.modules, "torch", raising=False)
    started_s = time.process_time()
    plausible(measure_roofline("other", "cpu", "float32", 1, 0.2), "numpy")
    assert time.process_time() - started_s < 20
    found = measure_roofline("other", "cpu", "bfloat16", 1, 0.1)
    assert (found["peak_gflops"], found["peak_gbs"] > 0) == (None, True)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_onnxruntime_measures_itself(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    small(monkeypatch)
    found = measure_roofline("onnxruntime", "cpu", dtype, 1, 0.2)
    plausible(found, "onnxruntime")
    assert found["dtype"] == dtype


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_measures_a_cpu(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    pytest.importorskip("torch")
    small(monkeypatch)
    plausible(measure_roofline("torch", "cpu", dtype, 0, 0.2), "torch")
    assert "sees no cuda:7" in measure_roofline("torch", "cuda:7", dtype)["why"]


@pytest.mark.gpu
def test_torch_measures_a_gpu() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU")
    one = torch.ones(64, 64, device="cuda:0", dtype=torch.float16)
    torch.mm(one, one)  # cuBLAS keeps a workspace from here on
    held = torch.cuda.memory_allocated()
    found = measure_roofline("torch", "cuda:0", "float16")
    plausible({**found, "peak_gflops": found["peak_gflops"] / 100}, "torch")
    assert found["seconds"] < 4.0
    assert torch.cuda.memory_allocated() - held < 64 * MIB
