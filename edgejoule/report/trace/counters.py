"""Rails, clocks, temperatures and loads as counters: every reading, none left out, none made up.

    rail with voltage and current   mV x mA of each current read with the voltage nearest in time
    rail with a power channel       each read
    rail with an energy counter     mean power from one tick to the next, at the first of the two
    total                           the sum of its rails at all their times

A counter of Perfetto holds its value until the next one. So a stretch in which nothing was read is
drawn flat; the phases say where the sampler was off.

A trace is read in batches that overlap by some seconds, as `report/series_power.py` does it and for
the same reasons, so that memory does not grow with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import MeasurementError
from edgejoule.report.tables import TOTAL
from edgejoule.report.trace.packets import Packets, Sequence
from edgejoule.report.trace.tracks import Tracks

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgejoule.energy.trace import RailPower

OVERLAP_NS = 5_000_000_000
READS_AT_ONCE = 1_000_000
_COLUMNS = ("t0_ns", "t1_ns", "channel", "raw", "errno")

Span = tuple[int, int]
Progress = Callable[[int, int], None]


def write_power(
    packets: Packets,
    tracks: Tracks,
    path: Path,
    span_ns: Span | None = None,
    progress: Progress = lambda done, total: None,
    reads_at_once: int = READS_AT_ONCE,
) -> dict[str, int]:
    """Write every rail of a trace and its total, in W.

    Args:
        packets: The file.
        tracks: Its tracks.
        path: A `power.parquet`.
        span_ns: Only what lies within these times; None: everything.
        progress: Told how many of how many reads are done.
        reads_at_once: Rows in memory together.

    Returns:
        Rail -> values written.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no such table.
        MeasurementError: It has no channel table, or times that do not increase.
    """
    from edgejoule.dataset.schema import read_metadata
    from edgejoule.energy.trace import rail_powers_of_samples, total_power
    from edgejoule.power.totals import total_rails_of

    header = read_metadata(path)
    channels = header.get("channels")
    if not isinstance(channels, list):
        raise MeasurementError(f"{path.name} has no channel table")
    written: dict[str, _Rail] = {}
    for samples, done, rows in _batches(path, span_ns, reads_at_once):
        rails = {
            name: series
            for name, series in rail_powers_of_samples(channels, samples).items()
            if len(series.t_ns)
        }
        if total_of := total_rails_of(header, tuple(rails)):
            rails[TOTAL] = total_power([rails[name] for name in total_of], TOTAL)
        # What lies near the end of a batch comes again with the next, then with its neighbours.
        until_ns = None if done == rows else int(samples["t0_ns"][-1]) - OVERLAP_NS // 2
        for name, series in rails.items():
            if name not in written:
                written[name] = _Rail(packets, tracks, name, _told(name, header, channels))
            written[name].take(series, until_ns, span_ns)
        progress(done, rows)
    return {name: rail.count for name, rail in written.items()}


class _Rail:
    """A rail's counter, and how far it is written."""

    def __init__(self, packets: Packets, tracks: Tracks, name: str, told: str) -> None:
        self.count = 0
        self._after_ns = -1
        self._sequence = Sequence(packets, tracks.counter(f"power {name}", "W", told))
        self._sequence.begin()

    def take(self, series: RailPower, until_ns: int | None, span_ns: Span | None) -> None:
        """Write the points after the last one written and no later than a time."""
        import numpy as np

        # A counter's stretch is two points of one power.
        step = 1 if series.late_ns is None else 2
        t_ns, power_mw = series.t_ns[::step], series.power_mw[::step]
        last = until_ns
        if span_ns is not None:
            last = span_ns[1] if last is None else min(last, span_ns[1])
            self._after_ns = max(self._after_ns, span_ns[0] - 1)
        low = int(np.searchsorted(t_ns, self._after_ns, side="right"))
        high = len(t_ns) if last is None else int(np.searchsorted(t_ns, last, side="right"))
        if high <= low:
            return
        watts = power_mw[low:high] * 1e-3
        value = self._sequence.value
        for t, watt in zip(t_ns[low:high].tolist(), watts.tolist(), strict=True):
            value(t, watt)
        self._after_ns = int(t_ns[high - 1])
        self.count += high - low


def _told(name: str, header: Mapping[str, Any], channels: list[Any]) -> str:
    """Return what is known of a rail, for the description of its track."""
    if name == TOTAL:
        total = header.get("total") or {}
        told = f"the sum of {', '.join(map(str, total.get('rails', ())))}"
        for key in ("contains", "excludes"):
            if total.get(key):
                told += f"; {key} {total[key]}"
        return told
    own = [one for one in channels if isinstance(one, Mapping) and one.get("rail") == name]
    quantities = {str(one.get("quantity")) for one in own}
    told = "readings as they are"
    if {"voltage", "current"} <= quantities:
        told = "each current read times the voltage read nearest in time"
    elif "energy" in quantities and "power" not in quantities:
        told = "mean power from one tick of an energy counter to the next"
    averaging = [str(one["averaging"]) for one in own if one.get("averaging")]
    return "; ".join([told, *averaging, "held until the next reading"])


def _batches(
    path: Path, span_ns: Span | None, reads_at_once: int
) -> Iterator[tuple[dict[str, npt.NDArray[np.int64]], int, int]]:
    """Yield columns of rows, how many rows are done with them, and how many there are."""
    import numpy as np
    import pyarrow.parquet as pq

    held: dict[str, npt.NDArray[np.int64]] | None = None
    done = 0
    with path.open("rb") as file:
        table = pq.ParquetFile(file)
        rows = int(table.metadata.num_rows)
        for batch in table.iter_batches(reads_at_once, columns=list(_COLUMNS)):
            done += batch.num_rows
            # Nulls: `raw` where the read failed, `errno` where it did not.
            columns = {name: batch[name].fill_null(0).to_numpy() for name in _COLUMNS}
            if held is not None:
                columns = {k: np.concatenate([held[k], columns[k]]) for k in _COLUMNS}
            if span_ns is not None:
                low, high = span_ns[0] - OVERLAP_NS, span_ns[1] + OVERLAP_NS
                near = (columns["t0_ns"] >= low) & (columns["t0_ns"] <= high)
                columns = {name: values[near] for name, values in columns.items()}
            if len(columns["t0_ns"]):
                yield columns, done, rows
                first = int(np.searchsorted(columns["t0_ns"], columns["t0_ns"][-1] - OVERLAP_NS))
                held = {name: values[first:] for name, values in columns.items()}


def write_resources(
    packets: Packets, tracks: Tracks, path: Path, span_ns: Span | None = None
) -> dict[str, int]:
    """Write every column of the resources that holds anything, and return how many values each.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no such table.
        KeyError: It has no times.
    """
    import numpy as np

    from edgejoule.report.series_conditions import kind_of, load_conditions

    found = load_conditions(path)
    written = {}
    for place, name in enumerate(found.names):
        values = found.values[:, place]
        rows = np.isfinite(values)
        if span_ns is not None:
            rows &= (found.t_ns >= span_ns[0]) & (found.t_ns <= span_ns[1])
        kind, unit = kind_of(name)
        sequence = Sequence(packets, tracks.counter(name, unit, kind))
        sequence.begin()
        for t, value in zip(found.t_ns[rows].tolist(), values[rows].tolist(), strict=True):
            sequence.value(t, value)
        written[name] = int(np.count_nonzero(rows))
    return written
