"""How far a mean holds: within a process, over processes, over builds of the engine. Numpy.

    build 0            build 1                 value = mean + build + process + what blocks show
      process  process   process  process
       blocks   blocks    blocks   blocks

An interval from one process knows nothing of what changes from process to process (memory layout,
clocks, temperature), one from one build nothing of what changes from build to build (which kernels
were chosen). So the interval is Student's t over the highest level that was repeated, with the
degrees of freedom of that level: two builds have one, and their interval is wide because two builds
say little. It is never narrower than those of the levels below (within a process: blocks of all
processes, degrees of freedom after Satterthwaite, Biometrics Bulletin 2, 1946).

The parts of the variance are those of the nested analysis of variance by its expected mean squares,
not below 0 (Searle, Casella, McCulloch, "Variance Components", 1992).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgejoule.energy.statistics import line_through, t95
from edgejoule.errors import MeasurementError

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

STABLE_RSD = 0.01
STABLE, UNSTABLE, UNKNOWN = "stable", "unstable", "unknown"


@dataclass(frozen=True)
class RunValue:
    """What one process gave.

    Attributes:
        value: Its mean.
        standard_error: Of that mean from its blocks, None: not known.
        blocks: How many blocks are behind it.
        build: Which build of the engine it ran.
        drift_rel: By what share of the mean it changed from begin to end, None: not told from 0.
    """

    value: float
    standard_error: float | None
    blocks: int
    build: int = 0
    drift_rel: float | None = None


@dataclass(frozen=True)
class Hierarchy:
    """A mean over runs, and how sure it is.

    Attributes:
        mean: Of the builds' means, each the mean of its processes.
        half_width: Of its 95 % interval at the highest level that was repeated; None: nothing was.
        degrees_of_freedom: Of that interval.
        scope: What it holds for, in words.
        of_these_builds: Half-width for the builds that were measured and no others; None unless
            several builds and processes of one build were measured.
        processes: How many runs.
        builds: How many builds.
        rsd: Relative standard deviation over the runs, None below two.
        build_rsd: Part of it that is of builds, as a relative standard deviation; None: not
            repeated.
        process_rsd: Part of processes beyond what their blocks explain; None: not repeated.
        within_rsd: What the blocks of a run make its mean uncertain by.
        verdict: `stable` up to 1 % relative standard deviation, `unstable` above, `unknown` for a
            single run.
        why: The reason of the verdict, in words.
    """

    mean: float
    half_width: float | None
    degrees_of_freedom: float
    scope: str
    of_these_builds: float | None
    processes: int
    builds: int
    rsd: float | None
    build_rsd: float | None
    process_rsd: float | None
    within_rsd: float | None
    verdict: str
    why: str


def run_value(blocks: Floats, build: int = 0) -> RunValue:
    """Summarise a process by the means of its successive blocks of time."""
    count = len(blocks)
    if count == 0:
        raise MeasurementError("a run without a value cannot be summed up")
    mean = float(np.mean(blocks))
    error = float(np.std(blocks, ddof=1)) / math.sqrt(count) if count > 1 else None
    line = line_through(np.asarray(blocks, np.float64))
    drift = None
    if line is not None and line.half_width is not None and mean:
        drift = line.change / mean if abs(line.change) > line.half_width else None
    return RunValue(mean, error, count, build, drift)


def over_runs(runs: Sequence[RunValue]) -> Hierarchy:
    """Say how far the mean of runs of one experiment holds, and whether they agree.

    Args:
        runs: One per process.

    Raises:
        MeasurementError: There is none.
    """
    if not runs:
        raise MeasurementError("there is no run to sum up")
    values = np.array([run.value for run in runs])
    builds = sorted({run.build for run in runs})
    groups = [values[[run.build == build for run in runs]] for build in builds]
    sizes = np.array([len(group) for group in groups])
    means = np.array([group.mean() for group in groups])
    mean = float(means.mean())

    within = _within(runs, groups, builds)
    spare = len(runs) - len(builds)
    among = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    process_variance = among / spare if spare else None
    of_processes: tuple[float, float] | None = None
    if process_variance is not None:
        variance = process_variance * float(np.sum(1.0 / sizes)) / len(builds) ** 2
        of_processes = (math.sqrt(variance), spare)
    build_variance = float(np.var(means, ddof=1)) if len(builds) > 1 else None
    of_builds = (
        None
        if build_variance is None
        else (math.sqrt(build_variance / len(builds)), len(builds) - 1)
    )

    highest = of_builds or of_processes or within
    levels = [level for level in (of_builds, of_processes, within) if level is not None]
    halves = [_t(freedom) * error for error, freedom in levels]
    explained = _mean_square([run.standard_error for run in runs])
    process = None
    if process_variance is not None:
        process = max(0.0, process_variance - (explained or 0.0))
    build = None
    if build_variance is not None:
        below = process_variance if process_variance is not None else explained or 0.0
        build = max(0.0, build_variance - below * float(np.mean(1.0 / sizes)))
    rsd = float(np.std(values, ddof=1)) / abs(mean) if len(runs) > 1 and mean else None
    parts = {
        "builds": _relative(build, mean),
        "processes": _relative(process, mean),
        "blocks": _relative(explained, mean),
    }
    verdict, why = _verdict(rsd, parts, runs, bool(spare))
    return Hierarchy(
        mean=mean,
        half_width=max(halves) if halves else None,
        degrees_of_freedom=highest[1] if highest else 0.0,
        scope=scope_of(len(runs), len(builds)),
        of_these_builds=None if of_builds is None or of_processes is None else max(halves[1:]),
        processes=len(runs),
        builds=len(builds),
        rsd=rsd,
        build_rsd=parts["builds"],
        process_rsd=parts["processes"],
        within_rsd=parts["blocks"],
        verdict=verdict,
        why=why,
    )


def scope_of(processes: int, builds: int) -> str:
    """Return what an interval over so many processes and builds holds for, in words."""
    if processes <= 1:
        return "within this process"
    if builds <= 1:
        return f"over {processes} processes"
    return f"over {processes} processes and {builds} builds"


def _within(
    runs: Sequence[RunValue], groups: Sequence[Floats], builds: Sequence[int]
) -> tuple[float, float] | None:
    """Return the standard error that blocks alone give the mean, and Satterthwaite's freedom."""
    parts = []
    for run in runs:
        if run.standard_error is None:
            return None
        size = len(groups[builds.index(run.build)])
        parts.append(((run.standard_error / (size * len(builds))) ** 2, run.blocks - 1))
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / spread if spread else float(sum(count for _, count in parts))
    return math.sqrt(variance), freedom


def _t(degrees_of_freedom: float) -> float:
    """Return Student's t, between whole degrees of freedom by the one below."""
    return t95(max(1, math.floor(degrees_of_freedom + 1e-9)))


def _mean_square(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    return float(np.mean(np.square(known))) if len(known) == len(errors) else None


def _relative(variance: float | None, mean: float) -> float | None:
    return None if variance is None or not mean else math.sqrt(variance) / abs(mean)


def _verdict(
    rsd: float | None,
    parts: dict[str, float | None],
    runs: Sequence[RunValue],
    repeated: bool,
) -> tuple[str, str]:
    """Return the verdict on runs and its reason; `parts`: relative deviation by its origin."""
    if rsd is None:
        return UNKNOWN, "a single run says nothing of the next: repeat it in fresh processes"
    over = scope_of(len(runs), len({run.build for run in runs})).removeprefix("over ")
    told = f"{over} differ by {_percent(rsd)} (relative standard deviation)"
    if rsd <= STABLE_RSD:
        return STABLE, told
    known = {name: part for name, part in parts.items() if part is not None}
    largest = max(known, key=lambda name: known[name]) if known else ""
    blocks = parts["blocks"]
    beyond = "" if blocks is None else f", beyond the {_percent(blocks)} that their blocks explain"
    if largest == "builds" and not repeated:
        reason = f"builds or processes differ{beyond}: one process per build does not say which"
    elif largest == "builds":
        reason = f"builds differ by {_percent(known[largest])}, more than processes of one build"
    elif largest == "processes":
        reason = f"processes differ by {_percent(known[largest])}{beyond}"
    elif largest == "blocks":
        reason = (
            f"what varies within a process explains it ({_percent(known[largest])}): a longer pass "
            "would tell more"
        )
    else:
        reason = "there is nothing to say why"
    drifts = [run.drift_rel for run in runs if run.drift_rel is not None]
    if drifts and max(map(abs, drifts)) > STABLE_RSD:
        reason += (
            f"; {len(drifts)} of them drift within, by up to {_percent(max(map(abs, drifts)))}"
        )
    return UNSTABLE, f"{told}: {reason}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
