"""What a command line comes to: engines, calibration, options that a backend does not know."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import pytest

from edgejoule import resolving
from edgejoule.cli.measure_inference import build_parser
from edgejoule.errors import UsageError


def parsed(*words: str) -> argparse.Namespace:
    return build_parser().parse_args(list(words))


def test_a_model_or_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed()
    assert "one of the arguments --model --engine is required" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parsed("--model", "lenet", "--engine", "x.engine")
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["int8", "fp8"])
def test_quantising_needs_calibration(dtype: str) -> None:
    args = parsed("--model", "lenet", "--dtype", dtype)
    with pytest.raises(UsageError, match=f"--dtype {dtype} needs --calibration; give a folder"):
        resolving.check_calibration(args, dtype)
    resolving.check_calibration(parsed("--model", "lenet", "--calibration", "photos"), dtype)
    resolving.check_calibration(parsed("--model", "own.onnx", "--dtype", dtype), dtype)


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (("--calibration", "photos"), "--calibration"),
        (("--calibration-cache", "ranges.json"), "--calibration-cache"),
        (("--allow-fallback", "float16"), "--allow-fallback"),
    ],
)
def test_what_only_quantising_uses_is_refused_elsewhere(words: tuple[str, ...], flag: str) -> None:
    with pytest.raises(UsageError, match=f"^{flag} is for int8 and fp8, this run is float32"):
        resolving.check_calibration(parsed("--model", "lenet", *words), "float32")


def test_an_engine_is_not_calibrated() -> None:
    args = parsed("--engine", "x.engine", "--calibration", "photos")
    with pytest.raises(UsageError, match="an engine is calibrated when it is built"):
        resolving.check_calibration(args, "int8")


def test_an_engine_says_what_it_is(tmp_path: Path) -> None:
    from edgejoule.inference.trt.engine_file import EngineFacts, write_engine_file

    plan = b"ftrt" + bytes(400)
    plain = tmp_path / "my net@2.engine"
    plain.write_bytes(plan)
    facts, dtype = resolving.engine_facts(plain)
    assert dtype is None
    assert (facts.name, facts.input_shape, facts.forms) == ("my-net-2", None, ("onnx",))
    assert facts.sha256 == hashlib.sha256(plan).hexdigest()
    ours = tmp_path / "x.engine"
    write_engine_file(
        ours,
        plan,
        EngineFacts(
            name="resnet18", tensorrt="10.3.0", gpu="Orin", compute_capability="8.7",
            dtype="float16", model_sha256="0" * 64, inputs=(("x", (1, 3, 8, 8), "float32"),),
            outputs=(), platform="aarch64", built_by="edgejoule", settings={},
        ),
    )  # fmt: skip
    facts, dtype = resolving.engine_facts(ours)
    assert (facts.name, facts.input_shape, dtype) == ("x", (1, 3, 8, 8), "float16")
    same = ours.rename(tmp_path / "resnet18.ejplan")
    assert resolving.engine_facts(same)[0].name == "resnet18-engine"


def test_an_engine_has_the_dtype_it_was_built_in() -> None:
    file = Path("x.ejplan")
    assert resolving.engine_dtype(file, "auto", "int8") == "int8"
    assert resolving.engine_dtype(file, "int8", "int8") == "int8"
    assert resolving.engine_dtype(file, "auto", None) == "unknown"
    assert resolving.engine_dtype(file, "float16", None) == "float16"
    with pytest.raises(UsageError, match="built in int8, --dtype says float16; leave --dtype out"):
        resolving.engine_dtype(file, "float16", "int8")


def test_a_file_that_is_no_engine(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no-such"):
        resolving.engine_facts(tmp_path / "no-such.engine")


def test_an_engine_is_kept_only_where_one_is_built(tmp_path: Path) -> None:
    target = tmp_path / "kept.ejplan"
    args = parsed("--model", "lenet", "--save-engine", str(target))
    resolving.check_saving(args, "tensorrt")
    with pytest.raises(UsageError, match="torch-tensorrt builds no single engine"):
        resolving.check_saving(args, "torch-tensorrt")
    target.write_bytes(b"")
    with pytest.raises(UsageError, match="is there already; give another, or remove it"):
        resolving.check_saving(args, "tensorrt")
    args = parsed("--model", "lenet", "--save-engine", str(tmp_path / "no" / "x"))
    with pytest.raises(UsageError, match="there is no folder"):
        resolving.check_saving(args, "tensorrt")
    args = parsed("--engine", "a.engine", "--save-engine", str(tmp_path / "x"))
    with pytest.raises(UsageError, match="--engine is a file already"):
        resolving.check_saving(args, "tensorrt")
