"""The table of parts: energy of each run summed up by module and by operation.

Of the method and rail that the table of layers has. Numpy and pyarrow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgejoule.dataset.schema import METADATA_KEY
from edgejoule.dataset.tables.layer_columns import schema_of
from edgejoule.dataset.tables.run_columns import PART_COLUMNS, PART_TABLE_VERSION
from edgejoule.dataset.tables.source import Say, SourceRun, finite, part
from edgejoule.energy.rollup import Rollup, roll_up
from edgejoule.energy.rollup_amounts import Amount, energy_rows, ratio
from edgejoule.errors import MeasurementError

if TYPE_CHECKING:
    import pyarrow as pa

MODULE, OPERATION = "module", "operation"
_NEVER_NULL = (
    "run", "network", "method", "rail", "by", "kind", "name", "layers", "layers_unknown",
    "simulated",
)  # fmt: skip


def part_table_schema() -> pa.Schema:
    """Return the columns of the table of parts."""
    return schema_of(PART_COLUMNS, _NEVER_NULL)


def part_table(
    runs: Sequence[SourceRun],
    layers: pa.Table,
    facts: Mapping[str, Any],
    say: Say = lambda line: None,
) -> pa.Table:
    """Return a row per module and per operation of every run with energy.

    Args:
        runs: The runs, as `choose_runs` gives them.
        layers: The table of their layers: it says which method and rail, and the layers' times.
        facts: Which dataset they are of, as `dataset_facts` says.
        say: Gets a line per run whose energies do not add up.

    Raises:
        MeasurementError: A file that is read is damaged.
    """
    import pyarrow as pa

    names = ("run", "energy_method", "energy_rail", "runtime_ms")
    chosen: dict[str, tuple[str, str]] = {}
    times: dict[str, list[float | None]] = {}
    columns = (layers[name].to_pylist() for name in names)
    for run, method, rail, ms in zip(*columns, strict=True):
        times.setdefault(run, []).append(ms)
        if method is not None:
            chosen.setdefault(run, (method, rail))
    rows: list[dict[str, Any]] = []
    for one in runs:
        if one.name not in chosen:
            continue
        try:
            found = run_rollup(one, *chosen[one.name], times[one.name])
        except MeasurementError as error:
            say(f"{one.name} has no sums of layers: {error}")
            continue
        rows += _rows(one, found)
    schema = part_table_schema()
    header = {"table": "parts", "table_version": PART_TABLE_VERSION, "dataset": dict(facts)}
    text = json.dumps(header, sort_keys=True).encode()
    return pa.table(
        {name: [row[name] for row in rows] for name in schema.names},
        schema.with_metadata({METADATA_KEY: text}),
    )


def run_rollup(one: SourceRun, method: str, rail: str, layer_ms: Sequence[float | None]) -> Rollup:
    """Sum up the energies of a run.

    Args:
        one: The run.
        method: The method of attribution.
        rail: The rail.
        layer_ms: Mean time of each layer, for formats whose rows do not say.

    Raises:
        MeasurementError: A file is damaged, or the rows do not add up to their closure.
    """
    import pyarrow.parquet as pq

    plain = pq.read_table(one.checked("energy.parquet")).to_pylist()
    rows = [row for row in energy_rows(plain) if (row.method, row.rail) == (method, rail)]
    return roll_up(
        rows,
        one.engine()["layers"],
        layer_ms=layer_ms,
        inference_ms=finite(part(one.run, "summary", "profiled", "mean_ms")),
    )


def _rows(one: SourceRun, found: Rollup) -> Iterator[dict[str, Any]]:
    common = {
        "run": one.name,
        "network": one.network(),
        "method": found.method,
        "rail": found.rail,
        "simulated": one.run["simulated"],
    }
    whole = found.closure.gross_mj
    for node in found.modules:
        yield {
            **common,
            "by": MODULE,
            "kind": node.kind,
            "name": node.path,
            "depth": node.depth,
            "layers_outside": node.outside,
            "own_gross_mj": node.own.gross_mj,
            "own_dynamic_mj": node.own.dynamic_mj,
            **_amount(node.total, whole),
        }
    for operation in found.operations:
        yield {
            **common,
            "by": OPERATION,
            "kind": "gap" if operation.name == "gap" else OPERATION,
            "name": operation.name,
            **dict.fromkeys(("depth", "layers_outside", "own_gross_mj", "own_dynamic_mj")),
            **_amount(operation.amount, whole),
        }


def _amount(amount: Amount, whole_mj: float | None) -> dict[str, Any]:
    return {
        "layers": amount.layers,
        "layers_unknown": amount.unknown,
        "time_ms": amount.time_ms,
        "gross_mj": amount.gross_mj,
        "gross_statistical_mj": amount.gross_half_mj,
        "dynamic_mj": amount.dynamic_mj,
        "dynamic_statistical_mj": amount.dynamic_half_mj,
        "systematic_mj": amount.systematic_mj,
        "unresolved_mj": amount.unresolved_mj,
        "share": ratio(amount.gross_mj, whole_mj),
        "scaled_gross_mj": amount.scaled_gross_mj,
        "scaled_dynamic_mj": amount.scaled_dynamic_mj,
        "power_gross_mw": amount.power_gross_mw,
        "power_dynamic_mw": amount.power_dynamic_mw,
        "edp_uj_s": amount.edp_uj_s,
    }
