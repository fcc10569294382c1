"""Energy of a run's layers as a report needs it: every method on one rail, summed up.

What cannot be read is for the caller to say; nothing here refuses an older format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgejoule.dataset.tables.attribution_columns import NEVER_BEST
from edgejoule.dataset.tables.layer_table import choose_rail
from edgejoule.dataset.tables.source import SourceRun, finite, part
from edgejoule.energy.rollup import Rollup, roll_up
from edgejoule.energy.rollup_amounts import energy_rows
from edgejoule.energy.rows import METHODS, EnergyRow
from edgejoule.errors import MeasurementError

_OLD_COLUMNS = ("method", "rail", "kind", "layer", "gross_mj", "gross_statistical_mj",
                "dynamic_mj", "dynamic_statistical_mj", "resolved")  # fmt: skip


@dataclass(frozen=True)
class LayerEnergy:
    """Energy of a layer per profiled inference, mJ; half-widths of 95 % intervals.

    Attributes:
        method: How it was attributed; always shown with the figure.
        gross_mj: Energy.
        gross_half_mj: Its half-width, None if not estimated.
        dynamic_mj: Energy above the baseline, None without one.
        dynamic_half_mj: Its half-width.
        resolved: False: this layer cannot be told from the others; None: the method cannot say.
    """

    method: str
    gross_mj: float | None
    gross_half_mj: float | None
    dynamic_mj: float | None
    dynamic_half_mj: float | None
    resolved: bool | None


def load_rollups(
    path: Path,
    run: Mapping[str, Any],
    layers: Mapping[int, Mapping[str, Any]],
    layer_ms: Mapping[int, float],
) -> tuple[tuple[Rollup, ...], list[str]]:
    """Read an `energy.parquet` and sum it up, per method, on the rail that stands for the run.

    Args:
        path: The file.
        run: `run.json` as it is.
        layers: The layers of `engine.json` by index.
        layer_ms: Mean time of each, for formats whose rows do not say.

    Returns:
        One per method, the best first and `interval` last, none where no rail stands for the run;
        and a sentence per method whose rows do not add up.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no Parquet file.
        KeyError: It lacks a column that every format has.
    """
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        try:
            table = pq.ParquetFile(file).read()
        except (OSError, ValueError) as error:
            raise ValueError(f"{path.name} cannot be read ({error})") from error
    absent = [name for name in _OLD_COLUMNS if name not in table.column_names]
    if absent:
        raise KeyError(f"{path.name} has no column {', '.join(absent)}")
    by_method: dict[str, dict[str, list[EnergyRow]]] = {}
    for row in energy_rows(table.to_pylist()):
        by_method.setdefault(row.method, {}).setdefault(row.rail, []).append(row)
    described = [layers.get(index, {}) for index in range(max(layers, default=-1) + 1)]
    times = [layer_ms.get(index) for index in range(max(layer_ms, default=-1) + 1)]
    inference_ms = finite(part(run, "summary", "profiled", "mean_ms"))
    batch = batch_of(run)
    found, problems = [], []
    for method in (*METHODS, *sorted(set(by_method) - set(METHODS))):
        rails = by_method.get(method, {})
        rail = _rail(path.parent, run, list(rails))
        if rail is None:
            continue
        try:
            found.append(
                roll_up(
                    rails[rail], described, batch=batch, layer_ms=times, inference_ms=inference_ms
                )
            )
        except MeasurementError as error:
            problems.append(f"energy.parquet: {error}")
    return tuple(found), problems


def best_of(rollups: Sequence[Rollup]) -> Rollup | None:
    """Return the energies of the best method that has any, None where there are none.

    A pass may have been too short for a method to tell anything: then the next one is shown, under
    its own name.
    """
    offered = [one for one in rollups if one.method != NEVER_BEST]
    knowing = (
        one
        for one in offered
        if any(piece.kind != "gap" and piece.amount.gross_mj is not None for piece in one.pieces)
    )
    return next(knowing, offered[0] if offered else None)


def layer_energies(rollups: Sequence[Rollup]) -> dict[int, LayerEnergy]:
    """Return the energy of each layer by the best method; one in a group has no number."""
    best = best_of(rollups)
    if best is None:
        return {}
    found = {}
    for piece in best.pieces:
        for layer in piece.layers:
            own = piece.amount if piece.kind == "layer" else None
            found[layer] = LayerEnergy(
                best.method,
                None if own is None else own.gross_mj,
                None if own is None else own.gross_half_mj,
                None if own is None else own.dynamic_mj,
                None if own is None else own.dynamic_half_mj,
                piece.resolved if piece.kind == "layer" else False,
            )
    return found


def batch_of(run: Mapping[str, Any]) -> int:
    """Return how many images an inference takes, 1 where nobody says."""
    asked = part(run, "config", "input_shape")
    made = part(run, "input", "shapes")
    shape = asked or (next(iter(made.values()), None) if isinstance(made, Mapping) else None)
    first = shape[0] if isinstance(shape, (list, tuple)) and shape else None
    if isinstance(first, int) and not isinstance(first, bool) and first > 0:
        return first
    return 1


def _rail(path: Path, run: Mapping[str, Any], rails: Sequence[str]) -> str | None:
    try:
        return choose_rail(SourceRun(path, run), rails, None)
    except (AttributeError, KeyError, TypeError):  # a run.json in pieces names no sensor
        return None
