"""Whether the layers of a run make sense: each once, in time, within their inference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.dataset.checks import common
from edgejoule.dataset.checks.common import FLOAT32, LAYER_TOLERANCE_NS, first, recomputed
from edgejoule.dataset.findings import Finding
from edgejoule.files import read_json

if TYPE_CHECKING:
    import numpy as np
    import pyarrow.parquet as pq


@dataclass(frozen=True)
class Engine:
    """What the checks need of `engine.json`.

    Attributes:
        layers: How many there are; 0 where the file cannot be used.
        overlap: Whether they may run at the same time.
        start_offsets: Whether their starts are measured.
    """

    layers: int = 0
    overlap: bool = False
    start_offsets: bool = True


@dataclass(frozen=True)
class LayerSums:
    """Layer times, summed while the table was read.

    Attributes:
        per_inference_ns: (inferences,) over the layers of each.
        per_block_ns: (blocks, layers) over each block of inferences, the blocks being those of
            `edgejoule.energy.statistics.block_starts`.
    """

    per_inference_ns: np.ndarray
    per_block_ns: np.ndarray


@dataclass(frozen=True)
class _Rows:
    """Rows of whole inferences, all of shape (n,): the row's number in the file, and its values.

    `before` is the inference of the row before them.
    """

    before: int
    row: np.ndarray
    inference: np.ndarray
    layer: np.ndarray
    duration_ns: np.ndarray
    start_ns: np.ndarray
    started: np.ndarray


def read_engine(path: Path, sound: set[str], findings: list[Finding]) -> Engine:
    """Return what `engine.json` says; what is wrong with it goes to `findings`."""
    if "engine.json" not in sound:
        return Engine()
    engine = read_json(path / "engine.json")
    layers = engine["layers"]
    if [layer["index"] for layer in layers] != list(range(len(layers))):
        findings.append(Finding("engine.json", "the indices of its layers are not 0, 1, 2, ..."))
        return Engine()
    return Engine(len(layers), bool(engine.get("overlap")), bool(engine["start_offsets"]))


def check_layers(
    path: Path, profiled: dict[str, np.ndarray], engine: Engine, run: dict[str, Any]
) -> tuple[list[Finding], LayerSums | None]:
    """Check `layers.parquet`; the sums are None where the rows cannot be summed.

    Args:
        path: The file.
        profiled: The inferences of the profiled pass (`read_inferences`).
        engine: The layers that there are.
        run: `run.json`.
    """
    import numpy as np
    import pyarrow.parquet as pq

    from edgejoule.energy.statistics import block_starts

    inferences, layers = len(profiled["index"]), engine.layers
    span_ns = (profiled["end_ns"] - profiled["start_ns"]).astype(np.float64)
    slack_ns = LAYER_TOLERANCE_NS + FLOAT32 * span_ns
    blocks = block_starts(inferences)
    block_of = np.searchsorted(blocks, np.arange(inferences), side="right") - 1
    sums_ns = np.zeros(inferences)
    block_ns = np.zeros(len(blocks) * layers)
    seen = np.zeros(inferences * layers, dtype=np.int32)
    complete = run["status"] == "complete"
    apart, overlap = recomputed(run) and not engine.overlap, None
    with pq.ParquetFile(path) as file:
        for rows in _whole_inferences(file):
            problem = _value_problem(rows, inferences, engine, complete=complete)
            # A killed run may have layers of an inference whose own row was lost.
            known = rows.inference < inferences
            problem = problem or _place_problem(rows, known, span_ns, slack_ns)
            if problem:
                return [Finding(path.name, problem)], None
            if apart:
                overlap = overlap or _overlap_problem(rows)
            which = rows.inference[known]
            duration_ns, layer = rows.duration_ns[known], rows.layer[known]
            sums_ns += np.bincount(which, duration_ns, minlength=inferences)
            cells = block_of[which] * layers + layer
            block_ns += np.bincount(cells, duration_ns, minlength=len(block_ns))
            low = int(which.min()) * layers if len(which) else 0
            counted = np.bincount(which * layers + layer - low)
            seen[low : low + len(counted)] += counted.astype(np.int32)
    over = np.zeros(inferences, bool) if engine.overlap else sums_ns > span_ns + slack_ns
    found = _sum_problems(path.name, over, seen, layers, complete=complete)
    if overlap:
        found.append(Finding(path.name, overlap))
    return found, LayerSums(sums_ns, block_ns.reshape(len(blocks), layers))


def _whole_inferences(file: pq.ParquetFile) -> Iterator[_Rows]:
    """Read in batches, and pass an inference on only when all of its neighbouring rows are there.

    Whether inferences come in order is for the caller to check.
    """
    import numpy as np

    held: list[np.ndarray] | None = None
    row = before = 0
    for batch in file.iter_batches(common.BATCH):
        count = batch.num_rows
        offset = batch["start_offset_ns"]
        columns = [
            np.arange(row, row + count),
            batch["inference"].to_numpy().astype(np.int64),
            batch["layer"].to_numpy().astype(np.int64),
            batch["duration_ms"].to_numpy().astype(np.float64) * 1e6,
            offset.fill_null(0).to_numpy(),
            offset.is_valid().to_numpy(zero_copy_only=False),
        ]
        row += count
        if held is not None:
            columns = [np.concatenate(pair) for pair in zip(held, columns, strict=True)]
        changes = np.flatnonzero(np.diff(columns[1]))
        cut = int(changes[-1]) + 1 if len(changes) else 0
        if cut:
            yield _Rows(before, *(column[:cut] for column in columns))
            before = int(columns[1][cut - 1])
        held = [column[cut:] for column in columns]
    if held is not None and len(held[0]):
        yield _Rows(before, *held)


def _value_problem(rows: _Rows, inferences: int, engine: Engine, *, complete: bool) -> str | None:
    import numpy as np

    at = int(rows.row[0])
    back = np.flatnonzero(np.diff(rows.inference, prepend=rows.before) < 0)
    unknown = (rows.inference < 0) | ((rows.inference >= inferences) & complete)
    lacking = (rows.layer < 0) | (rows.layer >= engine.layers)
    bad = ~((rows.duration_ns >= 0) & np.isfinite(rows.duration_ns))
    for what, wrong in (
        ("is not sorted by inference", back),
        ("a layer that engine.json lacks", np.flatnonzero(lacking)),
        ("of an inference that inferences.parquet lacks", np.flatnonzero(unknown)),
        ("has a negative or unknown duration", np.flatnonzero(bad)),
    ):
        if problem := first(what, wrong, at):
            return problem
    if not engine.start_offsets:
        what = "has a start, engine.json says that none is measured"
        return first(what, np.flatnonzero(rows.started), at)
    if rows.started.any():
        return first("lacks a start that others have", np.flatnonzero(~rows.started), at)
    return None


def _place_problem(
    rows: _Rows, known: np.ndarray, span_ns: np.ndarray, slack_ns: np.ndarray
) -> str | None:
    import numpy as np

    which = rows.inference[known]
    start_ns = rows.start_ns[known].astype(np.float64)
    out = (start_ns < 0) | (start_ns + rows.duration_ns[known] > span_ns[which] + slack_ns[which])
    return first("reaches out of its inference", rows.row[known][out])


def _overlap_problem(rows: _Rows) -> str | None:
    """Return the first layer that starts before the one before it has ended, by more than stamps.

    Both its start and the other's end may be rounded to a whole microsecond.
    """
    import numpy as np

    if not rows.started.all():
        return None
    row, inference = rows.row, rows.inference
    start_ns, length_ns = rows.start_ns, rows.duration_ns
    same = inference[1:] == inference[:-1]
    if (same & (start_ns[1:] < start_ns[:-1])).any():
        order = np.lexsort((start_ns, inference))
        row, start_ns, length_ns = row[order], start_ns[order], length_ns[order]
    slack_ns = 2 * LAYER_TOLERANCE_NS + FLOAT32 * length_ns[:-1]
    early = same & (start_ns[1:] + slack_ns < start_ns[:-1] + length_ns[:-1])
    return first("starts before the layer before it ends", np.sort(row[1:][early]))


def _sum_problems(
    name: str, over: np.ndarray, seen: np.ndarray, layers: int, *, complete: bool
) -> list[Finding]:
    import numpy as np

    findings = []
    twice = np.flatnonzero(seen > 1)
    absent = np.flatnonzero(seen == 0) if complete else twice[:0]
    for what, cells in (("twice", twice), ("not at all", absent)):
        if len(cells):
            inference, layer = divmod(int(cells[0]), layers)
            problem = f"inference {inference} has layer {layer} {what}"
            findings.append(Finding(name, f"{problem} ({len(cells)} such)"))
    if over.any():
        index = int(np.flatnonzero(over)[0])
        problem = f"the layers of inference {index} take longer than it ({int(over.sum())} such)"
        findings.append(Finding(name, problem))
    return findings
