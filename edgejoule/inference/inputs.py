"""What a model is fed: seeded values, or the user's images or arrays, with their hash.

Values change power (a multiplier fed zeros toggles fewer wires), so where they come from, the seed
and a hash of the arrays stand in every run. Several sets are made and used in rotation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from edgejoule.inference.workload import InputSpec

GENERATED = ("normal", "uniform", "zeros")
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_UNKNOWN_HIGH = 2  # of an integer input whose range the loader does not know

InputSet = dict[str, "np.ndarray"]


@dataclass(frozen=True)
class InputDescription:
    """What the inputs were; stands in `run.json`.

    Attributes:
        kind: `normal`, `uniform`, `zeros`, `images` or `arrays`.
        distribution: The values in words, per input where they differ.
        seed: Seed of generated values, None for the user's own.
        sets: How many sets are used in rotation.
        sha256: Over names, dtypes, shapes and values of all sets.
        shapes: Input name -> shape.
        files: Names of the user's files in the order of use.
        normalisation: Mean and standard deviation that were applied, or None.
    """

    kind: str
    distribution: str
    seed: int | None
    sets: int
    sha256: str
    shapes: dict[str, list[int]]
    files: tuple[str, ...] = ()
    normalisation: dict[str, list[float]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def make_inputs(
    kind: str,
    specs: Sequence[InputSpec],
    normalisation: Mapping[str, Sequence[float]] | None,
    seed: int,
    sets: int = 4,
) -> tuple[list[InputSet], InputDescription]:
    """Make the sets of inputs that inferences use in rotation.

    Args:
        kind: `normal` (standard normal: what the model's own normalisation makes of images, on
            average), `uniform` (pixels from 0 to 1, normalised), `zeros`, a folder of images or
            `.npy` files, or one `.npy` file.
        specs: The model's inputs, in order.
        normalisation: `mean` and `std` per channel for images, or None.
        seed: Seed of generated values; integers are drawn below `InputSpec.high`.
        sets: How many sets to make of generated values, at most that many of files.

    Raises:
        UsageError: The file or folder is missing, unreadable, empty, or of another shape.
    """
    norm = (
        {key: [float(value) for value in normalisation[key]] for key in ("mean", "std")}
        if normalisation
        else None
    )
    if not specs:
        raise UsageError("the model takes no input", "give a model that takes at least one tensor")
    files: tuple[str, ...] = ()
    if kind in GENERATED:
        made, distribution = _generate(kind, specs, norm, seed, sets)
        used_norm = norm if kind == "uniform" else None
        label, used_seed = kind, seed
    else:
        spec = _only(kind, specs)
        label, paths = _find_files(kind)
        batches = (
            _from_images(paths, spec, norm, sets)
            if label == "images"
            else _from_arrays(paths, spec, sets)
        )
        made = [{spec.name: batch} for batch in batches]
        files = tuple(path.name for path in paths[: max(1, sets * max(1, spec.shape[0]))])
        distribution = f"{label} of {Path(kind).name}"
        used_norm = norm if label == "images" else None
        used_seed = None
    description = InputDescription(
        kind=label,
        distribution=distribution,
        seed=used_seed,
        sets=len(made),
        sha256=hash_inputs(made),
        shapes={spec.name: list(spec.shape) for spec in specs},
        files=files,
        normalisation=used_norm,
    )
    return made, description


def hash_inputs(sets: Sequence[Mapping[str, np.ndarray]]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and values of all sets."""
    import numpy as np

    digest = hashlib.sha256()
    for one in sets:
        for name, array in one.items():
            digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def save_inputs(path: Path, sets: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Write the sets to one `.npz` file."""
    import numpy as np

    arrays: dict[str, Any] = {
        f"{index}/{name}": array for index, one in enumerate(sets) for name, array in one.items()
    }
    np.savez(path, **arrays)


def load_inputs(path: Path) -> list[InputSet]:
    """Read the sets that `save_inputs` wrote."""
    import numpy as np

    sets: dict[int, InputSet] = {}
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            index, _, name = key.partition("/")
            sets.setdefault(int(index), {})[name] = file[key]
    return [sets[index] for index in sorted(sets)]


def _numpy_dtype(spec: InputSpec) -> np.dtype[Any]:
    """The dtype an input is stored in; numpy has no bfloat16, the backend casts to it."""
    import numpy as np

    try:
        return np.dtype("float32" if spec.dtype == "bfloat16" else spec.dtype)
    except TypeError as error:
        raise UsageError(
            f"input {spec.name!r} is of dtype {spec.dtype!r}, which cannot be generated"
        ) from error


def _generate(
    kind: str,
    specs: Sequence[InputSpec],
    norm: dict[str, list[float]] | None,
    seed: int,
    sets: int,
) -> tuple[list[InputSet], str]:
    """Make the sets of generated values and say in words what they are."""
    import numpy as np

    random = np.random.default_rng(seed)
    words: dict[str, str] = {}
    made: list[InputSet] = []
    for _ in range(sets):
        one: InputSet = {}
        for spec in specs:
            one[spec.name], words[spec.name] = _generate_one(kind, spec, norm, random)
        made.append(one)
    if len(set(words.values())) == 1:
        return made, next(iter(words.values()))
    return made, "; ".join(f"{name}: {text}" for name, text in words.items())


def _generate_one(
    kind: str, spec: InputSpec, norm: dict[str, list[float]] | None, random: np.random.Generator
) -> tuple[np.ndarray, str]:
    import numpy as np

    dtype = _numpy_dtype(spec)
    if dtype.kind in "iu":
        high = spec.high or _UNKNOWN_HIGH
        return random.integers(0, high, spec.shape).astype(dtype), f"integers below {high}"
    if dtype.kind == "b":
        return random.integers(0, 2, spec.shape).astype(dtype), "random booleans"
    if dtype.kind != "f":
        raise UsageError(f"input {spec.name!r} is of dtype {spec.dtype!r}, which is not generated")
    if kind == "zeros":
        return np.zeros(spec.shape, dtype), "zeros"
    if kind == "normal":
        return random.standard_normal(spec.shape).astype(dtype), "standard normal"
    values = random.random(spec.shape)
    if norm is not None and len(spec.shape) == 4 and spec.shape[1] == len(norm["mean"]):
        return _normalise(values, norm).astype(dtype), "uniform from 0 to 1, then normalised"
    return values.astype(dtype), "uniform from 0 to 1"


def _normalise(pixels: np.ndarray, norm: dict[str, list[float]]) -> np.ndarray:
    """Apply mean and standard deviation per channel; `pixels` is (..., C, H, W) from 0 to 1."""
    import numpy as np

    mean, std = (np.asarray(norm[key], dtype=np.float64)[:, None, None] for key in ("mean", "std"))
    normalised: np.ndarray = (pixels - mean) / std
    return normalised


def _only(kind: str, specs: Sequence[InputSpec]) -> InputSpec:
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise UsageError(
            f"--input {kind} gives one tensor, the model takes {len(specs)} ({names})",
            f"use --input {'|'.join(GENERATED)}",
        )
    return specs[0]


def _find_files(kind: str) -> tuple[str, list[Path]]:
    """Return `images` or `arrays` and the files, in the order of their names."""
    path = Path(kind)
    if path.is_file():
        if path.suffix.lower() != ".npy":
            raise UsageError(f"--input {kind} is a file, but no .npy", "give its folder for images")
        return "arrays", [path]
    if not path.is_dir():
        raise UsageError(
            f"--input {kind}: no such file or folder",
            f"use {', '.join(GENERATED)}, a folder of images or .npy files, or a .npy file",
        )
    files = sorted(file for file in path.iterdir() if file.is_file())
    arrays = [file for file in files if file.suffix.lower() == ".npy"]
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if bool(arrays) == bool(images):
        found = "both images and .npy files" if arrays else "neither images nor .npy files"
        raise UsageError(f"--input {kind}: the folder holds {found}", "use a folder of one kind")
    return ("arrays", arrays) if arrays else ("images", images)


def _from_arrays(paths: list[Path], spec: InputSpec, sets: int) -> list[np.ndarray]:
    """Cut `.npy` files into batches of the model's shape."""
    import numpy as np

    batch = spec.shape[0] if spec.shape else 1
    items: list[np.ndarray] = []
    for path in paths:
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(f"--input {path}: not a readable .npy file ({error})") from error
        if array.dtype.kind not in "fiub":
            raise UsageError(f"--input {path}: holds {array.dtype}, not numbers")
        if array.shape == spec.shape[1:]:
            items.append(array)
        elif array.ndim == len(spec.shape) and array.shape[1:] == spec.shape[1:] and len(array):
            items.extend(array[: sets * batch])
        else:
            raise UsageError(
                f"--input {path} is of shape {list(array.shape)}, "
                f"the model's input {spec.name!r} of shape {list(spec.shape)}",
                "give arrays of that shape, or choose --input-shape to fit",
            )
        if len(items) >= sets * batch:
            break
    return _batches(items, spec, sets)


def _from_images(
    paths: list[Path], spec: InputSpec, norm: dict[str, list[float]] | None, sets: int
) -> list[np.ndarray]:
    """Read images, scale them to the model's height and width, normalise, batch."""
    import numpy as np

    if len(spec.shape) != 4 or spec.shape[1] not in (1, 3):
        raise UsageError(
            f"images do not fit the model's input {spec.name!r} of shape {list(spec.shape)}",
            "a folder of images needs an input of shape [N, 1 or 3, H, W]; give .npy files",
        )
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise UsageError(
            "reading images needs Pillow, which is not installed",
            "pip install pillow, or give .npy files",
        ) from error
    batch, channels, height, width = spec.shape
    items: list[np.ndarray] = []
    for path in paths[: sets * batch]:
        try:
            with Image.open(path) as image:
                scaled = image.convert("RGB" if channels == 3 else "L").resize(
                    (width, height), Image.Resampling.BILINEAR
                )
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise UsageError(f"--input {path}: not a readable image ({error})") from error
        pixels = np.asarray(scaled, dtype=np.float64).reshape(height, width, channels) / 255.0
        planes = pixels.transpose(2, 0, 1)
        fits = norm is not None and len(norm["mean"]) == channels
        items.append(_normalise(planes, norm) if norm is not None and fits else planes)
    return _batches(items, spec, sets)


def _batches(items: list[np.ndarray], spec: InputSpec, sets: int) -> list[np.ndarray]:
    """Stack single items to batches; too few items are used again, in order."""
    import numpy as np

    batch = spec.shape[0] if spec.shape else 1
    wanted = min(sets, max(1, len(items) // batch))
    return [
        np.stack([items[(index * batch + k) % len(items)] for k in range(batch)])
        .reshape(spec.shape)
        .astype(_numpy_dtype(spec))
        for index in range(wanted)
    ]
