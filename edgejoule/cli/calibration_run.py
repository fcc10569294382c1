"""The work behind `measure_power.py calibrate`: recordings under pulses, and their fits."""

from __future__ import annotations

import argparse
import contextlib
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.files import disk_errors, read_json, write_json

if TYPE_CHECKING:
    from edgejoule.energy.calibration_file import Calibration
    from edgejoule.power.sensor import Where
    from edgejoule.report.progress import Progress
    from edgejoule.supervision import StopFlag, Supervisor

TAKE_FILE = "take.json"
_DURATION_S = 30.0
_REFRESHES = 600
_UNKNOWN_REFRESH_NS = 20_000_000
_LEAD_NS = (1_000_000_000, 3_000_000_000)  # idle before the pulses: 20 refreshes, within these
# What the simulated board's chip is: figures to be found again.
_SIMULATED = {"delay_ns": 1_100_000, "tau_ns": 200_000}
_POLL_NS = 2_000_000  # longest time between polls of a slow sensor; also where none is known


@dataclass(frozen=True)
class Take:
    """One recording: the folder with `power.bin`, `edges.jsonl` and `take.json`, and its facts."""

    directory: Path
    facts: dict[str, Any]


def kept_takes(directory: Path) -> list[Take]:
    """Return what `--keep-trace` kept.

    Raises:
        UsageError: The folder holds none.
        MeasurementError: One is damaged.
    """
    found = sorted(directory.glob(f"*/{TAKE_FILE}"))
    if not found:
        raise UsageError(f"{directory} holds no kept trace", "give a folder of --keep-trace")
    takes = []
    for path in found:
        facts = read_json(path)
        if not isinstance(facts, dict) or "lead_ns" not in facts or "rails" not in facts:
            raise MeasurementError(f"{path} is damaged", "calibrate again")
        takes.append(Take(path.parent, facts))
    return takes


@contextlib.contextmanager
def measured_takes(arguments: argparse.Namespace, where: Where) -> Iterator[list[Take]]:
    """Record under pulses; the folders are there as long as the context lasts.

    Args:
        arguments: As `power_calibrate` parsed them.
        where: Where sensors are looked for.

    Raises:
        EdgejouleError: There is no sensor, a child failed, or the user wants to end.
    """
    from edgejoule.power.sensors import choose_sensor
    from edgejoule.report.progress import Progress
    from edgejoule.supervision import stop_on_signals

    choice = choose_sensor(arguments.sensor, where)
    if not choice.usable:
        raise MeasurementError(f"no power sensor can be read here: {choice.why}", choice.mend)
    channels, refresh_ns, configuration = _look(choice.name, where)
    plans = _plans(choice.name, channels, arguments.rail)
    parent = arguments.output.parent
    with disk_errors(parent):
        temporary = tempfile.TemporaryDirectory(prefix=".edgejoule-", dir=parent)
    with temporary, stop_on_signals() as stop, Progress(arguments.quiet) as progress:
        takes = []
        for number, rails in enumerate(plans):
            directory = Path(temporary.name, str(number))
            directory.mkdir()
            facts = {"rails": rails, "configuration": configuration, "seed": arguments.seed}
            takes.append(
                _take(choice.name, directory, where, refresh_ns, facts, arguments, stop, progress)
            )
        if arguments.keep_trace is not None:
            with disk_errors(arguments.keep_trace.parent):
                for take in takes:
                    kept = arguments.keep_trace / take.directory.name
                    kept.mkdir(parents=True)
                    for name in ("power.bin", "edges.jsonl", "truth.json", TAKE_FILE):
                        if (take.directory / name).exists():
                            shutil.copy(take.directory / name, kept / name)
        yield takes


def _look(sensor: str, where: Where) -> tuple[list[dict[str, Any]], int | None, dict[str, Any]]:
    """Return the sensor's channels, its refresh (ns, None: not known) and its settings."""
    from edgejoule.power.sensors import SIMULATED, open_sensor
    from edgejoule.power.simulated_chip import ChipParameters

    if sensor == SIMULATED:
        from edgejoule.power.simulated_board import RAILS

        chip = ChipParameters(**_SIMULATED)
        channels = [
            {"index": k, "rail": rail.label, "quantity": "current"} for k, rail in enumerate(RAILS)
        ]
        return channels, chip.refresh_ns, {}
    with contextlib.closing(open_sensor(sensor, where)) as opened:
        channels = [channel.to_json() for channel in opened.channels()]
        refreshes = [g.refresh_ns for g in opened.groups() if g.refresh_ns is not None]
        return channels, min(refreshes, default=None), opened.configuration()


def _plans(sensor: str, channels: list[dict[str, Any]], asked: list[str] | None) -> list[list[str]]:
    """Return the rails of each recording.

    One at a time where a read costs a transfer on a slow bus (half a millisecond on a Jetson):
    three currents polled together would leave each with too few reads per refresh.
    """
    from edgejoule.energy.calibration_load import channels_to_fit

    rails = [channel["rail"] for channel in channels_to_fit(channels)]
    for name in asked or ():
        if name not in rails:
            raise UsageError(
                f"--rail {name}: no such rail to calibrate", f"there are {', '.join(rails)}"
            )
    chosen = [rail for rail in rails if not asked or rail in asked]
    if not chosen:
        raise MeasurementError(
            f"sensor {sensor} has no current and no power to calibrate", "choose another --sensor"
        )
    return [[rail] for rail in chosen] if "ina3221" in sensor.split(",") else [chosen]


def _take(
    sensor: str,
    directory: Path,
    where: Where,
    refresh_ns: int | None,
    facts: dict[str, Any],
    arguments: argparse.Namespace,
    stop: StopFlag,
    progress: Progress,
) -> Take:
    """Make one recording."""
    from edgejoule.power.acquire import Attribution
    from edgejoule.power.exciter_schedule import plan_edges
    from edgejoule.power.recording import record
    from edgejoule.power.sensors import SIMULATED
    from edgejoule.power.simulated_chip import CHIP_FILE, EDGES_FILE, ChipParameters
    from edgejoule.processes import start_child

    refresh = refresh_ns or _UNKNOWN_REFRESH_NS
    seconds = arguments.duration or max(_DURATION_S, math.ceil(_REFRESHES * refresh * 1e-9))
    plan_edges(int(seconds * 1e9), refresh, arguments.seed)  # refuses what is too short, at once
    lead_ns = min(max(_LEAD_NS[0], 20 * refresh), _LEAD_NS[1])
    log = directory / "run.log"
    config = {
        "load": "announced" if sensor == SIMULATED else _load(arguments.load, sensor),
        "duration_ns": int(seconds * 1e9),
        "refresh_ns": refresh,
        "seed": arguments.seed,
        "edges": str(directory / EDGES_FILE),
        "lead_ns": lead_ns,
        "workers": _cores(),
        "device": _cuda_device(arguments.device),
        "page": str(directory / "page.bin"),
        "phase_log": str(directory / "phases.jsonl"),
        "log": str(log),
    }
    if sensor == SIMULATED:
        write_json(directory / CHIP_FILE, ChipParameters(**_SIMULATED).to_json())
    done: dict[str, Any] = {}
    ready: dict[str, Any] = {}
    began_s = time.monotonic()
    whole_s = seconds + 2e-9 * lead_ns
    title = f"pulses for {', '.join(facts['rails'])}"

    def during(supervisor: Supervisor) -> int | None:
        nonlocal began_s
        child = supervisor.add(start_child("exciter", "edgejoule.power.exciter", config, log))
        began_s = time.monotonic()

        def heard(message: dict[str, Any]) -> None:
            if message["kind"] == "ready":
                ready.update(message)
                progress.line(f"load: {message['detail']}")

        done.update(supervisor.run_to_end(child, heard))
        return None

    def tick(_now_ns: int) -> None:
        passed = time.monotonic() - began_s
        left = max(0.0, whole_s - passed)
        progress.update(title, min(round(passed), round(whole_s)), round(whole_s), remaining_s=left)

    attribution = None
    if refresh_ns:
        rails = tuple(facts["rails"])
        attribution = Attribution(rails, seed=arguments.seed, longest_ns=_POLL_NS)
    recording = record(
        sensor,
        directory,
        where,
        stop,
        during,
        tick,
        period_ns=None if refresh_ns else _POLL_NS,
        attribution=attribution,
    )
    facts = {
        **facts,
        "sensor": sensor,
        "simulated": recording.ready["simulated"],
        "attribution": recording.ready.get("attribution"),
        "lead_ns": lead_ns,
        "seconds": seconds,
        "refresh_hint_ns": refresh,
        "load": config["load"],
        "detail": ready.get("detail", ""),
        "pulses": done["pulses"],
        "missed": done["missed"],
        "wall_ns": time.time_ns(),
    }
    write_json(directory / TAKE_FILE, facts)
    return Take(directory, facts)


def _load(asked: str, sensor: str) -> str:
    """Return `gpu` or `cpu` for what was asked: the supply that the sensor measures is loaded."""
    if asked != "auto":
        return asked
    from edgejoule.inference.backends import gpu_present
    from edgejoule.power.exciter_gpu import gpu_load_possible

    names = set(sensor.split(","))
    if "nvml" in names:
        return "gpu"
    on_board = bool(names & {"ina3221", "tegrastats"})
    return "gpu" if on_board and gpu_load_possible() and gpu_present() else "cpu"


def _cuda_device(asked: str | None) -> str:
    """Return `cuda:N` as the exciter sees it."""
    if asked is None:
        return "cuda:0"
    from edgejoule.power.gpu_choice import find_gpu

    return find_gpu(asked).device


def _cores() -> int:
    """Return how many cores are loaded: all but one, which is the sampler's."""
    import os

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (usable or 1) - 1)


def calibration_of(
    takes: Sequence[Take], rails: Sequence[str] | None, against: Path | None, progress: Progress
) -> Calibration:
    """Fit every take's rails.

    Args:
        takes: Recordings.
        rails: Only these, None for those of each take.
        against: A meter's CSV.
        progress: Where to say how far it is.

    Raises:
        MeasurementError: A recording or the meter's file cannot be used.
    """
    from edgejoule import __version__
    from edgejoule.energy.calibration import fit_rail
    from edgejoule.energy.calibration_file import Calibration
    from edgejoule.energy.calibration_load import blur_ns, channels_to_fit, load_of, reads_of
    from edgejoule.energy.trace import read_samples
    from edgejoule.machine import describe_machine
    from edgejoule.power.exciter import read_edges

    found, comparisons = [], []
    blurs = []
    for take in takes:
        wanted = [rail for rail in take.facts["rails"] if not rails or rail in rails]
        header, samples = read_samples(take.directory / "power.bin")
        edges = read_edges(take.directory / "edges.jsonl")
        load, lead_ns = load_of(edges), int(take.facts["lead_ns"])
        blurs.append(blur_ns(edges))
        # What the machine did before the idle lead (a library's start) is not in the load.
        start_ns = int(load.edges_ns[0]) - lead_ns * 4 // 5
        end_ns = int(load.edges_ns[-1]) + lead_ns
        for channel in channels_to_fit(header["channels"]):
            if channel["rail"] not in wanted:
                continue
            progress.update(f"fit {channel['rail']}", 0, None)
            reads = reads_of(samples, int(channel["index"]), start_ns, end_ns)
            named = {name: str(channel[name]) for name in ("rail", "quantity", "unit")}
            found.append(fit_rail(*reads, load, **named))
        if against is not None:
            comparisons.append(_compare(header, samples, wanted, against))
    if not found:
        raise UsageError("none of the rails asked for was recorded", "leave --rail out")
    machine = describe_machine()
    kept = ("board_id", "board_source", "power_mode", "l4t", "gpu", "kernel", "architecture")
    facts = takes[0].facts
    return Calibration(
        sensor=str(facts.get("sensor", "")),
        simulated=bool(facts.get("simulated", False)),
        rails=tuple(found),
        made={
            **{name: facts.get(name) for name in ("load", "detail", "seconds", "seed")},
            "edges_blur_ns": max(blurs),
            "truth": truth_of(takes[0]),
            "takes": [
                {
                    name: take.facts.get(name)
                    for name in ("rails", "pulses", "missed", "attribution")
                }
                for take in takes
            ],
        },
        machine={name: machine.get(name) for name in kept},
        configuration=dict(facts.get("configuration") or {}),
        versions={"edgejoule": __version__, "code": machine["code"], **machine["libraries"]},
        wall_ns=int(facts.get("wall_ns", 0)),
        against=None if against is None else {"file": against.name, "comparisons": comparisons},
    )


def _compare(
    header: dict[str, Any], samples: Any, rails: Sequence[str], against: Path
) -> dict[str, Any]:
    """Compare the one rail, or the board's total, with the meter."""
    from edgejoule.energy.meter import compare, read_meter
    from edgejoule.energy.trace import rail_powers_of_samples, total_power
    from edgejoule.power.totals import total_rails_of

    meter = read_meter(against)
    powers = rail_powers_of_samples(header["channels"], samples)
    usable = {name: power for name, power in powers.items() if len(power.t_ns)}
    total = total_rails_of(header, tuple(usable))
    if total is not None and (len(rails) != 1 or rails[0] in total):
        return compare(total_power([usable[name] for name in total]), meter).to_json()
    if len(rails) == 1 and rails[0] in usable:
        return compare(usable[rails[0]], meter).to_json()
    raise UsageError(
        "--against: which rail the meter measures is not known", "name one with --rail"
    )


def truth_of(take: Take) -> dict[str, Any] | None:
    """Return the simulated chip's true figures of a take, None where nothing was simulated."""
    path = take.directory / "truth.json"
    if not path.exists():
        return None
    truth = read_json(path)
    chip = truth.get("chip") if isinstance(truth, dict) else None
    return dict(chip) if isinstance(chip, dict) else None
