"""Runs as a comparison needs them: their figures with variances, and their layers.

What is not there is absent and said; a run without a readable `run.json` is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.dataset.tables.layer_table import choose_rail
from edgejoule.dataset.tables.source import SourceRun
from edgejoule.energy.rows import METHODS
from edgejoule.energy.statistics import BLOCKS, t95
from edgejoule.errors import MeasurementError
from edgejoule.report.tables import LayerRow, RunTables, list_runs, load_run, number, part

if TYPE_CHECKING:
    from edgejoule.report.compare.usual import Blocks

QUANTITIES = {
    "latency": ("latency", "ms"),
    "gross": ("gross energy", "mJ"),
    "dynamic": ("dynamic energy", "mJ"),
    "power": ("average power", "mW"),
}
"""Quantity of a run -> how it is called, and its unit; all per inference of the clean pass."""

_MJ = ("gross", "dynamic")
NEVER_COMPARED = "interval"  # gives every layer the network's mean power


@dataclass(frozen=True)
class Figure:
    """A positive figure.

    Attributes:
        value: In its unit.
        variance: Of its logarithm within the process; NaN: not known.
        freedom: Degrees of freedom of that.
    """

    value: float
    variance: float = math.nan
    freedom: float = math.nan

    @property
    def log(self) -> float:
        """Its logarithm."""
        return math.log(self.value)


@dataclass(frozen=True)
class MeasuredRun:
    """A run.

    Attributes:
        tables: As every report reads it.
        figures: Quantity -> figure, of those that are there.
        rail: Whose energy it is, None without any.
        blocks: Usual times of its layers, None without any.
        energies: Method -> layer -> gross mJ per profiled inference, of the layers resolved.
        untold: Quantities that were measured and are not told from zero: `figures` lacks them.
        missing: Sentences about what a comparison lacks.
    """

    tables: RunTables
    figures: Mapping[str, Figure] = field(default_factory=dict)
    rail: str | None = None
    blocks: Blocks | None = None
    energies: Mapping[str, Mapping[int, Figure]] = field(default_factory=dict)
    untold: frozenset[str] = frozenset()
    missing: tuple[str, ...] = ()

    @property
    def build(self) -> int:
        """Which build of the engine it ran."""
        value = self.tables.config.get("rebuild", 0)
        return value if isinstance(value, int) else 0

    @property
    def layers(self) -> tuple[LayerRow, ...]:
        """Its layers with recorded times, in the engine's order."""
        return self.tables.layers


@dataclass(frozen=True)
class Loaded:
    """One side of a comparison.

    Attributes:
        path: As given.
        single: Whether it is one run directory.
        runs: What could be read.
        broken: One line per run that could not be.
    """

    path: Path
    single: bool
    runs: tuple[MeasuredRun, ...]
    broken: tuple[str, ...] = ()


def load_side(path: Path) -> Loaded:
    """Read a dataset or one run directory.

    Raises:
        MeasurementError: There is nothing at `path`, or the one run cannot be read.
        UsageError: The folder is neither.
    """
    if not path.exists():
        raise MeasurementError(f"{path} is not there", "name a dataset or a run directory")
    if (path / "run.json").exists():
        return Loaded(path, True, (measured(load_run(path)),))
    if path.is_dir() and any((path / name).exists() for name in ("engine.json", "layers.parquet")):
        raise MeasurementError(f"{path}: run.json is missing", "pull or measure the run again")
    runs, broken = [], []
    for folder in list_runs(path):
        try:
            runs.append(measured(load_run(folder)))
        except MeasurementError as error:
            broken.append(error.message)
    return Loaded(path, False, tuple(runs), tuple(broken))


def measured(tables: RunTables) -> MeasuredRun:
    """Take from a run what is compared."""
    missing = list(tables.missing)
    figures: dict[str, Figure] = {}
    latency = _latency(tables, missing)
    if latency is not None:
        figures["latency"] = latency
    rails = part(tables.summary, "energy", "rails")
    rail = _rail(tables, [name for name in rails if part(rails, name, "clean")])
    untold: frozenset[str] = frozenset()
    if rail is not None:
        clean = part(rails, rail, "clean")
        figures.update(_energies(clean, _mean_variance(tables)))
        measured_here = {name for name in _MJ if number(clean, f"{name}_mj") is not None}
        untold = frozenset(measured_here - set(figures))
    blocks = None
    if tables.layers:
        from edgejoule.report.compare.usual import load_blocks

        try:
            blocks = load_blocks(tables.path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            missing.append(" ".join(str(error).split())[:200])
    energies = _of_layers(tables)
    return MeasuredRun(tables, figures, rail, blocks, energies, untold, tuple(missing))


def _latency(tables: RunTables, missing: list[str]) -> Figure | None:
    """Return the median of the clean pass; its variance from the inferences themselves."""
    median = number(part(tables.summary, "clean"), "median_ms")
    try:
        found = _clean_latency(tables.path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = None
        missing.append(" ".join(str(error).split())[:200])
    if found is None:
        return Figure(median) if median is not None and median > 0.0 else None
    log, variance, freedom = found
    value = median if median is not None and median > 0.0 else math.exp(log)
    return Figure(value, variance, freedom)


def _clean_latency(path: Path) -> tuple[float, float, float] | None:
    import numpy as np
    import pyarrow.compute as pc

    from edgejoule.report.compare.usual import latency_of
    from edgejoule.report.tables import column

    table = column(path / "inferences.parquet", ["pass", "start_ns", "end_ns"])
    table = table.filter(pc.equal(table["pass"].cast("string"), "clean"))
    span_ns = table["end_ns"].to_numpy() - table["start_ns"].to_numpy()
    return latency_of(span_ns.astype(np.float64) * 1e-6)


def _mean_variance(tables: RunTables) -> float:
    """Return the variance of the logarithm of the clean pass's mean latency, from its interval."""
    clean = part(tables.summary, "clean")
    mean, interval = number(clean, "mean_ms"), clean.get("interval_mean_ms")
    if not mean or not isinstance(interval, list) or len(interval) != 2:
        return math.nan
    low, high = interval
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        return math.nan
    return float(((high - low) / 2.0 / t95(BLOCKS - 1) / mean) ** 2)


def _energies(clean: Mapping[str, Any], latency_variance: float) -> dict[str, Figure]:
    found = {}
    for quantity in _MJ:
        half = number(clean, f"{quantity}_statistical_mj")
        figure = _figure(number(clean, f"{quantity}_mj"), half)
        if figure is not None:
            found[quantity] = figure
    mean_mw = number(clean, "mean_mw")
    if mean_mw is not None and mean_mw > 0.0:
        # Power is energy over time: no correlation of the two makes it scatter more than this.
        gross = found["gross"].variance if "gross" in found else math.nan
        variance = (math.sqrt(gross) + math.sqrt(latency_variance)) ** 2
        found["power"] = Figure(mean_mw, variance, float(BLOCKS - 1))
    return found


def _of_layers(tables: RunTables) -> dict[str, dict[int, Figure]]:
    """Return the energies of resolved layers by method; a layer of a group has none of its own."""
    found: dict[str, dict[int, Figure]] = {}
    for rollup in tables.rollups:
        if rollup.method == NEVER_COMPARED:
            continue
        own = {}
        for piece in rollup.pieces:
            if piece.kind != "layer" or piece.resolved is False:
                continue
            figure = _figure(piece.amount.gross_mj, piece.amount.gross_half_mj)
            if figure is not None:
                own[piece.layers[0]] = figure
        if own:
            found[rollup.method] = own
    order = {method: place for place, method in enumerate(METHODS)}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


def _figure(value: float | None, half_width: float | None) -> Figure | None:
    """Return a figure that is told from zero; as if of 20 blocks, which no method has fewer of."""
    if value is None or value <= 0.0 or (half_width is not None and half_width >= value):
        return None
    if half_width is None:
        return Figure(value)
    return Figure(value, (half_width / t95(BLOCKS - 1) / value) ** 2, float(BLOCKS - 1))


def _rail(tables: RunTables, rails: list[str]) -> str | None:
    try:
        return choose_rail(SourceRun(tables.path, tables.run), rails, None)
    except (AttributeError, KeyError, TypeError):  # a run.json in pieces names no sensor
        return None
