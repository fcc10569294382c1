"""The module tensorrt: found, refused, its version, its log, the names that are relied on."""

from __future__ import annotations

import gc
import sys
import types
import weakref
from typing import Any

import pytest

from edgejoule.errors import UsageError
from edgejoule.inference.trt.library import (
    RELIED_ON,
    ReliedOn,
    load_tensorrt,
    make_log,
    version_of,
)
from tests.support_tensorrt import VERSIONS, load_double

NAMES = types.SimpleNamespace


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("8.6.1", (8, 6, 1)),
        ("10.3.0.post2", (10, 3, 0)),
        ("11.1.0.106", (11, 1, 0)),
        ("9.0", (9, 0, 0)),
    ],
)
def test_versions_are_read_whatever_follows(text: str, numbers: tuple[int, int, int]) -> None:
    assert version_of(NAMES(__version__=text)) == numbers


def test_a_version_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="the version of tensorrt cannot be read: 'dev'"):
        version_of(NAMES(__version__="dev"))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_module_is_found(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    load_double(monkeypatch, version)
    assert load_tensorrt().__version__ == version


def absent(monkeypatch: pytest.MonkeyPatch, module: Any) -> str:
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    with pytest.raises(UsageError) as caught:
        load_tensorrt()
    return str(caught.value)


def test_an_absent_module_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert absent(monkeypatch, None) == (
        "TensorRT's Python module is not installed; on a Jetson: apt install python3-libnvinfer, "
        "and a Python that sees the system's packages; elsewhere: pip install tensorrt"
    )


def test_an_old_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = NAMES(__version__="8.5.2.2", Runtime=object)
    assert "TensorRT 8.5.2.2 is older than 8.6" in absent(monkeypatch, old)


def test_a_folder_of_that_name_is_no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = types.ModuleType("tensorrt")
    folder.__path__ = ["/home/me/tensorrt"]
    assert "tensorrt found at /home/me/tensorrt is not NVIDIA's" in absent(monkeypatch, folder)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise OSError('libnvinfer.so.10: cannot open shared object file')", "(OSError: libnv"),
        ("raise RuntimeError('no driver')", "cannot be loaded (RuntimeError: no driver)"),
        ("import no_such_module_at_all", "tensorrt cannot be imported (No module named"),
    ],
)
def test_a_broken_installation_is_told_from_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, source: str, message: str
) -> None:
    (tmp_path / "tensorrt.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(UsageError) as caught:
        load_tensorrt()
    assert message in str(caught.value)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_double_has_what_is_relied_on_and_nothing_of_other_versions(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    trt = load_double(monkeypatch, version)
    runner = {"Runtime", "ICudaEngine", "IExecutionContext", "EngineInspector", "DataType"}
    checked = 0
    for entry in RELIED_ON:
        owner, _, name = entry.name.rpartition(".")
        if owner in runner:
            checked += 1
            assert hasattr(getattr(trt, owner), name) == entry.expected(version_of(trt)), entry
    assert checked > 40


def test_when_a_name_is_expected() -> None:
    entry = ReliedOn("X.y", since=(10, 1), until=(11, 0))
    expected = {(8, 6, 1): False, (10, 0, 9): False, (10, 1, 0): True, (11, 0, 0): False}
    assert {version: entry.expected(version) for version in expected} == expected


def test_the_log_keeps_and_prints_errors_and_warnings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trt = load_double(monkeypatch)
    log = make_log(trt)
    log.log(trt.ILogger.INFO, "much")
    log.log(trt.ILogger.WARNING, "look\nhere")
    for text in ("one", "two", "two", "three"):
        log.log(trt.ILogger.ERROR, text)
    log.log(trt.ILogger.INTERNAL_ERROR, "four")
    assert log.warnings == ["look here"]
    assert log.last_error() == "two | three | four"
    printed = capsys.readouterr().err
    assert "tensorrt warning: look here\n" in printed
    assert "tensorrt internal error: four\n" in printed
    assert "much" not in printed


def test_a_logger_lives_as_long_as_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    # TensorRT and its library of plugins keep a bare pointer to it.
    seen = weakref.ref(make_log(load_double(monkeypatch)))
    gc.collect()
    assert seen() is not None


def test_errors_are_counted_beyond_those_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = load_double(monkeypatch)
    log = make_log(trt)
    for number in range(300):
        log.log(trt.ILogger.ERROR, str(number))
    before = log.error_count
    assert (before, log.errors_since(before)) == (300, [])
    log.log(trt.ILogger.ERROR, "new")
    assert log.errors_since(before) == ["new"]
    del log.errors[:]
    assert log.errors_since(before) == []
    assert log.error_count == 301


def test_the_log_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = load_double(monkeypatch)
    log = make_log(trt)
    for number in range(500):
        log.log(trt.ILogger.WARNING, str(number))
    assert len(log.warnings) == 200
    assert log.warnings[-1] == "499"
