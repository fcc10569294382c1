"""Whether what a run says of itself follows from its tables: the figures are computed anew.

Energies over phases and inferences are held against the trace in every version of the format. The
rest (latencies, baselines, the split over layers) is computed again for runs of the version that
is written today; earlier ones may have computed it another way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.dataset.checks.common import ENERGY_TOLERANCE, close, recomputed
from edgejoule.dataset.findings import Finding
from edgejoule.files import read_json

if TYPE_CHECKING:
    import numpy as np

    from edgejoule.dataset.checks.energy import Row
    from edgejoule.dataset.checks.layers import LayerSums
    from edgejoule.energy.trace import RailPower
    from edgejoule.summary import Power

_LATENCY = 1e-9
_INTERVAL = "interval"
_SPLIT = 2e-7  # twice the rounding of float32
_SUMMARISED = ("clean", "rate", "profiled")
_STATED = ("mean_ms", "median_ms", "min_ms", "max_ms")

Passes = Mapping[str, Mapping[str, "np.ndarray"]]


def check_latencies(passes: Passes, sums: LayerSums | None, run: dict[str, Any]) -> list[Finding]:
    """Hold the latencies in `summary` against `inferences.parquet` and `layers.parquet`."""
    import numpy as np

    if not recomputed(run):
        return []
    findings = []
    for name in _SUMMARISED:
        one, said = passes.get(name), run["summary"].get(name)
        if one is None or not isinstance(said, dict):
            continue
        ms = (one["end_ns"] - one["start_ns"]) * 1e-6
        found = dict(
            zip(_STATED, (ms.mean(), np.median(ms), ms.min(), ms.max()), strict=True),
            inferences=len(ms),
        )
        if name == "profiled" and sums is not None:
            found["layers_ms_median"] = np.median(sums.per_inference_ns) * 1e-6
        for key, value in found.items():
            tolerance = _SPLIT if key == "layers_ms_median" else _LATENCY
            if key in said and not _agree(float(value), said[key], tolerance):
                problem = f"{key} of pass {name}: the tables give {value:.9g}"
                findings.append(Finding("run.json", f"{problem}, the summary {said[key]}"))
    return findings


def check_totals(
    path: Path,
    run: dict[str, Any],
    power: Power,
    passes: Passes,
    energy: list[Row] | None,
    sums: LayerSums | None,
    sound: set[str],
) -> list[Finding]:
    """Integrate the trace anew and compare it with what the run says of itself.

    Args:
        path: The run directory.
        run: `run.json`.
        power: The run's power.
        passes: The inferences by pass.
        energy: The rows of `energy.parquet`; None: not there, or wrong in themselves.
        sums: Layer times, None where they are not known.
        sound: The files that may be opened.
    """
    from edgejoule.errors import EdgejouleError
    from edgejoule.phases import PhaseSpan
    from edgejoule.summary import phase_energies

    try:
        found = phase_energies(power, [PhaseSpan(**phase) for phase in run["phases"]])
    except EdgejouleError as error:
        return [Finding("power.parquet", f"cannot be integrated ({error})")]
    findings = [
        Finding("run.json", problem)
        for problem in _phase_problems(found, run["summary"].get("phase_energies", {}))
    ]
    idle = read_json(path / "idle.json") if "idle.json" in sound else []
    waited = _waited(path, run, sound)
    if recomputed(run):
        findings += [Finding("idle.json", problem) for problem in _idle_problems(power, idle)]
        wrong = _pass_problems(power, passes, run, idle, waited)
        findings += [Finding("run.json", problem) for problem in wrong]
    profiled = passes.get("profiled")
    if energy is None or profiled is None or not len(profiled["index"]):
        return findings
    beside = {"idle.json", "measure.json"} & set(run["files"])  # what the split rests on as well
    # A run that was cut short may have energies of before a file was lost.
    whole = recomputed(run) and run["status"] == "complete"
    split = sums if whole and beside <= sound else None
    held_ns = _held_ns(path, len(profiled["index"]), sound, findings)
    missing = set(power.rails) - {row["rail"] for row in energy}
    if whole and missing:
        problem = f"lacks rail {sorted(missing)[0]}, which the trace has"
        findings.append(Finding("energy.parquet", problem))
    for rail in dict.fromkeys(row["rail"] for row in energy):
        rows = [row for row in energy if row["rail"] == rail]
        findings += [
            Finding("energy.parquet", problem)
            for problem in _rail_problems(power, rail, rows, profiled, split, idle, held_ns, waited)
        ]
    return findings


def _phase_problems(found: Mapping[str, Any], said_of: Mapping[str, Any]) -> Iterator[str]:
    for phase, rails in said_of.items():
        for rail, said in rails.items():
            have = found.get(phase, {}).get(rail)
            if have is None or not close(have["energy_mj"], said["energy_mj"], have["energy_mj"]):
                integral = "nothing" if have is None else f"{have['energy_mj']:.6g} mJ"
                problem = f"{rail} in phase {phase}: the trace gives {integral}"
                yield f"{problem}, the summary {said['energy_mj']:.6g} mJ"


def _idle_problems(power: Power, idle: list[dict[str, Any]]) -> Iterator[str]:
    from edgejoule.energy.integrate import energy_mj

    for entry in idle:
        start_ns, end_ns = entry.get("start_ns"), entry.get("end_ns")
        if start_ns is None or end_ns is None:
            continue
        where = f"baseline {entry['kind']} {entry['when']}"
        if end_ns <= start_ns:
            yield f"{where} ends before it starts"
            continue
        for rail, said in entry["rails"].items():
            if rail not in power.rails:
                yield f"{where} has a rail {rail!r} unknown here"
                continue
            mean_mw = energy_mj(power.rails[rail], start_ns, end_ns).mean_mw
            found = None if math.isnan(mean_mw) else mean_mw
            if not _same_energy(found, said["mean_mw"], mean_mw, ENERGY_TOLERANCE):
                yield f"{where}: {rail} has {said['mean_mw']} mW, the trace gives {found}"


def _pass_problems(
    power: Power,
    passes: Passes,
    run: dict[str, Any],
    idle: list[dict[str, Any]],
    waited: np.ndarray | None,
) -> Iterator[str]:
    """Hold the energy per inference that the summary says of a pass against the trace."""
    for rail, said_of in ((run["summary"].get("energy") or {}).get("rails") or {}).items():
        if rail not in power.rails:
            yield f"summary.energy has a rail {rail!r} unknown here"
            continue
        loaded_mw = _loaded_mw(idle, rail)
        for name, said in said_of.items():
            one = passes.get(name)
            if one is None or not isinstance(said, dict):
                continue
            spans_ns = waited if name == "profiled" else None
            mean = float(_each_mj(power.rails[rail], one, spans_ns, loaded_mw).mean())
            seconds = float((one["end_ns"] - one["start_ns"]).mean()) * 1e-9
            above = None if loaded_mw is None else mean - loaded_mw * seconds
            for key, value in (("gross_mj", mean), ("dynamic_mj", above)):
                if key in said and not _same_energy(value, said[key], mean, ENERGY_TOLERANCE):
                    yield f"{rail}: {key} of pass {name} is {said[key]}, the trace gives {value}"


def _rail_problems(
    power: Power,
    rail: str,
    rows: list[Row],
    profiled: Mapping[str, np.ndarray],
    sums: LayerSums | None,
    idle: list[dict[str, Any]],
    held_ns: np.ndarray | None,
    waited: np.ndarray | None,
) -> Iterator[str]:
    import numpy as np

    from edgejoule.energy.proportional import METHOD, attribute

    series = power.rails.get(rail)
    if series is None:
        yield f"has a rail {rail!r} unknown here"
        return
    loaded_mw = _loaded_mw(idle, rail)
    each_mj = _each_mj(series, profiled, waited, loaded_mw)
    mean = float(each_mj.mean())
    plain = float(_each_mj(series, profiled, None, None).mean())
    by_trace = {METHOD: mean, _INTERVAL: plain}
    for row in rows:
        # By replay the whole is what the network took in that pass, by regression what is left
        # when the waiting between inferences is told from them.
        given = by_trace.get(row["method"]) if row["kind"] == "inference" else None
        if given is None or row["gross_mj"] is None:
            continue
        if not close(given, row["gross_mj"], given):
            problem = f"{rail}: an inference takes {given:.6g} mJ by the trace"
            yield f"{problem}, {row['gross_mj']:.6g} by it"
            return
    if sums is None or np.isnan(mean):
        return
    duration_ns = profiled["end_ns"] - profiled["start_ns"]
    wanted = attribute(rail, each_mj, duration_ns, sums.per_block_ns, loaded_mw, None, held_ns)
    expected = {(row.kind, row.layer): row for row in wanted}
    for row in rows:
        want = expected.get((row["kind"], row["layer"]))
        if row["method"] != METHOD or want is None:
            continue
        for key, value in (("gross_mj", want.gross_mj), ("dynamic_mj", want.dynamic_mj)):
            have = row[key]
            if not _same_energy(have, value, mean):
                which = row["kind"] if row["layer"] is None else f"layer {row['layer']}"
                yield f"{rail}: {key} of {which} is {have}, by time and trace {value}"
                return


def _each_mj(
    series: RailPower,
    inferences: Mapping[str, np.ndarray],
    waited: np.ndarray | None,
    loaded_mw: float | None,
) -> np.ndarray:
    """Return the energy of each inference; where the pass waited between them, without that."""
    from edgejoule.energy.integrate import energies_mj
    from edgejoule.energy.waiting import energies_without_waiting

    times = inferences["start_ns"], inferences["end_ns"]
    if waited is None or loaded_mw is None:
        return energies_mj(series, *times)
    return energies_without_waiting(series, *times, waited, loaded_mw)


def _waited(path: Path, run: dict[str, Any], sound: set[str]) -> np.ndarray | None:
    """Return the stretches of a profiled pass that waited between inferences, else None."""
    from edgejoule.phases import PhaseSpan
    from edgejoule.summary import waited_spans

    said = read_json(path / "measure.json") if "measure.json" in sound else {}
    profiled = said.get("profiled") if isinstance(said, dict) else None
    found: np.ndarray | None = waited_spans([PhaseSpan(**one) for one in run["phases"]], profiled)
    return found


def _same_energy(
    one: float | None, other: float | None, scale: float, tolerance: float = _SPLIT
) -> bool:
    if one is None or other is None:
        return one is other
    return close(one, other, scale, tolerance)


def _loaded_mw(idle: list[dict[str, Any]], rail: str) -> float | None:
    """Return idle power with the engine loaded, before and after averaged, as the split uses it."""
    found = [
        entry["rails"][rail]["mean_mw"]
        for entry in idle
        if entry["kind"] == "loaded" and entry["rails"].get(rail, {}).get("mean_mw") is not None
    ]
    return sum(found) / len(found) if found else None


def _held_ns(
    path: Path, inferences: int, sound: set[str], findings: list[Finding]
) -> np.ndarray | None:
    """Return each inference's time that is there because of the profiler alone, None if none."""
    import numpy as np

    if "measure.json" not in sound:
        return None
    held_us = (read_json(path / "measure.json").get("profiled") or {}).get("held_us")
    if not held_us:
        return None
    if len(held_us) != inferences:
        problem = f"profiled.held_us has {len(held_us)} values for {inferences} inferences"
        findings.append(Finding("measure.json", problem))
        return None
    return np.array(held_us, dtype=np.int64) * 1000


def _agree(one: float, other: Any, tolerance: float) -> bool:
    if isinstance(other, bool) or not isinstance(other, (int, float)):
        return False
    return abs(one - other) <= tolerance * max(abs(one), 1e-12)
