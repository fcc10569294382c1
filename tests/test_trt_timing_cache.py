from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgejoule.errors import EdgejouleError, MeasurementError
from edgejoule.inference.trt.library import make_log
from edgejoule.inference.trt.timing_cache import TimingCache, cache_path
from tests.support_trt_builder import VERSIONS, flags_of, load_double


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    return load_double(monkeypatch, request.param)


def config_of(trt: Any, log: Any) -> Any:
    return trt.Builder(log).create_builder_config()


def test_the_file_is_named_after_what_it_is_good_for(tmp_path: Path) -> None:
    path = cache_path(tmp_path, "10.3.0", "NVIDIA GeForce RTX 4090 / PCI")
    assert path == tmp_path / "timing-10.3.0-NVIDIA_GeForce_RTX_4090_PCI.cache"
    assert cache_path(tmp_path, "10.3.0", "").name == "timing-10.3.0-gpu.cache"


def test_what_was_timed_is_there_the_next_time(trt: Any, tmp_path: Path) -> None:
    path, log = tmp_path / "new" / "t.cache", make_log(trt)
    first = TimingCache.load(path)
    config = config_of(trt, log)
    assert first.attach(config, log) is not None
    config.get_timing_cache()._content["timed"].append("conv")
    first.collect(config)
    first.save()
    assert [file.name for file in path.parent.iterdir()] == ["t.cache"]
    second = TimingCache.load(path)
    config = config_of(trt, log)
    second.attach(config, log)
    assert config.get_timing_cache()._content["timed"] == ["conv"]
    assert second.facts()["sha256_before"] == first.facts()["sha256_after"]
    assert second.note == ""


@pytest.mark.parametrize("broken", [False, True])
def test_a_cache_of_another_gpu_or_no_cache_is_dropped_and_said(
    trt: Any, tmp_path: Path, broken: bool
) -> None:
    path, log = tmp_path / "t.cache", make_log(trt)
    first = TimingCache.load(path)
    config = config_of(trt, log)
    first.attach(config, log)
    first.collect(config)
    first.save()
    if broken:
        path.write_bytes(b"torn")
    flags_of(trt).BEHAVIOUR.gpu = "Another GPU"
    second = TimingCache.load(path)
    config = config_of(trt, log)
    assert second.attach(config, log) is not None
    assert "the earlier one was refused and dropped" in second.note
    assert ("magic tag mismatch" if broken else "header mismatch") in second.note
    assert config.get_timing_cache()._content["gpu"] == "Another GPU"
    assert log.errors == []
    second.collect(config)
    second.save()
    assert TimingCache.load(path).before == second.facts()["sha256_after"]


def test_a_tensorrt_without_a_cache_is_said(trt: Any) -> None:
    flags_of(trt).BEHAVIOUR.no_timing_cache = True
    log = make_log(trt)
    cache, config = TimingCache.load(None), config_of(trt, log)
    assert cache.attach(config, log) is None
    cache.collect(config)
    assert cache.facts() == {
        "file": None,
        "sha256_before": None,
        "sha256_after": None,
        "bytes": 0,
        "note": "this TensorRT keeps no timing cache",
    }


def test_nothing_is_written_where_nothing_is_kept_or_changed(trt: Any, tmp_path: Path) -> None:
    log = make_log(trt)
    unkept, config = TimingCache.load(None), config_of(trt, log)
    unkept.attach(config, log)
    unkept.collect(config)
    unkept.save()
    kept = TimingCache.load(tmp_path / "t.cache")
    kept.save()
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(MeasurementError, match=r"timing cache .*folder cannot be read"):
        TimingCache.load(tmp_path / "folder")
    (tmp_path / "file").write_bytes(b"")
    kept = TimingCache(tmp_path / "file" / "t.cache", b"content")
    with pytest.raises(EdgejouleError, match="is in the way"):
        kept.save()
