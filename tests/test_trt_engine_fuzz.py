"""Any bytes given as an engine end in a plan or in one line, never in a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgejoule.errors import UsageError
from edgejoule.inference.trt.engine_file import MAGIC, check_engine, read_engine_file
from tests.test_trt_engine_file import FACTS, HERE, PLAN, RTX, written
from tests.test_trt_engine_foreign import OTHERS, safetensors

pytest.importorskip("hypothesis")
from hypothesis import given
from hypothesis import strategies as st

BEGINNINGS = [
    *(data for data, _ in OTHERS.values()),
    *(b"", MAGIC, MAGIC + bytes(16), PLAN, RTX, safetensors(), b"\x10\0\0\0{", b"PK\x03\x04"),
]


def read(folder: Path, data: bytes) -> None:
    file = folder / "fuzzed.engine"
    file.write_bytes(data)
    try:
        found = read_engine_file(file)
    except UsageError as error:
        line = str(error)
    else:
        line = ""
    if line:
        assert "\n" not in line
        return
    assert data.endswith(found.plan)
    if found.facts is None:
        assert check_engine(found, **HERE)
    else:
        assert found.facts == FACTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@given(beginning=st.sampled_from(BEGINNINGS), rest=st.binary(max_size=200))
def test_any_bytes_behind_a_beginning(folder: Path, beginning: bytes, rest: bytes) -> None:
    read(folder, beginning + rest)


@given(data=st.data())
def test_a_whole_file_with_a_piece_changed(folder: Path, data: st.DataObject) -> None:
    file = folder / "whole.engine"
    if not file.exists():
        written(file)
    whole = file.read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 40)))
    piece = data.draw(st.binary(max_size=40))
    read(folder, whole[:start] + piece + whole[end:])


@given(text=st.binary(max_size=60), length=st.integers(0, 2**32 - 1))
def test_any_length_before_any_json(folder: Path, text: bytes, length: int) -> None:
    read(folder, length.to_bytes(4, "little") + b"{" + text)
    read(folder, length.to_bytes(8, "little") + b"{" + text)
    read(folder, (len(text) + 1).to_bytes(4, "little") + b"{" + text + PLAN)
