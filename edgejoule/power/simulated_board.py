"""What the simulated board draws, and a book of where its energy went. No process, no files.

The board is made up. It has the rails of a Jetson Orin NX, and its power follows this model:

    target = idle + loaded (an engine is loaded) + inference x shape(age) (an inference runs)
             + leakage x (temperature - reference) + slow drift
    shape(age) = 1 + swing x (1 - 2 exp(-age / 5 ms))         age: since the inference's start
    drawn power follows the target with a time constant of 60 ms

A channel is converted once per cycle of 6.6 ms, the three channels 2.2 ms apart. From one
conversion of a channel to its next its rail draws *constant* power, and the register shows that
very power (a real chip shows the mean of the window before). So trace and truth agree whatever the
scheduler does: a simulator that comes late prolongs a window on both sides.
`docs/SimulatedBoard.md` says more.

Standard library only.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from edgejoule.phases import PHASES

CYCLE_NS = 6_600_000
SLOT_NS = 2_200_000
CHIP = "1-0040"
SHUNT_UOHM = 5000
BUS_STEP_MV = 8
CURRENT_STEP_MA = 8  # 40 uV over 5 mOhm

_LOADED = frozenset(PHASES[PHASES.index("load") : PHASES.index("idle_loaded_after") + 1])
_SUPPLY_MV = 5000.0
_DROOP_MV_PER_MA = 0.02
_FOLLOW_NS = 60e6
_AGE_SCALE_NS = 5e6
_DRIFT_SHARE = 0.002
_CURRENT_NOISE_STEPS = 0.5  # dithers the step, so that a mean is finer than one step
_BUS_NOISE_STEPS = 0.4
_AMBIENT_C = 30.0
_HEAT_C_PER_W = 1.5
_HEAT_NS = 4e9
_REFERENCE_C = 37.0


@dataclass(frozen=True)
class RailModel:
    """What one rail draws, mW; `leakage_mw` is per kelvin, `swing` a share of the inference."""

    label: str
    idle_mw: float
    loaded_mw: float
    inference_mw: float
    swing: float
    leakage_mw: float


# VDD_IN feeds the other two: it is more than their sum in every state.
RAILS = (
    RailModel("VDD_IN", 5000.0, 300.0, 3000.0, 0.15, 8.0),
    RailModel("VDD_CPU_GPU_CV", 1300.0, 100.0, 2000.0, 0.20, 4.0),
    RailModel("VDD_SOC", 1400.0, 80.0, 400.0, -0.20, 1.0),
)


def model_json() -> dict[str, Any]:
    """Return the model's figures, for `truth.json`."""
    return {
        "rails": [asdict(rail) for rail in RAILS],
        "follow_ms": _FOLLOW_NS * 1e-6,
        "age_scale_ms": _AGE_SCALE_NS * 1e-6,
        "drift_share": _DRIFT_SHARE,
        "cycle_ms": CYCLE_NS * 1e-6,
        "heat_c_per_w": _HEAT_C_PER_W,
        "heat_s": _HEAT_NS * 1e-9,
        "ambient_c": _AMBIENT_C,
    }


@dataclass(frozen=True)
class Load:
    """What the board is asked to do: the phase, and since when an inference runs (None: none)."""

    phase: str
    inference_start_ns: int | None = None


class Board:
    """The state of the simulated board.

    Args:
        seed: Seeds drift and noise.
        start_ns: When it is switched on, warm and idle.
    """

    def __init__(self, seed: int, start_ns: int) -> None:
        self._random = random.Random(f"simulated board {seed}")  # noqa: S311 (no secret)
        self._angles = [self._random.uniform(0, 2 * math.pi) for _ in range(2 * len(RAILS))]
        self._start_ns = start_ns
        self._heat_ns = start_ns
        self.temperature_c = _AMBIENT_C + _HEAT_C_PER_W * RAILS[0].idle_mw * 1e-3
        self.power_mw = [self.target_mw(r, Load("setup"), start_ns) for r in range(len(RAILS))]

    def target_mw(self, rail: int, load: Load, now_ns: int) -> float:
        """Return the power that a rail tends to under a load."""
        model = RAILS[rail]
        seconds = (now_ns - self._start_ns) * 1e-9
        slow, fast = self._angles[2 * rail : 2 * rail + 2]
        drift = math.sin(seconds * 2 * math.pi / 61 + slow)
        drift += 0.5 * math.sin(seconds * 2 * math.pi / 17 + fast)
        power = model.idle_mw * (1 + _DRIFT_SHARE * drift)
        power += model.leakage_mw * (self.temperature_c - _REFERENCE_C)
        if load.phase in _LOADED:
            power += model.loaded_mw
        if load.inference_start_ns is not None:
            age_ns = max(0, now_ns - load.inference_start_ns)
            shape = 1 + model.swing * (1 - 2 * math.exp(-age_ns / _AGE_SCALE_NS))
            power += model.inference_mw * shape
        return power

    def step(self, rail: int, load: Load, now_ns: int, elapsed_ns: int) -> float:
        """Let a rail follow its target for the time that its last window took; return its power."""
        share = -math.expm1(-elapsed_ns / _FOLLOW_NS)
        old = self.power_mw[rail]
        self.power_mw[rail] = old + share * (self.target_mw(rail, load, now_ns) - old)
        return self.power_mw[rail]

    def warm(self, now_ns: int) -> float:
        """Let the temperature follow the power until now; return it in deg C."""
        share = -math.expm1(-(now_ns - self._heat_ns) / _HEAT_NS)
        target = _AMBIENT_C + _HEAT_C_PER_W * self.power_mw[0] * 1e-3
        self.temperature_c += share * (target - self.temperature_c)
        self._heat_ns = now_ns
        return self.temperature_c

    def registers(self, power_mw: float) -> tuple[int, int]:
        """Return mV and mA as the chip shows a power: droop, noise and the steps of its registers.

        The noise is the conversion's, not the rail's: it is not part of the true energy.
        """
        current_ma = power_mw / _SUPPLY_MV * 1e3
        bus_mv = _SUPPLY_MV - _DROOP_MV_PER_MA * current_ma
        current_ma = power_mw / bus_mv * 1e3
        bus = bus_mv / BUS_STEP_MV + self._random.gauss(0, _BUS_NOISE_STEPS)
        current = current_ma / CURRENT_STEP_MA + self._random.gauss(0, _CURRENT_NOISE_STEPS)
        return round(bus) * BUS_STEP_MV, round(current) * CURRENT_STEP_MA


class EnergyBook:
    """True energy per rail and phase, from windows of constant power and the log of phases.

    A window is booked only when it lies `settle_ns` back, so that every mark that cuts it has been
    seen by then; it is cut exactly there. Power before the first mark and after `end` is not
    booked.

    Args:
        settle_ns: How long to wait for marks.
    """

    def __init__(self, settle_ns: int = 1_000_000_000) -> None:
        self.late_marks = 0
        self._settle_ns = settle_ns
        self._marks: list[tuple[int, str]] = []
        self._energy_mj: list[list[float]] = []  # per mark, per rail
        self._windows: list[deque[tuple[int, int, float]]] = [deque() for _ in RAILS]
        self._at = [0] * len(RAILS)  # the mark in which each rail's next window begins
        self._booked_ns = 0

    def mark(self, start_ns: int, phase: str) -> None:
        """Note that `phase` begins; marks come in the order of the log."""
        if self._marks and start_ns < self._marks[-1][0]:
            start_ns = self._marks[-1][0]
        self.late_marks += start_ns < self._booked_ns
        self._marks.append((start_ns, phase))
        self._energy_mj.append([0.0] * len(RAILS))

    def add(self, rail: int, start_ns: int, end_ns: int, power_mw: float) -> None:
        """Note a window in which a rail drew constant power."""
        self._windows[rail].append((start_ns, end_ns, power_mw))

    def settle(self, now_ns: int | None) -> None:
        """Book the windows that lie far enough back; None: all of them."""
        for rail, windows in enumerate(self._windows):
            while windows and (now_ns is None or windows[0][1] <= now_ns - self._settle_ns):
                self._book(rail, *windows.popleft())

    def _book(self, rail: int, start_ns: int, end_ns: int, power_mw: float) -> None:
        self._booked_ns = max(self._booked_ns, end_ns)
        marks = self._marks
        at = self._at[rail]
        while at < len(marks):
            next_ns = marks[at + 1][0] if at + 1 < len(marks) else end_ns
            overlap_ns = min(end_ns, next_ns) - max(start_ns, marks[at][0])
            if overlap_ns > 0 and marks[at][1] != "end":
                self._energy_mj[at][rail] += power_mw * overlap_ns * 1e-9
            if next_ns >= end_ns:
                break  # the next window may still begin in this phase
            at += 1
        self._at[rail] = at

    def to_json(self, last_ns: int) -> dict[str, Any]:
        """Return the content of `truth.json`; `last_ns` closes a phase that was cut off."""
        spans: list[dict[str, Any]] = []
        phases: dict[str, dict[str, float]] = {rail.label: {} for rail in RAILS}
        for at, (start_ns, phase) in enumerate(self._marks):
            if phase == "end":
                continue
            last = at + 1 == len(self._marks)
            energy = dict(zip([rail.label for rail in RAILS], self._energy_mj[at], strict=True))
            end_ns = max(last_ns, start_ns) if last else self._marks[at + 1][0]
            spans.append(
                {"phase": phase, "start_ns": start_ns, "end_ns": end_ns, "energy_mj": energy}
            )
            for rail, energy_mj in energy.items():
                phases[rail][phase] = phases[rail].get(phase, 0.0) + energy_mj
        return {
            "simulated": True,
            "model": model_json(),
            "energy_mj": phases,
            "spans": spans,
            "late_marks": self.late_marks,
        }
