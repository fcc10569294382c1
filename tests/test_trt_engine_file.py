"""Engine files: what built them, whether they are for this machine, and what is no engine."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgejoule.errors import UsageError
from edgejoule.inference.trt import engine_file
from edgejoule.inference.trt.engine_file import (
    EngineFacts,
    EngineFile,
    check_engine,
    plain_plan,
    read_engine_file,
    write_engine_file,
)
from edgejoule.inference.trt.engine_foreign import plan_version

# Tag, serialisation version 0, eight bytes each, then the version: TensorRT 10.3.0.26.
PLAN = b"ftrt" + bytes(20) + bytes((10, 3, 0, 26)) + bytes(range(256)) * 3
RTX = b"vtrt" + bytes(20) + bytes((1, 5, 0, 114)) + bytes(100)
FACTS = EngineFacts(
    name="resnet18",
    tensorrt="10.3.0",
    gpu="Orin",
    compute_capability=(8, 7),
    dtype="float16",
    model_sha256="ab" * 32,
    inputs=(("input", (-1, 3, 224, 224), "float16"),),
    outputs=(("output", (-1, 1000), "float16"),),
    platform="aarch64",
    built_by="edgejoule 0.3.0",
    settings={"optimization_level": 3, "shapes": [1, 2], "workspace": None},
)
HERE: dict[str, Any] = {
    "tensorrt": "10.3.0",
    "gpu": "Orin",
    "compute_capability": (8, 7),
    "platform": "aarch64",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.engine"


def written(file: Path, plan: bytes = PLAN, **changes: Any) -> EngineFile:
    write_engine_file(file, plan, dataclasses.replace(FACTS, **changes))
    return read_engine_file(file)


def refusal(file: Path, data: bytes) -> str:
    file.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read_engine_file(file)
    assert str(file) in str(caught.value)
    assert caught.value.mend
    return str(caught.value)


def test_what_is_written_is_read(file: Path) -> None:
    found = written(file)
    assert (found.plan, found.facts, found.header) == (PLAN, FACTS, "edgejoule")
    assert plain_plan(file) == PLAN
    assert found.plan_version == "10.3.0.26"
    data = file.read_bytes()
    assert (len(data) - len(PLAN)) % 64 == 0
    assert data.endswith(PLAN)
    assert list(file.parent.iterdir()) == [file]
    source = json.loads(json.dumps(found.source(), allow_nan=False))
    assert source["built"]["inputs"] == [["input", [-1, 3, 224, 224], "float16"]]
    assert (source["file"], source["plan_bytes"]) == ("x.engine", len(PLAN))
    assert (source["name"], source["built"]["tensorrt"]) == ("resnet18", "10.3.0")


def test_facts_that_json_cannot_hold_become_text(file: Path) -> None:
    found = written(file, settings={"path": Path("a"), "inf": float("inf"), 1: (2,)})
    assert found.facts is not None
    assert found.facts.settings == {"path": "a", "inf": "inf", "1": [2]}


def test_a_plan_of_any_length(file: Path) -> None:
    for length in (0, 1, 63, 64, 65):
        assert written(file, bytes(length)).plan == bytes(length)


def test_the_capability_may_be_text(file: Path) -> None:
    found = written(file, compute_capability="8.7")
    assert found.facts is not None
    assert found.facts.compute_capability == (8, 7)
    assert check_engine(found, **{**HERE, "compute_capability": "8.7"}) == ()


# Plans of others


def test_a_plain_plan(file: Path) -> None:
    file.write_bytes(PLAN)
    found = read_engine_file(file)
    assert (found.plan, found.facts, found.header) == (PLAN, None, "none")
    (note,) = check_engine(found, **HERE)
    assert "does not say what built it: TensorRT decides" in note
    assert "10.3" not in note
    (note,) = check_engine(found, **{**HERE, "tensorrt": "10.13.3"})
    assert note.endswith("the plan is of TensorRT 10.3.0.26, this is 10.13.3")


def test_ultralytics_header_is_set_aside(file: Path) -> None:
    said = {"description": "Ultralytics YOLO11n", "stride": 32, "names": {"0": "person"}}
    text = json.dumps(said).encode()
    file.write_bytes(len(text).to_bytes(4, "little") + text + PLAN)
    found = read_engine_file(file)
    assert (found.plan, found.header, found.metadata) == (PLAN, "ultralytics", said)
    assert found.source()["metadata"]["names"] == {"0": "person"}
    assert plain_plan(file) == PLAN
    assert "has no plan" not in check_engine(found, **HERE)[0]


def test_ultralytics_header_without_a_plan(file: Path) -> None:
    text = b'{"stride": 32}'
    head = len(text).to_bytes(4, "little") + text
    assert "has a header and no plan behind it" in refusal(file, head)
    assert "has a header, and behind it text" in refusal(file, head + b"hello, this is no plan")


def test_bytes_nobody_knows_are_left_to_tensorrt(file: Path) -> None:
    file.write_bytes(b"\xfe\x01\x02\x03" * 50)
    found = read_engine_file(file)
    assert (found.header, found.plan_version) == ("none", None)
    assert "TensorRT decides" in check_engine(found, **HERE)[0]


def test_a_plans_own_version() -> None:
    assert plan_version(PLAN) == "10.3.0.26"
    assert plan_version(RTX) == "1.5.0.114"
    assert plan_version(PLAN[:27]) is None
    assert plan_version(b"ftrt" + b"\x61\0\0\0" + bytes(40)) is None  # as 8.5 and older wrote
    assert plan_version(b"ftrt" + bytes(40)) is None
    assert plan_version(b"\0" * 40) is None


def test_what_does_not_fit(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="a header of 1677"):
        written(file, settings={"text": "x" * (16 << 20)})

    def read(_path: Path) -> bytes:
        raise MemoryError

    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(UsageError, match="does not fit into this machine's memory"):
        read_engine_file(file)


# For another machine


def test_an_engine_for_this_machine(file: Path) -> None:
    found = written(file)
    assert check_engine(found, **HERE) == ()
    assert check_engine(found, **{**HERE, "tensorrt": "10.3.0.26", "platform": "arm64"}) == ()


@pytest.mark.parametrize(
    ("here", "message"),
    [
        ({"tensorrt": "10.7.0"}, "by TensorRT 10.3.0, this is 10.7.0; .* install TensorRT 10.3.0"),
        ({"tensorrt": "10.3.1.2"}, "by TensorRT 10.3.0, this is 10.3.1.2"),
        ({"tensorrt": "8.6.1.post1"}, "by TensorRT 10.3.0, this is 8.6.1.post1"),
        ({"platform": "x86_64"}, "for aarch64, this machine is x86_64; build it again"),
        (
            {"compute_capability": (8, 9), "gpu": "NVIDIA L4"},
            r"for Orin \(compute capability 8.7\), this is NVIDIA L4 \(8.9\); build it again",
        ),
        ({"gpu": "Xavier"}, r"for Orin \(compute capability 8.7\), this is Xavier \(8.7\)"),
    ],
)
def test_a_foreign_engine_is_refused(file: Path, here: dict[str, Any], message: str) -> None:
    found = written(file)
    with pytest.raises(UsageError, match=f"x.engine was built {message}") as caught:
        check_engine(found, **{**HERE, **here})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("built", "here", "message"),
    [
        ("10.3.0", "10.13.3", None),
        ("10.3.0", "11.1.0", None),
        ("8.6.1", "10.3.0", None),
        ("10.3.0", "8.6.1", "run on later versions only"),
        ("10.7.0", "10.3.0", "run on later versions only"),
        ("8.6.1", "11.1.0", "do not reach that far"),
    ],
)
def test_version_compatible_engines(file: Path, built: str, here: str, message: str | None) -> None:
    found = written(file, tensorrt=built, settings={"version_compatible": True})
    if message is None:
        assert check_engine(found, **{**HERE, "tensorrt": here}) == ()
        return
    with pytest.raises(UsageError, match=message):
        check_engine(found, **{**HERE, "tensorrt": here})


@pytest.mark.parametrize(
    ("level", "capability", "gpu", "message"),
    [
        ("ampere_plus", (9, 0), "NVIDIA H200", None),
        ("AMPERE_PLUS", (8, 0), "NVIDIA A100", None),
        ("ampere_plus", (7, 5), "NVIDIA T4", "8.0 and newer only"),
        ("same_compute_capability", (8, 7), "NVIDIA Other", None),
        ("same_compute_capability", (8, 6), "NVIDIA A10", "this is NVIDIA A10"),
        ("none", (8, 7), "NVIDIA Other", "this is NVIDIA Other"),
    ],
)
def test_hardware_compatible_engines(
    file: Path, level: str, capability: tuple[int, int], gpu: str, message: str | None
) -> None:
    found = written(file, settings={"hardware_compatibility": level})
    here = {**HERE, "compute_capability": capability, "gpu": gpu}
    if message is None:
        (note,) = check_engine(found, **here)
        assert note == "the engine was built on Orin; one built here may be faster"
        return
    with pytest.raises(UsageError, match=message):
        check_engine(found, **here)


# Damaged


def test_files_that_were_cut_off(file: Path) -> None:
    written(file)
    whole = file.read_bytes()
    start = len(whole) - len(PLAN)
    for length in range(1, len(whole), 7):
        message = refusal(file, whole[:length])
        where = "ends within its header" if length < start else "is cut off"
        assert where in message, length
    assert "is empty" in refusal(file, b"")
    assert "has something behind its end" in refusal(file, whole + b"\n")


def test_one_changed_bit_anywhere_is_found(file: Path) -> None:
    written(file)
    whole = file.read_bytes()
    for place in [*range(8, 20), *range(24, len(whole), 5)]:  # four bytes at 20 are not used
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        refusal(file, bytes(damaged))
    damaged = bytearray(whole)
    damaged[-1] ^= 1
    assert "the plan's SHA-256 does not agree" in refusal(file, bytes(damaged))
    damaged = bytearray(whole)
    damaged[30] ^= 1
    assert "its header was changed" in refusal(file, bytes(damaged))


def test_a_length_that_cannot_be(file: Path) -> None:
    written(file)
    whole = file.read_bytes()
    absurd = whole[:12] + (2**32 - 1).to_bytes(4, "little") + whole[16:]
    assert "is damaged: a header of 4294967295 bytes" in refusal(file, absurd)
    longer = whole[:12] + (10**6).to_bytes(4, "little") + whole[16:]
    assert "ends within its header" in refusal(file, longer)


def test_another_format(file: Path) -> None:
    written(file)
    whole = file.read_bytes()
    newer = whole[:8] + (2).to_bytes(4, "little") + whole[12:]
    assert "is of format 2, this edgejoule reads 1" in refusal(file, newer)


def test_a_conversion_of_text_is_seen(file: Path) -> None:
    written(file)
    whole = file.read_bytes()
    for changed in (
        whole.replace(b"\r\n", b"\n"),
        whole.replace(b"\n", b"\r\n"),
        bytes(byte & 0x7F for byte in whole),
    ):
        assert "changed on its way, as text is" in refusal(file, changed)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.pop("plan_sha256"),
        lambda h: h.pop("facts"),
        lambda h: h["facts"].pop("gpu"),
        lambda h: h["facts"].update(gpu=7),
        lambda h: h["facts"].update(settings=[]),
        lambda h: h["facts"].update(tensorrt="new"),
        lambda h: h["facts"].update(compute_capability="8"),
        lambda h: h["facts"].update(inputs=[["x", [float("inf")], "float32"]]),
        lambda h: h["facts"].update(inputs=[["x", 3]]),
        lambda h: h.update(plan_bytes="many"),
    ],
)
def test_a_header_that_lacks_something(
    file: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], object]
) -> None:
    """Written whole, with a checksum that agrees: by another program, say."""
    plain_dumps = json.dumps

    def dumps(header: dict[str, Any], **_: Any) -> str:
        change(header)
        return plain_dumps(header)

    with monkeypatch.context() as patch:
        patch.setattr(engine_file.json, "dumps", dumps)
        write_engine_file(file, PLAN, FACTS)
    assert "its header does not hold what it must" in refusal(file, file.read_bytes())


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no-such.engine cannot be read \(No such file"):
        read_engine_file(tmp_path / "no-such.engine")
    with pytest.raises(UsageError, match="is a folder; give one file"):
        read_engine_file(tmp_path)
