"""The campaign with stand-in commands: failures, resuming, pushes, interrupts, nothing left."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from edgejoule import plan as plan_module
from edgejoule.campaign import Campaign, Scripts, run_campaign
from edgejoule.cli import run_experiment as command
from edgejoule.errors import Interrupted, UsageError
from edgejoule.knobs import Knobs
from edgejoule.plan import Network
from edgejoule.processes import PROJECT_ROOT
from edgejoule.steps import reason_of, run_step
from edgejoule.supervision import StopFlag
from tests.test_report_progress import drain

if sys.platform == "win32":
    pytest.skip("measuring needs Linux or macOS", allow_module_level=True)

# Stands for all three commands: notes how it was called, then does as the model's name says.
STAND_IN = """
    import json, os, signal, sys, time
    from pathlib import Path
    words = sys.argv[1:]
    here = Path(__file__).parent
    token = os.environ.get("DAGSHUB_USER_TOKEN")
    pipe = os.environ.get("EDGEJOULE_TOKEN_PIPE")
    piped = os.read(int(pipe), 99).decode() if pipe else None
    with (here / "calls.jsonl").open("a") as log:
        log.write(json.dumps({"script": Path(__file__).stem, "words": words, "token": token,
                              "piped": piped, "tty": os.isatty(2), "pgid": os.getpgid(0)}) + "\\n")
    def after(flag):
        return words[words.index(flag) + 1]
    kind = Path(__file__).stem
    if kind == "data":
        print("error: server down; try again", file=sys.stderr)
        sys.exit(int((here / "data_exit").read_text()))
    dataset = Path(after("--result-dir"))
    if kind == "idle":
        (dataset / "idling_power.json").write_text("{}")
        sys.exit(0)
    model = after("--model")
    if model == "failing":
        print("\\x1b[2Kerror: failing: it broke; mend it", file=sys.stderr)
        sys.exit(2)
    if model == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if model in ("waiting", "stubborn"):
        if model == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("ready", file=sys.stderr, flush=True)
        (here / "pid").write_text(str(os.getpid()))
        time.sleep(600)
    run = dataset / model / "run.json"
    if run.exists():
        print("nothing to do", file=sys.stderr)
        sys.exit(0)
    run.parent.mkdir()
    run.write_text(json.dumps({
        "config": {"model": model}, "status": "complete", "simulated": model == "made_up",
        "weights": "random" if model == "random" else "pretrained", "summary": {}, "files": {}}))
"""


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    for name in ("measure", "idle", "data"):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(STAND_IN))
    (tmp_path / "data_exit").write_text("0")
    return Scripts(*(tmp_path / f"{name}.py" for name in ("measure", "idle", "data")))


def calls(tmp_path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]


def run(
    tmp_path: Path, scripts: Scripts, models: list[str], **changes: object
) -> tuple[int, str, Campaign]:
    said: list[str] = []
    knobs = Knobs(result_dir=tmp_path / "d", runs=7, **changes)  # type: ignore[arg-type]
    networks = [Network(name, name) for name in models]
    campaign = Campaign(knobs, networks, StopFlag(), "ina3221", scripts, said.append)
    code = run_campaign(campaign)
    return code, "\n".join(said), campaign


def test_all_good(tmp_path: Path, scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", "secret")
    code, said, _ = run(tmp_path, scripts, ["a", "b"], clean_runs=3, repeats=2, min_block_size=4)
    assert code == 0
    assert "2 of 2 networks done" in said
    assert f"Report: {tmp_path / 'd' / 'report.html'} (open it in a browser)" in said
    assert f"Next: open {tmp_path / 'd' / 'report.html'} in a browser" in said
    assert (tmp_path / "d" / "report.md").exists()
    found = calls(tmp_path)
    assert [call["script"] for call in found] == ["idle", "measure", "measure"]
    assert {(call["token"], call["piped"]) for call in found} == {(None, None)}
    assert len({call["pgid"] for call in found} | {os.getpgid(0)}) == 4
    words = " ".join(map(str, found[1]["words"]))
    for part in ("--model a --backend auto --dtype auto --weights pretrained", "--runs 7",
                 "--clean-runs 3 --min-block-size 4 --repeats 2", "--idle-duration 5"):  # fmt: skip
        assert part in words
    assert "--idle-duration 120" in " ".join(map(str, found[0]["words"]))


def test_a_report_that_cannot_be_written_costs_only_the_report(
    tmp_path: Path, scripts: Scripts
) -> None:
    (tmp_path / "d" / "report.html").mkdir(parents=True)
    code, said, campaign = run(tmp_path, scripts, ["a"])
    assert code == 1
    assert "1 of 1 networks done" in said
    assert f"cannot write {tmp_path / 'd' / 'report.html'}" in said
    assert said.splitlines()[-1].startswith("Next: ")
    assert [outcome.what for outcome in campaign.failed] == ["report"]


def test_commands_are_understood(tmp_path: Path) -> None:
    """What a campaign types is what the real commands take."""
    from edgejoule.campaign import idle_command, measure_command, push_command, verify_command
    from edgejoule.cli import data_version, measure_idling_power, measure_inference

    knobs = Knobs(
        result_dir=tmp_path, clean_runs=3, repeats=2, min_block_size=4, optimization_level=3,
        owner="me", message="a message", create_repository=True, dtype="int8",
        calibration="photos", input="frames", memory_limit_gib=3.5, cuda_graphs=True,
        energy="replay", replay_budget_s=90.0, check_attribution=2,
    )  # fmt: skip
    campaign = Campaign(knobs, [], StopFlag())
    words = measure_command(campaign, Network("a", "a", input_shape=(2, 3, 4)))[2:]
    measure = measure_inference.build_parser().parse_args(words)
    assert (measure.input_shape, measure.clean_runs, measure.idle_duration) == ([2, 3, 4], 3, 5.0)
    assert (measure.dtype, measure.calibration, measure.input) == ("int8", "photos", "frames")
    assert (measure.memory_limit_gib, measure.cuda_graphs) == (3.5, True)
    assert (measure.energy, measure.replay_budget, measure.check_attribution) == ("replay", 90, 2)
    idle = measure_idling_power.build_parser().parse_args(idle_command(campaign)[2:])
    assert idle.idle_duration == 120
    push = data_version.build_parser().parse_args(push_command(campaign, ["x", "y"])[2:])
    assert (push.runs, push.owner, push.create) == (["x", "y"], "me", True)
    data_version.build_parser().parse_args(verify_command(campaign)[2:])


def test_failing_networks_do_not_stop_the_others(tmp_path: Path, scripts: Scripts) -> None:
    code, said, campaign = run(tmp_path, scripts, ["failing", "a", "killed", "b"])
    assert code == 1
    assert [item.what for item in campaign.failed] == ["failing", "killed"]
    assert "failing: it broke; mend it" in said
    assert "killed by SIGKILL, probably by the kernel for memory" in said
    assert "2 of 4 networks done" in said
    assert "continues with what is missing" in said
    assert (tmp_path / "d" / "b" / "run.json").exists()


def test_nothing_measured_leaves_no_report(tmp_path: Path, scripts: Scripts) -> None:
    code, said, _ = run(tmp_path, scripts, ["failing"])
    assert code == 1
    assert "Report:" not in said


def test_again_continues(tmp_path: Path, scripts: Scripts) -> None:
    run(tmp_path, scripts, ["a", "failing"])
    (tmp_path / "calls.jsonl").unlink()
    before = (tmp_path / "d" / "a" / "run.json").stat().st_mtime_ns
    code, said, _ = run(tmp_path, scripts, ["a", "b"])
    assert code == 0
    assert "remove it to measure the idle baseline again" in said
    assert [call["script"] for call in calls(tmp_path)] == ["measure", "measure"]
    assert (tmp_path / "d" / "a" / "run.json").stat().st_mtime_ns == before


def test_without_a_sensor_no_idle_baseline(tmp_path: Path, scripts: Scripts) -> None:
    said: list[str] = []
    knobs = Knobs(result_dir=tmp_path / "d")
    networks = [Network("a", "a")]
    code = run_campaign(Campaign(knobs, networks, StopFlag(), "none", scripts, said.append))
    assert code == 0
    assert "No sensor" in said[0]
    assert [call["script"] for call in calls(tmp_path)] == ["measure"]


@pytest.mark.parametrize(("when", "pushes"), [("each", 2), ("end", 1), ("later", 0), ("off", 0)])
def test_when_runs_are_pushed(
    tmp_path: Path, scripts: Scripts, monkeypatch: pytest.MonkeyPatch, when: str, pushes: int
) -> None:
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", "secret")
    code, said, _ = run(tmp_path, scripts, ["a", "made_up", "random", "b"], push=when, owner="me")
    assert code == 0
    found = [call for call in calls(tmp_path) if call["script"] == "data"]
    assert len(found) == pushes
    # By the pipe alone: a variable could be read by others of the same user.
    assert {(call["token"], call["piped"]) for call in found} <= {(None, "secret")}
    assert "secret" not in json.dumps([call["words"] for call in calls(tmp_path)])
    assert said.count("stay here") == (1 if pushes else 0)
    if when == "end":
        words = " ".join(map(str, found[0]["words"]))
        assert "--owner me --run a --run b" in words
    if when == "later":
        assert "Not pushed; later: " in said
        assert "data.py push" in said.partition("Not pushed; later: ")[2]
        assert "--run a --run b" in said


def test_failed_push_fails_nothing(tmp_path: Path, scripts: Scripts) -> None:
    (tmp_path / "data_exit").write_text("4")
    code, said, campaign = run(tmp_path, scripts, ["a"], push="each", message="it's mine")
    assert code == 0
    again = campaign.unpushed[0]
    assert again.partition(" ")[2] == (
        f"data.py push --dataset {tmp_path / 'd'} --name edgejoule-raw-data --run a "
        "--commit 'it'\"'\"'s mine'"
    )
    assert "server down; try again" in said
    assert f"Next: {again}" in said


def test_result_dir_that_cannot_be(tmp_path: Path, scripts: Scripts) -> None:
    (tmp_path / "file").write_text("")
    knobs = Knobs(result_dir=tmp_path / "file" / "d")
    with pytest.raises(UsageError, match="cannot be made"):
        run_campaign(Campaign(knobs, [], StopFlag(), "none", scripts))


def test_verify_is_a_step(tmp_path: Path, scripts: Scripts) -> None:
    (tmp_path / "data_exit").write_text("1")
    knobs = Knobs(result_dir=tmp_path / "d")
    said: list[str] = []
    campaign = Campaign(knobs, [Network("a", "a")], StopFlag(), "none", scripts, said.append)
    assert run_campaign(campaign, verify=True) == 1
    assert [item.what for item in campaign.failed] == ["verify"]
    assert "1 of 1 networks done" in "\n".join(said)


DRIVER = """
    import sys
    from pathlib import Path
    from edgejoule import steps
    from edgejoule.campaign import Campaign, Scripts, run_campaign
    from edgejoule.errors import run_command
    from edgejoule.knobs import Knobs
    from edgejoule.plan import Network
    from edgejoule.supervision import stop_on_signals
    here, *models = sys.argv[1:]
    here = Path(here)
    def go():
        with stop_on_signals() as stop:
            return run_campaign(Campaign(Knobs(result_dir=here / "d"),
                [Network(m, m) for m in models], stop, "none",
                Scripts(*(here / f"{n}.py" for n in ("measure", "idle", "data")))))
    sys.exit(run_command(go))
"""


def gone(pid: int, timeout_s: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def drive(tmp_path: Path, *models: str) -> tuple[subprocess.Popen[str], int]:
    """Start a campaign in a process of its own; return it and the pid of its waiting child."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER), str(tmp_path), *models],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        start_new_session=True,
    )
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process, int((tmp_path / "pid").read_text())


needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs procfs")


@needs_proc
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt(tmp_path: Path, scripts: Scripts, signum: int) -> None:
    process, child = drive(tmp_path, "a", "waiting", "b")
    os.killpg(process.pid, signum)  # as the terminal and `docker stop` do: the whole group
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues with the rest" in err
    assert gone(child)
    assert (tmp_path / "d" / "a" / "run.json").exists()
    assert not (tmp_path / "d" / "b").exists()


@needs_proc
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells the child on Linux only")
def test_killed_campaign_leaves_no_child(tmp_path: Path, scripts: Scripts) -> None:
    process, child = drive(tmp_path, "waiting")
    process.kill()
    process.communicate(timeout=60)
    assert gone(child)


def test_child_that_does_not_listen_is_killed(tmp_path: Path, scripts: Scripts) -> None:
    words = [sys.executable, str(scripts.measure), "--model", "stubborn", "--result-dir", "."]
    stop = StopFlag()

    def raise_when_it_waits(_signum: int, _frame: object) -> None:
        if (tmp_path / "pid").exists():
            stop.signum = signal.SIGTERM

    old = signal.signal(signal.SIGALRM, raise_when_it_waits)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        result = run_step(words, os.environ, stop, grace_s=0.3)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert result.code == -signal.SIGKILL
    assert gone(int((tmp_path / "pid").read_text()))


def test_child_that_was_interrupted_ends_the_campaign(tmp_path: Path, scripts: Scripts) -> None:
    scripts.measure.write_text("import sys; sys.exit(130)")
    with pytest.raises(Interrupted):
        run(tmp_path, scripts, ["a", "b"])


def test_error_while_watching_kills_the_child(tmp_path: Path, scripts: Scripts) -> None:
    class Twice(StopFlag):
        @property
        def signum(self) -> int:  # type: ignore[override]
            if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
                raise Interrupted("twice")
            return 0

        @signum.setter
        def signum(self, value: int) -> None:
            pass

    words = [sys.executable, str(scripts.measure), "--model", "stubborn", "--result-dir", "."]
    with pytest.raises(Interrupted):
        run_step(words, os.environ, Twice())
    assert gone(int((tmp_path / "pid").read_text()))


def test_stderr_is_passed_on_to_a_terminal_as_a_terminal(tmp_path: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    reading, writing = pty.openpty()
    os.set_blocking(reading, False)
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 7, 33, 0, 0))
    code = (
        "import os, sys; print(os.isatty(2), os.get_terminal_size(2).columns, file=sys.stderr);"
        "sys.exit(3)"
    )
    try:
        command_line = [sys.executable, "-c", code]
        result = run_step(command_line, os.environ, StopFlag(), stderr_fd=writing)
        shown = drain(reading)
    finally:
        os.close(reading)
        os.close(writing)
    assert (result.code, result.reason) == (3, "True 33")
    assert shown == "True 33\r\n"


def test_stderr_to_a_file(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        code = "import os, sys; print(os.isatty(2), file=sys.stderr); os.close(2); sys.exit(0)"
        command_line = [sys.executable, "-c", code]
        result = run_step(command_line, os.environ, StopFlag(), stderr_fd=out.fileno())
    assert (result.code, result.reason) == (0, "")
    assert (tmp_path / "out").read_text() == "False\n"


def test_closed_stderr_is_waited_out() -> None:
    code = "import os, sys, time; os.close(2); time.sleep(0.5); os._exit(4)"
    result = run_step([sys.executable, "-c", code], os.environ, StopFlag())
    assert (result.code, result.reason) == (4, "exit status 4")


def test_command_that_is_not_there() -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(FileNotFoundError):
        run_step(["/no/such/program"], os.environ, StopFlag())
    assert len(list(Path("/dev/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("code", "tail", "reason"),
    [
        (0, b"error: x", ""),
        (2, b"error: one\nerror: two; mend\nbye\n", "two; mend"),
        (1, b"Traceback\nValueError: x\n\n", "ValueError: x"),
        (-15, b"noise", "killed by SIGTERM"),
        (-9, b"", "killed by SIGKILL, probably by the kernel for memory"),
        (-250, b"", "killed by signal 250"),
        (5, b"", "exit status 5"),
        (1, b"\x1b[1merror: \xff", "\ufffd"),
    ],
)
def test_reasons(code: int, tail: bytes, reason: str) -> None:
    assert reason_of(code, tail).strip() == reason


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """A list of networks of its own, and an environment without knobs."""
    (tmp_path / "tinyzoo.py").write_text(
        "from edgejoule.inference.workload import ModelFacts\n"
        "EXPERIMENT = ('a', 'b')\nDEMO = ('a',)\n"
        "def describe(spec): return ModelFacts(spec, (1, 3, 8, 8), gflops=0.1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in list(os.environ):
        if name.isupper() and name in command.EPILOG:
            monkeypatch.delenv(name)
    monkeypatch.setenv("RESULT_DIR", str(tmp_path / "d"))
    monkeypatch.setenv("BACKEND", "onnxruntime")
    monkeypatch.setenv("SENSOR", "simulated")
    monkeypatch.setattr(plan_module, "matrix_gflops", lambda: 10.0)
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: PTH123, SIM115
    yield command.build_parser().parse_args(["--networks", "tinyzoo:EXPERIMENT"])
    sys.modules.pop("tinyzoo", None)


class TestCommand:
    @pytest.fixture(autouse=True)
    def _runtime(self) -> None:
        pytest.importorskip("onnxruntime")

    def test_check_and_dry_run_start_nothing(
        self, tiny: argparse.Namespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tiny.check = True
        assert command.experiment(tiny) == 0
        said = capsys.readouterr().out
        assert "Preflight" in said
        assert "Plan" not in said
        tiny.check, tiny.dry_run = False, True
        assert command.experiment(tiny) == 0
        assert "networks  2: a, b" in capsys.readouterr().out
        assert not (tmp_path / "d").exists()

    @pytest.mark.once("a preflight each, whose process is in both passes by the tests beside it")
    def test_full_experiment_without_gpu_wants_a_yes(
        self, tiny: argparse.Namespace, tmp_path: Path, scripts: Scripts,
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        with pytest.raises(UsageError) as caught:
            command.experiment(tiny, scripts)
        assert "YES=1" in caught.value.mend
        assert "--demo" in caught.value.mend
        assert not (tmp_path / "d").exists()
        monkeypatch.setenv("YES", "1")
        assert command.experiment(tiny, scripts) == 0
        assert len([c for c in calls(tmp_path) if c["script"] == "measure"]) == 2

    @pytest.mark.once("a preflight each, whose process is in both passes by the tests beside it")
    @pytest.mark.parametrize(("answer", "goes_on"), [("y", True), ("", False), ("no", False)])
    def test_a_terminal_is_asked(
        self, tiny: argparse.Namespace, scripts: Scripts,
        monkeypatch: pytest.MonkeyPatch, answer: str, goes_on: bool,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda _: answer)
        if goes_on:
            assert command.experiment(tiny, scripts) == 0
        else:
            with pytest.raises(UsageError, match="stopped before"):
                command.experiment(tiny, scripts)

    @pytest.mark.once("a preflight each, whose process is in both passes by the tests beside it")
    def test_fewer_runs_need_no_yes(
        self, tiny: argparse.Namespace, scripts: Scripts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RUNS", "5")
        assert command.experiment(tiny, scripts) == 0

    def test_demo_measures_its_networks_and_verifies(
        self, tiny: argparse.Namespace, tmp_path: Path, scripts: Scripts
    ) -> None:
        tiny.demo = True
        assert command.experiment(tiny, scripts) == 0
        assert [call["script"] for call in calls(tmp_path)] == ["idle", "measure", "data"]
        assert "verify" in calls(tmp_path)[2]["words"]
        assert "--runs 100" in " ".join(map(str, calls(tmp_path)[1]["words"]))

    def test_what_blocks_stops_it(
        self, tiny: argparse.Namespace, tmp_path: Path, scripts: Scripts,
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        monkeypatch.setenv("BACKEND", "onnxrunime")
        monkeypatch.setenv("YES", "1")
        monkeypatch.setattr(
            command, "experiment", lambda a, run=command.experiment: run(a, scripts)
        )
        assert command.main(["--networks", "tinyzoo:EXPERIMENT"]) == 2
        captured = capsys.readouterr()
        assert "blocks   backend" in captured.out
        assert "did you mean onnxruntime" in captured.err
        assert not (tmp_path / "d").exists()


def test_bad_knob_is_one_line(
    tiny: argparse.Namespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNS", "-4")
    assert command.main([]) == 2
    assert capsys.readouterr().err == "error: RUNS=-4 is too small; give 1 or more\n"
