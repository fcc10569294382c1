"""A calibration through the unmodified driver finds the sensor that the chip was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgejoule.energy.calibration import RailCalibration, fit_rail
from edgejoule.energy.sensor_model import Waveform
from tests.real_driver.conftest import STEPS_UV, Booted, on

pytestmark = [pytest.mark.real_driver, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def fits() -> dict[tuple[str, int], tuple[RailCalibration, dict[str, Any]]]:
    """Fits that were made, by machine and rail: one takes seconds."""
    return {}


@pytest.fixture(params=[0, 1], ids=["first rail", "second rail"])
def calibrated(
    request: pytest.FixtureRequest,
    booted: Booted,
    fits: dict[tuple[str, int], tuple[RailCalibration, dict[str, Any]]],
) -> tuple[RailCalibration, dict[str, Any]]:
    """A rail's calibration, and the truth with the names that it uses."""
    key = (booted.machine.board, request.param)
    if key not in fits:
        fits[key] = calibrate(booted, request.param)
    return fits[key]


def calibrate(booted: Booted, rail: int) -> tuple[RailCalibration, dict[str, Any]]:
    result = booted.result("pulses")
    truth = dict(result["truth"][rail])
    channels, samples = booted.samples("pulses")
    channel = channels[truth["channel"]]
    rows = samples[(samples["channel"] == channel["index"]) & (samples["errno"] == 0)]
    rows = rows[rows["t0_ns"] > truth["shown_ns"]]
    edges = np.array(result["edges_ns"], np.int64) + result["start_ns"]
    load = Waveform(edges, (np.arange(len(edges) + 1) % 2).astype(np.float64))
    fit = fit_rail(rows["t0_ns"], rows["t1_ns"], rows["raw"], load, rail=channel["rail"])
    step_ma = STEPS_UV * 1000 / channel["shunt_uohm"]
    truth |= {"refresh_ns": truth["period_ns"], "lsb": step_ma}
    truth |= {level: truth[level] * step_ma for level in ("low", "high")}
    return fit, truth


NAMES = ("refresh_ns", "window_ns", "samples", "delay_ns", "tau_ns", "low", "high", "lsb")


@on("orin-nano")
@pytest.mark.parametrize("name", NAMES)
def test_each_figure_is_found(
    calibrated: tuple[RailCalibration, dict[str, Any]], name: str
) -> None:
    fit, truth = calibrated
    assert fit[name].value == pytest.approx(truth[name], rel=0.05), fit[name]


@on("orin-nano")
def test_the_phase_is_found(calibrated: tuple[RailCalibration, dict[str, Any]]) -> None:
    fit, truth = calibrated
    phase_ns = fit["phase_ns"].value
    assert phase_ns is not None
    off = (phase_ns - truth["shown_ns"]) / truth["period_ns"]
    assert abs(off - round(off)) * truth["period_ns"] < 0.05 * truth["window_ns"]
