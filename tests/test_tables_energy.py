"""Energies in the tables: not resolved is null and says so; roofline, closure, checks, old runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgejoule.dataset.run_directory import finish
from edgejoule.dataset.tables.attribution_columns import (
    attribution_columns,
    best_method,
    duplicated,
    held_out,
)
from edgejoule.dataset.tables.layer_table import choose_energy, layer_table, table_of_runs
from edgejoule.dataset.tables.part_table import part_table
from edgejoule.dataset.tables.run_table import energy_table, run_table
from edgejoule.dataset.tables.source import SourceRun, choose_runs, dataset_facts
from edgejoule.errors import UsageError
from edgejoule.files import read_json
from tests.support_tables import LAYERS, build, energy_row

TIMES = [[4.0, 2.0, 1.0]] * 4
# 235200 operations and 23536 bytes in conv1; 4704 and 23520 in pool1.
ROOF = {"peak_gflops": 1.0, "peak_gbs": 0.01, "dtype": "float32", "how": "torch on cpu"}


def window(layer: int | None, **values: Any) -> dict[str, Any]:
    return energy_row("window", "total", layer, **values)


UNKNOWN = {"gross_mj": None, "resolved": False, "group": 1, "why": "too short to tell apart"}
ROWS = [
    window(0, gross_mj=8.0, gross_statistical_mj=0.4, dynamic_mj=6.0, systematic_mj=0.1,
           resolved=True, scaled_gross_mj=7.6, scaled_dynamic_mj=5.7),
    window(1, **UNKNOWN),
    window(2, **UNKNOWN),
    window(None, kind="group", gross_mj=3.0, dynamic_mj=1.5, resolved=True, group=1),
    window(None, gross_mj=1.0, dynamic_mj=0.5),
    window(None, kind="inference", gross_mj=12.5, dynamic_mj=8.2),
    window(None, kind="closure", gross_mj=12.0, dynamic_mj=8.0),
]  # fmt: skip


def rows_of(dataset: Path, **how: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = layer_table(dataset, **how).to_pylist()
    return found


def test_a_layer_that_is_not_resolved_has_no_energy_and_says_so(tmp_path: Path) -> None:
    build(tmp_path, times_ms=TIMES, energy=ROWS)
    first, second, third = rows_of(tmp_path)
    assert (first["energy_method"], first["energy_resolved"]) == ("window", True)
    assert (first["energy_gross_mj"], first["energy_group"], first["energy_why"]) == (
        8.0,
        None,
        None,
    )
    assert (first["energy_scaled_gross_mj"], first["energy_scaled_dynamic_mj"]) == (7.6, 5.7)
    assert first["edp_uj_s"] == pytest.approx(8.0 * 4.0)
    for row in (second, third):
        assert (row["energy_method"], row["energy_resolved"]) == ("window", False)
        for name in ("energy_gross_mj", "power_gross_mw", "power_dynamic_mw", "edp_uj_s"):
            assert row[name] is None
        assert (row["energy_group"], row["energy_why"]) == (1, "too short to tell apart")
        assert row["runtime_ms"] is not None


def test_replay_has_its_own_columns(tmp_path: Path) -> None:
    row = energy_row("replay", "total", 0, gross_mj=8.0, dynamic_mj=6.0, dynamic_other_mj=3.5,
                     alone_ms=2.5, group=0, resolved=True)  # fmt: skip
    build(tmp_path, times_ms=TIMES, energy=[*ROWS, row])
    first, second, _ = rows_of(tmp_path)
    assert (first["energy_method"], first["alone_ms"]) == ("replay", 2.5)
    assert (first["energy_dynamic_other_mj"], first["energy_group"]) == (3.5, 0)
    assert (second["energy_method"], second["alone_ms"]) == (None, None)


def test_a_layer_under_the_measured_roof(tmp_path: Path) -> None:
    build(tmp_path, times_ms=TIMES, energy=ROWS, run={"summary": {"roofline": ROOF}})
    conv, pool, _ = rows_of(tmp_path)
    assert conv["gflops_per_s"] == pytest.approx(235200 / 4e-3 / 1e9)
    assert conv["gbytes_per_s"] == pytest.approx(23536 / 4e-3 / 1e9)
    assert conv["gflop_per_joule"] == pytest.approx(235200 / 8e-3 / 1e9)
    assert conv["flop_per_byte"] == pytest.approx(235200 / 23536)
    # 2.35 ms at 0.01 GB/s, 0.235 ms at 1 GFLOP/s.
    assert (conv["roofline_bound"], conv["roofline_note"]) == ("memory", None)
    assert conv["roofline_share"] == pytest.approx(2.3536 / 4)
    assert pool["roofline_share"] == pytest.approx(2.352 / 2)
    assert pool["roofline_note"] == "above the memory's roof: its data come from a cache"
    assert pool["gflop_per_joule"] is None  # not resolved


def test_without_a_measured_roof_there_is_no_share(tmp_path: Path) -> None:
    build(tmp_path, times_ms=TIMES, energy=ROWS)
    row = rows_of(tmp_path)[0]
    assert (row["roofline_bound"], row["roofline_share"], row["roofline_note"]) == (None,) * 3
    assert row["gflops_per_s"] is not None


def test_the_rule_that_tells_no_layers_apart_is_never_the_best(tmp_path: Path) -> None:
    source = SourceRun(Path("run"), {"config": {}, "sensor": {"name": "x"}, "summary": {}})
    pairs = [("interval", "total"), ("proportional", "total")]
    assert choose_energy(source, pairs) == ("proportional", "total")
    assert choose_energy(source, pairs[:1]) == (
        "it has interval only, which tells no layers apart; --method takes it"
    )
    assert choose_energy(source, pairs, "interval") == ("interval", "total")
    assert best_method(["interval"]) is None
    assert best_method(["interval", "window", "replay"]) == "replay"
    build(tmp_path, energy=[energy_row("interval", "total", k) for k in range(3)])
    said: list[str] = []
    assert rows_of(tmp_path, say=said.append)[0]["energy_gross_mj"] is None
    assert "it has interval only" in said[0]
    assert rows_of(tmp_path, method="interval")[0]["energy_gross_mj"] == 1.0
    with pytest.raises(UsageError, match="no run has energy of layers by window"):
        layer_table(tmp_path, method="window")


CLOSURE = {"gross": 0.96, "dynamic": 0.98, "interval_gross": None, "interval_dynamic": None,
           "held_out": None, "other_rule": None}  # fmt: skip
ATTRIBUTION = {
    "replay": {
        "total": {
            "closure": {**CLOSURE, "other_rule": 0.57, "time_share": 0.92},
            "resolved_layers": 2,
            "layers": 3,
            "resolved_share": 0.9,
            "facts": {},
        }
    },
    "window": {
        "total": {
            "closure": {**CLOSURE, "gross": 1.0, "held_out": 0.99},
            "resolved_layers": 1,
            "layers": 3,
        }
    },
}
CHECKED = [{"layer": 0, "ratio": 1.02}, {"layer": 1, "ratio": 0.9}, {"layer": 2}]
SUMMARY = {
    "clean": {"mean_ms": 1.0},
    "energy": {
        "rails": {"total": {"clean": {"gross_mj": 6.0, "mean_mw": 3000.0}}},
        "attribution": ATTRIBUTION,
        "duplication": {"layers": CHECKED},
        "observer": {
            "sampler": {"latency_percent": 0.3, "interval_percent": [-0.1, 0.7], "resolved": False},
            "profiler": {"latency_percent": 12.5, "resolved": True},
        },
    },
    "roofline": ROOF,
}


def run_row(dataset: Path, **how: Any) -> dict[str, Any]:
    runs, _ = choose_runs(dataset)
    (row,) = run_table(runs, dataset_facts(dataset, runs), **how).to_pylist()
    return dict(row)


def test_closure_and_checks_of_a_run(tmp_path: Path) -> None:
    build(tmp_path, run={"summary": SUMMARY})
    row = run_row(tmp_path)
    assert (row["layer_energy_method"], row["resolved_layers"]) == ("replay", 2)
    assert row["resolved_share"] == 0.9
    assert (row["closure_replay_gross"], row["closure_replay_dynamic"]) == (0.96, 0.98)
    assert (row["closure_replay_other_rule"], row["closure_replay_time_share"]) == (0.57, 0.92)
    assert (row["closure_window_gross"], row["closure_window_held_out"]) == (1.0, 0.99)
    assert (row["closure_interval_gross"], row["closure_interval_dynamic"]) == (None, None)
    assert row["duplication_layers"] == 3
    assert row["duplication_ratio_median"] == pytest.approx(0.96)
    assert (row["duplication_ratio_min"], row["duplication_ratio_max"]) == (0.9, 1.02)
    assert (row["observer_sampler_percent"], row["observer_sampler_resolved"]) == (0.3, False)
    assert (row["observer_profiler_percent"], row["observer_profiler_resolved"]) == (12.5, True)
    assert (row["roofline_gflops_per_s"], row["roofline_gbytes_per_s"]) == (1.0, 0.01)
    # 6 mJ at a latency of 1 ms, one image per inference.
    assert (row["edp_uj_s"], row["energy_gross_mj_per_sample"]) == (6.0, 6.0)
    plain = {"energy": {"duplication": CHECKED}}
    assert attribution_columns(plain, None)["duplication_layers"] == 3
    other = run_row(tmp_path, rail="VDD_IN")
    assert (other["layer_energy_method"], other["closure_replay_gross"]) == (None, None)


def test_a_run_without_any_of_it_has_nulls(tmp_path: Path) -> None:
    build(tmp_path)
    row = run_row(tmp_path)
    for name, value in row.items():
        if name.startswith(("closure_", "duplication_", "observer_", "roofline_", "resolved_")):
            assert value is None, name


def test_what_is_said_of_checks_may_have_another_form() -> None:
    assert duplicated({"layers": [{"ratio": 1.0}, 7]}) == [{"ratio": 1.0}]
    assert duplicated(None) == duplicated("x") == []
    assert (held_out({"gross": 0.9}), held_out(0.8), held_out(None)) == (0.9, 0.8, None)


def test_runs_of_older_formats_still_make_tables(tmp_path: Path) -> None:
    run = build(tmp_path / "raw_data", "old")
    path = run / "energy.parquet"
    table = pq.ParquetFile(path).read()
    newer = ("group", "time_ms", "alone_ms", "dynamic_other_mj", "scaled_gross_mj",
             "scaled_dynamic_mj", "why")  # fmt: skip
    partial = tmp_path / "raw_data" / ".partial" / "old-0"
    partial.parent.mkdir(exist_ok=True)
    run.rename(partial)
    pq.write_table(table.drop_columns(list(newer)), partial / "energy.parquet")
    document = read_json(partial / "run.json")
    for key in ("files", "run_sha256"):
        del document[key]
    (partial / "run.json").unlink()
    finish(partial, {**document, "schema_version": 4}, "old")
    assert set(pq.read_schema(tmp_path / "raw_data/old/energy.parquet").names).isdisjoint(newer)
    row = rows_of(tmp_path / "raw_data")[0]
    assert (row["energy_method"], row["energy_gross_mj"]) == ("proportional", pytest.approx(2.0))
    assert (row["energy_group"], row["energy_why"], row["alone_ms"]) == (None, None, None)
    runs, _ = choose_runs(tmp_path / "raw_data")
    found: pa.Table = energy_table(runs, dataset_facts(tmp_path / "raw_data", runs))
    assert found["group"].null_count == found.num_rows == 6


def parts_of(dataset: Path, said: list[str] | None = None) -> list[dict[str, Any]]:
    runs, _ = choose_runs(dataset)
    facts = dataset_facts(dataset, runs)
    say = (lambda line: None) if said is None else said.append
    found: pa.Table = part_table(runs, table_of_runs(runs, facts), facts, say)
    return [dict(row) for row in found.to_pylist()]


def test_sums_by_module_and_operation(tmp_path: Path) -> None:
    modules = ("features.0", "features.1", "classifier")
    layers = [{**one, "module_path": path} for one, path in zip(LAYERS, modules, strict=True)]
    rows = [{**row, "time_ms": ms} for row, ms in zip(ROWS, (4, 2, 1, 3, 1, 8, 8), strict=True)]
    build(tmp_path, layers=layers, times_ms=TIMES, energy=rows)
    parts = parts_of(tmp_path)
    by_module = [row for row in parts if row["by"] == "module"]
    assert [(row["kind"], row["name"], row["depth"]) for row in by_module] == [
        ("inference", "", 0),
        ("module", "", 1),
        ("module", "features", 2),
        ("module", "features.0", 3),
        ("module", "features.1", 3),
        ("module", "classifier", 2),
        ("gap", "", 1),
    ]
    features = by_module[2]
    assert (features["method"], features["rail"], features["simulated"]) == (
        "window",
        "total",
        False,
    )
    assert (features["gross_mj"], features["own_gross_mj"], features["layers"]) == (8.0, 0.0, 1)
    assert (features["layers_outside"], features["power_gross_mw"]) == (1, 2000.0)
    assert features["share"] == pytest.approx(8 / 12)
    assert by_module[1]["own_gross_mj"] == 3.0  # of the group across two modules
    by_operation = {row["name"]: row for row in parts if row["by"] == "operation"}
    assert set(by_operation) == {"convolution", "pooling + dense", "gap"}
    for rows_, name in ((by_module, "own_gross_mj"), (by_operation.values(), "gross_mj")):
        assert sum(row[name] for row in rows_) == pytest.approx(12.0)
    assert by_operation["convolution"]["scaled_gross_mj"] == 7.6
    assert by_operation["gap"]["depth"] is None


def test_rows_that_do_not_add_up_have_no_sums(tmp_path: Path) -> None:
    build(tmp_path, times_ms=TIMES, energy=[*ROWS[:-1], {**ROWS[-1], "gross_mj": 30.0}])
    build(tmp_path, "silent", sensor="none", rails=())
    said: list[str] = []
    assert parts_of(tmp_path, said) == []
    assert said == [
        "lenet has no sums of layers: window on total: its rows add up to 12 mJ, its closure says "
        "30 mJ"
    ]


def test_groups_stand_in_the_long_table(tmp_path: Path) -> None:
    build(tmp_path, times_ms=TIMES, energy=ROWS)
    runs, _ = choose_runs(tmp_path)
    rows = energy_table(runs, dataset_facts(tmp_path, runs)).to_pylist()
    assert [row["kind"] for row in rows] == [
        *["layer"] * 3,
        "group",
        "gap",
        "inference",
        "closure",
    ]
    assert [row["gross_mj"] for row in rows[:4]] == [8.0, None, None, 3.0]
    assert (rows[3]["group"], rows[3]["layer"], rows[1]["why"]) == (1, None, UNKNOWN["why"])
