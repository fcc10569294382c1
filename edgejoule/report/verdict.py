"""What speaks against a run: `sound`, `look` or `broken`, with the reasons. Pure functions.

    broken   incomplete, failed, a part is missing or cannot be read
    look     it is whole, and something is known that a figure of it should not be used without
    sound    nothing that was looked at speaks against it

Where the measurement itself has remarked something (`summary.notes`), the reason is that note, word
for word, so that whoever shows both can leave one out. What was not looked at speaks neither for
nor against: a run without a sensor may be sound.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edgejoule.report.attribution import WORDS, MethodFigures, duplication, method_figures
from edgejoule.report.energies import best_of
from edgejoule.report.tables import RunTables, number, part, texts
from edgejoule.report.text import percent

if TYPE_CHECKING:
    from edgejoule.report.overview import Overview, Verdict

# What a mean may be unsure by, the sampler late, a closure off, before a reader must know.
STEADY_SHARE = 0.05
LATE_SHARE = 0.05
GAP_SHARE = 0.01
LONG_GAP_NS = 1_000_000_000
FAILED_SHARE = 0.001
CLOSURE_OFF = 0.10
PROFILER_RATIO = 1.5
OBSERVER_PERCENT = 2.0
UNTESTED = ("proportional", "interval")
_MEASURING = ("clean", "rate", "profiled", "replay")
# Notes of the measuring side that a figure should not be used without; the others inform.
_WEIGHTY = re.compile(
    r"the clean latency is unstable|one clean inference is no statistic|baseline \w+ \w+ is "
    r"|between the \w+ baselines before and after: |the \w+ pass lasted .* its energy is hardly "
    r"|the dataset's calibration|no energy by "
)
_WORDS = {"not_idle": "not idle", "drifting": "drifting"}


def verdict_of(run: RunTables, figures: Overview) -> tuple[Verdict, tuple[str, ...]]:
    """Return the verdict on a run and why, one sentence each.

    Args:
        run: The run; with its series also throttling is looked at.
        figures: Its overview, without a verdict.
    """
    broken = list(dict.fromkeys(_broken(run)))
    reasons = [*broken]
    for look in _LOOKS:
        reasons += [reason for reason in look(run, figures) if reason not in reasons]
    if broken:
        return "broken", tuple(reasons)
    return ("look" if reasons else "sound"), tuple(reasons)


def _broken(run: RunTables) -> Iterator[str]:
    status = run.run.get("status", "complete")
    if status == "failed":
        yield "the run failed: a check of the measurement itself"
    elif status != "complete":
        yield f"the run is {status}"
    for text in (*run.missing, *run.series.missing):
        yield f"missing: {text}"
    if not part(run.summary, "clean") and not part(run.run, "imported"):
        yield "no clean pass was recorded: there is no latency without the profiler"


def _imported(run: RunTables, _: Overview) -> Iterator[str]:
    if part(run.run, "imported") and not part(run.summary, "clean"):
        yield "an imported run without a clean pass: its latency and energy are with the profiler"


def _notes(run: RunTables, _: Overview) -> Iterator[str]:
    """What the measurement has remarked itself."""
    about = str(part(run.run, "accuracy").get("note") or "")
    yield from (note for note in run.notes if _WEIGHTY.match(note) or note == about)


def _noted(run: RunTables, start: str) -> bool:
    return any(note.startswith(start) for note in run.notes)


def _warmup(run: RunTables, _: Overview) -> Iterator[str]:
    warmup = part(run.summary, "warmup")
    if warmup.get("steady") is False:
        count = number(warmup, "inferences")
        after = "" if count is None else f" after {count:.0f} inferences"
        why = f": {warmup['reason']}" if warmup.get("reason") else ""
        yield f"the warm-up ended unsteady{after}{why}"


def _latency(run: RunTables, figures: Overview) -> Iterator[str]:
    mean, half = figures.mean_ms, figures.mean_half_ms
    told = _noted(run, "the clean latency is unstable")
    if not told and mean and half is not None and half > STEADY_SHARE * mean:
        share = percent(half / mean)
        yield f"the clean latency is unstable: its mean is known within {share} % only"
    ratio = figures.profiled_over_clean
    if ratio is not None and ratio > PROFILER_RATIO:
        yield (
            f"the layer profiler slows the network down: its pass takes {ratio:.2f} times the "
            "clean one, so times of layers hold much that is the profiler's"
        )


def _baselines(run: RunTables, _: Overview) -> Iterator[str]:
    if _noted(run, "baseline "):
        return
    for item in baselines_of(run):
        for verdict in item.get("verdicts") or ():
            if isinstance(verdict, Mapping) and verdict.get("why"):
                kind = _WORDS.get(str(verdict.get("kind")), str(verdict.get("kind")))
                where = f"{item.get('kind')} {item.get('when')}"
                yield f"baseline {where} is {kind}: {verdict['why']}"


def baselines_of(run: RunTables) -> list[Mapping[str, Any]]:
    """Return the entries of `idle.json` that can be read."""
    found = run.idle.get("baselines") if isinstance(run.idle, Mapping) else run.idle
    entries = found if isinstance(found, list) else []
    return [
        {**item, "verdicts": item["verdicts"] if isinstance(item.get("verdicts"), list) else []}
        for item in entries
        if isinstance(item, Mapping)
    ]


def _shared(run: RunTables, _: Overview) -> Iterator[str]:
    if run.run.get("shared_gpu"):
        seen, looks = (number(part(run.run, "sharing"), key) for key in ("foreign_looks", "looks"))
        often = f" (seen in {seen:.0f} of {looks:.0f} looks)" if seen and looks else ""
        yield f"somebody else used the GPU during the run{often}"


def _throttling(run: RunTables, _: Overview) -> Iterator[str]:
    """Clocks that were held down while the network ran; without the series, while it idled."""
    import numpy as np

    spans = [(one.start_s, one.end_s) for one in run.series.spans if one.phase in _MEASURING]
    for one in run.series.conditions:
        if one.kind != "throttling":
            continue
        inside = np.isfinite(one.values)
        if spans:
            inside &= np.any([(one.t_s >= a) & (one.t_s <= b) for a, b in spans], axis=0)
        values = one.values[inside]
        if one.unit == "events" and len(values) and values[-1] > values[0]:
            yield f"{one.name} rose by {values[-1] - values[0]:.0f} while the network ran"
        elif one.unit != "events" and (values > 0).any():
            yield (
                f"clocks were held down ({one.name}) in {np.count_nonzero(values > 0)} of "
                f"{len(values)} looks while the network ran"
            )
    if not run.series.conditions:
        for item in baselines_of(run):
            for name, count in part(item, "conditions", "throttled").items():
                yield (
                    f"clocks were held down during the baseline {item.get('kind')} "
                    f"{item.get('when')}: {name}, {count}"
                )


def _sampler(run: RunTables, _: Overview) -> Iterator[str]:
    said = part(run.summary, "sampler")
    sweeps = number(said, "sweeps")
    if sweeps:
        late, gaps = number(said, "late_deadlines") or 0.0, number(said, "gaps") or 0.0
        if late > LATE_SHARE * sweeps:
            yield f"{percent(late / sweeps)} % of the sampler's {sweeps:.0f} sweeps began late"
        longest = number(said, "largest_gap_ns") or 0.0
        if gaps > GAP_SHARE * sweeps or longest > LONG_GAP_NS:
            yield (
                f"the trace of power has {gaps:.0f} gaps in {sweeps:.0f} sweeps, the longest of "
                f"{longest * 1e-9:.3g} s"
            )
    errors = part(said, "errors")
    counts = {name: count for name in errors if (count := number(errors, name))}
    failed, reads = sum(counts.values()), number(said, "reads")
    if reads and failed > FAILED_SHARE * reads:
        yield f"{failed:.0f} of {reads:.0f} reads of the sensor failed ({', '.join(counts)})"


def _energy(run: RunTables, figures: Overview) -> Iterator[str]:
    sensor = part(run.run, "sensor").get("name", "none")
    figured = part(run.summary, "energy")
    if sensor == "none" or part(run.run, "imported"):
        return
    if not part(figured, "clean") and not part(figured, "rails"):
        why = figured.get("why")
        yield f"there is no energy although a sensor was read{f': {why}' if why else ''}"
    elif figures.gross_mj is None and not _noted(run, "this board's total is not known"):
        yield "no rail stands for the whole run: energy is known per rail only"
    elif figures.dynamic_mj is None and figures.gross_mj is not None:
        yield "there is no loaded baseline, so no energy above idle"


def best_figures(run: RunTables) -> MethodFigures | None:
    """Return what the best method of a run comes to, None where it could miss nothing.

    A split in proportion to time adds up by construction, so that its closure says nothing.
    """
    best = best_of(run.rollups)
    if best is None or best.method in UNTESTED:
        return None
    found = method_figures(run)
    return next((one for one in found if (one.method, one.rail) == (best.method, best.rail)), None)


def _closure(run: RunTables, _: Overview) -> Iterator[str]:
    found = best_figures(run)
    if found is None:
        return
    by = WORDS.get(found.method, found.method)
    if found.missing:
        share = found.time_share
        covered = "" if share is None else f"; it covers {percent(share)} % of the layers' time"
        yield f"{by} has no figure for {found.missing} of {found.layers} layers{covered}"
        return
    # On what was not fitted, where there is such a figure: a fit reproduces its own total.
    gross = found.gross if found.held_out.value is None else found.held_out
    if gross.value is not None and abs(gross.value - 1) > CLOSURE_OFF:
        whole = f"{percent(gross.value)} % of the inference measured apart"
        yield f"layers and gap add up to {whole} ({by})"
    dynamic = found.dynamic.value
    if dynamic is None or abs(dynamic - 1) <= CLOSURE_OFF:
        return
    low, high = found.dynamic.interval or (dynamic, dynamic)
    if low > 1 + CLOSURE_OFF or high < 1 - CLOSURE_OFF:
        yield f"above idle, layers and gap add up to {percent(dynamic)} % of the inference ({by})"


def _checks(run: RunTables, figures: Overview) -> Iterator[str]:
    checked = duplication(run)
    outliers = sum(one.outlier for one in checked)
    if outliers:
        slope = figures.duplication_slope
        median = "" if slope is None else f"; the median over all of them is {percent(slope)} %"
        yield (
            f"the duplication check contradicts the energy of {outliers} of {len(checked)} layers"
            f"{median}"
        )
    sampler = part(run.summary, "energy", "observer", "sampler")
    effect = number(sampler, "latency_percent")
    if sampler.get("resolved") is True and effect is not None and abs(effect) > OBSERVER_PERCENT:
        yield f"the sampler itself changes the latency by {effect:+.1f} %"


def _outputs(run: RunTables, _: Overview) -> Iterator[str]:
    accuracy = part(run.run, "accuracy")
    note = accuracy.get("note")
    if note and str(note) not in run.notes:
        yield str(note)
    elif not note and (lost := number(accuracy, "not_finite")):
        yield f"{lost:.0f} values of the outputs are NaN or infinite"
    if part(run.summary, "outputs").get("finite") is False and not number(accuracy, "not_finite"):
        yield "outputs hold NaN or infinite values"


def _memory(run: RunTables, figures: Overview) -> Iterator[str]:
    limit = part(run.summary, "memory", "limit")
    limit_mib = figures.memory_limit_mib
    if limit_mib is None:
        return
    violations, samples = number(limit, "violations"), number(limit, "samples")
    if limit.get("peak_above") is True and figures.memory_mib is not None:
        yield f"memory reached {figures.memory_mib:.0f} MiB, above its limit of {limit_mib:.0f} MiB"
    elif violations:
        of = "" if samples is None else f" of {samples:.0f}"
        yield f"memory was above its limit of {limit_mib:.0f} MiB in {violations:.0f}{of} samples"


_LOOKS: tuple[Callable[[RunTables, Overview], Iterator[str]], ...] = (
    *(_imported, _notes, _warmup, _latency, _baselines, _shared, _throttling, _sampler, _energy),
    *(_closure, _checks, _outputs, _memory),
)


def unsaid_notes(run: RunTables, reasons: tuple[str, ...]) -> tuple[str, ...]:
    """Return the notes of a run that are not among the reasons already."""
    return tuple(note for note in texts(run.summary.get("notes")) if note not in reasons)
