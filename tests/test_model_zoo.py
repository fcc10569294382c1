"""Networks of the catalogue with torch: weights, seeds, shapes, exports."""

from __future__ import annotations

import gc
import hashlib
import http.server
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.torch

import model  # noqa: E402
from edgejoule.errors import UsageError  # noqa: E402
from edgejoule.inference.workload import LoadedModel, ModelRequest  # noqa: E402
from model.loading import dispatch, weights, zoo  # noqa: E402
from model.loading.network import Network, built_in, find  # noqa: E402


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    yield
    gc.collect()


def load(spec: str, folder: Path, **changes: Any) -> LoadedModel:
    asked = {"weights": "random", "seed": 0, "input_shape": None, "form": "torch"} | changes
    return model.load(ModelRequest(spec, directory=folder, **asked))


def state_digest(module: Any) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode() + value.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("network", list(built_in()), ids=lambda network: network.name)
def test_the_table_agrees_with_torchvision(network: Network) -> None:
    with torch.device("meta"):
        own = callable(network.builder)
        module = network.builder() if own else zoo._build_torchvision(network)
    assert sum(p.numel() for p in module.parameters()) == network.parameters
    if network.weights is None:
        return
    enum = torchvision.models.get_weight(network.weights)
    assert enum is torchvision.models.get_model_weights(network.name).DEFAULT
    assert enum.url == weights.HUB + str(network.weights_file)
    assert enum.meta["_file_size"] == network.download_mib
    assert enum.meta["num_params"] == network.parameters
    transform = enum.transforms()
    assert (tuple(transform.mean), tuple(transform.std)) == (network.mean, network.std)
    # torchvision counts multiply-adds; within 1 %, since it also counts a few other operations.
    assert network.gflops == pytest.approx(2 * enum.meta["_ops"], rel=0.01)


@pytest.mark.parametrize("name", ["lenet", "mobilenet_v3_small", "resnet18", "convnext_tiny"])
def test_a_network_runs_with_random_weights(name: str, tmp_path: Path) -> None:
    loaded = load(name, tmp_path)
    assert (loaded.name, loaded.form, loaded.weights) == (name, "torch", "random")
    assert loaded.inputs[0].shape == find(name).input_shape
    assert loaded.normalisation == find(name).normalisation()
    assert loaded.source["seed"] == 0
    assert not loaded.module.training
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    largest = [0.0]
    for part in loaded.module.modules():
        if isinstance(part, (torch.nn.Conv2d, torch.nn.Linear)):
            part.register_forward_hook(lambda _m, _i, out: largest.append(float(out.abs().max())))
    values = [loaded.module(torch.randn(loaded.inputs[0].shape)) for _ in range(2)]
    assert all(torch.isfinite(value).all() for value in values)
    assert max(largest) < 60_000  # float16 can hold it
    assert not torch.allclose(values[0], values[1], rtol=0, atol=1e-6)


def test_seeds_decide_random_weights_and_nothing_else_does(tmp_path: Path) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = state_digest(load("mobilenet_v3_small", tmp_path).module)
    assert torch.equal(before, torch.get_rng_state())  # the caller's numbers are left alone
    torch.randn(5)
    assert state_digest(load("mobilenet_v3_small", tmp_path).module) == first
    assert state_digest(load("mobilenet_v3_small", tmp_path, seed=1).module) != first


@pytest.mark.parametrize("shape", [(2, 3, 224, 224), (1, 3, 96, 160)])
@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_batch_and_size_may_change(shape: tuple[int, ...], form: str, tmp_path: Path) -> None:
    loaded = load("mobilenet_v3_small", tmp_path, input_shape=shape, form=form)
    assert loaded.inputs[0].shape == shape
    if form == "onnx":
        onnx = pytest.importorskip("onnx")
        proto = onnx.load(str(loaded.onnx_path))
        dims = proto.graph.input[0].type.tensor_type.shape.dim
        assert tuple(size.dim_value for size in dims) == shape


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lenet", (1, 1, 28, 28)),
        ("alexnet", (1, 3, 32, 32)),
        ("vgg11", (1, 3, 8, 8)),
        ("convnext_tiny", (1, 3, 2, 2)),
    ],
)
def test_a_shape_that_does_not_fit_names_the_own_one(
    name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    own = "x".join(map(str, find(name).input_shape))
    with pytest.raises(UsageError, match=f"{name} does not run with .*own shape is {own}") as found:
        load(name, tmp_path, input_shape=shape)
    assert "\n" not in str(found.value)


def test_a_segmentation_network_gives_a_dictionary_and_exports(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    shape = (1, 3, 64, 64)
    loaded = load("fcn_resnet50", tmp_path, input_shape=shape)
    outputs = loaded.module(torch.randn(shape))
    assert {key: tuple(v.shape) for key, v in outputs.items()} == {
        "out": (1, 21, 64, 64),
        "aux": (1, 21, 64, 64),
    }
    exported = load("fcn_resnet50", tmp_path, input_shape=shape, form="onnx")
    assert len(onnx.load(str(exported.onnx_path)).graph.output) == 2
    assert {"backbone.conv1", "classifier.4"} <= set(exported.module_paths.values())
    assert capfd.readouterr() == ("", "")


def test_an_export_computes_the_same_and_keeps_modules(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    shape = (2, 3, 64, 64)  # not the default one, so that the kept graph is not taken
    loaded = load("resnet18", tmp_path, input_shape=shape)
    exported = load("resnet18", tmp_path, input_shape=shape, form="onnx")
    assert exported.inputs == loaded.inputs
    modules = {name for name, _ in loaded.module.named_modules()}
    assert set(exported.module_paths.values()) <= modules
    assert {"conv1", "layer1.0.conv1", "layer4.1.conv2", "fc"} <= set(
        exported.module_paths.values()
    )
    values = torch.randn(shape)
    session = ort.InferenceSession(str(exported.onnx_path), providers=["CPUExecutionProvider"])
    ours = session.run(None, {"input": values.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(ours), loaded.module(values), rtol=1e-3, atol=1e-3)


def test_the_older_exporter_is_refused_with_the_other_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.onnx, "export", lambda model, args, f: None)
    with pytest.raises(UsageError, match=r"cannot export vgg11.*--backend torch"):
        load("vgg11", tmp_path, form="onnx", input_shape=(1, 3, 64, 64))


def test_an_export_without_onnxscript_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert model.describe("mobilenet_v3_small").forms == ("torch",)
    with pytest.raises(UsageError, match=r"needs onnxscript .*pip install onnx onnxscript, or use"):
        load("mobilenet_v3_small", tmp_path, form="onnx")


def test_a_network_that_this_torchvision_lacks() -> None:
    for builder in ("resnet9000", "nowhere.resnet18"):
        with pytest.raises(UsageError, match=f"has no {builder}; update torchvision"):
            zoo.build(replace(find("resnet18"), builder=builder), "random", 0)


def test_lenet_has_no_published_weights_and_says_random(tmp_path: Path) -> None:
    loaded = load("lenet", tmp_path, weights="pretrained", seed=4)
    assert (loaded.weights, loaded.source["seed"]) == ("random", 4)
    assert loaded.source["library"] == "model/lenet.py"


def test_a_dropped_in_network_may_bring_its_own_weights(tmp_path: Path) -> None:
    def build() -> Any:
        layer = torch.nn.Linear(3, 2)
        torch.nn.init.constant_(layer.weight, 0.5)
        return layer

    network = Network("mine", "mine", build, input_shape=(1, 3), weights="own")
    asked = ModelRequest("mine", "pretrained", 0, None, "torch", tmp_path)
    loaded = zoo.load_network(network, asked)
    assert loaded.weights == "user"
    assert float(loaded.module.weight.mean()) == 0.5


# Published weights ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Network, str]:
    """Weights as a server has them: a file named after its hash; and the network they belong to."""
    torch.manual_seed(99)
    module = torchvision.models.mobilenet_v3_small(weights=None)
    folder = tmp_path_factory.mktemp("server")
    torch.save(module.state_dict(), folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
    path = (folder / "new.pth").rename(folder / f"small-{digest[:8]}.pth")
    return path, replace(find("mobilenet_v3_small"), weights_file=path.name), state_digest(module)


@pytest.fixture
def served(trained: tuple[Path, Network, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server on loopback in the place of torchvision's."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(trained[0].parent))

        def log_message(self, *_: Any) -> None: ...

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(weights, "HUB", url)
        yield url
        server.shutdown()
        thread.join()


def ask(network: Network, folder: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    monkeypatch.setattr(dispatch, "find", lambda _: network)
    return load(network.name, folder, weights="pretrained")


def test_weights_are_downloaded_once_and_loaded(
    served: str,
    trained: tuple[Path, Network, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, network, digest = trained
    assert weights.cached_file(network) is None
    loaded = ask(network, tmp_path, monkeypatch)
    assert state_digest(loaded.module) == digest
    assert loaded.weights == "pretrained"
    assert loaded.source["weights"] == network.weights
    assert loaded.source["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    cached = weights.cached_file(network)
    assert cached is not None
    assert cached.parent == tmp_path / "torch" / "hub" / "checkpoints"
    assert socket.getdefaulttimeout() is None
    monkeypatch.setattr(weights, "HUB", "http://127.0.0.1:9/")  # from now on nobody answers
    assert state_digest(ask(network, tmp_path, monkeypatch).module) == digest


def test_a_damaged_download_is_refused_and_not_kept(
    served: str,
    trained: tuple[Path, Network, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = replace(trained[1], weights_file="small-00000000.pth")
    wrong = trained[0].parent / "small-00000000.pth"
    wrong.write_bytes(b"not these")
    with pytest.raises(UsageError, match=r"cannot be had .*invalid hash.*--weights random"):
        ask(network, tmp_path, monkeypatch)
    assert weights.cached_file(network) is None
    assert list(weights.cache_folder().iterdir()) == []


def test_a_damaged_file_in_the_cache_is_named(
    trained: tuple[Path, Network, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = trained[1]
    weights.cache_folder().mkdir(parents=True)
    cached = weights.cache_folder() / str(network.weights_file)
    cached.write_bytes(trained[0].read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"is damaged: its SHA-256 starts with .*delete it"):
        ask(network, tmp_path, monkeypatch)


def test_weights_of_another_network_are_named(
    trained: tuple[Path, Network, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = weights.cache_folder()
    folder.mkdir(parents=True)
    (folder / "other.pth").write_bytes(trained[0].read_bytes())
    (folder / "text.pth").write_text("hello")
    for file in ("other.pth", "text.pth"):
        network = replace(find("resnet18"), weights_file=file)
        with pytest.raises(UsageError, match="does not hold the weights of resnet18") as caught:
            ask(network, tmp_path, monkeypatch)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 700


def test_no_server_is_one_line_that_names_random_weights(
    trained: tuple[Path, Network, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        monkeypatch.setattr(weights, "HUB", f"http://127.0.0.1:{taken.getsockname()[1]}/")
        with pytest.raises(UsageError) as caught:
            ask(trained[1], tmp_path, monkeypatch)
    line = str(caught.value)
    assert "--weights random" in line
    assert str(weights.cache_folder()) in line
    assert "\n" not in line
    assert caught.value.exit_code == 2


def test_a_file_that_the_server_lacks(
    served: str,
    trained: tuple[Path, Network, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = replace(trained[1], weights_file="none-12345678.pth")
    with pytest.raises(UsageError, match="404"):
        ask(network, tmp_path, monkeypatch)


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # accepts connections and says nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        assert weights._unreachable(url, 0.2) is not None


def test_a_cache_that_cannot_be_written(
    trained: tuple[Path, Network, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="cannot be made"):
        ask(trained[1], tmp_path, monkeypatch)


def test_weights_that_nobody_published() -> None:
    with pytest.raises(UsageError, match="no pretrained weights are published for lenet"):
        weights.load_pretrained(None, find("lenet"))
