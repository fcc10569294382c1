"""What goes out in the older layout comes back with the same numbers, and the other way round."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from edgejoule.dataset.older.exporting import export
from edgejoule.dataset.older.importing import import_folder
from edgejoule.dataset.older.times import zone_of
from edgejoule.dataset.verify import verify
from tests.support_dataset import Plan, build_run, reseal
from tests.support_older import CONV, POOL, Recording, layer_powers, log_text, stamp
from tests.support_tables import build as build_tables

FIXTURES = Path(__file__).resolve().parent.parent.parent / "shared" / "fixtures" / "torch_trt"
UTC = zone_of("UTC")
US = 1000
# A failing example is small as it is; to look for a smaller one takes minutes of disk.
QUICK = (Phase.explicit, Phase.generate)
TIMES = "trt_profiling/trt_layer_latency.json"


def column(run: Path, table: str, name: str) -> np.ndarray:
    return pq.read_table(run / f"{table}.parquet")[name].to_numpy()


def wall_ns(run: Path, times: np.ndarray) -> np.ndarray:
    anchor = json.loads((run / "run.json").read_text())["clock"]["wall_anchor"]
    return times - anchor["monotonic_ns"] + anchor["wall_ns"]


def spans(run: Path) -> np.ndarray:
    """(2, n) starts and ends of the profiled inferences, UNIX time."""
    table = pq.read_table(run / "inferences.parquet")
    chosen = np.array(table["pass"].cast("string").to_pylist()) == "profiled"
    found = np.array([table[k].to_numpy()[chosen] for k in ("start_ns", "end_ns")])
    return wall_ns(run, found)


def out_and_back(folder: Path) -> Path:
    """Export the dataset `ds` and import it into `back`; return its one run."""
    export(folder / "ds", folder / "out", UTC)
    done = import_folder(folder / "out", folder / "back", UTC)
    (one,) = done.runs
    assert one.error == ""
    report = verify(folder / "back")
    assert report.ok(allow_incomplete=True), report.to_json()
    return folder / "back" / one.run


PLANS = st.builds(
    Plan,
    profiled=st.integers(1, 6),
    layer_ns=st.lists(st.integers(1, 3_000_000), min_size=1, max_size=4),
    gap_ns=st.integers(1_000, 500_000),
    pause_ns=st.integers(0, 300_000),
    rails=st.tuples(st.tuples(st.just("VDD_IN"), st.integers(0, 5000))),
    sample_ns=st.integers(40_000, 900_000),
)


@settings(max_examples=8, phases=QUICK)
@given(PLANS)
def test_a_run_of_ours_comes_back(plan):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = build_run(folder / "ds", plan)
        back = out_and_back(folder)
        for key in ("inference", "layer", "duration_ms"):
            assert (column(back, "layers", key) == column(own, "layers", key)).all(), key
        assert np.abs(spans(back) - spans(own)).max() <= 2 * US
        assert (spans(back)[1] - spans(own)[1] >= 0).all()
        for channel in (0, 1):
            raws = [column(run, "power", "raw")[column(run, "power", "channel") == channel]
                    for run in (own, back)]  # fmt: skip
            assert (raws[0] == raws[1]).all()
        reads = [wall_ns(run, column(run, "power", "t0_ns"))[column(run, "power", "channel") == 1]
                 for run in (own, back)]  # fmt: skip
        assert np.abs(reads[0] + 2500 - reads[1]).max() <= US


FLOATS = st.floats(2**-10, 3.0, width=32)


@st.composite
def recordings(draw) -> Recording:
    """Inferences of three layers, some pauses between them, a log of any steps and readings."""
    count = draw(st.integers(1, 5))
    rows = [draw(st.lists(FLOATS, min_size=count, max_size=count)) for _ in range(3)]
    pauses = draw(st.lists(st.integers(10_000, 40_000), min_size=count, max_size=count))
    ends = np.cumsum(pauses)
    lists = {
        name: [[ms, stamp(1 + (end + k) * 1e-6)] for ms, end in zip(row, ends, strict=True)]
        for k, (name, row) in enumerate(zip(("conv", "a/..", "pool"), rows, strict=True))
    }
    steps = draw(st.lists(st.integers(0, 60_000), min_size=1, max_size=40))
    values = st.integers(1, 20000).map(lambda raw: draw(st.sampled_from([1.0, 0.5])) * raw)
    lines = [(t * 1e-6, draw(values), draw(values)) for t in np.cumsum(steps).tolist()]
    around = [(0.0, 5000.0, 1.0), *((0.5 + t, v, a) for t, v, a in lines), (9.0, 5000.0, 1.0)]
    latencies = draw(st.sampled_from([[0.0095] * count, []]))
    engine = {"Layers": [CONV, {**CONV, "Name": "a/.."}, POOL]}
    config = {"model": "net", "dtype": "float16", "runs": count}
    return Recording(
        lists=lists, log=log_text(around), latencies=latencies, engine=engine, config=config
    )


@settings(max_examples=8, phases=QUICK)
@given(recordings())
def test_a_recording_comes_back(recording):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recording.write(folder / "old")
        done = import_folder(folder / "old", folder / "ds", UTC)
        assert done.runs[0].status == "complete", done.runs
        assert verify(folder / "ds").ok()
        again = out_and_back(folder)
        one, other = folder / "ds" / "net", again
        for path in sorted(folder.joinpath("old").rglob("*")):
            if path.is_file() and path.name != "net_tensorrt.json":
                copy = folder / "out" / path.relative_to(folder / "old")
                assert copy.read_bytes() == path.read_bytes(), path.name
        for table in ("inferences", "layers", "power", "energy"):
            first, second = (pq.read_table(run / f"{table}.parquet") for run in (one, other))
            assert first.equals(second), table
        assert layer_powers(folder / "out", "net") == layer_powers(folder / "old", "net")


@pytest.mark.parametrize("model", ["alexnet", "resnet18"])
def test_real_recordings_come_back_to_the_byte(tmp_path, model):
    if not FIXTURES.is_dir():
        pytest.skip("the recordings are not beside this checkout")
    own = tmp_path / "old" / model / "trt_profiling"
    own.mkdir(parents=True)
    for path in (FIXTURES / model).iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    import_folder(tmp_path / "old", tmp_path / "ds", UTC)
    export(tmp_path / "ds", tmp_path / "out", UTC)
    for path in own.iterdir():
        copy = tmp_path / "out" / model / "trt_profiling" / path.name
        assert copy.read_bytes() == path.read_bytes(), path.name


def test_names_that_repeat_come_back_as_they_were(tmp_path):
    engine = {"Layers": [CONV, {**POOL, "Name": "conv"}]}
    lists = {
        "conv": [[4.0, stamp(1.01)], [2.0, stamp(1.01)], [4.0, stamp(1.03)], [2.0, stamp(1.03)]]
    }
    # The one key collects the times of both; the other layer says how many inferences there are.
    Recording(engine=engine, lists={**lists, "fc": [[1.0, stamp(1.01)], [1.0, stamp(1.03)]]}).write(
        tmp_path / "old"
    )
    import_folder(tmp_path / "old", tmp_path / "ds", UTC)
    back = out_and_back(tmp_path)
    names = [
        [layer["name"] for layer in json.loads((run / "engine.json").read_text())["layers"]]
        for run in (tmp_path / "ds" / "net", back)
    ]
    assert names == [["conv", "conv", "fc"]] * 2
    assert list(json.loads((tmp_path / "out" / "net" / TIMES).read_text())) == [
        "conv", "conv #2", "fc",
    ]  # fmt: skip


def test_a_total_of_several_rails_comes_back_in_microamperes(tmp_path):
    from edgejoule.dataset.schema import read_metadata, write_table
    from edgejoule.summary import read_power

    run = build_run(tmp_path / "ds", rails=(("A", 1234), ("B", 77)))
    path = run / "power.parquet"
    table, facts = pq.read_table(path), read_metadata(path)
    facts["total"] = {"rails": ["A", "B"], "contains": "", "excludes": "", "source": ""}
    columns = {name: table[name].to_pylist() for name in table.column_names}
    columns["raw"] = [None if v is None else v + k % 7 for k, v in enumerate(columns["raw"])]
    write_table(path, "power", columns, **facts)
    reseal(run)
    back = out_and_back(tmp_path)
    total = read_power(path).rails["total"]
    found = read_power(back / "power.parquet").rails["in1"]
    assert found.power_mw == pytest.approx(total.power_mw, abs=5.01e-4)
    assert len(found.power_mw) == len(total.power_mw)


def test_a_convolution_of_another_backend_comes_back_as_one(tmp_path):
    """Not as a pooling of its size, of which each output would be 25 operations."""
    own = build_tables(tmp_path / "ds")
    back = out_and_back(tmp_path)
    before, after = (
        json.loads((run / "engine.json").read_text())["layers"][:2] for run in (own, back)
    )
    for key in ("kernel", "stride", "padding", "groups", "flops"):
        assert [layer[key] for layer in after] == [layer.get(key) for layer in before], key
