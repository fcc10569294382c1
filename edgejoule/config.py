"""The configuration of a run, its identity and its name.

`RunConfig` holds everything that changes the measurement; `identity_sha256` is over all of it, so
two runs with the same hash are repeats of the same experiment and nothing else. Where the result
goes and how talkative the command is stand elsewhere. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from edgejoule.errors import UsageError

SCHEMA_VERSION = 5  # docs/DatasetFormats.md has the history; 1 to 4 are still read
# What only some backends know: key of `RunConfig.extra` -> flag of measure_inference_power.py.
BACKEND_FLAGS = {
    "optimization_level": "--optimization-level",
    "min_block_size": "--min-block-size",
    "require_full_compilation": "--require-full-compilation",
    "shape_min": "--shape-min",
    "shape_max": "--shape-max",
    "cuda_graphs": "--cuda-graphs",
    "allow_fallback": "--allow-fallback",
}
_ADDED = (
    "engine", "calibration", "calibration_sha256", "memory_limit_gib",
    "energy", "replay_budget_s", "check_attribution", "observer_s",
)  # fmt: skip
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")


@dataclass(frozen=True)
class RunConfig:
    """One model measured once under one configuration.

    Attributes:
        model: As asked: zoo name or file.
        backend: Resolved backend, never `auto`.
        dtype: Resolved dtype, never `auto`.
        device: `cpu` or `cuda:<index>`.
        input_shape: Shape of the first input; None is the model's own.
        input: `normal`, `uniform`, `zeros`, a folder or a `.npy` file.
        input_sha256: Hash of the user's input files, None for generated ones.
        weights: `pretrained` or `random`.
        model_sha256: Hash of the user's model file, None for a zoo name.
        seed: Seeds weights, inputs and orders.
        warmup: Least number of warm-up inferences.
        runs: Profiled inferences.
        clean_runs: Clean inferences; None is automatic: `clean_seconds`, and on, up to 2000
            inferences or 300 s, until the asked precision is reached.
        clean_seconds: Least length of an automatic clean pass.
        precision_percent: Wanted half-width of the clean latency's 95 % interval, or None.
        rate_hz: Rate of the rate pass, or None for no such pass.
        idle_duration_s: Length of each baseline of this run.
        sensor: Resolved sensor name, or `none`.
        threads: CPU threads, 0 for the runtime's default.
        repeat: Which repeat, from 1; 0 where only one was asked.
        rebuild: Which build of the engine, from 0.
        mode: Power mode of the board, or None.
        board: Board id, or None.
        extra: Backend's own options.
        engine: The engine file that is measured in place of a model that is built, as asked; its
            hash is `model_sha256`.
        calibration: What int8 and fp8 are calibrated with; None for other dtypes.
        calibration_sha256: Hash of the user's calibration files.
        memory_limit_gib: What the measured process may take of the device's memory, or None.
        energy: Methods of attribution beside `proportional`, resolved, joined by commas as in
            `replay,window`; None: no other.
        replay_budget_s: Longest replay pass; None where there is none.
        check_attribution: How many layers the duplication check takes; None: no such check.
        observer_s: Longest time spent on what sampler and profiler cost; None: the default.
    """

    model: str
    backend: str
    dtype: str
    device: str = "cpu"
    input_shape: tuple[int, ...] | None = None
    input: str = "normal"
    input_sha256: str | None = None
    weights: str = "pretrained"
    model_sha256: str | None = None
    seed: int = 0
    warmup: int = 50
    runs: int = 1000
    clean_runs: int | None = None
    clean_seconds: float = 30.0
    precision_percent: float | None = None
    rate_hz: float | None = None
    idle_duration_s: float = 5.0
    sensor: str = "none"
    threads: int = 0
    repeat: int = 0
    rebuild: int = 0
    mode: str | None = None
    board: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    engine: str | None = None
    calibration: str | None = None
    calibration_sha256: str | None = None
    memory_limit_gib: float | None = None
    energy: str | None = None
    replay_budget_s: float | None = None
    check_attribution: int | None = None
    observer_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values, the shape as a list, without unused knobs added since format 3.

        So a run that uses none of them keeps the identity that older versions gave it.
        """
        plain = asdict(self)
        plain["input_shape"] = None if self.input_shape is None else list(self.input_shape)
        return {k: v for k, v in plain.items() if k not in _ADDED or v is not None}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> RunConfig:
        """Rebuild a configuration that `to_json` wrote."""
        shape = plain.get("input_shape")
        return cls(**{**plain, "input_shape": None if shape is None else tuple(shape)})


def identity_sha256(config: RunConfig) -> str:
    """Return the SHA-256 of the configuration as canonical JSON."""
    text = json.dumps(config.to_json(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def build_sha256(config: RunConfig) -> str:
    """Return the SHA-256 over what changes the built engine and the inputs, nothing else."""
    names = (
        "model", "model_sha256", "weights", "seed", "input_shape", "input", "input_sha256",
        "backend", "dtype", "device", "threads", "rebuild", "extra", "engine", "calibration",
        "calibration_sha256", "memory_limit_gib",
    )  # fmt: skip
    plain = config.to_json()
    text = json.dumps({name: plain[name] for name in names if name in plain}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Name the knobs in which two configurations differ, as `runs (200 there, 100 asked)`."""
    names = sorted(old.keys() | new.keys())
    return [
        f"{name} ({old.get(name)!r} there, {new.get(name)!r} asked)"
        for name in names
        if old.get(name) != new.get(name)
    ]


def defaults_of(config: RunConfig) -> dict[str, Any]:
    """Return what a dataset takes as its defaults when this is its first run."""
    return {
        "backend": config.backend,
        "dtype": config.dtype,
        "batch": config.input_shape[0] if config.input_shape else 1,
        "mode": config.mode,
        "board": config.board,
    }


def run_name(model_name: str, config: RunConfig, defaults: dict[str, Any]) -> str:
    """Return the name of a run: the model's, with what differs from the dataset's defaults.

    `resnet18`, `resnet18--torch-float32-b1`, `resnet18--torch-float32-b8-MAXN-r2`.
    Resume, repeats and sweeps use this one function.
    """
    own = defaults_of(config)
    suffix = ""
    if any(own[key] != defaults.get(key, own[key]) for key in ("backend", "dtype", "batch")):
        suffix = f"{own['backend']}-{own['dtype']}-b{own['batch']}"
    for key in ("mode", "board"):
        if own[key] and own[key] != defaults.get(key, own[key]):
            suffix += f"-{slug(own[key])}"
    if config.repeat:
        suffix += f"-r{config.repeat}"
    return check_name(f"{model_name}--{suffix.strip('-')}" if suffix else model_name)


def slug(text: str) -> str:
    """Return text with everything but letters, digits, `_` and `.` turned into `_`."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("_") or "unnamed"


def check_name(name: str) -> str:
    """Return `name` if a run directory may be called so.

    Raises:
        UsageError: It is empty, too long, hidden, or would leave the dataset's folder.
    """
    if not _NAME.match(name) or len(name) > 120:
        raise UsageError(
            f"{name!r} cannot name a run",
            "use up to 120 letters, digits, '_', '-', '.', starting with a letter or digit",
        )
    return name
