"""`measure_power.py` and `measure_idling_power.py` as a user calls them."""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgejoule.cli import measure_idling_power, measure_power
from edgejoule.dataset.schema import read_metadata, schema_problems
from edgejoule.energy.trace import rail_powers
from edgejoule.processes import PROJECT_ROOT
from tests.support_power import gone_within, make_chip, orin_nx

PYTHON = sys.executable


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    root = tmp_path / "sys"
    orin_nx(root)
    return root


def test_rails_shows_what_is_here(sysfs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure_power.main(["rails", "--sysfs-root", str(sysfs)]) == 0
    out = capsys.readouterr().out
    words = [line.split() for line in out.splitlines()]
    row = next(row for row in words if row[:3] == ["VDD_CPU_GPU_CV", "1-0040", "current"])
    assert row[3:] == ["200", "mA", "8", "curr2_input"]
    assert "  total: VDD_IN\n" in out
    assert "contains the module" in out
    assert "refresh of 1-0040: 6.6 ms" in out
    assert "VDD_SOC lies inside VDD_IN" in out
    assert "auto takes: ina3221" in out
    assert "SIMULATED" not in out


def test_rails_as_json(sysfs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["rails", "--sysfs-root", str(sysfs), "--json", "--sensor", "ina3221"]
    assert measure_power.main(words) == 0
    found = json.loads(capsys.readouterr().out)["ina3221"]
    assert [channel["value"] for channel in found["channels"]] == [5001, 100, 5002, 200, 5003, 300]
    assert found["total"]["rails"] == ["VDD_IN"]
    assert found["board"]["certain"] is False
    assert set(found["board"]["names"]) >= {"Jetson Orin Nano", "Jetson Orin NX"}


def test_rails_of_an_unknown_board(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "sys"
    directory = make_chip(root, "1-0040", ("A", "NC", "C"), shunt_uohm=None, update_interval=None)
    (directory / "in3_input").write_text("?\n")
    assert measure_power.main(["rails", "--sysfs-root", str(root)]) == 0
    out = capsys.readouterr().out
    assert "total: none" in out
    assert "board: not known" in out
    assert "docs/Boards.md" in out
    assert "left out: NC in2 on 1-0040: not connected" in out
    assert "no number" in out
    assert "refresh of 1-0040: not known" in out


def test_rails_without_and_with_the_simulated_board(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure_power.main(["rails", "--sysfs-root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "no INA3221 below" in out
    assert "looked for ina3221" in out
    assert "auto takes none" in out
    assert measure_power.main(["rails", "--sensor", "none"]) == 0
    assert measure_power.main(["rails", "--sensor", "simulated"]) == 0
    assert "SIMULATED" in capsys.readouterr().out
    assert measure_power.main(["rails", "--sensor", "ina3221", "--sysfs-root", str(tmp_path)]) == 2


def test_record_a_while_as_a_table(
    sysfs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "trace.parquet"
    words = ["record", "--duration", "0.5", "--sysfs-root", str(sysfs), "--output", str(output)]
    assert measure_power.main(words) == 0
    out = capsys.readouterr().out
    assert "total" in out
    assert "SIMULATED" not in out
    rails = rail_powers(output)
    assert set(rails["VDD_IN"].power_mw.tolist()) == {5001 * 100 / 1000}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sys", "trace.parquet"]
    assert measure_power.main(words) == 2  # it is there already


def test_record_a_command_as_text(
    sysfs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, seen = tmp_path / "trace.csv", tmp_path / "seen"
    (sysfs / "class/hwmon/hwmon0/in1_label").write_text("UNKNOWN\n")
    broken = sysfs / "class/hwmon/hwmon0/curr3_input"
    broken.unlink()
    broken.symlink_to("/proc/self/mem")
    script = f"import os,time; open({str(seen)!r},'w').write(str(dict(os.environ))); time.sleep(.3)"
    words = ["record", "--sysfs-root", str(sysfs), "--output", str(output)]
    environment = {**os.environ, "MY_TOKEN": "secret", "MINE": "kept"}
    done = subprocess.run(
        [PYTHON, str(PROJECT_ROOT / "measure_power.py"), *words, "--", PYTHON, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no total: the board is not known" in done.stdout
    assert "EIO" in done.stdout
    assert "secret" not in seen.read_text()
    assert "MINE" in seen.read_text()
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["rail"] == "UNKNOWN"
    failed = [row for row in rows if row["errno"]]
    assert {(row["rail"], row["raw"], row["errno"]) for row in failed} == {("VDD_SOC", "", "5")}
    assert {row["simulated"] for row in rows} == {"0"}


def test_record_a_command_that_fails_or_takes_too_long(
    sysfs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["record", "--sysfs-root", str(sysfs), "--output"]
    fails = [PYTHON, "-c", "raise SystemExit(3)"]
    assert measure_power.main([*base, str(tmp_path / "a.csv"), "--", *fails]) == 1
    assert "ended with status 3" in capsys.readouterr().err
    assert (tmp_path / "a.csv").is_file()
    sleeps = [PYTHON, "-c", "import time; time.sleep(60)"]
    words = [*base, str(tmp_path / "b.csv"), "--duration", "0.3", "--", *sleeps]
    assert measure_power.main(words) == 0
    assert "was ended after 0.3 s" in capsys.readouterr().out
    words = [*base, str(tmp_path / "c.csv"), "--", "/no/such/program"]
    assert measure_power.main(words) == 2
    assert "cannot run /no/such/program" in capsys.readouterr().err
    assert not (tmp_path / "c.csv").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--duration", "1", "--output", "trace.json"], "no such format"),
        (["--duration", "1", "--output", "no/folder/x.csv"], "there is no folder"),
        (["--duration", "0", "--output", "x.csv"], "give a number above 0"),
        (["--duration", "inf", "--output", "x.csv"], "give a number above 0"),
        (["--duration", "1", "--period-ms", "-3", "--output", "x.csv"], "give a number above 0"),
    ],
)
def test_wrong_words_are_refused_at_once(
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert measure_power.main(["record", "--sensor", "simulated", *words]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_record_without_a_sensor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["record", "--duration", "1", "--output", str(tmp_path / "x.csv")]
    assert measure_power.main([*words, "--sysfs-root", str(tmp_path)]) == 1
    assert "no power sensor can be read here" in capsys.readouterr().err


def recording_process(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    """Start `record` of the simulated board and wait until it samples."""
    process = subprocess.Popen(
        [PYTHON, str(PROJECT_ROOT / "measure_power.py"), "record", "--sensor", "simulated", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        files = list(tmp_path.glob(".edgejoule-*/power.bin"))
        if files and files[0].stat().st_size > 30_000:
            break
        time.sleep(0.05)
    return process


@pytest.mark.parametrize(("words", "code"), [((), 0), (("--duration", "60"), 130)])
def test_a_recording_that_is_stopped_is_whole(
    tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    output = tmp_path / "trace.parquet"
    process = recording_process(tmp_path, "--output", str(output), *words)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert "VDD_IN" in out
    assert "SIMULATED" in out
    assert len(rail_powers(output)["VDD_IN"].t_ns) > 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trace.parquet"]


def test_a_killed_recording_can_be_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = recording_process(tmp_path, "--output", str(tmp_path / "trace.csv"))
    process.kill()
    process.communicate(timeout=60)
    (left,) = tmp_path.glob(".edgejoule-*/power.bin")
    output = tmp_path / "saved.parquet"
    assert measure_power.main(["convert", str(left), "--output", str(output)]) == 0
    assert len(rail_powers(output)["VDD_IN"].t_ns) > 50
    words = ["convert", str(tmp_path / "nothing.bin"), "--output", str(tmp_path / "x.csv")]
    assert measure_power.main(words) == 2
    (tmp_path / "text.bin").write_text("no record file")
    words = ["convert", str(tmp_path / "text.bin"), "--output", str(tmp_path / "x.csv")]
    assert measure_power.main(words) == 1
    assert not (tmp_path / "x.csv").exists()
    assert "text.bin is not a record file" in capsys.readouterr().err


def test_the_attribution_rate_polls_the_total(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "trace.parquet"
    words = ["record", "--sensor", "simulated", "--duration", "1", "--attribution"]
    assert measure_power.main([*words, "--output", str(output)]) == 0
    assert "attribution polls" in capsys.readouterr().out
    rails = rail_powers(output)
    # A quarter of the refresh is the longest between two polls of the total's current.
    assert len(rails["VDD_IN"].t_ns) > 4 * len(rails["VDD_SOC"].t_ns)


def test_a_verb_without_a_command_takes_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        measure_power.main(["rails", "--", "ls"])
    assert caught.value.code == 2
    assert "runs no command" in capsys.readouterr().err


def idle(*words: str) -> int:
    return measure_idling_power.main(["--idle-duration", "1", *words])


def test_the_idle_baseline_of_the_simulated_board(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "raw_data"
    assert idle("--sensor", "simulated", "--result-dir", str(folder)) == 0
    shown = capsys.readouterr()
    assert "SIMULATED" in shown.out
    assert "measuring idle power for 1 s" in shown.err
    result = json.loads((folder / "idling_power.json").read_text())
    assert [path.name for path in folder.iterdir()] == ["idling_power.json"]
    assert (result["kind"], result["sensor"], result["simulated"]) == ("cold", "simulated", True)
    total = result["rails"]["total"]
    assert result["avg_idle_power"] == pytest.approx(1000 * total["mean_mw"])
    assert total["mean_mw"] == pytest.approx(5000, rel=0.03)  # the model's idle, drift included
    assert time.strptime(result["timestamp"], "%Y%m%d-%H%M%S")
    assert schema_problems("idle", [result]) == []
    assert idle("--sensor", "simulated", "--result-dir", str(folder), "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_the_idle_baseline_of_an_unknown_board(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "sys"
    make_chip(root, "1-0040", ("A", "B", "C"))
    folder = tmp_path / "raw_data"
    assert idle("--sysfs-root", str(root), "--result-dir", str(folder)) == 0
    result = json.loads((folder / "idling_power.json").read_text())
    assert (result["avg_idle_power"], result["total_of"]) == (None, None)
    assert result["rails"]["B"]["mean_mw"] == pytest.approx(5002 * 200 / 1000)
    assert "unknown board" in capsys.readouterr().out


def test_idle_without_a_sensor_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "raw_data"
    where = ("--sysfs-root", str(tmp_path), "--result-dir", str(folder))
    assert idle(*where) == 0
    assert "nothing measured and nothing written" in capsys.readouterr().out
    assert idle("--sensor", "none", *where) == 0
    assert idle("--sensor", "ina3221", *where) == 2
    assert idle("--sensor", "nvml", *where) == 2
    assert not folder.exists()
    assert measure_idling_power.main(["--idle-duration", "0", *where]) == 2


def test_idle_refuses_a_folder_it_cannot_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("")
    for name in ("file", "file/below", "foreign"):
        folder = tmp_path / name
        assert idle("--sensor", "simulated", "--result-dir", str(folder)) in {1, 2}
        assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_baseline_leaves_no_half_and_no_child(
    tmp_path: Path, signum: signal.Signals
) -> None:
    folder = tmp_path / "raw_data"
    words = ["--idle-duration", "60", "--sensor", "simulated", "--result-dir", str(folder)]
    process = subprocess.Popen(
        [PYTHON, str(PROJECT_ROOT / "measure_idling_power.py"), *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stderr is not None
    children: list[int] = []
    deadline = time.monotonic() + 20
    while len(children) < 2 and time.monotonic() < deadline:
        task = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        children = [int(word) for word in task.read_text().split()]
        time.sleep(0.05)
    assert len(children) == 2
    time.sleep(0.3)
    process.send_signal(signum)
    assert process.wait(20) == 130
    assert "interrupted" in process.stderr.read()
    process.stderr.close()
    assert gone_within(children, 5)
    assert list(folder.iterdir()) == []
    assert not list(tmp_path.glob("edgejoule-*"))


def test_chip_settings_are_changed_for_a_recording_and_put_back(
    sysfs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    chip = sysfs / "class" / "hwmon" / "hwmon0"
    output = tmp_path / "trace.parquet"
    words = ["record", "--sysfs-root", str(sysfs), "--duration", "0.3", "--samples", "16"]
    assert measure_power.main([*words, "--output", str(output), "--quiet"]) == 0
    shown = capsys.readouterr()
    assert "samples 1 -> 16; put back at the end" in shown.out
    settings = read_metadata(output)["configuration"]["chips"]["1-0040"]
    assert settings["samples"] == 16
    assert (chip / "samples").read_text().strip() == "1"


def test_the_gpu_of_a_sensor_is_that_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgejoule.cli import power_options
    from edgejoule.errors import UsageError
    from edgejoule.inference import backends
    from edgejoule.power import gpu_choice
    from edgejoule.power.gpus import Gpu

    asked: list[str] = []
    found = Gpu("cuda:0", 0, "GPU-1")

    def find(device: str) -> Gpu:
        asked.append(device)
        if device == "cuda:9":
            raise UsageError("no such device")
        return found

    def where(**words: object) -> str | None:
        defaults = {"device": None, "sensor": "auto", "sysfs_root": "/sys"}
        return power_options.where_of(argparse.Namespace(**{**defaults, **words})).gpu_uuid

    monkeypatch.setattr(gpu_choice, "find_gpu", find)
    monkeypatch.setattr(backends, "gpu_present", lambda: False)
    assert where() is None
    assert where(device="1") == "GPU-1"
    monkeypatch.setattr(backends, "gpu_present", lambda: True)
    assert where(sensor="rapl") is None  # CUDA is not asked for nothing
    assert asked == ["1"]
    assert where() == where(sensor="nvml,rapl") == "GPU-1"
    assert asked[1:] == ["cuda:0", "cuda:0"]
    found = Gpu("cuda:0", 0, None, why_no_uuid="NVML lists no GPU")
    with pytest.raises(UsageError, match="NVML lists no GPU"):
        where(device="0")
    monkeypatch.setattr(gpu_choice, "find_gpu", lambda _device: find("cuda:9"))
    assert where() is None  # whether NVML has one, the sensor says
