"""torch's replay on a real NVIDIA GPU: the same kernels, the same values, memory given back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from edgejoule.inference.backend import BuildOptions  # noqa: E402
from edgejoule.inference.inputs import make_inputs  # noqa: E402
from edgejoule.inference.torch_backend import TorchBackend  # noqa: E402
from edgejoule.inference.workload import InputSpec, LoadedModel  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

BACKEND = TorchBackend()


class Block(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(width)

    def forward(self, x: Any) -> Any:
        y = torch.nn.functional.relu(self.norm(self.conv(x)), inplace=True)
        y += x
        return torch.nn.functional.hardtanh(y, -8.0, 8.0, inplace=True)


class Net(torch.nn.Module):
    def __init__(self, width: int = 32, wide: int = 512) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, width, 3, padding=1)
        self.blocks = torch.nn.Sequential(*(Block(width) for _ in range(3)))
        self.pool = torch.nn.AdaptiveAvgPool2d(4)
        self.head = torch.nn.Sequential(
            torch.nn.Linear(16 * width, wide), torch.nn.ReLU(), torch.nn.Linear(wide, 10)
        )

    def forward(self, x: Any) -> Any:
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))


def opened(folder: Path, module: Any, batch: int = 4, **extra: Any) -> Any:
    torch.manual_seed(0)
    specs = (InputSpec("x", (batch, 3, 32, 32)),)
    options = BuildOptions("float16", device="cuda:0", extra=extra)
    model = LoadedModel("net", "torch", module.eval(), None, specs, "random", {})
    BACKEND.build(model, options, folder)
    session = BACKEND.open(folder, options)
    session.bind(make_inputs("normal", specs, None, 0)[0])
    return session


@pytest.fixture(params=[False, True], ids=["contiguous", "channels_last"])
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    found = opened(tmp_path, Net(), channels_last=request.param, cudnn_benchmark=request.param)
    yield found
    found.close()


def test_every_layer_alone_launches_the_kernels_that_it_launches_in_the_network(
    session: Any,
) -> None:
    replayer = session.replayer()
    plan = replayer.plan()
    kernels = session._engine["kernels"]
    assert plan.left_out == {}
    assert set(plan.nothing) == {index for index, count in enumerate(kernels) if count == 0}
    assert max(len(group) for group in plan.groups) == 3
    in_place = 0
    for group in plan.groups:
        one = replayer.layer(group[0])
        facts = one.facts()
        assert facts["how"] == "CUDA graph"
        assert 100 < facts["clock_mhz"] < 5000
        assert facts["kernels_per_execution"] == facts["kernels_in_network"] > 0, facts
        assert facts["executions_per_launch"] % facts["cycle"] == 0
        assert one.launch() == one.launch() == facts["executions_per_launch"]
        in_place += facts["in_place_replaced"]
        one.close()
    assert in_place >= 3
    whole = replayer.whole()
    assert whole.facts()["kernels_per_execution"] == sum(kernels)
    assert whole.facts()["executions_per_launch"] % 4 == 0
    whole.close()
    replayer.close()


def test_one_layer_again_adds_its_kernels_and_nothing_else(session: Any) -> None:
    replayer = session.replayer()
    plan = replayer.plan()
    kernels = session._engine["kernels"]
    for cache in (replayer._cache, 1024):
        replayer._cache = cache  # with the small one all is read from copies
        for index in plan.duplicable[:4]:
            for copies in (1, 8):
                it = replayer.duplicated(index, copies)
                facts = it.facts()
                expected = sum(kernels) + (copies - 1) * kernels[index]
                assert facts["kernels_per_execution"] == expected
                assert it.launch() > 0
                it.close()
    replayer.close()


def test_memory_is_given_back_between_layers(session: Any) -> None:
    replayer = session.replayer()
    plan = replayer.plan()

    def every() -> int:
        for group in plan.groups:
            one = replayer.layer(group[0])
            one.launch()
            one.close()
        again = replayer.duplicated(plan.duplicable[0], 4)
        again.launch()
        again.close()
        return int(torch.cuda.memory_allocated())

    every()  # libraries take their workspaces once
    held = torch.cuda.memory_allocated()
    assert every() == held
    replayer.close()


def test_a_weight_larger_than_the_cache_is_rotated_only_beside_others(tmp_path: Path) -> None:
    """Two products whose weights exceed the cache together: each comes from memory every time."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    wide = int((0.7 * cache / 2) ** 0.5) // 64 * 64
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(3 * 32 * 32, wide),
        *(torch.nn.Linear(wide, wide) for _ in range(3)),
    )
    session = opened(tmp_path, module, batch=1)
    replayer = session.replayer()
    plan = replayer.plan()
    group = next(group for group in plan.groups if len(group) == 3)
    one = replayer.layer(group[0])
    weight = next(r for r in one.facts()["rotation"] if r["tensor"] == "weight 1")
    assert weight["distance_bytes"] > cache
    assert weight["copies"] >= 2
    assert weight["reached_bytes"] > cache
    one.close()
    it = replayer.duplicated(group[0], 4)
    assert "weight 1" in it.facts()["cold_tensors"]
    it.close()
    replayer.close()
    session.close()


class Looks(torch.nn.Module):
    """The shape of what it returns follows from values, for which the host must wait."""

    def forward(self, x: Any) -> Any:
        return torch.nonzero(x > 0).to(x.dtype).sum() + x.mean()


def test_what_cannot_be_captured_is_called_by_the_host(tmp_path: Path) -> None:
    session = opened(tmp_path, Looks())
    replayer = session.replayer()
    plan = replayer.plan()
    hows = {}
    for group in plan.groups:
        one = replayer.layer(group[0])
        hows[one.facts()["operation"]] = one.facts()["how"]
        assert one.launch() > 0
        one.close()
    assert hows.pop("aten.nonzero.default").startswith("loop of the host")
    assert "CUDA graph" in hows.values()
    whole = replayer.whole()
    assert whole.facts()["how"].startswith("loop of the host")
    assert whole.launch() > 0
    whole.close()
    replayer.close()
    session.infer(0)  # the GPU is sound
    session.close()
