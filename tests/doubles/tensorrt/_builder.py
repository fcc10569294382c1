"""The building half of the double: what a version's builder has, refuses and logs.

Texts that are logged are those of `tensorrt_rtx` 1.5 or, for what that lacks, of reports of
TensorRT 8 and 10. Nothing is fused, and nothing is timed but by name.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from typing import Any

from . import _flags
from ._base import (
    Base,
    Dims,
    IGpuAllocator,
    ILogger,
    ProfilingVerbosity,
    call_override,
    log_error,
    log_warning,
    require,
)
from ._flags import BuilderFlag, MemoryPoolType
from ._network import INetworkDefinition, ITensor, Strict
from ._plan import make_plan
from ._state import SLOW, VERSION, VERSION_TEXT


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[Dims, Dims, Dims]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        shapes = tuple(Dims(one) for one in (min, opt, max))
        if any(not a <= b <= c for a, b, c in zip(*shapes, strict=True)):
            raise ValueError("Shape provided for max is inconsistent with other shapes.")
        self._shapes[input] = shapes  # type: ignore[assignment]

    def get_shape(self, input: str) -> list[Dims]:  # noqa: A002
        return list(self._shapes.get(input, ()))


class IHostMemory(bytes):
    @property
    def nbytes(self) -> int:
        return len(self)


class ITimingCache:
    """A header that must fit, and what was timed."""

    def __init__(self, content: dict[str, Any] | None = None) -> None:
        self._content = content or {
            "version": VERSION_TEXT,
            "gpu": _flags.BEHAVIOUR.gpu,
            "timed": [],
        }

    def serialize(self) -> IHostMemory:
        return IHostMemory(json.dumps(self._content).encode())


class IBuilderConfig(Strict):
    _attributes = (
        "profiling_verbosity",
        "max_aux_streams",
        "builder_optimization_level",
        *(("progress_monitor",) if VERSION >= (9, 0) else ()),
        *(("int8_calibrator",) if VERSION < (11, 0) else ()),
    )

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._set = {BuilderFlag.TF32}
        self._pools: dict[Any, int] = {}
        self._profiles: list[IOptimizationProfile] = []
        self._calibration_profile: Any = None
        self._timing: ITimingCache | None = None
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.max_aux_streams = 4
        self.builder_optimization_level = 3
        for name in ("progress_monitor", "int8_calibrator"):
            if name in self._attributes:
                setattr(self, name, None)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "progress_monitor" and value is not None:
            require(value, IProgressMonitor)
        if name == "int8_calibrator" and value is not None:
            require(value, IInt8EntropyCalibrator2)
        super().__setattr__(name, value)

    def set_flag(self, flag: Any) -> None:
        self._set.add(BuilderFlag(flag))

    def clear_flag(self, flag: Any) -> None:
        self._set.discard(BuilderFlag(flag))

    def get_flag(self, flag: Any) -> bool:
        return flag in self._set

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[MemoryPoolType(pool)] = int(pool_size)

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._pools.get(pool, 2**40)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        if _flags.BEHAVIOUR.no_timing_cache:
            return None
        if not serialized_timing_cache:
            return ITimingCache()
        try:
            content = json.loads(bytes(serialized_timing_cache))
        except ValueError:
            log_error(self._logger, "Error Code 1: Serialization (Timing cache magic tag mismatch)")
            return None
        return ITimingCache(content)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        wanted = (VERSION_TEXT, _flags.BEHAVIOUR.gpu)
        if (cache._content["version"], cache._content["gpu"]) != wanted and not ignore_mismatch:
            log_error(self._logger, "Error Code 4: API Usage Error (timing cache header mismatch)")
            return False
        self._timing = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._timing


if VERSION < (11, 0):

    def _set_calibration_profile(self: IBuilderConfig, profile: IOptimizationProfile) -> bool:
        self._calibration_profile = profile
        return True

    IBuilderConfig.set_calibration_profile = _set_calibration_profile  # type: ignore[attr-defined]


class IProgressMonitor(Base):
    pass


class IInt8EntropyCalibrator2(Base):
    pass


class Builder(Strict):
    _attributes = ("gpu_allocator", "max_threads")

    def __init__(self, logger: Any) -> None:
        require(logger, ILogger)
        self._logger = logger
        self.max_threads = 1
        self.gpu_allocator = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "gpu_allocator" and value is not None:
            require(value, IGpuAllocator)
        super().__setattr__(name, value)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._logger)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        asked = _flags.BEHAVIOUR
        workspace = config.get_memory_pool_limit(MemoryPoolType.WORKSPACE)
        _flags.BUILT.append(
            {
                "strong": network.strong,
                "flags": sorted(flag.name for flag in config._set),
                "workspace": workspace,
                "level": config.builder_optimization_level,
                "verbosity": config.profiling_verbosity.name,
                "aux_streams": config.max_aux_streams,
                "profiles": [profile._shapes for profile in config._profiles],
                "calibration_profile": config._calibration_profile is not None,
                "allocator": self.gpu_allocator,
            }
        )
        if asked.warn_with:
            log_warning(self._logger, asked.warn_with)
        if asked.raises is not None:
            raise asked.raises
        if asked.fail_with:
            return self._fail(asked.fail_with)
        if (why := _refused(network, config)) is not None:
            return self._fail(why)
        if not self._calibrate(network, config):
            return None
        if not self._progress(config, len(network._layers)):
            return self._fail(
                "IBuilder::buildSerializedNetwork: Error Code 7: BuildCanceled (Build canceled by "
                "user)"
            )
        level = config.builder_optimization_level
        too_big = asked.fits_workspace is not None and workspace > asked.fits_workspace
        too_hard = asked.fits_level is not None and level > asked.fits_level
        if too_big or too_hard or not self._allocate(asked.allocates):
            return self._fail(f"Error Code 2: OutOfMemory (Requested size was {workspace} bytes.)")
        if config._timing is not None and level > 0:
            timed = config._timing._content["timed"]
            timed += [layer.name for layer in network._layers if layer.name not in timed]
        return IHostMemory(_plan(network, config))

    def _fail(self, text: str) -> None:
        log_error(self._logger, text)

    def _allocate(self, size: int) -> bool:
        if not size or self.gpu_allocator is None:
            return True
        if VERSION >= (10, 0):
            address = call_override(
                self.gpu_allocator, IGpuAllocator, "allocate_async", size, 256, 0, 0
            )
            if address:
                call_override(self.gpu_allocator, IGpuAllocator, "deallocate_async", address, 0)
        else:
            address = call_override(self.gpu_allocator, IGpuAllocator, "allocate", size, 256, 0)
            if address:
                call_override(self.gpu_allocator, IGpuAllocator, "deallocate", address)
        return bool(address)

    def _progress(self, config: IBuilderConfig, layers: int) -> bool:
        monitor = getattr(config, "progress_monitor", None)
        phase = "Building engine"
        if monitor is None:
            if _flags.BEHAVIOUR.interrupt_at is not None:
                os.kill(os.getpid(), signal.SIGINT)
            return True
        monitor.phase_start(phase, None, layers)
        going = True
        for step in range(layers):
            if step == _flags.BEHAVIOUR.interrupt_at:
                os.kill(os.getpid(), signal.SIGINT)
            going = bool(call_override(monitor, IProgressMonitor, "step_complete", phase, step))
            if not going:
                break
        monitor.phase_finish(phase)
        return going

    def _calibrate(self, network: INetworkDefinition, config: IBuilderConfig) -> bool:
        calibrator = getattr(config, "int8_calibrator", None)
        if calibrator is None:
            return True
        if calibrator.read_calibration_cache() is not None:
            return True
        names = [tensor.name for tensor in network._inputs]
        digest, sets = hashlib.sha256(), 0
        while addresses := calibrator.get_batch(names):
            if len(addresses) != len(names):
                return False
            digest.update(repr((names, len(addresses))).encode())
            sets += 1
        if not sets:
            log_error(
                self._logger, "Calibration failure occurred with no scaling factors detected."
            )
            return False
        table = f"TRT-{VERSION_TEXT}-EntropyCalibration2 {sets} {digest.hexdigest()}"
        calibrator.write_calibration_cache(memoryview(table.encode()))
        return True


def _refused(network: INetworkDefinition, config: IBuilderConfig) -> str | None:
    """Return what a real builder says to this network and configuration, None if it builds."""
    set_flags = {flag.name for flag in config._set}
    precision = set_flags & {"FP16", "INT8", "BF16", "FP8"}
    if network.strong and precision:
        return (
            f"Error Code 4: API Usage Error (k{sorted(precision)[0]} is set, which is not allowed "
            "for strongly typed networks)"
        )
    kinds = [layer._kind for layer in network._layers]
    quantised = "QuantizeLinear" in kinds
    calibrator = getattr(config, "int8_calibrator", None)
    if not network.strong and quantised and "INT8" not in precision:
        return "Error Code 4: API Usage Error (Networks with Q/DQ need BuilderFlag::kINT8)"
    if not network.strong and "INT8" in precision and not quantised and calibrator is None:
        return "Error Code 4: API Usage Error (Int8 calibrator is not set and no scales are given)"
    if network.strong:
        for layer in network._layers:
            found = {tensor.dtype.name for tensor in layer._inputs} & {"FLOAT", "HALF", "BF16"}
            if len(found) > 1:
                return f"Error Code 4: API Usage Error ({layer.name}: types {sorted(found)} differ)"
    dynamic = [tensor for tensor in network._inputs if -1 in tensor.shape]
    if dynamic and not config._profiles:
        return (
            "Error Code 4: Internal Error (Network has dynamic or shape inputs, but no "
            "optimization profile has been defined.)"
        )
    for tensor in dynamic:
        if tensor.name not in config._profiles[0]._shapes:
            return f"Error Code 4: {tensor.name}: dynamic input is missing dimensions in profile 0."
    return None


def _plan(network: INetworkDefinition, config: IBuilderConfig) -> bytes:
    set_flags = {flag.name for flag in config._set}
    shapes = config._profiles[0]._shapes if config._profiles else {}
    batch = {name: ranges[1][0] for name, ranges in shapes.items()}
    opt = next(iter(batch.values()), 1)

    def tensor(one: ITensor) -> dict[str, Any]:
        dtype = one.dtype.name
        if not network.strong and dtype == "FLOAT" and "FP16" in set_flags:
            dtype = "HALF"
        dims = [opt if dim == -1 else dim for dim in one.shape]
        return {"Name": one.name, "Dimensions": dims, **_typed(dtype)}

    layers = []
    for position, layer in enumerate(network._layers):
        details = {
            "Inputs": [tensor(one) for one in layer._inputs],
            "Outputs": [tensor(one) for one in layer._outputs],
            "TacticValue": f"0x{position:016x}",
            "StreamId": 0,
            "Metadata": layer.metadata,
        }
        layers.append(
            {"name": layer.name, "type": layer._kind, "ms": 0.01 * (1 + position % 7)}
            | {"details": details}
        )

    def binding(one: ITensor) -> dict[str, Any]:
        return {"name": one.name, "shape": list(one.shape), "dtype": one.dtype.name}

    return make_plan(
        layers=layers,
        inputs=[binding(one) for one in network._inputs],
        outputs=[{**binding(one), "scale": 1.0, "offset": 0.0} for one in network._outputs],
        verbosity=config.profiling_verbosity.name,
        aux_streams=config.max_aux_streams,
        sleep=SLOW,
        profiles=[
            {name: [list(shape) for shape in ranges] for name, ranges in profile._shapes.items()}
            for profile in config._profiles
        ],
    )


def _typed(dtype: str) -> dict[str, str]:
    """Return a tensor's type as the inspector has it: in one key with its layout, from 11 apart."""
    spelled = {"FLOAT": "FP32", "HALF": "FP16", "INT8": "Int8"}.get(dtype, dtype)
    if VERSION >= (11, 0):
        return {"Format": "Row major linear format", "DataType": spelled}
    return {"Format/Datatype": f"Row major linear {spelled} format"}


def names(version: tuple[int, ...] = VERSION) -> dict[str, Any]:
    """Return what this version's module has of all this."""
    from . import _network

    own = (Builder, IBuilderConfig, IHostMemory, IOptimizationProfile, ITimingCache)
    found: dict[str, Any] = {one.__name__: one for one in own}
    for name in ("BuilderFlag", "NetworkDefinitionCreationFlag", "MemoryPoolType"):
        found[name] = getattr(_flags, name)
    for name in ("OnnxParserFlag", "ErrorCode"):
        found[name] = getattr(_flags, name)
    for name in ("INetworkDefinition", "ILayer", "ITensor", "OnnxParser", "ParserError"):
        found[name] = getattr(_network, name)
    if version >= (9, 0):
        found["IProgressMonitor"] = IProgressMonitor
    if version < (11, 0):
        found["IInt8EntropyCalibrator2"] = IInt8EntropyCalibrator2
    return found
