"""Energy of a pass per inference, and its split over layers in proportion to their time.

`proportional` assumes that every layer draws the network's mean power: a layer's energy is the
energy of its inference times the layer's share of the inference's time. It adds up to the whole
by construction and says nothing about which layer draws more power; it is named `proportional`
wherever it stands and its bias is not known.

Where a profiler keeps the device waiting or busy with its own events (torch on a GPU), that time is
taken to draw idle power: dynamic energy is shared over the rest of the inference, and the wait
belongs to the gap with its idle energy alone. Numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgejoule.energy.rows import EnergyRow
from edgejoule.energy.statistics import block_starts, combine, half_width_of

METHOD = "proportional"


@dataclass(frozen=True)
class PassEnergy:
    """Mean energy of an inference of a pass on one rail.

    Attributes:
        gross_mj: Energy per inference.
        gross_half_width_mj: Half-width of its 95 % interval (block means), None below two blocks.
        dynamic_mj: Energy above the baseline, None without a baseline.
        dynamic_half_width_mj: Its half-width with the baseline's own included.
        mean_mw: Mean power while inferences ran.
        n: Inferences.
    """

    gross_mj: float
    gross_half_width_mj: float | None
    dynamic_mj: float | None
    dynamic_half_width_mj: float | None
    mean_mw: float
    n: int


def per_inference(
    energy_mj: np.ndarray,
    duration_ns: np.ndarray,
    baseline_mw: float | None,
    baseline_half_width_mw: float | None,
) -> PassEnergy:
    """Summarise the energies of a pass's inferences.

    Args:
        energy_mj: (n,) gross energy of each inference, in order.
        duration_ns: (n,) its duration.
        baseline_mw: Idle power with the engine loaded, or None.
        baseline_half_width_mw: Half-width of its 95 % interval.
    """
    n = len(energy_mj)
    starts = block_starts(n)
    sizes = np.diff(np.append(starts, n))
    blocks_mj = np.add.reduceat(energy_mj, starts) / sizes
    gross = float(np.mean(energy_mj))
    seconds = float(np.mean(duration_ns)) * 1e-9
    dynamic = dynamic_half = None
    if baseline_mw is not None:
        idle_mj = np.add.reduceat(duration_ns, starts) / sizes * 1e-9 * baseline_mw
        dynamic = gross - baseline_mw * seconds
        of_baseline = None if baseline_half_width_mw is None else baseline_half_width_mw * seconds
        dynamic_half = combine(half_width_of(blocks_mj - idle_mj), of_baseline)
    return PassEnergy(
        gross,
        half_width_of(blocks_mj),
        dynamic,
        dynamic_half,
        gross / seconds if seconds else 0.0,
        n,
    )


def attribute(
    rail: str,
    energy_mj: np.ndarray,
    duration_ns: np.ndarray,
    layer_ns: np.ndarray,
    baseline_mw: float | None,
    baseline_half_width_mw: float | None,
    held_ns: np.ndarray | None = None,
) -> list[EnergyRow]:
    """Split the profiled pass's energy over layers and gap by their share of the time.

    Args:
        rail: Name of the rail, `total` for the board's total.
        energy_mj: (n,) gross energy of each profiled inference.
        duration_ns: (n,) duration of each.
        layer_ns: (blocks, layers) summed layer time per block of inferences, the blocks being
            those of `statistics.block_starts(n)`.
        baseline_mw: Idle power with the engine loaded, or None.
        baseline_half_width_mw: Half-width of its 95 % interval.
        held_ns: (n,) time within each that is there because of the profiler alone; counted as idle
            where a baseline is known.

    Returns:
        One row per layer, one for the gap, one for the whole, one for the sum.
    """
    n = len(energy_mj)
    starts = block_starts(n)
    sizes = np.diff(np.append(starts, n))
    block_ns = np.add.reduceat(duration_ns.astype(np.float64), starts)
    block_mj = np.add.reduceat(energy_mj, starts)
    duration_ms = float(np.mean(duration_ns)) * 1e-6
    shares = layer_ns / block_ns[:, None]
    shares = np.column_stack([shares, 1.0 - shares.sum(axis=1)])  # the last column is the gap
    seconds = shares * block_ns[:, None] * 1e-9
    busy, busy_ns = shares, block_ns
    if baseline_mw is None:
        gross, dynamic = shares * block_mj[:, None], None
    else:
        idle_mj = block_ns * 1e-9 * baseline_mw
        if held_ns is not None:
            held = np.add.reduceat(held_ns.astype(np.float64), starts)
            busy_ns = np.maximum(np.maximum(block_ns - held, layer_ns.sum(axis=1)), 1.0)
        busy = layer_ns / busy_ns[:, None]
        busy = np.column_stack([busy, 1.0 - busy.sum(axis=1)])
        dynamic = busy * (block_mj - idle_mj)[:, None]
        gross = dynamic + seconds * baseline_mw

    rows = []
    last = shares.shape[1] - 1
    for column in range(shares.shape[1]):
        half = half_width_of(gross[:, column] / sizes)
        dynamic_mj = dynamic_half = None
        if dynamic is not None:
            dynamic_mj = float(dynamic[:, column].sum() / n)
            # How far each moves with the baseline: dynamic by its share of the whole, gross by
            # what that differs from its own time, which is nothing where nothing is held.
            drawn_s = float((busy[:, column] * block_ns).sum() * 1e-9 / n)
            own_s = float(seconds[:, column].sum() / n)
            dynamic_half = combine(
                half_width_of(dynamic[:, column] / sizes),
                _of_baseline(baseline_half_width_mw, drawn_s),
            )
            if held_ns is not None and baseline_half_width_mw is not None:
                half = combine(half, _of_baseline(baseline_half_width_mw, own_s - drawn_s))
        rows.append(
            EnergyRow(
                METHOD,
                rail,
                "gap" if column == last else "layer",
                None if column == last else column,
                float(gross[:, column].sum() / n),
                half,
                dynamic_mj,
                dynamic_half,
                None,
                n,
                None,
                time_ms=float(seconds[:, column].sum() * 1e3 / n),
            )
        )
    whole = per_inference(energy_mj, duration_ns, baseline_mw, baseline_half_width_mw)
    widths = (whole.gross_half_width_mj, whole.dynamic_mj, whole.dynamic_half_width_mj)
    rows.append(
        EnergyRow(
            METHOD, rail, "inference", None, whole.gross_mj, *widths, None, n, None,
            time_ms=duration_ms,
        )
    )  # fmt: skip
    sums = sum(row.gross_mj or 0.0 for row in rows[: last + 1])
    dynamics = [row.dynamic_mj for row in rows[: last + 1] if row.dynamic_mj is not None]
    rows.append(
        EnergyRow(
            METHOD, rail, "closure", None, sums, None,
            sum(dynamics) if dynamics else None, None, None, n, None, time_ms=duration_ms,
        )
    )  # fmt: skip
    return rows


def _of_baseline(half_width_mw: float | None, seconds: float) -> float | None:
    """Return what a baseline's half-width makes of an energy that moves with it, mJ."""
    return None if half_width_mw is None else half_width_mw * abs(seconds)
