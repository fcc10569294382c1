"""Ranges of tensors: how they are found, kept in a cache and taken from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.errors import UsageError
from edgejoule.inference import quantization, quantization_ranges
from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.calibration_cache import Cache, CacheKey, read_cache, write_cache
from edgejoule.inference.quantization import model_hash
from edgejoule.inference.quantization_graph import load_whole
from edgejoule.inference.quantization_ranges import find_ranges, percentile_bound
from edgejoule.inference.quantization_runtime import cpu_scheme
from tests.support_quantised import CHANNELS, normal, onnx, quantised, residual, weight


def test_a_cache_is_written_then_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, cache = residual(tmp_path), tmp_path / "ranges.json"
    options = BuildOptions("int8", threads=1, calibration_cache=str(cache))
    _, first = quantised(source, options=options)
    assert first["ranges"] == "computed, kept in ranges.json"
    written = (tmp_path / "residual-int8.onnx").read_bytes()

    def never(*_args: Any, **_more: Any) -> Any:
        raise AssertionError("calibrated although there is a cache")

    monkeypatch.setattr(quantization, "find_ranges", never)
    _, second = quantised(source, options=options)
    assert second["ranges"] == "read from ranges.json"
    assert second["ranges_sha256"] == first["ranges_sha256"]
    assert (tmp_path / "residual-int8.onnx").read_bytes() == written
    # The ranges are of tensors, so that the CPU's quantiser takes the same ones.
    assert quantised(source, options=options, runtime="onnxruntime")[1]["pairs"] > 0


def test_a_cache_of_other_data_is_refused(tmp_path: Path) -> None:
    source, cache = residual(tmp_path), tmp_path / "ranges.json"
    options = BuildOptions("int8", threads=1, calibration_cache=str(cache))
    quantised(source, options=options)
    with pytest.raises(
        UsageError, match=r"ranges\.json is stale: its data are prepared in another"
    ):
        quantised(source, options=options, calibration=normal(3))
    with pytest.raises(
        UsageError, match="is stale: it is for int8, not fp8; its ranges were found"
    ):
        quantised(source, "fp8", options)
    other = onnx.load(str(source))
    other.graph.node[0].attribute[0].ints[:] = [1, 1, 1, 1]
    other.graph.initializer[0].CopyFrom(weight("a.weight", CHANNELS, CHANNELS, 3, 3, scale=0.2))
    onnx.save(other, str(source))
    with pytest.raises(UsageError, match="is stale: it is of another model"):
        quantised(source, options=options)


def test_a_cache_of_tensorrts_calibrator_holds_no_ranges(tmp_path: Path) -> None:
    import onnxruntime

    source, cache = residual(tmp_path), tmp_path / "ranges.json"
    versions = {"onnxruntime": onnxruntime.__version__}
    calibration = normal()
    key = CacheKey(
        model_hash(source), calibration.sha256, calibration.files, "int8", "percentile 99.99",
        versions,
    )  # fmt: skip
    write_cache(cache, Cache(key, calibrator=b"TRT-80601-EntropyCalibration2"))
    options = BuildOptions("int8", threads=1, calibration_cache=str(cache))
    with pytest.raises(UsageError, match="holds no ranges, it was made by TensorRT's calibrator"):
        quantised(source, options=options)
    assert read_cache(cache).calibrator == b"TRT-80601-EntropyCalibration2"


def test_a_models_hash_is_of_what_it_computes(tmp_path: Path) -> None:
    source = residual(tmp_path)
    first = model_hash(source)
    model = onnx.load(str(source))
    model.producer_name = "another exporter"
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value="file.py")
    model.graph.node[0].doc_string = "text"
    onnx.save(model, str(source), save_as_external_data=True, location="w", size_threshold=0)
    assert model_hash(source) == first
    (tmp_path / "w").unlink()
    with pytest.raises(UsageError, match="its weights cannot be read"):
        model_hash(source)


def test_histograms_are_taken_in_groups_that_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_whole(residual(tmp_path))
    sets = normal().sets
    whole = find_ranges(model, sets, "percentile", tmp_path / "scratch")
    monkeypatch.setattr(quantization_ranges, "_GROUP_BYTES", 5000)
    assert find_ranges(model, sets, "percentile", tmp_path / "scratch") == whole
    most = find_ranges(model, sets, "max", tmp_path / "scratch")
    assert most["x"][1] == max(float(one["x"].max()) for one in sets)
    assert most["ra"][0] == 0
    assert set(whole) == {"x", "ca", "ra", "cb", "s", "p", "f", "y"} == set(most)
    for name, (low, high) in whole.items():
        assert most[name][0] <= low <= high <= most[name][1]
    assert list(tmp_path.glob("scratch*")) == []


def test_a_percentile_leaves_outliers_out() -> None:
    histogram = np.zeros(2048, np.int64)
    histogram[100] = 99_995
    histogram[2047] = 5
    assert percentile_bound(histogram, 0.5) == 101 * 0.5
    histogram[2047] = 500
    assert percentile_bound(histogram, 0.5) == 2048 * 0.5
    assert percentile_bound(np.zeros(2048), 0.5) == 1024


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "sse avx2 avx512_vnni", ("uint8", "int8", 8)),
        ("AMD64", "avx_vnni", ("uint8", "int8", 8)),
        ("x86_64", "sse avx2", ("uint8", "int8", 7)),
        ("x86_64", None, ("uint8", "int8", 7)),
        ("aarch64", None, ("int8", "int8", 8)),
    ],
)
def test_the_processor_decides_on_the_types(
    machine: str, flags: str | None, expected: tuple[str, str, int], tmp_path: Path
) -> None:
    file = tmp_path / "cpuinfo"
    if flags is not None:
        file.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\n")
    scheme = cpu_scheme(machine, file)
    assert (scheme.activations, scheme.weights, scheme.weight_bits) == expected
    assert machine.lower() in scheme.why
