"""A network's inferences: how long each part takes, what it draws, and what of it is known.

The true energy of a layer is what is drawn in its time, before any low-pass of the board: that
moves power in time, for the sensor only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.timeline import Timeline
from edgejoule.errors import UsageError
from edgejoule.simulation.scenario import GAP_KINDS, Gaps, Scenario
from edgejoule.simulation.signal import Steps

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

_UNLOADED = 0.97  # of the idle power with the model loaded
_PAUSE_NS = 20e6  # between the clean and the profiled pass
_MARK_NS = 5e6  # of a phase in which nothing is measured
_HOST_NS = 40_000.0  # between two inferences, without any wait
_RAMP_PIECES = 4
_SHORTEST = 0.2  # of a part's mean duration: jitter never makes it shorter


@dataclass(frozen=True)
class Plan:
    """What is drawn once per seed.

    Attributes:
        layer_ns: Mean durations, float64 (layers,).
        gap_ns: Mean gaps, before the first layer and after each, float64 (layers + 1,).
        power_mw: Per rail the layers' powers, float64 (rails, layers).
        short: The layer that was made short, None: none.
    """

    layer_ns: Floats
    gap_ns: Floats
    power_mw: Floats
    short: int | None


@dataclass(frozen=True)
class RailTruth:
    """What a rail really drew, means per inference over the pass.

    Attributes:
        layer_mj: float64 (layers,).
        gap_mj: In no layer, between an inference's start and its end.
        inference_mj: From start to end.
        layer_mw: Mean powers, float64 (layers,).
        gap_mw: Mean power in gaps, 0 if there are none.
        idle_mw: Idle power, the mean of before and after.
    """

    layer_mj: Floats
    gap_mj: float
    inference_mj: float
    layer_mw: Floats
    gap_mw: float
    idle_mw: float


@dataclass(frozen=True)
class Workload:
    """Everything that happened; times in ns from the pass's origin.

    Attributes:
        starts: float64 (n,).
        ends: float64 (n,).
        layer_ns: True durations, float64 (n, layers).
        offset_ns: True begins from the inference's start, float64 (n, layers).
        rails: Power of each rail over time, mW.
        truth: By rail.
        clean: Start and end of the clean pass's inferences, float64 (clean, 2).
        marks: The phases and when each begins, the last is `end`.
    """

    starts: Floats
    ends: Floats
    layer_ns: Floats
    offset_ns: Floats
    rails: dict[str, Steps]
    truth: dict[str, RailTruth]
    clean: Floats
    marks: tuple[tuple[str, float], ...]

    def begin(self, phase: str) -> float:
        """Return when a phase begins."""
        return next(at for name, at in self.marks if name == phase)


def draw_plan(scenario: Scenario, random: np.random.Generator) -> Plan:
    """Draw a network: durations, powers, gaps.

    Raises:
        UsageError: Stated layers differ in number, or an unknown kind of gap.
    """
    layers = len(scenario.layer_us or scenario.power_mw or ()) or scenario.layers
    lengths = scenario.ratio ** random.uniform(0, 1, layers)
    layer_ns = lengths / lengths.sum() * scenario.layers_ms * 1e6
    powers = random.uniform(0, 1, layers)
    span = max(float(np.ptp(powers)), 1e-9)
    power_mw = scenario.lowest_mw + scenario.span_mw * (powers - powers.min()) / span
    short = None
    if scenario.short_us is not None:
        short = int(random.integers(layers))
        layer_ns[short] = scenario.short_us * 1e3
    if scenario.layer_us is not None:
        layer_ns = np.array(scenario.layer_us) * 1e3
    if scenario.power_mw is not None:
        power_mw = np.array(scenario.power_mw, float)
    if len(power_mw) != len(layer_ns):
        raise UsageError(
            f"scenario {scenario.name}: {len(layer_ns)} durations, {len(power_mw)} powers",
            "give as many of one as of the other",
        )
    gap_ns = _gaps(scenario.gaps, layer_ns, random)
    shares = [
        rail.share * np.maximum(0.1, 1 + rail.spread * random.standard_normal(len(layer_ns)))
        for rail in scenario.rails
    ]
    return Plan(layer_ns, gap_ns, np.array(shares) * power_mw, short)


def _gaps(gaps: Gaps, layer_ns: Floats, random: np.random.Generator) -> Floats:
    layers = len(layer_ns)
    weights = {
        "equal": np.ones(layers),
        "unequal": random.exponential(1.0, layers),
        "end": np.eye(layers)[-1],
        "proportional": layer_ns,
    }
    if gaps.kind not in GAP_KINDS or not 0 <= gaps.share < 1:
        raise UsageError(
            f"no such gaps: {gaps.kind}, share {gaps.share:g}",
            f"kinds are {', '.join(GAP_KINDS)}, a share is from 0 to below 1",
        )
    total_ns = gaps.share / (1 - gaps.share) * float(layer_ns.sum())
    offset_ns = gaps.offset_us * 1e3
    weight = weights[gaps.kind] / weights[gaps.kind].sum()
    found: Floats = np.concatenate(([offset_ns], max(0.0, total_ns - offset_ns) * weight))
    return found


def run_network(scenario: Scenario, plan: Plan, random: np.random.Generator) -> Workload:
    """Play idle, all inferences of the clean and the profiled pass, idle."""
    parts = _parts(scenario, plan, random)
    n, layers, lead_ns = len(parts), len(plan.layer_ns), scenario.idle_s * 1e9
    ends = np.cumsum(parts.sum(axis=1)) + lead_ns
    within = np.cumsum(parts[:, 1:], axis=1)
    starts = ends - within[:, -1]
    passed = (starts - lead_ns) / max(float(ends[-1]) - lead_ns, 1.0)
    drift = 1 + scenario.drift * -np.expm1(-3 * passed)
    inputs = 1 + scenario.input_sd * random.standard_normal((n, layers))
    factors = np.maximum(inputs, 0.1) * drift[:, None]
    signals, truth = {}, {}
    edges, pieces = _edges(parts, lead_ns, scenario.ramp)
    profiled = slice(scenario.clean, None)
    for rail, power_mw in zip(scenario.rails, plan.power_mw, strict=True):
        powers = np.empty_like(parts)
        powers[:, 0] = rail.share * scenario.between_mw * drift
        powers[:, 1::2] = rail.share * scenario.gap_mw * drift[:, None]
        powers[:, 2::2] = power_mw * factors
        idle_mw = rail.share * scenario.idle_mw
        levels = (_repeated(powers, pieces) if scenario.ramp else powers).ravel()
        if scenario.ramp:
            slopes = _repeated(np.zeros_like(parts), pieces, scenario.ramp)
            levels = levels * (1 + slopes.ravel())
        before, after = idle_mw, idle_mw * drift[-1]
        levels = np.concatenate(([_UNLOADED * before, before], levels, [after, _UNLOADED * after]))
        signals[rail.label] = Steps(edges, levels)
        truth[rail.label] = _truth(powers[profiled, 1:], parts[profiled, 1:], (before, after))
    return Workload(
        starts[profiled],
        ends[profiled],
        parts[profiled, 2::2],
        within[profiled, 0::2][:, :layers],
        signals,
        truth,
        np.column_stack((starts, ends))[: scenario.clean],
        _marks(starts, ends, scenario.clean, lead_ns),
    )


def _parts(scenario: Scenario, plan: Plan, random: np.random.Generator) -> Floats:
    """Return one row per inference: host gap, gap, layer, gap, layer, ..., gap; ns."""
    n, layers = scenario.clean + scenario.inferences, len(plan.layer_ns)
    slow = np.where(random.uniform(size=(n, 1)) < scenario.slow_share, scenario.slow_factor, 1.0)
    scatter = 1 + scenario.jitter * random.standard_normal((n, layers))
    breath = 1 + scenario.gaps.jitter * random.standard_normal((n, 1))
    span_ns = float(plan.layer_ns.sum() + plan.gap_ns.sum())
    longest_ns = longest_wait_ns(scenario, span_ns)
    wait_ns = random.uniform(0, max(longest_ns, 1.0), n) + random.exponential(20e3, n)
    wait_ns[: scenario.clean] = 0.0  # only the profiled pass is dithered
    if scenario.clean:
        wait_ns[scenario.clean] += _PAUSE_NS
    parts = np.empty((n, 2 * layers + 2))
    parts[:, 0] = _HOST_NS + wait_ns
    parts[:, 1::2] = plan.gap_ns * np.maximum(breath, _SHORTEST) * slow
    parts[:, 2::2] = plan.layer_ns * np.maximum(scatter, _SHORTEST) * slow
    return parts


def longest_wait_ns(scenario: Scenario, span_ns: float) -> float:
    """Return the longest random wait between two inferences of this length."""
    return min(scenario.dither_share * span_ns, scenario.dither_most_ms * 1e6)


def _marks(
    starts: Floats, ends: Floats, clean: int, lead_ns: float
) -> tuple[tuple[str, float], ...]:
    last = float(ends[-1])
    passes = [("profiled", lead_ns)]
    if clean:
        passes = [("clean", lead_ns), ("profiled", float(starts[clean]) - _PAUSE_NS / 2)]
    return (
        ("setup", 0.0),
        ("idle_before", _MARK_NS),
        ("load", lead_ns / 2),
        ("idle_loaded_before", lead_ns / 2 + _MARK_NS),
        *passes,
        ("harvest", last),
        ("idle_loaded_after", last + _MARK_NS),
        ("unload", last + lead_ns / 2),
        ("cooldown", last + lead_ns / 2 + _MARK_NS),
        ("idle_after", last + lead_ns / 2 + 2 * _MARK_NS),
        ("end", last + lead_ns - _MARK_NS),
    )


def _truth(power: Floats, part_ns: Floats, idle_mw: tuple[float, float]) -> RailTruth:
    energy = (power * part_ns).mean(axis=0) * 1e-9  # mW ns
    time = part_ns.mean(axis=0) * 1e-9
    layer_mj, gap_mj = energy[1::2], float(energy[0::2].sum())
    gap_time = float(time[0::2].sum())
    return RailTruth(
        layer_mj,
        gap_mj,
        float(energy.sum()),
        layer_mj / time[1::2],
        gap_mj / gap_time if gap_time else 0.0,
        sum(idle_mw) / 2,
    )


def _edges(parts: Floats, lead_ns: float, ramp: float) -> tuple[Floats, int]:
    """Return all edges, and in how many pieces a layer is cut."""
    pieces = _RAMP_PIECES if ramp else 1
    lengths = _repeated(parts, pieces) / np.where(_is_layer(parts.shape[1], pieces), pieces, 1)
    inner = lead_ns + np.concatenate(([0.0], np.cumsum(lengths.ravel())))
    outer = inner[-1] + np.array([lead_ns / 2, lead_ns])
    return np.concatenate(([0.0, lead_ns / 2], inner, outer)), pieces


def _is_layer(columns: int, pieces: int) -> npt.NDArray[np.bool_]:
    layer = np.arange(columns) % 2 == 0
    layer[0] = False
    return np.repeat(layer, np.where(layer, pieces, 1))


def _repeated(parts: Floats, pieces: int, ramp: float = 0.0) -> Floats:
    """Return the columns with a layer's repeated; with a ramp, what is added to each piece."""
    columns = parts.shape[1]
    layer = np.arange(columns) % 2 == 0
    layer[0] = False
    counts = np.where(layer, pieces, 1)
    repeated: Floats = np.repeat(parts, counts, axis=1)
    if ramp:
        rise = ramp * (2 * (np.arange(pieces) + 0.5) / pieces - 1)
        at = np.concatenate([rise if is_layer else [0.0] for is_layer in layer])
        repeated = repeated + at
    return repeated


def timeline_of(
    scenario: Scenario, workload: Workload, base_ns: int, random: np.random.Generator
) -> Timeline:
    """Return what the backend reports: host stamps, layer times with their error.

    A layer ends for the profiler when the next one begins to count: what one gets too much another
    gets too little, so that layers never take longer than their inference.
    """
    n, layers = workload.layer_ns.shape
    stamps = np.zeros((n, layers + 1))
    stamps[:, 1:-1] = scenario.timing_ns / np.sqrt(2) * random.standard_normal((n, layers - 1))
    error = np.diff(stamps, axis=1)
    reported = np.maximum(workload.layer_ns + error, 1.0)
    offset = None
    if scenario.true_starts:
        offset = np.rint(workload.offset_ns).astype(np.int64)
    return Timeline(
        base_ns + np.rint(workload.starts).astype(np.int64),
        base_ns + np.rint(workload.ends).astype(np.int64),
        reported,
        offset,
        spans_ns=base_ns + np.array([[workload.begin("profiled"), workload.begin("harvest")]], int),
    )
