"""One's own models: a function of a Python file, and a saved program."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

import model  # noqa: E402
from edgejoule.errors import UsageError  # noqa: E402
from edgejoule.inference.workload import InputSpec, LoadedModel, ModelRequest  # noqa: E402

SOURCE = '''
from dataclasses import dataclass

import torch
from torch import nn

import neighbour_of_own

TOTAL = neighbour_of_own.WIDTH


@dataclass
class Result:
    value: object


class Two(nn.Module):
    """Two tensors in, a dictionary of tensors out."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, TOTAL)
        self.fc = nn.Linear(TOTAL, 2)

    def forward(self, ids, scale):
        hidden = self.table(ids) * scale
        return {"logits": self.fc(hidden), "more": [hidden, (hidden + 1,)]}


class Nested(nn.Module):
    """A list, keywords and a switch in, a tuple with None out."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, images, *, extra, double=False):
        out = self.fc(images[0] + images[1]["deep"]) + extra
        return (out * 2 if double else out), None


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def conv():
    return nn.Conv2d(3, 4, 3)


def conv_small():
    return nn.Conv2d(3, 4, 3), torch.zeros(2, 3, 8, 8)


def two():
    return Two(), (torch.tensor([[3, 9, 1]]), torch.ones(1, 3, 4))


def nested():
    images = [torch.randn(1, 4), {"deep": torch.randn(1, 4)}]
    return Nested(), {"images": images, "extra": torch.ones(1, 3), "double": True}


def halves():
    return nn.Linear(4, 2).half(), torch.zeros(1, 4, dtype=torch.float16)


def raises():
    raise ValueError("no such\\nluck")


def leaves():
    raise SystemExit(3)


def gives_nothing():
    pass


def gives_text():
    return "a model"


def forward_raises():
    def function(x):
        raise RuntimeError("inside forward")
    return Calls(function)


def forward_gives_nothing():
    return Calls(lambda x: None)


def forward_gives_object():
    return Calls(lambda x: Result(x))


def data_dependent():
    return Calls(lambda x: x + 1 if x.sum() > 0 else x.repeat(2, 1, 1, 1))


def variadic():
    class Many(nn.Module):
        def forward(self, *values):
            return values[0] + values[1]
    return Many(), (torch.zeros(1, 2), torch.zeros(1, 2))


number = 4
'''


@pytest.fixture(autouse=True)
def _clean_imports() -> Iterator[None]:
    before, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.startswith(("edgejoule_user_", "neighbour_of_own")):
            del sys.modules[name]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "neighbour_of_own.py").write_text("WIDTH = 4\n")
    path = tmp_path / "own-net.py"
    path.write_text(SOURCE)
    return path


def load(spec: str, folder: Path, **changes: Any) -> LoadedModel:
    asked = {"weights": "random", "seed": 0, "input_shape": None, "form": "torch"} | changes
    return model.load(ModelRequest(spec, directory=folder, **asked))


def run_onnx(loaded: LoadedModel, tensors: list[Any]) -> list[Any]:
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(str(loaded.onnx_path), providers=["CPUExecutionProvider"])
    names = [item.name for item in loaded.inputs]
    feeds = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
    return [torch.from_numpy(value) for value in session.run(None, feeds)]


def test_a_module_alone_gets_the_usual_image(own: Path, tmp_path: Path) -> None:
    loaded = load(f"{own}:conv", tmp_path)
    assert (loaded.name, loaded.weights, loaded.form) == ("own_net_conv", "user", "torch")
    assert loaded.name == model.describe(f"{own}:conv").name
    assert loaded.inputs == (InputSpec("input", (1, 3, 224, 224)),)
    assert loaded.source["sha256"] == hashlib.sha256(own.read_bytes()).hexdigest()
    assert not loaded.module.training
    other = load(f"{own}:conv", tmp_path, input_shape=(2, 3, 32, 16), weights="pretrained")
    assert (other.inputs[0].shape, other.weights) == ((2, 3, 32, 16), "user")


def test_an_example_gives_the_shape_and_a_request_changes_it(own: Path, tmp_path: Path) -> None:
    assert load(f"{own}:conv_small", tmp_path).inputs[0].shape == (2, 3, 8, 8)
    changed = load(f"{own}:conv_small", tmp_path, input_shape=(1, 3, 9, 9))
    assert changed.inputs[0].shape == (1, 3, 9, 9)
    with pytest.raises(UsageError, match=r"does not run with 1x4x8x8 .*own shape is 2x3x8x8"):
        load(f"{own}:conv_small", tmp_path, input_shape=(1, 4, 8, 8))


def test_several_inputs_and_outputs_of_any_structure(own: Path, tmp_path: Path) -> None:
    loaded = load(f"{own}:two", tmp_path)
    assert loaded.inputs == (
        InputSpec("ids", (1, 3), "int64", high=10),
        InputSpec("scale", (1, 3, 4)),
    )
    pytest.importorskip("onnxscript")
    exported = load(f"{own}:two", tmp_path, form="onnx")
    assert exported.inputs == loaded.inputs
    outputs = run_onnx(exported, [torch.tensor([[1, 2, 3]]), torch.ones(1, 3, 4)])
    assert [tuple(output.shape) for output in outputs] == [(1, 3, 2), (1, 3, 4), (1, 3, 4)]
    assert {"fc"} <= set(exported.module_paths.values())
    # The batch of the first input is everybody's.
    batch = load(f"{own}:two", tmp_path, input_shape=(5, 3))
    assert [item.shape for item in batch.inputs] == [(5, 3), (5, 3, 4)]
    with pytest.raises(UsageError, match="does not run with 1x2, 1x3x4"):
        load(f"{own}:two", tmp_path, input_shape=(1, 2))


def test_nested_and_keyword_inputs_become_a_flat_list(own: Path, tmp_path: Path) -> None:
    loaded = load(f"{own}:nested", tmp_path)
    assert [item.shape for item in loaded.inputs] == [(1, 4), (1, 4), (1, 3)]
    a, b, extra = torch.randn(1, 4), torch.randn(1, 4), torch.randn(1, 3)
    fc = loaded.module.model.fc
    expected = (fc(a + b) + extra) * 2
    torch.testing.assert_close(loaded.module(a, b, extra)[0], expected)
    pytest.importorskip("onnxscript")
    exported = load(f"{own}:nested", tmp_path, form="onnx")
    assert [tuple(o.shape) for o in run_onnx(exported, [a, b, extra])] == [(1, 3)]


def test_other_dtypes_and_nameless_inputs(own: Path, tmp_path: Path) -> None:
    assert load(f"{own}:halves", tmp_path).inputs == (InputSpec("input", (1, 4), "float16"),)
    assert [item.name for item in load(f"{own}:variadic", tmp_path).inputs] == [
        "input_0",
        "input_1",
    ]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("raises", "raises ValueError: no such luck"),
        ("leaves", "raises SystemExit: 3"),
        ("gives_nothing", "returns nothing"),
        ("gives_text", "returns str, not an nn.Module"),
        ("forward_raises", "does not run with 1x3x224x224 .*inside forward.*--input-shape"),
        ("forward_gives_nothing", "returns nothing"),
        ("forward_gives_object", "returns no tensor but Result"),
        ("absent", "has no function 'absent'; functions there: conv, conv_small, two"),
        ("number", "is no function"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_line(
    own: Path, tmp_path: Path, function: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load(f"{own}:{function}", tmp_path)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nothing_of_this_name", "raises ModuleNotFoundError: No module named"),
        ("def build(:", "raises SyntaxError"),
        ("raise SystemExit", "raises SystemExit"),
        ("x = 1", "functions there: none"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        load(f"{path}:build", tmp_path)


def test_a_model_that_cannot_be_exported_names_the_other_backend(own: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(UsageError, match=r"cannot be exported to ONNX .*--backend torch") as caught:
        load(f"{own}:data_dependent", tmp_path, form="onnx")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


LOADED = """
from pathlib import Path
import torch
from edgejoule.inference.workload import InputSpec, LoadedModel

def as_torch():
    inputs = (InputSpec("picture", (1, 3, 8, 8)), InputSpec("flags", (1,), "bool", high=2))
    class Net(torch.nn.Module):
        def forward(self, picture, flags):
            return picture * flags
    return LoadedModel("x", "torch", Net(), None, inputs, "pretrained", {"mine": 1}, NORM)

def as_onnx():
    path = Path(__file__).parent / "graph.onnx"
    return LoadedModel("x", "onnx", None, path, (), "random", {}, NORM, {"a": "b"})

def as_nothing():
    return LoadedModel("x", "torch", None, None, (), "random", {})

NORM = {"mean": [0.5], "std": [0.5]}
"""


def test_a_function_may_return_a_loaded_model(tmp_path: Path) -> None:
    path = tmp_path / "full.py"
    path.write_text(LOADED)
    loaded = load(f"{path}:as_torch", tmp_path)
    assert (loaded.name, loaded.weights) == ("full_as_torch", "user")
    assert [item.name for item in loaded.inputs] == ["picture", "flags"]
    assert loaded.source["mine"] == 1
    assert loaded.normalisation == {"mean": [0.5], "std": [0.5]}
    with pytest.raises(UsageError, match="returns nothing"):
        load(f"{path}:as_nothing", tmp_path)
    pytest.importorskip("onnxscript")
    assert load(f"{path}:as_torch", tmp_path, form="onnx").onnx_path is not None
    from tests.support_models import write_onnx

    write_onnx(tmp_path / "graph.onnx")
    graph = load(f"{path}:as_onnx", tmp_path, form="onnx")
    assert (graph.name, graph.weights, graph.inputs[0].name) == ("full_as_onnx", "user", "x")
    assert graph.module_paths["a"] == "b"
    assert graph.source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UsageError, match="this backend cannot take"):
        load(f"{path}:as_onnx", tmp_path)


# Saved programs ------------------------------------------------------------------------------


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, picture: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.conv(picture).relu()}


class Keyword(torch.nn.Module):
    def forward(self, a: torch.Tensor, *, b: torch.Tensor) -> torch.Tensor:
        return a + b


def save(path: Path, *args: Any, **more: Any) -> Path:
    torch.export.save(torch.export.export(*args, **more), str(path))
    return path


def test_a_saved_program_is_loaded_as_it_is(tmp_path: Path) -> None:
    path = save(tmp_path / "small.pt2", Small().eval(), (torch.randn(1, 3, 8, 8),))
    loaded = load(str(path), tmp_path)
    assert (loaded.name, loaded.weights) == ("small", "user")
    assert isinstance(loaded.module, torch.export.ExportedProgram)
    assert loaded.inputs == (InputSpec("picture", (1, 3, 8, 8)),)
    assert loaded.source["sha256"] == model.describe(str(path)).sha256
    with pytest.raises(UsageError, match=r"does not run with 2x3x8x8 .*own shape is 1x3x8x8"):
        load(str(path), tmp_path, input_shape=(2, 3, 8, 8))
    pytest.importorskip("onnxscript")
    exported = load(str(path), tmp_path, form="onnx")
    value = torch.randn(1, 3, 8, 8)
    ours = run_onnx(exported, [value])[0]
    torch.testing.assert_close(ours, loaded.module.module()(value)["y"], rtol=1e-3, atol=1e-4)
    assert "conv" in exported.module_paths.values()


def test_a_free_size_of_a_saved_program_may_be_chosen(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    example = (torch.randn(2, 3, 8, 8),)
    path = save(
        tmp_path / "free.pt2", Small().eval(), example, dynamic_shapes={"picture": {0: batch}}
    )
    assert load(str(path), tmp_path).inputs[0].shape == (2, 3, 8, 8)
    assert load(str(path), tmp_path, input_shape=(5, 3, 8, 8)).inputs[0].shape == (5, 3, 8, 8)


def test_a_saved_program_with_keywords_takes_a_flat_list(tmp_path: Path) -> None:
    example = torch.ones(1, 2)
    path = save(tmp_path / "keyword.pt2", Keyword(), (example,), {"b": example})
    loaded = load(str(path), tmp_path)
    assert len(loaded.inputs) == 2
    torch.testing.assert_close(loaded.module.eval()(example, example), example * 2)


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    path = tmp_path / "text.pt2"
    path.write_text("hello")
    with pytest.raises(UsageError, match="cannot be loaded as an exported program") as caught:
        load(str(path), tmp_path)
    assert "\n" not in str(caught.value)
    program = torch.export.export(Small(), (torch.randn(1, 3, 8, 8),))
    program.example_inputs = None
    torch.export.save(program, str(path))
    with pytest.raises(UsageError, match="holds no example inputs"):
        load(str(path), tmp_path)
