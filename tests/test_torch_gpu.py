"""torch on a real NVIDIA GPU: layer times, CUDA graphs, precision, the float32 reference."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejoule.errors import UsageError  # noqa: E402
from edgejoule.inference.accuracy import compare, reference_outputs  # noqa: E402
from edgejoule.inference.backend import BuildOptions  # noqa: E402
from edgejoule.inference.inputs import make_inputs  # noqa: E402
from edgejoule.inference.torch_backend import TorchBackend  # noqa: E402
from edgejoule.inference.torch_event_cost import trace_kernel  # noqa: E402
from edgejoule.inference.workload import InputSpec, LoadedModel  # noqa: E402
from tests.support_models import torch_module  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

BACKEND = TorchBackend()
IMAGE = (InputSpec("x", (1, 3, 16, 16)),)


def model_of(module: Any, specs: tuple[InputSpec, ...] = IMAGE) -> LoadedModel:
    return LoadedModel("net", "torch", module, None, specs, "random", {})


def options_of(dtype: str = "float16", **extra: Any) -> BuildOptions:
    return BuildOptions(dtype, device="cuda:0", extra=extra)


def profile(session: Any, sets: list, runs: int = 12) -> tuple[Any, list[tuple[int, int]]]:
    profiler = session.profiler()
    profiler.start(runs)
    spans = []
    for index in range(runs):
        start = time.monotonic_ns()
        profiler.infer(index % len(sets))
        spans.append((start, time.monotonic_ns()))
        profiler.after()
    return profiler.harvest(spans), spans


def deep(blocks: int = 40) -> Any:
    """A net of kernels that are shorter than their launches."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1),
        *(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.BatchNorm2d(16)) for _ in range(blocks)),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 256, 10),
    ).eval()


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16", "tf32"])
def test_layer_times_lie_within_their_inferences(tmp_path: Path, dtype: str) -> None:
    options = options_of(dtype)
    if dtype not in BACKEND.dtypes("cuda:0"):
        pytest.skip(f"this GPU has no {dtype}")
    engine = BACKEND.build(model_of(torch_module("conv")), options, tmp_path)
    session = BACKEND.open(tmp_path, options)
    sets, _ = make_inputs("normal", IMAGE, None, 0)
    session.bind(sets)
    session.infer(0)
    times, spans = profile(session, sets)
    count = len(engine.layers)
    assert times.start_offset_ns is not None
    offsets = times.start_offset_ns.reshape(12, count)
    durations = times.duration_ns.reshape(12, count)
    lengths = np.array([end - start for start, end in spans])
    assert (durations >= 0).all()
    busy = [layer.attributes["kernels"] > 0 for layer in engine.layers]
    assert (np.median(durations, axis=0)[busy] > 0).all()
    assert (np.median(durations, axis=0)[~np.array(busy)] < 500).all()
    assert (offsets >= 0).all()
    assert (np.diff(offsets, axis=1) >= 0).all()
    assert (offsets + durations <= lengths[:, None]).all()
    with torch.no_grad():
        expected = torch_module("conv")(torch.from_numpy(sets[0]["x"]))["logits"].numpy()
    np.testing.assert_allclose(session.outputs(0)[0], expected, rtol=0.1, atol=0.05)
    settings = session.settings()
    assert settings["gpu"]
    assert settings["clean_pass"] == "eager"
    assert settings["matmul_tf32"] is (dtype == "tf32")
    session.close()


def test_the_hosts_launches_are_not_in_the_layers_times(tmp_path: Path) -> None:
    options = options_of()
    engine = BACKEND.build(model_of(deep()), options, tmp_path)
    session = BACKEND.open(tmp_path, options)
    sets, _ = make_inputs("normal", IMAGE, None, 0)
    session.bind(sets)
    for _ in range(20):
        session.infer(0)
    eager = []
    for _ in range(30):
        start = time.monotonic_ns()
        session.infer(0)
        eager.append(time.monotonic_ns() - start)
    times, _ = profile(session, sets, 40)
    per_layer = np.median(times.duration_ns.reshape(40, len(engine.layers)), axis=0)
    assert per_layer.sum() < 0.8 * np.median(eager)  # the GPU mostly waits for the host here
    relus = [i for i, layer in enumerate(engine.layers) if "relu" in str(layer.type)]
    assert 200 < np.median(per_layer[relus]) < 20_000
    facts = session.settings()
    assert facts["profiler_inferences"] == 40
    assert facts["profiler_late_inferences"] <= 4
    assert facts["profiler_delay_ns"] > 0
    assert 0 < facts["profiler_event_cost"]["empty_ns"] < facts["profiler_event_cost"]["first_ns"]
    session.close()


def test_cuda_graphs_compute_the_same_and_are_faster(tmp_path: Path) -> None:
    sets, _ = make_inputs("normal", IMAGE, None, 0)
    outputs, latencies = {}, {}
    for name, options in (("eager", options_of()), ("graph", options_of(cuda_graphs=True))):
        folder = tmp_path / name
        folder.mkdir()
        BACKEND.build(model_of(deep()), options, folder)
        session = BACKEND.open(folder, options)
        session.bind(sets)
        taken = []
        for index in range(60):
            start = time.monotonic_ns()
            session.infer(index % 4)
            taken.append(time.monotonic_ns() - start)
        latencies[name] = np.median(taken[20:])
        outputs[name] = [session.outputs(which)[0] for which in (3, 0, 2, 1)]
        settings = session.settings()
        assert settings["clean_pass"] == ("eager" if name == "eager" else "CUDA graph")
        assert (settings["cuda_graphs_mib"] is None) is (name == "eager")
        times, _ = profile(session, sets, 4)  # the profiled pass is eager in both
        assert times.inferences == 4
        session.infer(1)
        session.close()
    for eager, graph in zip(outputs["eager"], outputs["graph"], strict=True):
        np.testing.assert_array_equal(eager, graph)
    assert not np.array_equal(outputs["graph"][0], outputs["graph"][1])  # each its own inputs
    assert latencies["graph"] < latencies["eager"]


class Looks(torch.nn.Module):
    """What it returns has a shape that only its values tell: the GPU must be asked."""

    def forward(self, x: Any) -> Any:
        return torch.nonzero(x > 0).to(x.dtype).sum() + x.mean()


def test_a_model_that_looks_at_values_is_refused_and_measured_without(tmp_path: Path) -> None:
    engine = BACKEND.build(model_of(Looks()), options_of(), tmp_path)
    assert not any("kernels" in layer.attributes for layer in engine.layers)
    sets, _ = make_inputs("normal", IMAGE, None, 0)
    session = BACKEND.open(tmp_path, options_of(cuda_graphs=True))
    with pytest.raises(UsageError, match="cannot be captured as a CUDA graph") as caught:
        session.bind(sets)
    assert "leave out --cuda-graphs" in str(caught.value)
    session.close()
    session = BACKEND.open(tmp_path, options_of())
    session.bind(sets)
    assert np.isfinite(session.outputs(0)[0]).all()
    times, _ = profile(session, sets, 4)
    assert times.inferences == 4
    assert session.settings()["profiler_kernels"].startswith("not counted")
    session.close()


def test_a_long_program_is_held_back_in_pieces(tmp_path: Path) -> None:
    module = torch.nn.Sequential(*(torch.nn.ReLU6() for _ in range(700))).eval()
    engine = BACKEND.build(model_of(module), options_of(), tmp_path)
    session = BACKEND.open(tmp_path, options_of())
    sets, _ = make_inputs("normal", IMAGE, None, 0)
    session.bind(sets)
    times, _ = profile(session, sets, 30)
    per_layer = np.median(times.duration_ns.reshape(30, len(engine.layers)), axis=0)
    # All of them are the same kernel.
    assert per_layer.max() < 3 * np.median(per_layer)
    assert session.settings()["profiler_late_inferences"] <= 3
    session.close()


def test_the_small_kernels_time_is_traced() -> None:
    kernel = trace_kernel("cuda:0")
    assert kernel.ns is None or 200 < kernel.ns < 20_000
    assert kernel.how


def test_the_reference_is_float32_and_gives_its_memory_back(tmp_path: Path) -> None:
    specs = (InputSpec("x", (8, 256)),)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.Linear(256, 10)).eval()
    sets, _ = make_inputs("normal", specs, None, 0)
    held = torch.cuda.memory_allocated()
    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        reference = reference_outputs(model_of(module, specs), sets, options_of())
        assert torch.backends.cuda.matmul.allow_tf32 is True
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
    assert torch.cuda.memory_allocated() == held
    assert reference.how == "the module in float32 without TF32 on cuda:0"
    assert {p.device.type for p in module.parameters()} == {"cpu"}
    with torch.no_grad():
        exact = module.double()(torch.from_numpy(sets[0]["x"]).double()).numpy()
    module.float()
    np.testing.assert_allclose(reference.outputs[0][0], exact, rtol=1e-4, atol=1e-5)
    errors = {}
    for dtype in ("float32", "tf32", "float16", "bfloat16"):
        if dtype not in BACKEND.dtypes("cuda:0"):
            continue
        folder = tmp_path / dtype
        folder.mkdir()
        BACKEND.build(model_of(module, specs), options_of(dtype), folder)
        module.to("cpu", torch.float32)
        session = BACKEND.open(folder, options_of(dtype))
        session.bind(sets)
        found = compare(reference, (session.outputs(which) for which in range(4)))
        errors[dtype] = found.mean_relative_error
        session.close()
    assert errors["float32"] < 1e-5 < errors["float16"] < errors["bfloat16"] < 0.05
    if "tf32" in errors:
        assert errors["float32"] < errors["tf32"] < errors["bfloat16"]


def test_a_model_too_large_for_the_gpu_has_no_reference() -> None:
    free, _ = torch.cuda.mem_get_info()
    module = torch.nn.Module()
    with torch.device("meta"):
        module.weight = torch.nn.Parameter(torch.empty(free // 2, dtype=torch.float16))
    reference = reference_outputs(model_of(module), [], options_of())
    assert reference.outputs == ()
    assert reference.how.startswith("not enough memory for the float32 model on cuda:0 (its weigh")
