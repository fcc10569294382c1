"""What a layer's time costs to take: our callback beside an empty one and one that formats a stamp.

TensorRT calls `IProfiler.report_layer_time(name, ms)` once per layer per inference; what that costs
is time between two inferences on a GPU that has nothing to do. The callbacks run in turn, round
after round, so that whatever else the machine does meets all of them alike:

    ours       the recorder's: a float into a preallocated array
    empty      a method that does nothing: what calling Python costs at least
    formats    a time stamp as text and a tuple, appended to a list, as simple collectors do

Each call goes through TensorRT's own binding (`IProfiler.report_layer_time` is bound to the C++
virtual function, whose Python override it then looks up, as it does from an inference; no GPU
takes part) if the module `tensorrt` or `tensorrt_rtx` can be imported. If not, the override stands
behind a C function pointer, `void (*)(char const *, float)`, made and called by ctypes; the table
says which it was. TensorRT for RTX does not need a GPU to be imported.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import functools
import gc
import importlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edgejoule.inference.trt.recorder import make_recorder  # noqa: E402

TARGET_RATIO = 1.6
LAYERS = 100
INFERENCES = 20  # of one turn
# As torch_tensorrt names its layers; TensorRT's bindings make a Python string of it at each call.
NAME = "[CONVOLUTION]-[aten_ops.convolution.default]-[layer1.0.conv1/convolution_{}]"
OURS, EMPTY, FORMATS = "ours", "empty", "formats"


@dataclass(frozen=True)
class Library:
    """Where callbacks are called from.

    Attributes:
        trt: A module with `IProfiler`.
        caller: Makes, of a profiler, the function that has its override called.
        names: Layer names as that function takes them.
        how: What this is, for the table.
    """

    trt: Any
    caller: Callable[[Any], Callable[[Any, float], Any]]
    names: Sequence[str | bytes]
    how: str


def find_library() -> Library:
    """Return TensorRT's own binding if there is one, else a C function pointer."""
    names = [NAME.format(index) for index in range(LAYERS)]
    for module in ("tensorrt", "tensorrt_rtx"):
        try:
            trt = importlib.import_module(module)
        except Exception:  # noqa: BLE001 (a broken installation may raise anything)
            continue
        how = f"{module} {getattr(trt, '__version__', '?')}'s own binding"
        caller = functools.partial(functools.partial, trt.IProfiler.report_layer_time)
        return Library(trt, caller, names, how)
    pointer = ctypes.PYFUNCTYPE(None, ctypes.c_char_p, ctypes.c_float)
    return Library(
        SimpleNamespace(IProfiler=type("IProfiler", (), {})),
        lambda profiler: pointer(profiler.report_layer_time),
        [name.encode() for name in names],
        "a C function pointer (neither tensorrt nor tensorrt_rtx can be imported)",
    )


def make_callbacks(trt: Any) -> dict[str, Any]:
    """Return the three profilers."""

    class Empty(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            pass

    class Formats(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.rows: list[tuple[str, str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            stamp = datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S.%f")
            self.rows.append((stamp, layer_name, ms))

    return {OURS: make_recorder(trt, LAYERS * INFERENCES), EMPTY: Empty(), FORMATS: Formats()}


def one_turn_ns(call: Callable[[Any, float], Any], names: Sequence[str | bytes]) -> float:
    """Return CPU time per callback of one turn."""
    began_ns = time.thread_time_ns()
    for _ in range(INFERENCES):
        for name in names:
            call(name, 0.25)
    return (time.thread_time_ns() - began_ns) / (INFERENCES * len(names))


def measure(rounds: int) -> dict[str, Any]:
    """Run the three in turn and return medians and ratios.

    Raises:
        RuntimeError: Our callback lost a time.
    """
    library = find_library()
    profilers = make_callbacks(library.trt)
    calls = {name: library.caller(profiler) for name, profiler in profilers.items()}
    spent: dict[str, list[float]] = {name: [] for name in profilers}
    gc.disable()  # as in the passes
    try:
        for round_number in range(rounds + 1):
            for name, call in calls.items():
                taken = one_turn_ns(call, library.names)
                if round_number:  # the first one warms up
                    spent[name].append(taken)
            if profilers[OURS].count != LAYERS * INFERENCES:
                raise RuntimeError(f"{profilers[OURS].count} of {LAYERS * INFERENCES} recorded")
            profilers[OURS].begin()
            profilers[FORMATS].rows.clear()
    finally:
        gc.enable()
    empty = statistics.median(spent[EMPTY])
    return {
        "called_by": library.how,
        "python": platform.python_version(),
        "rounds": rounds,
        "target_ratio": TARGET_RATIO,
        "rows": [
            {
                "callback": name,
                "median_ns": round(statistics.median(values)),
                "least_ns": round(min(values)),
                "ratio": round(statistics.median(values) / empty, 2),
            }
            for name, values in spent.items()
        ],
    }


def main() -> int:
    """Print the table; exit 1 if ours misses the target."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--quick", action="store_true", help="50 rounds instead of 500")
    arguments = parser.parse_args()
    found = measure(50 if arguments.quick else 500)
    if arguments.json:
        print(json.dumps(found))
    else:
        print(
            f"CPU time per callback, called by {found['called_by']}, Python {found['python']}, "
            f"{found['rounds']} rounds of {LAYERS * INFERENCES}"
        )
        print(f"{'callback':<10} {'median ns':>10} {'least ns':>10} {'to empty':>9}")
        for row in found["rows"]:
            print(
                f"{row['callback']:<10} {row['median_ns']:>10} {row['least_ns']:>10} "
                f"{row['ratio']:>9}"
            )
        print(f"target: ours at most {TARGET_RATIO} times the empty one")
    ours = next(row for row in found["rows"] if row["callback"] == OURS)
    return int(ours["ratio"] > TARGET_RATIO)


if __name__ == "__main__":
    sys.exit(main())
