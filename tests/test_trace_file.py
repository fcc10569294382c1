"""`report.py trace`: what is in the file, read back by the package's own classes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgejoule.cli import report_trace
from edgejoule.energy.trace import rail_powers
from edgejoule.files import canonical_json
from edgejoule.report.trace.selection import Selection
from edgejoule.report.trace.write import write_trace
from tests.support_dataset import build_run
from tests.support_tables import LAYERS, ONE_RAIL, build, energy_row
from tests.support_trace import Decoded, decode

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "x" * 5000,
    "\x1b[31mred\x00\n",
    "\ud800\u6f22\u5b57",
    "",
)


def write(run: Path, tmp_path: Path, *asked: Any, **more: Any) -> Decoded:
    target = tmp_path / "out" / "t.perfetto-trace"
    write_trace(run, target, *asked, overwrite=True, **more)
    return decode(target)


def layers_of(run: Path) -> list[dict[str, Any]]:
    """The rows of layers.parquet with the time of their inference."""
    inferences = pq.read_table(run / "inferences.parquet").to_pylist()
    starts = {one["index"]: one for one in inferences if one["pass"] == "profiled"}
    return [
        {**row, "of": starts[row["inference"]]}
        for row in pq.read_table(run / "layers.parquet").to_pylist()
    ]


def rewrite(file: Path, change: Any) -> None:
    """Change the rows of a Parquet file."""
    table = pq.read_table(file)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)


def reseal_engine(run: Path, change: Any) -> None:
    engine = json.loads((run / "engine.json").read_text())
    change(engine)
    (run / "engine.json").write_bytes(canonical_json(engine))


def assert_nested(found: Decoded) -> None:
    """Children lie inside their parents, and slices of one depth follow one another."""
    latest: dict[tuple[int, int], int] = {}
    for one in found.slices:
        assert one.begin <= one.end
        if one.inside is not None:
            assert one.inside.begin <= one.begin
            assert one.end <= one.inside.end
        depth, parent = 0, one.inside
        while parent is not None:
            depth, parent = depth + 1, parent.inside
        assert latest.get((one.track, depth), 0) <= one.begin
        latest[one.track, depth] = one.end


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("made"), replay=2, profiled=7)


@pytest.fixture
def run(tmp_path: Path, made: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "set" / made.name))


def test_slices_are_the_layers(run: Path, tmp_path: Path) -> None:
    found = write(run, tmp_path)
    assert_nested(found)
    slices, rows = found.of("layer"), layers_of(run)
    assert len(slices) == len(rows) == 21
    for one, row in zip(slices, rows, strict=True):
        begin = row["of"]["start_ns"] + row["start_offset_ns"]
        assert abs(one.begin - begin) <= 1000
        assert abs(one.end - (begin + row["duration_ms"] * 1e6)) <= 1000
        assert one.name == f"layer{row['layer']}"
        assert one.values["layer"] == row["layer"]
        assert one.values["start"] == "measured"
        assert one.inside is not None
        assert one.inside.begin == row["of"]["start_ns"]
        assert one.inside.values == {"index": row["inference"], "pass": "profiled"}
    assert "measured starts" in found.tracks[slices[0].track].name


def test_inferences_of_every_pass_and_phases(run: Path, tmp_path: Path) -> None:
    found = write(run, tmp_path)
    told = [(one.values["pass"], one.values["index"], one.begin, one.end)
            for one in found.of("inference")]  # fmt: skip
    rows = pq.read_table(run / "inferences.parquet").to_pylist()
    assert told == [(r["pass"], r["index"], r["start_ns"], r["end_ns"]) for r in rows]
    phases = json.loads((run / "run.json").read_text())["phases"]
    assert [(one.name, one.begin, one.end) for one in found.of("phase")] == [
        (one["phase"], one["start_ns"], one["end_ns"]) for one in phases
    ]
    marks = [one for one in found.marks if one.category == "phase"]
    assert [(one.name, one.begin) for one in marks] == [
        (f"phase {one['phase']}", one["start_ns"]) for one in phases
    ]
    assert {one.track for one in marks} == {found.named("lenet")}


def test_replay_segments(run: Path, tmp_path: Path) -> None:
    found = write(run, tmp_path).of("replay")
    rows = pq.read_table(run / "replay.parquet").to_pylist()
    assert [(o.begin, o.end, o.values["kind"], o.values["iterations"]) for o in found] == [
        (r["start_ns"], r["end_ns"], r["kind"], r["iterations"]) for r in rows
    ]
    assert "layer layer1" in {one.name for one in found}
    assert "duplicate layer1 x 4" in {one.name for one in found}


def test_counters_are_the_trace(run: Path, tmp_path: Path) -> None:
    found = write(run, tmp_path)
    rails = rail_powers(run / "power.parquet")
    assert set(rails) == {"VDD_A", "VDD_B"}
    for name, series in rails.items():
        track = found.named(f"power {name}")
        assert found.tracks[track].counter.unit_name == "W"
        assert [t for t, _ in found.counters[track]] == series.t_ns.tolist()
        values = [value for _, value in found.counters[track]]
        np.testing.assert_allclose(values, series.power_mw * 1e-3, rtol=1e-12)
    # By hand: 5 V times 1 A, in the middle of the read of the current.
    rows = pq.read_table(run / "power.parquet").to_pylist()
    first = next(row for row in rows if row["channel"] == 1)
    middle = (first["t0_ns"] + first["t1_ns"]) // 2
    assert found.counters[found.named("power VDD_A")][0] == (middle, 5.0)
    temperature = found.named("temperature_c")
    resources = pq.read_table(run / "resources.parquet").to_pylist()
    assert found.counters[temperature] == [
        (row["t_ns"], row["temperature_c"]) for row in resources if row["temperature_c"] is not None
    ]
    assert len(found.counters[temperature]) == 2
    assert found.tracks[temperature].counter.unit_name == "\u00b0C"
    assert found.tracks[found.named("cpu_mhz")].counter.unit_name == "MHz"


def test_batches_of_a_trace_join_without_a_seam(run: Path, tmp_path: Path) -> None:
    from edgejoule.report.trace import counters
    from edgejoule.report.trace.packets import Packets
    from edgejoule.report.trace.tracks import Tracks

    def by(reads: int) -> dict[str, list[tuple[int, float]]]:
        target = tmp_path / "p"
        with target.open("wb") as file:
            packets = Packets(file)
            tracks = Tracks(packets, "p", (), "")
            counters.write_power(packets, tracks, run / "power.parquet", reads_at_once=reads)
            packets.flush()
        found = decode(target)
        return {found.tracks[track].name: told for track, told in found.counters.items()}

    whole = by(1_000_000)
    # The reads of this run span less than the overlap of batches: make the overlap short.
    before = counters.OVERLAP_NS
    counters.OVERLAP_NS = 2_000_000
    try:
        assert by(300) == whole
        assert by(97) == whole
    finally:
        counters.OVERLAP_NS = before


def test_an_energy_counter_is_power_from_tick_to_tick(tmp_path: Path) -> None:
    run = build_run(tmp_path / "set")
    base = 10_000_000_000
    reads = [(0, 100), (5, 100), (10, 130), (15, 130), (20, 150), (30, 190)]  # ms, mJ
    metadata = {"channels": [{"index": 0, "rail": "E", "quantity": "energy", "unit": "mJ",
                              "chip": "x", "source": "e", "shunt_uohm": None, "lsb": None}],
                "total": {"rails": ["E"], "contains": "all", "excludes": "none"}}  # fmt: skip
    table = pa.table(
        {
            "t0_ns": [base + ms * 1_000_000 for ms, _ in reads],
            "t1_ns": [base + ms * 1_000_000 for ms, _ in reads],
            "channel": pa.array([0] * len(reads), pa.int16()),
            "raw": [mj for _, mj in reads],
            "errno": pa.array([None] * len(reads), pa.int16()),
        }
    ).replace_schema_metadata({b"edgejoule": json.dumps(metadata).encode()})
    pq.write_table(table, run / "power.parquet")
    found = write(run, tmp_path)
    expected = [(base + 10_000_000, 2.0), (base + 20_000_000, 4.0)]  # 20 mJ in 10 ms, 40 in 10
    assert found.counters[found.named("power E")] == expected
    total = found.counters[found.named("power total")]
    assert {value for _, value in total} == {2.0, 4.0}
    assert "excludes none" in found.tracks[found.named("power total")].description


def test_attributes_and_energy(tmp_path: Path) -> None:
    run = build(tmp_path / "set", "lenet", times_ms=[[0.4, 0.3, 0.2]] * 4)
    found = write(run, tmp_path)
    conv = next(one for one in found.of("layer") if one.name == "conv1")
    for name, value in {
        "operation": "convolution",
        "type": "FusedConv",
        "inputs": "1x1x32x32 float32",
        "outputs": "1x6x28x28 float32",
        "module_path": "features.0",
        "flops": 235200,
        "bytes_moved": 23536,
        "kernel": "5 x 5",
        "fused": "Conv, Tanh",
    }.items():
        assert conv.values[name] == value
    energy = conv.values["energy"]
    assert energy["method"] == "proportional"
    assert energy["resolved"] == "the method does not ask"
    assert energy["gross_mj"] == pytest.approx(5000 * 0.4e-3, rel=1e-6)
    assert "gross_half_mj" in energy
    last = next(one for one in found.of("layer") if one.values["layer"] == 2)
    assert last.name == 'fc, "the last"'
    assert last.values["module_path"] == "(the model)"


def test_a_layer_that_is_not_resolved_has_no_figure(tmp_path: Path) -> None:
    rows = [
        energy_row("window", "VDD_IN", 0, gross_mj=2.0, gross_statistical_mj=0.1, resolved=True),
        energy_row("window", "VDD_IN", 1, gross_mj=None, resolved=False, group=1, why="alike"),
        energy_row("window", "VDD_IN", 2, gross_mj=None, resolved=False, group=1, why="alike"),
        {**energy_row("window", "VDD_IN", None, gross_mj=3.0), "kind": "group", "group": 1},
        energy_row("window", "VDD_IN", None, gross_mj=0.5),
        {**energy_row("window", "VDD_IN", None, gross_mj=5.5), "kind": "inference"},
        {**energy_row("window", "VDD_IN", None, gross_mj=5.5), "kind": "closure"},
    ]
    run = build(tmp_path / "set", "lenet", times_ms=[[0.4, 0.3, 0.2]] * 4, energy=rows)
    slices = write(run, tmp_path).of("layer")
    by_layer = {one.values["layer"]: one.values["energy"] for one in slices}
    assert by_layer[0]["resolved"] == "resolved"
    assert by_layer[0]["gross_half_mj"] == 0.1
    assert "not resolved" in by_layer[1]["resolved"]
    assert "1, 2" in by_layer[1]["resolved"]
    assert "gross_mj" not in by_layer[1]
    assert by_layer[1]["group_gross_mj"] == 3.0


def test_marks_stand_in_every_name(tmp_path: Path) -> None:
    run = build_run(tmp_path / "set", simulated=True, weights="random", rails=ONE_RAIL)
    found = write(run, tmp_path)
    assert len(found.tracks) > 5
    for one in found.tracks.values():
        assert one.name.endswith(" [SIMULATED power, random weights]"), one.name
    process = found.tracks[found.named("lenet")]
    assert process.process.process_name == process.name
    (about,) = [one for one in found.marks if one.category == "about"]
    assert about.values["marks"] == "SIMULATED power, random weights"
    energy = found.of("layer")[0].values["energy"]
    assert energy["marks"] == "SIMULATED power"


def test_the_clock_and_the_date(run: Path, tmp_path: Path) -> None:
    from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

    clock = write(run, tmp_path).clock
    assert clock is not None
    assert clock.primary_trace_clock == pb.BUILTIN_CLOCK_MONOTONIC
    anchor = json.loads((run / "run.json").read_text())["clock"]["wall_anchor"]
    assert {one.clock_id: one.timestamp for one in clock.clocks} == {
        pb.BUILTIN_CLOCK_MONOTONIC: anchor["monotonic_ns"],
        pb.BUILTIN_CLOCK_REALTIME: anchor["wall_ns"],
    }


def test_durations_only_are_modelled_and_say_so(tmp_path: Path) -> None:
    run = build_run(tmp_path / "set", starts=False)
    found = write(run, tmp_path)
    assert_nested(found)
    begins: dict[int, int] = {}
    for one in found.of("layer"):
        assert one.inside is not None
        assert one.values["start"].startswith("modelled: one after the other")
        key = one.inside.values["index"]
        assert one.begin == begins.get(key, one.inside.begin)
        begins[key] = one.end
    track = found.tracks[found.of("layer")[0].track]
    assert "MODELLED starts" in track.name
    assert "no gap model was fitted" in track.description


def test_stamps_in_whole_microseconds_nest(run: Path, tmp_path: Path) -> None:
    def shake(rows: list[dict[str, Any]]) -> None:
        for place, row in enumerate(rows):
            row["start_offset_ns"] += (-900, 0, 950)[place % 3]

    rewrite(run / "layers.parquet", shake)
    found = write(run, tmp_path)
    assert_nested(found)
    for one, row in zip(found.of("layer"), layers_of(run), strict=True):
        begin = row["of"]["start_ns"] + row["start_offset_ns"]
        assert one.inside is not None
        assert abs(one.begin - begin) <= 1000
        assert abs(one.end - (begin + row["duration_ms"] * 1e6)) <= 1000


def test_layers_at_the_same_time_get_tracks_of_their_own(run: Path, tmp_path: Path) -> None:
    def overlap(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row["layer"] == 1:
                row["start_offset_ns"] = 100_000  # within layer 0, and as long as it is

    rewrite(run / "layers.parquet", overlap)
    found = write(run, tmp_path)
    assert_nested(found)
    beside = found.named("layers at the same time 2")
    rows = [row for row in layers_of(run) if row["layer"] == 1]
    own = [one for one in found.of("layer") if one.track == beside]
    assert [one.begin for one in own] == [row["of"]["start_ns"] + 100_000 for row in rows]
    assert {one.name for one in own} == {"layer1"}
    assert len(found.of("layer")) == 21


def test_what_the_profiler_held_is_no_layer(run: Path, tmp_path: Path) -> None:
    def later(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["start_offset_ns"] += 50_000

    rewrite(run / "layers.parquet", later)
    (run / "measure.json").write_bytes(canonical_json({"profiled": {"held_us": [50] * 6 + [0]}}))
    found = write(run, tmp_path)
    assert_nested(found)
    held = found.of("profiler")
    assert [one.end - one.begin for one in held] == [50_000] * 6


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (Selection(None, 2, 4), {"warmup": [], "clean": [2, 3], "profiled": [2, 3]}),
        (Selection(("profiled",), 5), {"profiled": [5, 6]}),
        (Selection(None, 0, 1), {"warmup": [0], "clean": [0], "profiled": [0]}),
    ],
)
def test_some_inferences(
    run: Path, tmp_path: Path, asked: Selection, shown: dict[str, list[int]]
) -> None:
    found = write(run, tmp_path, asked)
    told: dict[str, list[int]] = {name: [] for name in shown}
    for one in found.of("inference"):
        told[one.values["pass"]].append(one.values["index"])
    expected = {name: list(places) for name, places in shown.items()}
    warmups = [r for r in pq.read_table(run / "inferences.parquet").to_pylist()
               if r["pass"] == "warmup"]  # fmt: skip
    if "warmup" in expected and asked.first:
        expected["warmup"] = [i for i in range(asked.first, asked.last or 99) if i < len(warmups)]
    assert told == expected
    assert len(found.of("layer")) == 3 * len(shown["profiled"])
    (about,) = [one for one in found.marks if one.category == "about"]
    assert "of 7 are shown" in about.values["not shown"]


def test_counters_around_the_inferences_only(run: Path, tmp_path: Path) -> None:
    found = write(run, tmp_path, Selection(("profiled",)), around=True)
    inferences = found.of("inference")
    low, high = inferences[0].begin, inferences[-1].end
    series = rail_powers(run / "power.parquet")["VDD_A"]
    expected = [t for t in series.t_ns.tolist() if low <= t <= high]
    assert [t for t, _ in found.counters[found.named("power VDD_A")]] == expected
    assert 10 < len(expected) < len(series.t_ns)


def test_hostile_names(tmp_path: Path) -> None:
    layers = [{**LAYERS[0], "index": place, "name": name, "module_path": name, "tactic": name}
              for place, name in enumerate(HOSTILE[:3])]  # fmt: skip
    run = build(tmp_path / "set", "lenet", layers=layers, times_ms=[[0.4, 0.3, 0.2]] * 2)
    document = json.loads((run / "run.json").read_text())
    document["config"]["model"] = HOSTILE[3]
    document["phases"][0]["phase"] = HOSTILE[3] + HOSTILE[1]
    (run / "run.json").write_text(json.dumps(document))
    found = write(run, tmp_path)
    assert_nested(found)
    names = [one.name for one in found.of("layer")[:3]]
    assert names[0] == HOSTILE[0]
    assert names[1].startswith("xxx")
    assert len(names[1]) == 200
    assert names[2] == r"\x1b[31mred\x00 "
    assert all(one.name.isprintable() for one in found.tracks.values())
    assert len(found.of("layer")[1].values["name"]) == 1000
    assert found.of("phase")[0].name.isprintable()


@pytest.mark.parametrize("name", ["power", "layers", "resources", "inferences", "engine"])
@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_what_is_missing_is_said(run: Path, tmp_path: Path, name: str, how: str) -> None:
    file = run / f"{name}.{'json' if name == 'engine' else 'parquet'}"
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    target = tmp_path / "t.perfetto-trace"
    written = write_trace(run, target)
    assert any(file.name in one for one in written.missing)
    found = decode(target)
    (about,) = [one for one in found.marks if one.category == "about"]
    assert file.name in about.values["missing"]
    assert found.of("phase")
    assert bool(found.of("layer")) == (name not in {"layers", "inferences"})
    assert any(t.name.startswith("power") for t in found.tracks.values()) == (name != "power")


def test_rows_that_make_no_sense_are_counted(run: Path, tmp_path: Path) -> None:
    def spoil(rows: list[dict[str, Any]]) -> None:
        rows[0]["duration_ms"] = -1.0
        rows[4]["inference"] = 3
        rows[5]["start_offset_ns"] = 2**62
        rows[7]["duration_ms"] = float("inf")

    def swap(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row["pass"] == "profiled" and row["index"] == 4:
                row["end_ns"] = row["start_ns"] - 1

    rewrite(run / "layers.parquet", spoil)
    rewrite(run / "inferences.parquet", swap)
    target = tmp_path / "t.perfetto-trace"
    written = write_trace(run, target)
    found = decode(target)
    assert_nested(found)
    assert len(found.of("layer")) == written.layers
    assert any("1 inferences overlap others or end before they begin" in one
               for one in written.missing)  # fmt: skip
    # Three of one inference, and three spoilt rows.
    assert any(one.startswith("6 executions of layers") for one in written.missing)
    (about,) = [one for one in found.marks if one.category == "about"]
    assert "6 executions of layers" in about.values["missing"]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = (
    "name", "config", "clock", "phases", "summary", "sensor", "files", "simulated", "weights",
    "missing", "status", "board_id",
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@example({"board_id": {"": None}, "power_mode": {"a": {}}}, {"layers": 3}, [2**70])
@given(
    st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4),
    st.dictionaries(st.sampled_from(("layers", "backend")), JSON),
    JSON,
)
def test_any_json_gives_a_whole_file_or_one_error(
    run: Path, tmp_path: Path, changes: dict[str, Any], engine: dict[str, Any], measure: Any
) -> None:
    before = {name: (run / name).read_text() for name in ("run.json", "engine.json")}
    (run / "run.json").write_text(json.dumps({**json.loads(before["run.json"]), **changes}))
    (run / "engine.json").write_text(json.dumps(engine))
    (run / "measure.json").write_text(json.dumps({"profiled": {"held_us": measure}}))
    try:
        found = write(run, tmp_path)
    finally:
        for name, text in before.items():
            (run / name).write_text(text)
    assert_nested(found)
    assert len(found.of("layer")) == 21


def test_a_run_without_a_sensor_lacks_nothing(tmp_path: Path) -> None:
    run = build_run(tmp_path / "set", sensor="none")
    target = tmp_path / "t.perfetto-trace"
    written = write_trace(run, target)
    assert written.missing == ()
    found = decode(target)
    assert not any(one.name.startswith("power") for one in found.tracks.values())
    assert "energy" not in found.of("layer")[0].values


def test_a_cut_run(run: Path, tmp_path: Path) -> None:
    document = json.loads((run / "run.json").read_text())
    document["phases"] = document["phases"][:-2]
    document["phases"][-1]["end_ns"] = None
    document["status"] = "incomplete"
    (run / "run.json").write_text(json.dumps(document))
    found = write(run, tmp_path)
    last = found.of("phase")[-1]
    assert last.values == {"cut": True}
    assert last.end == found.of("inference")[-1].end
    assert "INCOMPLETE" in found.tracks[found.named("lenet")].name


def test_the_command(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert report_trace.main([str(run)]) == 0
    out, err = capsys.readouterr()
    assert out == "lenet.perfetto-trace\n"
    assert "21 executions of layers" in err
    first = Path("lenet.perfetto-trace").read_bytes()
    assert report_trace.main([str(run)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert report_trace.main([str(run), "--overwrite", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert Path("lenet.perfetto-trace").read_bytes() == first
    assert [one.name for one in Path().iterdir()] == ["lenet.perfetto-trace"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["NOWHERE"], 2, "is no folder"),
        (["SET"], 2, "is a dataset; name one of its runs"),
        (["EMPTY"], 1, "run.json is missing"),
        (["RUN", "--inferences", "4:2"], 2, "is no range"),
        (["RUN", "--inferences", "-3"], 2, "is no range"),
        (["RUN", "--inferences", "900:"], 2, "no pass has an inference 900"),
        (["RUN", "--pass", "dream"], 2, "there is no pass dream"),
        (["RUN", "--pass", ","], 2, "names no pass"),
        (["RUN", "-o", "RUN/t.perfetto-trace"], 2, "never changed"),
        (["RUN", "-o", "EMPTY"], 2, "is a folder"),
        (["RUN", "-o", "FILE/t.perfetto-trace"], 2, "cannot write"),
    ],
)
def test_one_line_and_an_exit_code(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    said: str,
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "file").write_text("")
    places = {
        "FILE": tmp_path / "file",
        "RUN": run,
        "SET": run.parent,
        "EMPTY": empty,
        "NOWHERE": tmp_path / "nowhere",
    }
    words = []
    for word in arguments:
        first, slash, rest = word.partition("/")
        words.append(f"{places[first]}{slash}{rest}" if first in places else word)
    if "--inferences" in words:  # a value that begins with a minus needs the other spelling
        place = words.index("--inferences")
        words[place : place + 2] = [f"--inferences={words[place + 1]}"]
    if "-o" not in words:
        words += ["-o", str(tmp_path / "t.perfetto-trace")]
    assert report_trace.main(words) == status
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "t.perfetto-trace").exists()


def test_nothing_is_left_where_writing_fails(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgejoule.report.trace import slices

    target = tmp_path / "out" / "t.perfetto-trace"
    write_trace(run, target)
    before = target.read_bytes()

    def fail(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(slices, "write_phases", fail)
    with pytest.raises(KeyboardInterrupt):
        write_trace(run, target, overwrite=True)
    assert target.read_bytes() == before
    assert [one.name for one in target.parent.iterdir()] == ["t.perfetto-trace"]


def test_traces_of_equal_runs_are_equal(run: Path, tmp_path: Path) -> None:
    sizes = []
    for name in ("a", "b"):
        target = tmp_path / name
        write_trace(run, target)
        sizes.append(target.read_bytes())
    assert sizes[0] == sizes[1]


def test_perfettos_own_processor(run: Path, tmp_path: Path) -> None:
    """Runs where TRACE_PROCESSOR names Perfetto's binary; it is not in the package."""
    target = tmp_path / "t.perfetto-trace"
    write_trace(run, target)
    binary = os.environ.get("TRACE_PROCESSOR")
    if not binary:
        pytest.skip("Perfetto's trace processor was not run: TRACE_PROCESSOR names no binary")

    def ask(query: str) -> list[list[str]]:
        file = tmp_path / "q.sql"
        file.write_text(query)
        done = subprocess.run(
            [binary, "-q", str(file), str(target)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        lines = [line for line in done.stdout.splitlines() if line.strip()][1:]
        return [[cell.strip('"') for cell in line.split(",")] for line in lines]

    found = decode(target)
    categories = ("layer", "inference", "phase", "replay")
    for category in categories:
        (counted,) = ask(f"select count(*) from slice where category = '{category}' and dur >= 0;")
        marks = sum(one.category == category for one in found.marks)
        assert int(counted[0]) == len(found.of(category)) + marks
    spans = ask("select ts, dur from slice where category = 'layer' order by ts;")
    assert [(int(ts), int(dur)) for ts, dur in spans] == sorted(
        (one.begin, one.end - one.begin) for one in found.of("layer")
    )
    rows = ask(
        "select c.ts, c.value from counter c join counter_track t on c.track_id = t.id "
        "where t.name like 'power VDD_A%' order by c.ts;"
    )
    told = found.counters[found.named("power VDD_A")]
    assert [(int(ts), float(value)) for ts, value in rows] == pytest.approx(told)
    (errors,) = ask("select ifnull(sum(value), 0) from stats where severity = 'error';")
    assert int(errors[0]) == 0
