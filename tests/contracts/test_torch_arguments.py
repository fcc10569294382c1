"""What `torch_tensorrt.dynamo.compile` would be given, against the signature of each version."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path
from typing import Any

import pytest

from edgejoule.errors import UsageError
from edgejoule.inference.trt import torch_names
from edgejoule.inference.trt.torch_arguments import TENSOR_DTYPES, Arguments, choose_arguments
from tests.contracts.folder import listed, numbers
from tests.contracts.wheels import Wheel

pytestmark = pytest.mark.contracts

COMPILER = "torch_tensorrt/dynamo/_compiler.py"
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"optimization_level": 5, "min_block_size": 1},
    {"require_full_compilation": True},
)


@pytest.fixture(params=listed("torch_tensorrt.txt"))
def wheel(request: pytest.FixtureRequest, contracts: Path) -> Wheel:
    return Wheel(contracts / "torch_tensorrt" / request.param)


def signature(wheel: Wheel) -> dict[str, bool]:
    return wheel.parameters(COMPILER, torch_names.COMPILE)


def choose(wheel: Wheel, dtype: str, extra: dict[str, Any]) -> Arguments:
    parameters = [name for name in signature(wheel) if not name.startswith("*")]
    return choose_arguments(
        parameters,
        wheel.version,
        dtype=dtype,
        device="cuda:0",
        extra=extra,
        timing_cache="timing.cache",
        workspace_bytes=1 << 30,
    )


def test_compile_swallows_what_it_does_not_know(wheel: Wheel) -> None:
    # The reason why arguments are chosen by the signature.
    assert "**kwargs" in signature(wheel)


@pytest.mark.parametrize(("dtype", "extra"), list(itertools.product(TENSOR_DTYPES, OPTIONS)))
def test_all_that_is_passed_is_in_the_signature(
    wheel: Wheel, dtype: str, extra: dict[str, Any]
) -> None:
    known = signature(wheel)
    passed = choose(wheel, dtype, extra).passed
    assert set(passed) - set(known) == set()
    assert set(extra) <= set(passed)
    needed = {name for name, optional in known.items() if not optional}
    assert needed <= {"exported_program", "inputs"}  # given by position


def test_how_a_network_is_typed(wheel: Wheel) -> None:
    version = numbers(wheel.version.split("+")[0])
    arguments = choose(wheel, "float16", {})
    weak = version < torch_names.FIRST_HALF_EXPLICIT
    assert arguments.typing == ("weak" if weak else "strong")
    # Where both are there, one of them set to a reduced precision refuses the other.
    assert ("enabled_precisions" in arguments.passed) == weak
    assert ("use_explicit_typing" in arguments.passed) == ((2, 6) <= version < (2, 13))
    assert arguments.passed.get("use_explicit_typing") is not weak
    assert "disable_tf32" not in arguments.passed
    for dtype, forbidden in (("float32", True), ("tf32", False)):
        assert choose(wheel, dtype, {}).passed["disable_tf32"] is forbidden
        assert choose(wheel, dtype, {}).typing == ("weak" if version < (2, 6) else "strong")


def test_why_explicit_typing_of_halves_waits(wheel: Wheel) -> None:
    """Versions that fold a batch normalisation only where all of its weights are constants."""
    version = numbers(wheel.version.split("+")[0])
    tree = wheel.tree("torch_tensorrt/dynamo/conversion/impl/normalization/ops.py")
    assert tree is not None
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert "batch_norm" in defined
    folds = "batch_norm_constant_folding" in defined
    assert folds == (version >= torch_names.FIRST_HALF_EXPLICIT)


def test_engines_are_built_anew_and_on_one_stream(wheel: Wheel) -> None:
    version = numbers(wheel.version.split("+")[0])
    arguments = choose(wheel, "float32", {})
    assert arguments.passed["max_aux_streams"] == 0
    assert arguments.passed["timing_cache_path"] == "timing.cache"
    for name in ("cache_built_engines", "reuse_cached_engines"):
        assert arguments.passed.get(name) is (None if version < (2, 5) else False)
        assert (name in arguments.unavailable) == (version < (2, 5))


@pytest.mark.parametrize("dtype", ["int8", "fp8"])
def test_what_it_cannot_build_is_refused(wheel: Wheel, dtype: str) -> None:
    with pytest.raises(UsageError, match=f"torch-tensorrt does not build {dtype}"):
        choose(wheel, dtype, {})


def test_an_argument_that_a_version_lost_is_refused_by_name(wheel: Wheel) -> None:
    parameters = set(signature(wheel)) - {"optimization_level", "**kwargs"}
    said = rf"torch_tensorrt {wheel.version} has no argument 'optimization_level'.*was given"
    with pytest.raises(UsageError, match=said.replace("+", r"\+")):
        choose_arguments(
            parameters,
            wheel.version,
            dtype="float32",
            device="cuda:0",
            extra={"optimization_level": 3},
            timing_cache="timing.cache",
        )
