"""torch's replay on a CPU: which layers are equal, what each gets, one layer several times."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgejoule.errors import MeasurementError  # noqa: E402
from edgejoule.inference.backend import BuildOptions  # noqa: E402
from edgejoule.inference.inputs import make_inputs  # noqa: E402
from edgejoule.inference.replaying import Replayable  # noqa: E402
from edgejoule.inference.torch_backend import TorchBackend  # noqa: E402
from edgejoule.inference.torch_graph import Program, Step, flatten_program  # noqa: E402
from edgejoule.inference.torch_replay import TorchReplayer  # noqa: E402
from edgejoule.inference.torch_replay_steps import execute, outputs_of  # noqa: E402
from edgejoule.inference.workload import InputSpec, LoadedModel  # noqa: E402

pytestmark = pytest.mark.torch

SHAPE = (2, 3, 8, 8)
aten = torch.ops.aten


class Block(torch.nn.Module):
    def __init__(self, bias: float) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(8)
        self.bias = bias

    def forward(self, x: Any) -> Any:
        y = torch.nn.functional.relu(self.norm(self.conv(x)), inplace=True)
        y += x
        return torch.nn.functional.hardtanh(y, -self.bias, self.bias, inplace=True)


class Net(torch.nn.Module):
    """Two equal blocks, one with another constant, views, parts of a tensor, no dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = torch.nn.Sequential(Block(4.0), Block(4.0), Block(2.0))
        self.head = torch.nn.Linear(8 * 64, 2)
        self.drop = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Dropout(0.1, inplace=True))

    def forward(self, x: Any) -> Any:
        x = self.blocks(self.stem(x))
        first, second = x.chunk(2, dim=1)
        x = torch.cat([second, first], 1)
        return self.head(self.drop(x.flatten(1))), first


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("net")
    specs = (InputSpec("x", SHAPE),)
    model = LoadedModel("net", "torch", Net().eval(), None, specs, "random", {})
    options = BuildOptions("float32", threads=1)
    engine = TorchBackend().build(model, options, folder)
    return folder, options, engine, make_inputs("normal", specs, None, 0)[0]


@pytest.fixture
def session(built: Any) -> Any:
    folder, options, _, sets = built
    found = TorchBackend().open(folder, options)
    found.bind(sets)
    yield found
    found.close()


@pytest.fixture
def replayer(session: Any) -> Any:
    assert isinstance(session, Replayable)
    found = session.replayer()
    yield found
    found.close()


def index_of(replayer: Any, name: str) -> int:
    return next(i for i, step in enumerate(replayer._program.steps) if step.name == name)


def test_equal_layers_form_a_group(replayer: Any, built: Any) -> None:
    plan = replayer.plan()
    names = [layer.name for layer in built[2].layers]
    groups = {tuple(names[index] for index in group) for group in plan.groups}
    assert ("conv2d_1", "conv2d_2", "conv2d_3") in groups
    assert ("batch_norm", "batch_norm_1", "batch_norm_2") in groups
    assert ("hardtanh_", "hardtanh__1") in groups  # the third has other bounds
    assert ("hardtanh__2",) in groups
    assert ("conv2d",) in groups
    assert ("cat",) in groups
    assert {names[index] for index in plan.nothing} == {"chunk", "flatten", "dropout", "dropout_"}
    assert plan.left_out == {}
    every = sorted([*(index for group in plan.groups for index in group), *plan.nothing])
    assert every == list(range(len(names)))
    assert any("hardtanh_" in note and "replaced" in note for note in plan.notes)


def test_the_costliest_of_every_operation_come_first(replayer: Any, built: Any) -> None:
    plan = replayer.plan()
    names = [built[2].layers[index].name for index in plan.duplicable]
    first = names[: len({built[2].layers[index].type for index in plan.duplicable})]
    assert names[0] == "conv2d_1"
    assert "conv2d" not in first
    assert {"batch_norm", "linear", "cat", "relu_", "add_"} <= set(first)
    assert set(plan.duplicable) == {group[0] for group in plan.groups}


def arguments_of(repeatable: Any) -> Any:
    return repeatable._run.args[1]


def test_a_layer_gets_what_it_got_in_the_network_of_every_input_set(
    replayer: Any, session: Any
) -> None:
    plan = replayer.plan()
    for index in (group[0] for group in plan.groups):
        one = replayer.layer(index)
        function, prepared = one._run.args[:2]
        for which, inputs in enumerate(session._sets):
            expected, result = executed(session._program, inputs, index)
            args, kwargs = prepared[which % len(prepared)]
            place = [leaf for leaf in args if isinstance(leaf, torch.Tensor)]
            assert all(torch.equal(a, b) for a, b in zip(place, expected, strict=False))
            torch.testing.assert_close(function(*args, **kwargs), result, rtol=0, atol=0)
            if len(prepared) == 1:
                break
        one.close()


def executed(program: Program, inputs: Any, index: int) -> tuple[list[Any], Any]:
    environment = program.start(inputs)
    for step in program.steps[:index]:
        execute(step, environment, *program.arguments(step, environment))
    step = program.steps[index]
    args, kwargs = program.arguments(step, environment)
    before = [leaf.clone() for leaf in args if isinstance(leaf, torch.Tensor)]
    value = step.function(*args, **kwargs)
    return before, [item.clone() for item in value] if isinstance(value, tuple) else value.clone()


@pytest.mark.parametrize("name", ["relu_", "add_", "hardtanh_"])
def test_an_operation_in_place_never_runs_on_its_own_output(replayer: Any, name: str) -> None:
    one = replayer.layer(index_of(replayer, name))
    assert one.facts()["in_place_replaced"] is True
    assert not one.facts()["operation"].split(".")[1].endswith("_")
    before = [copy.deepcopy(args) for args, _ in arguments_of(one)]
    assert one.launch() >= 1
    for kept, (args, _) in zip(before, arguments_of(one), strict=True):
        for a, b in zip(kept, args, strict=True):
            assert not isinstance(a, torch.Tensor) or torch.equal(a, b)
    if name == "relu_":
        assert any((args[0] < 0).any() for args, _ in arguments_of(one))  # before the cut
    one.close()


def test_copies_lie_apart_and_the_network_keeps_its_own(replayer: Any, session: Any) -> None:
    one = replayer.layer(index_of(replayer, "conv2d_2"))
    inputs = [args[0].data_ptr() for args, _ in arguments_of(one)]
    weights = {args[1].data_ptr() for args, _ in arguments_of(one)}
    rotation = {entry["tensor"]: entry for entry in one.facts()["rotation"]}
    assert len(set(inputs)) == rotation["input 0"]["copies"] >= len(session._sets)
    assert len(weights) == rotation["weight 1"]["copies"]
    own = {t.data_ptr() for t in session._program.environment if isinstance(t, torch.Tensor)}
    assert not own & (weights | set(inputs))
    count = one.facts()["executions_per_launch"]
    assert [one.launch(), one.launch()] == [count, count]
    one.close()


def test_a_weight_far_away_in_the_network_is_far_away_alone(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayer = session.replayer()
    replayer.plan()
    index = index_of(replayer, "linear")
    one = replayer.layer(index)
    weight = one.facts()["rotation"][1]
    footprint = weight["distance_bytes"]
    assert footprint > weight["bytes"]
    assert 0.7 * footprint < weight["reached_bytes"] < 1.5 * footprint
    one.close()
    # With a cache that holds next to nothing, further away makes no difference.
    monkeypatch.setattr(replayer, "_cache", 4096)
    one = replayer.layer(index)
    assert one.facts()["rotation"][1]["copies"] == 1
    assert "cold" not in one.facts()
    one.close()


def test_whole_runs_the_input_sets_in_turn(replayer: Any, session: Any) -> None:
    whole = replayer.whole()
    assert whole.launch() == whole.facts()["executions_per_launch"]
    for which in range(4):
        same(whole._run(which, 1), session.outputs(which))
    whole.close()
    with pytest.raises(MeasurementError, match="closed"):
        whole.launch()


def same(found: list[Any], expected: list[Any]) -> None:
    """By the order of the steps, not of what the model returns."""
    by_shape = {array.shape: array for array in expected}
    assert len(by_shape) == len(found)
    for tensor in found:
        np.testing.assert_array_equal(tensor.numpy(), by_shape[tuple(tensor.shape)])


def counting(replayer: Any) -> dict[str, int]:
    """Count the calls of every operation from here on."""
    counts: dict[str, int] = {}

    class Mode(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            counts[str(func)] = counts.get(str(func), 0) + 1
            return func(*args, **(kwargs or {}))

    replayer._mode = Mode()
    return counts


@pytest.mark.parametrize("name", ["conv2d_1", "relu_", "add_", "hardtanh__2", "cat", "linear"])
@pytest.mark.parametrize("cache", [1024, 2**25])
def test_one_layer_again_and_nothing_else_changes(
    replayer: Any, session: Any, name: str, cache: int
) -> None:
    replayer.plan()
    replayer._cache = cache  # all comes from memory, or nothing does
    index = index_of(replayer, name)
    made = {}
    for copies in (1, 4):
        it = replayer.duplicated(index, copies)
        assert it.facts()["outputs"] == "bitwise equal"
        counts = counting(replayer)
        with replayer._mode:
            outputs = it._run(1, 1)
        made[copies] = counts
        same(outputs, session.outputs(1))
        it.close()
    more = {key: made[4].get(key, 0) - made[1].get(key, 0) for key in made[4] | made[1]}
    assert sum(more.values()) >= 3
    assert all(count in (0, 3) for count in more.values()), more
    operation = str(replayer._seen[index].function).split(".")[1]
    if operation in {"cat", "relu", "add", "hardtanh"}:
        assert [key.split(".")[1] for key, count in more.items() if count] == [operation]


def test_cold_tensors_are_read_from_copies_of_their_own(replayer: Any) -> None:
    replayer.plan()
    index = index_of(replayer, "conv2d_1")
    replayer._cache = replayer._distances[index][replayer._seen[index].places[1]] - 1
    it = replayer.duplicated(index, 3)
    assert it.facts()["cold_tensors"] == ["weight 1"]
    assert it.facts()["copies_bytes"] >= 2 * 8 * 8 * 9 * 4
    it.close()


def test_a_layer_that_never_returns_the_same_is_not_executed_again() -> None:
    class Noise(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.relu(torch.nn.functional.dropout(x, 0.5, training=True))

    replayer = replayer_of(Noise(), torch.rand(4, 64))
    index = index_of(replayer, "dropout")
    with pytest.raises(MeasurementError, match=r"other values|another value"):
        replayer.duplicated(index, 2)
    one = replayer.layer(index)  # alone it can be repeated
    assert one.launch() > 0
    one.close()


def replayer_of(module: Any, *inputs: Any) -> TorchReplayer:
    exported = torch.export.export(module.eval(), inputs, strict=False)
    program = flatten_program(exported.module())
    return TorchReplayer(program, [inputs], "cpu", None, [None] * len(program.steps))


def step_of(name: str, function: Any, slots: list[int], out: int) -> Step:
    args = (None,) * len(slots)
    return Step(name, function, args, tuple(enumerate(slots)), None, {}, out, (), ())


def test_what_writes_into_its_argument_and_has_no_other_form_is_left_out() -> None:
    library = torch.library.Library("edgejoule_test", "FRAGMENT")
    library.define("bump_(Tensor(a!) self) -> Tensor(a!)")
    library.impl("bump_", lambda self: self.add_(1), "CompositeExplicitAutograd")

    def hidden(x: Any) -> Any:
        return x.mul_(2)

    program = Program(
        (
            step_of("clone", aten.clone.default, [0], 1),
            step_of("bump_", torch.ops.edgejoule_test.bump_.default, [1], 2),
            step_of("hidden", hidden, [2], 3),
            step_of("plain", torch.neg, [3], 4),
        ),
        (None,) * 5,
        (0,),
    )
    replayer = TorchReplayer(program, [(torch.ones(3),)], "cpu", None, [None] * 4)
    plan = replayer.plan()
    assert set(plan.left_out) == {1, 2}
    assert "has no form that does not" in plan.left_out[1]
    assert "what it is torch does not say" in plan.left_out[2]
    assert plan.groups == ((0,), (3,))
    with pytest.raises(MeasurementError, match=r"layer 1 \(bump_\) cannot run alone"):
        replayer.layer(1)
    assert torch.equal(outputs_of(program, run(program, torch.ones(3)))[-1], torch.full((3,), -4.0))


def run(program: Program, *inputs: Any) -> list[Any]:
    environment = program.start(inputs)
    for step in program.steps:
        execute(step, environment, *program.arguments(step, environment))
    return environment


def test_what_cannot_be_repeated_says_so(replayer: Any) -> None:
    with pytest.raises(MeasurementError, match="executes nothing"):
        replayer.layer(index_of(replayer, "flatten"))
    with pytest.raises(MeasurementError, match="no layer 999"):
        replayer.layer(999)
    with pytest.raises(MeasurementError, match="no inputs are bound"):
        TorchReplayer(replayer._program, [], "cpu", None, [])


def test_steps_without_a_kernel_are_nothing_on_a_gpu(session: Any) -> None:
    """The counts of the set-up go before what the memory looks like."""
    steps = session._program.steps
    kernels = [0 if step.name == "cat" else 1 for step in steps]
    replayer = TorchReplayer(session._program, session._sets, "cpu", kernels, [None] * len(steps))
    assert [steps[index].name for index in replayer.plan().nothing] == ["cat"]


def test_want_of_memory_is_one_line(replayer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replayer.plan()

    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory: you tried to allocate 1 TiB")

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(MeasurementError, match=r"layer 0 \(conv2d\) alone .*1 TiB"):
        replayer.layer(0)


def test_closing_gives_the_copies_back(replayer: Any) -> None:
    one = replayer.layer(index_of(replayer, "linear"))
    kept = [weakref.ref(args[1]) for args, _ in arguments_of(one)]
    one.close()
    gc.collect()
    assert kept
    assert all(ref() is None for ref in kept)
