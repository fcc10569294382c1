"""`measure_power.py calibrate`: pulses of known time, and what the sensor makes of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.cli.power_options import add_sensor_options, where_of
from edgejoule.errors import MeasurementError, UsageError

if TYPE_CHECKING:
    from edgejoule.cli.calibration_run import Take
    from edgejoule.energy.calibration_file import Calibration

_LOADS = ("auto", "gpu", "cpu")


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb `calibrate`."""
    parser = verbs.add_parser(
        "calibrate",
        help="what the sensor makes of a load: refresh, window, averaging, delay, low-pass",
        description="""Load the machine in pulses of known time and fit, for every rail, the
figures of its sensor, each with a 95 % interval: how often it renews its value,
over how long it averages, averaging in the chip, delay, and the low-pass
before it. A figure that the data cannot tell is "not resolved", with the
reason. The low-pass includes the load's own rise and the supply's: what is
found is the way from the load to the reading, which is what attribution needs.

Let nothing else run meanwhile. Energies of seconds and more do not need a
calibration; powers of parts of an inference do.""",
        epilog="""examples:
  measure_power.py calibrate                                  every rail, 30 s each
  measure_power.py calibrate --sensor nvml --duration 120     a GPU
  measure_power.py calibrate --against meter.csv --rail VDD_IN
                     with an external meter that logs meanwhile (docs/Calibration.md)
  measure_power.py calibrate --sensor simulated               to see how it looks""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_sensor_options(parser)
    parser.add_argument(
        "--rail",
        action="append",
        metavar="NAME",
        help="only this rail; may be given again (default: all with a current or a power)",
    )
    parser.add_argument(
        "--duration",
        type=float,
        metavar="S",
        help="seconds of pulses per recording (default: 30, or 600 refreshes if that is longer: "
        "delay and window to about 2 %% where a pulse is 50 steps of the sensor; four times as "
        "long halves the intervals)",
    )
    parser.add_argument(
        "--load",
        choices=_LOADS,
        default="auto",
        help="what draws the power (default: auto, the GPU for a GPU's or a board's sensor where "
        "torch can use one, else the CPU)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of pulses and polls (default: 0)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("calibration.json"),
        metavar="FILE",
        help="where the figures go (default: calibration.json)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an older file")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="CSV",
        help="an external meter's log of the same time; read when the pulses are over: gain and "
        "offset of the one rail named, else of the board's total",
    )
    parser.add_argument(
        "--keep-trace", type=Path, metavar="DIR", help="keep reads and edges in this new folder"
    )
    parser.add_argument(
        "--from-trace",
        type=Path,
        metavar="DIR",
        help="measure nothing: fit again what --keep-trace kept, for example with --against",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="print the file's content, no table")


def run(arguments: argparse.Namespace) -> int:
    """Measure or take a kept trace, fit, write, print."""
    import json

    from edgejoule.cli.calibration_run import kept_takes, measured_takes
    from edgejoule.energy.calibration_file import write_calibration

    _check(arguments)
    if arguments.from_trace is not None:
        takes = kept_takes(arguments.from_trace)
        calibration = _fit(takes, arguments)
    else:
        with measured_takes(arguments, where_of(arguments)) as takes:
            calibration = _fit(takes, arguments)
    write_calibration(arguments.output, calibration)
    if arguments.json:
        print(json.dumps(calibration.to_json(), indent=2))
    else:
        print(calibration_text(calibration))
        print(f"written: {arguments.output}")
    if all(rail.model is None for rail in calibration.rails):
        raise MeasurementError(
            "no rail's response could be fitted (the reasons stand above)",
            "try a longer --duration, another --load, or see that nothing else runs",
        )
    return 0


def _check(arguments: argparse.Namespace) -> None:
    output: Path = arguments.output
    if output.exists() and not arguments.overwrite:
        raise UsageError(f"{output} is there already", "give another --output, or --overwrite")
    if not output.parent.is_dir():
        raise UsageError(f"there is no folder {output.parent}", "make it, or give another --output")
    if arguments.duration is not None and not 0 < arguments.duration < 86_400:
        raise UsageError(f"--duration {arguments.duration:g}", "give seconds, above 0")
    if arguments.keep_trace is not None and arguments.keep_trace.exists():
        raise UsageError(f"{arguments.keep_trace} is there already", "give a new folder")
    if arguments.from_trace is not None and arguments.keep_trace is not None:
        raise UsageError("--from-trace measures nothing", "leave --keep-trace out")


def _fit(takes: list[Take], arguments: argparse.Namespace) -> Calibration:
    from edgejoule.cli.calibration_run import calibration_of
    from edgejoule.report.progress import Progress

    with Progress(arguments.quiet) as progress:
        return calibration_of(takes, arguments.rail, arguments.against, progress)


def calibration_text(calibration: Calibration) -> str:
    """Return a calibration as tables for people."""
    lines = []
    for rail in calibration.rails:
        facts = rail.facts
        counts = f"{facts['reads']:.0f} reads, {facts['edges']:.0f} edges"
        if "residual" in facts:
            counts += (
                f", {facts['values']:.0f} values, residual {facts['residual']:.3g} {rail.unit}"
            )
        if facts.get("strays"):
            counts += f", {facts['strays']:.0f} changes off the rhythm"
        lines.append(f"{rail.rail} ({rail.quantity}): {counts}")
        noise = facts.get("noise") or 0.0
        if rail.model is not None and noise and facts["residual"] > _MISFIT * noise:
            times = facts["residual"] / noise
            lines.append(
                f"  the model does not quite fit: its residual is {times:.3g} times the noise; the "
                "intervals are wider for it"
            )
        for parameter in rail.parameters:
            name, scale, unit = _SHOWN.get(parameter.name, (parameter.name, 1.0, parameter.unit))
            low, high = (_figure(end, scale) for end in (parameter.low, parameter.high))
            value = _figure(parameter.value, scale) if parameter.resolved else "not resolved"
            within = "" if (parameter.low, parameter.high) == (None, None) else f"{low} to {high}"
            note = "" if parameter.resolved else f"  {parameter.why}"
            lines.append(f"  {name:24} {value:>14} {unit:4} {within:28}{note}".rstrip())
        for group in rail.groups:
            members = " / ".join(_SHOWN[name][0] for name in group.members)
            lines.append(f"  together: {members}: {group.why} ({_SHOWN[group.known][0]})")
        lines.append("")
    lines += _against_lines(calibration.against)
    lines.append("intervals are 95 %; the low-pass holds the load's own rise as well")
    if calibration.simulated:
        truth = calibration.made.get("truth") or {}
        figures = [
            f"{_SHOWN[name][0]} {_figure(float(value), _SHOWN[name][1])} {_SHOWN[name][2]}".strip()
            for name, value in truth.items()
            if name in _SHOWN
        ]
        lines.append(f"the simulated chip truly has: {', '.join(figures)}")
        lines.append("SIMULATED: these are the figures of no real sensor")
    return "\n".join(lines)


_MISFIT = 1.5  # of the noise: above it intervals are widened (docs/Calibration.md)
# Parameter -> how it is called, what divides it, the unit then ("" keeps the channel's own).
_SHOWN: dict[str, tuple[str, float, str]] = {
    "refresh_ns": ("refresh", 1e6, "ms"),
    "drift_per_s": ("drift of the refresh", 1e-6, "ppm/s"),
    "phase_ns": ("a value appears at", 1e9, "s"),
    "window_ns": ("window", 1e6, "ms"),
    "samples": ("averaging in the chip", 1.0, ""),
    "delay_ns": ("delay", 1e6, "ms"),
    "tau_ns": ("low-pass", 1e6, "ms"),
    "centre_ns": ("mean age of a value", 1e6, "ms"),
}


def _figure(value: float | None, scale: float) -> str:
    if value is None:
        return "?"
    scaled = value / scale
    return f"{scaled:.9g}" if abs(scaled) >= 1000 else f"{scaled:.4g}"


def _against_lines(against: dict[str, Any] | None) -> list[str]:
    if against is None:
        return []
    lines = [
        f"{part['rail']} against the meter: gain {part['gain']:.4f} +- {part['gain_half']:.4f}, "
        f"offset {part['shift_w']:+.3f} +- {part['shift_half_w']:.3f} W, "
        f"residual {part['residual_w']:.3f} W over {part['span_s']:.3g} s "
        f"(correlation {part['correlation']:.3f}, clock {part['clock_drift'] * 1e6:+.1f} ppm)"
        for part in against["comparisons"]
    ]
    return [*lines, ""]
