"""The power mode: set by name on request, seen to be set, put back. nvpmodel is a script here.

The script prints what published logs and jetson_stats' tests show of the real one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.machine import PowerMode
from edgejoule.power import power_mode_setting
from edgejoule.power.power_mode_setting import (
    changed_power_mode,
    current_mode,
    restore_left_over_mode,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nvpmodel is a Linux program")

# TPC masks as on AGX Orin: a change of the mask needs a restart (`masks` can switch that off).
SCRIPT = """#!/bin/sh
cd "{folder}" || exit 9
echo "$*" >> calls
env > environment
number=$(cat mode)
name() {{
  case $1 in 0) echo MAXN;; 1) echo MODE_15W;; 2) echo MODE_30W;; 3) echo MODE_50W;; esac
}}
mask() {{ case $1 in 1) echo 248;; 2) echo 240;; *) echo 0;; esac; }}
case $1 in
-q)
  [ -e broken ] && {{ echo "NVPM ERROR: failed to read PM mode" >&2; exit 255; }}
  echo "NVPM WARN: fan mode is not set!"
  echo "NV Power Mode: $(name "$number")"
  echo "$number";;
-p)
  echo "NVPM VERB: Config file: /etc/nvpmodel.conf"
  echo "NVPM VERB: PM_CONFIG: DEFAULT=MODE_30W(2)"
  for one in 0 1 2 3; do
    echo "NVPM VERB: POWER_MODEL: ID=$one NAME=$(name $one)"
    echo "NVPM VERB: GPU MAX_FREQ 828750000"
  done;;
-m)
  if [ -e user ]; then echo "NVPM ERROR: Error opening a file: Permission denied" >&2; exit 0; fi
  if [ -e stuck ]; then echo "NVPM ERROR: something else"; exit 0; fi
  if [ -e masks ] && [ "$(mask "$2")" != "$(mask "$number")" ]; then
    echo "NVPM WARN: Golden image context is already created"
    echo "NVPM WARN: Reboot required for changing to this power mode: $2"
    echo "NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:"
    read -r answer
    [ "$answer" = YES ] && touch rebooted
    echo "NVPM ERROR: bad input!"
    echo "NVPM ERROR: optMask is 1, no request for power mode"
    exit 0
  fi
  echo "$2" > mode;;
esac
"""


class Board:
    """The script and its state; a root folder for /etc/nvpmodel.conf."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "board"
        self.folder.mkdir()
        self.root = folder / "root"
        self.root.mkdir()
        self.state = folder / "state"
        self.program = self.folder / "nvpmodel"
        self.program.write_text(SCRIPT.format(folder=self.folder))
        self.program.chmod(0o755)
        self.set(0)

    def set(self, number: int) -> None:
        (self.folder / "mode").write_text(f"{number}\n")

    @property
    def number(self) -> int:
        return int((self.folder / "mode").read_text())

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    def mark(self, name: str) -> Path:
        path = self.folder / name
        path.touch()
        return path

    @property
    def note(self) -> Path:
        return self.state / "power-mode.json"

    def changed(self, name: str, **named: Any) -> Any:
        return changed_power_mode(name, root=self.root, state=self.state, **named)

    def left_over(self) -> list[str]:
        return restore_left_over_mode(root=self.root, state=self.state)

    def attempt(self, name: str, **named: Any) -> None:
        with self.changed(name, **named):
            raise AssertionError


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    made = Board(tmp_path)
    monkeypatch.setenv("PATH", f"{made.folder}{os.pathsep}{os.environ['PATH']}")
    return made


def test_a_mode_is_set_and_put_back(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSHUB_TOKEN", "hidden")
    with board.changed("MODE_30W") as change:
        assert (change.mode, change.before) == (PowerMode("MODE_30W", 2), PowerMode("MAXN", 0))
        assert change.changed
        assert board.number == 2
        assert json.loads(board.note.read_text()) == {
            "old": {"name": "MAXN", "number": 0},
            "new": {"name": "MODE_30W", "number": 2},
        }
    assert board.number == 0
    assert not board.note.exists()
    assert "hidden" not in (board.folder / "environment").read_text()


def test_names_come_from_the_configuration_where_it_is(board: Board) -> None:
    (board.root / "etc").mkdir()
    (board.root / "etc/nvpmodel.conf").write_text(
        "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=3 NAME=MODE_50W >\n"
    )
    with board.changed("mode_50w") as change:  # capitals do not matter
        assert (change.mode.name, board.number) == ("MODE_50W", 3)
    assert "-p --verbose" not in board.calls
    with pytest.raises(UsageError, match="no power mode 'MODE_30W'; give one of MAXN, MODE_50W"):
        board.attempt("MODE_30W")


def test_the_mode_in_force_is_not_set_again(board: Board) -> None:
    with board.changed("MAXN") as change:
        assert not change.changed
        assert not board.note.exists()
    assert not [call for call in board.calls if call.startswith("-m")]


def test_an_unknown_mode(board: Board) -> None:
    with pytest.raises(UsageError, match="MODE_99W'; give one of MAXN, MODE_15W, MODE_30W"):
        board.attempt("MODE_99W")
    with pytest.raises(UsageError, match="`nvpmodel -p --verbose` lists none"):
        board.attempt("X", runner=lambda words: "NV Power Mode: A\n1\n" if "-q" in words else "")


def test_a_restart_is_never_agreed_to(board: Board) -> None:
    board.mark("masks")
    with pytest.raises(
        UsageError, match=r"MODE_30W needs a restart.*; `sudo nvpmodel -m 2`, let it"
    ):
        board.attempt("MODE_30W")
    assert board.number == 0
    assert not (board.folder / "rebooted").exists()
    assert not board.note.exists()


def test_putting_back_may_need_a_restart(board: Board) -> None:
    said: list[str] = []

    def work() -> None:
        with board.changed("MODE_30W", say=said.append):
            board.mark("masks")

    with pytest.raises(UsageError, match="power mode MAXN needs a restart"):
        work()
    assert "the power mode was not put back: power mode MAXN needs a restart" in said[0]
    assert board.left_over() == [
        "an earlier command left power mode MODE_30W: power mode MAXN needs a restart of the "
        "board; `sudo nvpmodel -m 0`, let it restart, then measure"
    ]
    with pytest.raises(UsageError, match=r"an older power mode is not put back; see .*power-mode"):
        board.attempt("MODE_15W", say=said.append)
    board.set(0)  # as told
    assert board.left_over() == []
    assert not board.note.exists()


def test_it_needs_root(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    board.mark("user")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="was not set: it needs root; run with sudo"):
        board.attempt("MODE_30W")
    assert not board.note.exists()


def test_nvpmodel_does_not_obey(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    board.mark("stuck")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(MeasurementError, match=r"was not set \(NVPM ERROR: something else\); try"):
        board.attempt("MODE_30W")


def test_nvpmodel_says_nothing(board: Board) -> None:
    board.mark("broken")
    with pytest.raises(MeasurementError, match=r"names no mode \(NVPM ERROR: failed to read"):
        board.attempt("MODE_30W")
    for text, why in (("", "it printed nothing"), ("NV Power Mode: X\n", "NV Power Mode: X")):
        with pytest.raises(MeasurementError, match=why):
            current_mode(lambda _words, text=text: text)


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_an_exception_puts_back(board: Board, fault: type[BaseException]) -> None:
    def work() -> None:
        with board.changed("MODE_15W"):
            raise fault

    with pytest.raises(fault):
        work()
    assert board.number == 0


def test_what_ends_the_block_wins(board: Board) -> None:
    said: list[str] = []

    def work() -> None:
        with board.changed("MODE_15W", say=said.append):
            board.mark("broken")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert "was not put back: `nvpmodel -q` names no mode" in said[0]
    assert "names no mode" in board.left_over()[0]
    (board.folder / "broken").unlink()
    with board.changed("MODE_50W", say=said.append) as change:
        assert change.before.name == "MAXN"
    assert said[1] == "an earlier command was killed: power mode put back to MAXN"
    assert board.number == 0


def kill_inside(board: Board, name: str) -> None:
    pid = os.fork()
    if pid == 0:
        with board.changed(name):
            os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_a_killed_process_is_made_up_for(board: Board) -> None:
    kill_inside(board, "MODE_30W")
    assert board.number == 2
    assert board.left_over() == ["an earlier command was killed: power mode put back to MAXN"]
    assert board.number == 0
    assert board.left_over() == []


def test_a_mode_that_was_chosen_meanwhile_stays(board: Board) -> None:
    kill_inside(board, "MODE_30W")
    board.set(3)
    (line,) = board.left_over()
    assert line == "an earlier command left power mode MODE_30W; it is MODE_50W now, and stays"
    assert board.number == 3
    assert board.left_over() == []


def test_one_at_a_time(board: Board) -> None:
    with board.changed("MODE_30W"):
        with pytest.raises(UsageError, match="another edgejoule has changed the power mode"):
            board.attempt("MODE_15W")
        assert board.left_over() == []
        assert board.number == 2


@pytest.mark.parametrize("text", ["{", "[1]", "{}", '{"old": 1, "new": 2}'])
def test_a_damaged_note(board: Board, text: str) -> None:
    board.state.mkdir()
    board.note.write_text(text)
    (line,) = board.left_over()
    assert "is damaged" in line


def test_no_nvpmodel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(power_mode_setting, "_USUAL_PLACE", str(tmp_path / "nvpmodel"))

    def attempt() -> None:
        with changed_power_mode("MAXN", root=tmp_path, state=tmp_path / "state"):
            raise AssertionError

    with pytest.raises(UsageError, match=r"no nvpmodel here.*; it comes with JetPack") as caught:
        attempt()
    assert caught.value.exit_code == 2
    (tmp_path / ".dockerenv").touch()
    with pytest.raises(UsageError, match="set the mode on the host, then start the container"):
        attempt()


def test_a_program_that_hangs_or_cannot_run(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power_mode_setting, "_LONGEST_S", 0.2)
    board.program.write_text("#!/bin/sh\nexec sleep 600\n")
    with pytest.raises(MeasurementError, match=r"nvpmodel has not ended within 0.2 s"):
        board.attempt("MAXN")
    board.program.write_text("#!/nowhere/interpreter\n")
    with pytest.raises(UsageError, match="cannot be run"):
        board.attempt("MAXN")


def test_a_runner_of_ones_own(tmp_path: Path) -> None:
    asked: list[Sequence[str]] = []
    modes = {"0": "15W", "2": "MAXN_SUPER"}
    now = ["0"]

    def run(words: Sequence[str]) -> str:
        asked.append(list(words))
        if words[0] == "-m":
            now[0] = words[1]
            return ""
        if words[0] == "-p":
            return "\n".join(f"NVPM VERB: POWER_MODEL: ID={n} NAME={m}" for n, m in modes.items())
        return f"NV Power Mode: {modes[now[0]]}\r\n{now[0]}\r\n"

    runner: Callable[[Sequence[str]], str] = run
    with changed_power_mode("maxn_super", runner, tmp_path, state=tmp_path):
        assert now == ["2"]
    assert [words for words in asked if words[0] == "-m"] == [["-m", "2"], ["-m", "0"]]
