"""A whole pass from a scenario and a seed: what attribution would see, and the truth.

Shares no code with the estimators: no sensor model, no calibration, no integration of theirs.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.timeline import ChannelReads, Timeline
from edgejoule.simulation.chip import Clock, Shown, convert, draw_clock
from edgejoule.simulation.network import (
    Plan,
    RailTruth,
    Workload,
    draw_plan,
    run_network,
    timeline_of,
)
from edgejoule.simulation.schedule import (
    Polls,
    attribution_beat,
    drawn,
    monitor_beat,
    read_times,
    run_polls,
    wake_times,
)
from edgejoule.simulation.signal import Steps

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgejoule.simulation.scenario import Rail, Scenario, Sensor

_BASE_NS = 1_000_000_000_000
_SHUNT_STEP_UV = 40.0
_BUS_STEP_MV = 8.0
_NVML_STEP_MW = 1.0
_IDLE_ERROR = 0.002  # relative standard deviation of a measured idle power
_OUTSIDE_NS = 1e9  # reads begin this long before the first inference, end so long after


@dataclass(frozen=True)
class SimulatedChannel:
    """One file of the sensor: as `edgejoule.power.sensor.Channel` has it.

    Attributes:
        rail: The supply.
        quantity: `voltage`, `current` or `power`.
        lsb: Step of the raw value.
        chip: Which chip.
        shown: What its register showed over time.
        scale: Raw value per count.
    """

    rail: Rail
    quantity: str
    lsb: float
    chip: int
    shown: Shown
    scale: float


@dataclass(frozen=True)
class Idle:
    """Idle power of a rail, mW: as it is, as it was measured, and that mean's 95 % half-width."""

    true_mw: float
    measured_mw: float
    half_width_mw: float


@dataclass(frozen=True)
class Simulated:
    """A simulated pass.

    Attributes:
        scenario: What was asked.
        seed: The seed.
        timeline: What the backend reports.
        reads: By attributed rail, everything read of its current (or power) in the pass.
        truth: By rail, and `total`, the sum over the attributed rails.
        idle_mw: By attributed rail, and `total`.
        plan: What was drawn: true durations, gaps, powers.
        clocks: The chips' clocks.
        channels: Every file of the sensor.
        polls: Every read, ns from the origin; `raw` beside it.
        raw: int64 (m,).
        base_ns: Where the origin lies on the host's clock.
        workload: Everything that happened.
    """

    scenario: Scenario
    seed: int
    timeline: Timeline
    reads: dict[str, ChannelReads]
    truth: dict[str, RailTruth]
    idle_mw: dict[str, Idle]
    plan: Plan
    clocks: dict[int, Clock]
    channels: tuple[SimulatedChannel, ...]
    polls: Polls
    raw: npt.NDArray[np.int64]
    base_ns: int
    workload: Workload


def simulate(scenario: Scenario, seed: int) -> Simulated:
    """Simulate a profiled pass.

    Args:
        scenario: The condition.
        seed: Everything random comes from it and the scenario's name.

    Raises:
        UsageError: A scenario that cannot be.
    """
    random = np.random.default_rng([seed, zlib.crc32(scenario.name.encode())])
    plan = draw_plan(scenario, random)
    workload = run_network(scenario, plan, random)
    timeline = timeline_of(scenario, workload, _BASE_NS, random)
    until = workload.begin("end")
    clocks = {
        chip: draw_clock(scenario.sensor, until, random)
        for chip in sorted({rail.chip for rail in scenario.rails})
    }
    channels = _channels(scenario, workload, clocks, random)
    polls = _poll(scenario, workload, channels, seed, random)
    raw = _values(scenario, channels, polls)
    reads = {
        rail.label: _reads(rail, channels, polls, raw, workload, scenario.sensor)
        for rail in scenario.rails
        if rail.attributed
    }
    truth = dict(workload.truth)
    truth["total"] = _sum([workload.truth[label] for label in reads])
    idle = {label: _idle(truth[label].idle_mw, random) for label in reads}
    idle["total"] = Idle(
        truth["total"].idle_mw,
        sum(idle[label].measured_mw for label in reads),
        float(np.sqrt(sum(idle[label].half_width_mw ** 2 for label in reads))),
    )
    return Simulated(
        scenario, seed, timeline, reads, truth, idle, plan, clocks, channels, polls, raw,
        _BASE_NS, workload,
    )  # fmt: skip


def _channels(
    scenario: Scenario, workload: Workload, clocks: dict[int, Clock], random: np.random.Generator
) -> tuple[SimulatedChannel, ...]:
    found = []
    sensor = scenario.sensor
    for rail in scenario.rails:
        clock, power = clocks[rail.chip], workload.rails[rail.label]
        if sensor.kind == "nvml":
            shown = convert(power, clock, 0, sensor, _NVML_STEP_MW, random)
            found.append(SimulatedChannel(rail, "power", _NVML_STEP_MW, rail.chip, shown, 1.0))
            continue
        droop = scenario.droop_mv_per_ma
        current = Steps(power.edges, _current_ma(power.levels, rail.supply_mv, droop))
        current_lsb = _SHUNT_STEP_UV / rail.shunt_uohm * 1e3
        slot = 2 * rail.slot + 1
        bus = convert(current, clock, slot, sensor, _BUS_STEP_MV, random, rail.supply_mv, -droop)
        shunt = convert(current, clock, 2 * rail.slot, sensor, current_lsb, random)
        found += [
            SimulatedChannel(rail, "voltage", _BUS_STEP_MV, rail.chip, bus, _BUS_STEP_MV),
            SimulatedChannel(rail, "current", current_lsb, rail.chip, shunt, current_lsb),
        ]
    return tuple(found)


def _current_ma(
    power_mw: npt.NDArray[np.float64], supply_mv: float, droop: float
) -> npt.NDArray[np.float64]:
    """Return the current that gives this power from a supply that gives way.

    (supply - droop i) i = power.
    """
    if not droop:
        return power_mw / supply_mv * 1e3
    root = np.sqrt(supply_mv**2 - 4 * droop * power_mw * 1e3)
    current: npt.NDArray[np.float64] = (supply_mv - root) / (2 * droop)
    return current


def _poll(
    scenario: Scenario,
    workload: Workload,
    channels: tuple[SimulatedChannel, ...],
    seed: int,
    random: np.random.Generator,
) -> Polls:
    sensor = scenario.sensor
    chips = sorted({channel.chip for channel in channels})
    beats = []
    for chip in chips:
        own = [index for index, channel in enumerate(channels) if channel.chip == chip]
        beats.append(monitor_beat(own, sensor.refresh_ns, sensor.read_ns))
    polled = [
        index
        for index, channel in enumerate(channels)
        if channel.rail.attributed and channel.quantity != "voltage"
    ]
    attribution = attribution_beat(polled, sensor.refresh_ns, seed)
    first = float(workload.starts[0]) - _OUTSIDE_NS
    last = float(workload.ends[-1]) + _OUTSIDE_NS
    if scenario.clean:
        first, last = 0.0, workload.begin("end")
        attribution.on_ns = int(workload.begin("profiled"))
        attribution.off_ns = int(workload.begin("harvest"))
    beats.append(attribution)
    found = run_polls(
        beats,
        int(last - first),
        drawn(read_times(sensor.read_ns, sensor.read_jitter, random)),
        drawn(wake_times(sensor.wake_ns, random)),
    )
    return replace(found, t0=found.t0 + int(first), t1=found.t1 + int(first))


def _values(
    scenario: Scenario, channels: tuple[SimulatedChannel, ...], polls: Polls
) -> npt.NDArray[np.int64]:
    """Return what each read gave, in the driver's unit (mV, mA, mW)."""
    share = scenario.sensor.latch_share
    latched = polls.t0 + share * (polls.t1 - polls.t0)
    raw = np.zeros(len(latched), np.int64)
    for index, channel in enumerate(channels):
        own = polls.channel == index
        raw[own] = np.rint(channel.shown.at(latched[own]) * channel.scale).astype(np.int64)
    return raw


def _reads(
    rail: Rail,
    channels: tuple[SimulatedChannel, ...],
    polls: Polls,
    raw: npt.NDArray[np.int64],
    workload: Workload,
    sensor: Sensor,
) -> ChannelReads:
    """Return a channel's reads, with what its driver's files say, as a run's trace has it."""
    of = {c.quantity: index for index, c in enumerate(channels) if c.rail is rail}
    index = of.get("current", of.get("power", -1))
    own = polls.channel == index
    own &= polls.t1 >= workload.begin("profiled") - _OUTSIDE_NS
    own &= polls.t0 <= workload.begin("harvest") + _OUTSIDE_NS
    t0, t1 = polls.t0[own] + _BASE_NS, polls.t1[own] + _BASE_NS
    power = raw[own].astype(np.float64)
    lsb_mw = channels[index].lsb
    if "voltage" in of:
        beside = polls.channel == of["voltage"]
        volts = _nearest(polls.t0[own], polls.t0[beside], raw[beside])
        power = power * volts * 1e-3
        lsb_mw = lsb_mw * float(volts.mean()) * 1e-3
    told = (sensor.samples, sensor.window_ns) if sensor.kind == "ina3221" else (None, None)
    return ChannelReads(
        rail.label, t0, t1, raw[own], power, lsb_mw, sensor.refresh_ns, *told
    )  # fmt: skip


def _nearest(
    at: npt.NDArray[np.int64], times: npt.NDArray[np.int64], values: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    right = np.clip(np.searchsorted(times, at), 1, len(times) - 1)
    left = right - 1
    return np.where(at - times[left] <= times[right] - at, values[left], values[right])


def _sum(parts: list[RailTruth]) -> RailTruth:
    def total(name: str) -> float:
        return float(sum(getattr(part, name) for part in parts))

    return RailTruth(
        np.sum([part.layer_mj for part in parts], axis=0),
        total("gap_mj"),
        total("inference_mj"),
        np.sum([part.layer_mw for part in parts], axis=0),
        total("gap_mw"),
        total("idle_mw"),
    )


def _idle(true_mw: float, random: np.random.Generator) -> Idle:
    error = _IDLE_ERROR * true_mw
    return Idle(true_mw, true_mw + error * float(random.standard_normal()), 1.96 * error)
