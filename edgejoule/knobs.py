"""The knobs of the default experiment: environment variables in, a frozen `Knobs` out.

Every bad value is found here, before anything starts. An empty variable counts as not set, as
`docker run -e NAME=` leaves it. Standard library only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from edgejoule.errors import UsageError
from edgejoule.inference.backend import DTYPES

Push = Literal["each", "end", "later", "off"]
TOKEN = "DAGSHUB_USER_TOKEN"  # noqa: S105 (the variable's name)
DEFAULT_REPOSITORY = "edgejoule-raw-data"
DEFAULT_RUNS = 30000
# A run's own four baselines; the long one of IDLE_DURATION is taken once, before the first network.
RUN_IDLE_S = 5.0
CLEAN_S = 30.0

DEMO = {
    "RUNS": "100",
    "CLEAN_SECONDS": "8",
    "WARMUP": "20",
    "IDLE_DURATION": "3",
    "WEIGHTS": "random",
    "BACKEND": "onnxruntime",
    "SENSOR": "simulated",
    "RESULT_DIR": "demo_data",
    "PUSH": "off",
}


@dataclass(frozen=True)
class Knobs:
    """What the default experiment is told.

    Attributes:
        models: Networks in order; empty means the project's own list.
        runs: Profiled inferences per network.
        clean_runs: Clean inferences, None for those of `clean_seconds`.
        clean_seconds: Length of the clean pass without `clean_runs`.
        warmup: Least warm-up inferences.
        dtype: `auto` or a dtype.
        batch: Batch size.
        idle_duration_s: Length of the cold baseline.
        result_dir: The dataset's folder.
        backend: `auto` or a backend.
        sensor: `auto`, `none`, a sensor or several with commas between.
        weights: `pretrained` or `random`.
        optimization_level: TensorRT's, None for its default.
        min_block_size: Torch-TensorRT's, None for its default.
        repeats: Runs per network.
        push: When finished networks are pushed.
        owner: DagsHub owner, None for the token's user.
        repository: DagsHub repository.
        message: Commit message, None for one that names the runs.
        create_repository: Whether a missing repository may be created.
        yes: Whether to go on without asking.
        token: Whether there is a token; the token itself is kept nowhere.
        wait_idle: How long to wait for an idle GPU before each network (`10m`), None: not at all.
        input: What networks are fed: a kind of generated values, or a folder.
        calibration: What int8 and fp8 are calibrated with, None for other dtypes.
        memory_limit_gib: What a measured process may take of the device's memory, None: no limit.
        cuda_graphs: Whether the clean pass replays a CUDA graph.
        energy: `auto`, or methods of attribution with commas between.
        replay_budget_s: Longest replay pass of a network, None: the default.
        check_attribution: Layers of the duplication check, None: no check.
    """

    models: tuple[str, ...] = ()
    runs: int = DEFAULT_RUNS
    clean_runs: int | None = None
    clean_seconds: float = CLEAN_S
    warmup: int = 50
    dtype: str = "auto"
    batch: int = 1
    idle_duration_s: float = 120.0
    result_dir: Path = Path("raw_data")
    backend: str = "auto"
    sensor: str = "auto"
    weights: str = "pretrained"
    optimization_level: int | None = None
    min_block_size: int | None = None
    repeats: int = 1
    push: Push = "off"
    owner: str | None = None
    repository: str = DEFAULT_REPOSITORY
    message: str | None = None
    create_repository: bool = False
    yes: bool = False
    token: bool = False
    wait_idle: str | None = None
    input: str | None = None
    calibration: str | None = None
    memory_limit_gib: float | None = None
    cuda_graphs: bool = False
    energy: str = "auto"
    replay_budget_s: float | None = None
    check_attribution: int | None = None

    @property
    def run_idle_s(self) -> float:
        """Length of each of a run's own baselines, in seconds."""
        return min(self.idle_duration_s, RUN_IDLE_S)


def read_knobs(environment: Mapping[str, str], *, demo: bool = False) -> Knobs:
    """Read the knobs; with `demo` its values stand for what is not set.

    Raises:
        UsageError: A value that cannot be meant; names the knob and what it takes.
    """
    values = dict(DEMO) if demo else {}
    values |= {name: text.strip() for name, text in environment.items() if text.strip()}

    def get(name: str) -> str | None:
        return values.get(name)

    def count(name: str, default: int, least: int = 1) -> int:
        text = get(name)
        return default if text is None else _count(name, text, least)

    def optional_count(name: str, least: int = 1) -> int | None:
        text = get(name)
        return None if text is None else _count(name, text, least)

    def choice(name: str, default: str, allowed: tuple[str, ...]) -> str:
        text = get(name) or default
        if text not in allowed:
            raise UsageError(f"{name}={text!r} is not known", f"give one of {', '.join(allowed)}")
        return text

    token = bool(get(TOKEN))
    push: Push = "each" if token else "off"
    wanted = choice("PUSH", push, ("each", "end", "later", "off"))
    if wanted in ("each", "end") and not token:
        raise UsageError(f"PUSH={wanted} needs a token", f"set {TOKEN}, or PUSH=later or PUSH=off")
    models = tuple(filter(None, re.split(r"[,\s]+", get("MODELS") or "")))
    if get("MODELS") and not models:
        raise UsageError(f"MODELS={get('MODELS')!r} names no network", "leave it out for all")
    limit = get("MEMORY_LIMIT_GIB")
    budget = get("REPLAY_BUDGET")
    return Knobs(
        models=tuple(dict.fromkeys(models)),
        runs=count("RUNS", DEFAULT_RUNS),
        clean_runs=optional_count("CLEAN_RUNS"),
        clean_seconds=_above_zero(
            "CLEAN_SECONDS", get("CLEAN_SECONDS") or f"{CLEAN_S:g}", "seconds"
        ),
        warmup=count("WARMUP", 50, least=0),
        dtype=_calibrated(choice("DTYPE", "auto", ("auto", *DTYPES)), get("CALIBRATION")),
        batch=count("BATCH", 1),
        idle_duration_s=_above_zero("IDLE_DURATION", get("IDLE_DURATION") or "120", "seconds"),
        result_dir=Path(get("RESULT_DIR") or "raw_data"),
        backend=get("BACKEND") or "auto",
        sensor=get("SENSOR") or "auto",
        weights=choice("WEIGHTS", "pretrained", ("pretrained", "random")),
        optimization_level=optional_count("OPTIMIZATION_LEVEL", least=0),
        min_block_size=optional_count("MIN_BLOCK_SIZE"),
        repeats=count("REPEATS", 1),
        push=cast("Push", wanted),
        owner=get("DAGSHUB_OWNER"),
        repository=get("DAGSHUB_REPO_NAME") or DEFAULT_REPOSITORY,
        message=get("COMMIT_MESSAGE"),
        create_repository=_flag("CREATE_REPO", get("CREATE_REPO")),
        yes=_flag("YES", get("YES")),
        token=token,
        wait_idle=_duration("WAIT_IDLE", get("WAIT_IDLE")),
        input=get("INPUT"),
        calibration=get("CALIBRATION"),
        memory_limit_gib=None if limit is None else _above_zero("MEMORY_LIMIT_GIB", limit, "GiB"),
        cuda_graphs=_flag("CUDA_GRAPHS", get("CUDA_GRAPHS")),
        energy=get("ENERGY") or "auto",
        replay_budget_s=None if budget is None else _above_zero("REPLAY_BUDGET", budget, "seconds"),
        check_attribution=optional_count("CHECK_ATTRIBUTION"),
    )


def _calibrated(dtype: str, calibration: str | None) -> str:
    """Refuse int8 and fp8 without calibration data, and data that nothing would use."""
    if dtype in ("int8", "fp8") and calibration is None:
        raise UsageError(
            f"DTYPE={dtype} needs CALIBRATION", "give a folder of images the network is meant for"
        )
    if calibration is not None and dtype not in ("int8", "fp8"):
        raise UsageError(f"CALIBRATION is for int8 and fp8, DTYPE is {dtype}", "leave it out")
    return dtype


def _count(name: str, text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise UsageError(f"{name}={text!r} is no whole number", f"give {least} or more") from None
    if value < least:
        raise UsageError(f"{name}={value} is too small", f"give {least} or more")
    return value


def _above_zero(name: str, text: str, unit: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"{name}={text!r} is no number", f"give {unit} above 0") from None
    if not 0 < value < math.inf:
        raise UsageError(f"{name}={text} cannot be meant", f"give {unit} above 0")
    return value


def _duration(name: str, text: str | None) -> str | None:
    from edgejoule.power.gpu_sharing import parse_duration

    if text is None:
        return None
    try:
        parse_duration(text)
    except UsageError as error:
        raise UsageError(f"{name}={text!r}: {error.message}", error.mend) from None
    return text


def _flag(name: str, text: str | None) -> bool:
    if text is None or text.lower() in ("0", "no", "false", "off"):
        return False
    if text.lower() in ("1", "yes", "true", "on"):
        return True
    raise UsageError(f"{name}={text!r} is neither 1 nor 0", f"give {name}=1 or leave it out")
