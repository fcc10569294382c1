from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.memory_limit import tensorrt_allocator
from edgejoule.inference.trt.build import Built, build_plan, workspace_bytes
from edgejoule.inference.trt.common import device_index
from edgejoule.inference.trt.cuda_types import CudaDevice, CudaOutOfMemory
from edgejoule.inference.trt.library import make_log
from tests.support_trt_builder import VERSIONS, X, flags_of, load_double, options, write_graph

GIB = 2**30
ORIN = CudaDevice("Orin", (8, 7), 8 * GIB, True, None)
ADA = CudaDevice("RTX 4090", (8, 9), 24 * GIB, False, None)


class Machine:
    """Of CUDA what a build asks: which device."""

    def __init__(self, device: CudaDevice = ORIN) -> None:
        self._device = device

    def device(self, index: int) -> CudaDevice:
        return self._device


class HostMemory:
    """Memory that is never asked."""

    def allocate(self, nbytes: int) -> int:
        raise NotImplementedError

    def free(self, address: int) -> None:
        raise NotImplementedError


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    return load_double(monkeypatch, request.param)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return write_graph(tmp_path / "graph.onnx")


def build(trt: Any, graph: Path, asked: BuildOptions, **more: Any) -> Built:
    arguments: dict[str, Any] = {"log": make_log(trt), "inputs": [X], "say": lambda _line: None}
    arguments |= more
    return build_plan(trt, arguments.pop("cuda", Machine()), graph, asked, **arguments)


def test_every_version_builds_and_says_what_it_was_given(trt: Any, graph: Path) -> None:
    built = build(trt, graph, options())
    assert built.plan
    old = trt.__version__ == "8.6.1"
    assert built.facts["typing"] == ("weak" if old else "strong")
    assert built.facts["network_flags"] == (["EXPLICIT_BATCH"] if old else ["STRONGLY_TYPED"])
    assert built.facts["builder_flags"] == []
    assert built.facts["tf32"] is False
    assert built.facts["profiling_verbosity"] == "DETAILED"
    assert built.facts["max_aux_streams"] == 0
    assert built.facts["workspace_mib"] == 2048
    assert built.facts["optimization_level"] == 3
    assert built.facts["network_dtypes"] == {"float32": 4}
    assert built.facts["progress"] is not old
    assert [one["result"] for one in built.attempts] == ["built"]
    given = flags_of(trt).BUILT[0]
    assert (given["verbosity"], given["aux_streams"], given["workspace"]) == (
        "DETAILED",
        0,
        2 * GIB,
    )


def test_tf32_is_a_flag_that_float32_clears(trt: Any, graph: Path) -> None:
    built = build(trt, graph, options("tf32"))
    assert built.facts["tf32"] is True
    assert built.facts["builder_flags"] == ["TF32"]


def test_below_9_float16_is_a_flag(monkeypatch: pytest.MonkeyPatch, graph: Path) -> None:
    built = build(load_double(monkeypatch, "8.6.1"), graph, options("float16"))
    assert (built.facts["typing"], built.facts["builder_flags"]) == ("weak", ["FP16"])


def test_a_strongly_typed_build_sets_no_precision_flag(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    half = write_graph(tmp_path / "half.onnx", dtype=onnx.TensorProto.FLOAT16)
    built = build(load_double(monkeypatch, "10.13.0"), half, options("float16"))
    assert (built.facts["typing"], built.facts["builder_flags"]) == ("strong", [])
    assert built.facts["network_dtypes"] == {"float16": 4}


def test_a_graph_in_float16_does_not_pass_for_float32(trt: Any, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    half = write_graph(tmp_path / "half.onnx", dtype=onnx.TensorProto.FLOAT16)
    with pytest.raises(UsageError, match=r"itself is typed float16, so it cannot run as float32"):
        build(trt, half, options())


@pytest.mark.parametrize(
    ("version", "dtype", "device", "message"),
    [
        ("8.6.1", "bfloat16", ADA, r"bfloat16: TensorRT 8\.6\.1 has none"),
        ("8.6.1", "fp8", ADA, r"fp8: TensorRT 8\.6\.1 has none"),
        ("10.3.0", "fp8", ORIN, r"Orin has compute capability 8\.7, fp8 needs 8\.9"),
        (
            "10.3.0",
            "bfloat16",
            CudaDevice("Xavier", (7, 2), GIB, True, None),
            r"Xavier has compute capability 7\.2, bfloat16 needs 8\.0",
        ),
        ("10.3.0", "tf32", CudaDevice("T4", (7, 5), GIB, False, None), r"tf32 needs 8\.0"),
        ("8.6.1", "int8", CudaDevice("TX2", (6, 2), GIB, True, None), r"which is made without it"),
    ],
)
def test_a_dtype_that_this_gpu_or_version_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    graph: Path,
    version: str,
    dtype: str,
    device: CudaDevice,
    message: str,
) -> None:
    trt = load_double(monkeypatch, version)
    with pytest.raises(UsageError, match=message) as refused:
        build(trt, graph, options(dtype), cuda=Machine(device))
    assert refused.value.mend.startswith("use --dtype float16 or float32")
    assert dtype not in refused.value.mend


def test_tf32_under_an_environment_that_forbids_it(
    trt: Any, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with pytest.raises(UsageError, match="NVIDIA_TF32_OVERRIDE=0"):
        build(trt, graph, options("tf32"))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"min_block_size": 1}, "'min_block_size'.*torch-tensorrt, which has it"),
        ({"channels_last": True}, "no option 'channels_last'; it has optimization_level"),
        ({"optimization_level": 6}, "optimisation level 6 does not exist.*takes 0 to 5"),
        ({"optimization_level": -1}, "optimisation level -1 does not exist"),
        ({"optimization_level": True}, "optimisation level True does not exist"),
        ({"allow_fallback": "float32"}, "no fall-back to 'float32'"),
        ({"allow_fallback": "float16"}, "float32 falls back to nothing"),
    ],
)
def test_options_that_do_not_hold_are_refused(
    trt: Any, graph: Path, extra: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as refused:
        build(trt, graph, options(extra=extra))
    assert re.search(message, str(refused.value))


def test_a_memory_limit_of_nothing_is_refused(trt: Any, graph: Path) -> None:
    with pytest.raises(UsageError, match="a memory limit of 0 GiB leaves no memory"):
        build(trt, graph, options(memory_limit_gib=0))


def test_a_level_that_this_version_does_not_have_is_refused(
    trt: Any, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trt.IBuilderConfig

    class Older(real):
        _attributes = tuple(n for n in real._attributes if n != "builder_optimization_level")

        def __setattr__(self, name: str, value: Any) -> None:
            if name != "builder_optimization_level" or "_born" in self.__dict__:
                super().__setattr__(name, value)

        def __getattribute__(self, name: str) -> Any:
            if name == "builder_optimization_level":
                raise AttributeError(name)
            return super().__getattribute__(name)

    monkeypatch.setattr(
        trt.Builder, "create_builder_config", lambda self: Older(self._logger), raising=True
    )
    with pytest.raises(UsageError, match="has no optimisation levels"):
        build(trt, graph, options(extra={"optimization_level": 2}))


def test_the_level_asked_for_is_the_one_in_force(trt: Any, graph: Path) -> None:
    built = build(trt, graph, options(extra={"optimization_level": 1}))
    assert built.facts["optimization_level"] == 1
    assert flags_of(trt).BUILT[0]["level"] == 1


def test_want_of_memory_halves_the_workspace_until_it_fits(trt: Any, graph: Path) -> None:
    flags_of(trt).BEHAVIOUR.fits_workspace = 300 * 2**20
    built = build(trt, graph, options())
    assert [one["workspace_mib"] for one in built.attempts] == [2048, 1024, 512, 256]
    assert [one["result"] for one in built.attempts] == ["out of memory"] * 3 + ["built"]
    assert "OutOfMemory (Requested size was 2147483648 bytes.)" in built.attempts[0]["why"]
    assert built.attempts[3]["changed"] == "workspace halved to 256 MiB"
    assert built.facts["workspace_mib"] == 256
    assert built.facts["build_attempts"] == list(built.attempts)


def test_below_64_mib_it_is_the_level_that_gives_way(trt: Any, graph: Path) -> None:
    flags_of(trt).BEHAVIOUR.fits_level = 1
    built = build(trt, graph, options(memory_limit_gib=0.25))
    tried = [(one["workspace_mib"], one["optimization_level"]) for one in built.attempts]
    assert tried == [(128, None), (64, None), (64, 2), (64, 1)]
    assert built.attempts[-1]["changed"] == "optimisation level lowered to 1"
    assert built.facts["optimization_level"] == 1


def test_when_nothing_fits_it_says_what_was_tried(trt: Any, graph: Path) -> None:
    flags_of(trt).BEHAVIOUR.fits_level = -1
    with pytest.raises(MeasurementError) as failed:
        build(trt, graph, options(memory_limit_gib=0.25), label="the graph of resnet18")
    text = str(failed.value)
    assert "ran out of memory building the graph of resnet18" in text
    assert "128 MiB, 64 MiB, 64 MiB level 2, 64 MiB level 1, 64 MiB level 0" in text
    assert "choose a smaller --input-shape" in text


@pytest.mark.parametrize(
    "raised", [MemoryError(), CudaOutOfMemory(2, "cudaErrorMemoryAllocation", "no", "cudaMalloc")]
)
def test_want_of_memory_that_is_raised_is_tried_again_too(
    trt: Any, graph: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    real = trt.Builder.build_serialized_network

    def first_raises(self: Any, network: Any, config: Any) -> Any:
        monkeypatch.setattr(trt.Builder, "build_serialized_network", real)
        raise raised

    monkeypatch.setattr(trt.Builder, "build_serialized_network", first_raises)
    built = build(trt, graph, options())
    assert [one["result"] for one in built.attempts] == ["out of memory", "built"]


def test_an_error_of_another_kind_is_not_tried_again(trt: Any, graph: Path) -> None:
    flags_of(trt).BEHAVIOUR.fail_with = "Error Code 1: Myelin (something broke)"
    with pytest.raises(MeasurementError, match=r"built no engine from .*something broke"):
        build(trt, graph, options())
    assert len(flags_of(trt).BUILT) == 1


def test_a_node_without_an_implementation_is_named(trt: Any, graph: Path) -> None:
    flags_of(
        trt
    ).BEHAVIOUR.fail_with = (
        "Error Code 10: Internal Error (Could not find any implementation for node /conv1/Conv.)"
    )
    with pytest.raises(MeasurementError, match=r"no implementation for node /conv1/Conv"):
        build(trt, graph, options())


LACKING = "Error Code 10: Internal Error (Could not find any implementation for node /conv1/Conv{})"


def test_a_tactic_skipped_for_want_of_memory_is_not_why(trt: Any, graph: Path) -> None:
    behaviour = flags_of(trt).BEHAVIOUR
    behaviour.warn_with = "Skipping tactic 0x0 due to insufficient memory on requested size of 9."
    behaviour.fail_with = LACKING.format(".")
    with pytest.raises(MeasurementError, match=r"no implementation for node /conv1/Conv"):
        build(trt, graph, options())
    assert len(flags_of(trt).BUILT) == 1


def test_want_of_memory_that_is_an_error_is_why(trt: Any, graph: Path) -> None:
    flags_of(trt).BEHAVIOUR.fail_with = LACKING.format(" due to insufficient memory.")
    with pytest.raises(MeasurementError, match="ran out of memory building"):
        build(trt, graph, options(memory_limit_gib=0.25))
    assert len(flags_of(trt).BUILT) == 5


def test_what_an_earlier_try_was_refused_is_forgotten(
    trt: Any, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour, real = flags_of(trt).BEHAVIOUR, trt.Builder.build_serialized_network
    behaviour.allocates = 2**21
    allocator = tensorrt_allocator(trt, HostMemory(), 2**20)

    def then_lacking(self: Any, network: Any, config: Any) -> Any:
        if flags_of(trt).BUILT:
            behaviour.fail_with = LACKING.format(".")
        return real(self, network, config)

    monkeypatch.setattr(trt.Builder, "build_serialized_network", then_lacking)
    with pytest.raises(MeasurementError, match="no implementation for node") as failed:
        build(trt, graph, options(), allocator=allocator)
    assert allocator.budget.refusals == 1
    assert "refuses" not in str(failed.value)
    assert len(flags_of(trt).BUILT) == 2


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python's own answer to SIGINT: a shell's background jobs ignore it from their start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_interrupting_ends_the_build(
    monkeypatch: pytest.MonkeyPatch, graph: Path, version: str, interruptible: None
) -> None:
    trt = load_double(monkeypatch, version)
    flags_of(trt).BEHAVIOUR.interrupt_at = 1
    before = signal.getsignal(signal.SIGINT)
    log = make_log(trt)
    with pytest.raises(KeyboardInterrupt):
        build(trt, graph, options(), log=log)
    assert signal.getsignal(signal.SIGINT) is before
    assert any("BuildCanceled" in line for line in log.errors)


def test_without_a_monitor_interrupting_is_pythons_own(
    monkeypatch: pytest.MonkeyPatch, graph: Path, interruptible: None
) -> None:
    trt = load_double(monkeypatch, "8.6.1")
    flags_of(trt).BEHAVIOUR.interrupt_at = 0
    with pytest.raises(KeyboardInterrupt):
        build(trt, graph, options())


def test_progress_is_said_a_line_a_phase(monkeypatch: pytest.MonkeyPatch, graph: Path) -> None:
    lines: list[str] = []
    build(load_double(monkeypatch, "10.3.0"), graph, options(), say=lines.append)
    assert lines == ["Building engine: 4 steps"]


def test_the_timing_cache_of_an_experiment_is_used_again(
    trt: Any, graph: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "experiment"
    first = build(trt, graph, options(cache=str(folder))).facts["timing_cache"]
    file = folder / f"timing-{trt.__version__}-Orin.cache"
    assert first["sha256_before"] is None
    assert first["sha256_after"] == hashlib.sha256(file.read_bytes()).hexdigest()
    second = build(trt, graph, options(cache=str(folder))).facts["timing_cache"]
    assert second["sha256_before"] == first["sha256_after"] == second["sha256_after"]
    assert "note" not in second


def test_a_device_that_is_none_is_refused() -> None:
    assert device_index("cuda:3") == 3
    assert device_index("cuda") == 0
    for device in ("cpu", "cuda:x", "cpu:1"):
        with pytest.raises(UsageError, match=f"tensorrt does not run on '{device}'; use --device"):
            device_index(device)


@pytest.mark.parametrize(
    ("limit", "device", "mib"),
    [
        (None, ORIN, 2048),
        (None, ADA, 12 * 1024),
        (1, ADA, 512),
        (0.05, ADA, 64),
        (None, None, None),
    ],
)
def test_the_workspace_is_a_stated_share(
    limit: float | None, device: CudaDevice | None, mib: int | None
) -> None:
    found = workspace_bytes(options(memory_limit_gib=limit), device)
    assert found == (None if mib is None else mib * 2**20)
