"""What a liar changes of the energies by other methods than time, or of a replay pass, is found."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgejoule.dataset.checks import check_tables
from edgejoule.dataset.findings import ERROR, NOTE
from edgejoule.dataset.verify import verify_run
from edgejoule.files import files_below
from tests.support_attribution import PLAN, build_attributed, drawn_mw
from tests.support_dataset import reseal
from tests.support_edit import double, drop, edit_json, edit_table, exchange, put, swap


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = build_attributed(tmp_path_factory.mktemp("attributed"))
    assert verify_run(run).findings == ()
    return run


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / whole.name))


def found_in(run, file):
    return [item.problem for item in verify_run(run).findings if item.file == file]


def row_of(run, **wanted):
    """The number of the row of `energy.parquet` that is so."""
    rows = pq.read_table(run / "energy.parquet").to_pylist()
    (number,) = (
        number
        for number, row in enumerate(rows)
        if all(row[key] == value for key, value in wanted.items())
    )
    return number


def test_the_energies_that_are_held_are_those_of_the_layers_alone(whole):
    rows = pq.read_table(whole / "energy.parquet").to_pylist()
    for layer, ns in enumerate(PLAN.layer_ns):
        number = row_of(whole, method="replay", rail="VDD_A", kind="layer", layer=layer)
        assert rows[number]["dynamic_mj"] == pytest.approx(drawn_mw(PLAN, 0, layer) * ns * 1e-9)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop(5), "has 23 segments, measure.json says 24"),
        (swap(2, 5), "starts before the segment before it ends (row 3"),
        (double(3), "starts before the segment before it ends (row 4"),
        (put("end_ns", 4, 0), "ends no later than it starts (row 4)"),
        (put("start_ns", 0, 1), "outside of phase replay (row 0)"),
        (put("layer", 0, 1), "a layer or copies that its kind has not (row 0)"),
        (put("layer", 2, None), "a layer or copies that its kind has not (row 2)"),
        (put("copies", 2, 2), "a layer or copies that its kind has not (row 2)"),
        (put("copies", 6, 0), "a layer or copies that its kind has not (row 6)"),
        (put("layer", 2, 3), "a layer that engine.json lacks (row 2)"),
        (put("iterations", 2, 0), "repeats nothing, or idles with something to do (row 2)"),
        (put("iterations", 0, 4), "repeats nothing, or idles with something to do (row 0)"),
        (put("round", 0, -1), "has a negative round or number of executions (row 0)"),
        (put("kind", 0, "sleep"), "has an unknown kind 'sleep' (row 0)"),
    ],
)
def test_a_lie_in_a_segment_is_found_in_its_row(run, change, says):
    edit_table(run, "replay", change)
    reseal(run)
    found = found_in(run, "replay.parquet")
    assert any(says in problem for problem in found), found


def test_segments_are_held_against_the_plan(run):
    edit_json(run / "measure.json", lambda said: said["replay"].update(groups=[[0], [2]]))
    reseal(run)
    (problem, *_) = found_in(run, "replay.parquet")
    assert problem.startswith("a layer alone that stands for no group of measure.json (row 3")
    edit_json(run / "measure.json", lambda said: said["replay"].update(groups=[[0], [1], [2], [4]]))
    reseal(run)
    assert "layer 4 was never repeated" in found_in(run, "replay.parquet")[0]


@pytest.mark.parametrize("column", ["gross_mj", "dynamic_mj", "scaled_gross_mj", "alone_ms"])
def test_an_energy_that_moves_between_layers_is_found(run, column):
    first = row_of(run, method="replay", rail="VDD_A", kind="layer", layer=0)
    edit_table(run, "energy", exchange(column, first, first + 1))
    reseal(run)
    (problem, _) = found_in(run, "energy.parquet")
    assert problem.startswith(f"{column} of layer 0 (replay on VDD_A) is")


def test_a_method_that_is_left_out_is_found(run):
    def leave(columns):
        kept = [number for number, name in enumerate(columns["method"]) if name != "replay"]
        return {key: [values[number] for number in kept] for key, values in columns.items()}

    edit_table(run, "energy", leave)
    reseal(run)
    assert any("the summary says" in problem for problem in found_in(run, "energy.parquet"))


def ungrouped(run, **changes):
    """Make the layers 0 and 2 of replay on VDD_A one group without numbers of their own."""

    def change(columns):
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(),
                strict=True)]  # fmt: skip
        own = [row for row in rows if (row["method"], row["rail"]) == ("replay", "VDD_A")]
        members = [row for row in own if row["layer"] in (0, 2)]
        sums = {
            key: sum(row[key] for row in members) for key in ("gross_mj", "dynamic_mj", "time_ms")
        }
        group = {**dict.fromkeys(columns), "method": "replay", "rail": "VDD_A", "kind": "group",
                 "group": 0, "n": 1, "resolved": False, "why": "alike", **sums}  # fmt: skip
        for row in members:
            energies = [key for key in row if key.endswith("_mj")]
            row.update(dict.fromkeys(energies), resolved=False, group=0, why="alike")
        for row in [*members, group]:
            row.update(changes.get(f"{row['kind']}_{row['layer']}", {}))
        rows.insert(rows.index(own[3]), group)
        return {key: [row[key] for row in rows] for key in columns}

    edit_table(run, "energy", change)
    # Without the summary of methods the rows are held among themselves alone.
    said = json.loads((run / "run.json").read_text(encoding="utf-8"))["summary"]
    said["energy"].pop("attribution")
    reseal(run, summary=said)
    return found_in(run, "energy.parquet")


def test_layers_may_be_known_as_a_group_only(run):
    assert ungrouped(run) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layer_2": {"group": 2}}, "layer 2 is not resolved and in no group"),
        ({"layer_2": {"group": None}}, "layer 2 is not resolved and in no group"),
        ({"layer_2": {"resolved": True}}, "is resolved, and has no number"),
        ({"layer_2": {"why": None}}, "has no energy and does not say why"),
        ({"layer_2": {"dynamic_mj": 1.0}}, "has no gross_mj, but dynamic_mj"),
        ({"layer_2": {"gross_mj": 1.0}}, "has a number, and is not resolved"),
        ({"layer_2": {"gross_mj": 1.0, "resolved": True}}, "counts layers that have a number"),
        ({"group_None": {"group": 1}}, "group 1 has no layer"),
        ({"group_None": {"group": None}}, "a row of kind group names none"),
        ({"group_None": {"gross_mj": 1.0}}, "layers, groups and gap add up to"),
        ({"layer_0": {"group": 2}, "layer_2": {"group": 2}, "group_None": {"group": 2}},
         "group 2 is not the smallest of its layers"),
    ],
)  # fmt: skip
def test_a_group_that_makes_no_sense_is_found(run, changes, says):
    found = ungrouped(run, **changes)
    assert any(says in problem for problem in found), found


def test_what_the_summary_says_of_a_method_follows_from_its_rows(run):
    said = json.loads((run / "run.json").read_text(encoding="utf-8"))["summary"]
    replay = said["energy"]["attribution"]["replay"]["VDD_A"]
    lies = {"dynamic": 0.99, "other_rule": None, "missing_layers": 3, "interval_gross": [0.9, 1.1]}
    for key, value in lies.items():
        changed = json.loads(json.dumps(said))
        changed["energy"]["attribution"]["replay"]["VDD_A"]["closure"][key] = value
        reseal(run, summary=changed)
        (problem,) = found_in(run, "run.json")
        assert f"{key} is {value}, the tables give" in problem
    assert replay["closure"]["dynamic"] == pytest.approx(0.93, abs=0.02)
    changed = json.loads(json.dumps(said))
    changed["energy"]["duplication"][0]["slope_mj"] *= 1.01
    reseal(run, summary=changed)
    assert found_in(run, "run.json") == [
        "summary.energy.duplication does not follow from the tables"
    ]
    changed = json.loads(json.dumps(said))
    changed["energy"]["accuracy"] = {"VDD_A": {"gain_rel": 0.0}}
    reseal(run, summary=changed)
    assert found_in(run, "run.json") == [
        "summary.energy.accuracy is not what is known of the sensor"
    ]
    changed = json.loads(json.dumps(said))
    changed["energy"]["rails"]["VDD_A"]["clean"]["gross_mj"] *= 1.01
    reseal(run, summary=changed)
    assert "gross_mj of pass clean is 5.05" in found_in(run, "run.json")[0]


def test_what_another_version_attributed_is_held_by_its_sums_alone(run):
    first = row_of(run, method="replay", rail="VDD_A", kind="layer", layer=0)
    edit_table(run, "energy", exchange("dynamic_mj", first, first + 1))
    reseal(run, versions={"edgejoule": "0.0.1"})
    (found,) = verify_run(run).findings
    assert found.severity == NOTE
    assert "was attributed by edgejoule 0.0.1" in found.problem
    edit_table(run, "energy", put("dynamic_mj", first, 9.0))
    reseal(run)
    assert any("add up to" in problem for problem in found_in(run, "energy.parquet"))


LENIENT = {("replay", "round")}  # tells rounds apart and nothing else


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_value_of_the_new_tables_that_is_changed_is_found(whole, data):
    table = data.draw(st.sampled_from(["energy", "replay"]))
    columns = pq.read_table(whole / f"{table}.parquet").to_pydict()
    names = [name for name in columns if (table, name) not in LENIENT]
    column = data.draw(st.sampled_from(names))
    row = data.draw(st.integers(0, len(columns[column]) - 1))
    old = columns[column][row]
    # The trace is flat while it idles: where such a segment ends changes no figure.
    assume(table != "replay" or not column.endswith("_ns") or columns["kind"][row] != "idle")
    new = data.draw(another(column, old, columns[column]))
    path = whole / f"{table}.parquet"
    raw = path.read_bytes()
    try:
        edit_table(whole, table, put(column, row, new))
        run = json.loads((whole / "run.json").read_text(encoding="utf-8"))
        sound = set(files_below(whole)) - {"run.json"}
        found = [item for item in check_tables(whole, run, sound) if item.severity == ERROR]
    finally:
        path.write_bytes(raw)
    assert found, (table, column, row, old, new)


def another(column, old, values):
    """Some other value that the column may hold."""
    nullable = column not in ("method", "rail", "kind", "n", "copies", "start_ns", "end_ns",
                              "iterations")  # fmt: skip
    if isinstance(old, bool):
        return st.sampled_from([not old, None])
    if isinstance(old, str) or (old is None and column == "why"):
        others = {value for value in values if value is not None} | {"other"}
        choices = sorted(others - {old}) + ([None] if nullable and old is not None else [])
        return st.sampled_from(choices)
    if old is None:
        return st.just(True if column == "resolved" else 1)
    if isinstance(old, int):
        step = 1_000_000 if column.endswith("_ns") else 1
        return st.sampled_from([old + step, old - step, *([None] if nullable else [])])
    return st.sampled_from([old * 1.001 + 1e-4, -old - 1.0, None])
