"""Attribution at the end of a run: from its tables to the rows of `energy.parquet`. Numpy, pyarrow.

    layers, inferences --> Timeline --.
    power (reads of one channel) ------+--> window --.
    power (rail), replay segments --------> replay ---+--> systematic bounds, scaled column --> rows
    power (rail), times of layers --------> proportional, interval

Which methods run stands in the configuration; one that cannot be used says why in the notes and
leaves no row. Nothing here is specific to a sensor or a backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgejoule.energy.rows import METHODS, EnergyRow, unknown_layers
from edgejoule.energy.timeline import ChannelReads, Timeline
from edgejoule.errors import MeasurementError
from edgejoule.summary import (
    TOTAL,
    Inferences,
    LayerSums,
    Power,
    attribution,
    loaded_baseline,
    waited_spans,
)

if TYPE_CHECKING:
    from edgejoule.energy.sensor_model import SensorParameters
    from edgejoule.phases import PhaseSpan

_PROFILED = "profiled"


@dataclass(frozen=True)
class Task:
    """What attribution starts from.

    Attributes:
        directory: The run's, with `layers.parquet`, `power.parquet`, `replay.parquet`.
        methods: Methods beside `proportional`.
        power: The run's power.
        profiled: Inferences of the profiled pass.
        sums: Times of its layers.
        idle: The baselines.
        spans: The phases.
        sensor: `sensor` of `run.json`.
        measure: What the measuring process said, `measure.json`.
        sampler: What the sampler said, `sampler.json`.
        clean: Rail -> (gross, dynamic) mJ per inference of the clean pass.
        held_ns: Time within each profiled inference that is there because of the profiler alone.
        seed: The run's.
    """

    directory: Path
    methods: tuple[str, ...]
    power: Power
    profiled: Inferences
    sums: LayerSums
    idle: Sequence[Mapping[str, Any]]
    spans: Sequence[PhaseSpan]
    sensor: Mapping[str, Any]
    measure: Mapping[str, Any]
    sampler: Mapping[str, Any]
    clean: Mapping[str, tuple[float | None, float | None]]
    held_ns: np.ndarray | None = None
    seed: int = 0


@dataclass
class Attributed:
    """What attribution gives.

    Attributes:
        rows: Of `energy.parquet`.
        attribution: Method -> rail -> closure and facts, for `summary.energy.attribution`.
        duplication: The duplication check, None if there was none.
        notes: What a reader must know.
        accuracy: Rail -> what is known of its sensor's accuracy, with sources.
    """

    rows: list[EnergyRow] = field(default_factory=list)
    attribution: dict[str, dict[str, Any]] = field(default_factory=dict)
    duplication: list[dict[str, Any]] | None = None
    notes: list[str] = field(default_factory=list)
    accuracy: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """Methods with rows, the best first."""
        found = {row.method for row in self.rows}
        return [method for method in METHODS if method in found]

    def add(self, rail: str, rows: Sequence[EnergyRow], facts: Mapping[str, Any]) -> None:
        """Take a method's rows of a rail."""
        self.rows += rows
        self.attribution.setdefault(rows[0].method, {})[rail] = summarised(rows, facts)


def attribute_run(task: Task) -> Attributed:
    """Attribute the profiled pass's energy to its layers by every method of the run."""
    found = Attributed()
    by_method = {"replay": _replay, "window": _window, "interval": _interval}
    for method in METHODS:
        if method not in task.methods:
            continue
        try:
            by_method[method](task, found)
        except MeasurementError as error:  # one method that cannot must not cost the others
            found.notes.append(f"no energy by {method}: {error}")
    for rail, rows in _by_rail(_proportional(task)).items():
        found.add(rail, rows, {})
    found.rows = completed(task, found)
    return found


def read_timeline(
    directory: Path,
    profiled: Inferences,
    layers: int,
    spans: Sequence[PhaseSpan] = (),
    held_ns: np.ndarray | None = None,
) -> Timeline:
    """Read the layers of every profiled inference as one table of times.

    Starts are taken where the backend gave one for every layer; a single one that is not known
    (a profiler's clock that stepped) makes them all a matter of the gap model.
    """
    import pyarrow.parquet as pq

    n = len(profiled.index)
    layer_ns = np.zeros((n, layers))
    offset_ns = np.zeros((n, layers), np.int64)
    known = True
    columns = ["inference", "layer", "duration_ms", "start_offset_ns"]
    with pq.ParquetFile(directory / "layers.parquet") as file:
        for batch in file.iter_batches(500_000, columns=columns):
            cell = batch["inference"].to_numpy(), batch["layer"].to_numpy()
            layer_ns[cell] = batch["duration_ms"].to_numpy().astype(np.float64) * 1e6
            known = known and batch["start_offset_ns"].null_count == 0
            if known:
                offset_ns[cell] = batch["start_offset_ns"].to_numpy()
    pieces = [(s.start_ns, s.end_ns) for s in spans if s.phase == _PROFILED and s.end_ns]
    return Timeline(
        profiled.start_ns,
        profiled.end_ns,
        layer_ns,
        offset_ns if known and layers else None,
        held_ns,
        np.array(pieces, np.int64) if pieces else None,
    )


def _proportional(task: Task) -> list[EnergyRow]:
    spans_ns = waited_spans(task.spans, task.measure.get("profiled"))
    return attribution(task.power, task.profiled, task.sums, task.idle, task.held_ns, spans_ns)


def _window(task: Task, found: Attributed) -> None:
    from edgejoule.energy.baseline import scatter_mw
    from edgejoule.energy.reads import channel_reads
    from edgejoule.energy.window import add_rails, attribute_window

    polled = task.sampler.get("attribution") or {}
    if not polled.get("sweeps"):
        why = polled.get("why") or "the sensor was not polled at the attribution rate"
        found.notes.append(f"no energy by window: {why}")
        return
    total_of = task.power.total_of or ()
    first_ns, last_ns = int(task.profiled.start_ns[0]), int(task.profiled.end_ns[-1])
    reach_ns = 1_000_000_000
    reads = channel_reads(
        task.directory / "power.parquet",
        [rail for rail in task.power.rails if rail != TOTAL],
        first_ns - reach_ns,
        last_ns + reach_ns,
    )
    reads = swept(reads, first_ns, last_ns)
    timeline = read_timeline(
        task.directory, task.profiled, task.sums.per_block_ns.shape[1], task.spans, task.held_ns
    )
    idle_ns = [(e["start_ns"], e["end_ns"]) for e in task.idle if e["kind"] == "loaded"]
    parts = {}
    for rail, one in reads.items():
        mean_mw, half_mw = loaded_baseline(task.idle, rail)
        parts[rail] = attribute_window(
            rail,
            timeline,
            one,
            baseline_mw=mean_mw,
            baseline_half_width_mw=half_mw,
            model=_calibrated(task.directory, rail),
            noise_mw=scatter_mw(task.power.rails[rail], idle_ns),
            seed=task.seed,
        )
        found.add(rail, parts[rail].rows, parts[rail].facts)
    if total_of and set(total_of) <= set(parts):
        total = add_rails([parts[rail] for rail in total_of], TOTAL)
        found.add(TOTAL, total.rows, total.facts)


def swept(
    reads: Mapping[str, ChannelReads], first_ns: int, last_ns: int
) -> dict[str, ChannelReads]:
    """Return the channels that were swept at the attribution rate between two times.

    What was read at the monitor rate alone shows each refresh once at most. Reads before and after
    count for nothing: there every channel is read at the monitor rate.
    """
    counts = {
        rail: int(np.count_nonzero((one.t0_ns >= first_ns) & (one.t0_ns <= last_ns)))
        for rail, one in reads.items()
    }
    fastest = max(counts.values(), default=0)
    return {rail: one for rail, one in reads.items() if 2 * counts[rail] > fastest}


def _calibrated(directory: Path, rail: str) -> SensorParameters | None:
    """Return what the run's calibration says of a rail's sensor, None where it says nothing."""
    from edgejoule.energy.calibration_file import FILE_NAME, read_calibration

    path = directory / FILE_NAME
    if not path.is_file():
        return None
    try:
        known = read_calibration(path).rail(rail)
    except MeasurementError:
        return None
    return None if known is None else known.model


def _interval(task: Task, found: Attributed) -> None:
    from edgejoule.energy.interval import attribute_interval

    timeline = read_timeline(
        task.directory, task.profiled, task.sums.per_block_ns.shape[1], task.spans, task.held_ns
    )
    for rail, series in task.power.rails.items():
        mean_mw, half_mw = loaded_baseline(task.idle, rail)
        found.add(rail, attribute_interval(rail, series, timeline, mean_mw, half_mw), {})


def _replay(task: Task, found: Attributed) -> None:
    from edgejoule.energy.duplication import check_duplication
    from edgejoule.energy.replay import attribute_replay
    from edgejoule.energy.replay_segments import read_segments

    said = task.measure.get("replay") or {}
    path = task.directory / "replay.parquet"
    segments = read_segments(path) if path.is_file() else None
    # A pass that failed has segments up to there, and no plan of what they stand for.
    if segments is None or not len(segments.start_ns) or "groups" not in said:
        found.notes.append(f"no energy by replay: {said.get('why') or 'nothing was repeated'}")
        return
    back_ns = reach_of(task)
    n = len(task.profiled.index)
    held_ms = 0.0 if task.held_ns is None else float(np.mean(task.held_ns)) * 1e-6
    main = TOTAL if task.power.total_of else next(iter(task.power.rails))
    for rail, series in task.power.rails.items():
        mean_mw, half_mw = loaded_baseline(task.idle, rail)
        part = attribute_replay(
            rail,
            series,
            segments,
            groups=said["groups"],
            nothing=said["nothing"],
            left_out={int(layer): str(why) for layer, why in said["left_out"].items()},
            layer_ms=(task.sums.per_block_ns.sum(axis=0) * 1e-6 / n).tolist(),
            inference_ms=float(np.mean(task.profiled.duration_ns)) * 1e-6 - held_ms,
            baseline_mw=mean_mw,
            baseline_half_mw=half_mw,
            reach_ns=back_ns(rail),
            said=said,
        )
        if not part.rows:
            found.notes.append(f"no energy by replay on rail {rail}: {part.facts['why']}")
            continue
        found.add(rail, part.rows, part.facts)
        if rail == main:
            found.duplication = check_duplication(
                rail, series, segments, part.rows, reach_ns=back_ns(rail)
            )
            why = (said.get("duplication") or {}).get("reason")
            if found.duplication == [] and why:
                found.notes.append(f"no layer was executed several times in place: {why}")


def reach_of(task: Task) -> Callable[[str], int]:
    """Return what tells how far a reading of a rail reaches back in time, in ns."""
    from edgejoule.dataset.schema import read_metadata
    from edgejoule.energy.replay_live import reach_ns

    header = read_metadata(task.directory / "power.parquet")

    def of(rail: str) -> int:
        return reach_ns(header, task.power.total_of if rail == TOTAL else (rail,))

    return of


def completed(task: Task, found: Attributed) -> list[EnergyRow]:
    """Add to each row what its sensor cannot know and its share of the clean pass's energy."""
    from edgejoule.energy.scaled import with_scaled
    from edgejoule.energy.systematic import (
        baseline_choice_mw,
        rail_voltages_mv,
        systematic_bounds,
        with_systematic,
    )

    voltages_mv = rail_voltages_mv(task.directory / "power.parquet")
    done: list[EnergyRow] = []
    for method in METHODS:
        for rail, some in _by_rail([row for row in found.rows if row.method == method]).items():
            gross_mj, dynamic_mj = task.clean.get(rail, (None, None))
            tolerance = systematic_bounds(task.sensor, rail, voltages_mv)
            found.accuracy[rail] = tolerance.to_json()
            used_mw, _ = loaded_baseline(task.idle, rail)
            others_mw = _loaded_mw(task.idle, rail) + _replay_idle_mw(found, rail)
            choice_mw = baseline_choice_mw(used_mw, others_mw)
            done += with_scaled(with_systematic(some, tolerance, choice_mw), gross_mj, dynamic_mj)
    return done


def _loaded_mw(idle: Sequence[Mapping[str, Any]], rail: str) -> list[float]:
    """Return every loaded baseline of a rail."""
    return [
        entry["rails"][rail]["mean_mw"]
        for entry in idle
        if entry["kind"] == "loaded" and entry["rails"].get(rail, {}).get("mean_mw") is not None
    ]


def _replay_idle_mw(found: Attributed, rail: str) -> list[float]:
    """Return the replay pass's own idle power on a rail, empty where there was no such pass."""
    facts = found.attribution.get("replay", {}).get(rail, {}).get("facts", {})
    mean_mw = (facts.get("idle") or {}).get("mean_mw")
    return [] if mean_mw is None else [float(mean_mw)]


def _by_rail(rows: Sequence[EnergyRow]) -> dict[str, list[EnergyRow]]:
    found: dict[str, list[EnergyRow]] = {}
    for row in rows:
        found.setdefault(row.rail, []).append(row)
    return found


def summarised(rows: Sequence[EnergyRow], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the summary says of a method on a rail: closure, and how much is resolved.

    Layers of which nothing is known (replay left them out) are in no sum: `missing_layers` of the
    closure counts them, and `time_share` is the share of the layers' time that the sum covers. Only
    where that is 1 does the closure say how well the method adds up.

    Args:
        rows: All rows of the method on the rail.
        facts: What the method says of itself; `closure` with its intervals is taken from there.
    """
    by_kind: dict[str, list[EnergyRow]] = {}
    for row in rows:
        by_kind.setdefault(row.kind, []).append(row)
    whole, closure = by_kind["inference"][0], by_kind["closure"][0]
    layers = by_kind.get("layer", [])
    judged = [row for row in layers if row.resolved is not None]
    own = dict(facts.get("closure") or {})
    resolved_mj = sum(row.gross_mj or 0.0 for row in judged if row.resolved)
    missing = unknown_layers(rows)
    unknown_ms = sum(row.time_ms or 0.0 for row in missing)
    times_ms = sum(row.time_ms or 0.0 for row in layers)
    # What is missing in the sum is no part of it: then the share is that of the whole.
    sum_mj = whole.gross_mj if missing else closure.gross_mj
    return {
        "closure": {
            "gross": _ratio(closure.gross_mj, whole.gross_mj),
            "dynamic": _ratio(closure.dynamic_mj, whole.dynamic_mj),
            "interval_gross": None,
            "interval_dynamic": None,
            "held_out": None,
            "other_rule": None,
            **own,
            "missing_layers": len(missing),
            "time_share": _ratio(times_ms - unknown_ms, times_ms) if missing else 1.0,
        },
        "resolved_layers": sum(row.resolved is True for row in judged) if judged else None,
        "layers": len(layers),
        "resolved_share": _ratio(resolved_mj, sum_mj) if judged else None,
        "facts": {key: value for key, value in facts.items() if key != "closure"},
    }


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole
