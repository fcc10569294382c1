"""`trtexec` where nothing better runs: what it can do here, what it is told, what it leaves.

JetPack 4 and 5 bring TensorRT's Python binding for a Python too old for this project, but always
the program. It reports every inference as a whole, and of each layer one mean (and, in newer
versions, one median) over all of them: no distribution, so no interval, and this module makes up
none. Its options changed over the versions; what a program knows is read from its own `--help`.

Sources: options and file formats as printed and written by TensorRT's open samples, common
sampleOptions.cpp and sampleReporting.cpp, 7.1 to 10.16; trtexec.cpp. Standard library only.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.machine_state import memory_mib

PLACES = ("/usr/src/tensorrt/bin/trtexec", "/opt/tensorrt/bin/trtexec")
LIMITS = (
    "trtexec gives one mean per layer (and one median where its version has it) over all "
    "inferences: no distribution and so no interval per layer"
)
_FLAGS = {"float32": "--noTF32", "tf32": "", "float16": "--fp16", "bfloat16": "--bf16"}
_QUERIES = re.compile(r"Timing trace has (\d+) queries over ([\d.eE+-]+) s")
_VERSION = re.compile(r"TensorRT[. ]+version: (\S+)|\[TensorRT v(\d+)\]")


@dataclass(frozen=True)
class LayerMean:
    """One layer as trtexec reports it; `median_ms` is None where its version gives none."""

    name: str
    mean_ms: float
    median_ms: float | None
    share: float


@dataclass(frozen=True)
class Latency:
    """The inferences of a clean pass, host to host with copies unless they were left out, in ms."""

    inferences: int
    mean_ms: float
    median_ms: float
    p90_ms: float
    p99_ms: float
    gpu_mean_ms: float | None
    gpu_median_ms: float | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def find_trtexec(asked: Path | None) -> Path:
    """Return the program: the one asked for, else on the PATH, else where JetPack has it.

    Raises:
        UsageError: There is none.
    """
    if asked is not None:
        if not asked.is_file():
            raise UsageError(f"there is no program {asked}", "give the path of trtexec")
        return asked
    found = shutil.which("trtexec")
    for place in (found, *PLACES):
        if place is not None and Path(place).is_file():
            return Path(place)
    raise UsageError(
        f"trtexec is not on the PATH, nor {' nor '.join(PLACES)}",
        "on a Jetson: apt install libnvinfer-bin; or give --trtexec PATH",
    )


def known_options(help_text: str) -> frozenset[str]:
    """Return the options that a trtexec's `--help` names, without dashes and values."""
    return frozenset(re.findall(r"--([A-Za-z][A-Za-z0-9]*)", help_text))


def check_profiler(program: Path, known: frozenset[str]) -> None:
    """Refuse a trtexec whose clean pass would not be clean.

    trtexec.cpp of 7.x attaches its profiler wherever `--exportTimes` is asked, and only there or
    with `--dumpProfile`; 8.0 and newer attach it where a profile is asked. 8.0 brought
    `--separateProfileRun`, by which the two are told apart.

    Raises:
        UsageError: It is of TensorRT 7 or older.
    """
    if not {"separateProfileRun", "profilingVerbosity"} & known:
        raise UsageError(
            f"{program} is of TensorRT 7: it attaches its profiler to every pass, so this command "
            "does not measure with it",
            "use JetPack 4.6 or 5 with TensorRT 8, or record power alone: "
            "measure_power.py record --output trace.parquet -- trtexec ...",
        )


def workspace_mib(known: frozenset[str]) -> int | None:
    """Return the workspace to give a build, None: the program's own default is as it should be.

    Until 8.2 that is 16 MiB (`--workspace`), with which many a fast kernel is left out. From 8.4 on
    (`--memPoolSize`) it is all of the GPU's memory. A quarter of this machine's memory is given.
    """
    if "workspace" not in known or "memPoolSize" in known:
        return None
    total = memory_mib().get("total")
    return None if total is None else max(1, int(total / 4))


def build_words(
    onnx: Path,
    engine: Path,
    dtype: str,
    known: frozenset[str],
    layer_info: Path,
    workspace: int | None = None,
) -> list[str]:
    """Return the arguments that build an engine.

    Args:
        onnx: The model.
        engine: The plan to write.
        dtype: One of `float32`, `tf32`, `float16`, `bfloat16`.
        known: The options that this trtexec has.
        layer_info: Where the inspector's JSON goes, if this trtexec gives it.
        workspace: MiB (`workspace_mib`).

    Raises:
        UsageError: This trtexec has no such dtype.
    """
    if dtype not in _FLAGS:
        raise UsageError(
            f"trtexec: no dtype {dtype!r} here", f"use {', '.join(_FLAGS)}; for int8 give an engine"
        )
    flag = _FLAGS[dtype]
    # TF32 came with the GPUs that have it; a version without the switch never used it.
    if flag and flag.removeprefix("--") not in known and dtype != "float32":
        raise UsageError(f"this trtexec has no {flag}", "choose another --dtype")
    words = [f"--onnx={onnx}", f"--saveEngine={engine}"]
    words += [flag] if flag and flag.removeprefix("--") in known else []
    words += [] if workspace is None else [f"--workspace={workspace}"]
    if "profilingVerbosity" in known:
        words.append("--profilingVerbosity=detailed")
    elif "nvtxMode" in known:
        words.append("--nvtxMode=verbose")
    if "exportLayerInfo" in known:
        words.append(f"--exportLayerInfo={layer_info}")
    # To build only; a version without either measures for a moment, which is thrown away.
    only = next((name for name in ("skipInference", "buildOnly") if name in known), None)
    return [*words, f"--{only}"] if only else [*words, "--duration=0", "--iterations=1"]


def clean_words(
    engine: Path, seconds: float, times: Path, known: frozenset[str], *, copies: bool
) -> list[str]:
    """Return the arguments of the pass without a profiler."""
    words = [f"--loadEngine={engine}", f"--duration={max(1, round(seconds))}", "--warmUp=2000"]
    words.append(f"--exportTimes={times}")
    if not copies and "noDataTransfers" in known:
        words.append("--noDataTransfers")
    return words


def profiled_words(engine: Path, seconds: float, profile: Path, known: frozenset[str]) -> list[str]:
    """Return the arguments of the pass with the layer profiler, an invocation of its own."""
    words = [f"--loadEngine={engine}", f"--duration={max(1, round(seconds))}", "--warmUp=500"]
    words.append(f"--exportProfile={profile}")
    return [*words, "--dumpProfile"] if "dumpProfile" in known else words


def read_profile(path: Path) -> tuple[int | None, tuple[LayerMean, ...]]:
    """Read `--exportProfile`: how many inferences, and the layers in the order of execution.

    Raises:
        MeasurementError: The file is not what trtexec writes.
    """
    entries = _entries(path)
    count = None
    layers = []
    for entry in entries:
        if "count" in entry and "name" not in entry:
            count = int(entry["count"])
            continue
        try:
            layers.append((str(entry["name"]), float(entry["averageMs"]), entry.get("medianMs")))
        except (KeyError, TypeError, ValueError) as error:
            raise MeasurementError(f"{path.name} is not what trtexec writes ({error})") from error
    total = sum(mean for _, mean, _ in layers)
    if not layers or not total > 0:
        raise MeasurementError(f"{path.name} holds no layer times", "look at profiled.log")
    return count, tuple(
        LayerMean(name, mean, None if middle is None else float(middle), mean / total)
        for name, mean, middle in layers
    )


def read_times(path: Path) -> Latency:
    """Read `--exportTimes`, in its older and newer form.

    Raises:
        MeasurementError: The file is not what trtexec writes, or empty.
    """
    entries = _entries(path)
    try:
        whole = sorted(float(entry["latencyMs"]) for entry in entries)
    except (KeyError, TypeError, ValueError) as error:
        raise MeasurementError(f"{path.name} is not what trtexec writes ({error})") from error
    if not whole:
        raise MeasurementError(f"{path.name} holds no inference", "look at clean.log")
    compute = [_compute_ms(entry) for entry in entries]
    gpu = [value for value in compute if value is not None]
    return Latency(
        inferences=len(whole),
        mean_ms=fmean(whole),
        median_ms=median(whole),
        p90_ms=_quantile(whole, 0.90),
        p99_ms=_quantile(whole, 0.99),
        gpu_mean_ms=fmean(gpu) if gpu else None,
        gpu_median_ms=median(gpu) if gpu else None,
    )


def timed_span(line: str) -> tuple[int, float] | None:
    """Return inferences and seconds of the timed part from the line that names them, else None."""
    found = _QUERIES.search(line)
    return (int(found[1]), float(found[2])) if found else None


def version_in(lines: Iterable[str]) -> str | None:
    """Return TensorRT's version as the program prints it (`8.5.2`, or `8502`), else None."""
    for line in lines:
        if found := _VERSION.search(line):
            return found[1] or found[2]
    return None


def failure_in(lines: Iterable[str]) -> str:
    """Return the line that says best why a trtexec failed."""
    said = [line.strip() for line in lines if line.strip()]
    errors = [line for line in said if "[E]" in line]
    chosen = errors or [line for line in said if "rror" in line] or said[-1:] or ["it said nothing"]
    return re.sub(r"^\[[\d/:-]+\] ", "", chosen[0])[:300]


def _entries(path: Path) -> list[Mapping[str, Any]]:
    try:
        # Names of layers may hold control characters (their metadata, TensorRT 10).
        loaded = json.loads(path.read_text(encoding="utf-8"), strict=False)
    except (OSError, ValueError) as error:
        raise MeasurementError(
            f"trtexec left no readable {path.name} ({' '.join(str(error).split())[:120]})",
            "look at its log beside it",
        ) from error
    if not isinstance(loaded, list) or not all(isinstance(entry, dict) for entry in loaded):
        raise MeasurementError(f"{path.name} is not what trtexec writes (no list of objects)")
    return loaded


def _compute_ms(entry: Mapping[str, Any]) -> float | None:
    if "computeMs" in entry:
        return float(entry["computeMs"])
    if "startComputeMs" in entry and "endComputeMs" in entry:
        return float(entry["endComputeMs"]) - float(entry["startComputeMs"])
    return None


def _quantile(rising: list[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    return rising[min(len(rising) - 1, max(0, round(share * len(rising)) - 1))]
