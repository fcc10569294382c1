"""Saved models: the same when read back, read without scikit-learn, refused when not ours."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.dataset.tables.layer_columns import LAYER_TABLE_VERSION
from edgejoule.errors import UsageError
from edgejoule.prediction.features import NUMBERS, REST
from edgejoule.prediction.fitting import Training, fit_predictor, predict_layers
from edgejoule.prediction.learning import MODELS
from edgejoule.prediction.model_check import Unfit, check_predictor
from edgejoule.prediction.model_file import load_model, save_model
from tests.support_prediction import training

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def four() -> Training:
    # One network is off the law of the others, so that trees have something to split.
    return training(3, method="replay", factor={"net0": 1.3})


@pytest.fixture(scope="module")
def model(four: Training) -> dict[str, Any]:
    return {
        "format": "edgejoule-prediction",
        "version": 1,
        "table_version": LAYER_TABLE_VERSION,
        "edgejoule_version": "0",
        "features": list(NUMBERS),
        "rest": REST,
        "seed": 0,
        "level": 0.9,
        "configuration": {"backend": "onnxruntime"},
        "versions": ["1"],
        "rail": "VDD",
        "simulated": False,
        "dataset": {"sha256": "0", "commit": None, "tags": []},
        "networks": four.names(),
        "runs": [],
        "notes": [],
        "units": {},
        "predictor": fit_predictor(four, 0),
    }


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_what_is_read_back_predicts_the_same(
    suffix: str, model: dict[str, Any], four: Training, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = tmp_path / f"model{suffix}"
    save_model(path, model)
    save_model(tmp_path / f"again{suffix}", model)
    assert path.read_bytes() == (tmp_path / f"again{suffix}").read_bytes()
    assert [one.name for one in tmp_path.glob("*.tmp")] == []
    for name in [one for one in sys.modules if one.split(".")[0] in {"sklearn", "scipy"}]:
        monkeypatch.setitem(sys.modules, name, None)  # importing them raises
    found = load_model(path)
    layers = four.target.layers
    for which in MODELS:
        ours = predict_layers(found["predictor"], layers, which)
        theirs = predict_layers(model["predictor"], layers, which)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "onnx"}, "its format is 'onnx'"),
        ({"version": 2}, "its version is 2, this edgejoule reads 1"),
        ({"table_version": 7}, "version 7 of the table"),
        ({"features": ["flops"]}, "its features are not those"),
        ({"runs": None}, "'runs' is missing"),
        ({"predictor": {}}, "no readable model"),
    ],
)
def test_a_foreign_model_is_refused_in_one_line(
    changes: dict[str, Any], words: str, model: dict[str, Any], tmp_path: Path
) -> None:
    save_model(tmp_path / "model.npz", {**model, **changes})
    with pytest.raises(UsageError) as caught:
        load_model(tmp_path / "model.npz")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def forest_of(predictor: dict[str, Any]) -> dict[str, Any]:
    kinds = predictor["runtime_ms"]["trees"]
    found: dict[str, Any] = next(one for one in kinds.values() if one["form"] == "forest")
    return found


def _loop(predictor: dict[str, Any]) -> None:
    one = forest_of(predictor)
    inner = int(np.flatnonzero(one["feature"] >= 0)[1])
    one["left"] = one["left"].copy()
    one["left"][inner] = 0


def _outside(predictor: dict[str, Any]) -> None:
    one = forest_of(predictor)
    one["right"] = np.where(one["feature"] >= 0, len(one["feature"]), 0).astype(np.int32)


def _column(predictor: dict[str, Any]) -> None:
    one = forest_of(predictor)
    one["feature"] = np.where(one["feature"] >= 0, 9999, -1).astype(np.int32)


def _short(predictor: dict[str, Any]) -> None:
    one = forest_of(predictor)
    one["value"] = one["value"][:-1]


def _no_rest(predictor: dict[str, Any]) -> None:
    del predictor["runtime_ms"]["mean"][REST]


def _exponents(predictor: dict[str, Any]) -> None:
    one = predictor["runtime_ms"]["published"]["convolution"]
    one["exponents"] = np.ones((2, 99), dtype=np.int64)


@pytest.mark.parametrize("spoil", [_loop, _outside, _column, _short, _no_rest, _exponents])
def test_a_predictor_that_cannot_be_evaluated_is_refused(
    spoil: Callable[[dict[str, Any]], None], model: dict[str, Any], tmp_path: Path
) -> None:
    save_model(tmp_path / "model.npz", model)
    predictor = load_model(tmp_path / "model.npz")["predictor"]
    check_predictor(predictor)
    spoil(predictor)
    with pytest.raises(Unfit):
        check_predictor(predictor)
    save_model(tmp_path / "spoilt.npz", {**model, "predictor": predictor})
    with pytest.raises(UsageError, match="cannot be used as a model"):
        load_model(tmp_path / "spoilt.npz")


def test_damaged_files_give_one_line(model: dict[str, Any], four: Training, tmp_path: Path) -> None:
    expected = predict_layers(model["predictor"], four.target.layers, "trees")["runtime_ms"]
    for suffix in (".npz", ".json"):
        path = tmp_path / f"whole{suffix}"
        save_model(path, model)
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        spoilt = [b"", b"x", b"{}", b"[1]", b"null", whole[: len(whole) // 2], whole[:-40]]
        for _ in range(25):
            place = int(rng.integers(len(whole)))
            spoilt.append(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        refusals = []
        for content in spoilt:
            target = tmp_path / f"spoilt{suffix}"
            target.write_bytes(content)
            try:
                found = load_model(target)["predictor"]
            except UsageError as error:
                refusals.append(str(error))
                continue
            again = predict_layers(found, four.target.layers, "trees")["runtime_ms"]
            if suffix == ".npz":  # its members have checksums: only what says nothing can differ
                assert np.array_equal(again, expected)
        assert not any("\n" in one for one in refusals)
        assert len(refusals) >= 7  # what is no model, and what was cut


def test_no_pickle_is_read(model: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    save_model(path, model)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    evil = io.BytesIO()
    np.lib.format.write_array(evil, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    members["a0.npy"] = evil.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(UsageError, match="no readable model"):
        load_model(path)


def test_what_would_fill_the_memory_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("document.npy", b"\0" * (300 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UsageError, match="unpacks to more than 256 MiB"):
        load_model(path)


def test_a_header_that_asks_for_too_much_memory_is_refused(
    model: dict[str, Any], tmp_path: Path
) -> None:
    save_model(tmp_path / "model.json", model)
    document = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    document["arrays"][0]["shape"] = [10**15]
    (tmp_path / "model.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(UsageError, match="no readable model"):
        load_model(tmp_path / "model.json")


def test_other_names_are_refused(model: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.npz or \.json"):
        save_model(tmp_path / "model.pkl", model)
    with pytest.raises(UsageError, match="no such file"):
        load_model(tmp_path / "absent.npz")
    with pytest.raises(UsageError, match="is a folder"):
        load_model(tmp_path)
