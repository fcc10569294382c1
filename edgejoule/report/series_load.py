"""Read a run's traces and reduce them to what a page can hold. Numpy and pyarrow.

    run.json            phases ----------------------------------> spans, the origin of all times
    power.parquet       reads -> power per rail -> columns -------> least, mean, greatest
    inferences.parquet  latency per pass -------------------------> histogram, drift
    resources.parquet   one row a second -------------------------> clocks, temperatures, loads

What cannot be read becomes a sentence in `RunSeries.missing`; no damaged run
raises here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from edgejoule.errors import EdgejouleError
from edgejoule.report.series import PhaseSpan, RunSeries

_Found = TypeVar("_Found")


def load_series(path: Path, run: Mapping[str, Any]) -> RunSeries:
    """Read what is drawn over time.

    Args:
        path: The run directory.
        run: Its `run.json`.

    Returns:
        Whatever there is; a file that the run does not have, and does not name, is not missing.
    """
    from edgejoule.report.series_conditions import load_conditions
    from edgejoule.report.series_latency import load_latency
    from edgejoule.report.series_power import load_power

    missing: list[str] = []
    named = run.get("files")
    named = named if isinstance(named, Mapping) else {}
    phases = phases_of(run)

    def of(name: str, read: Callable[[Path], _Found]) -> _Found | None:
        if name not in named and not (path / name).exists():
            return None
        return guarded(lambda: read(path / name), name, missing)

    power = of("power.parquet", lambda file: load_power(file, phases))
    latency = of("inferences.parquet", load_latency)
    conditions = of("resources.parquet", load_conditions)
    ends = [end for found in (power, latency, conditions) if found for end in found.span_ns]
    starts = [start for _, start, _ in phases]
    origin = min(starts or ends, default=None)
    if origin is None:
        return RunSeries(missing=tuple(missing))
    last = max([*ends, *starts, *(end for _, _, end in phases if end is not None)])
    spans = tuple(
        PhaseSpan(phase, (start - origin) * 1e-9, ((last if end is None else end) - origin) * 1e-9)
        for phase, start, end in phases
    )
    return RunSeries(
        origin,
        spans,
        power.since(origin) if power else (),
        latency.since(origin) if latency else (),
        conditions.since(origin) if conditions else (),
        tuple(missing),
    )


def phases_of(run: Mapping[str, Any]) -> list[tuple[str, int, int | None]]:
    """Return phase, start and end (ns) of each stretch that `run.json` tells in a readable way.

    An end that is not known is the next start; that of the last one stays None.
    """
    listed = run.get("phases")
    found: list[tuple[str, int, int | None]] = []
    for item in listed if isinstance(listed, list) else []:
        if not isinstance(item, Mapping):
            continue
        start, end = _ns(item.get("start_ns")), _ns(item.get("end_ns"))
        if start is not None and (end is None or end >= start):
            found.append((str(item.get("phase")), start, end))
    found.sort(key=lambda one: one[1])
    following: list[int | None] = [start for _, start, _ in found[1:]]
    return [
        (phase, start, after if end is None else end)
        for (phase, start, end), after in zip(found, [*following, None], strict=False)
    ]


def guarded(read: Callable[[], _Found], name: str, missing: list[str]) -> _Found | None:
    """Return what `read` returns, or None with a sentence in `missing` for what a file can be."""
    import pyarrow as pa

    try:
        return read()
    except FileNotFoundError:
        missing.append(f"{name} is missing")
    except (
        *(OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError),
        *(MemoryError, pa.ArrowException, EdgejouleError),
    ) as error:
        # A damaged file is not known by one kind of error: Arrow's, a foreign table's, a header's.
        told = error.args[0] if isinstance(error, KeyError) and error.args else error
        said = " ".join(str(told).split()) or type(error).__name__
        said = said if name in said else f"{name} cannot be read ({said})"
        missing.append(said[:200])
    return None


def _ns(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < 2**63 else None
