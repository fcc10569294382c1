"""`measure_idling_power.py`: the idle baseline of a board at rest, into `idling_power.json`."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.cli.power_options import add_sensor_options, where_of
from edgejoule.errors import UsageError, run_command

if TYPE_CHECKING:
    from edgejoule.energy.conditions import Conditions
    from edgejoule.energy.trace import RailPower
    from edgejoule.gpu_watch import GpuWatch
    from edgejoule.power.sensor import Where

RESULT_FILE = "idling_power.json"
_LOOK_NS = 1_000_000_000
_DESCRIPTION = """Measure what the board draws while nothing runs, and write it to
idling_power.json in the dataset's folder: per rail mean, dispersion, 95 % interval, drift; and
whether the machine was idle meanwhile. For orientation and for older scripts; each run of an
experiment measures its own baselines."""


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
    add_sensor_options(parser)
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
    where = where_of(arguments)
    choice = choose_sensor(arguments.sensor, where)
    if choice.name == NONE:
        mend = f" ({choice.mend})" if choice.mend else ""
        print(f"no power sensor, nothing measured and nothing written: {choice.why}{mend}")
        return
    from edgejoule.dataset.run_directory import check_result_folder, seal_file
    from edgejoule.files import disk_errors, write_json

    folder: Path = arguments.result_dir
    check_result_folder(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _check_writable(folder)
    result = _record(choice.name, where, arguments)
    with disk_errors(folder):
        write_json(folder / RESULT_FILE, seal_file(result))
    if not arguments.quiet:
        print(describe(result))
    else:
        for line in verdict_lines(result):
            print(line)
    print(f"written: {folder / RESULT_FILE}")


def _check_writable(folder: Path) -> None:
    """Find out before two minutes are spent, not after."""
    import tempfile

    with tempfile.TemporaryFile(dir=folder):
        pass


class IdleLook:
    """Looks once a second at what else the machine does while its power is measured.

    Args:
        directory: A temporary folder.
        sysfs_root: Where sysfs lies.
        proc_root: Where procfs lies; None: the board has no processes that one could see (the
            simulated one).
        gpu: Looks at the NVIDIA GPU that is measured.
    """

    def __init__(
        self, directory: Path, sysfs_root: str, proc_root: str | None, gpu: GpuWatch | None = None
    ) -> None:
        from edgejoule.resources import ResourceSampler

        proc = str(directory / "no-proc") if proc_root is None else proc_root
        more = dict if gpu is None else gpu.read
        self._sampler = ResourceSampler(
            directory / "resources.bin", sysfs_root, proc, processes=(), more=more
        )
        self._sysfs = Path(sysfs_root)
        self._cpus = None if proc_root is None else os.cpu_count()
        self._gpu = gpu
        self._rows: list[dict[str, float]] = []
        self._last_ns = time.monotonic_ns()

    def tick(self, now_ns: int) -> None:
        """Look if the last look is a second ago."""
        if now_ns - self._last_ns >= _LOOK_NS:
            self._last_ns = now_ns
            self._rows.append(self._sampler.sample(now_ns))

    def end(self) -> Conditions:
        """Return what was seen."""
        from edgejoule.energy.conditions import conditions_of
        from edgejoule.machine_state import all_locked, cpu_clocks, gpu_clocks

        if not self._rows:  # a window below a second
            self._rows.append(self._sampler.sample(time.monotonic_ns()))
        self._sampler.close()
        gpu, seen = self._gpu, []
        if gpu is not None:
            gpu.after = gpu.look()
            seen = [one for one in (gpu.before, gpu.after) if one is not None]
        others = [n for one in seen if (n := one.foreign_pids_count) is not None]
        return conditions_of(
            self._rows,
            cpus=self._cpus,
            clocks_locked=all_locked([*cpu_clocks(self._sysfs), *gpu_clocks(self._sysfs)]),
            gpu_processes=max(others, default=None),
            shared=None if gpu is None else gpu.shared(),
        )


@contextlib.contextmanager
def _gpu_of(sensor: str, where: Where) -> Iterator[GpuWatch | None]:
    """Watch the GPU whose power is measured, if it is one of NVML's."""
    if "nvml" not in sensor.split(",") or where.gpu_uuid is None:
        yield None
        return
    from edgejoule.gpu_watch import open_gpu_watch

    watch = open_gpu_watch(where.gpu_uuid)
    with contextlib.closing(watch):
        watch.before = watch.look()
        yield watch


def _record(sensor: str, where: Where, arguments: argparse.Namespace) -> dict[str, Any]:
    import tempfile

    from edgejoule.power.acquire import SYSFS_DIRECTORY
    from edgejoule.power.recording import record
    from edgejoule.power.sensors import SIMULATED
    from edgejoule.report.progress import Progress
    from edgejoule.supervision import Supervisor, stop_on_signals

    seconds = float(arguments.idle_duration)
    began_s = 0.0
    look: IdleLook | None = None
    conditions: Conditions | None = None

    with (
        stop_on_signals() as stop,
        tempfile.TemporaryDirectory(prefix="edgejoule-") as temporary,
        _gpu_of(sensor, where) as gpu,
        Progress(arguments.quiet) as progress,
    ):
        directory = Path(temporary)

        def idle(supervisor: Supervisor) -> int:
            nonlocal began_s, look, conditions
            began_s = time.monotonic()
            simulated = sensor == SIMULATED
            root = str(directory / SYSFS_DIRECTORY) if simulated else where.sysfs_root
            look = IdleLook(directory, root, None if simulated else "/proc", gpu)
            supervisor.wait(seconds)
            end_ns = time.monotonic_ns()
            conditions, look = look.end(), None
            return end_ns

        def tick(now_ns: int) -> None:
            if look is not None:
                look.tick(now_ns)
            if began_s:
                done_s = min(seconds, time.monotonic() - began_s)
                progress.update("idle", round(done_s), round(seconds), remaining_s=seconds - done_s)

        progress.line(f"measuring idle power for {seconds:g} s with sensor {sensor}")
        recording = record(sensor, directory, where, stop, idle, on_tick=tick)
        return result_of(
            directory, recording.start_ns, recording.end_ns, recording.report, conditions
        )


def result_of(
    directory: Path,
    start_ns: int,
    end_ns: int,
    report: Mapping[str, Any],
    conditions: Conditions | None,
) -> dict[str, Any]:
    """Return the content of `idling_power.json`.

    Args:
        directory: Holds `power.bin`.
        start_ns: Begin of the idle window.
        end_ns: Its end.
        report: What the sampler counted.
        conditions: What the machine did meanwhile.
    """
    from edgejoule.energy.baseline import baseline_entry
    from edgejoule.energy.trace import rail_powers_of_samples, read_samples, total_power
    from edgejoule.power.totals import total_rails_of

    header, samples = read_samples(directory / "power.bin")
    rails: dict[str, RailPower] = rail_powers_of_samples(header["channels"], samples)
    total_of = total_rails_of(header, [name for name, one in rails.items() if len(one.t_ns)])
    if total_of is not None:
        rails["total"] = total_power([rails[name] for name in total_of])
    entry = baseline_entry(
        "cold", "before", rails, start_ns, end_ns, conditions, header.get("refresh_ns")
    )
    mean_mw = entry["rails"].get("total", {}).get("mean_mw")
    return {
        **entry,
        "timestamp": time.strftime("%Y%m%d-%H%M%S"),
        # Microwatts, as the older scripts that read this file expect; null without a known total.
        "avg_idle_power": None if mean_mw is None else mean_mw * 1000.0,
        "total_of": None if total_of is None else list(total_of),
        "total": header.get("total"),
        "sensor": header["sensor"],
        "simulated": header["simulated"],
        "refresh_ns": header["refresh_ns"],
        "configuration": header["configuration"],
        "wall_anchor": header["wall_anchor"],
        "sampler": {key: value for key, value in report.items() if key != "kind"},
    }


def describe(result: Mapping[str, Any]) -> str:
    """Return what was measured, for people."""
    width = max(map(len, [*result["rails"], "rail"]))
    lines = [f"{'rail':<{width}} {'mean mW':>9} {'+- 95 %':>8} {'sd mW':>7} {'trend mW':>9}"]

    def number(value: float | None, width: int) -> str:
        return f"{'-':>{width}}" if value is None else f"{value:{width}.1f}"

    for name, rail in result["rails"].items():
        lines.append(
            f"{name:<{width}} {number(rail['mean_mw'], 9)} {number(rail['half_width_mw'], 8)} "
            f"{number(rail['sd_mw'], 7)} {number(rail['trend_mw'], 9)}"
        )
    lines += _total_lines(result)
    lines.append(_conditions_line(result["conditions"]))
    note = result["rails"].get("total", {}).get("interval_note")
    if note:
        lines.append(f"note: {note}; measure longer")
    lines += verdict_lines(result)
    if result["simulated"]:
        lines.append("SIMULATED: no power was measured")
    return "\n".join(lines)


def verdict_lines(result: Mapping[str, Any]) -> list[str]:
    """Return one line per verdict, or one that says that all that is known is in order."""
    words = {"not_idle": "NOT IDLE", "drifting": "DRIFTING"}
    found = [
        f"{words.get(verdict['kind'], verdict['kind'])}: {verdict['why']}; {verdict['mend']}"
        for verdict in result["verdicts"]
    ]
    return found or ["idle and steady, as far as could be seen"]


def _total_lines(result: Mapping[str, Any]) -> list[str]:
    if result["total_of"] is None:
        if result["total"] is None:
            return ["unknown board: no total, so avg_idle_power is null"]
        return ["no total, so avg_idle_power is null: a rail of it gave no value"]
    parts = " + ".join(result["total_of"])
    total = result["total"]
    if total is None:
        return [f"total = {parts}"]
    return [f"total = {parts}: {total['contains']}; without {total['excludes']}"]


def _conditions_line(conditions: Mapping[str, Any] | None) -> str:
    """Return what the machine did meanwhile, and what of it could not be seen."""
    if conditions is None:
        return "meanwhile: nobody looked"
    parts, unknown = [], []
    for name, key in (("CPUs", "cpu_busy_percent"), ("GPU", "gpu_utilisation_percent")):
        course = conditions[key]
        if course is None:
            unknown.append(f"{name[:3]} load")
        else:
            parts.append(f"{name} {course['mean']:.1f} % busy (at most {course['max']:.0f} %)")
    zones = conditions["temperatures_c"]
    if zones:
        name = max(zones, key=lambda zone: zones[zone]["mean"])
        zone = zones[name]
        parts.append(f"{name} {zone['start']:.1f} to {zone['end']:.1f} deg C")
    else:
        unknown.append("temperature")
    locked = {True: "clocks locked", False: "clocks not locked", None: ""}
    parts += [text for text in (locked[conditions["clocks_locked"]],) if text]
    parts += [f"throttled ({name})" for name in conditions["throttled"]]
    if unknown:
        parts.append(f"not known: {', '.join(unknown)}")
    return "meanwhile: " + ", ".join(parts)
