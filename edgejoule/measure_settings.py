"""What a run's configuration comes to for the processes that measure. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgejoule.config import RunConfig
from edgejoule.energy_methods import DEFAULT_OBSERVER_S
from edgejoule.power.acquire import Attribution

_SHORTEST_SEGMENT_S, _LONGEST_SEGMENT_S = 0.3, 1.0
_REFRESHES, _SLOW_NS = 50, 100_000_000


def attribution_rate(config: RunConfig) -> Attribution | None:
    """Return the attribution rate of the profiled pass, None where nothing needs it."""
    if "window" not in methods_of(config):
        return None
    return Attribution(phases=("profiled",), seed=config.seed)


def methods_of(config: RunConfig) -> tuple[str, ...]:
    """Return the methods of attribution beside `proportional`."""
    return tuple(config.energy.split(",")) if config.energy else ()


def _segment_s(ready: dict[str, Any] | None) -> float:
    """Return how long one segment of the replay pass lasts.

    A counter that ticks ten times a second needs a second for its edges to weigh little, a chip
    that renews its value every 6.6 ms a third of that.
    """
    refresh_ns = (ready or {}).get("refresh_ns") or _SLOW_NS
    return float(min(_LONGEST_SEGMENT_S, max(_SHORTEST_SEGMENT_S, _REFRESHES * refresh_ns * 1e-9)))


def keep_off_cpu(config: RunConfig, sampler_cpu: int | None) -> int | None:
    """Return the CPU that the measuring process leaves to the sampler, None if it needs them all.

    A network that runs on the GPU, or on fewer threads than there are CPUs, loses nothing by it.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    spare = config.device.startswith("cuda") or 0 < config.threads < cpus
    return sampler_cpu if spare else None


def measure_settings(
    config: RunConfig, directory: Path, ready: dict[str, Any] | None
) -> dict[str, Any]:
    """Return what the measuring process is told.

    Args:
        config: The run's configuration.
        directory: Its working directory.
        ready: What the sampler said when it was ready, None without a sensor.
    """
    return {
        "directory": str(directory),
        "backend": config.backend,
        "options": {
            "dtype": config.dtype,
            "device": config.device,
            "threads": config.threads,
            "seed": config.seed,
            "extra": config.extra,
            "memory_limit_gib": config.memory_limit_gib,
        },
        "warmup": config.warmup,
        "runs": config.runs,
        "clean_runs": config.clean_runs,
        "clean_min_s": config.clean_seconds,
        "clean_max_runs": 2000,
        "precision_percent": config.precision_percent,
        "rate_hz": config.rate_hz,
        "rate_s": 10.0,
        "idle_duration_s": config.idle_duration_s,
        "keep_off_cpu": keep_off_cpu(config, (ready or {}).get("cpu")),
        "replay_segment_s": _segment_s(ready),
        "seed": config.seed,
        # Where phases of inferences and refreshes could lock, the waits between them are drawn.
        "dither": "window" in methods_of(config),
        "replay_budget_s": config.replay_budget_s,
        "check_attribution": config.check_attribution,
        "observer_s": DEFAULT_OBSERVER_S if config.observer_s is None else config.observer_s,
    }
