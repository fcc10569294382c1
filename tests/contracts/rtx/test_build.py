"""Our builder code on a real TensorRT: parser, network, configuration, build, all on a CPU.

TensorRT for RTX has the form of TensorRT 11: strongly typed, no flags for precision. What it cannot
show here is 10.x's flags, calibrators, a timing cache that holds something, and running an engine.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.calibration_data import load_calibration
from edgejoule.inference.onnx_dtype import cast_graph
from edgejoule.inference.quantization import model_hash, quantise
from edgejoule.inference.trt.build import Built, build_plan
from edgejoule.inference.trt.library import make_log
from edgejoule.inference.trt.network import check_types, parse_network
from edgejoule.inference.trt.precision import dtypes_of_version, typing_of
from edgejoule.inference.workload import InputSpec, ModelRequest
from tests.support_trt_builder import X, options, write_graph

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.contracts
NODE = onnx.helper.make_node
RESNET_INPUT = InputSpec("input", (1, 3, 64, 64))


@pytest.fixture
def log(tensorrt_rtx: Any) -> Iterator[Any]:
    """A logger that TensorRT takes: it keeps the first one while any of its objects lives."""
    gc.collect()
    yield make_log(tensorrt_rtx)
    gc.collect()


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import model

    folder = tmp_path_factory.mktemp("resnet")
    loaded = model.load(ModelRequest("resnet18", "random", 0, (1, 3, 64, 64), "onnx", folder))
    assert loaded.onnx_path is not None
    assert loaded.inputs == (RESNET_INPUT,)
    return loaded.onnx_path


def build(trt: Any, log: Any, graph: Path, asked: BuildOptions, **more: Any) -> Built:
    arguments: dict[str, Any] = {"inputs": [X], "say": lambda _line: None} | more
    return build_plan(trt, None, graph, asked, log=log, **arguments)


def test_resnet_18_builds_and_says_how(tensorrt_rtx: Any, log: Any, resnet: Path) -> None:
    lines: list[str] = []
    built = build(
        tensorrt_rtx,
        log,
        resnet,
        options(extra={"optimization_level": 2}, memory_limit_gib=2),
        inputs=[RESNET_INPUT],
        say=lines.append,
    )
    assert len(built.plan) > 40_000_000  # 11.7 million weights of 4 bytes
    said = built.facts
    assert (said["typing"], said["network_flags"]) == ("strong", ["STRONGLY_TYPED"])
    assert (said["builder_flags"], said["tf32"]) == ([], False)
    assert (said["profiling_verbosity"], said["max_aux_streams"]) == ("DETAILED", 0)
    assert (said["optimization_level"], said["workspace_mib"]) == (2, 1024)
    assert set(said["network_dtypes"]) == {"float32"}
    assert said["build_attempts"][0]["result"] == "built"
    assert any(line.startswith("Building engine: ") for line in lines)


def test_tf32_is_the_one_flag_of_precision_left(
    tensorrt_rtx: Any, log: Any, tmp_path: Path
) -> None:
    graph = write_graph(tmp_path / "g.onnx")
    assert build(tensorrt_rtx, log, graph, options("tf32")).facts["builder_flags"] == ["TF32"]
    flags = tensorrt_rtx.BuilderFlag.__members__
    assert not {"FP16", "BF16", "INT8", "FP8"} & set(flags)
    assert {"bfloat16", "fp8"} <= set(dtypes_of_version(tensorrt_rtx))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_cast_graph_is_of_that_type_throughout(
    tensorrt_rtx: Any, log: Any, resnet: Path, tmp_path: Path, dtype: Any
) -> None:
    cast_graph(resnet, tmp_path / "cast.onnx", dtype)
    built = build(tensorrt_rtx, log, tmp_path / "cast.onnx", options(dtype), inputs=[RESNET_INPUT])
    assert set(built.facts["network_dtypes"]) == {dtype}
    assert 20_000_000 < len(built.plan) < 30_000_000
    with pytest.raises(UsageError, match=f"itself is typed {dtype}, so it cannot run as float32"):
        build(tensorrt_rtx, log, tmp_path / "cast.onnx", options(), inputs=[RESNET_INPUT])


@pytest.mark.parametrize("dtype", ["int8", "fp8"])
@pytest.mark.parametrize("rest", ["float32", "float16"])
def test_the_parser_takes_our_quantised_graphs(
    tensorrt_rtx: Any, log: Any, resnet: Path, tmp_path: Path, dtype: Any, rest: str
) -> None:
    data = load_calibration("normal", [RESNET_INPUT], None, 0, 1)
    target = tmp_path / "quantised.onnx"
    digest = model_hash(resnet)
    quantise(resnet, target, dtype, options(dtype), data, digest, rest=rest)
    typing = typing_of(tensorrt_rtx, dtype, None)
    network = parse_network(tensorrt_rtx, tensorrt_rtx.Builder(log), target, typing, log)
    check_types(network, dtype, "resnet18", explicit=True)
    # Between quantised tensors everything has the type of the rest, and nothing else.
    assert set(network.dtypes) == {dtype, rest}
    assert network.dtypes[dtype] >= 40


def test_a_network_that_it_cannot_build_is_an_error_with_its_words(
    tensorrt_rtx: Any, log: Any, resnet: Path, tmp_path: Path
) -> None:
    # TensorRT for RTX has no int8 convolutions.
    data = load_calibration("normal", [RESNET_INPUT], None, 0, 1)
    target = tmp_path / "quantised.onnx"
    quantise(resnet, target, "int8", options("int8"), data, model_hash(resnet))
    with pytest.raises(MeasurementError, match=r"built no engine from resnet18 \(.*Myelin"):
        build(
            tensorrt_rtx,
            log,
            target,
            options("int8"),
            inputs=[RESNET_INPUT],
            explicit=True,
            label="resnet18",
        )


def test_a_dynamic_graph_needs_and_gets_a_profile(
    tensorrt_rtx: Any, log: Any, tmp_path: Path
) -> None:
    graph = write_graph(tmp_path / "g.onnx", batch="n")
    four = [InputSpec("x", (4, 3, 8, 8))]
    extra = {"shape_min": [1, 3, 8, 8], "shape_max": [8, 3, 8, 8]}
    built = build(tensorrt_rtx, log, graph, options(extra=extra), inputs=four)
    assert built.facts["profiles"][0]["x"]["opt"] == [4, 3, 8, 8]
    # What the double says of a network without one is what the real builder does.
    builder = tensorrt_rtx.Builder(log)
    typing = typing_of(tensorrt_rtx, "float32", None)
    network = parse_network(tensorrt_rtx, builder, graph, typing, log)
    del log.errors[:]
    config = builder.create_builder_config()
    assert builder.build_serialized_network(network.definition, config) is None
    assert "no optimization profile has been defined" in log.last_error()


def test_every_unsupported_operator_is_named(tensorrt_rtx: Any, log: Any, tmp_path: Path) -> None:
    nodes = [
        NODE("Frobnicate", ["x"], ["a"], name="first", domain="my.own"),
        NODE("Frobnicate", ["a"], ["b"], name="second", domain="my.own"),
        NODE("Unique", ["b"], ["y"], name="third"),
    ]
    graph = write_graph(tmp_path / "g.onnx", nodes=nodes)
    with pytest.raises(UsageError) as refused:
        build(tensorrt_rtx, log, graph, options())
    assert "operator Frobnicate (first, second) is not supported" in str(refused.value)
    assert "operator Unique (third) is not supported" in str(refused.value)


def test_other_errors_of_the_parser(tensorrt_rtx: Any, log: Any, tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "g.onnx", nodes=[NODE("Relu", ["gone"], ["y"], name="relu")])
    with pytest.raises(UsageError, match=r"operator Relu \(relu\): .*input was not registered"):
        build(tensorrt_rtx, log, graph, options())
    (tmp_path / "garbage.onnx").write_bytes(b"garbage" * 30)
    with pytest.raises(UsageError, match=r"cannot read .*garbage\.onnx as ONNX \(.*Failed to pars"):
        build(tensorrt_rtx, log, tmp_path / "garbage.onnx", options())
    nodes = [NODE("MatMul", ["x", "conv1.weight"], ["y"], name="product")]
    graph = write_graph(tmp_path / "shapes.onnx", nodes=nodes)
    with pytest.raises(UsageError, match=r"operator MatMul \(product\): .*must match"):
        build(tensorrt_rtx, log, graph, options())


def test_weights_beside_the_file_are_found(tensorrt_rtx: Any, log: Any, tmp_path: Path) -> None:
    model = onnx.load(write_graph(tmp_path / "inside.onnx"))
    outside = tmp_path / "outside.onnx"
    onnx.save(model, str(outside), save_as_external_data=True, location="w", size_threshold=0)
    assert build(tensorrt_rtx, log, outside, options()).plan
    (tmp_path / "w").unlink()
    with pytest.raises(UsageError, match=r"outside\.onnx"):
        build(tensorrt_rtx, log, outside, options())


_INTERRUPTED = """
import os, signal, sys
from pathlib import Path
import tensorrt_rtx as trt
from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.trt.build import build_plan
from edgejoule.inference.trt.library import make_log
from edgejoule.inference.workload import InputSpec
log = make_log(trt)
# A shell's background jobs ignore the signal from their start.
signal.signal(signal.SIGINT, signal.default_int_handler)
started = []
def say(line):
    started.append(line)
    os.kill(os.getpid(), signal.SIGINT)
try:
    build_plan(trt, None, Path(sys.argv[1]), BuildOptions("float32", "cuda:0"), log=log,
               inputs=[InputSpec("x", (1, 3, 8, 8))], say=say)
except KeyboardInterrupt:
    print("interrupted", len(started), [line for line in log.errors if "BuildCanceled" in line])
"""


def test_interrupting_ends_a_real_build(rtx_python: Callable[..., Any], tmp_path: Path) -> None:
    done = rtx_python(_INTERRUPTED, str(write_graph(tmp_path / "g.onnx")))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("interrupted 1 ")
    assert "BuildCanceled" in done.stdout


def test_its_timing_cache_holds_nothing_and_that_is_no_error(
    tensorrt_rtx: Any, log: Any, tmp_path: Path
) -> None:
    graph = write_graph(tmp_path / "g.onnx")
    asked = options(cache=str(tmp_path / "cache"))
    first = build(tensorrt_rtx, log, graph, asked).facts["timing_cache"]
    second = build(tensorrt_rtx, log, graph, asked).facts["timing_cache"]
    assert second["sha256_before"] == first["sha256_after"]
    json.dumps(second)
