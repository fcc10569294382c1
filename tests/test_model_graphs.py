"""The graphs kept without weights: filled without torch, and as the real definitions give them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
onnx = pytest.importorskip("onnx")

import model  # noqa: E402
from edgejoule.inference.workload import LoadedModel, ModelRequest  # noqa: E402
from model.loading.kept_graph import FOLDER, kept_path  # noqa: E402
from model.loading.network import find  # noqa: E402
from model.loading.weights import draw  # noqa: E402

ROOT = FOLDER.parent.parent
EXPECTED = [0.75021684, 0.07121509, 0.27331242, -1.12550604, 0.42546803, 1.13766515]


def load(name: str, folder: Path, seed: int = 0, form: str = "onnx") -> LoadedModel:
    return model.load(ModelRequest(name, "random", seed, None, form, folder))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", model.DEMO)
def test_a_kept_file_is_valid_small_and_names_no_machine(name: str) -> None:
    path = kept_path(name)
    data = path.read_bytes()
    assert len(data) < 100_000
    for word in (b".py", b"site-packages", b"/home", b"\\Users"):
        assert word not in data
    onnx.checker.check_model(str(path), full_check=True)


@pytest.mark.parametrize("name", model.DEMO)
def test_a_kept_graph_runs_and_its_outputs_are_sensible(name: str, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    loaded = load(name, tmp_path)
    assert (loaded.name, loaded.form, loaded.weights) == (name, "onnx", "random")
    assert loaded.onnx_path is not None
    assert [item.shape for item in loaded.inputs] == [find(name).input_shape]
    proto = onnx.load(str(loaded.onnx_path))
    assert [item.name for item in proto.graph.input] == [loaded.inputs[0].name]
    names = [node.name for node in proto.graph.node]
    assert len(names) == len(set(names))
    # All but the reshaping between the convolutions and the classifier belongs to a module.
    assert set(loaded.module_paths) <= set(names)
    unmapped = {n.op_type for n in proto.graph.node if n.name not in loaded.module_paths}
    assert unmapped <= {"Reshape", "ReduceMean"}
    session = ort.InferenceSession(str(loaded.onnx_path), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(1)
    values = [
        session.run(None, {"input": random.standard_normal(find(name).input_shape, np.float32)})[0]
        for _ in range(2)
    ]
    for value in values:
        assert np.isfinite(value).all()
        assert 0.01 < value.std() < 1000  # neither vanishing nor out of float16's range
    assert np.abs(values[0] - values[1]).max() > 1e-3


def test_a_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    files = []
    for seed, place in ((0, "a"), (0, "b"), (1, "c")):
        (tmp_path / place).mkdir()
        path = load("lenet", tmp_path / place, seed).onnx_path
        assert path is not None
        files.append(path.read_bytes())
    assert files[0] == files[1] != files[2]


def test_random_tensors_are_the_same_on_every_machine() -> None:
    """Fixed values: if a numpy drew others, the same run would have other weights."""
    weight = draw("conv1.weight", 0, (2, 3, 1, 1)).ravel()
    assert weight.dtype == np.float32
    assert weight.tolist() == pytest.approx(EXPECTED, rel=1e-6)
    big = draw("x.weight", 5, (50, 40, 3, 3))
    assert big.std() == pytest.approx((1.25 / 360) ** 0.5, rel=0.02)
    assert draw("x.bias", 5, (20_000,)).std() == pytest.approx(0.01, rel=0.02)
    assert not np.array_equal(draw("a", 0, (4,)), draw("b", 0, (4,)))


def test_the_demo_is_loaded_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'onnxscript'): sys.modules[name] = None\n"
        "import model\n"
        "from pathlib import Path\n"
        "from edgejoule.inference.workload import ModelRequest\n"
        "for weights in ('random', 'pretrained'):\n"
        f"  r = ModelRequest('lenet', weights, 0, None, 'onnx', Path({str(tmp_path)!r}))\n"
        "  print(model.load(r).weights)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    # No weights of lenet are published: `pretrained` is random, and says so.
    assert done.stdout.split() == ["random", "random"]


@pytest.mark.torch
@pytest.mark.parametrize("name", model.DEMO)
def test_the_kept_graph_computes_what_the_torch_module_computes(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    ort = pytest.importorskip("onnxruntime")
    graph, module = load(name, tmp_path, 7), load(name, tmp_path, 7, "torch")
    assert graph.inputs == module.inputs
    values = np.random.default_rng(2).standard_normal(find(name).input_shape).astype(np.float32)
    session = ort.InferenceSession(str(graph.onnx_path), providers=["CPUExecutionProvider"])
    ours = session.run(None, {"input": values})[0]
    theirs = module.module(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())
    paths = {path for path, _ in module.module.named_modules()}
    assert set(graph.module_paths.values()) <= paths


@pytest.mark.torch
def test_the_kept_graphs_are_what_the_script_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    pytest.importorskip("onnxscript")
    from model.graphs.make import main
    from model.loading.kept_graph import MADE_WITH

    assert main(["--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("KiB") == len(model.DEMO)
    for name in model.DEMO:
        kept, fresh = onnx.load(str(kept_path(name))), onnx.load(str(tmp_path / f"{name}.onnx"))
        assert [n.op_type for n in kept.graph.node] == [n.op_type for n in fresh.graph.node]
        made_with = {e.key: e.value for e in kept.metadata_props}[MADE_WITH]
        if f"torch {torch.__version__.partition('+')[0]}," in made_with:
            assert kept_path(name).read_bytes() == (tmp_path / f"{name}.onnx").read_bytes()


@pytest.mark.torch
def test_the_script_refuses_a_weight_that_it_could_not_fill(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from model.graphs import make

    def strange() -> object:
        from torch import nn

        class Strange(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(4, 10)
                import torch

                self.register_buffer("table", torch.arange(100.0).reshape(1, 100))

            def forward(self, x: object) -> object:
                return self.fc(x).sum() * self.table

        return Strange()

    network = model.Network("strange", "strange", strange, input_shape=(1, 4))
    monkeypatch.setattr(make, "find", lambda _: network)
    monkeypatch.setattr(make, "DEMO", ("strange",))
    assert make.main(["--output", str(tmp_path)]) == 1
    assert "weight 'table' comes from no parameter" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
