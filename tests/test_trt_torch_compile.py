"""Compilation watched: configuration seen and set, nothing ignored in silence, memory that ends."""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from edgejoule.errors import MeasurementError, UsageError  # noqa: E402
from edgejoule.inference.backend import BuildOptions  # noqa: E402
from edgejoule.inference.trt import torch_build  # noqa: E402
from edgejoule.inference.trt.torch_arguments import Arguments, choose_arguments  # noqa: E402
from edgejoule.inference.trt.torch_compile import (  # noqa: E402
    Line,
    applied,
    compile_function,
    compile_program,
    heard,
    load_torch_tensorrt,
)
from edgejoule.inference.trt.torch_names import version_of  # noqa: E402
from tests.support_tensorrt import load_double  # noqa: E402
from tests.support_torch_tensorrt import (  # noqa: E402
    SIGNATURES,
    build_here,
    compile_model,
    install,
    model,
    pooling,
)

pytestmark = pytest.mark.torch

VERSIONS = tuple(SIGNATURES)
HERE = BuildOptions("float32", device="cpu")


def merged(version: str) -> bool:
    """Whether it is of the versions with one runtime, which come with TensorRT 11."""
    return version_of(version) >= (2, 13)


def played(monkeypatch: pytest.MonkeyPatch, version: str = "2.8.0", **more: Any) -> Any:
    trt = load_double(monkeypatch, "11.1.0" if merged(version) else "10.13.0")
    package, behaviour = install(monkeypatch, trt, version, **more)
    return package, behaviour, trt


def arguments(version: str = "2.8.0", dtype: str = "float32", **extra: Any) -> Arguments:
    return choose_arguments(
        SIGNATURES[version], version, dtype=dtype, device="cpu", extra=extra,
        timing_cache="/nowhere/timing.cache", workspace_bytes=2**28,
    )  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_in_force_is_read_back(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    package, _, _ = played(monkeypatch, version)
    compiled = compile_model(package, arguments(version, optimization_level=2))
    assert (compiled.version, len(compiled.builds)) == (version, 2)
    found = applied(compiled)
    assert found["typing"] == ("weak" if version == "2.4.0" else "strong")
    for builder in found["builder"]:
        assert builder["profiling_verbosity"] == "DETAILED"
        assert builder["builder_optimization_level"] == 2
        assert builder["max_aux_streams"] == 0
        assert builder["workspace_bytes"] == 2**28
        assert builder["flags"]["TF32"] is False
        assert ("FP16" in builder["flags"]) == (not merged(version))
    kept = found["compilation_settings"]
    assert kept["optimization_level"] == 2
    assert kept["device"] == "cpu"
    assert ("use_explicit_typing" in kept) == ("use_explicit_typing" in SIGNATURES[version])
    assert set(found["not_available"]) == set(compiled.arguments.unavailable)


def test_the_method_is_wrapped_only_while_it_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    package, behaviour, _ = played(monkeypatch)
    holder = sys.modules["torch_tensorrt.dynamo.conversion._TRTInterpreter"]
    before = holder.TRTInterpreter._populate_trt_builder_config
    compile_model(package, arguments())
    behaviour.fails = "no converter"
    with pytest.raises(RuntimeError, match="no converter"):
        compile_model(package, arguments())
    assert holder.TRTInterpreter._populate_trt_builder_config is before


def test_layers_get_their_names_as_metadata_too(monkeypatch: pytest.MonkeyPatch) -> None:
    package, _, _ = played(monkeypatch)
    holder = sys.modules["torch_tensorrt.dynamo.conversion._TRTInterpreter"]
    networks = []
    run = holder.TRTInterpreter.run

    def seen(self: Any, *args: Any) -> Any:
        self.ctx.net.layers[0].metadata = "set by torch_tensorrt"
        networks.append(self.ctx.net)
        return run(self, *args)

    monkeypatch.setattr(holder.TRTInterpreter, "run", seen)
    compile_model(package, arguments())
    first, second = networks[0].layers[:2]
    assert first.metadata == "set by torch_tensorrt"
    assert second.metadata == second.name != ""


def test_the_graph_of_each_engine_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    package, _, _ = played(monkeypatch)
    first, second = compile_model(package, arguments()).builds
    assert first.inputs[0] == "x"
    assert "x" not in second.inputs
    assert next(node.path for node in first.origin.nodes.values()) == "first"
    assert next(node.path for node in second.origin.nodes.values()) == "second"


def test_nodes_keep_their_modules_though_torch_tensorrt_takes_them_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package, _, _ = played(monkeypatch)
    holder = sys.modules["torch_tensorrt.dynamo.conversion._TRTInterpreter"]
    before = holder.get_node_name
    compiled = compile_model(package, arguments())
    assert holder.get_node_name is before
    (part,) = (m for name, m in compiled.module.named_children() if "_gpu_" in name)
    (pool,) = (node for node in part.graph.nodes if node.op == "call_function")
    assert list(pool.meta["nn_module_stack"].values())[-1][0] == "pool"
    assert before(pool).startswith("pool/")
    assert "pool" not in str(pool.meta["nn_module_stack"])  # what happens without the care


def test_an_argument_that_the_signature_lacks_never_reaches_kwargs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fewer = [name for name in SIGNATURES["2.13.0"] if name != "max_aux_streams"]
    package, behaviour, _ = played(monkeypatch, "2.13.0", signature=fewer)
    with pytest.raises(MeasurementError, match=r"2\.13\.0 would swallow.*'max_aux_streams'"):
        compile_model(package, arguments("2.13.0"))
    assert behaviour.calls == []


def test_a_setting_that_is_kept_otherwise_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    package, behaviour, _ = played(monkeypatch)
    behaviour.keeps = {"optimization_level": 3}
    pattern = r"torch_tensorrt 2\.8\.0 did not apply optimization_level=5 but 3"
    with pytest.raises(MeasurementError, match=pattern):
        compile_model(package, arguments(optimization_level=5))


def test_an_argument_that_is_said_to_be_inert_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    package, behaviour, _ = played(monkeypatch)
    behaviour.warns = "`use_python_runtime` is deprecated and has no effect. The runtimes merged."
    with pytest.raises(MeasurementError, match=r"2\.8\.0 ignores 'use_python_runtime'"):
        compile_model(package, arguments())


def test_a_mere_deprecation_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package, behaviour, _ = played(monkeypatch, "2.12.1")
    # Given at every call by 2.10 to 2.12, whatever is passed.
    behaviour.warns = "`use_explicit_typing` is deprecated. use_explicit_types is now on by default"
    assert compile_model(package, arguments("2.12.1")).builds
    assert "use_explicit_types is now on by default" in capsys.readouterr().err


def test_a_version_without_the_wrapped_method_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    package, _, _ = played(monkeypatch)
    holder = sys.modules["torch_tensorrt.dynamo.conversion._TRTInterpreter"]
    monkeypatch.delattr(holder.TRTInterpreter, "_populate_trt_builder_config")
    pattern = r"torch_tensorrt 2\.8\.0 has no TRTInterpreter\._populate_trt_builder_config"
    with pytest.raises(UsageError, match=pattern):
        compile_model(package, arguments())


def test_a_version_without_compile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    package, _, _ = played(monkeypatch)
    monkeypatch.delattr(sys.modules["torch_tensorrt.dynamo"], "compile")
    with pytest.raises(UsageError, match=r"torch_tensorrt 2\.8\.0 has no torch_tensorrt\.dynamo"):
        compile_function(package)


def test_what_tensorrt_says_is_heard() -> None:
    with heard() as lines:
        logging.getLogger("torch_tensorrt [TensorRT Conversion Context]").error("no  memory")
        logging.getLogger("torch_tensorrt.dynamo").warning("slow")
        logging.getLogger("another").error("not ours")
    logging.getLogger("torch_tensorrt").error("after it")
    assert lines == [Line(logging.ERROR, "no memory"), Line(logging.WARNING, "slow")]


def test_what_is_heard_still_reaches_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # as in the process that builds; pytest has its own
    with heard():
        logging.getLogger("torch_tensorrt").error("once, while somebody listens")
        logging.getLogger("torch_tensorrt").info("not a warning")
    assert root.handlers == []
    logging.getLogger("torch_tensorrt").error("and after it")
    assert capsys.readouterr().err == "once, while somebody listens\nand after it\n"
    own = logging.NullHandler()
    root.handlers = [own]
    with heard() as lines:
        logging.getLogger("torch_tensorrt").error("where others print")
    assert (len(lines), root.handlers) == (1, [own])
    assert capsys.readouterr().err == ""


def test_torch_tensorrt_that_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "torch_tensorrt", raising=False)
    (tmp_path / "torch_tensorrt.py").write_text("raise RuntimeError('Found no NVIDIA driver')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=r"cannot be loaded \(RuntimeError: Found no NVIDIA dri"):
        load_torch_tensorrt()
    (tmp_path / "torch_tensorrt.py").write_text("import no_such_library\n")
    with pytest.raises(UsageError, match=r"cannot be imported.*no_such_library"):
        load_torch_tensorrt()


def test_a_build_without_memory_is_tried_smaller(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package, behaviour, trt = played(monkeypatch)
    behaviour.memory_bytes = 200 * 2**20
    options = BuildOptions("float32", device="cpu", memory_limit_gib=1.0)
    monkeypatch.setattr("edgejoule.inference.memory_limit.limit_torch", lambda _options: None)
    built, _ = build_here(tmp_path, package, trt, options)
    assert [one["result"] for one in built.attempts] == ["out of memory", "out of memory", "built"]
    assert [one["workspace_mib"] for one in built.attempts] == [512, 256, 128]
    assert "OutOfMemory" in built.attempts[0]["why"]
    assert "halved to 128 MiB" in built.attempts[2]["changed"]
    assert behaviour.calls[-1]["workspace_size"] == 128 * 2**20


class Held:
    """What a frame of a failed try refers to: a network, a builder."""


def test_a_failed_try_is_gone_before_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package, behaviour, trt = played(monkeypatch)
    compile_again, release = torch_build.compile_program, torch_build._release
    behaviour.memory_bytes = 300 * 2**20
    frames: list[weakref.ref[Held]] = []
    alive: list[int] = []

    def compiling(*args: Any, **kwargs: Any) -> Any:
        held = Held()
        frames.append(weakref.ref(held))
        return compile_again(*args, **kwargs)

    def releasing() -> None:
        release()
        alive.append(sum(one() is not None for one in frames))

    monkeypatch.setattr(torch_build, "compile_program", compiling)
    monkeypatch.setattr(torch_build, "_release", releasing)
    monkeypatch.setattr("edgejoule.inference.memory_limit.limit_torch", lambda _options: None)
    options = BuildOptions("float32", device="cpu", memory_limit_gib=1.0)
    built, _ = build_here(tmp_path, package, trt, options)
    assert [one["result"] for one in built.attempts] == ["out of memory", "built"]
    assert alive == [0, 0, 0]  # before each try, and at the end


def test_the_exported_model_is_gone_before_engines_are_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package, _, trt = played(monkeypatch)
    compile_it, release = torch_build.compile_program, torch_build._release
    given: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def compiling(package: Any, program: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        given.extend([weakref.ref(program), weakref.ref(inputs[0])])
        return compile_it(package, program, inputs, *args, **kwargs)

    def releasing() -> None:
        release()
        gc.collect()
        alive.append(sum(one() is not None for one in given))

    monkeypatch.setattr(torch_build, "compile_program", compiling)
    monkeypatch.setattr(torch_build, "_release", releasing)
    build_here(tmp_path, package, trt, HERE)
    assert len(given) == 2
    assert alive == [0, 0]


def test_skipped_tactics_are_no_want_of_memory() -> None:
    skipped = Line(logging.WARNING, "Skipping tactic 0x3e8 due to insufficient memory on 4 GiB")
    failed = Line(logging.ERROR, "Error Code 2: OutOfMemory (Requested size was 9 bytes.)")
    error = RuntimeError("Failed to build the engine")
    assert torch_build._memory_words(error, [skipped]) == ""
    assert torch_build._memory_words(error, [failed, skipped]) == failed.text
    said = torch_build._memory_words(RuntimeError("CUDA out of memory"), [skipped])
    assert said == "RuntimeError: CUDA out of memory"
    assert torch_build._memory_words(MemoryError(), []).startswith("MemoryError")


def test_a_killed_build_starts_where_it_would_have_gone_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package, behaviour, trt = played(monkeypatch)
    options = BuildOptions("float32", device="cpu", memory_limit_gib=1.0, killed=1)
    built, _ = build_here(tmp_path, package, trt, options)
    assert [one["result"] for one in built.attempts] == ["killed", "built"]
    assert behaviour.calls[0]["workspace_size"] == 256 * 2**20


def test_memory_that_always_ends_is_said_with_every_try(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package, behaviour, trt = played(monkeypatch)
    behaviour.memory_bytes = 0
    options = BuildOptions("float32", device="cpu", memory_limit_gib=0.25)
    with pytest.raises(MeasurementError, match=r"ran out of memory compiling net.*tries; last: "):
        build_here(tmp_path, package, trt, options)
    assert [call["workspace_size"] >> 20 for call in behaviour.calls] == [128, 64, 64, 64, 64]
    assert [call["optimization_level"] for call in behaviour.calls] == [None, None, 2, 1, 0]


def test_another_failure_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package, behaviour, trt = played(monkeypatch)
    behaviour.fails = "Conversion of function aten.foo\nnot supported"
    with pytest.raises(UsageError, match=r"net cannot be compiled by torch_tensorrt 2\.8\.0") as e:
        build_here(tmp_path, package, trt, HERE)
    assert "\n" not in str(e.value)
    assert len(behaviour.calls) == 1


def test_engines_built_unseen_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package, behaviour, trt = played(monkeypatch)
    behaviour.unseen = True
    pattern = r"2\.8\.0 built 2 engines, 0 of them through the method that is watched"
    with pytest.raises(MeasurementError, match=pattern):
        build_here(tmp_path, package, trt, HERE)


def test_a_model_without_an_engine_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package, _, _ = played(monkeypatch)
    every = frozenset({torch.ops.aten.conv2d.default, torch.ops.aten.relu.default, *pooling()})
    with pytest.raises(UsageError, match=r"no part of model net into an engine.*min-block-size 1"):
        torch_build.build_parts(
            package, model(), HERE, device=None, timing_cache=tmp_path / "t",
            torch_executed_ops=every,
        )  # fmt: skip


def test_a_model_that_must_be_whole_and_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """2.4 takes the argument and does not hand it to its partitioner."""
    package, behaviour, trt = played(monkeypatch, "2.4.0")
    options = BuildOptions("float32", device="cpu", extra={"require_full_compilation": True})
    pattern = r"2\.4\.0 does not take model net whole: 2 engines, in PyTorch stay aten\.max_pool2d"
    with pytest.raises(UsageError, match=pattern):
        build_here(tmp_path, package, trt, options)
    behaviour.fails = "require_full_compilation=True was specified, but model is not supported"
    with pytest.raises(UsageError, match=r"does not take model net whole.*leave --require-full"):
        build_here(tmp_path, package, trt, options)
    behaviour.fails = ""
    built, _ = build_here(tmp_path, package, trt, options, split=False)
    assert len(built.parts.engines) == 1


def test_given_operators_stay_in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    package, behaviour, _ = played(monkeypatch)
    x = torch.randn(1, 3, 8, 8)
    program = torch.export.export(model().module, (x,), strict=False)
    compile_program(package, program, (x,), arguments(), torch_executed_ops=pooling())
    assert behaviour.calls[0]["torch_executed_ops"] == set(pooling())
