"""Logs of tegrastats: read, added up, written as tables, and the verb that does it."""

from __future__ import annotations

import argparse
import csv
import errno
import io
import json
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.cli import power_tegrastats
from edgejoule.dataset import tegrastats_log, tegrastats_tables
from edgejoule.dataset.tegrastats_log import read_log, summarise_log
from edgejoule.errors import EdgejouleError, MeasurementError, UsageError, run_command
from edgejoule.power.boards import total_rails

OLD = "RAM 10/20MB (lfb 1x4MB) CPU [5%@100,off] GR3D_FREQ 7%@76 GPU@30C POM_5V_IN {}/1"


def new(second: int, power_mw: int, tail: str = "") -> str:
    return (
        f"01-02-2024 10:00:{second:02d} RAM 10/20MB (lfb 1x4MB) CPU [5%@100,off] EMC_FREQ 1%@[4,5] "
        f"gpu@-256C cpu@40.5C/41C VDD_IN {power_mw}mW/1mW VDD_CPU_GPU_CV 300mW/1mW "
        f"VDD_SOC 200mW/1mW{tail}"
    )


def log_of(folder: Path, *lines: str, end: str = "\n") -> Path:
    path = folder / "log.txt"
    path.write_text("\n".join(lines) + end, encoding="utf-8")
    return path


def verb(*words: str) -> int:
    parser = argparse.ArgumentParser()
    power_tegrastats.add_parser(parser.add_subparsers(dest="verb"))
    arguments = parser.parse_args(["tegrastats", *words])
    return run_command(lambda: power_tegrastats.run(arguments))


def test_lines_keep_their_numbers_and_blank_ones_are_no_lines(tmp_path: Path) -> None:
    path = log_of(tmp_path, "", new(0, 1000), "$ stop", "", new(1, 2000))
    lines = list(read_log(path))
    assert [(line.number, line.sample is not None) for line in lines] == [
        (2, True),
        (3, False),
        (5, True),
    ]
    assert lines[1].error == "no line of tegrastats: '$ stop'"
    assert [line.t_s_nominal for line in lines] == [None, None, None]


def test_a_stated_interval_gives_nominal_times_from_the_first_line_on(tmp_path: Path) -> None:
    path = log_of(tmp_path, "$ tegrastats", OLD.format(1000), "???", "", OLD.format(3000))
    times = [line.t_s_nominal for line in read_log(path, 250)]
    assert times == [None, 0.0, 0.25, 0.5]  # the broken line took its interval too
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="interval"):
            list(read_log(path, wrong))


def test_without_wall_times_nothing_is_invented(tmp_path: Path) -> None:
    path = log_of(tmp_path, OLD.format(1000), OLD.format(3000))
    summary = summarise_log(path)
    assert (summary.clock, summary.no_clock) == ("", "line 1 has no wall time")
    assert (summary.first_time, summary.nominal_s) == (None, None)
    (rail,) = summary.rails
    assert (rail.name, rail.lines, rail.mean_mw) == ("POM_5V_IN", 2, 2000.0)
    assert (rail.energy_mj, rail.seconds) == (None, None)


def test_energy_by_the_stated_interval(tmp_path: Path) -> None:
    path = log_of(tmp_path, OLD.format(1000), OLD.format(3000), OLD.format(2000))
    summary = summarise_log(path, 500, lambda rails: rails)
    rail, total = summary.rails
    assert rail.energy_mj == pytest.approx(0.5 * (1000 + 3000) / 2 + 0.5 * (3000 + 2000) / 2)
    assert (rail.seconds, total.energy_mj, total.name) == (1.0, rail.energy_mj, "total")
    assert (summary.clock, summary.nominal_s, summary.totals) == (
        "interval",
        1.0,
        (("POM_5V_IN",),),
    )


def test_energy_by_wall_times_takes_the_mean_of_each_second(tmp_path: Path) -> None:
    lines = [new(0, 1000), new(0, 3000), new(1, 4000), new(3, 6000)]
    summary = summarise_log(log_of(tmp_path, *lines), total_of=total_rails)
    rails = {rail.name: rail for rail in summary.rails}
    assert rails["VDD_IN"].energy_mj == pytest.approx((2000 + 4000) / 2 + 2 * (4000 + 6000) / 2)
    assert rails["VDD_IN"].mean_mw == 3500
    assert rails["VDD_SOC"].energy_mj == pytest.approx(600)
    assert rails["total"] == rails["VDD_IN"].__class__(
        "total", 4, 3500, rails["VDD_IN"].energy_mj, 3.0
    )
    assert summary.clock == "wall times"
    assert summary.last_time == datetime(2024, 1, 2, 10, 0, 3)
    assert summary.off_sensors == ("gpu",)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([new(2, 1), new(1, 1), new(3, 1)], "the wall time goes back at line 2"),
        ([new(2, 1), new(2, 1)], "all lines have the same wall time"),
        ([new(2, 1), OLD.format(1)], "line 2 has no wall time"),
    ],
)
def test_wall_times_that_give_no_energy(tmp_path: Path, lines: list[str], why: str) -> None:
    summary = summarise_log(log_of(tmp_path, *lines))
    assert (summary.no_clock, summary.clock) == (why, "")
    assert {rail.energy_mj for rail in summary.rails} == {None}


def test_a_rail_that_comes_and_goes(tmp_path: Path) -> None:
    lines = [new(0, 1000), new(1, 1000, " X 5mW/5mW"), new(2, 1000, " X 7mW/5mW"), new(3, 1000)]
    rails = {rail.name: rail for rail in summarise_log(log_of(tmp_path, *lines)).rails}
    assert (rails["X"].lines, rails["X"].energy_mj, rails["X"].seconds) == (2, 6.0, 1.0)
    lines = [new(0, 1000), new(1, 1000, " X 5mW/5mW")]
    rails = {rail.name: rail for rail in summarise_log(log_of(tmp_path, *lines)).rails}
    assert (rails["X"].energy_mj, rails["X"].seconds) == (None, None)  # one time is no stretch


def test_columns_are_those_of_all_lines_and_things_stay_together(tmp_path: Path) -> None:
    path = log_of(tmp_path, OLD.format(1), new(0, 1), "RAM 1/2MB CPU [off,3%] FOO bar")
    columns = [column.header for column in summarise_log(path).columns]
    assert columns == [
        "memory.RAM.used_mib",
        "memory.RAM.total_mib",
        "memory.RAM.largest_blocks",
        "memory.RAM.largest_block_mib",
        "cpu.0.load_percent",
        "cpu.0.clock_mhz",
        "cpu.0.off",
        "cpu.1.off",
        "cpu.1.load_percent",
        "engine.GR3D_FREQ.load_percent",
        "engine.GR3D_FREQ.clock_mhz",
        "engine.EMC_FREQ.load_percent",
        "engine.EMC_FREQ.clock_0_mhz",
        "engine.EMC_FREQ.clock_1_mhz",
        "temperature.GPU.now_c",
        "temperature.cpu.now_c",
        "temperature.cpu.max_c",
        "temperature.gpu.off",
        "rail.POM_5V_IN.power_mw",
        "rail.POM_5V_IN.mean_mw",
        "rail.VDD_IN.power_mw",
        "rail.VDD_IN.mean_mw",
        "rail.VDD_CPU_GPU_CV.power_mw",
        "rail.VDD_CPU_GPU_CV.mean_mw",
        "rail.VDD_SOC.power_mw",
        "rail.VDD_SOC.mean_mw",
        "unknown.FOO bar.text",
    ]


def test_csv_has_a_row_per_line(tmp_path: Path) -> None:
    lines = ["?", new(0, 1000), new(1, 2000, " FOO VIN -3mW/4mW/5mW SWAP 1/2kB (cached 1kB)")]
    output = tmp_path / "out.csv"
    assert verb(str(log_of(tmp_path, *lines)), "-o", str(output)) == 0
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["line"], row["wall_time"]) for row in rows] == [
        ("2", "2024-01-02T10:00:00"),
        ("3", "2024-01-02T10:00:01"),
    ]
    assert "t_s_nominal" not in rows[0]
    assert not [name for name in rows[0] if "unknown" in name]
    assert rows[0]["rail.VIN.power_mw"] == ""
    assert rows[1]["rail.VIN.power_mw"] == "-3"
    assert (rows[1]["rail.VIN.mean_mw"], rows[1]["rail.VIN.max_mw"]) == ("4", "5")
    assert rows[1]["memory.SWAP.cached_mib"] == "0.0009765625"
    assert (rows[0]["cpu.1.off"], rows[0]["cpu.0.load_percent"]) == ("1", "5")
    assert (rows[0]["temperature.cpu.now_c"], rows[0]["temperature.gpu.off"]) == ("40.5", "1")


def test_parquet_has_a_row_per_figure(tmp_path: Path) -> None:
    path = log_of(tmp_path, OLD.format(1000), OLD.format(3000) + " FOO")
    output = tmp_path / "out.parquet"
    assert verb(str(path), "-o", str(output), "--interval", "100", "--board", "nano") == 0
    table = pq.read_table(output)
    assert table.column_names == [
        *("line", "wall_time", "t_s_nominal", "kind", "name", "quantity", "unit", "value")
    ]
    rows = table.to_pylist()
    first = [tuple(row.values()) for row in rows if row["line"] == 1]
    assert first == [
        (1, None, 0.0, "memory", "RAM", "used", "MiB", 10.0),
        (1, None, 0.0, "memory", "RAM", "total", "MiB", 20.0),
        (1, None, 0.0, "memory", "RAM", "largest_blocks", "", 1.0),
        (1, None, 0.0, "memory", "RAM", "largest_block", "MiB", 4.0),
        (1, None, 0.0, "cpu", "0", "load", "percent", 5.0),
        (1, None, 0.0, "cpu", "0", "clock", "MHz", 100.0),
        (1, None, 0.0, "cpu", "1", "off", "", 1.0),
        (1, None, 0.0, "engine", "GR3D_FREQ", "load", "percent", 7.0),
        (1, None, 0.0, "engine", "GR3D_FREQ", "clock", "MHz", 76.0),
        (1, None, 0.0, "temperature", "GPU", "now", "degC", 30.0),
        (1, None, 0.0, "rail", "POM_5V_IN", "power", "mW", 1000.0),
        (1, None, 0.0, "rail", "POM_5V_IN", "mean", "mW", 1.0),
    ]
    assert tuple(rows[-1].values()) == (2, None, 0.1, "unknown", "FOO", "text", "", None)
    facts = json.loads(table.schema.metadata[b"edgejoule"])
    assert facts == {
        "source": "tegrastats",
        "interval_ms": 100.0,
        "lines": 2,
        "broken_lines": 0,
        "board": "nano",
    }


def test_parquet_is_written_in_batches_and_keeps_wall_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tegrastats_tables, "_BATCH_LINES", 2)
    path = log_of(tmp_path, *(new(second, 1000 + second) for second in range(5)))
    output = tmp_path / "out.parquet"
    assert verb(str(path), "-o", str(output)) == 0
    table = pq.read_table(output)
    assert pq.read_metadata(output).num_row_groups == 3
    assert "t_s_nominal" not in table.column_names
    powers = [
        (row["wall_time"].second, row["value"])
        for row in table.to_pylist()
        if (row["name"], row["quantity"]) == ("VDD_IN", "power")
    ]
    assert powers == [(second, 1000.0 + second) for second in range(5)]


def test_a_log_that_grows_is_taken_as_it_was_when_it_was_read(tmp_path: Path) -> None:
    path = log_of(tmp_path, new(0, 1), new(1, 1))
    summary = summarise_log(path)
    with path.open("a") as file:
        file.write(new(2, 1, " LATE 1mW/1mW") + "\n")
    assert tegrastats_tables.write_csv(path, tmp_path / "x.csv", summary, None) == 2
    assert tegrastats_tables.write_parquet(path, tmp_path / "x.parquet", summary, None) == 2 * 19
    path.write_text(new(0, 1, " LATE 1mW/1mW") + "\n")  # another log under the same name
    assert tegrastats_tables.write_csv(path, tmp_path / "y.csv", summary, None) == 1


def test_lines_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tegrastats_log, "LONGEST_LINE", 400)
    path = log_of(tmp_path, new(0, 1), "x" * 900, new(1, 2), "y" * 1000, end="")
    found = [(line.number, line.error, line.ended) for line in read_log(path)]
    too_long = "longer than 400 bytes"
    assert found == [(1, "", True), (2, too_long, True), (3, "", True), (4, too_long, False)]
    assert summarise_log(log_of(tmp_path, new(0, 1), end="")).cut_end
    assert not summarise_log(log_of(tmp_path, new(0, 1))).cut_end


def test_marks_of_other_systems(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"\xef\xbb\xbf" + new(0, 5).encode() + b"\r\n\r\n\xff\xfe\n" + b"\n")
    lines = list(read_log(path))
    assert [line.number for line in lines] == [1, 3]
    assert lines[0].sample is not None
    assert lines[0].sample.wall_time == "01-02-2024 10:00:00"
    assert lines[0].sample.unknown == ()


def test_broken_lines_are_named_and_do_not_stop_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = log_of(tmp_path, *("bad",) * 12, new(0, 1000), new(2, 2000), end="")
    assert verb(str(path), "-o", str(tmp_path / "o.csv")) == 0
    out = capsys.readouterr().out
    assert f"{path}: 2 lines of tegrastats, 12 broken" in out
    assert "  line 1: no line of tegrastats: 'bad'" in out
    assert "line 11" not in out
    assert "  and 2 more" in out
    assert "may be cut" in out
    assert "wall times 2024-01-02 10:00:00 to 2024-01-02 10:00:02 (local, whole seconds)" in out
    assert "temperature sensors that were off: gpu" in out
    assert "VDD_IN                  1.500      3.000       2" in out
    assert "total                   1.500      3.000       2\ntotal = VDD_IN\n" in out
    assert "energy over 2 s by the wall times, each known to 1 s only" in out
    assert "2 rows" in out


def test_only_broken_lines_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "o.csv"
    assert verb(str(log_of(tmp_path, "", "bad")), "-o", str(output)) == 1
    assert "(line 2: no line of tegrastats: 'bad'); give what" in capsys.readouterr().err
    assert verb(str(log_of(tmp_path, "", "")), "-o", str(output)) == 1
    assert "(it is empty)" in capsys.readouterr().err
    assert not output.exists()
    with pytest.raises(MeasurementError):
        summarise_log(log_of(tmp_path, "bad"), 100)


def test_what_is_printed_of_other_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = iter(str(tmp_path / f"{number}.csv") for number in range(9))
    path = log_of(tmp_path, OLD.format(1000), OLD.format(3000) + " FOO bar NC 1/1")
    assert verb(str(path), "-o", next(output)) == 0
    out = capsys.readouterr().out
    assert "no energy: line 1 has no wall time; give --interval MS as tegrastats was" in out
    assert "not understood in 1 lines: FOO bar" in out
    assert "POM_5V_IN               2.000          -       2" in out
    assert "NC" not in out
    assert "no total" in out
    assert "wall times" not in out
    assert verb(str(path), "-o", next(output), "--interval", "1000") == 0
    out = capsys.readouterr().out
    assert "POM_5V_IN               2.000      2.000       2" in out
    assert "energy over 1 s, if a line came every interval" in out
    path = log_of(tmp_path, "RAM 1/2MB CPU [1%]")
    assert verb(str(path), "-o", next(output)) == 0
    assert "no rail in any line: on some boards tegrastats shows them to root" in (
        capsys.readouterr().out
    )


def test_an_interval_that_does_not_fit_the_wall_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = log_of(tmp_path, *(new(second, 1000) for second in range(0, 50, 5)))
    assert verb(str(path), "-o", str(tmp_path / "a.csv"), "--interval", "5000") == 0
    assert "but the wall" not in capsys.readouterr().out
    assert verb(str(path), "-o", str(tmp_path / "b.csv"), "--interval", "1000") == 0
    out = capsys.readouterr().out
    assert "but the wall times span 45 s and not 9 s: check --interval, or leave it out" in out


def test_stdin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = io.BytesIO(log_of(tmp_path, new(0, 1000), new(1, 1000)).read_bytes())
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=data))
    assert verb("-", "-o", str(tmp_path / "o.csv")) == 0
    assert "stdin: 2 lines of tegrastats, 0 broken" in capsys.readouterr().out


def test_a_board_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agx = "RAM 1/2MB CPU [1%] VDD_GPU_SOC 100mW/1mW VDD_CPU_CV 20mW/1mW VIN_SYS_5V0 3mW/1mW"
    path = log_of(tmp_path, agx, "RAM 1/2MB CPU [1%] VDD_GPU_SOC 7mW/1mW")
    words = [str(path), "--interval", "1000", "-o"]
    assert verb(*words, str(tmp_path / "a.csv"), "--board", "agx orin") == 0
    out = capsys.readouterr().out
    assert "total                   0.123          -       1" in out
    assert "total = VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0" in out
    assert verb(*words, str(tmp_path / "b.csv"), "--board", "Jetson Nano") == 0
    assert "no total" in capsys.readouterr().out
    assert verb(*words, str(tmp_path / "c.csv"), "--board", "toaster") == 2
    err = capsys.readouterr().err
    assert "--board toaster: no board that is known here; give one of Jetson" in err
    assert not (tmp_path / "c.csv").exists()


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = log_of(tmp_path, new(0, 1))
    there = tmp_path / "there.csv"
    there.write_text("mine")
    for output, why in (
        (str(there), "is there already"),
        (str(tmp_path / "o.txt"), "name it .parquet or .csv"),
        (str(tmp_path / "no" / "o.csv"), "there is no folder"),
    ):
        assert verb(str(path), "-o", output) == 2
        assert why in capsys.readouterr().err
    assert there.read_text() == "mine"
    assert verb(str(tmp_path / "none.txt"), "-o", str(tmp_path / "o.csv")) == 2
    assert "cannot be read (No such file or directory)" in capsys.readouterr().err
    assert verb(str(tmp_path), "-o", str(tmp_path / "o.csv")) == 2
    assert verb(str(path), "-o", str(tmp_path / "o.csv"), "--interval", "0") == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log.txt", "there.csv"]


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_words: object, **_named: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    path = log_of(tmp_path, new(0, 1))
    assert verb(str(path), "-o", str(tmp_path / "o.csv")) == 2
    assert "cannot be written (Permission denied); give another --output" in capsys.readouterr().err


PIECES = st.sampled_from(
    ["\n", "\r\n", new(0, 1), new(1, 2), OLD.format(3), "x", "\0", "RAM 1/2MB"]
)


@settings(max_examples=50)
@given(st.lists(PIECES | st.text(max_size=5), max_size=12), st.sampled_from([None, 100.0]))
def test_any_log(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str], interval_ms: float | None
) -> None:
    folder = tmp_path_factory.mktemp("log")
    path = folder / "log"
    path.write_bytes("".join(pieces).encode("utf-8", "surrogatepass"))
    try:
        summary = summarise_log(path, interval_ms, total_rails)
    except EdgejouleError:
        return
    rows = tegrastats_tables.write_csv(path, folder / "o.csv", summary, interval_ms)
    assert rows == summary.understood
    count = tegrastats_tables.write_parquet(path, folder / "o.parquet", summary, interval_ms)
    assert count == pq.read_metadata(folder / "o.parquet").num_rows
    assert power_tegrastats.report("log", summary)
