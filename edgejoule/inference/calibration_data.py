"""What integer and 8-bit float engines are calibrated with: the user's images, hashed.

The range of every tensor is taken from what flows through the network for these inputs, so they
decide how good the engine is. They are never made up unasked: a kind of generated input has to be
named, and is recorded as such.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import UsageError
from edgejoule.files import sha256_of
from edgejoule.inference.inputs import GENERATED, InputSet, make_inputs

if TYPE_CHECKING:
    from edgejoule.inference.workload import InputSpec

ITEMS = 128  # images, unless more are asked for; a network's ranges settle well below that
MEMORY_BYTES = 512 << 20  # what all sets together may take unless a count is asked for
_ITEM_BYTES = {"float64": 8, "int64": 8, "float16": 2, "bfloat16": 4, "int8": 1, "uint8": 1}
_IN_MESSAGES = re.compile(r"--input(?![-\w])")


@dataclass(frozen=True)
class CalibrationData:
    """Input sets for a calibration and where they come from.

    Attributes:
        sets: Each name -> array, in the shapes of the model's inputs.
        sha256: Over names, dtypes, shapes and values of all sets.
        files: Name and SHA-256 of each of the user's files that was used, in the order of use.
        description: What they are, as `run.json` has it of inputs: kind, distribution, seed, ...
    """

    sets: tuple[InputSet, ...]
    sha256: str
    files: tuple[tuple[str, str], ...]
    description: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return what is recorded of them: everything but the values."""
        return {
            "kind": self.description["kind"],
            "distribution": self.description["distribution"],
            "seed": self.description["seed"],
            "normalisation": self.description["normalisation"],
            "sets": len(self.sets),
            "sha256": self.sha256,
            "files": [list(file) for file in self.files],
        }


def load_calibration(
    kind: str | None,
    inputs: Sequence[InputSpec],
    normalisation: Mapping[str, Sequence[float]] | None,
    seed: int,
    count: int | None = None,
) -> CalibrationData:
    """Read or make the sets that an engine is calibrated with.

    Args:
        kind: A folder of images or `.npy` files, a `.npy` file, or a kind of generated input
            (`normal`, `uniform`, `zeros`).
        inputs: The model's inputs, in order.
        normalisation: `mean` and `std` per channel for images, or None.
        seed: Seed of generated values.
        count: Most sets to take; None takes as many as hold `ITEMS` items, in `MEMORY_BYTES`.

    Raises:
        UsageError: None was given; the files are missing, unreadable, of another shape, or fewer
            than one batch.
    """
    if kind is None:
        raise UsageError(
            "int8 and fp8 need --calibration FOLDER with images of the kind the network will see",
            f"give one; ranges from {', '.join(GENERATED)} values have to be asked for by name",
        )
    try:
        sets, described = make_inputs(
            kind, inputs, normalisation, seed, sets=_count(inputs) if count is None else count
        )
    except UsageError as error:
        raise UsageError(
            _IN_MESSAGES.sub("--calibration", error.message),
            _IN_MESSAGES.sub("--calibration", error.mend),
        ) from error
    batch = inputs[0].shape[0] if inputs[0].shape else 1
    found = batch
    if described.kind == "images":
        found = len(described.files)
    elif described.kind == "arrays":
        found = _stored_items(Path(kind), inputs[0])
    if found < batch:  # `make_inputs` fills such a batch by using items twice
        raise UsageError(
            f"--calibration {kind} holds {found} {described.kind}, "
            f"a batch of the model takes {batch}",
            "give more, or a smaller batch",
        )
    return CalibrationData(
        sets=tuple(sets),
        sha256=described.sha256,
        files=_hash_files(kind, described.files),
        description=described.to_json(),
    )


def _count(inputs: Sequence[InputSpec]) -> int:
    """How many sets hold `ITEMS` items, within `MEMORY_BYTES`; at least one."""
    if not inputs:
        return 1
    batch = inputs[0].shape[0] if inputs[0].shape else 1
    bytes_per_set = sum(math.prod(spec.shape) * _ITEM_BYTES.get(spec.dtype, 4) for spec in inputs)
    return max(1, min(ITEMS // max(1, batch), MEMORY_BYTES // max(1, bytes_per_set)))


def _stored_items(path: Path, spec: InputSpec) -> int:
    """Count the items in `.npy` files, which `make_inputs` has already found readable."""
    import numpy as np

    files = [path] if path.is_file() else sorted(path.glob("*.[nN][pP][yY]"))
    shapes = [np.load(file, mmap_mode="r", allow_pickle=False).shape for file in files]
    return sum(1 if len(shape) < len(spec.shape) else int(shape[0]) for shape in shapes)


def _hash_files(kind: str, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    if not names:
        return ()
    path = Path(kind)
    folder = path.parent if path.is_file() else path
    return tuple((name, sha256_of(folder / name)) for name in names)
