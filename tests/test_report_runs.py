"""Terminal and Markdown reports of synthetic runs, whole, in pieces, and with hostile names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgejoule.cli import report as command
from edgejoule.config import RunConfig
from edgejoule.errors import MeasurementError, UsageError
from edgejoule.report import markdown, sections, terminal
from edgejoule.report.tables import RunTables, list_runs, load_run
from edgejoule.report.text import markdown as escaped
from edgejoule.report.text import printable, table
from tests.support_dataset import Plan, build_run

HOSTILE = "conv|1\n`x` <b>*a*</b> [l](http://e) \x1b[31m\u202e#"


def summary(**changes: Any) -> dict[str, Any]:
    passes = {"inferences": 4, "median_ms": 1.0, "mean_ms": 1.01, "p90_ms": 1.1, "p99_ms": 1.2}
    energy = {"gross_mj": 6.5, "dynamic_mj": 5.5, "gross_statistical_mj": 0.1, "mean_mw": 6500.0}
    full = {
        "clean": {**passes, "min_ms": 0.9, "interval_mean_ms": [0.99, 1.03]},
        "profiled": {**passes, "median_ms": 1.25, "gap_ms_median": 0.1, "layers_share": 0.9},
        "profiled_over_clean": 1.25,
        "warmup": {"steady": False, "inferences": 2, "seconds": 0.5, "reason": "too short"},
        "rate": None,
        "energy": {"rail": "total", "clean": energy, "profiled": {**energy, "gross_mj": 7.5}},
        "phase_energies": {"clean": {"total": {"energy_mj": 26, "mean_mw": 6500, "seconds": 4e-3}}},
        "memory": {"setup_peak_rss_mib": 100.5, "measure_peak_rss_mib": None},
        "sampler": {"sweeps": 10, "rate_hz": 151.5, "nested": {}},
        "notes": ["a note"],
    }
    return full | changes


def edit(run: Path, **changes: Any) -> None:
    path = run / "run.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def edit_engine(run: Path, **fields: Any) -> None:
    path = run / "engine.json"
    engine = json.loads(path.read_text())
    engine["layers"][1] |= fields
    path.write_text(json.dumps(engine))


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A run whose board has the rail `total`."""
    plan = Plan(rails=(("total", 1300), ("VDD_A", 1000)))
    run = build_run(tmp_path / "data", plan, name="lenet")
    edit(run, summary=summary())
    return run


def test_layers_of_a_run(whole: Path) -> None:
    run = load_run(whole)
    assert [layer.name for layer in run.slowest(2)] == ["layer0", "layer1"]
    first = run.layers[0]
    assert first.executions == 6
    assert first.median_ms == pytest.approx(0.4)
    assert first.share == pytest.approx(0.4)
    assert first.energy is not None
    assert first.energy.gross_mj == pytest.approx(5 * 1.3 * 0.4)
    assert run.missing == ()
    assert run.marks == ()


def test_terminal(whole: Path) -> None:
    edit_engine(whole, module_path="features.1")
    run = load_run(whole)
    text = terminal.run_text(run)
    assert "Slowest 3 of 3 layers" in text
    assert "mJ (proportional to time)" in text
    assert re.search(r"2\s+layer1\s+Conv\s+features.1\s+0.3\s+30.0\s+1.95", text)
    last = terminal.totals_line(run)
    assert last == (
        "lenet: clean 1 median, 1.1 p90, 1.2 p99 ms; profiled/clean 1.250; 6.5 +- 0.1 mJ gross, "
        "5.5 mJ dynamic per inference, 6.5 W mean; 4 clean + 4 profiled inferences"
    )
    assert "note: a note" in text
    assert "simulated" not in text.lower()


def test_simulated_and_random_stand_with_every_figure(whole: Path) -> None:
    edit(whole, simulated=True, weights="random", status="failed", shared_gpu=True)
    run = load_run(whole)
    last = terminal.totals_line(run)
    for figure in ("6.5 +- 0.1 mJ gross", "5.5 mJ dynamic", "6.5 W mean"):
        assert f"SIMULATED {figure}" in last
    assert last.endswith("[FAILED] [SIMULATED power] [random weights] [shared GPU]")
    assert "mJ (proportional to time, simulated)" in terminal.layer_table(run)
    page = markdown.report("data", [run])
    for line in page.splitlines():
        if re.search(r"\bm?[JW]\b", line.replace("\\", "")) and "|" in line:
            row_is_marked = "simulated" in line.lower()
            assert row_is_marked or header_of(page, line).count("simulated") >= 1, line


def header_of(page: str, row: str) -> str:
    lines = page.splitlines()
    place = lines.index(row)
    while not lines[place].startswith("| ---"):
        place -= 1
    return lines[place - 1]


def test_markdown_has_all_parts(whole: Path) -> None:
    page = markdown.report("data", [load_run(whole)], [("bad|run", "why")], 2)
    for part in (
        "# edgejoule: data",
        "| [lenet](#lenet) | onnxruntime | float32 | 1 | 1.2 | 1.250 | 6.5 mJ | 5.5 mJ | 6.5 W |",
        "- bad\\|run: why",
        "2 cut off",
        "0.99 to 1.03",
        "Layers make up 90.0 % of a profiled inference",
        "| profiled | total | 7.5 ± 0.1 mJ |",
        "*proportional to time*",
        "mJ (proportional to time)",
        "| clean | total | 0.00 | 26 mJ | 6.5 W |",
        "| loaded, before | total | 1 W | 100 |",
        "Warm-up: NOT steady, 2 inferences, 0.5 s (too short)",
        "Sampler: sweeps 10; rate\\_hz 151.5",
        "Memory: set-up process 100 MiB",
        "--model lenet --backend onnxruntime --dtype float32",
    ):
        assert part in page, part
    assert "simulated" not in page


def test_phases_stand_in_their_order(whole: Path) -> None:
    cell = {"total": {"energy_mj": 1.0, "mean_mw": 1.0, "seconds": 1.0}}
    names = ["a_new_one", "clean", "idle_after", "idle_before"]
    edit(whole, summary=summary(phase_energies=dict.fromkeys(names, cell)))
    text = sections.section(load_run(whole)).split("Phases:")[1].split("Idle power:")[0]
    found = re.findall(r"^\| ([a-z\\_]+) \| total", text, re.M)
    assert [name.replace("\\", "") for name in found] == [
        "idle_before",
        "clean",
        "idle_after",
        "a_new_one",
    ]


def test_board_without_total(tmp_path: Path) -> None:
    run_path = build_run(tmp_path, Plan())
    rails = {"VDD_A": {"clean": {"gross_mj": 2000.0, "mean_mw": 100}}, "VDD_B": {"clean": None}}
    edit(run_path, summary=summary(energy={"rail": None, "rails": rails}))
    run = load_run(run_path)
    assert "total is not known" in terminal.totals_line(run)
    assert "mJ (" not in terminal.layer_table(run)
    assert "| clean | VDD\\_A | 2 J | - | 100 mW |" in sections.section(run)


def test_rate_pass(whole: Path) -> None:
    rate = {
        "rate_hz": 30.0,
        "frames": 90,
        "missed_deadlines": 2,
        "busy_share": 0.25,
        "energy": {"total": {"gross_mj_per_frame": 12.5, "mean_mw": 10, "between_frames_mw": 5}},
    }
    edit(whole, summary=summary(rate=rate), simulated=True)
    text = sections.section(load_run(whole))
    assert "Rate pass at 30 Hz, 90 frames, 2 deadlines missed, busy 25.0 % of the time" in text
    assert "gross per frame (simulated)" in text
    assert "| total | 12.5 mJ | 10 mW | 5 mW |" in text
    del rate["energy"]
    edit(whole, summary=summary(rate=rate))
    assert "25.0 % of the time." in sections.section(load_run(whole))


def test_without_a_sensor_nothing_is_missing(tmp_path: Path) -> None:
    path = build_run(tmp_path, Plan(sensor="none"))
    edit(path, summary=summary(energy={"why": "no sensor <here>"}, phase_energies=None))
    run = load_run(path)
    assert run.missing == ()
    assert "no energy: no sensor <here>" in terminal.totals_line(run)
    assert "Energy: none, no sensor \\<here\\>." in sections.section(run)


@pytest.mark.parametrize("name", ["engine.json", "idle.json", "layers.parquet",
                                  "inferences.parquet", "energy.parquet"])  # fmt: skip
@pytest.mark.parametrize("damage", ["gone", "garbage"])
def test_missing_parts_say_so(whole: Path, name: str, damage: str) -> None:
    if damage == "gone":
        (whole / name).unlink()
    else:
        (whole / name).write_bytes(b"garbage \xff" * 20)
    run = load_run(whole)
    assert any(name in text for text in run.missing), run.missing
    assert f"missing: {name.replace('_', chr(92) + '_')}" in sections.section(run)
    assert f"missing: {name}" in terminal.run_text(run)


def test_foreign_columns_are_named(whole: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"layer": [1]}), whole / "layers.parquet")
    run = load_run(whole)
    assert any("no column duration_ms" in text for text in run.missing)
    assert "no layer times: " in terminal.layer_table(run)
    assert "Layers: no times were recorded." in sections.section(run)


def test_engine_and_layers_may_disagree(whole: Path) -> None:
    (whole / "engine.json").write_text('{"layers": [{"index": 0, "name": "only"}, 7]}')
    names = [layer.name for layer in load_run(whole).layers]
    assert names == ["only", "layer 1", "layer 2"]


def test_energy_that_cannot_be_told_apart(whole: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = whole / "energy.parquet"
    rows = pq.ParquetFile(path).read()
    place = rows.column_names.index("resolved")
    pq.write_table(rows.set_column(place, "resolved", pa.array([False] * len(rows))), path)
    assert "not resolved" in terminal.layer_table(load_run(whole))
    assert "not resolved" in sections.section(load_run(whole))


def test_hostile_names(whole: Path) -> None:
    edit_engine(whole, name=HOSTILE, type=HOSTILE, module_path=HOSTILE)
    edit(whole, board_id=HOSTILE, summary=summary(notes=[HOSTILE]), command=["x.py", HOSTILE])
    run = load_run(whole)
    text = terminal.run_text(run)
    assert "\x1b" not in text
    assert "\u202e" not in text
    page = markdown.report(HOSTILE, [run])
    assert "\x1b" not in page
    assert "<b>" not in page.split("To repeat it:")[0]
    assert not re.search(r"(?<!\\)\]\(http", page.split("To repeat it:")[0])
    layer_rows = [line for line in page.splitlines() if "conv\\|1" in line and line[0] == "|"]
    assert len(layer_rows) == 2  # of the layers and of the modules
    for row in layer_rows:
        header = header_of(page, row)
        assert len(re.split(r"(?<!\\)\|", row)) == header.count("|") + 1


@given(st.text())
def test_printable_is_one_harmless_line(text: str) -> None:
    line = printable(text)
    assert all(char.isprintable() for char in line)
    assert len(printable(text, 12)) <= 12


@given(st.text())
def test_escaped_text_has_no_bare_markup(text: str) -> None:
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>|#]", escaped(text))


@given(st.text(alphabet="`a "))
def test_a_code_block_cannot_be_ended_from_within(text: str) -> None:
    block = sections.fenced(text)
    fence = block.splitlines()[0]
    assert fence not in block.removeprefix(fence).removesuffix(fence)


KEYS = [
    "clean",
    "profiled",
    "energy",
    "rail",
    "rails",
    "total",
    "why",
    "gross_mj",
    "mean_mw",
    "phases",
    "inferences",
    "warmup",
    "steady",
    "seconds",
    "reason",
    "notes",
    "rate",
    "rate_hz",
    "frames",
    "interval_mean_ms",
    "sampler",
    "memory",
    "phase_energies",
]
TOP = [
    "summary",
    "config",
    "machine",
    "sensor",
    "simulated",
    "weights",
    "status",
    "missing",
    "versions",
    "command",
    "board_id",
    "power_mode",
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(TOP), json_values), json_values)
def test_any_run_json_can_be_shown(run: dict[str, Any], idle: Any) -> None:
    tables = RunTables(Path("x"), run, (), idle)
    page = markdown.report("x", [tables])
    assert page.startswith("# edgejoule: x")
    assert terminal.totals_line(tables).startswith("x: ")
    if run.get("simulated", False) is not False:
        assert "SIMULATED power" in page


def test_long_names_are_shortened() -> None:
    assert printable("abcdefghij", 5) == "ab~ij"
    assert table(["a", "b"], [["1", "long"]], {0}) == "a  b\n-  ----\n1  long"


def test_repeat_command_names_every_knob() -> None:
    config = RunConfig(
        model="my net.py:make",
        backend="torch",
        dtype="float16",
        input_shape=(2, 3, 4),
        input="zeros",
        rate_hz=12.5,
        extra={"min_block_size": 3},
    )
    text = sections.repeat_command(config.to_json())
    assert text == (
        "python measure_inference_power.py --model 'my net.py:make' --backend torch "
        "--dtype float16 --weights pretrained --warmup 50 --runs 1000 --rate-hz 12.5 "
        "--idle-duration 5 --sensor none --input zeros --input-shape 2 3 4 --min-block-size 3"
    )
    assert sections.repeat_command({}) is None


def test_repeat_command_is_accepted() -> None:
    import shlex

    from edgejoule.cli.measure_inference import build_parser

    config = RunConfig(model="m", backend="torch", dtype="float16", input_shape=(1, 3))
    words = shlex.split(str(sections.repeat_command(config.to_json())))
    assert build_parser().parse_args(words[2:]).input_shape == [1, 3]


def test_command_writes_the_report(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = whole.parent
    build_run(data, Plan(model="other"))
    (data / "broken").mkdir()
    (data / "broken" / "run.json").write_text("[1, 2]")
    (data / "torn").mkdir()
    (data / "torn" / "run.json").write_text("{")
    (data / ".partial" / "cut-1").mkdir(parents=True)
    (data / ".partial" / "cut-1" / "request.json").write_text("{}")
    assert command.main([str(data)]) == 0
    page = (data / "report.md").read_text(encoding="utf-8")
    said = capsys.readouterr()
    names = ["report.html", "report.md", "report.json", "summary.csv", "figures"]
    assert said.out.splitlines() == [str(data / name) for name in names]
    assert "writing the page" in said.err
    assert all((data / name).exists() for name in names)
    assert not list(data.glob(".*.tmp"))
    assert "2 runs." in page
    assert "1 cut off" in page
    assert "- broken: " in page
    assert "- torn: " in page
    out = data.parent / "out"
    assert command.main([str(data), "-o", str(out), "--no-figures", "--quiet"]) == 0
    assert {path.name for path in out.iterdir()} == set(names) - {"figures"}
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[:2] for line in lines] == [
        ["not readable", " broken"], ["not readable", " torn"],
    ]  # fmt: skip


def test_the_report_of_one_run_does_not_touch_its_directory(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(path.name for path in whole.iterdir())
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert command.main([str(whole), "--quiet"]) == 0
    assert (here / "report.html").exists()
    assert sorted(path.name for path in whole.iterdir()) == before


def test_what_cannot_be_written_is_said(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (whole.parent / "report.html").mkdir()
    assert command.main([str(whole.parent), "--quiet"]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert not list(whole.parent.glob(".*.tmp"))


def test_command_refuses_what_is_no_dataset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(tmp_path / "none")]) == 2
    assert command.main([str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert all(line.startswith("error: ") for line in said)
    with pytest.raises(UsageError):
        list_runs(tmp_path)
    (tmp_path / "dataset.json").write_text("{}")
    assert list_runs(tmp_path) == []
    with pytest.raises(MeasurementError, match="missing"):
        load_run(tmp_path)


def test_report_that_cannot_be_written(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (whole.parent / "file").write_text("")
    assert command.main([str(whole.parent), "-o", str(whole.parent / "file" / "x")]) == 2
    assert "cannot write" in capsys.readouterr().err
