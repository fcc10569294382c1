"""One plan from one ONNX file, with what was really applied, and again smaller if memory ends.

The builder is told what layer timing needs: `profiling_verbosity = DETAILED` (names and attributes
of every layer in the inspector), `max_aux_streams = 0` (layers of one stream do not overlap, so
that their times add up; developer guide, "Within-Inference Multi-Streaming"). The module `tensorrt`
is a parameter, so that a double or `tensorrt_rtx` can stand in its place.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgejoule.errors import EdgejouleError, MeasurementError, UsageError
from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.common import short
from edgejoule.inference.trt.common import check_level, device_index
from edgejoule.inference.trt.cuda_types import CudaDevice, CudaOutOfMemory
from edgejoule.inference.trt.network import check_types, parse_network, set_profile
from edgejoule.inference.trt.precision import Typing, check_dtype, typing_of
from edgejoule.inference.trt.progress import ends_on_interrupt, make_monitor
from edgejoule.inference.trt.timing_cache import TimingCache, cache_path
from edgejoule.inference.workload import InputSpec

OPTIONS = ("optimization_level", "cuda_graphs", "allow_fallback", "shape_min", "shape_max")

MIB = 2**20
LEAST_WORKSPACE = 64 * MIB
# Of the memory limit, or without one of the device's memory: the rest is for weights, activations
# and, where host and device share it, the process itself. TensorRT's own default is all of it.
_SHARE_OF_LIMIT = 0.5
_SHARE_OF_DEVICE = 0.5
_SHARE_OF_BOARD = 0.25

# What TensorRT 8.6 to 11 logs when memory ends: `Error Code 2: OutOfMemory`, the allocator's
# "Requested amount of GPU memory (n bytes) could not be allocated", the skipped tactic's
# "insufficient memory on requested size of n", CUDA's own words.
OUT_OF_MEMORY = re.compile(
    r"out ?of ?memory|OUT_OF_MEMORY|could not be allocated|insufficient memory|bad_alloc"
    r"|MemoryAllocation",
    re.IGNORECASE,
)
_NO_IMPLEMENTATION = re.compile(r"[Cc]ould not find any implementation for node ([^\s,]+)")


@dataclass(frozen=True)
class Built:
    """A plan and how it came about.

    Attributes:
        plan: Its bytes.
        facts: What was applied, for the engine's settings.
        attempts: Every try in order: workspace, level, seconds, result, why and what changed.
    """

    plan: bytes
    facts: dict[str, Any]
    attempts: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class _Job:
    """What stays the same from try to try."""

    trt: Any
    log: Any
    onnx_path: Path
    label: str
    options: BuildOptions
    inputs: Sequence[InputSpec]
    typing: Typing
    explicit: bool
    calibrator: Any
    allocator: Any
    monitor: Any
    timings: TimingCache
    adjust: Callable[[Any, Any], None] | None = None


@dataclass(frozen=True)
class Try:
    """What one try is given; `changed` says what differs from the one before."""

    workspace: int | None
    level: int | None
    changed: str = ""


class _NoMemory(Exception):  # noqa: N818 (no error of the project: the next try answers it)
    """Memory ended during a build; the text is what TensorRT said."""


def check_options(options: BuildOptions) -> None:
    """Refuse options that this backend does not have, or not with these values.

    Raises:
        UsageError: With what there is.
    """
    given = {key: value for key, value in options.extra.items() if value is not None}
    if "min_block_size" in given:
        raise UsageError(
            "backend tensorrt has no option 'min_block_size': a graph is built whole, into one "
            "engine",
            "leave it out, or use --backend torch-tensorrt, which has it",
        )
    unknown = sorted(set(given) - set(OPTIONS))
    if unknown:
        raise UsageError(
            f"backend tensorrt has no option {unknown[0]!r}", f"it has {', '.join(OPTIONS)}"
        )
    check_level(given.get("optimization_level"))
    limit = options.memory_limit_gib
    if limit is not None and limit <= 0:
        raise UsageError(f"a memory limit of {limit} GiB leaves no memory", "give more than 0")


def build_plan(
    trt: Any,
    cuda: Any,
    onnx_path: Path,
    options: BuildOptions,
    *,
    log: Any,
    inputs: Sequence[InputSpec],
    explicit: bool = False,
    calibrator: Any = None,
    allocator: Any = None,
    label: str = "",
    say: Callable[[str], None] | None = None,
    adjust: Callable[[Any, Any], None] | None = None,
) -> Built:
    """Build a plan.

    Args:
        trt: The module.
        cuda: Of `load_cuda`, with the device in use; None where there is none (a builder alone).
        onnx_path: The graph, already cast or given Q/DQ where the typing is strong.
        options: Dtype, device, memory limit, options by name, folder of the timing cache.
        log: Of `make_log`.
        inputs: The inputs as they will be measured.
        explicit: Whether the graph carries Q/DQ that was put there for int8 or fp8.
        calibrator: Of `make_calibrator`, for int8 without Q/DQ below TensorRT 10.
        allocator: `trt.IGpuAllocator` that holds the build to the memory limit.
        label: What the graph is called in messages; empty: its path.
        say: Takes the lines of progress; None prints them to stderr.
        adjust: Changes the parsed network (given the module and its definition) before it is built.

    Raises:
        UsageError: An option, the dtype, the graph or a shape cannot be had.
        MeasurementError: TensorRT builds nothing, after every smaller try for want of memory.
        KeyboardInterrupt: Ctrl-C while it built.
    """
    check_options(options)
    device: CudaDevice | None = None if cuda is None else cuda.device(device_index(options.device))
    capability = None if device is None else device.compute_capability
    gpu = "" if device is None else device.name
    check_dtype(trt, options.dtype, capability, gpu or "this GPU")
    typing = typing_of(trt, options.dtype, options.extra.get("allow_fallback"))
    path = None if options.cache is None else cache_path(Path(options.cache), trt.__version__, gpu)
    job = _Job(
        trt, log, onnx_path, label or str(onnx_path), options, inputs, typing, explicit, calibrator,
        allocator, make_monitor(trt, say), TimingCache.load(path), adjust,
    )  # fmt: skip
    attempts: list[dict[str, Any]] = []
    everything = list(tries(workspace_bytes(options, device), _level(options)))
    # The kernel may kill a build before TensorRT can say that memory ended.
    killed = min(options.killed, len(everything) - 1)
    attempts += [
        {**_note(one), "result": "killed", "why": "the kernel ended it for want of memory"}
        for one in everything[:killed]
    ]
    for settings in everything[killed:]:
        started = time.monotonic()
        note = _note(settings)
        attempts.append(note)
        try:
            plan, facts = _build(job, settings)
        except _NoMemory as error:
            note |= {"result": "out of memory", "why": str(error)}
            continue
        finally:
            note["seconds"] = round(time.monotonic() - started, 3)
        note |= {"result": "built", "optimization_level": facts["optimization_level"]}
        job.timings.save()
        facts |= {"timing_cache": job.timings.facts(), "build_attempts": attempts}
        return Built(plan, facts, tuple(attempts))
    raise _gave_up(trt, job.label, attempts)


def _note(settings: Try) -> dict[str, Any]:
    return {
        "workspace_mib": _mib(settings.workspace),
        "optimization_level": settings.level,
        "changed": settings.changed,
    }


def workspace_bytes(options: BuildOptions, device: CudaDevice | None) -> int | None:
    """Return the workspace pool's limit: scratch memory of any one layer.

    Half of the memory limit; without one half of a graphics card's memory, a quarter of a board's
    that host and device share. None, TensorRT's own default, where there is no device to ask.
    """
    if options.memory_limit_gib is not None:
        share = options.memory_limit_gib * 2**30 * _SHARE_OF_LIMIT
    elif device is not None:
        share = device.total_bytes * (_SHARE_OF_BOARD if device.integrated else _SHARE_OF_DEVICE)
    else:
        return None
    return max(LEAST_WORKSPACE, int(share) // MIB * MIB)


def _level(options: BuildOptions) -> int | None:
    return options.extra.get("optimization_level")


def tries(workspace: int | None, level: int | None) -> Iterator[Try]:
    """Yield what to try: the workspace halved down to 64 MiB, then one level lower at a time."""
    current = Try(workspace, level)
    yield current
    while current.workspace is not None and current.workspace > LEAST_WORKSPACE:
        smaller = max(LEAST_WORKSPACE, current.workspace // 2 // MIB * MIB)
        current = Try(smaller, level, f"workspace halved to {smaller // MIB} MiB")
        yield current
    lower = 3 if level is None else level  # 3 is TensorRT's default
    while lower > 0:
        lower -= 1
        current = replace(current, level=lower, changed=f"optimisation level lowered to {lower}")
        yield current


def _build(job: _Job, settings: Try) -> tuple[bytes, dict[str, Any]]:
    """Build once.

    Raises:
        _NoMemory: Memory ended.
    """
    trt, log = job.trt, job.log
    del log.errors[:], log.warnings[:]
    if job.calibrator is not None:
        job.calibrator.restart()
    try:
        builder = trt.Builder(log)
    except (TypeError, RuntimeError) as error:  # the bindings' words for a null pointer
        raise MeasurementError(
            f"TensorRT's builder cannot be created ({log.last_error() or short(error)})",
            "check the NVIDIA driver (nvidia-smi) and that it fits this TensorRT",
        ) from error
    if job.allocator is not None:
        job.allocator.budget.forget()  # of the try before
        builder.gpu_allocator = job.allocator
    # The parser looks plugins up in a registry, which TensorRT's own library of them has to be told
    # to fill, where there is one: InstanceNormalization in 8.6, EfficientNMS_TRT.
    register_plugins = getattr(trt, "init_libnvinfer_plugins", None)
    if register_plugins is not None:
        register_plugins(log, "")
    network = parse_network(trt, builder, job.onnx_path, job.typing, log, job.label)
    check_types(network, job.options.dtype, job.label, explicit=job.explicit)
    if job.adjust is not None:
        job.adjust(trt, network.definition)
    config = builder.create_builder_config()
    applied = _configure(job, config, settings)
    ranges = set_profile(trt, builder, config, network, job.inputs, job.options.extra)
    cache = job.timings.attach(config, log)
    del log.errors[:], log.warnings[:]
    try:
        with ends_on_interrupt(job.monitor):
            plan = builder.build_serialized_network(network.definition, config)
    except (MemoryError, CudaOutOfMemory) as error:
        raise _NoMemory(short(error)) from error
    if job.calibrator is not None and job.calibrator.error is not None:
        if isinstance(job.calibrator.error, CudaOutOfMemory):
            raise _NoMemory(short(job.calibrator.error))
        raise job.calibrator.error
    job.timings.collect(config)
    del cache  # had to live until here
    if plan is None:
        refused = "" if job.allocator is None else job.allocator.budget.why()
        raise _no_plan(trt, job.label, log, refused)
    facts = {
        "typing": job.typing.kind,
        "network_flags": list(job.typing.network_flags),
        "network_dtypes": network.dtypes,
        "precision_constraints": "none",
        **({"not_quantised": job.typing.rest} if job.typing.rest else {}),
        **applied,
        "profiles": [ranges] if ranges else [],
    }
    return bytes(plan), facts


def _configure(job: _Job, config: Any, settings: Try) -> dict[str, Any]:
    """Set the configuration and return what it then says of itself."""
    trt = job.trt
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.max_aux_streams = 0
    if settings.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace)
    if settings.level is not None:
        if not hasattr(config, "builder_optimization_level"):
            raise UsageError(
                f"TensorRT {trt.__version__} has no optimisation levels",
                "leave --optimization-level out",
            )
        config.builder_optimization_level = settings.level
    if job.typing.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    for name in job.typing.builder_flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    if job.calibrator is not None:
        config.int8_calibrator = job.calibrator
    if job.monitor is not None:
        config.progress_monitor = job.monitor
    members = trt.BuilderFlag.__members__
    return {
        "builder_flags": sorted(name for name, flag in members.items() if config.get_flag(flag)),
        "tf32": bool(config.get_flag(trt.BuilderFlag.TF32)),
        "profiling_verbosity": str(config.profiling_verbosity.name),
        "max_aux_streams": int(config.max_aux_streams),
        "workspace_mib": _mib(settings.workspace),
        "optimization_level": getattr(config, "builder_optimization_level", None),
        "progress": job.monitor is not None,
    }


def _no_plan(trt: Any, label: str, log: Any, refused: str = "") -> Exception:
    """Return why a build gave nothing, from what TensorRT logged and its allocator refused."""
    said = [*log.warnings, *log.errors]
    lacking = next((found for line in said if (found := _NO_IMPLEMENTATION.search(line))), None)
    # A tactic that is skipped for want of memory is a warning; one of many, it need not be why a
    # node has none.
    telling = said if lacking is None else log.errors
    memory = [line for line in telling if OUT_OF_MEMORY.search(line)]
    if memory:
        return _NoMemory("; ".join(filter(None, (memory[-1][:300], refused))))
    version = f"TensorRT {trt.__version__}"
    if lacking is not None:
        return MeasurementError(
            f"{version} has no implementation for node {lacking[1]} of {label} "
            f"({'; '.join(filter(None, (log.last_error()[:300], refused)))})",
            "try another --dtype, a larger --memory-limit-gib (less workspace, fewer "
            "implementations), or --backend onnxruntime",
        )
    return MeasurementError(
        f"{version} built no engine from {label} ({log.last_error()[:500] or 'without a word'})",
        "run.log has all that TensorRT said",
    )


def _gave_up(trt: Any, label: str, attempts: Sequence[dict[str, Any]]) -> EdgejouleError:
    tried = ", ".join(
        " ".join(
            filter(
                None,
                (
                    "" if one["workspace_mib"] is None else f"{one['workspace_mib']:g} MiB",
                    ""
                    if one["optimization_level"] is None
                    else f"level {one['optimization_level']}",
                ),
            )
        )
        or "defaults"
        for one in attempts
    )
    return MeasurementError(
        f"TensorRT {trt.__version__} ran out of memory building {label}, also with less "
        f"workspace and effort (tried: {tried}; last: {attempts[-1]['why']})",
        "close what else uses the memory, raise --memory-limit-gib, or choose a smaller "
        "--input-shape",
    )


def _mib(size: int | None) -> float | None:
    return None if size is None else size / MIB
