"""Compiled models taken apart, in the shapes that versions 2.4 to 2.14 return."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from edgejoule.errors import MeasurementError, UsageError  # noqa: E402
from edgejoule.inference.torch_graph import executed_nodes  # noqa: E402
from edgejoule.inference.trt import torch_names  # noqa: E402
from edgejoule.inference.trt.torch_parts import (  # noqa: E402
    part_of_module,
    part_of_object,
    slot_of,
    take_apart,
    unwrap,
)
from edgejoule.inference.trt.torch_program import load_program, save_program  # noqa: E402
from tests.support_torch_tensorrt import SIGNATURES, EngineObject, holders  # noqa: E402

pytestmark = pytest.mark.torch

RELU = torch.ops.aten.relu.default
POOL = torch.ops.aten.max_pool2d.default


def engine(version: str, name: str, outputs: int = 1, inputs: int = 1) -> Any:
    return holders(version)(
        f"plan of {name}".encode(),
        name,
        [f"in{index}" for index in range(inputs)],
        [f"output{index}" for index in range(outputs)],
    )


def graph_of(root: Any, build: Any) -> Any:
    """A module of a graph that `build` writes; it returns the outputs."""
    graph = torch.fx.Graph()
    graph.output(build(graph))
    return torch.fx.GraphModule(root, graph)


def adjacency(version: str) -> Any:
    """Engine, part in PyTorch, engine: submodules with one shared count."""
    pooled = graph_of(
        torch.nn.Module(),
        lambda g: g.call_function(POOL, (g.placeholder("relu"), [2, 2], [2, 2])),
    )
    root = torch.nn.Module()
    root._run_on_acc_0 = engine(version, "_run_on_acc_0")
    root._run_on_gpu_1 = pooled
    root._run_on_acc_2 = engine(version, "_run_on_acc_2")

    def build(graph: Any) -> Any:
        x = graph.placeholder("x")
        first = graph.call_module("_run_on_acc_0", (x,))
        part = graph.call_module("_run_on_gpu_1", (first,))
        return (graph.call_module("_run_on_acc_2", (part,)), part)

    return graph_of(root, build)


@pytest.mark.parametrize("version", SIGNATURES)
def test_parts_between_engines_become_nodes(version: str) -> None:
    parts = take_apart(adjacency(version))
    assert [str(node) for node in executed_nodes(parts.module.graph)] == [
        "engine_0", "max_pool2d_default", "engine_1",
    ]  # fmt: skip
    assert [slot_of(node) for node in executed_nodes(parts.module.graph)] == [0, None, 1]
    assert [(one.index, one.name, one.plan) for one in parts.engines] == [
        (0, "_run_on_acc_0", b"plan of _run_on_acc_0"),
        (1, "_run_on_acc_2", b"plan of _run_on_acc_2"),
    ]
    merged = torch_names.version_of(version) >= (2, 13)
    held = torch_names.CPP_MODULE if merged else torch_names.PYTHON_MODULE
    assert {one.held_by for one in parts.engines} == {held}
    assert (parts.engines[1].inputs, parts.engines[1].outputs) == (("in0",), ("output0",))
    assert all(one.single for one in parts.engines)
    # With the identity in every slot the graph still is what it was.
    x = torch.randn(1, 2, 4, 4)
    pooled = torch.nn.functional.max_pool2d(x, 2)
    for found in parts.module(x):
        torch.testing.assert_close(found, pooled)


@pytest.mark.parametrize("version", ["2.4.0", "2.12.1"])
def test_the_other_class_of_a_version_gives_its_plan_too(version: str) -> None:
    """torch_tensorrt's own runtime, where the wheel or the user chose that."""

    class TorchTensorRTModule(torch.nn.Module):
        pass

    module = TorchTensorRTModule()
    module.input_binding_names, module.output_binding_names = ["x"], ["y", "z"]
    module.engine = EngineObject(b"a plan")
    if version != "2.4.0":
        module.serialized_engine = b"a plan"
    part = part_of_module(module, "_run_on_acc_0", 3)
    assert (part.index, part.plan, part.inputs, part.outputs) == (3, b"a plan", ("x",), ("y", "z"))


def test_operations_of_the_global_partitioner_stand_in_the_graph_itself() -> None:
    root = torch.nn.Module()
    root._run_on_acc_0 = engine("2.8.0", "_run_on_acc_0", outputs=2)
    root.register_buffer("scale", torch.full((1,), 2.0))

    def build(graph: Any) -> Any:
        first = graph.call_module("_run_on_acc_0", (graph.placeholder("x"),))
        one = graph.call_function(operator.getitem, (first, 1))
        scaled = graph.call_function(torch.ops.aten.mul.Tensor, (one, graph.get_attr("scale")))
        return {"a": scaled, "b": [one, None, 3]}

    parts = take_apart(graph_of(root, build))
    assert [slot_of(node) for node in executed_nodes(parts.module.graph)] == [0, None]
    (output,) = (node for node in parts.module.graph.nodes if node.op == "output")
    assert [str(node) for node in output.args[0]] == ["mul_tensor", "getitem"]
    assert torch.equal(parts.module.scale, torch.full((1,), 2.0))


def test_parts_within_parts_and_several_outputs() -> None:
    """The hierarchical partitioner names engines `_run_on_acc_<backend>_N` and may nest."""
    inner = torch.nn.Module()
    inner.weight = torch.nn.Parameter(torch.ones(1))
    inner._run_on_acc_tensorrt_0 = engine("2.8.0", "_run_on_acc_tensorrt_0")

    def nested(graph: Any) -> Any:
        x, y = graph.placeholder("x"), graph.placeholder("y")
        run = graph.call_module("_run_on_acc_tensorrt_0", (x,))
        total = graph.call_function(
            torch.ops.aten.add.Tensor, (run, graph.get_attr("weight")), {"alpha": 2}
        )
        return (total, y)

    root = torch.nn.Module()
    root._run_on_gpu_0 = graph_of(inner, nested)

    def outer(graph: Any) -> Any:
        both = graph.call_module("_run_on_gpu_0", (graph.placeholder("x"), graph.placeholder("y")))
        one = graph.call_function(operator.getitem, (both, 0))
        return (graph.call_function(RELU, (one,)), graph.call_function(operator.getitem, (both, 1)))

    parts = take_apart(graph_of(root, outer))
    assert [str(n) for n in executed_nodes(parts.module.graph)] == [
        "engine_0", "add_tensor", "relu_default",
    ]  # fmt: skip
    first, second = parts.module(torch.tensor([-5.0]), torch.tensor([7.0]))
    assert (first.item(), second.item()) == (0.0, 7.0)
    assert parts.module(torch.tensor([1.0]), second)[0].item() == 3.0


def test_wrappers_are_looked_through() -> None:
    class CudaGraphsTorchTensorRTModule(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.compiled_module = inner

    class MutableTorchTensorRTModule:
        def __init__(self, inner: Any) -> None:
            self.gm = inner

    compiled = adjacency("2.8.0")
    assert unwrap(MutableTorchTensorRTModule(CudaGraphsTorchTensorRTModule(compiled))) is compiled
    assert len(take_apart(CudaGraphsTorchTensorRTModule(compiled)).engines) == 2
    with pytest.raises(MeasurementError, match="never compiled"):
        take_apart(MutableTorchTensorRTModule(None))


def exported(state: Any) -> Any:
    """What `torch.export.load(p).module()` gives: an engine object called through an operator."""

    class Operator:
        __name__ = "execute_engine"
        __module__ = "tensorrt"

        def __str__(self) -> str:
            return torch_names.EXECUTE_ENGINE

        def __call__(self, *args: Any) -> Any:
            raise AssertionError

    root = torch.nn.Module()
    root._run_on_acc_0_engine = state

    def build(graph: Any) -> Any:
        x = graph.placeholder("x")
        held = graph.get_attr("_run_on_acc_0_engine")
        run = graph.call_function(Operator(), ([x], held))
        return (graph.call_function(operator.getitem, (run, 0)),)

    return graph_of(root, build)


def test_engines_of_an_exported_program_are_found_by_their_operator() -> None:
    parts = take_apart(exported(EngineObject(b"the plan", ["x"], ["y", "z"])))
    (part,) = parts.engines
    assert (part.plan, part.inputs, part.outputs) == (b"the plan", ("x",), ("y", "z"))
    assert part.held_by == "Engine"
    assert part.single is False  # the operator returns a list, also of one
    assert not any("_engine" in str(node.target) for node in parts.module.graph.nodes)


def test_states_that_are_not_known() -> None:
    broken = EngineObject(b"x", ["x"], ["y"])
    for state, message in (
        (("5", "engine"), "has no state that is known"),
        (("5", "n", "d", "not base64!", "x", "y"), "field 3 of its state is not base64"),
        (("5", "n", "d", b"", "x", "y"), "has no plan"),
        (None, "has no state that is known"),
    ):
        held_class = type("Engine", (), {"__getstate__": lambda _self, state=state: state})
        held = held_class()
        with pytest.raises(MeasurementError, match=message):
            part_of_object(held, "_run_on_acc_0", 0)
    nested = type("Engine", (), {"__getstate__": lambda _self: (broken.__getstate__(),)})()
    assert part_of_object(nested, "e", 0).plan == b"x"


def test_engines_that_cannot_run_elsewhere_are_refused() -> None:
    module = engine("2.14.0", "_run_on_acc_0")
    module.requires_output_allocator = True
    with pytest.raises(UsageError, match=r"_run_on_acc_0 has outputs whose shapes depend.*2\.13"):
        part_of_module(module, "_run_on_acc_0", 0)
    module.requires_output_allocator = False
    module.aliased_io = {"out": ("cache", "kv_cache_update")}
    with pytest.raises(UsageError, match=r"writes outputs into its inputs.*--backend tensorrt"):
        part_of_module(module, "_run_on_acc_0", 0)
    module.aliased_io = {}
    module.serialized_engine = b""
    with pytest.raises(MeasurementError, match="_run_on_acc_0 has no plan"):
        part_of_module(module, "_run_on_acc_0", 0)


def test_buffers_that_became_outputs_are_refused() -> None:
    """2.14 gives the new values of buffers back at the end of the graph's outputs."""
    compiled = adjacency("2.14.0")
    compiled.meta[torch_names.COPYBACK] = []  # of a model that writes none
    assert len(take_apart(compiled).engines) == 2
    compiled.meta[torch_names.COPYBACK] = ["steps", "block.mean"]
    with pytest.raises(UsageError, match=r"writes 2 of its buffers.*--backend tensorrt") as error:
        take_apart(compiled)
    assert "\n" not in str(error.value)


def test_shapes_of_a_model_that_are_not_known() -> None:
    with pytest.raises(MeasurementError, match="an engine without a graph"):
        take_apart(engine("2.8.0", "alone"))
    root = torch.nn.Module()
    root.part = torch.nn.Linear(2, 2)
    other = graph_of(root, lambda g: g.call_module("part", (g.placeholder("x"),)))
    with pytest.raises(MeasurementError, match="a part part of class Linear, which is not known"):
        take_apart(other)
    method = graph_of(torch.nn.Module(), lambda g: g.call_method("relu", (g.placeholder("x"),)))
    with pytest.raises(MeasurementError, match="of kind call_method"):
        take_apart(method)
    nothing = graph_of(torch.nn.Module(), lambda g: (g.placeholder("x"), None)[1:])
    with pytest.raises(MeasurementError, match="returns nothing"):
        take_apart(nothing)
    root = torch.nn.Module()
    root._run_on_acc_0 = engine("2.8.0", "_run_on_acc_0", inputs=2)
    fewer = graph_of(root, lambda g: g.call_module("_run_on_acc_0", (g.placeholder("x"),)))
    with pytest.raises(MeasurementError, match="has 2 inputs and is given 1"):
        take_apart(fewer)


def saved(module: Any, folder: Path) -> Any:
    save_program(module, folder)
    return load_program(folder, "cpu", lambda _number: torch.nn.Identity())


def test_a_program_is_the_same_after_its_files(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = torch.nn.Linear(4, 4)

        def forward(self, x: Any, ids: Any) -> Any:
            a, b = torch.chunk(self.block(x), 2, dim=1)
            c = torch.nn.functional.pad(a, (0, 1), value=float("-inf"))
            d = torch.stack([b, b * 2.5]).to(torch.float64)
            return c.clamp(min=-1.0), d[:, :, ids], torch.zeros(2, dtype=torch.int32), x[..., 1:]

    x, ids = torch.randn(3, 4), torch.tensor([0, 1])
    module = torch.export.export(Net().eval(), (x, ids), strict=False).module()
    parts = take_apart(module)
    again = saved(parts.module, tmp_path)
    names = [node.name for node in parts.module.graph.nodes]
    assert [node.name for node in again.graph.nodes] == names
    before, after = module(x, ids), again(x, ids)
    assert len(before) == len(after) == 4
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other)
        assert one.dtype == other.dtype


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    def local(x: Any) -> Any:
        return x

    graph = torch.fx.Graph()
    graph.output((graph.call_function(local, (graph.placeholder("x"),)),))
    with pytest.raises(UsageError, match=r"calls '.*local', which a file cannot hold"):
        save_program(torch.fx.GraphModule(torch.nn.Module(), graph), tmp_path)
    graph = torch.fx.Graph()
    graph.output((graph.call_function(RELU, (graph.placeholder("x"), 1j)),))
    with pytest.raises(UsageError, match=r"relu_default.* an argument of type complex"):
        save_program(torch.fx.GraphModule(torch.nn.Module(), graph), tmp_path)
    root = torch.nn.Module()
    root.branch = torch.fx.GraphModule(torch.nn.Module(), torch.fx.Graph())
    graph = torch.fx.Graph()
    graph.output((graph.call_function(RELU, (graph.get_attr("branch"),)),))
    with pytest.raises(UsageError, match="reads branch, a GraphModule"):
        save_program(torch.fx.GraphModule(root, graph), tmp_path)


def test_operators_that_are_not_known_here(tmp_path: Path) -> None:
    parts = take_apart(adjacency("2.8.0"))
    save_program(parts.module, tmp_path)
    path = tmp_path / "program.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("aten.max_pool2d.default", "elsewhere.op.default"), "utf-8")
    with pytest.raises(UsageError, match=r"calls elsewhere\.op\.default, which is not known here"):
        load_program(tmp_path, "cpu", lambda _number: torch.nn.Identity())
    path.write_text(text.replace('"node"', '"nodule"'), encoding="utf-8")
    with pytest.raises(MeasurementError, match="'nodule' is not known"):
        load_program(tmp_path, "cpu", lambda _number: torch.nn.Identity())
