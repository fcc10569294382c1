"""summary.csv and report.json: read back, hostile names, a schema, whole or not at all."""

from __future__ import annotations

import csv
import dataclasses
import errno
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.dataset.schema import json_schema, schema_problems
from edgejoule.errors import UsageError
from edgejoule.report import machine_files
from edgejoule.report.machine_files import (
    report_document,
    write_report_json,
    write_summary_csv,
)
from edgejoule.report.overview import Overview
from edgejoule.report.target import write_whole
from edgejoule.report.write import Gathered, gather
from tests import support_tables
from tests.support_dataset import Plan, build_run
from tests.support_tables import energy_row

HOSTILE = '=HYPERLINK("http://e","x")\r\n<b>,\x1b[31m\u202e\'"; \ud800'


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_a_row_is_read_back(tmp_path: Path) -> None:
    row = Overview("r", "m", batch=4, p50_ms=1.25, gross_mj=1e-7, layers=7, simulated=True,
                   marks=("SIMULATED power", "random weights"), verdict="look",
                   reasons=("a, b", "c; d"), temperature_c=-3.5)  # fmt: skip
    write_summary_csv(tmp_path / "summary.csv", [row, dataclasses.replace(row, run="s")])
    text = (tmp_path / "summary.csv").read_bytes()
    assert text.count(b"\r\n") == 3
    assert text.endswith(b"\r\n")
    first, second = read(tmp_path / "summary.csv")
    assert list(first) == [field.name for field in dataclasses.fields(Overview)]
    assert (first["run"], second["run"]) == ("r", "s")
    assert float(first["p50_ms"]) == 1.25
    assert float(first["gross_mj"]) == 1e-7
    assert first["temperature_c"] == "-3.5"  # a number stays a number
    assert first["dynamic_mj"] == first["backend"] == ""
    assert first["simulated"] == "true"
    assert first["marks"] == "SIMULATED power | random weights"
    assert first["reasons"] == "a, b | c; d"


def test_without_a_run_there_is_the_header(tmp_path: Path) -> None:
    write_summary_csv(tmp_path / "summary.csv", [])
    assert read(tmp_path / "summary.csv") == []
    assert (tmp_path / "summary.csv").read_text().startswith("run,model,backend,")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", " =", "\r=", "\uff1d", "\n@"])
def test_no_name_is_a_formula(tmp_path: Path, start: str) -> None:
    row = Overview(f"{start}cmd|' /C calc'!A0", "m", reasons=(f"{start}1",))
    write_summary_csv(tmp_path / "s.csv", [row])
    (found,) = read(tmp_path / "s.csv")
    assert found["run"].startswith("'")
    assert found["reasons"].startswith("'")


@given(st.text(), st.floats(), st.text())
def test_any_text_is_one_cell(name: str, value: float, why: str) -> None:
    fields = [field.name for field in dataclasses.fields(Overview)]
    text = io.StringIO(newline="")
    row = Overview(name, "m", p50_ms=value, reasons=(why,))
    csv.writer(text).writerow([machine_files._cell(getattr(row, field)) for field in fields])
    (cells,) = csv.reader(io.StringIO(text.getvalue(), newline=""), strict=True)
    assert len(cells) == len(fields)
    cells[0].encode("utf-8")
    assert all(cell.isprintable() for cell in cells)
    assert not cells[0].lstrip().startswith(("=", "+", "-", "@"))
    told = cells[fields.index("p50_ms")]
    assert float(told) == value if math.isfinite(value) else told == ""


@pytest.fixture
def found(tmp_path: Path) -> Gathered:
    """A run with replay, one without a sensor, and one that is damaged."""
    rows = [energy_row("replay", "VDD_IN", 0, gross_mj=1.5, dynamic_mj=1.0, resolved=True,
                       gross_statistical_mj=0.1, time_ms=0.4)]  # fmt: skip
    rows += [energy_row("replay", "VDD_IN", n, gross_mj=None, resolved=False, group=1, n=3,
                        time_ms=0.2, why="too short alone") for n in (1, 2)]  # fmt: skip
    rows.append(energy_row("replay", "VDD_IN", None, kind="group", group=1, gross_mj=2.0))
    rows.append(energy_row("replay", "VDD_IN", None, gross_mj=0.5))
    rows.append(energy_row("replay", "VDD_IN", None, kind="inference", gross_mj=4.1))
    rows.append(energy_row("replay", "VDD_IN", None, kind="closure", gross_mj=4.0))
    data = tmp_path / "data"
    support_tables.build(data, "lenet", energy=rows)
    build_run(data, Plan(model="plain", sensor="none"))
    (data / "broken").mkdir()
    (data / "broken" / "run.json").write_text("[]")
    return gather(data, series=True)


def test_report_json_holds_its_schema(found: Gathered, tmp_path: Path) -> None:
    write_report_json(tmp_path / "report.json", "data", found)
    document = json.loads((tmp_path / "report.json").read_bytes())
    assert schema_problems("report", document) == []
    assert (document["format"], document["dataset"]) == (1, "data")
    assert [run["name"] for run in document["runs"]] == ["lenet", "plain"]
    assert document["damaged"][0]["run"] == "broken"
    lenet, plain = document["runs"]
    first, second, _ = lenet["layers"]
    assert first["energy"]["gross_mj"] == 1.5
    assert first["energy"]["gross_half_mj"] == 0.1
    assert first["energy"]["resolved"] is True
    assert first["operation"] == "convolution"
    assert first["mean_ms"] == pytest.approx(0.4)
    assert second["energy"]["gross_mj"] is None
    assert (second["energy"]["group"], second["energy"]["resolved"]) == ([1, 2], False)
    assert lenet["methods"][0]["closure_gross"]["value"] == pytest.approx(4.0 / 4.1)
    parts = lenet["parts"]
    assert parts["method"] == "replay"
    assert sum(one["amount"]["gross_mj"] for one in parts["operations"]) == pytest.approx(4.0)
    assert parts["modules"][0]["total"]["gross_mj"] == pytest.approx(4.0)
    assert lenet["baselines"][0]["rails"]["VDD_IN"]["mean_mw"] == 1000.0
    assert plain["parts"] is None
    assert plain["baselines"] == []


def test_provenance_leads_back_to_the_run(found: Gathered) -> None:
    run = found.runs[0]
    said = report_document("data", found)["runs"][0]["provenance"]
    assert said["run_sha256"] == run.run["run_sha256"]
    assert said["config_sha256"] == run.run["config_sha256"]
    assert said["config"] == run.run["config"]
    assert said["files"] == {name: facts["sha256"] for name, facts in run.run["files"].items()}
    assert said["machine"] == {"cpu": "synthetic"}


def test_the_schema_names_the_fields_of_an_overview() -> None:
    told = json_schema("report")["$defs"]["overview"]["properties"]
    assert list(told) == [field.name for field in dataclasses.fields(Overview)]


@pytest.mark.parametrize(
    ("where", "value"),
    [("unfinished", "1"), ("format", 2), ("more", 1), ("runs/0/overview/p50_ms", "1.0"),
     ("runs/0/layers/0/energy/gross_mj", "1"), ("runs/0/overview/verdict", "good")],
)  # fmt: skip
def test_the_schema_can_fail(found: Gathered, where: str, value: Any) -> None:
    document = report_document("data", found)
    holder: Any = document
    *path, last = where.split("/")
    for key in path:
        holder = holder[int(key) if key.isdigit() else key]
    holder[last] = value
    assert schema_problems("report", document)


def test_hostile_text_and_numbers_that_are_none(found: Gathered, tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    run = {**found.runs[0].run, "board_id": HOSTILE, "machine": {HOSTILE: float("nan"), "d": deep}}
    runs = (dataclasses.replace(found.runs[0], run=run), found.runs[1])
    hostile = dataclasses.replace(found, runs=runs, damaged=((HOSTILE, HOSTILE),))
    write_report_json(tmp_path / "report.json", HOSTILE, hostile)
    text = (tmp_path / "report.json").read_bytes()
    assert text.isascii()
    document = json.loads(text, parse_constant=pytest.fail)
    assert document["dataset"] == document["damaged"][0]["run"] == HOSTILE
    assert document["runs"][0]["provenance"]["machine"][HOSTILE] is None
    assert schema_problems("report", document) == []


def test_the_same_runs_give_the_same_bytes(found: Gathered, tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        write_report_json(tmp_path / name, "data", found)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    target = tmp_path / "summary.csv"
    write_whole(target, b"old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "replace")), full)
    with pytest.raises(UsageError, match=r"summary\.csv \(the disk is full\); free some space"):
        write_summary_csv(target, [Overview("r", "m")])
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["summary.csv"]


def test_a_target_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="give -o DIR"):
        write_whole(tmp_path / "file" / "summary.csv", b"x")
