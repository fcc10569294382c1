"""How long a run and an experiment will go on: pure arithmetic on what is known so far.

    run         what is left of this phase + the phases after it + what each repeat after it takes
    experiment  the run + the networks after it (the campaign hands that number down)

A phase lasts what was asked for (idle, clean by time, budgets), or the number of inferences times
the latency: measured now, else of an earlier run of the same model in the dataset. Where neither is
known the answer is None, never a guess.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ENVIRONMENT = "EDGEJOULE_OUTLOOK"
CLOSING = "closing"

# The phases of a run in order, as people see them: what alternates with another counts to it.
PHASE_TITLES = {
    "setup": "set-up",
    "idle_before": "idle before",
    "load": "loading",
    "idle_loaded_before": "idle, loaded",
    "warmup": "warm-up",
    "clean": "clean pass",
    "rate": "rate pass",
    "observed": "observer pass",
    "profiled": "profiled pass",
    "replay": "replay pass",
    "idle_loaded_after": "idle, loaded, after",
    "unload": "unloading",
    "cooldown": "cool-down",
    "idle_after": "idle after",
}
_PART_OF = {"unsampled": "observed"}

# What is assumed where nothing is known: seconds, and profiled over clean latency.
_LOAD_S, _WARMUP_S, _UNLOAD_S, _CLOSING_S = 2.0, 3.0, 1.0, 5.0
_PROFILED_OVER_CLEAN = 1.2
# The waits between profiled inferences that the window regression asks for, on average.
_WAIT_SHARE, _LONGEST_WAIT_S = 0.125, 1.5e-3
_OBSERVER_S, _OBSERVER_SHARE = 8.0, 0.25
_RATE_S = 10.0


@dataclass(frozen=True)
class Past:
    """An earlier run of the same model.

    Attributes:
        phases_s: Seconds spent in each phase.
        clean_ms: Median latency of its clean pass.
        profiled_ms: Median latency of its profiled pass.
    """

    phases_s: Mapping[str, float]
    clean_ms: float
    profiled_ms: float


@dataclass(frozen=True)
class Whole:
    """What a campaign tells the command that measures one of its networks.

    Attributes:
        position: Which network this is, from 1.
        count: Of how many.
        network_s: How long it takes by the campaign's estimate, None: not estimated.
        rest_s: How long the networks after it take, None: not known.
    """

    position: int
    count: int
    network_s: float | None = None
    rest_s: float | None = None

    def to_environment(self) -> dict[str, str]:
        """Return the variable that tells it; it is no part of a run's configuration."""
        return {ENVIRONMENT: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Whole | None:
        """Return what a campaign told, None without one or where it makes no sense."""
        try:
            plain = json.loads(environment.get(ENVIRONMENT, ""))
            whole = cls(
                int(plain["position"]),
                int(plain["count"]),
                _seconds(plain.get("network_s")),
                _seconds(plain.get("rest_s")),
            )
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
            return None
        return whole if 1 <= whole.position <= whole.count else None


@dataclass(frozen=True)
class Announced:
    """What the measuring process said of a pass before it began: how many, and how long."""

    inferences: int | None
    seconds: float


@dataclass(frozen=True)
class Asked:
    """What of a run's configuration says how long it takes.

    Attributes:
        config: As `RunConfig.to_json` gives it.
        has_setup: Whether it builds; else it takes over a finished set-up.
        runs_after: How many repeats come after this run.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    has_setup: bool = True
    runs_after: int = 0


def part_of(phase: str, before: str) -> str:
    """Return the phase that a mark counts to: `harvest` belongs to what it interrupts."""
    if phase == "harvest":
        return before if before in ("observed", "profiled", "replay") else "profiled"
    return _PART_OF.get(phase, phase)


def past_run(dataset: Path, config: Mapping[str, Any]) -> Past | None:
    """Return the newest earlier run of the same model and backend, None without one.

    Args:
        dataset: Its folder.
        config: The configuration of the run that is to come.
    """
    newest, found = "", None
    for path in sorted(dataset.glob("[!.]*/run.json")):
        try:
            run = json.loads(path.read_bytes())
            then, summary = run["config"], run["summary"]
            alike = all(then[name] == config[name] for name in ("model", "backend", "dtype"))
            started = str(run["started_at"])
            if run["status"] != "complete" or not alike or started < newest:
                continue
            found = Past(
                phase_seconds(run["phases"]),
                float(summary["clean"]["median_ms"]),
                float(summary["profiled"]["median_ms"]),
            )
            newest = started
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue  # a damaged neighbour must not cost a measurement
    return found


def phase_seconds(spans: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the seconds spent in each phase, what interrupts one counted to it."""
    found: dict[str, float] = {}
    before = ""
    for span in spans:
        before = part_of(str(span["phase"]), before)
        if span["end_ns"] is not None:
            found[before] = found.get(before, 0.0) + (span["end_ns"] - span["start_ns"]) * 1e-9
    return found


def expected_phases(
    asked: Asked,
    past: Past | None = None,
    latency_ms: float | None = None,
    announced: Mapping[str, Announced] | None = None,
) -> dict[str, float | None]:
    """Return the phases of a run in order, with how many seconds each is expected to take.

    Args:
        asked: What is to be measured.
        past: An earlier run of the model.
        latency_ms: What an inference was seen to take in this run, None: nothing was seen yet.
        announced: What the measuring process said of its passes so far.

    Returns:
        Seconds by phase, from `setup` or `idle_before` to `closing`; None: not known.
    """
    config = asked.config
    then = {} if past is None else past.phases_s
    idle_s = float(config.get("idle_duration_s") or 0.0)
    if latency_ms is None and past is not None:
        latency_ms = past.clean_ms
    clean_s = _times(config.get("clean_runs"), latency_ms)
    if config.get("clean_runs") is None:
        clean_s = float(config.get("clean_seconds") or 0.0)
    ratio = _PROFILED_OVER_CLEAN
    if past is not None and past.clean_ms > 0:
        ratio = past.profiled_ms / past.clean_ms
    profiled_s = None
    if latency_ms is not None:
        one_s = latency_ms * ratio * 1e-3
        if "window" in str(config.get("energy") or ""):
            one_s += min(_WAIT_SHARE * one_s, _LONGEST_WAIT_S)
        profiled_s = int(config.get("runs") or 0) * one_s
    found: dict[str, float | None] = {"setup": then.get("setup")} if asked.has_setup else {}
    found |= {
        "idle_before": idle_s,
        "load": then.get("load", _LOAD_S),
        "idle_loaded_before": idle_s,
        "warmup": max(
            then.get("warmup", _WARMUP_S), _times(config.get("warmup"), latency_ms) or 0.0
        ),
        "clean": clean_s,
    }
    if config.get("rate_hz"):
        found["rate"] = _RATE_S
    observer_s = config.get("observer_s")
    observer_s = _OBSERVER_S if observer_s is None else float(observer_s)
    if observer_s > 0:
        found["observed"] = min(observer_s, _OBSERVER_SHARE * (clean_s or 0.0))
    found["profiled"] = profiled_s
    if config.get("replay_budget_s"):
        twice = 1 if config.get("check_attribution") is None else 2
        found["replay"] = twice * float(config["replay_budget_s"])
    found |= {
        "idle_loaded_after": idle_s,
        "unload": then.get("unload", _UNLOAD_S),
        "cooldown": then.get("cooldown", idle_s),
        "idle_after": idle_s,
        CLOSING: _CLOSING_S,
    }
    for name, said in (announced or {}).items():
        # The warm-up promises nothing; a count of inferences is worth more with a latency.
        if name in found and said.seconds > 0 and (said.inferences is None or found[name] is None):
            found[name] = said.seconds
    return found


def phase_left_s(
    spent_s: float,
    expected_s: float | None,
    done: int = 0,
    total: int | None = None,
    rate_hz: float | None = None,
) -> float | None:
    """Return what is left of a phase, None where it is not known; never negative.

    Args:
        spent_s: How long it lasts already.
        expected_s: How long it was expected to take.
        done: Inferences done.
        total: Out of how many, None or 0: not known.
        rate_hz: How many a second.
    """
    if total and rate_hz and rate_hz > 0:
        return max(0.0, (total - done) / rate_hz)
    return None if expected_s is None else max(0.0, expected_s - max(0.0, spent_s))


def run_left_s(
    expected: Mapping[str, float | None], phase: str, left_s: float | None
) -> float | None:
    """Return what is left of a run, None where a phase to come is not known; never negative.

    Args:
        expected: As `expected_phases` gave it.
        phase: The phase that holds; one that is not expected is taken for the one before all.
        left_s: What is left of it, None: not known.
    """
    names = list(expected)
    later = names[names.index(phase) + 1 :] if phase in expected else names
    parts = [left_s if phase in expected else (left_s or 0.0), *(expected[one] for one in later)]
    return _sum(parts)


def network_left_s(
    asked: Asked, expected: Mapping[str, float | None], left_s: float | None
) -> float | None:
    """Return what is left of a network: of this run, and of the repeats after it.

    Args:
        asked: What is measured.
        expected: As `expected_phases` gave it.
        left_s: What is left of this run, None: not known.
    """
    if not asked.runs_after:
        return left_s
    again = _sum([seconds for name, seconds in expected.items() if name != "setup"])
    return None if again is None else _sum([left_s, asked.runs_after * again])


def whole_left_s(whole: Whole | None, network_s: float | None) -> float | None:
    """Return what is left of the experiment; None without one, or where it is not known."""
    if whole is None:
        return None
    return network_s if whole.position == whole.count else _sum([network_s, whole.rest_s])


def rest_s(
    expected: Sequence[float | None], finished: Sequence[tuple[float | None, float]]
) -> float | None:
    """Return how long the networks to come take, None where it is not known.

    Args:
        expected: The estimate of each of them; 0 where a run is there already.
        finished: Estimate and real length of each that was measured so far: where all were longer
            than estimated, so will be the rest.
    """
    if not expected:
        return 0.0
    known = [(guess, took) for guess, took in finished if guess is not None and guess > 0]
    guessed = sum(guess for guess, _ in known)
    scale = sum(took for _, took in known) / guessed if guessed > 0 else 1.0
    took = [took for _, took in finished]
    usual = sum(took) / len(took) if took else None
    return _sum([usual if one is None else max(0.0, one) * scale for one in expected])


def _times(count: Any, latency_ms: float | None) -> float | None:
    return None if count is None or latency_ms is None else int(count) * latency_ms * 1e-3


def _sum(parts: Iterable[float | None]) -> float | None:
    total = 0.0
    for part in parts:
        if part is None:
            return None
        total += max(0.0, part)
    return total


def _seconds(value: Any) -> float | None:
    """Return a finite number from 0 or None."""
    if value is None:
        return None
    seconds = float(value)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(value)
    return seconds
