"""What pybind11 gives TensorRT's classes: enumerations, bases that must be initialised, Dims."""

from __future__ import annotations

import sys
import types
from enum import IntEnum
from typing import Any

from ._state import VERSION


def enum(name: str, members: str) -> Any:
    return IntEnum(name, members, start=0)


class Base:
    """A class to derive from, whose own `__init__` has to be called (pybind11 insists)."""

    def __init__(self) -> None:
        self._initialised = True


def require(thing: Any, kind: type) -> None:
    if not isinstance(thing, kind):
        raise TypeError(f"incompatible function arguments: {type(thing).__name__}")
    if not getattr(thing, "_initialised", False):
        raise TypeError(f"{kind.__name__}.__init__() must be called when overriding __init__")


def call_override(thing: Any, owner: type, name: str, *arguments: Any) -> Any:
    """Call a Python override as the trampolines do: what it raises is printed and forgotten."""
    try:
        override = getattr(thing, name)
        inherited = getattr(type(thing), name, None) is getattr(owner, name, None)
        if isinstance(override, types.BuiltinFunctionType) or inherited:
            raise RuntimeError(f'Tried to call pure virtual function "{owner.__name__}::{name}"')
        return override(*arguments)
    except Exception as error:  # noqa: BLE001 (as the C++ does)
        print(f"[ERROR] Exception caught in {name}(): {error}", file=sys.stderr)
        return None


Severity = enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")


class ILogger(Base):
    Severity = Severity
    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING
    INFO = Severity.INFO
    VERBOSE = Severity.VERBOSE

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class Logger(ILogger):
    def __init__(self, min_severity: Any = Severity.WARNING) -> None:
        super().__init__()
        self.min_severity = min_severity

    def log(self, severity: Any, msg: str) -> None:
        if severity <= self.min_severity:
            print(f"[TRT] [{severity.name[0]}] {msg}")


def log_error(logger: Any, text: str) -> None:
    call_override(logger, ILogger, "log", Severity.ERROR, text)


def log_warning(logger: Any, text: str) -> None:
    call_override(logger, ILogger, "log", Severity.WARNING, text)


class IProfiler(Base):
    def report_layer_time(self, layer_name: str, ms: float) -> None:
        """Call the override, as the binding of the C++ virtual function does."""
        call_override(self, IProfiler, "report_layer_time", layer_name, ms)


class Profiler(IProfiler):
    def report_layer_time(self, layer_name: str, ms: float) -> None:
        print(f"{layer_name}: {ms}ms")


class IGpuAllocator(Base):
    def allocate(self, size: int, alignment: int, flags: int) -> int:
        raise NotImplementedError

    def deallocate(self, memory: int) -> bool:
        raise NotImplementedError

    def reallocate(self, address: int, alignment: int, new_size: int) -> int:
        raise NotImplementedError

    if VERSION >= (10, 0):

        def allocate_async(self, size: int, alignment: int, flags: int, stream: int) -> int:
            raise NotImplementedError

        def deallocate_async(self, memory: int, stream: int) -> bool:
            raise NotImplementedError


class IOutputAllocator(Base):
    def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
        raise NotImplementedError

    def notify_shape(self, tensor_name: str, shape: Any) -> None:
        raise NotImplementedError


class Dims(tuple):
    """Sizes of a tensor; also a tuple in the real one, for what it is used for."""

    MAX_DIMS = 8

    __slots__ = ()


_TYPES = "FLOAT HALF INT8 INT32 BOOL UINT8 FP8"
if VERSION >= (10, 0):
    _TYPES += " BF16 INT64 INT4"
if VERSION >= (10, 8):
    _TYPES += " FP4"
DataType = enum("DataType", _TYPES)
TensorIOMode = enum("TensorIOMode", "NONE INPUT OUTPUT")
TensorLocation = enum("TensorLocation", "DEVICE HOST")
TensorFormat = enum("TensorFormat", "LINEAR CHW2 HWC8 CHW4 CHW16 CHW32")
ProfilingVerbosity = enum("ProfilingVerbosity", "LAYER_NAMES_ONLY DETAILED NONE")
LayerInformationFormat = enum("LayerInformationFormat", "ONELINE JSON")
