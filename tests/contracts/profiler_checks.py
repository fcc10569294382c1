"""This project's profiler and logger as subclasses of a real `IProfiler` and `ILogger`.

`observe(trt)` does what TensorRT does, call the base class's method on the object, and says what
came of it: the call goes from Python into the module's C++, through its virtual table and
trampoline, and back into our override. Run as a script it takes the module's name and prints JSON.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import sys
import threading
import weakref
from typing import Any

from edgejoule.inference.trt.library import make_log, version_of
from edgejoule.inference.trt.recorder import make_recorder


def _report(trt: Any, profiler: Any, name: str, ms: float) -> None:
    trt.IProfiler.report_layer_time(profiler, name, ms)


def _without_init(trt: Any) -> str:
    class Careless(trt.IProfiler):
        def __init__(self) -> None:
            self.seen: list[float] = []

    try:
        Careless()
    except TypeError as error:
        return str(error)
    return ""


def _recorded(trt: Any) -> dict[str, Any]:
    recorder = make_recorder(trt, capacity=6)
    recorder.begin(named=True)
    for name in ("conv", "relu", "conv"):
        _report(trt, recorder, name, 0.5)
    recorder.mark()
    named = recorder.names()
    recorder.begin()
    for ms in (1.0, 2.0, 0.25):
        _report(trt, recorder, "any", ms)
    recorder.mark()
    thread = threading.Thread(target=_report, args=(trt, recorder, "elsewhere", 4.0))
    thread.start()
    thread.join()
    recorder.mark()
    return {
        "names": named,
        "heard_later": recorder.names(),
        "times": list(recorder.times_ms),
        "counts": recorder.counts(),
        "count": recorder.count,
        "overflow": recorder.overflow,
    }


def _overflow(trt: Any) -> dict[str, Any]:
    recorder = make_recorder(trt, capacity=2)
    recorder.begin()
    for ms in (1.0, 2.0, 3.0, 4.0):
        _report(trt, recorder, "any", ms)
    return {
        "count": recorder.count,
        "overflow": recorder.overflow,
        "times": list(recorder.times_ms),
    }


def _outlives(trt: Any) -> bool:
    recorder = make_recorder(trt, capacity=2)
    seen = weakref.ref(recorder)
    del recorder
    gc.collect()
    return seen() is not None


def _logged(trt: Any) -> dict[str, Any]:
    log = make_log(trt)
    severity = trt.ILogger.Severity
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        trt.ILogger.log(log, severity.VERBOSE, "much")
        trt.ILogger.log(log, severity.WARNING, "odd")
        trt.ILogger.log(log, severity.ERROR, "first\nbad")
        trt.ILogger.log(log, severity.INTERNAL_ERROR, "worse")
    return {
        "errors": log.errors,
        "warnings": log.warnings,
        "last": log.last_error(),
        "printed": printed.getvalue().splitlines(),
    }


def observe(trt: Any) -> dict[str, Any]:
    """Return what a module's base classes do with our subclasses."""
    return {
        "version": list(version_of(trt)),
        "recorded": _recorded(trt),
        "overflow": _overflow(trt),
        "without_init": _without_init(trt),
        "outlives": _outlives(trt),
        "logged": _logged(trt),
    }


if __name__ == "__main__":
    print(json.dumps(observe(importlib.import_module(sys.argv[1]))))
