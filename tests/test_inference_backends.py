"""Choosing a backend, a device, a dtype; flops; small helpers."""

from __future__ import annotations

import errno
import json
import math
import sys
from pathlib import Path

import pytest

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference import backends, common, flops, probe
from edgejoule.inference.backend import Availability, Backend


class Fake:
    """A backend that is what the test says."""

    options = ()

    def __init__(
        self,
        name: str,
        form: str,
        usable: bool,
        devices: tuple[str, ...],
        gpu_dtypes: tuple[str, ...] = ("float16", "float32"),
    ) -> None:
        self.name, self.form, self._usable, self._devices = name, form, usable, devices
        self._gpu_dtypes = gpu_dtypes

    def availability(self) -> Availability:
        if self._usable:
            return Availability(True, f"{self.name} works")
        return Availability(False, f"{self.name} is not installed", f"pip install {self.name}")

    def dtypes(self, device: str) -> tuple[str, ...]:
        if device.startswith("cuda"):
            return self._gpu_dtypes
        return ("float32", "bfloat16") if device == "cpu" else ()

    def devices(self) -> tuple[str, ...]:
        return self._devices


def world(
    monkeypatch: pytest.MonkeyPatch,
    *,
    ort: bool,
    torch: bool,
    gpu: bool,
    node: bool | None = None,
    compiled: bool = False,
    tensorrt: bool = False,
) -> None:
    cuda = ("cuda:0",)
    more = ("float16", "float32", "int8")
    made: dict[str, Backend] = {
        "torch-tensorrt": Fake("torch-tensorrt", "torch", compiled, cuda),  # type: ignore[dict-item]
        "tensorrt": Fake("tensorrt", "onnx", tensorrt, cuda, more),  # type: ignore[dict-item]
        "onnxruntime": Fake("onnxruntime", "onnx", ort, ("cpu",)),  # type: ignore[dict-item]
        "torch": Fake("torch", "torch", torch, ("cuda:0", "cpu") if gpu else ("cpu",)),  # type: ignore[dict-item]
    }
    monkeypatch.setattr(backends, "get_backend", lambda name: made[name])
    monkeypatch.setattr(backends, "gpu_present", lambda: gpu if node is None else node)


BOTH = ("torch", "onnx")


@pytest.mark.parametrize(
    ("ort", "torch", "gpu", "forms", "chosen", "said"),
    [
        (True, True, True, BOTH, "torch", ["torch chosen"]),
        (True, True, False, BOTH, "onnxruntime", ["no NVIDIA GPU", "onnxruntime chosen"]),
        (False, True, False, BOTH, "torch", ["onnxruntime is not installed", "torch chosen"]),
        (True, False, True, BOTH, "onnxruntime", ["torch is not installed", "chosen"]),
        (True, True, True, ("onnx",), "onnxruntime", ["needs the model as torch", "chosen"]),
        (True, True, False, ("torch",), "torch", ["needs the model as onnx", "torch chosen"]),
    ],
)
def test_auto_says_what_it_chose_and_why(
    monkeypatch: pytest.MonkeyPatch,
    ort: bool,
    torch: bool,
    gpu: bool,
    forms: tuple[str, ...],
    chosen: str,
    said: list[str],
) -> None:
    world(monkeypatch, ort=ort, torch=torch, gpu=gpu)
    backend, why = backends.choose_backend("auto", forms)
    assert backend.name == chosen
    assert "chosen" in why[-1]
    for text in said:
        assert any(text in line for line in why)


def test_a_gpu_that_torch_cannot_use_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    world(monkeypatch, ort=True, torch=True, gpu=False, node=True)
    backend, why = backends.choose_backend("auto", BOTH)
    assert backend.name == "onnxruntime"
    assert any("though /dev has an NVIDIA GPU" in line for line in why)


def test_auto_prefers_torch_tensorrt_then_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = {"ort": True, "torch": True, "gpu": True, "tensorrt": True}
    world(monkeypatch, **everything, compiled=True)
    backend, why = backends.choose_backend("auto", BOTH)
    assert (backend.name, why) == (
        "torch-tensorrt", ["torch-tensorrt chosen: torch-tensorrt works"],
    )  # fmt: skip
    backend, why = backends.choose_backend("auto", ("onnx",))
    assert backend.name == "tensorrt"
    assert why[0].startswith("torch-tensorrt passed over: it needs the model as torch")
    world(monkeypatch, **everything)
    backend, why = backends.choose_backend("auto", BOTH)
    assert backend.name == "tensorrt"
    assert why[0] == "torch-tensorrt passed over: torch-tensorrt is not installed"


def test_auto_heeds_the_dtype_and_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    world(monkeypatch, ort=True, torch=True, gpu=True, tensorrt=True, compiled=True)
    backend, why = backends.choose_backend("auto", BOTH, "int8")
    assert backend.name == "tensorrt"
    assert why[0] == "torch-tensorrt passed over: it has no int8 on cuda:0"
    backend, why = backends.choose_backend("auto", BOTH, device="cpu")
    assert backend.name == "onnxruntime"
    assert why[:2] == [
        "torch-tensorrt passed over: --device cpu", "tensorrt passed over: --device cpu",
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"no backend can run this model here.*it has no fp8"):
        backends.choose_backend("auto", BOTH, "fp8")


def test_nothing_usable_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    world(monkeypatch, ort=False, torch=False, gpu=False)
    with pytest.raises(UsageError, match="pip install onnxruntime or pip install torch"):
        backends.choose_backend("auto", BOTH)
    with pytest.raises(
        UsageError, match="backend torch: torch is not installed; pip install torch"
    ):
        backends.choose_backend("torch", BOTH)
    world(monkeypatch, ort=True, torch=True, gpu=False)
    with pytest.raises(
        UsageError, match=r"needs the model as torch.*--backend tensorrt or onnxruntime"
    ):
        backends.choose_backend("torch", ("onnx",))
    backend, why = backends.choose_backend("torch", BOTH)
    assert (backend.name, why) == ("torch", ["torch was asked for: torch works"])


def test_an_unknown_backend_gets_the_close_name() -> None:
    with pytest.raises(UsageError, match=r"'onnxrutime'.*did you mean onnxruntime"):
        backends.choose_backend("onnxrutime", BOTH)
    with pytest.raises(UsageError, match="use auto, torch-tensorrt, tensorrt, onnxruntime, torch"):
        backends.get_backend("cobol")
    for name in backends.backend_names():
        assert backends.get_backend(name).name == name


def test_devices_and_dtypes() -> None:
    fake: Backend = Fake("torch", "torch", True, ("cuda:0", "cuda:1", "cpu"))  # type: ignore[assignment]
    assert backends.resolve_device(fake, None) == "cuda:0"
    assert backends.resolve_device(fake, "auto") == "cuda:0"
    assert backends.resolve_device(fake, "1") == "cuda:1"
    assert backends.resolve_device(fake, "cuda") == "cuda:0"
    assert backends.resolve_device(fake, "cpu") == "cpu"
    with pytest.raises(UsageError, match="no device '7' here; it has cuda:0, cuda:1, cpu"):
        backends.resolve_device(fake, "7")
    assert backends.resolve_dtype(fake, "cuda:1", "auto") == "float16"
    assert backends.resolve_dtype(fake, "cpu", "auto") == "float32"
    assert backends.resolve_dtype(fake, "cpu", "bfloat16") == "bfloat16"
    with pytest.raises(UsageError, match="no dtype 'int8' on cpu; it has float32, bfloat16"):
        backends.resolve_dtype(fake, "cpu", "int8")
    with pytest.raises(UsageError, match="does not run on tpu"):
        backends.resolve_dtype(fake, "tpu", "auto")
    assert backends.gpu_present() in (True, False)


def test_a_probe_answers_or_says_why_not() -> None:
    assert probe.probe("print('noise'); print('{\"a\": 1}')").facts == {"a": 1}
    assert probe.probe("import no_such_module").error.startswith("ModuleNotFoundError")
    assert probe.probe("import os; os._exit(7)").error == "it ended with 7"
    assert probe.probe("pass").error == "it printed nothing that can be read"


def test_a_probe_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_LIMIT_S", 0.2)
    assert "no answer" in probe.probe("import time; time.sleep(30)").error
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "No such file" in probe.probe("print(1)  # elsewhere").error


def test_operations_by_hand() -> None:
    assert flops.convolution((1, 2, 3, 3), (2, 4, 1, 1)) == 2 * 18 * 4
    assert flops.transposed_convolution((1, 2, 3, 3), (2, 4, 2, 2)) == 2 * 18 * 16
    assert flops.matrix_product((3, 5), 7) == 2 * 3 * 5 * 7
    assert flops.attention((2, 3, 4), (2, 5, 4), (2, 5, 6)) == 2 * 2 * (3 * 5 * 4 + 3 * 5 * 6)
    assert flops.pooling((2, 2), (3, 3)) == 36
    assert flops.elementwise((2, 3), 2) == 12
    assert flops.bytes_of([((2, 3), "float16"), ((), "int64")]) == 20
    assert flops.bytes_of([((2,), "string")]) is None
    assert flops.bytes_of([(None, "float32")]) is None


def test_json_is_strict_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    common.write_json(path, {"a": math.inf, 1: (math.nan, None, True), "p": Path("x")})
    assert json.loads(path.read_text()) == {"a": "inf", "1": ["nan", None, True], "p": "x"}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_errors_of_a_model_are_one_line() -> None:
    wrong = common.model_error("net", "cannot be loaded", ValueError("a\n  b " + "x" * 1000))
    assert isinstance(wrong, UsageError)
    assert str(wrong).startswith("model net cannot be loaded (ValueError: a b xxx")
    assert len(str(wrong)) < 450
    for error in (MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")):
        short = common.model_error("net", "raises", error)
        assert isinstance(short, MeasurementError)
        assert "smaller batch" in short.mend
    own = UsageError("mine")
    assert common.model_error("net", "raises", own) is own
    assert isinstance(common.model_error("n", "r", KeyError(), MeasurementError), MeasurementError)
    full = common.disk_full_error(OSError(errno.ENOSPC, "No space left on device"), Path("runs"))
    assert "no room left to write below runs (No space left on device)" in str(full)
    assert common.short(ValueError()) == "ValueError"


def test_peak_memory_is_this_processs_own() -> None:
    assert 5 < common.peak_rss_mib() < 100_000
