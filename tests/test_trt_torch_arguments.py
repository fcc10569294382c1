"""Arguments of torch_tensorrt's `compile`: what each version is given, and what it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from edgejoule.errors import UsageError
from edgejoule.inference.trt import torch_names
from edgejoule.inference.trt.torch_arguments import Arguments, choose_arguments
from tests.support_torch_tensorrt import SIGNATURES

VERSIONS = tuple(SIGNATURES)
TYPED = ("2.6.0", "2.8.0", "2.10.0", "2.12.1")


def choose(
    version: str, dtype: str = "float16", without: str = "", called: str = "", **extra: Any
) -> Arguments:
    return choose_arguments(
        [name for name in SIGNATURES[version] if name != without],
        called or version,
        dtype=dtype,
        device="cuda:0",
        extra=extra,
        timing_cache="/cache/timing.cache",
        workspace_bytes=2**30,
    )


def test_the_signatures_are_of_the_versions_relied_on() -> None:
    assert VERSIONS == torch_names.VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", ["float32", "tf32", "float16", "bfloat16"])
def test_nothing_is_passed_that_a_version_would_swallow(version: str, dtype: str) -> None:
    chosen = choose(version, dtype, optimization_level=4, min_block_size=2)
    assert set(chosen.passed) <= set(SIGNATURES[version])
    assert set(chosen.passed) <= torch_names.parameters()
    assert not set(chosen.passed) & set(chosen.unavailable)
    assert chosen.passed["optimization_level"] == 4
    assert chosen.passed["min_block_size"] == 2
    assert chosen.passed["max_aux_streams"] == 0
    assert chosen.passed["device"] == "cuda:0"
    assert chosen.passed["workspace_size"] == 2**30
    assert chosen.passed["timing_cache_path"] == "/cache/timing.cache"


@pytest.mark.parametrize("version", VERSIONS)
def test_typing_is_strong_where_a_version_can(version: str) -> None:
    chosen = choose(version)
    if version in {"2.4.0", "2.6.0"}:
        assert chosen.typing == "weak"
        assert chosen.passed["enabled_precisions"] == ["float16"]
    else:
        assert chosen.typing == "strong"
        # 2.10 to 2.12 raise if precisions come with explicit typing, 2.13 swallows them.
        assert "enabled_precisions" not in chosen.passed
    explicit = version != "2.6.0" if version in TYPED else None
    assert chosen.passed.get("use_explicit_typing") is explicit


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_typed_weakly_where_batch_norm_would_widen_them(dtype: str) -> None:
    for version in ("2.6.0", "2.7.1"):
        chosen = choose("2.6.0", dtype, called=version)
        assert chosen.typing == "weak"
        assert chosen.passed["use_explicit_typing"] is False
        assert chosen.passed["enabled_precisions"] == [dtype]
    for wide in ("float32", "tf32"):
        chosen = choose("2.6.0", wide)
        assert chosen.typing == "strong"
        assert chosen.passed["use_explicit_typing"] is True
        assert "enabled_precisions" not in chosen.passed
    assert choose("2.8.0", dtype).typing == "strong"


def test_weak_typing_names_the_tensors_dtype() -> None:
    assert choose("2.4.0", "tf32").passed["enabled_precisions"] == ["float32"]
    assert choose("2.4.0", "bfloat16").passed["enabled_precisions"] == ["bfloat16"]


@pytest.mark.parametrize("version", VERSIONS)
def test_tf32_is_forbidden_allowed_or_left_alone(version: str) -> None:
    assert choose(version, "float32").passed["disable_tf32"] is True
    assert choose(version, "tf32").passed["disable_tf32"] is False
    assert "disable_tf32" not in choose(version, "float16").passed


def test_engines_are_never_taken_from_a_cache() -> None:
    for version in VERSIONS[1:]:
        passed = choose(version).passed
        assert passed["cache_built_engines"] is False
        assert passed["reuse_cached_engines"] is False
        assert passed["immutable_weights"] is True
    assert set(choose("2.4.0").unavailable) >= {"cache_built_engines", "immutable_weights"}


def test_the_python_runtime_is_asked_for_until_it_is_inert() -> None:
    for version in VERSIONS:
        asked = choose(version).passed.get("use_python_runtime")
        assert asked == (None if version in {"2.13.0", "2.14.0"} else True)


def test_operations_of_unknown_shape_stay_in_pytorch_unless_nothing_may() -> None:
    assert choose("2.14.0").passed["fallback_data_dependent_ops"] is True
    whole = choose("2.14.0", require_full_compilation=True)
    assert "fallback_data_dependent_ops" not in whole.passed
    assert "fallback_data_dependent_ops" in choose("2.12.1").unavailable


def test_whole_models_have_no_smallest_part() -> None:
    chosen = choose("2.8.0", require_full_compilation=True)
    assert chosen.passed["require_full_compilation"] is True
    assert chosen.passed["min_block_size"] == 1  # else a small model stays in PyTorch, unsaid
    with pytest.raises(UsageError, match="--min-block-size does nothing with --require-full"):
        choose("2.8.0", require_full_compilation=True, min_block_size=3)
    assert "min_block_size" not in choose("2.8.0", require_full_compilation=False).passed


@pytest.mark.parametrize(
    "name", ["optimization_level", "min_block_size", "device", "workspace_size", "inputs"]
)
def test_what_is_asked_for_and_not_there_is_an_error(name: str) -> None:
    pattern = rf"torch_tensorrt 2\.8\.0 has no argument '{name}' of torch_tensorrt\.dynamo\.compile"
    with pytest.raises(UsageError, match=pattern):
        choose("2.8.0", without=name, optimization_level=1, min_block_size=1)


def test_float32_needs_the_argument_that_forbids_tf32() -> None:
    with pytest.raises(UsageError, match=r"2\.12\.1 has no argument 'disable_tf32'.*forbids"):
        choose("2.12.1", "float32", without="disable_tf32")
    assert choose("2.12.1", without="disable_tf32").passed


def test_a_default_of_ours_that_is_not_there_is_noted() -> None:
    chosen = choose("2.8.0", without="max_aux_streams")
    assert "max_aux_streams" not in chosen.passed
    assert "may overlap" in chosen.unavailable["max_aux_streams"]


def test_weak_typing_without_precisions_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"2\.4\.0 has no argument 'enabled_precisions'"):
        choose("2.4.0", without="enabled_precisions")


@pytest.mark.parametrize("dtype", ["int8", "fp8"])
def test_quantised_dtypes_are_refused_with_the_way_to_them(dtype: str) -> None:
    with pytest.raises(UsageError, match=rf"does not build {dtype}.*--backend tensorrt"):
        choose("2.14.0", dtype)


def test_versions_are_read_tolerantly() -> None:
    assert torch_names.version_of("2.8.0+cu126") == (2, 8, 0)
    assert torch_names.version_of("2.4.0a0") == (2, 4, 0)
    assert torch_names.version_of("2.12.1.post1") == (2, 12, 1)
    assert torch_names.version_of("unknown") == ()
