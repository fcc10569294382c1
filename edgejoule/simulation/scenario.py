"""What a simulation is told: the network, its gaps, the board, the sensor. Frozen dataclasses.

    host gap |offset|[layer 0]gap[layer 1]gap ... [last layer]gap| host gap (dithered) |offset| ...
             ^ start_ns                                          ^ end_ns

Powers are gross (idle included). A rail draws `share` of everything; the total is the sum over the
attributed rails.
"""

from __future__ import annotations

from dataclasses import dataclass

GAP_KINDS = ("equal", "unequal", "end", "proportional")


@dataclass(frozen=True)
class Gaps:
    """The time of an inference in no layer.

    Attributes:
        share: Of the inference, 0 to below 1.
        kind: `equal` after every layer (a constant per launch), `unequal` (drawn once per seed),
            `end` (all after the last layer), `proportional` to the layer before.
        offset_us: Before the first layer, part of the share's time as far as that reaches.
        jitter: Standard deviation of an inference's gaps together, as a share of them.
    """

    share: float = 0.0
    kind: str = "equal"
    offset_us: float = 0.0
    jitter: float = 0.05


@dataclass(frozen=True)
class Rail:
    """One supply and the channel that measures it.

    Attributes:
        label: Its name.
        share: What it draws of the board's power, idle and layers alike.
        spread: Relative standard deviation, over layers, of that share: rails differ in shape.
        attributed: Whether it is part of the total, and polled at the attribution rate.
        chip: Which chip measures it; each chip has a clock and a phase of its own.
        slot: Which of the chip's channels it is, 0 to 2.
        supply_mv: Voltage without load.
        shunt_uohm: Shunt resistance.
    """

    label: str
    share: float = 1.0
    spread: float = 0.0
    attributed: bool = True
    chip: int = 0
    slot: int = 0
    supply_mv: float = 5000.0
    shunt_uohm: int = 5000


@dataclass(frozen=True)
class Sensor:
    """How values come about and when they are read.

    Attributes:
        kind: `ina3221` (current and voltage of up to three channels in turn) or `nvml` (one power).
        refresh_ns: Nominal period of a channel's values.
        window_ns: Time over which a value's conversion takes the mean.
        samples: N of new = old + (x - old) / N, per conversion.
        tau_us: The board's low-pass before the converter, 0: none.
        slow_tau_us: A second time constant beside it.
        slow_share: What share of the power follows with that one.
        oscillator_ppm: How much longer the refresh is than its nominal; None: drawn per seed and
            chip, up to 200 either way.
        walk_ns: Standard deviation of the random walk of a chip's clock, per refresh.
        noise_lsb: Standard deviation of a conversion, in steps.
        missed: Share of conversions whose value never appears.
        delay_ns: From a window's end until its value can be read.
        read_ns: How long reading one file takes.
        read_jitter: Relative standard deviation of that.
        latch_share: When within a read the value is taken, 0 start, 1 end.
        wake_ns: Mean of how late the sampler wakes up (exponential), behind 20 us.
    """

    kind: str = "ina3221"
    refresh_ns: float = 6_600_000.0
    window_ns: float = 1_100_000.0
    samples: int = 1
    tau_us: float = 0.0
    slow_tau_us: float = 0.0
    slow_share: float = 0.0
    oscillator_ppm: float | None = None
    walk_ns: float = 100.0
    noise_lsb: float = 0.25
    missed: float = 0.0
    delay_ns: float = 0.0
    read_ns: float = 550_000.0
    read_jitter: float = 0.03
    latch_share: float = 0.7
    wake_ns: float = 30_000.0


ORIN_NANO = (
    Rail("VDD_IN"),
    Rail("VDD_CPU_GPU_CV", share=0.55, spread=0.1, attributed=False, slot=1),
    Rail("VDD_SOC", share=0.2, spread=0.05, attributed=False, slot=2),
)
AGX_ORIN = (
    Rail("VDD_GPU_SOC", 0.6, 0.15, supply_mv=19_700.0, shunt_uohm=2000),
    Rail("VDD_CPU_CV", 0.15, 0.1, slot=1, supply_mv=19_700.0, shunt_uohm=2000),
    Rail("VIN_SYS_5V0", 0.25, 0.1, slot=2, shunt_uohm=2000),
)
TWO_CHIPS = (
    Rail("GPU", 0.6, 0.15, supply_mv=19_700.0),
    Rail("CPU", 0.15, 0.1, slot=1, supply_mv=19_700.0),
    Rail("VDDRQ", 0.25, 0.1, chip=1),
)
GPU = (Rail("GPU0", shunt_uohm=0),)


@dataclass(frozen=True)
class Scenario:
    """One condition.

    Attributes:
        name: Its name.
        about: What it is for, one sentence.
        inferences: Of the profiled pass.
        layers: Number of layers; their durations and powers are drawn per seed unless given.
        layers_ms: Sum of the layers' mean durations.
        ratio: The longest layer over the shortest (durations are drawn log-uniformly).
        lowest_mw: Power of the layer that draws least.
        span_mw: How much more the one draws that draws most.
        layer_us: Stated durations, else None.
        short_us: One layer, drawn per seed, is this short; None: none is.
        power_mw: Stated powers of the layers, else None.
        gap_mw: Power in the gaps of an inference.
        between_mw: Power between inferences.
        idle_mw: Idle power with the model loaded.
        gaps: Where the time in no layer lies.
        jitter: Relative standard deviation of one layer's duration from inference to inference.
        slow_share: Share of inferences that are slow.
        slow_factor: How much longer these take.
        drift: Relative growth of the power over the pass (leakage with temperature), towards its
            end value with a third of the pass as time constant.
        droop_mv_per_ma: How the supply gives way.
        timing_ns: Standard deviation of a reported layer time.
        true_starts: Whether the backend reports when layers begin.
        dither_share: Longest random wait between inferences, as a share of the inference,
        dither_most_ms: but no longer than this.
        rails: The board.
        sensor: The sensor.
        ramp: Power of a layer rises linearly within it, from 1 - ramp to 1 + ramp times its mean.
        input_sd: Relative standard deviation of a layer's power from inference to inference.
        clean: Inferences of a clean pass before the profiled one; with one the sampler runs from
            the begin to the end, without one around the profiled pass only.
        idle_s: Idle time before the passes and after them, half of it with the model loaded.
    """

    name: str = "base"
    about: str = ""
    inferences: int = 20_000
    layers: int = 20
    layers_ms: float = 3.0
    ratio: float = 12.0
    lowest_mw: float = 7000.0
    span_mw: float = 7500.0
    layer_us: tuple[float, ...] | None = None
    short_us: float | None = None
    power_mw: tuple[float, ...] | None = None
    gap_mw: float = 6500.0
    between_mw: float = 5600.0
    idle_mw: float = 5000.0
    gaps: Gaps = Gaps()
    jitter: float = 0.01
    slow_share: float = 0.002
    slow_factor: float = 1.5
    drift: float = 0.0
    droop_mv_per_ma: float = 0.02
    timing_ns: float = 200.0
    true_starts: bool = False
    dither_share: float = 0.25
    dither_most_ms: float = 3.0
    rails: tuple[Rail, ...] = ORIN_NANO
    sensor: Sensor = Sensor()
    ramp: float = 0.0
    input_sd: float = 0.0
    clean: int = 0
    idle_s: float = 4.0
