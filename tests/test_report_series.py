"""Traces and layer times reduced for the report: against known numbers, and properties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.dataset.schema import write_table
from edgejoule.energy.integrate import energy_mj
from edgejoule.energy.trace import rail_powers
from edgejoule.report.layer_times import load_layer_times
from edgejoule.report.series import RailSeries
from edgejoule.report.series_conditions import kind_of, load_conditions
from edgejoule.report.series_latency import histogram, load_latency, quantiles
from edgejoule.report.series_load import load_series, phases_of
from edgejoule.report.series_power import load_power
from edgejoule.report.tables import load_run
from tests import support_tables
from tests.support_dataset import MS, Plan, build_run

START_NS = 10_000 * MS  # of `support_dataset`'s first phase


def layer_file(path: Path, rows: list[tuple[int, int, float]]) -> Path:
    write_table(
        path,
        "layers",
        {
            "inference": [row[0] for row in rows],
            "layer": [row[1] for row in rows],
            "duration_ms": [row[2] for row in rows],
            "start_offset_ns": [None] * len(rows),
        },
    )
    return path


def power_file(path: Path, reads: list[tuple[int, int, int | None]], **header: Any) -> Path:
    """Reads of (t_ns, channel, raw); one power channel in mW per rail unless said otherwise."""
    numbers = sorted({channel for _, channel, _ in reads})
    channels = [
        {"index": n, "rail": f"R{n}", "quantity": "power", "unit": "mW", "chip": "x"}
        for n in numbers
    ]
    facts = {"channels": channels, "sensor": "fake", "simulated": False, "total": None, **header}
    columns = {
        "t0_ns": [t for t, _, _ in reads],
        "t1_ns": [t for t, _, _ in reads],
        "channel": [channel for _, channel, _ in reads],
        "raw": [raw for _, _, raw in reads],
        "errno": [None if raw is not None else 61 for _, _, raw in reads],
    }
    write_table(path, "power", columns, **facts)
    return path


def rail(path: Path, **options: Any) -> RailSeries:
    (found,) = load_power(path, **options).since(0)
    return found


# layers


def test_layer_times_of_known_numbers(tmp_path: Path) -> None:
    times = [[1.0, 10.0 + k] for k in range(40)]
    rows = [(k, layer, ms) for k, row in enumerate(times) for layer, ms in enumerate(row)]
    found = load_layer_times(layer_file(tmp_path / "layers.parquet", rows))
    assert found.count == {0: 40, 1: 40}
    assert found.mean_ms == {0: 1.0, 1: pytest.approx(29.5)}
    assert found.median_ms == {0: 1.0, 1: pytest.approx(29.5)}
    assert found.total_ms[1] == pytest.approx(40 * 29.5)
    # Blocks of two: 10.5, 12.5, ..., 48.5; Student's t of 19 degrees of freedom.
    assert found.block_ms[1] == pytest.approx(10.5 + 2 * np.arange(20))
    half = 2.093 * np.std(found.block_ms[1], ddof=1) / np.sqrt(20)
    assert found.half_ms[1] == pytest.approx(half, rel=1e-3)
    assert found.half_ms[0] == 0.0


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 60),
    st.integers(1, 5),
    st.integers(1, 30),
    st.integers(1, 40),
    st.randoms(use_true_random=False),
)
def test_few_values_at_once_change_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    inferences: int,
    layers: int,
    blocks: int,
    at_once: int,
    random: Any,
) -> None:
    rows = [(k, n, random.uniform(0.01, 9.0)) for k in range(inferences) for n in range(layers)]
    # Rows of one inference may stand in any order, and the last inference may be cut.
    random.shuffle(rows)
    rows.sort(key=lambda row: row[0])
    rows = rows[: len(rows) - random.randrange(layers)]
    path = layer_file(tmp_path_factory.mktemp("l") / "layers.parquet", rows)
    whole = load_layer_times(path, blocks)
    assert sum(whole.count.values()) == len(rows)
    for layer, count in whole.count.items():
        own = np.float32([ms for _, n, ms in rows if n == layer])
        assert count == len(own)
        assert whole.mean_ms[layer] == pytest.approx(float(own.mean(dtype=np.float64)))
        assert whole.median_ms[layer] == pytest.approx(float(np.median(own)))
    assert len({len(means) for means in whole.block_ms.values()}) == 1
    for layer, means in whole.block_ms.items():
        sizes = np.diff(np.append(np.arange(len(means)) * whole.count[layer] // len(means),
                                  whole.count[layer]))  # fmt: skip
        assert np.average(means, weights=sizes) == pytest.approx(whole.mean_ms[layer])
    pieces = load_layer_times(path, blocks, values_at_once=at_once)
    assert pieces.count == whole.count
    assert pieces.median_ms == whole.median_ms
    assert pieces.total_ms == whole.total_ms
    assert pieces.half_ms == whole.half_ms


def test_a_stray_layer_does_not_cost_the_others_their_blocks(tmp_path: Path) -> None:
    rows = [(k, 0, 1.0) for k in range(30)] + [(30, 7, 5.0)]
    found = load_layer_times(layer_file(tmp_path / "layers.parquet", rows))
    assert len(found.block_ms[0]) == 20
    assert found.count[7] == 1
    assert 7 not in found.block_ms


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_durations_that_are_no_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    path = layer_file(tmp_path / "layers.parquet", [(0, 0, 1.0), (1, 0, bad)])
    with pytest.raises(ValueError, match=r"layers\.parquet has durations that are no finite"):
        load_layer_times(path)


def test_an_empty_table_of_layers(tmp_path: Path) -> None:
    assert load_layer_times(layer_file(tmp_path / "layers.parquet", [])).count == {}


def test_a_row_of_a_layer_has_its_interval_and_operation(tmp_path: Path) -> None:
    times = [[1.0 + 0.1 * (k % 2), 2.0, 3.0] for k in range(40)]
    run = load_run(support_tables.build(tmp_path, times_ms=times))
    assert [row.operation for row in run.layers] == ["convolution", "pooling", "dense"]
    assert run.layers[0].mean_ms == pytest.approx(1.05)
    assert run.layers[1].half_ms == 0.0


# power


def test_each_reading_keeps_its_value_and_place(tmp_path: Path) -> None:
    reads = [(k * 10 * MS, 0, 1000 + k) for k in range(50)]
    found = rail(power_file(tmp_path / "power.parquet", reads))
    assert found.readings == 50
    assert found.mean_w == pytest.approx(1.0 + 0.001 * np.arange(50))
    assert (found.low_w == found.high_w).all()
    assert found.t_s == pytest.approx(0.01 * np.arange(50), abs=0.49 / 1200)


def test_a_short_peak_stays_visible(tmp_path: Path) -> None:
    reads = [(k * MS, 0, 9000 if k == 7777 else 1000) for k in range(20_000)]
    path = power_file(tmp_path / "power.parquet", reads)
    found = rail(path, phases=[("clean", 7000 * MS, 8000 * MS)])
    assert len(found.t_s) <= 1200
    at = int(np.argmax(found.high_w))
    assert found.high_w[at] == 9.0
    assert found.t_s[at] == pytest.approx(7.777, abs=20 / 1200)
    assert found.low_w[at] == 1.0
    assert found.peak_w == 9.0
    assert rail(path, phases=[("clean", 0, 7000 * MS)]).peak_w == 1.0
    assert rail(path, phases=[("idle_before", 0, 9000 * MS)]).peak_w is None


def test_a_mean_is_over_time_not_over_readings(tmp_path: Path) -> None:
    """Ten times as many readings in the second half weigh no more than their time."""
    slow = [(k * 10 * MS, 0, 1000) for k in range(100)]
    fast = [(1000 * MS + k * MS, 0, 3000) for k in range(1001)]
    found = rail(power_file(tmp_path / "power.parquet", slow + fast), columns=1)
    assert found.mean_w[0] == pytest.approx(2.0, abs=0.02)


def test_a_gap_is_shown_once_and_nothing_else_is(tmp_path: Path) -> None:
    reads = [(k * 10 * MS, 0, 1000) for k in range(100)]
    reads += [(3000 * MS + k * 10 * MS, 0, 2000) for k in range(100)]
    found = rail(power_file(tmp_path / "power.parquet", reads, refresh_ns=10 * MS))
    holes = np.flatnonzero(np.isnan(found.mean_w))
    assert len(holes) == 1
    assert 1.0 < found.t_s[holes[0]] < 3.0
    assert np.isnan(found.low_w[holes[0]])


def test_failed_reads_are_counted_and_have_no_value(tmp_path: Path) -> None:
    reads = [(k * MS, 0, None if k % 4 == 0 else 500) for k in range(100)]
    found = rail(power_file(tmp_path / "power.parquet", reads))
    assert (found.readings, found.failed) == (75, 25)
    assert np.nanmin(found.low_w) == 0.5


def test_the_total_is_the_sum_where_the_header_says_so(tmp_path: Path) -> None:
    reads = [(k * MS, n, 1000 * (n + 1)) for k in range(200) for n in (0, 1)]
    total = {"rails": ["R0", "R1"], "contains": "", "excludes": "", "source": ""}
    path = power_file(tmp_path / "power.parquet", reads, total=total)
    found = load_power(path, [("clean", 0, 10**12)]).since(0)
    assert [one.rail for one in found] == ["R0", "R1", "total"]
    assert np.nanmax(found[2].high_w) == pytest.approx(3.0)
    assert found[2].peak_w == pytest.approx(3.0)
    alone = {**total, "rails": ["R1"]}
    found = load_power(power_file(tmp_path / "alone.parquet", reads, total=alone)).since(0)
    assert found[2].rail == "total"
    assert np.array_equal(found[2].mean_w, found[1].mean_w)


def test_a_counter_gives_mean_power_between_reads(tmp_path: Path) -> None:
    channel = {"index": 0, "rail": "gpu", "quantity": "energy", "unit": "mJ", "chip": "x"}
    reads = [(k * 100 * MS, 0, 500 * k) for k in range(50)]
    path = power_file(tmp_path / "power.parquet", reads, channels=[channel])
    found = rail(path, phases=[("profiled", 0, 10**12)])
    known = found.mean_w[np.isfinite(found.mean_w)]
    assert known == pytest.approx(np.full(len(known), 5.0))
    assert found.peak_w == pytest.approx(5.0)
    # The first read shows no tick: power is known from the second on.
    assert found.readings == 48


def test_a_trace_in_batches_is_the_trace(tmp_path: Path) -> None:
    """Voltage is read rarely, the current often: pairs reach over the edges of batches."""
    random = np.random.default_rng(0)
    channels = [
        {"index": 0, "rail": "A", "quantity": "voltage", "unit": "mV", "chip": "x"},
        {"index": 1, "rail": "A", "quantity": "current", "unit": "mA", "chip": "x"},
    ]
    reads = []
    for k in range(6000):
        t_ns = k * 20 * MS
        if k % 9 == 0:
            reads.append((t_ns, 0, 5000 + int(random.integers(0, 50))))
        reads.append((t_ns + 1000, 1, int(random.integers(100, 2000))))
    path = power_file(tmp_path / "power.parquet", reads, channels=channels)
    phases = [("clean", 0, 10**12)]
    whole = rail(path, phases=phases)
    parts = rail(path, phases=phases, reads_at_once=700)
    assert parts.readings == whole.readings == 6000
    assert parts.peak_w == whole.peak_w
    for name in ("t_s", "mean_w", "low_w", "high_w"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), nan_ok=True)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 10**8), st.integers(-10, 10**6)), min_size=2, max_size=300),
    st.integers(1, 50),
)
def test_columns_keep_order_counts_and_energy(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]], columns: int
) -> None:
    times = np.cumsum([step for step, _ in steps])
    reads = [(int(t), 0, raw) for t, (_, raw) in zip(times, steps, strict=True)]
    path = power_file(tmp_path_factory.mktemp("p") / "power.parquet", reads)
    trace = load_power(path, columns=columns)
    (found,) = trace.since(0)
    shown = np.isfinite(found.mean_w)
    assert len(found.t_s) <= columns
    assert (np.diff(found.t_s) > 0).all()
    assert (found.low_w[shown] <= found.mean_w[shown]).all()
    assert (found.mean_w[shown] <= found.high_w[shown]).all()
    assert found.readings == len(reads)
    raws = [raw for _, raw in steps]
    assert np.nanmax(found.high_w) == pytest.approx(max(raws) * 1e-3)
    assert np.nanmin(found.low_w) == pytest.approx(min(raws) * 1e-3)
    assert int(trace.rails["R0"].counts.sum()) == len(reads)


def test_columns_add_up_to_the_energy_of_the_trace(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    times = np.cumsum(random.integers(5, 15, 5000)) * MS
    reads = [(int(t), 0, int(random.integers(100, 9000))) for t in times]
    path = power_file(tmp_path / "power.parquet", reads)
    columns = load_power(path, columns=40).rails["R0"]
    series = rail_powers(path)["R0"]
    whole = energy_mj(series, int(times[0]), int(times[-1])).energy_mj
    assert float(columns.weighted.sum()) * 1e-9 == pytest.approx(whole)


# latency


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=400))
def test_a_histogram_counts_every_inference_once(durations: list[int]) -> None:
    edges, counts, beyond = histogram(np.array(durations) * 1e-6)
    assert len(edges) == len(counts) + 1 <= 82
    assert (np.diff(edges) > 0).all()
    assert counts.sum() + beyond == len(durations)
    assert edges[0] <= min(durations) * 1e-6
    assert beyond == np.count_nonzero(np.array(durations) * 1e-6 > edges[-1])


def test_an_outlier_does_not_squeeze_the_histogram() -> None:
    random = np.random.default_rng(0)
    values = np.append(random.normal(10.0, 0.1, 5000), [500.0, 0.001])
    edges, counts, beyond = histogram(values)
    assert beyond == 1
    assert edges[-1] < 12.0
    assert edges[0] == 0.001
    assert counts[0] == 1
    assert np.count_nonzero(counts > 50) >= 15


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0.0, 1.0))
def test_quantiles_are_those_of_numpy(values: list[float], share: float) -> None:
    ranked = np.sort(values)
    (found,) = quantiles(ranked, [share])
    assert found == pytest.approx(np.percentile(ranked, 100 * share), rel=1e-9, abs=1e-6)


def inference_file(path: Path, spans: list[tuple[str, int, int]]) -> Path:
    columns = {
        "pass": [name for name, _, _ in spans],
        "index": list(range(len(spans))),
        "start_ns": [start for _, start, _ in spans],
        "end_ns": [end for _, _, end in spans],
        "due_ns": [None] * len(spans),
    }
    write_table(path, "inferences", columns)
    return path


def test_drift_follows_time(tmp_path: Path) -> None:
    spans = [
        ("clean", k * 10 * MS, k * 10 * MS + (MS if k < 5000 else 2 * MS)) for k in range(10_000)
    ]
    spans += [("profiled", 200_000 * MS, 200_003 * MS)]
    clean, profiled = load_latency(inference_file(tmp_path / "inferences.parquet", spans)).since(0)
    assert (clean.name, clean.count, len(clean.t_s)) == ("clean", 10_000, 150)
    assert clean.median_ms[:75] == pytest.approx(np.ones(75))
    assert clean.median_ms[75:] == pytest.approx(2 * np.ones(75))
    assert (np.diff(clean.t_s) > 0).all()
    assert 0 < clean.t_s[0] < clean.t_s[-1] < 100
    assert (clean.p10_ms <= clean.median_ms).all()
    assert (clean.median_ms <= clean.p90_ms).all()
    assert (profiled.count, profiled.counts.sum(), profiled.beyond) == (1, 1, 0)
    assert profiled.median_ms == pytest.approx([3.0])


# conditions


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cpu_mhz_mean", ("clock", "MHz")),
        ("gpu_mhz_17000000.gpu", ("clock", "MHz")),
        ("gpu_memory_mhz", ("clock", "MHz")),
        ("emc_mhz", ("clock", "MHz")),
        ("temperature_tj-thermal_c", ("temperature", "\u00b0C")),
        ("gpu_temperature_c", ("temperature", "\u00b0C")),
        ("gpu_load_percent", ("load", "%")),
        ("load_1min", ("load", "")),
        ("cpus_online", ("other", "")),
        ("memory_available_mib", ("memory", "MiB")),
        ("rss_measuring_mib", ("memory", "MiB")),
        ("throttling_cpu-throttle-alert", ("throttling", "")),
        ("throttled_oc1", ("throttling", "events")),
        ("gpu_throttled", ("throttling", "")),
        ("gpu_clock_reasons_bits", ("other", "bits")),
        ("gpu_power_limit_mw", ("other", "mW")),
        ("fan_rpm", ("fan", "rpm")),
        ("fan_percent", ("fan", "%")),
        ("<script>_mhz_c", ("temperature", "\u00b0C")),
    ],
)
def test_kind_and_unit_stand_in_the_name(name: str, kind: tuple[str, str]) -> None:
    assert kind_of(name) == kind


def resources_file(path: Path, **columns: list[float | None]) -> Path:
    count = len(next(iter(columns.values())))
    pq.write_table(pa.table({"t_ns": [k * 10**9 for k in range(count)], **columns}), path)
    return path


def test_conditions_keep_what_was_read(tmp_path: Path) -> None:
    path = resources_file(
        tmp_path / "resources.parquet",
        temperature_x_c=[40.0, None, 42.0],
        throttled_oc1=[7.0, 7.0, 9.0],
        never=[None, None, None],
    )
    temperature, throttled = load_conditions(path).since(10**9)
    assert temperature.t_s == pytest.approx([-1.0, 0.0, 1.0])
    assert temperature.values == pytest.approx([40.0, np.nan, 42.0], nan_ok=True)
    assert throttled.values == pytest.approx([0.0, 0.0, 2.0])


def test_long_conditions_are_reduced_and_keep_their_peak(tmp_path: Path) -> None:
    values = [40.0] * 5000
    values[4321] = 99.0
    path = resources_file(tmp_path / "r.parquet", temperature_x_c=values, cpu_mhz_mean=values)
    temperature, clock = load_conditions(path).since(0)
    assert len(temperature.values) == len(temperature.t_s) == 1200
    assert max(temperature.values) == 99.0
    assert 40.0 < max(clock.values) < 99.0


# whole runs


def test_the_series_of_a_run_count_from_its_first_phase(tmp_path: Path) -> None:
    path = build_run(tmp_path, Plan(rails=(("VDD_A", 1000), ("VDD_B", 300))))
    run = load_run(path, series=True)
    found = run.series
    assert found.missing == ()
    assert found.start_ns == START_NS
    phases = json.loads((path / "run.json").read_text())["phases"]
    assert [span.phase for span in found.spans] == [item["phase"] for item in phases]
    assert found.spans[0].start_s == 0.0
    for before, after in zip(found.spans, found.spans[1:], strict=False):
        assert before.end_s == pytest.approx(after.start_s)
    by_rail = {one.rail: one for one in found.power}
    known = by_rail["VDD_A"].mean_w[np.isfinite(by_rail["VDD_A"].mean_w)]
    assert known == pytest.approx(np.full(len(known), 5.0))
    assert by_rail["VDD_B"].peak_w == pytest.approx(1.5)
    counts = {one.name: one.count for one in found.latency}
    assert counts == {"warmup": 2, "clean": 4, "profiled": 6}
    for one in found.latency:
        assert one.median_ms == pytest.approx(np.ones(len(one.median_ms)))
    assert [(one.name, one.kind) for one in found.conditions] == [
        ("cpu_mhz", "clock"),
        ("temperature_c", "temperature"),
    ]
    assert load_run(path).series.power == ()


def test_a_phase_that_was_cut_ends_with_the_last_thing_known(tmp_path: Path) -> None:
    path = build_run(tmp_path, Plan())
    run = json.loads((path / "run.json").read_text())
    run["phases"] = run["phases"][:-1]
    run["phases"][-1]["end_ns"] = None
    run["phases"].insert(0, "not a phase")
    found = load_series(path, run)
    last = pq.read_table(path / "resources.parquet")["t_ns"].to_pylist()[-1]
    assert found.spans[-1].end_s == pytest.approx((last - START_NS) * 1e-9)


def test_a_run_without_phases_counts_from_its_first_stamp(tmp_path: Path) -> None:
    path = build_run(tmp_path, Plan())
    found = load_series(path, {})
    assert found.spans == ()
    assert found.start_ns is not None
    assert found.start_ns <= START_NS
    assert len(found.power) == 2


def test_nothing_gives_nothing(tmp_path: Path) -> None:
    found = load_series(tmp_path, {})
    assert (found.start_ns, found.missing, found.power) == (None, (), ())


@pytest.mark.parametrize("name", ["power.parquet", "inferences.parquet", "resources.parquet"])
@pytest.mark.parametrize("damage", ["gone", "garbage", "cut", "folder", "foreign", "empty"])
def test_each_file_that_cannot_be_read_is_a_sentence(
    tmp_path: Path, name: str, damage: str
) -> None:
    path = build_run(tmp_path, Plan())
    run = json.loads((path / "run.json").read_text())
    file = path / name
    content = file.read_bytes()
    file.unlink()
    if damage == "garbage":
        file.write_bytes(b"PAR1" + b"\xff" * 100 + b"PAR1")
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "folder":
        file.mkdir()
    elif damage == "foreign":
        pq.write_table(pa.table({"t_ns": ["a"], "pass": [1], "t0_ns": [None]}), file)
    elif damage == "empty":
        file.write_bytes(b"")
    found = load_series(path, run)
    assert len(found.missing) == 1
    assert name in found.missing[0]
    assert "\n" not in found.missing[0]
    others = {"power.parquet": found.power, "inferences.parquet": found.latency,
              "resources.parquet": found.conditions}  # fmt: skip
    assert not others.pop(name)
    assert all(others.values())


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_flipped_bytes_never_raise(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("flip")
    reads = [(k * MS, 0, k) for k in range(300)]
    power = power_file(folder / "power.parquet", reads)
    content = bytearray(power.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] ^= data.draw(st.integers(1, 255))
    power.write_bytes(bytes(content))
    found = load_series(folder, {})
    for one in found.power:
        shown = np.isfinite(one.mean_w)
        assert (one.low_w[shown] <= one.high_w[shown]).all()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["phase", "start_ns", "end_ns"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_phases_can_be_read(value: Any) -> None:
    found = phases_of({"phases": value})
    assert all(end is None or end >= start for _, start, end in found)
