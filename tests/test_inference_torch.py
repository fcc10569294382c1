"""torch: the exported program's nodes, their times, and models that do not work."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejoule.errors import MeasurementError, UsageError  # noqa: E402
from edgejoule.inference import torch_backend, torch_graph  # noqa: E402
from edgejoule.inference.backend import BuildOptions, EngineDescription  # noqa: E402
from edgejoule.inference.inputs import make_inputs  # noqa: E402
from edgejoule.inference.probe import Probe  # noqa: E402
from edgejoule.inference.torch_backend import TorchBackend  # noqa: E402
from edgejoule.inference.workload import InputSpec, LoadedModel  # noqa: E402
from tests.support_models import torch_module  # noqa: E402

pytestmark = pytest.mark.torch

BACKEND = TorchBackend()
IMAGE = (InputSpec("x", (1, 3, 16, 16)),)
IDS = (InputSpec("ids", (1, 6), "int64", high=11), InputSpec("x", (1, 6, 4)))
CPU = BuildOptions("float32", threads=1)


def model_of(module: Any, specs: tuple[InputSpec, ...] = IMAGE) -> LoadedModel:
    return LoadedModel("net", "torch", module, None, specs, "random", {})


def build(folder: Path, module: Any, options: BuildOptions = CPU, **kwargs: Any) -> Any:
    return BACKEND.build(model_of(module, **kwargs), options, folder)


@pytest.fixture(scope="module")
def conv(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, EngineDescription, Path]:
    folder = tmp_path_factory.mktemp("conv")
    module = torch_module("conv")
    return module, build(folder, module), folder


def test_layers_are_the_nodes_with_their_modules(
    conv: tuple[Any, EngineDescription, Path],
) -> None:
    _, engine, _ = conv
    by_name = {layer.name: layer for layer in engine.layers}
    first = engine.layers[0]
    assert (first.type, first.module_path) == ("aten.conv2d.default", "features.0")
    assert by_name["linear"].module_path == "head"
    assert by_name["conv2d_1"].module_path == "block"
    assert first.inputs[0].shape == (1, 3, 16, 16)
    assert first.outputs[0].shape == (1, 8, 16, 16)
    assert first.attributes["kernel_size"] == [3, 3]
    assert first.attributes["padding"] == [1, 1]
    assert first.flops == 2 * (8 * 256) * 27
    assert first.bytes_moved == 4 * (3 * 256 + 8 * 256 + 8 * 27 + 8)
    assert by_name["linear"].flops == 2 * 10 * 16
    assert by_name["max_pool2d"].flops == 8 * 64 * 4
    assert by_name["cat"].flops == 0
    assert by_name["amax"].flops is None
    chunk = by_name["chunk"]
    assert chunk.nodes == ("chunk", "getitem", "getitem_1")  # taken out within the chunk's time
    assert [tensor.shape for tensor in chunk.outputs] == [(1, 4, 8, 8)] * 2
    assert not any("getitem" in layer.name for layer in engine.layers)
    json.dumps(engine.to_json(), allow_nan=False)
    assert engine.settings["export_strict"] in (True, False)


def profile(session: Any, sets: list, runs: int = 12) -> tuple[Any, list[tuple[int, int]]]:
    profiler = session.profiler()
    profiler.start(runs)
    spans = []
    for index in range(runs):
        start = time.monotonic_ns()
        profiler.infer(index % len(sets))
        spans.append((start, time.monotonic_ns()))
    times = profiler.harvest(spans)
    profiler.close()
    return times, spans


def test_the_session_computes_what_the_module_does(
    conv: tuple[Any, EngineDescription, Path],
) -> None:
    module, _, folder = conv
    session = BACKEND.open(folder, CPU)
    sets, _ = make_inputs("normal", IMAGE, None, 0)
    session.bind(sets)
    before = sets[1]["x"].copy()
    for which in range(4):
        session.infer(which)
    with torch.no_grad():
        expected = module(torch.from_numpy(sets[1]["x"]))
    logits, unused = session.outputs(1)
    np.testing.assert_allclose(logits, expected["logits"].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(unused, expected["unused"][0].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(sets[1]["x"], before)
    session.close()


def test_layer_times_lie_within_their_inferences(
    conv: tuple[Any, EngineDescription, Path],
) -> None:
    _, engine, folder = conv
    session = BACKEND.open(folder, CPU)
    sets, _ = make_inputs("normal", IMAGE, None, 0)
    session.bind(sets)
    times, spans = profile(session, sets)
    count = len(engine.layers)
    offsets = times.start_offset_ns.reshape(12, count)
    ends = offsets + times.duration_ns.reshape(12, count)
    lengths = np.array([end - start for start, end in spans])
    assert times.inferences == 12
    assert (times.layer.reshape(12, count) == np.arange(count)).all()
    assert (times.inference.reshape(12, count) == np.arange(12)[:, None]).all()
    assert (offsets >= 0).all()
    assert (ends[:, :-1] <= offsets[:, 1:]).all()
    assert (ends[:, -1] <= lengths).all()
    session.infer(0)
    session.close()


def test_the_flat_program_computes_what_the_graph_does(
    conv: tuple[Any, EngineDescription, Path],
) -> None:
    _, _, folder = conv
    module = torch.export.load(str(folder / "program.pt2")).module()
    program = torch_graph.flatten_program(module)
    x = torch.randn(1, 3, 16, 16)
    environment = program.start([x.clone()])
    for step in program.steps:
        args, kwargs = program.arguments(step, environment)
        value = step.function(*args, **kwargs)
        environment[step.out] = value
        for path, slot in step.items:
            for index in path:
                environment[slot] = value[index]
        for slot in step.free:
            environment[slot] = None
    slots = {node.name: index for index, node in enumerate(module.graph.nodes)}
    expected = module(x.clone())
    torch.testing.assert_close(environment[slots["linear"]], expected["logits"])
    left = [name for name, slot in slots.items() if environment[slot] is not None]
    weights = [node.name for node in module.graph.nodes if node.op in ("get_attr", "placeholder")]
    assert set(left) - set(weights) == {"linear", "flatten"}  # all but the outputs is freed


def test_the_layers_account_for_a_real_networks_time(tmp_path: Path) -> None:
    """Not a limit on speed: what lies between the stamps against what lies outside them."""

    class Wide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(
                *(torch.nn.Conv2d(64, 64, 3, padding=1) for _ in range(4))
            )

        def forward(self, x: Any) -> Any:
            return self.body(x)

    specs = (InputSpec("x", (1, 64, 64, 64)),)
    build(tmp_path, Wide(), specs=specs)
    session = BACKEND.open(tmp_path, CPU)
    sets, _ = make_inputs("normal", specs, None, 0)
    session.bind(sets)
    times, spans = profile(session, sets)
    within = np.bincount(times.inference, weights=times.duration_ns)
    lengths = np.array([end - start for start, end in spans])
    assert np.median(within / lengths) > 0.9


def test_integer_inputs_and_reduced_precision(tmp_path: Path) -> None:
    options = BuildOptions("bfloat16", threads=1)
    engine = build(tmp_path, torch_module("ids"), options, specs=IDS)
    assert {tensor.dtype for layer in engine.layers for tensor in layer.outputs} == {"bfloat16"}
    assert engine.layers[0].inputs[0].dtype == "int64"
    session = BACKEND.open(tmp_path, options)
    sets, _ = make_inputs("normal", IDS, None, 0)
    session.bind(sets)
    (output,) = session.outputs(0)
    assert output.dtype == np.float32
    with torch.no_grad():
        expected = torch_module("ids")(*(torch.from_numpy(sets[0][name]) for name in ("ids", "x")))
    np.testing.assert_allclose(output, expected.numpy(), rtol=0.05, atol=0.05)


def test_channels_last_is_applied_and_recorded(tmp_path: Path) -> None:
    options = BuildOptions("float32", extra={"channels_last": True})
    engine = build(tmp_path, torch_module("conv"), options)
    assert engine.settings["channels_last"] is True
    session = BACKEND.open(tmp_path, options)
    sets, _ = make_inputs("normal", IMAGE, None, 0)
    session.bind(sets)
    with torch.no_grad():
        expected = torch_module("conv")(torch.from_numpy(sets[0]["x"]))["logits"]
    np.testing.assert_allclose(session.outputs(0)[0], expected.numpy(), rtol=1e-4, atol=1e-5)
    assert session.settings()["threads"] >= 1
    assert session.settings()["memory_limit"]["kind"] == "none"


def test_a_saved_program_is_taken_as_it_is_or_cast(tmp_path: Path) -> None:
    module = torch_module("conv")
    program = torch.export.export(module, (torch.zeros(1, 3, 16, 16),), strict=False)
    same = build(tmp_path, program)
    assert same.settings["export_strict"] is None
    cast = build(tmp_path, program, BuildOptions("bfloat16"))
    assert cast.layers[0].outputs[0].dtype == "bfloat16"
    assert cast.layers[0].module_path == "features.0"


def test_a_program_with_keyword_inputs_is_refused(tmp_path: Path) -> None:
    program = torch.export.export(
        torch_module("conv"), (), {"x": torch.zeros(1, 3, 16, 16)}, strict=False
    )
    with pytest.raises(UsageError, match=r"keyword inputs \['x'\]"):
        build(tmp_path, program)


def test_a_saved_program_of_another_shape_is_refused(tmp_path: Path) -> None:
    program = torch.export.export(torch_module("conv"), (torch.zeros(1, 3, 16, 16),), strict=False)
    with pytest.raises(UsageError, match="model net raises when it is run"):
        build(tmp_path, program, specs=(InputSpec("x", (1, 3, 20, 20)),))


def test_models_that_do_not_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"net raises when it is run .*this model never works"):
        build(tmp_path, torch_module("raises"))
    with pytest.raises(UsageError, match=r"net cannot be exported by torch\.export") as caught:
        build(tmp_path, torch_module("fickle"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    with pytest.raises(UsageError, match="without a torch module"):
        build(tmp_path, None)
    with pytest.raises(UsageError, match="no option 'graph_optimization'"):
        build(
            tmp_path, torch_module("conv"), BuildOptions("float32", extra={"graph_optimization": 1})
        )


def test_a_model_that_returns_nothing_is_found(tmp_path: Path) -> None:
    specs = (InputSpec("x", (1, 16)),)
    build(tmp_path, torch_module("nothing"), specs=specs)
    session = BACKEND.open(tmp_path, CPU)
    session.bind(make_inputs("normal", specs, None, 0)[0])
    with pytest.raises(MeasurementError, match="returns nothing"):
        session.outputs(0)


def test_complex_outputs_are_left_out(tmp_path: Path) -> None:
    class Spectrum(torch.nn.Module):
        def __init__(self, *, alone: bool) -> None:
            super().__init__()
            self.alone = alone

        def forward(self, x: Any) -> Any:
            found = torch.fft.rfft(x)
            return found if self.alone else (found, x * 2)

    specs = (InputSpec("x", (1, 16)),)
    sets, _ = make_inputs("normal", specs, None, 0)
    for alone in (False, True):
        build(tmp_path, Spectrum(alone=alone).eval(), specs=specs)
        session = BACKEND.open(tmp_path, CPU)
        session.bind(sets)
        if alone:
            with pytest.raises(MeasurementError, match="returns nothing but complex numbers"):
                session.outputs(0)
        else:
            (doubled,) = session.outputs(0)
            np.testing.assert_allclose(doubled, 2 * sets[0]["x"], rtol=1e-6)
        session.close()


def test_other_steps_than_described_are_refused(tmp_path: Path) -> None:
    build(tmp_path, torch_module("ids"), specs=IDS)
    (tmp_path / "torch.json").write_text('{"steps": ["embedding", "add"]}')
    with pytest.raises(MeasurementError, match="other nodes than those described"):
        BACKEND.open(tmp_path, CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"sees no CUDA device.*--device cpu"):
        build(tmp_path, torch_module("conv"), BuildOptions("float16", device="cuda:0"))


def test_what_it_offers_here() -> None:
    available = BACKEND.availability()
    assert available.usable
    assert f"torch {torch.__version__}" in available.why
    assert BACKEND.dtypes("cpu") == ("float32", "bfloat16")
    assert BACKEND.dtypes("cuda:0")[0] == "float16"
    assert not {"int8", "fp8"} & set(BACKEND.dtypes("cuda:0"))
    assert BACKEND.dtypes("tpu") == ()
    assert BACKEND.devices()[-1] == "cpu"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (BuildOptions("tf32"), "dtype tf32: device cpu has no TF32; use --dtype float32"),
        (BuildOptions("int8"), "backend torch does not quantise to int8; use --backend tensorrt"),
        (
            BuildOptions("float32", extra={"cuda_graphs": True}),
            "--cuda-graphs: device cpu has no CUDA graphs; leave out --cuda-graphs",
        ),
    ],
)
def test_what_a_cpu_does_not_have_is_refused(
    tmp_path: Path, options: BuildOptions, said: str
) -> None:
    for doing in (lambda: build(tmp_path, torch_module("conv"), options),
                  lambda: BACKEND.open(tmp_path, options)):  # fmt: skip
        with pytest.raises(UsageError) as caught:
            doing()
        assert said in str(caught.value)


def test_tf32_is_offered_by_the_gpus_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"torch": "2.8.0", "gpus": ["new", "old"], "capabilities": [[8, 7], [7, 2]]}
    monkeypatch.setattr(torch_backend, "probe", lambda _: Probe(facts=facts))
    assert BACKEND.dtypes("cuda:0") == ("float16", "float32", "bfloat16", "tf32")
    assert "tf32" not in BACKEND.dtypes("cuda:1")
    assert "tf32" in BACKEND.dtypes("cuda:2")  # not seen here: the build will look


def test_a_gpu_without_tf32_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 2))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Xavier")
    with pytest.raises(UsageError, match=r"Xavier of compute capability 7\.2 has no TF32"):
        BACKEND.open(tmp_path, BuildOptions("tf32", device="cuda:0"))


@pytest.mark.parametrize(("dtype", "allowed"), [("float32", False), ("tf32", True)])
def test_float32_forbids_tf32_everywhere(
    monkeypatch: pytest.MonkeyPatch, dtype: str, allowed: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 7))
    matmul, cudnn = SimpleNamespace(), SimpleNamespace()
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    monkeypatch.setattr(torch.backends, "cudnn", cudnn)
    torch_backend._apply(BuildOptions(dtype, device="cuda:0"))
    assert (matmul.allow_tf32, cudnn.allow_tf32) == (allowed, allowed)


def test_transposed_convolutions_attention_and_nested_arguments(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = torch.nn.ConvTranspose2d(3, 4, 2, stride=2)

        def forward(self, x: Any) -> Any:
            x = self.up(x)  # 1, 4, 32, 32
            q = torch.nn.functional.scaled_dot_product_attention(x, x, x)
            q = torch.nn.functional.avg_pool2d(q, 2)
            picked = q[:, [0, 2]]  # an index in a list
            return torch.stack([picked, picked * 2]).to(dtype=torch.float64)

    engine = build(tmp_path, Net())
    by_type = {str(layer.type): layer for layer in engine.layers}
    up = by_type["aten.conv_transpose2d.input"]
    assert up.flops == 2 * (3 * 16 * 16) * (4 * 2 * 2)
    attention = by_type["aten.scaled_dot_product_attention.default"]
    assert attention.flops == 2 * (4 * 32 * 32) * 32 * 2
    assert by_type["aten.avg_pool2d.default"].flops == 4 * 16 * 16 * 4
    session = BACKEND.open(tmp_path, CPU)
    sets, _ = make_inputs("normal", IMAGE, None, 0)
    session.bind(sets)
    (output,) = session.outputs(0)
    assert output.dtype == np.float64
    assert profile(session, sets)[0].inferences == 12
