"""`measure_idling_power.py`: the idle baseline of a board at rest, into `idling_power.json`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import UsageError, run_command

if TYPE_CHECKING:
    from edgejoule.energy.trace import RailPower

RESULT_FILE = "idling_power.json"
_DESCRIPTION = """Measure what the board draws while nothing runs, and write it to
idling_power.json in the dataset's folder: per rail mean, dispersion, 95 % interval, drift. For
orientation and for older scripts; each run of an experiment measures its own baselines."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `measure_idling_power.py`."""
    parser = argparse.ArgumentParser(prog="measure_idling_power.py", description=_DESCRIPTION)
    parser.add_argument(
        "--idle-duration",
        type=float,
        default=120.0,
        metavar="S",
        help="seconds to measure (default: 120)",
    )
    parser.add_argument(
        "--result-dir",
        type=Path,
        default=Path("raw_data"),
        metavar="DIR",
        help="folder of the dataset (default: raw_data)",
    )
    parser.add_argument(
        "--sensor",
        default="auto",
        metavar="NAME",
        help="auto, none, ina3221 or simulated (default: auto, which never takes simulated)",
    )
    parser.add_argument(
        "--sysfs-root", default="/sys", metavar="DIR", help="where sysfs lies (default: /sys)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    return run_command(lambda: _measure(arguments), debug=arguments.debug)


def _measure(arguments: argparse.Namespace) -> None:
    from edgejoule.power.sensors import NONE, choose_sensor

    if not arguments.idle_duration > 0 or arguments.idle_duration == float("inf"):
        raise UsageError(f"--idle-duration {arguments.idle_duration:g}", "give seconds above 0")
    choice = choose_sensor(arguments.sensor, arguments.sysfs_root)
    if choice.name == NONE:
        mend = f" ({choice.mend})" if choice.mend else ""
        print(f"no power sensor, nothing measured and nothing written: {choice.why}{mend}")
        return
    from edgejoule.dataset.run_directory import check_result_folder
    from edgejoule.files import disk_errors

    folder: Path = arguments.result_dir
    check_result_folder(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _check_writable(folder)
    result = _record(choice.name, arguments)
    from edgejoule.files import write_json

    with disk_errors(folder):
        write_json(folder / RESULT_FILE, result)
    if not arguments.quiet:
        print(_table(result))
    print(f"written: {folder / RESULT_FILE}")


def _check_writable(folder: Path) -> None:
    """Find out before two minutes are spent, not after."""
    import tempfile

    with tempfile.TemporaryFile(dir=folder):
        pass


def _record(sensor: str, arguments: argparse.Namespace) -> dict[str, Any]:
    import tempfile

    from edgejoule.power.recording import record
    from edgejoule.report.progress import Progress
    from edgejoule.supervision import Supervisor, stop_on_signals

    seconds = float(arguments.idle_duration)
    began_s = 0.0

    def idle(supervisor: Supervisor) -> None:
        nonlocal began_s
        began_s = time.monotonic()
        supervisor.wait(seconds)

    with (
        stop_on_signals() as stop,
        tempfile.TemporaryDirectory(prefix="edgejoule-") as temporary,
        Progress(arguments.quiet) as progress,
    ):

        def tick(_now_ns: int) -> None:
            if began_s:
                done_s = min(seconds, time.monotonic() - began_s)
                progress.update("idle", round(done_s), round(seconds), remaining_s=seconds - done_s)

        progress.line(f"measuring idle power for {seconds:g} s with sensor {sensor}")
        recording = record(sensor, Path(temporary), arguments.sysfs_root, stop, idle, on_tick=tick)
        return _result(Path(temporary), recording.start_ns, recording.end_ns, recording.report)


def _result(
    directory: Path, start_ns: int, end_ns: int, report: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of `idling_power.json`."""
    from edgejoule.energy.baseline import baseline_entry
    from edgejoule.energy.trace import rail_powers_of_samples, read_samples, total_power
    from edgejoule.power.boards import total_rails

    header, samples = read_samples(directory / "power.bin")
    rails: dict[str, RailPower] = rail_powers_of_samples(header["channels"], samples)
    total_of = total_rails(tuple(rails))
    if total_of is not None:
        rails["total"] = total_power([rails[name] for name in total_of])
    entry = baseline_entry("cold", "before", rails, start_ns, end_ns)
    mean_mw = entry["rails"].get("total", {}).get("mean_mw")
    return {
        **entry,
        "timestamp": time.strftime("%Y%m%d-%H%M%S"),
        # Microwatts, as the older scripts that read this file expect; null without a known total.
        "avg_idle_power": None if mean_mw is None else mean_mw * 1000.0,
        "total_of": None if total_of is None else list(total_of),
        "sensor": header["sensor"],
        "simulated": header["simulated"],
        "refresh_ns": header["refresh_ns"],
        "configuration": header["configuration"],
        "wall_anchor": header["wall_anchor"],
        "sampler": {key: value for key, value in report.items() if key != "kind"},
    }


def _table(result: Mapping[str, Any]) -> str:
    """Return what was measured, for people."""
    lines = [f"{'rail':<20} {'mean mW':>9} {'+- 95 %':>8} {'sd mW':>7} {'drift mW':>9}"]

    def number(value: float | None, width: int) -> str:
        return f"{'-':>{width}}" if value is None else f"{value:{width}.1f}"

    for name, rail in result["rails"].items():
        lines.append(
            f"{name:<20} {number(rail['mean_mw'], 9)} {number(rail['half_width_mw'], 8)} "
            f"{number(rail['sd_mw'], 7)} {number(rail['drift_mw'], 9)}"
        )
    if result["total_of"] is None:
        lines.append("unknown board: no total, so avg_idle_power is null")
    if result["simulated"]:
        lines.append("SIMULATED: no power was measured")
    return "\n".join(lines)
