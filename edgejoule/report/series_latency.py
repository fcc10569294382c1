"""Latency of each pass as a histogram that outliers do not squeeze, and its course over time.

         ::
        ::::
      .:::::::...            .    .  .   beyond: slower than the last edge, counted only
----|------|-------|-----------------> ms
  first  median  last edge: three spreads above the median at most

Values far below the others, if there are any, share the first bin, which is then wider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.energy.statistics import block_starts
from edgejoule.report.series import PassLatency

if TYPE_CHECKING:
    import numpy as np

MOST_BINS = 80
MOST_STRETCHES = 150
_FEWEST_STRETCHES = 60
_PER_STRETCH = 5
_SPREADS = 3.0


@dataclass(frozen=True)
class Latencies:
    """Start and end of the inferences of each pass, in order, ns: int64 (n,)."""

    passes: Mapping[str, tuple[np.ndarray, np.ndarray]]

    @property
    def span_ns(self) -> tuple[int, ...]:
        """First start and last end; nothing where there is no inference."""
        pairs = self.passes.values()
        if not pairs:
            return ()
        return min(int(start.min()) for start, _ in pairs), max(int(end.max()) for _, end in pairs)

    def since(self, origin_ns: int) -> tuple[PassLatency, ...]:
        """Return the passes in the order of time, seconds counted from `origin_ns`."""
        found = sorted(self.passes.items(), key=lambda item: int(item[1][0][0]))
        return tuple(reduced(name, *pair, origin_ns) for name, pair in found)


def load_latency(path: Path) -> Latencies:
    """Read `inferences.parquet`.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no such table.
        KeyError: It lacks a column.
    """
    import numpy as np

    from edgejoule.report.tables import column

    table = column(path, ["pass", "start_ns", "end_ns"])
    start, end = table["start_ns"].to_numpy(), table["end_ns"].to_numpy()
    if start.dtype != np.int64 or end.dtype != np.int64:
        raise ValueError(f"{path.name} has times that are no whole nanoseconds")
    if (end < start).any():
        raise ValueError(f"{path.name} has inferences that end before they start")
    names, codes = passes_of(table["pass"])
    return Latencies(
        {name: (start[codes == code], end[codes == code]) for code, name in enumerate(names)}
    )


def passes_of(column: Any) -> tuple[list[str], np.ndarray]:
    """Return the names in a column of text and, per row, which of them it is; -1 is null."""
    import numpy as np
    import pyarrow as pa

    text = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(text, pa.ChunkedArray):  # how Arrow before 18 combines no chunks
        text = pa.concat_arrays(text.chunks) if text.num_chunks else pa.array([], pa.string())
    if not pa.types.is_dictionary(text.type):
        text = text.dictionary_encode()
    codes = text.indices.fill_null(-1).to_numpy()
    names = [str(name) for name in text.dictionary.to_pylist()]
    used = np.unique(codes[codes >= 0]).tolist()
    place = np.full(len(names) + 1, -1)
    place[used] = np.arange(len(used))
    return [names[code] for code in used], place[codes]


def reduced(name: str, start_ns: np.ndarray, end_ns: np.ndarray, origin_ns: int) -> PassLatency:
    """Return a pass of at least one inference, reduced.

    Args:
        name: The pass.
        start_ns: int64 (n,), in the order of time.
        end_ns: int64 (n,).
        origin_ns: What seconds count from.
    """
    import numpy as np

    duration_ms = (end_ns - start_ns) * 1e-6
    edges, counts, beyond = histogram(duration_ms)
    n = len(duration_ms)
    starts = block_starts(n, _stretches(n))
    ends = np.append(starts[1:], n)
    parts = [
        quantiles(np.sort(duration_ms[first:last]), (0.1, 0.5, 0.9))
        for first, last in zip(starts, ends, strict=True)
    ]
    low, middle, high = np.array(parts).T
    at = (start_ns[starts] - origin_ns + (end_ns[ends - 1] - start_ns[starts]) / 2) * 1e-9
    return PassLatency(name, n, edges, counts, beyond, at, middle, low, high)


def histogram(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return edges, counts and how many lie beyond the last edge, for at least one finite value.

    The bins lie around the median; a few values far below share the first, wider bin.
    """
    import numpy as np

    shares = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
    low, p1, q1, p50, q3, p99, high = quantiles(np.sort(values), shares).tolist()
    if low == high:
        half = max(abs(low) * 1e-3, 1e-6)
        return np.array([low - half, low + half]), np.array([len(values)]), 0
    spread = max(p99 - p50, p50 - p1, 1e-3 * abs(p50), 1e-6)
    first, last = max(low, p50 - _SPREADS * spread), min(high, p50 + _SPREADS * spread)
    width = 2 * (q3 - q1) / len(values) ** (1 / 3)
    fewest = min(10, len(values))
    bins = fewest if width <= 0 else int(np.clip((last - first) / width + 1, fewest, MOST_BINS))
    edges = np.linspace(first, last, bins + 1)
    if first > low:
        edges = np.concatenate([[low], edges])
    counts, _ = np.histogram(values, edges)
    return edges, counts, int(len(values) - counts.sum())


def quantiles(ranked: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Return quantiles of sorted values as `numpy.percentile` does, which takes far longer."""
    import numpy as np

    at = np.array(shares) * (len(ranked) - 1)
    left = at.astype(np.int64)
    right = np.minimum(left + 1, len(ranked) - 1)
    found: np.ndarray = ranked[left] + (at - left) * (ranked[right] - ranked[left])
    return found


def _stretches(n: int) -> int:
    """Return into how many stretches n inferences are cut: several in each if there are many."""
    return min(n, max(_FEWEST_STRETCHES, n // _PER_STRETCH), MOST_STRETCHES)
