"""The tables of an imported run, written in pieces. Numpy and pyarrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgejoule.dataset.older.power_log import PowerLog, as_raw
from edgejoule.dataset.schema import open_writer, table_schema, write_table

_ROWS = 1 << 19
SENSOR = "ina3221"
_CHIP = "1-0040"
_UNNAMED = "in1"


@dataclass(frozen=True)
class Supply:
    """The rail that the layout's one channel is: its name, and the board's total if it is that."""

    rail: str
    total: dict[str, Any] | None
    note: str


def supply_of(board: str | None) -> Supply:
    """Return what channel 1 of chip 1-0040 measures on a board.

    Args:
        board: What the user says of the board; None: nothing.
    """
    from edgejoule.power.boards import boards_by_text
    from edgejoule.power.sensor import Total

    if board is None:
        return Supply(_UNNAMED, None, f"without --board nobody knows which supply {_UNNAMED} is")
    found = boards_by_text(board, named=True)
    address = _CHIP.partition("-")[2]
    rails = {
        chip.rails[0].label
        for one in found
        for chip in one.chips
        if chip.address == address and chip.rails and chip.rails[0] is not None
    }
    if len(rails) != 1:
        return Supply(
            _UNNAMED, None, f"the board {board!r} is not in the table: which supply {_UNNAMED} is "
            "is not known",
        )  # fmt: skip
    rail = rails.pop()
    rules = [rule for one in found for rule in one.totals if rule.rails == (rail,)]
    if not rules:
        return Supply(rail, None, f"{rail} is not the total of {found[0].name}: none is known")
    rule = rules[0]
    total = Total(rule.rails, rule.contains, rule.excludes, rule.source)
    return Supply(rail, total.to_json(), f"{rail} by --board {board}: nobody looked at the board")


def write_layers(path: Path, durations_ms: Sequence[np.ndarray]) -> None:
    """Write `layers.parquet` from a row per layer, float32 (inferences,) each."""
    import pyarrow as pa

    layers, count = len(durations_ms), len(durations_ms[0])
    schema = table_schema("layers")
    step = max(1, _ROWS // layers)
    with open_writer(path, "layers", schema, {"cut_records": 0}) as writer:
        for start in range(0, count, step):
            stop = min(count, start + step)
            block = np.stack([row[start:stop] for row in durations_ms], axis=1).ravel()
            columns = [
                pa.array(np.repeat(np.arange(start, stop, dtype=np.int32), layers)),
                pa.array(np.tile(np.arange(layers, dtype=np.int16), stop - start)),
                pa.array(block),
                pa.nulls(len(block), pa.int64()),
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def write_inferences(path: Path, start_ns: np.ndarray, end_ns: np.ndarray) -> None:
    """Write `inferences.parquet`: all are of the profiled pass."""
    count = len(start_ns)
    columns = {
        "pass": ["profiled"] * count,
        "index": np.arange(count, dtype=np.int32),
        "start_ns": start_ns,
        "end_ns": end_ns,
        "due_ns": [None] * count,
    }
    write_table(path, "inferences", columns, cut_records=0)


def write_power(
    path: Path, t_ns: np.ndarray, log: PowerLog, supply: Supply, wall_ns: int
) -> tuple[dict[str, Any], list[str]]:
    """Write `power.parquet`, two rows per line of the log.

    Returns:
        What `run.json` says of the sensor; what had to be decided.
    """
    import pyarrow as pa

    channels, raws, notes = [], [], [supply.note]
    for index, (quantity, milli, source, values) in enumerate(
        (("voltage", "mV", "in1_input", log.mv), ("current", "mA", "curr1_input", log.ma))
    ):
        raw, unit, lost = as_raw(values, milli)
        raws.append(raw)
        if lost:
            notes.append(f"{lost} readings of the {quantity} were rounded to whole {unit}")
        channels.append(
            {
                "index": index,
                "rail": supply.rail,
                "quantity": quantity,
                "unit": unit,
                "chip": _CHIP,
                "source": source,
                "shunt_uohm": None,
                "lsb": None,
            }
        )
    sensor = {
        "name": SENSOR,
        "simulated": False,
        "refresh_ns": None,
        "configuration": None,
        "channels": channels,
        "groups": None,
        "board": None,
        "total": supply.total,
    }
    facts = {key: value for key, value in sensor.items() if key != "name"}
    anchor = {"monotonic_ns": 0, "wall_ns": wall_ns}
    metadata = {**facts, "sensor": SENSOR, "wall_anchor": anchor, "cut_records": 0}
    schema = table_schema("power")
    with open_writer(path, "power", schema, metadata) as writer:
        for start in range(0, len(t_ns), _ROWS):
            part = slice(start, start + _ROWS)
            times = pa.array(np.repeat(t_ns[part], 2))
            raw = np.stack([one[part] for one in raws], axis=1).ravel()
            columns = [
                times,
                times,
                pa.array(np.tile(np.arange(2, dtype=np.int16), len(raw) // 2)),
                pa.array(raw),
                pa.nulls(len(raw), pa.int16()),
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    return sensor, notes
