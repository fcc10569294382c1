"""The backend torch-tensorrt: availability by trying, what it offers, what it refuses and why."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import pytest

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.probe import Probe
from edgejoule.inference.trt import torch_tensorrt_backend as module
from edgejoule.inference.trt.torch_tensorrt_backend import (
    TorchTensorRtBackend,
    check_options,
    notes,
)
from tests.support_host_gpu import HostGpu
from tests.support_tensorrt import load_double
from tests.support_torch_tensorrt import install, model, pooling

BACKEND = TorchTensorRtBackend()
FACTS = {
    "torch": "2.8.0",
    "torch_tensorrt": "2.8.0",
    "tensorrt": "10.3.0",
    "dtypes": ["float16", "float32", "tf32", "bfloat16", "int8", "fp8"],
    "devices": [{"name": "Orin", "capability": [8, 7]}, {"name": "Old", "capability": [7, 5]}],
}


def probed(monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], error: str = "") -> None:
    monkeypatch.setattr(module, "probe", lambda _code: Probe(facts, error))


def test_where_it_runs_it_says_with_what(monkeypatch: pytest.MonkeyPatch) -> None:
    probed(monkeypatch, FACTS)
    available = BACKEND.availability()
    assert available.usable
    assert available.why == "torch_tensorrt 2.8.0, TensorRT 10.3.0, torch 2.8.0 on Orin"
    assert BACKEND.devices() == ("cuda:0", "cuda:1")


def test_where_it_does_not_the_reason_is_the_imports_own(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "torch_tensorrt is installed but cannot be loaded (RuntimeError: no driver)"
    probed(monkeypatch, {"torch": "2.8.0", "why": why, "mend": "install the driver"})
    assert BACKEND.availability() == module.Availability(False, why, "install the driver")
    probed(monkeypatch, {}, "ModuleNotFoundError: No module named 'torch'")
    missing = BACKEND.availability()
    assert not missing.usable
    assert "No module named 'torch'" in missing.why
    assert "pip install torch_tensorrt" in missing.mend
    assert BACKEND.devices() == ()
    assert BACKEND.dtypes("cuda:0") == ()


def test_it_is_tried_for_real_here() -> None:
    """No GPU, or no torch_tensorrt: either way a clause and a mend, never a traceback."""
    available = BACKEND.availability()
    assert available.usable or (available.why and available.mend)
    assert "Traceback" not in available.why


def test_dtypes_are_the_gpus_less_the_quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    probed(monkeypatch, FACTS)
    assert BACKEND.dtypes("cuda:0") == ("float16", "float32", "tf32", "bfloat16")
    assert BACKEND.dtypes("cuda:1") == ("float16", "float32")
    assert BACKEND.dtypes("cuda:2") == BACKEND.dtypes("cpu") == ()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"channels_last": True}, "has no option 'channels_last'; it has optimization_level, min"),
        ({"shape_min": [1]}, "no option 'shape_min'.*--backend tensorrt has that one"),
        ({"allow_fallback": "float16"}, "no option 'allow_fallback'.*--backend tensorrt has"),
        ({"optimization_level": 6}, "level 6 does not exist; --optimization-level takes 0 to 5"),
        ({"optimization_level": True}, "level True does not exist"),
        ({"min_block_size": 0}, "a smallest part of 0 operations; --min-block-size takes 1 up"),
    ],
)
def test_options_that_are_refused(extra: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_options(BuildOptions("float16", device="cuda:0", extra=extra))
    check_options(BuildOptions("float16", device="cuda:0", extra=dict.fromkeys(extra)))


@pytest.mark.torch
def test_quantised_dtypes_are_refused_before_torch_tensorrt_is_imported(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    for dtype in ("int8", "fp8"):
        with pytest.raises(UsageError, match=f"does not build {dtype}.*--backend tensorrt"):
            BACKEND.build(model(types.SimpleNamespace()), BuildOptions(dtype), tmp_path)


@pytest.mark.torch
def test_devices_that_are_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(UsageError, match="does not run on 'cpu'; use --device 0"):
        BACKEND.build(model(), BuildOptions("float16"), tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match=r"device cuda:0: this torch .* sees no CUDA device"):
            BACKEND.build(model(), BuildOptions("float16", device="cuda:0"), tmp_path)


def test_a_version_that_is_not_made_for_a_board_is_noted(tmp_path: Path) -> None:
    release = tmp_path / "nv_tegra_release"
    assert notes("2.12.1", release) == ()
    release.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
    assert notes("2.8.0", release) == ()
    (note,) = notes("2.12.1", release)
    assert "after 2.8 are not made for JetPack 6" in note
    release.write_text("# R39 (release), REVISION: 2.0\n")
    assert notes("2.12.1", release) == ()


def built_here(
    monkeypatch: pytest.MonkeyPatch, folder: Path, version: str = "2.8.0", **more: Any
) -> tuple[Any, Any, BuildOptions]:
    """Run the backend's own `build` with the host in the place of a GPU."""
    from edgejoule.inference.trt import torch_build
    from edgejoule.inference.trt.cuda_types import CudaDevice

    trt = load_double(monkeypatch, "10.13.0")
    _, behaviour = install(monkeypatch, trt, version)
    device = CudaDevice("Host", (8, 7), 2**33, True, None)
    monkeypatch.setattr(module, "_apply", lambda _options: device)
    monkeypatch.setattr(module, "_kernel_time", lambda _device, needed: _no_time(needed))
    compile_program = torch_build.compile_program
    monkeypatch.setattr(
        torch_build,
        "compile_program",
        lambda *args, **_kwargs: compile_program(*args, torch_executed_ops=pooling()),
    )
    options = BuildOptions("float32", device="cpu", **more)
    return BACKEND.build(model(), options, folder), (trt, behaviour), options


def _no_time(needed: bool) -> Any:
    from edgejoule.inference.torch_event_cost import KernelTime

    return KernelTime(None, f"needed: {needed}")


@pytest.mark.torch
@pytest.mark.parametrize("version", ["2.4.0", "2.14.0"])
def test_a_build_leaves_what_a_session_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    pytest.importorskip("torch")
    from edgejoule.inference.trt.torch_session import PartsSession

    engine, (trt, behaviour), options = built_here(monkeypatch, tmp_path, version)
    assert engine.backend == "torch-tensorrt"
    assert engine.versions["torch_tensorrt"] == version
    assert engine.versions["tensorrt"] == "10.13.0"
    assert len(engine.layers) == 5
    assert engine.start_offsets is False
    assert engine.overlap is False
    assert engine.keep == ("inspector-0.json", "inspector-1.json")
    settings = engine.settings
    assert settings["typing"] == ("weak" if version == "2.4.0" else "strong")
    assert settings["min_block_size"] == 5
    assert settings["in_pytorch"] == ["aten.max_pool2d.default"]
    assert [one["result"] for one in settings["build_attempts"]] == ["built"]
    # A quarter of a board's memory, as the backend tensorrt takes it.
    assert behaviour.calls[0]["workspace_size"] == 2**31
    assert settings["timing_cache"] == {"file": None, "note": "none was written"}
    plain = json.loads(json.dumps(engine.to_json(), allow_nan=False))
    assert str(tmp_path) not in json.dumps(plain)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "engine-0.plan", "engine-1.plan", "engines.json", "inspector-0.json", "inspector-1.json",
        "program.json", "tensors.pt",
    ]  # fmt: skip
    assert json.loads((tmp_path / "engines.json").read_text())["kernel"]["how"] == "needed: True"
    session = PartsSession(tmp_path, options, gpu=HostGpu(), trt=trt)
    session.close()


@pytest.mark.torch
def test_the_timing_cache_is_the_experiments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    cache, artefacts = tmp_path / "cache", tmp_path / "artefacts"
    artefacts.mkdir()
    _, (_, behaviour), _ = built_here(monkeypatch, artefacts, cache=str(cache))
    path = Path(behaviour.calls[0]["timing_cache_path"])
    assert path.parent == cache
    assert cache.is_dir()
    assert path.name.startswith("torch-timing-10.13.0-Host")
    path.write_bytes(b"timed")
    facts = module._timing_cache_facts(path, kept=True)
    assert (facts["file"], facts["bytes"]) == (path.name, 5)
    assert module._timing_cache_facts(path, kept=False)["file"] is None
    assert not path.exists()


@pytest.mark.torch
def test_engines_without_details_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a plan out of a cache may be, that was built for another request."""
    pytest.importorskip("torch")
    from edgejoule.inference.trt import torch_compile

    look = torch_compile._look

    def undone(interpreter: Any, config: Any, arguments: Any) -> Any:
        found = look(interpreter, config, arguments)
        config.profiling_verbosity = type(config.profiling_verbosity)["LAYER_NAMES_ONLY"]
        return found

    monkeypatch.setattr(torch_compile, "_look", undone)
    pattern = "engine 0 was built with LAYER_NAMES_ONLY profiling verbosity"
    with pytest.raises(MeasurementError, match=pattern):
        built_here(monkeypatch, tmp_path)


@pytest.mark.torch
def test_memory_of_engines_comes_from_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from edgejoule.inference.trt import torch_memory
    from edgejoule.inference.trt.cuda_types import CudaOutOfMemory

    given: list[int] = []

    def allocate(nbytes: int) -> int:
        if nbytes > 1000:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        given.append(nbytes)
        return 4096

    monkeypatch.setattr(torch.cuda, "caching_allocator_alloc", allocate)
    monkeypatch.setattr(torch.cuda, "caching_allocator_delete", given.remove)
    memory = torch_memory.TorchMemory()
    assert memory.allocate(10) == 4096
    with pytest.raises(CudaOutOfMemory, match=r"caching_allocator_alloc.*Tried to allocate 1 GiB"):
        memory.allocate(2000)
    given.append(4096)
    memory.free(4096)
    assert given == [10]
    trt = load_double(monkeypatch)
    enforced = types.SimpleNamespace(to_json=lambda: {"kind": "hard", "how": "torch's allocator"})
    monkeypatch.setattr(torch_memory, "limit_torch", lambda _options: enforced)
    limit = torch_memory.Limit(BuildOptions("float16", device="cuda:0", memory_limit_gib=1.0))
    allocator = limit.allocator(trt)
    assert limit.allocator(trt) is allocator  # one bound for all engines
    assert allocator.allocate(2**31, 256, 0) == 0
    told = limit.settings()["memory_limit"]
    assert (told["kind"], told["refusals"]) == ("hard", 1)
    assert told["how"] == "torch's allocator; engines take their memory from there too"
    unlimited = torch_memory.Limit(BuildOptions("float16", device="cuda:0"))
    assert unlimited.allocator(trt) is None
    assert unlimited.settings() == {}
