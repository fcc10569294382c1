"""What is no engine is named, with what to do."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from edgejoule.errors import UsageError
from edgejoule.inference.trt.engine_file import read_engine_file
from edgejoule.inference.trt.engine_foreign import metadata_before_plan, what_it_is
from tests.test_trt_engine_file import PLAN, RTX, refusal


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.engine"


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name in names:
            made.writestr(name, b"x")
    return buffer.getvalue()


def safetensors() -> bytes:
    text = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return len(text).to_bytes(8, "little") + text + bytes(4)


OTHERS: dict[str, tuple[bytes, str]] = {
    "rtx": (RTX, "an engine of TensorRT-RTX 1.5.0.114, which TensorRT does not load"),
    "onnx": (b"\x08\x08\x12\x07pytorch" + bytes(99), "an ONNX model, .* --backend tensorrt"),
    "onnx by torch 2": (b"\x08\x0a\x12\x07pytorch\x1a", "an ONNX model"),
    "ep context": (
        b"\x08\x08\x12\x03ort:\xff\x01\n\x09EPContext*\x10ep_cache_context",
        "an engine of an execution provider inside",
    ),
    "pt2": (archive("m/archive_format", "m/models/model.json"), "a program of torch.export"),
    "ep": (archive("serialized_exported_program.json", "version"), "a program of torch.export"),
    "torchscript": (archive("m/code/__torch__.py", "m/constants.pkl", "m/data.pkl"), "TorchScript"),
    "pth": (archive("m/data.pkl", "m/data/0", "m/version"), "what torch.save wrote"),
    "npz": (archive("a.npy", "b.npy"), r"arrays of numpy \(.npz\)"),
    "zip": (archive("x.engine"), "a ZIP archive; unpack it"),
    "torn zip": (archive("x.engine")[:40], "a ZIP archive that is damaged"),
    "old pth": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a pickle of Python"),
    "safetensors": (safetensors(), "weights .safetensors., without a network"),
    "executorch": (b"\x38\0\0\0ET12" + bytes(60), "a program of ExecuTorch"),
    "executorch blob": (b"TR01" + bytes(60), "inside a header of ExecuTorch"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(60), "TensorFlow Lite"),
    "ort": (b"\x1c\0\0\0ORTM" + bytes(60), "a model of ONNX Runtime"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of git LFS.*; git lfs"),
    "dvc": (b"outs:\n- md5: 1\n", "a pointer of DVC"),
    "calibration": (b"TRT-8601-EntropyCalibration2\nx: 3c010a14\n", "a calibration cache"),
    "inspector": (b'{"Layers": []}', "JSON, as an engine's inspector gives"),
    "html": (b"<!DOCTYPE html><html>", "a page of HTML"),
    "text": ("gr\u00fc\u00dfe\n".encode() * 99, "is text; give the plan itself"),
    "elf": (b"\x7fELF\x02\x01\x01" + bytes(60), "a shared library"),
    "gzip": (b"\x1f\x8b\x08\0" + bytes(60), "a gzip archive; unpack it"),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(60), "llama.cpp"),
    "npy": (b"\x93NUMPY\x01\0" + bytes(60), "an array of numpy"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(60), "an HDF5 file"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_something_else_is_named(file: Path, name: str) -> None:
    data, message = OTHERS[name]
    file.write_bytes(data)
    with pytest.raises(UsageError, match=message) as caught:
        read_engine_file(file)
    assert str(caught.value).startswith(f"--engine {file} is ")


def test_a_plan_is_nothing_else() -> None:
    assert what_it_is(PLAN) is None
    assert metadata_before_plan(PLAN) is None
    assert metadata_before_plan(b"\x02\0\0\0{}") == ({}, 6)
    assert metadata_before_plan(b"\x02\0\0\0{]") is None
    assert metadata_before_plan(b"\x09\0\0\0{}") is None


def test_real_files_are_named(file: Path) -> None:
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "g", [value("x", 1, [1])], [value("y", 1, [1])]
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph), str(file))
    assert "is an ONNX model" in refusal(file, file.read_bytes())


@pytest.mark.torch
def test_real_files_of_torch_are_named(file: Path) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(2, 2)
    torch.save(module.state_dict(), file)
    assert "is what torch.save wrote" in refusal(file, file.read_bytes())
    torch.save(module.state_dict(), file, _use_new_zipfile_serialization=False)
    assert "is a pickle of Python" in refusal(file, file.read_bytes())
    torch.jit.save(torch.jit.trace(module, torch.zeros(1, 2)), str(file))
    assert "is a TorchScript program" in refusal(file, file.read_bytes())
    exported = file.with_suffix(".pt2")
    torch.export.save(torch.export.export(module, (torch.zeros(1, 2),)), str(exported))
    assert "is a program of torch.export" in refusal(file, exported.read_bytes())
