"""Inputs: seeded values, images, arrays, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.errors import UsageError
from edgejoule.inference.inputs import hash_inputs, load_inputs, make_inputs, save_inputs
from edgejoule.inference.workload import InputSpec

IMAGE = (InputSpec("x", (2, 3, 8, 6)),)
NORM = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.5]}


def test_normal_values_are_seeded_standard_normal_and_differ_between_sets() -> None:
    specs = (InputSpec("x", (1, 3, 64, 64)),)
    made, description = make_inputs("normal", specs, NORM, seed=7)
    again, same = make_inputs("normal", specs, None, seed=7)
    other, different = make_inputs("normal", specs, NORM, seed=8)
    assert len(made) == 4
    assert made[0]["x"].dtype == np.float32
    values = np.concatenate([one["x"].ravel() for one in made])
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02
    assert not np.array_equal(made[0]["x"], made[1]["x"])
    assert description.sha256 == same.sha256 == hash_inputs(again)
    assert different.sha256 == hash_inputs(other) != description.sha256
    assert (description.distribution, description.seed) == ("standard normal", 7)
    assert description.normalisation is None


def test_uniform_pixels_are_normalised_as_images_are() -> None:
    made, description = make_inputs("uniform", IMAGE, NORM, seed=0)
    for channel, (mean, std) in enumerate(zip(NORM["mean"], NORM["std"], strict=True)):
        plane = made[0]["x"][:, channel]
        assert plane.min() >= (0 - mean) / std - 1e-6
        assert plane.max() <= (1 - mean) / std + 1e-6
    assert description.distribution == "uniform from 0 to 1, then normalised"
    assert description.normalisation == NORM
    plain, words = make_inputs("uniform", (InputSpec("x", (3, 5)),), NORM, seed=0)
    assert 0 <= plain[0]["x"].min() < plain[0]["x"].max() < 1
    assert words.distribution == "uniform from 0 to 1"


def test_zeros_integers_and_booleans() -> None:
    specs = (
        InputSpec("x", (2, 2), "float16"),
        InputSpec("ids", (50,), "int64", high=5),
        InputSpec("kind", (50,), "int32"),
        InputSpec("mask", (50,), "bool"),
        InputSpec("b", (2,), "bfloat16"),
    )
    made, description = make_inputs("zeros", specs, None, seed=1, sets=2)
    assert len(made) == 2
    assert not made[0]["x"].any()
    assert made[0]["x"].dtype == np.float16
    assert set(made[0]["ids"]) == {0, 1, 2, 3, 4}
    assert set(made[0]["kind"]) == {0, 1}
    assert made[0]["mask"].dtype == np.bool_
    assert made[0]["b"].dtype == np.float32  # numpy has no bfloat16
    assert "ids: integers below 5" in description.distribution


@pytest.mark.parametrize("dtype", ["complex64", "float12"])
def test_a_dtype_that_cannot_be_made_is_refused(dtype: str) -> None:
    with pytest.raises(UsageError, match="'x' is of dtype"):
        make_inputs("normal", (InputSpec("x", (2,), dtype),), None, 0)


def test_a_model_without_input_is_refused() -> None:
    with pytest.raises(UsageError, match="takes no input"):
        make_inputs("normal", (), None, 0)


@settings(max_examples=30, deadline=None)
@given(
    shapes=st.lists(
        st.lists(st.integers(1, 4), min_size=0, max_size=4).map(tuple), min_size=1, max_size=3
    ),
    sets=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_sets_survive_their_file(
    tmp_path_factory: pytest.TempPathFactory, shapes: list, sets: int, seed: int
) -> None:
    specs = [InputSpec(f"input/{k}", shape) for k, shape in enumerate(shapes)]
    made, description = make_inputs("normal", specs, None, seed, sets)
    path = tmp_path_factory.mktemp("inputs") / "inputs.npz"
    save_inputs(path, made)
    assert hash_inputs(load_inputs(path)) == description.sha256
    assert [list(one) for one in load_inputs(path)] == [list(one) for one in made]


def test_more_than_ten_sets_stay_in_order(tmp_path: Path) -> None:
    made, description = make_inputs("normal", IMAGE, None, 0, sets=12)
    save_inputs(tmp_path / "inputs.npz", made)
    assert hash_inputs(load_inputs(tmp_path / "inputs.npz")) == description.sha256


def test_an_array_of_the_models_shape_is_one_set(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 8 * 6, dtype=np.float64).reshape(2, 3, 8, 6)
    np.save(tmp_path / "x.npy", array)
    made, description = make_inputs(str(tmp_path / "x.npy"), IMAGE, NORM, 0)
    assert len(made) == 1
    assert made[0]["x"].dtype == np.float32
    np.testing.assert_array_equal(made[0]["x"], array)
    assert (description.kind, description.files) == ("arrays", ("x.npy",))
    assert (description.seed, description.normalisation) == (None, None)


def test_a_longer_array_is_cut_into_batches(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((7, 3, 8, 6))
    np.save(tmp_path / "x.npy", array)
    made, _ = make_inputs(str(tmp_path / "x.npy"), IMAGE, None, 0)
    assert len(made) == 3
    np.testing.assert_allclose(made[2]["x"], array[4:6], rtol=1e-6)


def test_a_folder_of_arrays_is_stacked_and_used_again_where_too_few(tmp_path: Path) -> None:
    one = np.full((3, 8, 6), 2.0)
    np.save(tmp_path / "a.npy", one)
    made, _ = make_inputs(str(tmp_path), IMAGE, None, 0)
    assert len(made) == 1
    np.testing.assert_array_equal(made[0]["x"], np.stack([one, one]))
    for name in "bcdefghijk":
        np.save(tmp_path / f"{name}.npy", one)
    made, description = make_inputs(str(tmp_path), IMAGE, None, 0)
    assert len(made) == 4
    assert len(description.files) == 8


def test_an_array_of_another_shape_names_both(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 9, 6)))
    with pytest.raises(UsageError, match=r"\[2, 3, 9, 6\].*'x' of shape \[2, 3, 8, 6\]"):
        make_inputs(str(tmp_path / "x.npy"), IMAGE, None, 0)


def test_what_is_no_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"no array")
    with pytest.raises(UsageError, match=r"x\.npy: not a readable \.npy"):
        make_inputs(str(tmp_path / "x.npy"), IMAGE, None, 0)
    np.save(tmp_path / "x.npy", np.array(["text"]))
    with pytest.raises(UsageError, match="not numbers"):
        make_inputs(str(tmp_path / "x.npy"), IMAGE, None, 0)
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="not a readable"):
        make_inputs(str(tmp_path / "x.npy"), IMAGE, None, 0)


def test_paths_that_do_not_serve(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        make_inputs(str(tmp_path / "nowhere"), IMAGE, None, 0)
    (tmp_path / "text.txt").write_text("text")
    with pytest.raises(UsageError, match=r"but no \.npy"):
        make_inputs(str(tmp_path / "text.txt"), IMAGE, None, 0)
    with pytest.raises(UsageError, match="neither images nor"):
        make_inputs(str(tmp_path), IMAGE, None, 0)
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "a.npy").write_bytes(b"")
    with pytest.raises(UsageError, match="both images and"):
        make_inputs(str(tmp_path), IMAGE, None, 0)
    with pytest.raises(UsageError, match=r"takes 2 \(x, y\)"):
        make_inputs(str(tmp_path), (*IMAGE, InputSpec("y", (1,))), None, 0)


def test_images_are_scaled_and_normalised(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for index, colour in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255))):
        image.new("RGB", (40, 20), colour).save(tmp_path / f"{index}.png")
    made, description = make_inputs(str(tmp_path), IMAGE, NORM, 0)
    assert len(made) == 1
    assert made[0]["x"].shape == (2, 3, 8, 6)
    low = [(0 - m) / s for m, s in zip(NORM["mean"], NORM["std"], strict=True)]
    high = [(1 - m) / s for m, s in zip(NORM["mean"], NORM["std"], strict=True)]
    np.testing.assert_allclose(made[0]["x"][0, :, 4, 3], [high[0], low[1], low[2]], rtol=1e-5)
    np.testing.assert_allclose(made[0]["x"][1, :, 4, 3], [low[0], high[1], low[2]], rtol=1e-5)
    assert (description.kind, description.normalisation) == ("images", NORM)
    grey, _ = make_inputs(str(tmp_path), (InputSpec("x", (1, 1, 4, 4)),), NORM, 0)
    assert len(grey) == 3
    assert 0 <= grey[0]["x"].min() <= grey[0]["x"].max() <= 1


def test_images_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"\[N, 1 or 3, H, W\]"):
        make_inputs(str(tmp_path), (InputSpec("x", (1, 5)),), None, 0)
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "PIL", None)
        with pytest.raises(UsageError, match=r"Pillow.*pip install pillow"):
            make_inputs(str(tmp_path), IMAGE, None, 0)
    pytest.importorskip("PIL.Image")
    with pytest.raises(UsageError, match=r"a\.png: not a readable image"):
        make_inputs(str(tmp_path), IMAGE, None, 0)
