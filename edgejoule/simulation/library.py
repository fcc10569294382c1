"""Named scenarios: every condition that a statement about attribution is made for."""

from __future__ import annotations

from dataclasses import replace

from edgejoule.simulation.scenario import (
    AGX_ORIN,
    GPU,
    ORIN_NANO,
    TWO_CHIPS,
    Gaps,
    Scenario,
    Sensor,
)

_BASE = Scenario(
    "base", "layers touch; INA3221 at 6.6 ms, no averaging, an unknown phase and clock"
)


def _gap(name: str, about: str, gaps: Gaps) -> Scenario:
    return replace(_BASE, name=name, about=about, gaps=gaps)


def _sensor(name: str, about: str, **changes: object) -> Scenario:
    return replace(_BASE, name=name, about=about, sensor=replace(Sensor(), **changes))  # type: ignore[arg-type]


def _all() -> list[Scenario]:
    found = [_BASE]
    for percent in (5, 15, 30, 45):
        for kind in ("equal", "unequal"):
            about = f"{percent} % of the inference between layers, {kind}"
            found.append(_gap(f"gap{percent}-{kind}", about, Gaps(percent / 100, kind)))
    found += [
        _gap("gap15-end", "15 % of the inference after the last layer", Gaps(0.15, "end")),
        _gap("gap30-end", "30 % of the inference after the last layer", Gaps(0.3, "end")),
        _gap("gap30-proportional", "gaps in proportion to layers", Gaps(0.3, "proportional")),
        _gap("offset20", "20 us before the first layer", Gaps(0.05, offset_us=20)),
        _gap("offset50", "50 us before the first layer", Gaps(0.05, offset_us=50)),
        _gap("offset100", "100 us before the first layer", Gaps(0.15, offset_us=100)),
        _gap("offset100-unequal", "100 us and unequal gaps", Gaps(0.3, "unequal", offset_us=100)),
        replace(
            _BASE,
            name="gap30-starts",
            about="30 % unequal gaps, and the backend reports when layers begin",
            gaps=Gaps(0.3, "unequal", offset_us=50),
            true_starts=True,
        ),
    ]
    for ppm in (0, 20, -20, 200, -200):
        found.append(
            _sensor(f"clock{ppm:+d}", f"the sensor's clock {ppm:+d} ppm off", oscillator_ppm=ppm)
        )
    found.append(_sensor("clock-wander", "a clock that wanders 1 us per refresh", walk_ns=1000.0))
    for samples in (4, 16, 64, 1024):
        found.append(_sensor(f"average{samples}", f"averaging {samples}", samples=samples))
    found += [
        _sensor("lowpass100", "a low-pass of 100 us before the converter", tau_us=100.0),
        replace(
            _BASE,
            name="steps390",
            about="one rail in steps of 0.39 W",
            rails=(replace(ORIN_NANO[0], supply_mv=19_700.0, shunt_uohm=2000), *ORIN_NANO[1:]),
        ),
        replace(
            _BASE,
            name="hard",
            about="averaging 16, steps of 0.39 W, a low-pass of 100 us",
            rails=(replace(ORIN_NANO[0], supply_mv=19_700.0, shunt_uohm=2000), *ORIN_NANO[1:]),
            sensor=Sensor(samples=16, tau_us=100.0),
        ),
        replace(_BASE, name="drift", about="power grows by 4 % over the pass", drift=0.04),
        replace(
            _BASE,
            name="agx-orin",
            about="the total is three channels of one chip, each with its own window",
            rails=AGX_ORIN,
            gaps=Gaps(0.15),
        ),
        replace(
            _BASE,
            name="two-chips",
            about="the total is three channels of two chips that share no clock",
            rails=TWO_CHIPS,
            gaps=Gaps(0.15),
        ),
        replace(
            _BASE,
            name="nvml",
            about="a GPU of which 25 ms of every 100 ms are measured",
            rails=GPU,
            lowest_mw=150_000.0,
            span_mw=300_000.0,
            gap_mw=140_000.0,
            between_mw=128_000.0,
            idle_mw=120_000.0,
            droop_mv_per_ma=0.0,
            sensor=Sensor(
                "nvml", refresh_ns=100e6, window_ns=25e6, noise_lsb=3000.0, read_ns=300_000.0
            ),
        ),
        replace(
            _BASE,
            name="no-information",
            about="a layer of 5 us, 200 inferences",
            inferences=200,
            short_us=5.0,
        ),
        replace(
            _BASE,
            name="unmodelled",
            about="ramps in layers, two time constants, inputs that matter, missed conversions",
            gaps=Gaps(0.15, "unequal", offset_us=30, jitter=0.1),
            ramp=0.15,
            input_sd=0.05,
            drift=0.02,
            timing_ns=1000.0,
            sensor=Sensor(
                tau_us=25.0, slow_tau_us=250.0, slow_share=0.3, missed=0.01, walk_ns=300.0
            ),
        ),
    ]
    return found


SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in _all()}
