"""What a command line comes to: `auto` resolved, files hashed, what does not fit refused.

All before the first process of a measurement starts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.config import BACKEND_FLAGS, RunConfig
from edgejoule.describing import described
from edgejoule.errors import UsageError
from edgejoule.files import sha256_of
from edgejoule.power.sensor import Where

if TYPE_CHECKING:
    import argparse

    from edgejoule.inference.workload import ModelFacts
    from edgejoule.power.gpus import Gpu

_QUANTISED = ("int8", "fp8")


def describe_model(loader: str, spec: str) -> ModelFacts:
    """Ask the loader's package what it knows of a model, without a framework or the token.

    Raises:
        UsageError: Unknown model, missing file, or no such package.
    """
    return described(f"{loader.partition(':')[0]}:describe", [spec])[0]


@dataclasses.dataclass(frozen=True)
class Resolved:
    """What a command line comes to, nothing `auto` any more.

    Attributes:
        config: The configuration.
        model: The model's name.
        machine: What `describe_machine` says.
        why: Why backend and sensor were chosen.
        where: Where the sensor is.
    """

    config: RunConfig
    model: str
    machine: dict[str, Any]
    why: dict[str, Any]
    where: Where


def resolve(args: argparse.Namespace) -> Resolved:
    """Resolve what `auto` means.

    Raises:
        UsageError: Something asked for is not here or does not fit.
    """
    from edgejoule.energy_methods import resolve_methods
    from edgejoule.inference.backends import choose_backend, resolve_device, resolve_dtype
    from edgejoule.machine import describe_machine
    from edgejoule.power.sensors import board_channels, choose_sensor

    built_in = None
    if args.engine:
        facts, built_in = engine_facts(args.engine)
    else:
        facts = describe_model(args.loader, args.model)
    asked = "tensorrt" if args.engine and args.backend == "auto" else args.backend
    forms = facts.forms
    if args.weights == "random" and args.input_shape is None:
        forms = tuple(dict.fromkeys((*forms, *facts.random_forms)))
    backend, why_backend = choose_backend(
        asked, forms, "auto" if args.engine else args.dtype, args.device
    )
    gpu = named_gpu(args.device)
    device = resolve_device(backend, args.device if gpu is None else gpu.device)
    if args.engine:
        dtype = engine_dtype(args.engine, args.dtype, built_in)
    else:
        dtype = resolve_dtype(backend, device, args.dtype)
    check_calibration(args, dtype)
    where = Where(args.sysfs_root, gpu_uuid(device, gpu))
    sensor = choose_sensor(args.sensor, where, device)
    # The board's own rails, whichever sensor was asked for: a board keeps its name.
    machine = describe_machine(args.sysfs_root, channels=board_channels(where))
    methods = resolve_methods(
        args.energy, sensor.name, backend.name, args.replay_budget, args.check_attribution
    )
    given = {name: getattr(args, name) for name in BACKEND_FLAGS}
    extra = {name: value for name, value in given.items() if value not in (None, False)}
    for name in extra:
        if name not in backend.options:
            raise UsageError(
                f"the backend {backend.name} knows no {BACKEND_FLAGS[name]}", "leave it out"
            )
    check_saving(args, backend.name)
    if "cuda_graphs" in extra and not device.startswith("cuda"):
        raise UsageError(f"--cuda-graphs: {device} is no NVIDIA GPU", "leave it out")
    config = RunConfig(
        model=str(args.engine) if args.engine else args.model,
        backend=backend.name,
        dtype=dtype,
        device=device,
        input_shape=tuple(args.input_shape) if args.input_shape else facts.input_shape,
        input=args.input,
        input_sha256=hash_of_files(args.input),
        weights=args.weights,
        model_sha256=facts.sha256,
        seed=args.seed,
        warmup=args.warmup,
        runs=args.runs,
        clean_runs=args.clean_runs,
        clean_seconds=args.clean_seconds,
        precision_percent=args.precision,
        rate_hz=args.rate_hz,
        idle_duration_s=args.idle_duration,
        sensor=sensor.name,
        threads=args.threads,
        mode=machine.get("power_mode"),
        board=machine.get("board_id"),
        extra=extra,
        engine=str(args.engine) if args.engine else None,
        calibration=args.calibration,
        calibration_sha256=hash_of_files(args.calibration) if args.calibration else None,
        memory_limit_gib=args.memory_limit_gib,
        energy=methods.energy,
        replay_budget_s=methods.replay_budget_s,
        check_attribution=methods.check_attribution,
        observer_s=args.observer_seconds,
    )
    why = {"backend": list(why_backend), "sensor": sensor.why, "energy": str(methods)}
    return Resolved(config, facts.name, machine, why, where)


def engine_facts(file: Path) -> tuple[ModelFacts, str | None]:
    """Say what an engine file says of itself, without TensorRT, and the dtype it was built in.

    The run is named after the file's name: the model's own name is that of the run that built it.

    Raises:
        UsageError: It cannot be read, or is no engine; says what it is instead.
    """
    from edgejoule.inference.trt.engine_file import read_engine_file
    from edgejoule.inference.workload import ModelFacts

    found = read_engine_file(file)
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "-", file.stem).strip("-.") or "engine"
    shape = None
    if found.facts is not None:
        if name == found.facts.name:
            name += "-engine"
        shape = tuple(found.facts.inputs[0][1]) if found.facts.inputs else None
        if shape is not None and min(shape, default=1) < 0:
            shape = None  # it takes several
    dtype = None if found.facts is None else found.facts.dtype
    return ModelFacts(name, shape, sha256_of(file), ("onnx",)), dtype


def engine_dtype(file: Path, asked: str, built_in: str | None) -> str:
    """Return the dtype of a run with an engine file: what it was built in, not a wish.

    Args:
        file: The engine.
        asked: `--dtype`.
        built_in: What the file says; None if it says nothing, as a plain plan does.

    Raises:
        UsageError: The file says another one than was asked for.
    """
    if built_in is None:
        return "unknown" if asked == "auto" else asked
    if asked not in ("auto", built_in):
        raise UsageError(
            f"--engine {file} was built in {built_in}, --dtype says {asked}", "leave --dtype out"
        )
    return built_in


def check_calibration(args: argparse.Namespace, dtype: str) -> None:
    """Refuse int8 and fp8 without calibration data, and calibration without them.

    Raises:
        UsageError: One is given without the other.
    """
    if args.engine is not None:
        if args.calibration or args.calibration_cache:
            raise UsageError(
                "--calibration: an engine is calibrated when it is built", "leave it out"
            )
    elif dtype in _QUANTISED and args.calibration is None:
        if args.model.lower().endswith(".onnx"):
            return  # it may come quantised; the set-up looks, and refuses one that does not
        raise UsageError(
            f"--dtype {dtype} needs --calibration",
            "give a folder of images of the kind that the network will see",
        )
    elif dtype not in _QUANTISED:
        for flag in ("calibration", "calibration_cache", "allow_fallback"):
            if getattr(args, flag) is not None:
                raise UsageError(
                    f"--{flag.replace('_', '-')} is for int8 and fp8, this run is {dtype}",
                    "leave it out, or give --dtype int8",
                )


def check_saving(args: argparse.Namespace, backend: str) -> None:
    """Refuse `--save-engine` where no engine will be, or where a file would be lost.

    Raises:
        UsageError: The backend builds no single engine, the engine is a file already, or the
            target is there.
    """
    target = args.save_engine
    if target is None:
        return
    if args.engine is not None or backend != "tensorrt":
        what = "--engine is a file already" if args.engine else f"{backend} builds no single engine"
        raise UsageError(f"--save-engine {target}: {what}", "leave it out, or --backend tensorrt")
    if target.exists():
        raise UsageError(f"--save-engine {target} is there already", "give another, or remove it")
    if not target.parent.is_dir():
        raise UsageError(f"--save-engine: there is no folder {target.parent}", "make it first")


def named_gpu(asked: str | None) -> Gpu | None:
    """Return the GPU that `--device` names by UUID or PCI address; None: it names it otherwise."""
    if asked is None or asked == "auto" or re.fullmatch(r"cpu|cuda(:\d+)?|\d+", asked):
        return None
    from edgejoule.power.gpu_choice import find_gpu

    return find_gpu(asked)


def gpu_uuid(device: str, gpu: Gpu | None) -> str | None:
    """Return what NVML calls the GPU that is measured, None for a CPU or a GPU that NVML has not.

    CUDA and NVML count differently, so that an ordinal is turned into a UUID by asking CUDA.
    """
    if not device.startswith("cuda"):
        return None
    if gpu is None:
        from edgejoule.power.gpu_choice import find_gpu

        try:
            gpu = find_gpu(device)
        except UsageError:
            return None  # the framework's own list counts; without a UUID NVML is not used
    return gpu.uuid


def hash_of_files(kind: str) -> str | None:
    """Return the SHA-256 over the names and bytes of `--input`'s files, None for generated input.

    A path that is not there is found out, and said, when the inputs are made.
    """
    path = Path(kind)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    found = False
    for file in files:
        if file.is_file():
            found = True
            digest.update(file.name.encode() + b"\0" + sha256_of(file).encode())
    return digest.hexdigest() if found else None
