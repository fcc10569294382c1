"""Whether a power trace makes sense: its channel table, its times, its readings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgejoule.dataset.checks import common
from edgejoule.dataset.checks.common import first
from edgejoule.dataset.findings import NOTE, Finding
from edgejoule.dataset.schema import read_metadata
from edgejoule.files import read_json

_CHANNEL = frozenset(("index", "rail", "quantity", "unit", "chip", "source"))
# What `sensor` of run.json takes over from the trace's metadata.
_TAKEN_OVER = ("channels", "groups", "board", "total", "refresh_ns", "configuration")


def check_power(path: Path, run: dict[str, Any], sound: set[str]) -> list[Finding]:
    """Check `power.parquet`: each channel's time only rises, and nothing contradicts `run.json`."""
    metadata = read_metadata(path)
    table = metadata.get("channels") or []
    if problem := _table_problem(table):
        return [Finding(path.name, problem)]
    findings = []
    if bool(metadata.get("simulated")) != run["simulated"]:
        findings.append(Finding(path.name, "simulated in its metadata contradicts run.json"))
    for key in _TAKEN_OVER:
        sensor = run["sensor"]
        if key in sensor and key in metadata and sensor[key] != metadata[key]:
            findings.append(Finding(path.name, f"{key} in its metadata contradicts run.json"))
    if metadata.get("sensor") not in {None, run["sensor"]["name"]}:
        findings.append(Finding(path.name, "sensor in its metadata contradicts run.json"))
    if metadata.get("cut_records"):
        findings.append(Finding(path.name, "the last record was cut short and left out", NOTE))
    problem, rows = _row_problem(path, len(table))
    if problem:
        return [*findings, Finding(path.name, problem)]
    counted = _counted(path.parent / "sampler.json", sound)
    if counted not in {None, rows} and run["status"] == "complete":
        findings.append(Finding(path.name, f"has {rows} rows, the sampler made {counted} reads"))
    return findings


def _table_problem(table: Any) -> str | None:
    if not isinstance(table, list) or not table:
        return "has no channel table in its metadata"
    if any(not isinstance(channel, dict) or not set(channel) >= _CHANNEL for channel in table):
        return "its channel table lacks a field"
    if [channel.get("index") for channel in table] != list(range(len(table))):
        return "the indices of its channel table are not 0, 1, 2, ..."
    return None


def _row_problem(path: Path, channels: int) -> tuple[str | None, int]:
    """Return what is wrong with the first wrong row, and how many rows there are."""
    import numpy as np
    import pyarrow.parquet as pq

    last_end = np.full(channels, np.iinfo(np.int64).min)
    row = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(common.BATCH):
            t0, t1 = batch["t0_ns"].to_numpy(), batch["t1_ns"].to_numpy()
            channel = batch["channel"].to_numpy()
            raw_null, errno_null = batch["raw"].is_null(), batch["errno"].is_null()
            both = np.flatnonzero(
                raw_null.to_numpy(zero_copy_only=False) == errno_null.to_numpy(zero_copy_only=False)
            )
            problem = first("t1_ns is before t0_ns", np.flatnonzero(t1 < t0), row)
            problem = problem or first(
                "a channel that the table lacks",
                np.flatnonzero((channel < 0) | (channel >= channels)),
                row,
            )
            problem = problem or first("one of raw and errno must be null", both, row)
            if problem:
                return problem, row
            for index in range(channels):
                rows = np.flatnonzero(channel == index)
                before = np.concatenate([last_end[index : index + 1], t1[rows]])
                late = rows[t0[rows] < before[:-1]]
                last_end[index] = before[-1]
                if problem := first(f"time of channel {index} runs backwards", late, row):
                    return problem, row
            row += len(t0)
    return None, row


def _counted(path: Path, sound: set[str]) -> int | None:
    """Return how many reads the sampler says that it made, None where it does not say."""
    if path.name not in sound:
        return None
    said = read_json(path)
    if not isinstance(said, dict) or not isinstance(said.get("reads"), int):
        return None
    more = said.get("attribution") or {}
    return int(said["reads"]) + int(more.get("reads") or 0)
