"""Calibration data and the cache of ranges: what is taken, what is kept, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.errors import UsageError
from edgejoule.files import sha256_of
from edgejoule.inference.calibration_cache import (
    Cache,
    CacheKey,
    check_cache,
    read_cache,
    write_cache,
)
from edgejoule.inference.calibration_data import ITEMS, load_calibration
from edgejoule.inference.inputs import hash_inputs
from edgejoule.inference.workload import InputSpec
from tests.support_precision import write_pictures

SHAPE = (3, 6, 8)
ONE = (InputSpec("x", (1, *SHAPE)),)
FOUR = (InputSpec("x", (4, *SHAPE)),)
NORM = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.5]}
KEY = CacheKey(
    "a" * 64, "b" * 64, (("1.png", "c" * 64), ("2.png", "d" * 64)), "int8", "percentile 99.99",
    {"onnxruntime": "1.31.1"},
)  # fmt: skip


def test_calibration_is_asked_for_by_name() -> None:
    with pytest.raises(UsageError) as caught:
        load_calibration(None, ONE, NORM, 0)
    assert str(caught.value).startswith(
        "int8 and fp8 need --calibration FOLDER with images of the kind the network will see"
    )
    assert "normal, uniform, zeros" in caught.value.mend


def test_images_are_normalised_hashed_and_named(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    folder = write_pictures(tmp_path / "photos", 6, SHAPE, seed=0)
    data = load_calibration(str(folder), FOUR, NORM, seed=0)
    assert [one["x"].shape for one in data.sets] == [(4, *SHAPE)]  # one whole batch of the six
    assert data.files[0] == ("000.png", sha256_of(folder / "000.png"))
    assert len(data.files) == 6
    assert data.sha256 == hash_inputs(data.sets)
    facts = data.to_json()
    json.dumps(facts, allow_nan=False)
    assert facts["kind"] == "images"
    assert facts["distribution"] == "images of photos"
    assert facts["normalisation"] == NORM
    assert facts["files"][5] == ["005.png", data.files[5][1]]
    raw = load_calibration(str(folder), FOUR, None, seed=0)
    assert raw.sha256 != data.sha256
    assert raw.files == data.files


def test_generated_values_are_recorded_as_such() -> None:
    data = load_calibration("uniform", FOUR, NORM, seed=3, count=2)
    assert len(data.sets) == 2
    assert data.files == ()
    assert data.to_json()["distribution"] == "uniform from 0 to 1, then normalised"
    assert data.to_json()["seed"] == 3


@pytest.mark.parametrize(
    ("shape", "sets"),
    [((1, 2), ITEMS), ((32, 2), 4), ((100, 2), 1), ((300, 2), 1), ((1, 3, 2048, 2048), 10)],
)
def test_as_many_sets_as_hold_the_items_and_fit(
    shape: tuple[int, ...], sets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, int] = {}

    def note(*_args: Any, sets: int) -> Any:
        asked["sets"] = sets
        raise UsageError("enough", "")

    monkeypatch.setattr("edgejoule.inference.calibration_data.make_inputs", note)
    with pytest.raises(UsageError, match="enough"):
        load_calibration("normal", (InputSpec("x", shape),), None, 0)
    assert asked == {"sets": sets}


def test_fewer_images_than_a_batch_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    folder = write_pictures(tmp_path / "photos", 3, SHAPE, seed=0)
    with pytest.raises(UsageError) as caught:
        load_calibration(str(folder), FOUR, NORM, 0)
    message = f"--calibration {folder} holds 3 images, a batch of the model takes 4"
    assert str(caught.value) == f"{message}; give more, or a smaller batch"


def test_fewer_arrays_than_a_batch_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "few.npy"
    np.save(file, np.zeros((3, *SHAPE), np.float32))
    with pytest.raises(UsageError, match=r"few\.npy holds 3 arrays, a batch of the model takes 4"):
        load_calibration(str(file), FOUR, None, 0)
    np.save(file, np.zeros((9, *SHAPE), np.float32))
    assert len(load_calibration(str(file), FOUR, None, 0).sets) == 2


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nowhere", "--calibration nowhere: no such file or folder"),
        ("text.txt", "--calibration text.txt is a file, but no .npy"),
        ("empty", "--calibration empty: the folder holds neither images nor .npy files"),
        ("broken", "--calibration broken/0.png: not a readable image"),
        ("other.npy", "--calibration other.npy is of shape [2, 5], the model's input 'x'"),
    ],
)
def test_refusals_name_the_flag_that_was_given(
    kind: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("PIL")
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("no array")
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/0.png").write_bytes(b"no image")
    np.save("other.npy", np.zeros((2, 5)))
    with pytest.raises(UsageError) as caught:
        load_calibration(kind, ONE, None, 0)
    assert message in str(caught.value)
    assert "--input " not in str(caught.value)


def test_a_flag_of_another_name_stays_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 5)))
    with pytest.raises(UsageError, match="choose --input-shape to fit"):
        load_calibration(str(tmp_path / "a.npy"), ONE, None, 0)


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(
    files=st.lists(st.tuples(NAMES, NAMES), max_size=4),
    ranges=st.dictionaries(NAMES, st.tuples(NUMBERS, NUMBERS).map(lambda p: (min(p), max(p)))),
    versions=st.dictionaries(NAMES, NAMES, max_size=3),
    calibrator=st.none() | st.binary(max_size=50),
    words=st.tuples(NAMES, NAMES, NAMES, NAMES),
)
def test_a_cache_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[str, str]],
    ranges: dict[str, tuple[float, float]],
    versions: dict[str, str],
    calibrator: bytes | None,
    words: tuple[str, str, str, str],
) -> None:
    model, data, dtype, method = words
    key = CacheKey(model, data, tuple(files), dtype, method, versions)
    path = tmp_path_factory.mktemp("cache") / "new" / "ranges.json"
    write_cache(path, Cache(key, ranges, calibrator))
    read = read_cache(path)
    assert read == Cache(key, ranges, calibrator)
    check_cache(path, read, key)
    assert [file.name for file in path.parent.iterdir()] == ["ranges.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_sha256": "e" * 64}, "of another model (sha256 aaaaaaaaaaaa, this one is eeeeeee"),
        ({"files": (*KEY.files, ("3.png", "f" * 64))}, "its data differ (added: 3.png)"),
        ({"files": KEY.files[:1]}, "its data differ (removed: 2.png)"),
        ({"files": (KEY.files[0], ("2.png", "f" * 64))}, "its data differ (changed: 2.png)"),
        ({"files": KEY.files[::-1]}, "its data differ (their order)"),
        (
            {"files": tuple((f"{i}.png", "f" * 64) for i in range(3, 9))},
            "(added: 3.png, 4.png, 5.png and 3 more; removed: 1.png, 2.png)",
        ),
        ({"data_sha256": "f" * 64}, "its data are prepared in another way (shape, normalisation"),
        ({"dtype": "fp8"}, "it is for int8, not fp8"),
        ({"method": "max"}, "its ranges were found by 'percentile 99.99', not 'max'"),
        ({"versions": {"onnxruntime": "1.18.0"}}, "made with onnxruntime 1.31.1, this is 1.18.0"),
        ({"versions": {"tensorrt": "8.6.1"}}, "it was made with tensorrt none, this is 8.6.1"),
    ],
)
def test_a_stale_cache_is_refused_with_what_differs(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        check_cache(tmp_path / "ranges.json", Cache(KEY, {"x": (0.0, 1.0)}), replace(KEY, **change))
    text = str(caught.value)
    assert text.startswith(f"calibration cache {tmp_path / 'ranges.json'} is stale: ")
    assert message in text
    assert text.endswith("give another --calibration-cache, or delete it to have it made again")


def test_all_differences_are_named_at_once(tmp_path: Path) -> None:
    other = CacheKey("e" * 64, "b" * 64, KEY.files, "fp8", "max", {"onnxruntime": "1.31.1"})
    with pytest.raises(UsageError, match=r"another model .*; it is for int8.*; its ranges"):
        check_cache(tmp_path, Cache(KEY), other)


def damaged(**change: Any) -> dict[str, Any]:
    return {
        "format": "edgejoule calibration", "version": 1, "model_sha256": "a", "data_sha256": "b",
        "files": [], "dtype": "int8", "method": "max", "versions": {}, "ranges": {},
        "calibrator": None, **change,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged ("),
        ("[1]", "is no calibration cache of this program"),
        ('{"format": "PyTorch"}', "is no calibration cache of this program"),
        (json.dumps(damaged(version=2)), "is of format 2, this version reads 1"),
        (json.dumps(damaged(ranges={"x": [1, 0]})), "damaged (the range of 'x' is [1, 0])"),
        (json.dumps(damaged(ranges={"x": [0]})), "is damaged ("),
        (json.dumps(damaged(ranges={"x": ["0", "1"]})), "is damaged (the range of 'x'"),
        (json.dumps(damaged(ranges={"x": [0, float("nan")]})), "is damaged (the range of 'x'"),
        (json.dumps(damaged(ranges=[])), "is damaged ("),
        (json.dumps(damaged(files=[["a"]])), "is damaged ("),
        (json.dumps(damaged(dtype=8)), "is damaged (dtype is no text)"),
        (json.dumps(damaged(calibrator="#")), "the calibrator's part is no base64"),
        (json.dumps({k: v for k, v in damaged().items() if k != "method"}), "(no 'method')"),
    ],
)
def test_a_damaged_cache_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    path.write_text(content)
    with pytest.raises(UsageError) as caught:
        read_cache(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_cache_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pickle").write_bytes(b"\x80\x04\x95\xff\xff")
    with pytest.raises(UsageError, match=r"calibration cache .*pickle is damaged"):
        read_cache(tmp_path / "pickle")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"calibration cache: .* is in the way"):
        write_cache(tmp_path / "file" / "ranges.json", Cache(KEY))
