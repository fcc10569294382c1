"""What is known of models without a framework: names, facts, specs, errors."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import model
from edgejoule.config import check_name
from edgejoule.errors import UsageError
from edgejoule.inference.workload import ModelRequest
from model.loading import network as network_module
from model.loading.network import Network, built_in, find
from model.loading.node_paths import CLASS_HIERARCHY, NAME_SCOPES, module_path
from model.loading.spec import one_line, parse_spec, sha256_of, shape_text
from model.loading.weights import cache_folder

ROOT = Path(__file__).resolve().parent.parent
NAMES = (*model.EXPERIMENT, "fcn_resnet50")


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def request(spec: str, folder: Path, **changes: object) -> ModelRequest:
    asked: dict[str, object] = {
        "spec": spec,
        "weights": "random",
        "seed": 0,
        "input_shape": None,
        "form": "onnx",
        "directory": folder,
    }
    return ModelRequest(**{**asked, **changes})  # type: ignore[arg-type]


def test_the_catalogue_is_the_twenty_networks_and_fcn() -> None:
    assert len(set(model.EXPERIMENT)) == 20
    assert {network.name for network in built_in()} == set(NAMES)
    assert set(model.DEMO) <= set(model.EXPERIMENT)


@pytest.mark.parametrize("name", NAMES)
def test_describe_tells_shape_download_and_operations(name: str) -> None:
    network = find(name)
    facts = model.describe(name)
    assert facts.name == check_name(name) == name
    assert facts.input_shape == network.input_shape
    assert facts.sha256 is None
    assert facts.gflops == network.gflops
    assert facts.gflops is not None
    assert facts.gflops > 0
    assert facts.download_mib == network.download_mib
    assert (facts.download_mib > 0) == (name != "lenet")
    # float32 weights: the file is as large as the parameters, and a little more.
    if name != "lenet":
        assert network.parameters is not None
        assert 1 <= facts.download_mib * 2**20 / (4 * network.parameters) < 1.02


def test_weights_in_the_cache_need_no_download() -> None:
    network = find("resnet18")
    path = cache_folder() / str(network.weights_file)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    assert model.describe("resnet18").download_mib == 0
    assert model.describe("resnet34").download_mib > 0


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", "~/here")
    assert cache_folder() == Path.home() / "here" / "hub" / "checkpoints"
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("some") / "where"))
    assert cache_folder() == Path("some") / "where" / "torch" / "hub" / "checkpoints"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "torch" / "hub" / "checkpoints"


def test_describing_imports_no_heavy_library() -> None:
    code = (
        "import sys, json, model\n"
        f"for name in {NAMES!r}: model.describe(name)\n"
        "heavy = {'torch', 'numpy', 'torchvision', 'onnx', 'onnxruntime'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == []


def test_without_torch_the_demo_alone_can_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it now fails
    forms = {name: model.describe(name).forms for name in NAMES}
    assert forms == {name: ("onnx",) if name in model.DEMO else () for name in NAMES}


@pytest.mark.parametrize(
    ("wrong", "close"), [("resnet19", "resnet18"), ("ResNet18", "resnet18"), ("vgg", "vgg11")]
)
def test_an_unknown_name_gives_close_ones(wrong: str, close: str) -> None:
    with pytest.raises(UsageError, match=f"no network is called '{wrong}'.*close: .*{close}"):
        model.describe(wrong)


def test_a_name_close_to_nothing_gives_all() -> None:
    with pytest.raises(UsageError, match=r"there are: alexnet, .*convnext_base, fcn_resnet50;"):
        model.describe("qqq")
    with pytest.raises(UsageError) as caught:
        model.describe("")
    assert "\n" not in str(caught.value)


@pytest.fixture
def dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that counts as part of `model/`."""
    folder = tmp_path / "dropped"
    folder.mkdir()
    monkeypatch.setattr(model, "__path__", [*model.__path__, str(folder)])
    return folder


def test_a_file_dropped_in_is_found(dropped: Path) -> None:
    (dropped / "mine_found.py").write_text(
        "from model import Network\n"
        "NETWORKS = (Network('mine', 'mine', lambda: None, input_shape=(2, 5)),)\n"
    )
    (dropped / "_not_a_family.py").write_text("raise RuntimeError")
    assert model.describe("mine").input_shape == (2, 5)
    with pytest.raises(UsageError, match="close: mine"):
        model.describe("mime")


def test_a_broken_file_dropped_in_disturbs_no_other(dropped: Path) -> None:
    (dropped / "mine_broken.py").write_text("1 / 0")
    assert model.describe("resnet18").name == "resnet18"
    with pytest.raises(UsageError, match=r"model/mine_broken.py cannot be imported \(division"):
        model.describe("mine")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("none.onnx", "there is no file 'none.onnx'"),
        ("none.pt2", "there is no file"),
        ("none.py:build", "there is no file 'none.py'"),
        ("none.py", "there is no file"),
        ("weights.pth", "not a kind of file"),
        ("a/b", "not a kind of file"),
        ("a\\b", "not a kind of file"),
    ],
)
def test_a_file_that_is_not_there_or_no_model(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        model.describe(text)
    assert caught.value.exit_code == 2


def test_a_python_file_needs_a_function(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text("def build(): ...")
    for text in (str(path), f"{path}:", f"{path}:a b"):
        with pytest.raises(UsageError, match=r"names no function.*net.py:function"):
            parse_spec(text)
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        parse_spec(str(tmp_path / "folder.onnx"))


def test_own_files_are_named_and_hashed(tmp_path: Path) -> None:
    path = tmp_path / "my net.py"
    path.write_text("def build(): ...")
    facts = model.describe(f"{path}:build")
    assert facts.name == "my_net_build"
    assert facts.input_shape is None
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    program = tmp_path / "saved-v2.pt2"
    program.write_bytes(b"never opened")
    assert model.describe(str(program)).name == "saved_v2"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        sha256_of(tmp_path / "gone")


@given(st.from_regex(r"[A-Za-z0-9 _.-]{1,20}", fullmatch=True))
def test_any_text_is_a_spec_or_one_line(text: str) -> None:
    try:
        line = parse_spec(text).kind
    except UsageError as error:
        line = str(error)
    assert line == "network" or (len(line.splitlines()) == 1 and "; " in line)


@given(st.text(), st.integers(30, 300))
def test_one_line_is_one_short_line(text: str, limit: int) -> None:
    line = one_line(ValueError(text), limit)
    assert len(line.splitlines()) == 1
    assert len(line) <= limit
    assert line.startswith("ValueError")


def test_shapes_are_written_plainly() -> None:
    assert (shape_text((1, 3, 224, 224)), shape_text(())) == ("1x3x224x224", "scalar")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"form": "tflite"}, "no form 'tflite'"),
        ({"weights": "good"}, "no 'good' weights.*pretrained or random"),
        ({"input_shape": (1, 3, 0, 224)}, "has no elements"),
        ({"input_shape": (-1, 3, 224, 224)}, "has no elements"),
        ({"input_shape": (1, 3, 224)}, "1x3x224 does not fit resnet18; its own shape is 1x3x224x2"),
        ({"input_shape": (1, 4, 224, 224)}, "channels may not"),
        ({"input_shape": ()}, "scalar does not fit"),
    ],
)
def test_wrong_requests_are_one_line(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        model.load(request("resnet18", tmp_path, **changes))


def test_loading_without_torch_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"vgg11 needs torch and torchvision .*; install torch"):
        model.load(request("vgg11", tmp_path))
    kept = "or use --weights random and the shape 1x3x224x224"
    with pytest.raises(UsageError, match=kept):
        model.load(request("resnet18", tmp_path, weights="pretrained"))
    with pytest.raises(UsageError, match=kept):
        model.load(request("resnet18", tmp_path, input_shape=(4, 3, 224, 224)))
    with pytest.raises(UsageError) as caught:
        model.load(request("resnet18", tmp_path, form="torch"))
    assert "kept" not in str(caught.value)
    saved = tmp_path / "x.pt2"
    saved.write_bytes(b"")
    with pytest.raises(UsageError, match="needs torch"):
        model.load(request(str(saved), tmp_path))
    own = tmp_path / "own.py"
    own.write_text("def build(): return 1")
    with pytest.raises(UsageError, match="needs torch"):
        model.load(request(f"{own}:build", tmp_path))


def test_the_page_lists_every_network_as_it_is() -> None:
    page = (ROOT / "docs" / "Models.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9_]+)` \|((?:.*\|){4}.*)\|$", page, re.MULTILINE)
    cells = {name: [cell.strip() for cell in rest.split("|")] for name, rest in rows}
    written = {name: row for name, row in cells.items() if len(row) == 5}
    expected = {}
    for network in built_in():
        expected[network.name] = [
            shape_text(network.input_shape),
            f"{network.parameters:,}",
            f"{network.gflops:g}",
            f"{network.download_mib:.1f}" if network.weights else "none published",
            (network.weights or "-").replace("_Weights.", " "),
        ]
    assert written == expected
    assert list(written) == list(NAMES)


SCOPES = {NAME_SCOPES: "['', 'layer1', 'layer1.0', 'layer1.0.relu', 'relu_1']"}


@pytest.mark.parametrize(
    ("name", "op_type", "properties", "inputs", "expected"),
    [
        ("node_relu", "Relu", SCOPES, ["x"], "layer1.0.relu"),
        ("node_conv", "Conv", {NAME_SCOPES: "['', 'bn1', 'n']"}, ["x", "conv1.weight"], "conv1"),
        ("node_view", "Reshape", {NAME_SCOPES: "['', 'view']"}, ["x", "s"], None),
        ("node", "Relu", {NAME_SCOPES: "not a list("}, ["x"], None),
        ("node", "Relu", {NAME_SCOPES: "7", CLASS_HIERARCHY: "[]"}, ["x"], None),
        ("/layer1/layer1.0/conv1/Conv", "Conv", {}, ["x", "onnx::Conv_1"], "layer1.0.conv1"),
        ("/features/features.0/features.0.1/Relu_1", "Relu", {}, ["x"], "features.0.1"),
        ("/Flatten", "Flatten", {}, ["x"], None),
        ("Conv_0", "Conv", {}, ["x"], None),
        ("", "Add", {}, ["x", "y.weight"], None),
    ],
)
def test_the_module_behind_a_node(
    name: str, op_type: str, properties: dict[str, str], inputs: list[str], expected: str | None
) -> None:
    assert module_path(name, op_type, properties, inputs) == expected


def test_a_network_says_how_images_are_normalised() -> None:
    plain = Network("n", "n", "n", mean=(0.5,), std=(0.25,)).normalisation()
    assert plain == {"mean": [0.5], "std": [0.25]}
    assert find("vgg11").mean == network_module.IMAGENET_MEAN
