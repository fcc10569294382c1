"""Every name of TensorRT's Python API that this project uses, against the published bindings."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgejoule.inference.trt.library import RELIED_ON, ReliedOn
from tests.contracts.bindings import Bindings, disagreements, look, look_at_version, run_in_bindings
from tests.contracts.folder import listed

pytestmark = pytest.mark.contracts

VERSIONS = listed("bindings.txt")


@pytest.fixture(scope="module", params=VERSIONS)
def bindings(request: pytest.FixtureRequest, contracts: Path) -> Bindings:
    return look_at_version(contracts, request.param)


def test_every_name_we_rely_on_is_in_the_versions_that_we_say(bindings: Bindings) -> None:
    assert disagreements(bindings, RELIED_ON) == []


# What the runner does with these: assigns to them.
@pytest.mark.parametrize(
    "name",
    [
        "IExecutionContext.profiler",
        "IExecutionContext.enqueue_emits_profile",
        "IExecutionContext.nvtx_verbosity",
        "Runtime.gpu_allocator",
        "EngineInspector.execution_context",
    ],
)
def test_a_property_that_is_assigned_can_be(bindings: Bindings, name: str) -> None:
    if bindings.imported:
        assert bindings.names[name][0] == "property"


# Name -> parts of a signature that must be there: what is passed, and what comes back.
CALLS = {
    "IExecutionContext.report_to_profiler": ("-> bool",),
    "IExecutionContext.execute_async_v3": ("stream_handle: int", "-> bool"),
    "IExecutionContext.set_tensor_address": ("name: str", "memory: int", "-> bool"),
    "IExecutionContext.set_input_shape": ("name: str", "shape:", "-> bool"),
    "IExecutionContext.set_optimization_profile_async": ("stream_handle: int", "-> bool"),
    "IProfiler.report_layer_time": ("layer_name: str", "ms: float"),
    "ILogger.log": ("severity:", "msg: str"),
    "Runtime.deserialize_cuda_engine": ("serialized_engine: buffer",),
    "EngineInspector.get_engine_information": ("-> str",),
    "ICudaEngine.create_engine_inspector": ("EngineInspector",),
}


# pybind11 3, from TensorRT 10.16, writes what is accepted in other words.
WORDS = {
    "typing.SupportsInt": "int",
    "typing.SupportsFloat": "float",
    "typing_extensions.Buffer": "buffer",
    "collections.abc.Buffer": "buffer",
}


@pytest.mark.parametrize("name", CALLS)
def test_a_method_takes_what_it_is_called_with(bindings: Bindings, name: str) -> None:
    if bindings.imported:
        signatures = bindings.names[name][1]
        for theirs, plain in WORDS.items():
            signatures = signatures.replace(theirs, plain)
        missing = [part for part in CALLS[name] if part not in signatures]
        assert missing == [], f"TensorRT {bindings.version}: {name}: {signatures}"


def test_the_flag_of_strong_typing_has_two_numbers(contracts: Path) -> None:
    # The reason why no enum is used by number: 1 in TensorRT 10, 0 in 11.
    versions = [v for v in VERSIONS if (contracts / "bindings" / v).is_dir()]
    assert versions, "no bindings can be imported here"
    code = "import tensorrt_bindings as t; print(int(t.NetworkDefinitionCreationFlag.{}))"
    for version in versions:
        flag = "STRONGLY_TYPED" if int(version.split(".")[0]) >= 10 else "EXPLICIT_BATCH"
        done = run_in_bindings(contracts, contracts / "bindings" / version, "-c", code.format(flag))
        expected = {"8": "0", "10": "1", "11": "0"}[version.split(".")[0]]
        assert done.stdout.strip() == expected, (version, done.stderr)


def test_a_renamed_name_in_a_copy_of_the_bindings_is_told(contracts: Path, tmp_path: Path) -> None:
    """The renaming is in the file itself: the module then defines `execute_async_v9`."""
    version = next(v for v in reversed(VERSIONS) if (contracts / "bindings" / v).is_dir())
    copy = tmp_path / "copy"
    shutil.copytree(contracts / "bindings" / version, copy)
    module = copy / "tensorrt_bindings" / "tensorrt.so"
    content = module.read_bytes()
    assert b"\0execute_async_v3\0" in content
    module.write_bytes(content.replace(b"\0execute_async_v3\0", b"\0execute_async_v9\0"))
    assert disagreements(look(contracts, copy, version), RELIED_ON) == [
        f"TensorRT {version} has no IExecutionContext.execute_async_v3"
    ]


def test_a_name_that_should_be_gone_is_told() -> None:
    there = Bindings("11.1.0.106", {"BuilderFlag.FP16": ("value", "")})
    table = [ReliedOn("BuilderFlag.FP16", until=(11, 0)), ReliedOn("Builder", since=(12, 0))]
    (line,) = disagreements(there, table)
    assert "11.1.0.106 has BuilderFlag.FP16, which it lacks by the table" in line


def test_from_strings_alone_a_missing_name_is_told() -> None:
    # A linker lets a short name end where a longer one does: `profiler` in `report_to_profiler`.
    seen = Bindings("8.6.1", {}, b"\0PyIProfiler\0report_layer_time\0")
    table = [ReliedOn("IProfiler.report_layer_time"), ReliedOn("IProfiler.report_all")]
    assert disagreements(seen, table) == ["TensorRT 8.6.1 has no IProfiler.report_all"]
