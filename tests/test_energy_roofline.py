"""Layers under the roof: figures worked out by hand, and what is not known stays so."""

from __future__ import annotations

from typing import Any

import pytest

from edgejoule.energy.roofline import (
    CACHED,
    FEWER,
    LayerRoofline,
    Roof,
    layer_roofline,
    roof_of,
    rooflines,
)

ROOF = Roof(1000.0, 100.0, "float16", "torch on cuda:0")  # the ridge is at 10 FLOP per byte


def test_a_layer_below_the_ridge_is_bound_by_memory() -> None:
    # 2e9 operations and 1e9 bytes in 20 ms for 4 J.
    found = layer_roofline(2 * 10**9, 10**9, 20.0, 4000.0, ROOF)
    assert found.gflops_per_s == pytest.approx(100.0)
    assert found.gbytes_per_s == pytest.approx(50.0)
    assert found.gflop_per_joule == pytest.approx(0.5)
    assert found.intensity == pytest.approx(2.0)
    # 1e9 bytes at 100 GB/s take 10 ms, 2e9 operations at 1000 GFLOP/s 2 ms.
    assert (found.bound, found.note) == ("memory", "")
    assert found.share == pytest.approx(0.5)


def test_a_layer_above_the_ridge_is_bound_by_arithmetic() -> None:
    found = layer_roofline(8 * 10**9, 10**8, 10.0, None, ROOF)
    assert (found.bound, found.share) == ("compute", pytest.approx(0.8))
    assert found.gflop_per_joule is None
    assert ROOF.ridge == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("flops", "moved", "time_ms", "note"),
    [
        (10**7, 10**9, 9.0, CACHED),  # 111 GB/s of 100
        (10**10, 10**6, 9.0, FEWER),
        (10**7, 10**9, 9.8, ""),  # 2 % above: two measurements differ by as much
    ],
)
def test_above_the_roof_is_said(flops: int, moved: int, time_ms: float, note: str) -> None:
    found = layer_roofline(flops, moved, time_ms, 1.0, ROOF)
    assert found.share is not None
    assert (found.share > 1, found.note) == (True, note)


def test_a_layer_that_only_moves_data_has_a_memory_bound() -> None:
    found = layer_roofline(0, 10**8, 2.0, 1.0, ROOF)
    assert (found.bound, found.share) == ("memory", pytest.approx(0.5))
    assert (found.gflops_per_s, found.gflop_per_joule, found.intensity) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("flops", "moved", "time_ms", "roof"),
    [
        (None, 10**8, 2.0, ROOF),  # arithmetic may be the bound
        (10**8, None, 2.0, ROOF),
        (10**8, 10**8, 2.0, Roof(None, 100.0)),
        (10**8, 10**8, 2.0, Roof()),
        (0, 0, 2.0, ROOF),
    ],
)
def test_without_both_sides_there_is_no_bound(
    flops: int | None, moved: int | None, time_ms: float, roof: Roof
) -> None:
    found = layer_roofline(flops, moved, time_ms, 1.0, roof)
    assert (found.bound, found.share, found.note) == (None, None, "")


@pytest.mark.parametrize(("time_ms", "gross_mj"), [(None, None), (0.0, 0.0), (None, -1.0)])
def test_nothing_is_divided_by_nothing(time_ms: float | None, gross_mj: float | None) -> None:
    found = layer_roofline(10**8, 10**8, time_ms, gross_mj, ROOF)
    assert (found.gflops_per_s, found.gbytes_per_s, found.share) == (None, None, None)
    assert found.gflop_per_joule is None
    assert found.bound == "memory"  # that follows from the counts alone


def test_layers_of_a_run() -> None:
    layers = [{"flops": 10**9, "bytes_moved": 10**6}, {"name": "unknown"}]
    found = rooflines(layers, [1.0, None], [2.0, None], ROOF)
    assert found[0].gflops_per_s == pytest.approx(1000.0)
    assert found[1] == LayerRoofline()


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (None, Roof()),
        ("text", Roof()),
        ({"why": "no library"}, Roof(how="no library")),
        (
            {"peak_gflops": None, "peak_gbs": 20.5, "dtype": "int8", "how": "torch"},
            Roof(None, 20.5, "int8", "torch"),
        ),
        ({"peak_gflops": True, "peak_gbs": float("inf")}, Roof()),
        ({"peak_gflops": -1.0, "peak_gbs": "7"}, Roof()),
    ],
)
def test_what_a_run_says_of_its_roof_may_be_anything(measured: Any, expected: Roof) -> None:
    assert roof_of(measured) == expected
