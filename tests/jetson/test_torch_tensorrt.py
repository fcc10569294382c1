"""Torch-TensorRT on this machine: plans out of its modules, run on a runtime of our own.

The method rests on this: that the bytes taken out of a compiled module give, on our own runtime,
the outputs that the module gives.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.errors import EdgejouleError, UsageError
from edgejoule.inference.trt.cuda import load_cuda
from edgejoule.inference.trt.describe import describe_engine
from edgejoule.inference.trt.library import load_tensorrt
from edgejoule.inference.trt.torch_arguments import choose_arguments
from edgejoule.inference.trt.torch_compile import (
    applied,
    compile_function,
    compile_program,
    load_torch_tensorrt,
)
from edgejoule.inference.trt.torch_parts import Parts, take_apart
from tests.jetson.conftest import Notes
from tests.jetson.running import Running, far, middle

pytestmark = [pytest.mark.jetson, pytest.mark.timeout(900)]

SECTION = "torch_tensorrt"


@pytest.fixture(scope="module")
def package(notes: Notes) -> Any:
    try:
        found = load_torch_tensorrt()
    except UsageError as error:
        notes.note(SECTION, "version", str(error))
        pytest.skip(str(error))
    notes.note(SECTION, "version", found.__version__)
    features = getattr(found, "ENABLED_FEATURES", None)
    notes.note(SECTION, "features", features)
    return found


def network() -> Any:
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    ).eval()


def example(dtype: str) -> Any:
    import torch

    torch.manual_seed(1)
    return torch.randn(1, 3, 64, 64).to("cuda", getattr(torch, dtype))


def compiled(
    package: Any, folder: Path, dtype: str, python: bool | None = None, *, pool: bool = False
) -> Any:
    """Compile the network; `python` asks for a class of modules, `pool` leaves that in PyTorch."""
    import torch

    _, parameters, version = compile_function(package)
    arguments = choose_arguments(
        parameters,
        version,
        dtype=dtype,
        device="cuda:0",
        extra={"min_block_size": 1},
        timing_cache=str(folder / "timing.cache"),
    )
    if python is not None:
        if "use_python_runtime" not in arguments.passed:
            pytest.skip(f"torch_tensorrt {version} has one class of modules")
        passed = {**arguments.passed, "use_python_runtime": python}
        arguments = replace(arguments, passed=passed)
    image = example(dtype)
    module = network().to("cuda", image.dtype)
    with torch.inference_mode():
        program = torch.export.export(module, (image,))
        pools = (torch.ops.aten.max_pool2d, torch.ops.aten.max_pool2d_with_indices)
        ops = frozenset(one.default for one in pools) if pool else frozenset()
        return compile_program(package, program, (image,), arguments, torch_executed_ops=ops)


def told(parts: Parts) -> str:
    """Return the parts in the order of execution."""
    engines = ", ".join(f"{one.name} in {one.held_by} ({len(one.plan)} B)" for one in parts.engines)
    others = [n.name for n in parts.module.graph.nodes if n.op == "call_function"]
    return f"{engines}; in PyTorch: {', '.join(others) or 'nothing'}"


@pytest.mark.parametrize("python", [True, False, None], ids=["python", "cpp", "default"])
def test_a_plan_taken_out_gives_what_the_module_gives(
    package: Any, notes: Notes, tmp_path: Path, python: bool | None
) -> None:
    import torch

    name = {True: "Python class", False: "C++ class", None: "default class"}[python]
    try:
        found = compiled(package, tmp_path, "float32", python)
        parts = take_apart(found.module)
    except EdgejouleError as error:
        notes.note(SECTION, name, str(error))
        raise
    notes.note(SECTION, name, told(parts))
    assert len(parts.engines) == 1
    image = example("float32")
    with torch.inference_mode():
        expected = found.module(image)
        expected = (expected[0] if isinstance(expected, (tuple, list)) else expected).cpu().numpy()
    trt, cuda = load_tensorrt(), load_cuda()
    part = parts.engines[0]
    with contextlib.closing(Running(trt, cuda, part.plan)) as running:
        running.give(**{part.inputs[0]: image.cpu().numpy()})
        running.once()
        error = far(running.outputs()[part.outputs[0]], expected)
        ours = middle(running.latencies_ms(200))
        layers = describe_engine(running.engine.inspector_json())
    theirs = middle(times_of(found.module, image))
    notes.note(
        SECTION,
        f"{name}, its plan on our runtime",
        f"off by {error:.2g}; {ours:.4g} ms, the module itself {theirs:.4g} ms",
    )
    mapped = sum(layer.module_path is not None for layer in layers)
    notes.note(SECTION, f"{name}, layers with a module", f"{mapped} of {len(layers)}")
    notes.note(SECTION, f"{name}, in force", applied(found)["builder"])
    assert error < 1e-5


def times_of(module: Any, image: Any) -> list[float]:
    """Return a compiled module's latencies in ms, after some to warm up."""
    import torch

    found = []
    with torch.inference_mode():
        for index in range(220):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            module(image)
            end.record()
            end.synchronize()
            if index >= 20:
                found.append(start.elapsed_time(end))
    return found


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_dtype(package: Any, notes: Notes, tmp_path: Path, dtype: str) -> None:
    import torch

    found = compiled(package, tmp_path, dtype)
    image = example(dtype)
    with torch.inference_mode():
        got = found.module(image)
        got = (got[0] if isinstance(got, (tuple, list)) else got).float().cpu().numpy()
        expected = network()(example("float32").cpu()).numpy()
    error = far(np.asarray(got), expected)
    notes.note(
        SECTION, dtype, f"typing {found.arguments.typing}, off by {error:.2g} of the CPU's float32"
    )
    assert error < 0.1


def test_a_graph_break(package: Any, notes: Notes, tmp_path: Path) -> None:
    """A pooling left in PyTorch: two engines around it, in order."""
    found = compiled(package, tmp_path, "float32", pool=True)
    parts = take_apart(found.module)
    notes.note(SECTION, "graph break", told(parts))
    assert len(parts.engines) == 2
    assert "pool" in told(parts)


@pytest.mark.parametrize("python", [True, False], ids=["python", "cpp"])
def test_saving(package: Any, notes: Notes, tmp_path: Path, python: bool) -> None:
    """Whether a compiled module can be saved and loaded; nothing here rests on it."""
    import torch

    found = compiled(package, tmp_path, "float32", python)
    file, image = tmp_path / "compiled.ep", example("float32")
    try:
        with torch.inference_mode():
            package.save(found.module, str(file), inputs=[image])
            loaded = torch.export.load(str(file)).module()
            error = far(loaded(image).cpu().numpy(), found.module(image).cpu().numpy())
        told_so = f"saved ({file.stat().st_size} B) and loaded, off by {error:.2g}"
    except Exception as failure:  # noqa: BLE001  # how it fails is what is asked
        told_so = f"{type(failure).__name__}: {failure}"
    notes.note(SECTION, f"saving, {'Python' if python else 'C++'} class", told_so)


def test_torch_profiler(notes: Notes) -> None:
    """Whether torch.profiler sees device times here, which may need rights on a Jetson."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    from torch.profiler import ProfilerActivity, profile

    module, image = network().cuda(), example("float32")
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CUDA]) as seen:
        module(image)
        torch.cuda.synchronize()
    kernels = [one for one in seen.events() if str(one.device_type).endswith("CUDA")]
    notes.note("software", "torch.profiler", f"sees {len(kernels)} kernels on the device")
