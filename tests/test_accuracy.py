"""Accuracy against the float32 outputs: the figures, what must not be hidden, the reference."""

from __future__ import annotations

import builtins
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.errors import MeasurementError
from edgejoule.inference import accuracy_reference
from edgejoule.inference.accuracy import (
    Accuracy,
    Reference,
    accuracy_note,
    compare,
    reference_outputs,
)
from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.inputs import make_inputs
from edgejoule.inference.workload import InputSpec, LoadedModel
from tests.support_models import torch_module, write_onnx

CPU = BuildOptions("float32", threads=1)
IMAGE = (InputSpec("x", (1, 3, 16, 16)),)


def of(wanted: Any, found: Any, weights: str = "pretrained") -> Accuracy:
    reference = Reference(([np.asarray(wanted)],), "the module in float32", weights)
    return compare(reference, [[np.asarray(found, dtype=np.float32)]])


def test_the_error_is_measured_against_the_value_or_a_tenth_of_the_rms() -> None:
    wanted = np.array([10.0, -10.0, 10.0, 0.0], np.float32)  # rms 8.66, a tenth 0.866
    found = of(wanted, [11.0, -10.0, 10.0, 0.0866])
    assert found.max_relative_error == pytest.approx(0.1, rel=1e-6)
    assert found.mean_relative_error == pytest.approx((0.1 + 0.1) / 4, rel=1e-4)
    assert found.sqnr_db == pytest.approx(10 * math.log10(300 / (1 + 0.0866**2)), abs=1e-4)
    assert (found.top1_agreement, found.top1_rows) == (None, 0)  # one axis: no classes


def test_equal_outputs_are_equal() -> None:
    values = np.random.default_rng(0).standard_normal((4, 10)).astype(np.float32)
    found = of(values, values)
    assert (found.max_relative_error, found.mean_relative_error) == (0.0, 0.0)
    assert (found.top1_agreement, found.top1_rows, found.sqnr_db) == (1.0, 4, None)
    assert accuracy_note(found.to_json()) is None


def test_a_tensor_of_zeros_has_no_scale() -> None:
    assert of(np.zeros(3, np.float32), np.zeros(3)).max_relative_error == 0.0
    assert of(np.zeros(4, np.float32), [0, 0, 0, 1e-9]).mean_relative_error == 0.25


def test_top1_counts_rows_of_all_sets() -> None:
    wanted = np.eye(4, dtype=np.float32)
    other = wanted[[1, 1, 2, 3]]  # the first row has another class
    reference = Reference(([wanted], [wanted]), "float32", "pretrained")
    found = compare(reference, [[wanted], [other]])
    assert (found.top1_agreement, found.top1_rows, found.sets) == (7 / 8, 8, 2)
    note = found.to_json()["note"]
    assert "the top class is the float32 model's in 87.5 % of 8 rows" in note
    assert "random" not in note


def test_random_weights_are_said_to_say_little() -> None:
    wanted = np.eye(4, dtype=np.float32)
    found = of(wanted, wanted[::-1], "random").to_json()
    assert found["weights"] == "random"
    assert "random weights: classes lie close together" in found["note"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_counted_and_hides_no_figure(bad: float) -> None:
    wanted = np.ones((2, 3), np.float32)
    found = of(wanted, [[1, 1, bad], [1, 1, 1]])
    assert found.not_finite == 1
    assert (found.max_relative_error, found.mean_relative_error, found.sqnr_db) == (None,) * 3
    assert "1 values are NaN or infinite" in str(found.to_json()["note"])
    json.dumps(found.to_json(), allow_nan=False)


def test_a_row_with_nan_agrees_with_nothing() -> None:
    wanted = np.array([[0.0, 2.0], [0.0, 2.0]], np.float32)
    assert of(wanted, [[0.0, np.nan], [0.0, 2.0]]).top1_agreement == 0.5


def test_a_mask_of_minus_infinity_is_no_error() -> None:
    wanted = np.array([-np.inf, 1.0, 2.0], np.float32)
    found = of(wanted, wanted)
    assert (found.not_finite, found.max_relative_error) == (0, 0.0)
    assert found.outputs[0].reference_not_finite == 1
    assert of(wanted, [np.inf, 1.0, 2.0]).not_finite == 1
    assert of(wanted, [3.0, 1.0, 2.0]).outputs[0].reference_not_finite == 1


def test_whole_numbers_are_compared_by_equality() -> None:
    reference = Reference(
        ([np.array([1, 2, 3, 4]), np.array([True, False]), np.ones(2, np.float32)],), "float32"
    )
    found = compare(reference, [[np.array([1.0, 2.0, 3.0, 5.0]), np.array([1.0, 1.0]), np.ones(2)]])
    assert found.equal == pytest.approx(4 / 6)
    assert [one.equal for one in found.outputs] == [0.75, 0.5, None]
    assert [one.integer for one in found.outputs] == [True, True, False]
    assert found.max_relative_error == 0.0
    assert "66.7 % of the whole numbers" in str(found.to_json()["note"])


def test_other_shapes_and_numbers_of_outputs_are_errors() -> None:
    reference = Reference(([np.ones((2, 3), np.float32)],), "float32")
    with pytest.raises(MeasurementError, match=r"output 0 .* shape \[3, 2\], .* \[2, 3\]"):
        compare(reference, [[np.ones((3, 2))]])
    with pytest.raises(MeasurementError, match="returns 2 outputs, the float32 model 1"):
        compare(reference, [[np.ones((2, 3)), np.ones(1)]])
    with pytest.raises(MeasurementError, match="outputs of 0 input sets were given"):
        compare(reference, [])


def test_without_a_reference_the_reason_stands_in_place_of_figures() -> None:
    found = compare(Reference((), "not enough memory"), [[np.ones(2)]]).to_json()
    assert found["how"] == "not enough memory"
    assert [found[k] for k in ("max_relative_error", "top1_agreement", "note")] == [None] * 3
    assert (found["sets"], found["outputs"]) == (0, [])


def test_values_far_off_are_said(tmp_path: Path) -> None:
    del tmp_path
    wanted = np.linspace(1, 2, 50, dtype=np.float32)
    note = of(wanted, wanted * 1.2).to_json()["note"]
    assert note == "the values differ from the float32 model's by 20 % on average"


def model_of(module: Any, specs: tuple[InputSpec, ...] = IMAGE) -> LoadedModel:
    return LoadedModel("net", "torch", module, None, specs, "random", {})


def graph_of(path: Path | None) -> LoadedModel:
    return LoadedModel("net", "onnx", None, path, IMAGE, "user", {})


def test_a_graph_runs_as_it_is_on_the_cpu(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    write_onnx(tmp_path / "conv.onnx")
    sets, _ = make_inputs("normal", IMAGE, None, 0, sets=3)
    reference = reference_outputs(graph_of(tmp_path / "conv.onnx"), sets, CPU)
    assert reference.how == f"the graph as it is on the CPU of onnxruntime {ort.__version__}"
    assert (len(reference.outputs), reference.weights) == (3, "user")
    session = ort.InferenceSession(str(tmp_path / "conv.onnx"))
    for one, (found,) in zip(sets, reference.outputs, strict=True):
        np.testing.assert_allclose(found, session.run(None, one)[0], rtol=1e-5)
    again = compare(reference, reference.outputs)
    assert again.max_relative_error == 0.0


def test_a_graph_that_cannot_run_gives_the_reason(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    sets, _ = make_inputs("normal", IMAGE, None, 0, sets=1)
    reference = reference_outputs(graph_of(tmp_path / "broken.onnx"), sets, CPU)
    assert reference.outputs == ()
    assert reference.how.startswith("the float32 model does not run on onnxruntime's CPU (")
    assert reference_outputs(graph_of(None), sets, CPU).how == (
        "the model came without an ONNX graph"
    )


def test_without_onnxruntime_a_graph_has_no_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    reference = reference_outputs(graph_of(tmp_path / "x.onnx"), [], CPU)
    assert "onnxruntime, which runs the float32 graph, cannot be imported" in reference.how


@pytest.mark.torch
class TestTorchModule:
    def sets(self, count: int = 2) -> list[dict[str, np.ndarray]]:
        return make_inputs("normal", IMAGE, None, 0, sets=count)[0]

    def test_the_outputs_are_the_modules_and_flattened(self) -> None:
        torch = pytest.importorskip("torch")
        module = torch_module("conv")
        sets = self.sets()
        before = [one["x"].copy() for one in sets]
        reference = reference_outputs(model_of(module), sets, CPU)
        assert reference.how == "the module in float32 without TF32 on cpu"
        for one, found in zip(sets, reference.outputs, strict=True):
            with torch.no_grad():
                expected = module(torch.from_numpy(one["x"].copy()))
            np.testing.assert_allclose(found[0], expected["logits"].numpy(), rtol=1e-5, atol=1e-6)
            assert len(found) == 2
        for one, kept in zip(sets, before, strict=True):
            np.testing.assert_array_equal(one["x"], kept)

    def test_the_module_stays_what_it_was(self) -> None:
        torch = pytest.importorskip("torch")

        class Counting(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = torch.nn.Conv2d(3, 4, 3)
                self.norm = torch.nn.BatchNorm2d(4)
                self.drop = torch.nn.Dropout(0.5)
                self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
                self.cached: Any = None

            def forward(self, x: Any) -> Any:
                self.calls += 1
                self.cached = x
                return self.drop(self.norm(self.conv(x)))

        module = Counting().to(torch.bfloat16).train()
        kept = {name: value.clone() for name, value in module.state_dict().items()}
        pointers = [value.data_ptr() for value in module.parameters()]
        state = torch.random.get_rng_state()
        matmul = torch.backends.cuda.matmul.allow_tf32
        sets = self.sets()
        first = reference_outputs(model_of(module), sets, CPU)
        second = reference_outputs(model_of(module), sets, CPU)
        np.testing.assert_array_equal(first.outputs[0][0], second.outputs[0][0])  # no dropout
        assert first.outputs[0][0].dtype == np.float32
        assert module.training
        assert module.drop.training
        assert module.cached is None
        for name, value in module.state_dict().items():
            assert value.dtype == kept[name].dtype
            assert torch.equal(value, kept[name])
        assert [value.data_ptr() for value in module.parameters()] == pointers
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.backends.cuda.matmul.allow_tf32 == matmul

    def test_tied_weights_stay_tied_and_are_not_copied(self) -> None:
        torch = pytest.importorskip("torch")
        module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
        module[1].weight = module[0].weight
        copied = accuracy_reference._float32_copy(module, "cpu")
        assert copied[1].weight is copied[0].weight
        assert copied[0].weight.data_ptr() == module[0].weight.data_ptr()
        assert copied[0] is not module[0]

    def test_an_exported_program_is_left_alone(self) -> None:
        torch = pytest.importorskip("torch")
        module = torch_module("conv").to(torch.bfloat16)
        example = (torch.zeros(1, 3, 16, 16, dtype=torch.bfloat16),)
        program = torch.export.export(module, example, strict=False)
        reference = reference_outputs(model_of(program), self.sets(), CPU)
        assert {value.dtype for value in program.state_dict.values()} <= {
            torch.bfloat16,
            torch.int64,
        }
        direct = reference_outputs(model_of(module), self.sets(), CPU)
        assert compare(reference, direct.outputs).max_relative_error == pytest.approx(0, abs=1e-5)

    def test_integers_stay_integers(self) -> None:
        torch = pytest.importorskip("torch")

        class Picks(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                return x.flatten(1).argmax(1), x.mean()

        reference = reference_outputs(model_of(Picks()), self.sets(1), CPU)
        assert [array.dtype.kind for array in reference.outputs[0]] == ["i", "f"]

    def test_bfloat16_is_near_and_its_figures_say_so(self, tmp_path: Path) -> None:
        pytest.importorskip("torch")
        from edgejoule.inference.torch_backend import TorchBackend

        module, sets = torch_module("conv"), self.sets()
        reference = reference_outputs(model_of(module), sets, CPU)
        options = BuildOptions("bfloat16", threads=1)
        backend = TorchBackend()
        backend.build(model_of(module), options, tmp_path)
        session = backend.open(tmp_path, options)
        session.bind(sets)
        found = compare(reference, (session.outputs(which) for which in range(2)))
        session.close()
        assert found.mean_relative_error is not None
        assert 1e-4 < found.mean_relative_error < 0.05
        assert found.top1_rows == 4  # logits and the flattened half of the features

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (MemoryError("no more"), "not enough memory for the float32 model on cpu"),
            (RuntimeError("CUDA out of memory. Tried"), "not enough memory for the float32"),
            (ValueError("no such axis"), "the float32 model does not run on cpu (ValueError: no"),
        ],
    )
    def test_want_of_memory_and_failures_are_the_reason(self, error: Exception, said: str) -> None:
        torch = pytest.importorskip("torch")

        class Raises(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                raise error

        reference = reference_outputs(model_of(Raises()), self.sets(), CPU)
        assert reference.outputs == ()
        assert said in reference.how
        assert compare(reference, []).to_json()["mean_relative_error"] is None

    def test_outputs_that_take_too_much_memory_end_with_the_sets_that_fit(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("torch")
        monkeypatch.setattr(accuracy_reference, "_KEEP_BYTES", 300)
        reference = reference_outputs(model_of(torch_module("conv")), self.sets(4), CPU)
        per_set = sum(array.nbytes for array in reference.outputs[0])
        assert len(reference.outputs) == max(1, 300 // per_set)
        assert f"{len(reference.outputs)} of 4 input sets" in reference.how

    def test_nothing_to_compare(self) -> None:
        pytest.importorskip("torch")
        specs = (InputSpec("x", (1, 16)),)
        sets, _ = make_inputs("normal", specs, None, 0)
        reference = reference_outputs(model_of(torch_module("nothing"), specs), sets, CPU)
        assert reference.how == "the model returns no tensor of numbers"
        assert reference_outputs(model_of(None), sets, CPU).how == (
            "the model came without a torch module"
        )
