"""What a run's figures are drawn from: its traces reduced to what a page can hold.

A trace of hours has millions of readings; a figure some thousand columns. Each column keeps the
least, mean and greatest value of its stretch, so that a short peak stays visible.

All times are seconds since `RunSeries.start_ns` (CLOCK_MONOTONIC), the start of the first phase;
what happened before has a negative one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class PhaseSpan:
    """A stretch of one phase.

    Attributes:
        phase: Its name.
        start_s: Begin.
        end_s: End; of a phase that was cut, the last thing known.
    """

    phase: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class RailSeries:
    """Power of one rail, one element per column, all arrays of one length.

    Attributes:
        rail: The rail, or `total`.
        t_s: Middle of each column; columns without a reading are absent, but for one per gap.
        mean_w: Mean over time; NaN where nothing was read.
        low_w: Least reading.
        high_w: Greatest reading.
        readings: How many there are in all.
        failed: Reads that failed.
        peak_w: The greatest reading during `clean` and `profiled` passes, None without any.
    """

    rail: str
    t_s: np.ndarray
    mean_w: np.ndarray
    low_w: np.ndarray
    high_w: np.ndarray
    readings: int
    failed: int = 0
    peak_w: float | None = None


@dataclass(frozen=True)
class PassLatency:
    """Latency of one pass.

    Attributes:
        name: `warmup`, `clean`, `rate`, `profiled`.
        count: Inferences.
        edges_ms: Edges of the histogram's bins, one more than `counts`, of equal width but for the
            first bin, which may be wider; outliers beyond the last edge are in `beyond`.
        counts: Inferences per bin.
        beyond: Inferences slower than the last edge.
        t_s: Middle of each stretch of the pass.
        median_ms: Median of each stretch.
        p10_ms: Tenth percentile.
        p90_ms: Ninetieth percentile.
    """

    name: str
    count: int
    edges_ms: np.ndarray
    counts: np.ndarray
    beyond: int
    t_s: np.ndarray
    median_ms: np.ndarray
    p10_ms: np.ndarray
    p90_ms: np.ndarray


@dataclass(frozen=True)
class ConditionSeries:
    """One column of `resources.parquet`, reduced.

    Attributes:
        name: The column's name, unit included (`temperature_gpu_c`).
        kind: What it is of: `clock`, `temperature`, `load`, `memory`, `throttling`, `fan`, `other`.
        unit: `Hz`, `MHz`, `°C`, `%`, `MiB`, ...; empty for a plain number.
        t_s: Time of each value.
        values: The values; NaN where not read. A counter (unit `events`) counts from the first.
    """

    name: str
    kind: str
    unit: str
    t_s: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class RunSeries:
    """Everything that is drawn over time.

    Attributes:
        start_ns: What seconds count from; without phases the first stamp of the traces, None where
            nothing has a stamp.
        spans: Phases in order.
        power: Rails in the trace's order, `total` last.
        latency: Passes in the order of time.
        conditions: Columns of the resources that hold anything.
        missing: Sentences about what could not be read.
    """

    start_ns: int | None = None
    spans: tuple[PhaseSpan, ...] = ()
    power: tuple[RailSeries, ...] = ()
    latency: tuple[PassLatency, ...] = ()
    conditions: tuple[ConditionSeries, ...] = ()
    missing: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class LayerTimes:
    """Times of a run's layers over its profiled inferences.

    Attributes:
        count: Layer -> executions.
        mean_ms: Layer -> mean.
        median_ms: Layer -> median.
        half_ms: Layer -> half-width of the mean's 95 % interval within this process, from the means
            of consecutive blocks; absent where there are too few executions.
        block_ms: Layer -> mean of each of the blocks behind `half_ms`; same number for all layers.
        total_ms: Layer -> sum.
    """

    count: Mapping[int, int]
    mean_ms: Mapping[int, float]
    median_ms: Mapping[int, float]
    half_ms: Mapping[int, float]
    block_ms: Mapping[int, np.ndarray]
    total_ms: Mapping[int, float]
