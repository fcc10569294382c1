"""Power of each rail over a run, in columns that keep the least, mean and greatest reading.

    reads       . . . . .  .  . . . .           . . . . .   as the sampler made them
    column   |         |         |         |         |      of equal width, at most 1200
    kept       low, mean, high     ...        a gap: NaN    nothing was read there

The mean is over time: each reading counts for half the way to its neighbours, so that a stretch
read at the fast rate weighs no more than its length; beyond a gap of the trace it counts no farther
than any other. Columns without a reading are left out where the sensor is just slower than they
are narrow, and are NaN once where the trace has a gap.

A trace is read in batches of about a million reads, so that memory does not grow with its length. A
batch takes some seconds of the one before with it, since a current is paired with the voltage
nearest in time and a counter's power reaches from tick to tick.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.energy.integrate import GAP_FACTOR
from edgejoule.errors import MeasurementError
from edgejoule.report.series import RailSeries

if TYPE_CHECKING:
    import numpy as np

    from edgejoule.energy.trace import RailPower

MOST_COLUMNS = 1200
READS_AT_ONCE = 1_000_000
_USUAL_OF = 65_536  # distances that the usual one is taken from
_OVERLAP_NS = 5_000_000_000
_PEAK_PHASES = ("clean", "profiled")
_NAMES = ("t0_ns", "t1_ns", "channel", "raw", "errno")
TOTAL = "total"

Phases = Sequence[tuple[str, int, "int | None"]]


@dataclass
class _Columns:
    """What is known of one rail's columns so far; arrays of one element per column."""

    rail: str
    low: np.ndarray
    high: np.ndarray
    weighted: np.ndarray
    weight: np.ndarray
    counts: np.ndarray
    readings: int = 0
    peak_mw: float | None = None
    usual_ns: float = 0.0  # distance of points
    after_ns: int = -1  # the last point that has been taken


@dataclass(frozen=True)
class Trace:
    """A trace, reduced; times are still nanoseconds.

    Attributes:
        span_ns: First and last stamp, nothing where there is no read.
        rails: Rail -> its columns.
        failed: Rail -> reads that failed.
        refresh_ns: The sensor's, 0 where not known.
    """

    span_ns: tuple[int, ...]
    rails: Mapping[str, _Columns] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    refresh_ns: int = 0

    def since(self, origin_ns: int) -> tuple[RailSeries, ...]:
        """Return the rails, `total` last, seconds counted from `origin_ns`."""
        names = sorted(self.rails, key=lambda name: name == TOTAL)
        return tuple(self._series(self.rails[name], origin_ns) for name in names)

    def _series(self, found: _Columns, origin_ns: int) -> RailSeries:
        import numpy as np

        first_ns, last_ns = self.span_ns
        width_ns = (last_ns - first_ns) / len(found.counts)
        kept = _kept(found, width_ns, self.refresh_ns)
        used = found.counts[kept] > 0
        weight = np.where(used & (found.weight[kept] > 0), found.weight[kept], 1.0)
        low, high = found.low[kept] * 1e-3, found.high[kept] * 1e-3
        # A reading alone has no length of time; rounding must not lift a mean above the greatest.
        mean = np.where(found.weight[kept] > 0, found.weighted[kept] / weight * 1e-3, high)
        middle_s = ((kept + 0.5) * width_ns + (first_ns - origin_ns)) * 1e-9
        return RailSeries(
            found.rail,
            middle_s,
            np.where(used, np.clip(mean, low, high), np.nan),
            np.where(used, low, np.nan),
            np.where(used, high, np.nan),
            found.readings,
            self.failed.get(found.rail, 0),
            None if found.peak_mw is None else found.peak_mw * 1e-3,
        )


def load_power(
    path: Path,
    phases: Phases = (),
    *,
    columns: int = MOST_COLUMNS,
    reads_at_once: int = READS_AT_ONCE,
) -> Trace:
    """Read a `power.parquet`.

    Args:
        path: The file.
        phases: Phase, start and end (ns) of the run, for the peaks.
        columns: At most so many per rail.
        reads_at_once: Rows in memory together.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no such table.
        MeasurementError: It has no channel table, or times that do not increase.
    """
    import numpy as np

    from edgejoule.dataset.schema import read_metadata
    from edgejoule.energy.trace import rail_names, rail_powers_of_samples, total_power
    from edgejoule.power.totals import total_rails_of

    header = read_metadata(path)
    channels = header.get("channels")
    if not isinstance(channels, list):
        raise MeasurementError(f"{path.name} has no channel table")
    span_ns = _span_ns(path)
    if not span_ns:
        return Trace(())
    peaks = [(start, end) for phase, start, end in phases if phase in _PEAK_PHASES and end]
    found: dict[str, _Columns] = {}
    errors = np.zeros(len(channels), np.int64)
    total_of: tuple[str, ...] | None = None
    for samples, fresh, last in _batches(path, reads_at_once):
        _count_errors(errors, channels, samples, fresh)
        rails = {
            name: series
            for name, series in rail_powers_of_samples(channels, samples).items()
            if len(series.t_ns)
        }
        total_of = total_rails_of(header, tuple(rails))
        if total_of and len(total_of) > 1:
            rails[TOTAL] = total_power([rails[name] for name in total_of], TOTAL)
        # What lies near the end of a batch comes again with the next, then with its neighbours.
        until_ns = None if last else int(samples["t0_ns"][-1]) - _OVERLAP_NS // 2
        for name, series in rails.items():
            own = found.get(name) or found.setdefault(name, _empty(name, columns))
            _take(own, series, span_ns, until_ns, peaks)
    if total_of and len(total_of) == 1 and total_of[0] in found:
        found[TOTAL] = replace(found[total_of[0]], rail=TOTAL)
    failed: dict[str, int] = {}
    for name, count in zip(rail_names(channels), errors.tolist(), strict=True):
        failed[name] = failed.get(name, 0) + count
    if TOTAL in found and TOTAL not in failed:
        failed[TOTAL] = sum(failed.get(name, 0) for name in total_of or ())
    refresh = header.get("refresh_ns")
    refresh_ns = refresh if isinstance(refresh, int) and refresh > 0 else 0
    return Trace(span_ns, found, failed, refresh_ns)


def _span_ns(path: Path) -> tuple[int, ...]:
    """Return the first and the last stamp of a trace; nothing where there is no row."""
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        table = pq.ParquetFile(file)
        if not table.metadata.num_rows:
            return ()
        ends = _told(table.metadata)
        batches = () if ends else table.iter_batches(READS_AT_ONCE, columns=["t0_ns"])
        for batch in batches:
            values = batch["t0_ns"].to_numpy()
            ends += [int(values.min()), int(values.max())]
    return min(ends), max(ends) + 1


def _told(metadata: Any) -> list[int]:
    """Return the ends of `t0_ns` as the file's footer tells them; nothing where it does not."""
    found: list[int] = []
    for group in range(metadata.num_row_groups):
        columns = [metadata.row_group(group).column(at) for at in range(metadata.num_columns)]
        times = next((one for one in columns if one.path_in_schema == "t0_ns"), None)
        told = times.statistics if times is not None and times.is_stats_set else None
        if told is None or not told.has_min_max:
            return []
        found += [int(told.min), int(told.max)]
    return found


def _batches(path: Path, reads_at_once: int) -> Iterator[tuple[dict[str, np.ndarray], int, bool]]:
    """Yield columns of rows, how many rows at the begin came before already, and the last mark."""
    import numpy as np
    import pyarrow.parquet as pq

    held: dict[str, np.ndarray] | None = None
    with path.open("rb") as file:
        table = pq.ParquetFile(file)
        left = int(table.metadata.num_rows)
        for batch in table.iter_batches(reads_at_once, columns=list(_NAMES)):
            left -= batch.num_rows
            # Nulls: `raw` where the read failed, `errno` where it did not.
            rows = {name: batch[name].fill_null(0).to_numpy() for name in _NAMES}
            again = 0
            if held is not None:
                again = len(held["t0_ns"])
                rows = {name: np.concatenate([held[name], rows[name]]) for name in _NAMES}
            yield rows, again, left == 0
            first = int(np.searchsorted(rows["t0_ns"], rows["t0_ns"][-1] - _OVERLAP_NS))
            held = {name: values[first:] for name, values in rows.items()}


def _count_errors(
    errors: np.ndarray,
    channels: Sequence[Mapping[str, Any]],
    samples: Mapping[str, np.ndarray],
    fresh: int,
) -> None:
    import numpy as np

    failed = samples["channel"][fresh:][samples["errno"][fresh:] != 0]
    if len(failed):
        for place, channel in enumerate(channels):
            errors[place] += int(np.count_nonzero(failed == channel["index"]))


def _empty(rail: str, columns: int) -> _Columns:
    import numpy as np

    return _Columns(
        rail,
        np.full(columns, np.inf),
        np.full(columns, -np.inf),
        np.zeros(columns),
        np.zeros(columns),
        np.zeros(columns, np.int64),
    )


def _take(
    found: _Columns,
    series: RailPower,
    span_ns: tuple[int, ...],
    until_ns: int | None,
    peaks: Sequence[tuple[int, int]],
) -> None:
    """Add those points of a series that lie after the last one taken and no later than a time."""
    import numpy as np

    lower = int(np.searchsorted(series.t_ns, found.after_ns, side="right"))
    upper = len(series.t_ns)
    if until_ns is not None:
        upper = int(np.searchsorted(series.t_ns, until_ns, side="right"))
    if upper <= lower:
        return
    t_ns, power_mw = series.t_ns[lower:upper], series.power_mw[lower:upper]
    found.usual_ns = max(found.usual_ns, _usual_ns(series))
    weight = _weights(series, GAP_FACTOR * found.usual_ns)[lower:upper]
    columns = len(found.counts)
    first_ns, last_ns = span_ns
    place = ((t_ns - first_ns) * (columns / (last_ns - first_ns))).astype(np.int64)
    place = np.clip(place, 0, columns - 1)
    starts = np.flatnonzero(np.concatenate([[True], place[1:] != place[:-1]]))
    at = place[starts]
    found.low[at] = np.minimum(found.low[at], np.minimum.reduceat(power_mw, starts))
    found.high[at] = np.maximum(found.high[at], np.maximum.reduceat(power_mw, starts))
    found.weighted += np.bincount(place, weight * power_mw, minlength=columns)
    found.weight += np.bincount(place, weight, minlength=columns)
    found.counts += np.bincount(place, minlength=columns)
    # A counter's stretch is two points and one reading.
    found.readings += len(t_ns) if series.late_ns is None else len(t_ns) // 2
    found.after_ns = int(t_ns[-1])
    for start, end in peaks:
        inside = slice(*np.searchsorted(t_ns, [start, end]))
        if len(power_mw[inside]):
            peak = float(power_mw[inside].max())
            found.peak_mw = peak if found.peak_mw is None else max(peak, found.peak_mw)


def _weights(series: RailPower, longest_ns: float) -> np.ndarray:
    """Return for how many ns each point stands: half the way to both its neighbours."""
    import numpy as np

    steps = np.diff(series.t_ns).astype(np.float64)
    if series.late_ns is None:
        steps = np.minimum(steps, longest_ns)
    around = np.concatenate([[0.0], steps, [0.0]])
    weights: np.ndarray = (around[1:] + around[:-1]) / 2
    return weights


def _usual_ns(series: RailPower) -> float:
    """Return the distance of points that all but a few keep to, 0 below two points.

    Not the median: in a trace that is polled fast for a while most distances are short ones.
    """
    import numpy as np

    times = series.t_ns if series.late_ns is None else series.t_ns[::2]
    steps = np.diff(times)
    steps = np.sort(steps[:: max(1, len(steps) // _USUAL_OF)])
    return float(steps[max(0, len(steps) - 1 - max(2, len(steps) // 100))]) if len(steps) else 0.0


def _kept(found: _Columns, width_ns: float, refresh_ns: int) -> np.ndarray:
    """Return which columns are shown: those with a reading, and one within each gap."""
    import numpy as np

    used = np.flatnonzero(found.counts)
    if len(used) < 2:
        return used
    steps = np.diff(used)
    # The usual distance of readings may be several columns or much less than one.
    usual_ns = max(found.usual_ns, refresh_ns, width_ns)
    wide = np.flatnonzero(steps * width_ns > GAP_FACTOR * usual_ns)
    gaps = used[wide] + steps[wide] // 2
    kept: np.ndarray = np.sort(np.concatenate([used, gaps]))
    return kept
