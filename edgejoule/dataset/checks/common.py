"""What the checks share: how rows are named, and how close two figures must be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# A layer may stick out of its inference by this much: runtimes stamp in whole microseconds.
LAYER_TOLERANCE_NS = 1_000.0
# Relative rounding of float32, twice over.
FLOAT32 = 1.2e-7
ENERGY_TOLERANCE = 1e-6
BATCH = 1 << 19
# From here on the figures of a run are computed as `edgejoule.summary` does it today, so that they
# can be computed again; what earlier versions derived is held against the tables less closely.
RECOMPUTED_SINCE = 4
# From here on layers may be known in groups only, and methods other than the split by time are
# computed again.
GROUPS_SINCE = 5


def first(what: str, rows: np.ndarray, offset: int = 0) -> str | None:
    """Return what is wrong with the first of some rows, counted from `offset`; None without any."""
    if not len(rows):
        return None
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    return f"{what} (row {offset + int(rows[0])}{more})"


def close(one: float, other: float, scale: float, tolerance: float = ENERGY_TOLERANCE) -> bool:
    """Say whether two energies agree, relative to the energy that they are parts of."""
    return abs(one - other) <= tolerance * max(abs(scale), 1e-9)


def recomputed(run: dict[str, Any]) -> bool:
    """Say whether a run is so new that its figures can be computed again from its tables."""
    return int(run["schema_version"]) >= RECOMPUTED_SINCE
