"""Changing the power mode of a Jetson with `nvpmodel`, only when asked to, and putting it back.

Numbers mean different modes on different boards, so a mode is asked for by name; the names stand in
/etc/nvpmodel.conf, or `nvpmodel -p --verbose` prints them. A mode that changes which parts of the
GPU have power needs a restart: `nvpmodel -m` then asks on stdin whether to restart now. Its stdin
is empty here, so the answer is no, and its text is looked at. Its exit status says nothing
reliable: 0 and others have been seen for the same refusal. What counts is what `nvpmodel -q` says
afterwards.

Nobody of this project has run it on a board; the texts are from jetson_stats' tests and from logs
that users published.

Standard library only.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgejoule.errors import EdgejouleError, MeasurementError, UsageError
from edgejoule.machine import PowerMode, in_container, power_modes
from edgejoule.power.left_over import StateFile, state_folder, tell
from edgejoule.processes import child_environment

STATE_NAME = "power-mode.json"
_WHAT = "power mode"
_PROGRAM = "nvpmodel"
_USUAL_PLACE = "/usr/sbin/nvpmodel"
_LONGEST_S = 120.0
_NAME = re.compile(r"^NV Power Mode:[ \t]*(\S+)[ \t]*\r?$", re.MULTILINE)
_NUMBER = re.compile(r"^[ \t]*([0-9]{1,4})[ \t]*\r?$", re.MULTILINE)
_OFFERED = re.compile(r"POWER_MODEL:?\s+ID=([0-9]{1,4})\s+NAME=(\S+)")

Runner = Callable[[Sequence[str]], str]
"""Runs nvpmodel with arguments and returns what it printed, errors too."""


@dataclass(frozen=True)
class ChangedMode:
    """The power mode of a block, and the one before and after it."""

    mode: PowerMode
    before: PowerMode

    @property
    def changed(self) -> bool:
        """Whether it had to be set."""
        return self.mode.name != self.before.name


@contextmanager
def changed_power_mode(
    name: str,
    runner: Runner | None = None,
    root: Path | str = "/",
    *,
    state: Path | None = None,
    say: Callable[[str], None] = tell,
) -> Iterator[ChangedMode]:
    """Set a power mode for the time of a block and put the old one back on every way out of it.

    Use it before anything uses the GPU. What a kill leaves changed is noted, see
    `restore_left_over_mode`.

    Args:
        name: The mode as the board names it (`MODE_30W`, `15W`, `MAXN`), capitals or not.
        runner: Runs nvpmodel.
        root: What /etc/nvpmodel.conf is looked up below.
        state: Folder of the note.
        say: Takes lines for the user.

    Raises:
        UsageError: No such mode; no nvpmodel; not root; it would need a restart; another process
            has changed the mode.
        MeasurementError: nvpmodel does not do as it is told.
    """
    run = runner or _runner(root)
    note_file = StateFile((state or state_folder()) / STATE_NAME, _WHAT)
    with note_file.held() as held:
        if not held:
            raise note_file.busy()
        for line in _restore(note_file, run):
            say(line)
        if note_file.read() is not None:
            raise UsageError(f"an older {_WHAT} is not put back", f"see {note_file.path}")
        before = current_mode(run)
        mode = _offered(name, run, root)
        if mode.name == before.name:
            yield ChangedMode(mode, before)
            return
        note_file.write({"old": _plain(before), "new": _plain(mode)})
        done = False
        try:
            _set(mode, run)
            yield ChangedMode(mode, before)
            done = True
        finally:
            fault = _put_back(before, run)
            if fault is None:
                note_file.remove()
            else:
                say(f"the {_WHAT} was not put back: {fault}")
                if done:
                    raise fault


def restore_left_over_mode(
    runner: Runner | None = None, root: Path | str = "/", *, state: Path | None = None
) -> list[str]:
    """Put back the mode that a killed process left; return what there is to say, a line each.

    A mode outlives a restart. Where the mode in force is neither the old nor the set one, somebody
    chose it meanwhile: it stays.

    Args:
        runner: Runs nvpmodel.
        root: What marks a container is looked up below.
        state: Folder of the note.
    """
    try:
        note_file = StateFile((state or state_folder()) / STATE_NAME, _WHAT)
        if note_file.read() is None:
            return []
        with note_file.held() as held:
            return _restore(note_file, runner or _runner(root)) if held else []
    except EdgejouleError as error:
        return [str(error)]


def current_mode(run: Runner) -> PowerMode:
    """Return the mode in force.

    Raises:
        MeasurementError: nvpmodel does not say.
    """
    text = run(["-q"])
    name = _NAME.search(text)
    number = _NUMBER.search(text, name.end()) if name else None
    if name is None or number is None:
        raise MeasurementError(f"`nvpmodel -q` names no mode ({_last_line(text)})")
    return PowerMode(name[1], int(number[1]))


def _offered(name: str, run: Runner, root: Path | str) -> PowerMode:
    _, modes = power_modes(root)
    if not modes:
        found = _OFFERED.finditer(run(["-p", "--verbose"]))
        modes = [PowerMode(match[2], int(match[1])) for match in found]
    wanted = [mode for mode in modes if mode.name == name]
    wanted = wanted or [mode for mode in modes if mode.name.lower() == name.lower()]
    if not wanted:
        known = ", ".join(mode.name for mode in modes)
        mend = f"give one of {known}" if known else "`nvpmodel -p --verbose` lists none"
        raise UsageError(f"this board has no power mode {name!r}", mend)
    return wanted[0]


def _set(mode: PowerMode, run: Runner) -> None:
    """Set a mode and see that it is set; raises as `changed_power_mode`."""
    text = run(["-m", str(mode.number)])
    if re.search("reboot", text, re.IGNORECASE):
        raise UsageError(
            f"power mode {mode.name} needs a restart of the board",
            f"`sudo nvpmodel -m {mode.number}`, let it restart, then measure",
        )
    if current_mode(run).name == mode.name:
        return
    if os.geteuid() != 0:
        raise UsageError(f"power mode {mode.name} was not set: it needs root", "run with sudo")
    raise MeasurementError(
        f"power mode {mode.name} was not set ({_last_line(text)})",
        f"try `sudo nvpmodel -m {mode.number}` by hand",
    )


def _put_back(mode: PowerMode, run: Runner) -> EdgejouleError | None:
    try:
        if current_mode(run).name != mode.name:
            _set(mode, run)
    except EdgejouleError as error:
        return error
    return None


def _restore(note_file: StateFile, run: Runner) -> list[str]:
    note = note_file.read()
    if note is None:
        return []
    try:
        old, new = _mode(note["old"]), _mode(note["new"])
    except (KeyError, TypeError, ValueError):
        return [f"{note_file.path} is damaged; see `nvpmodel -q`, then remove it"]
    now = current_mode(run)
    if now.name != new.name:
        note_file.remove()
        if now.name == old.name:
            return []
        return [f"an earlier command left power mode {new.name}; it is {now.name} now, and stays"]
    fault = _put_back(old, run)
    if fault is not None:
        return [f"an earlier command left power mode {new.name}: {fault}"]
    note_file.remove()
    return [f"an earlier command was killed: power mode put back to {old.name}"]


def _mode(plain: dict[str, object]) -> PowerMode:
    return PowerMode(str(plain["name"]), int(str(plain["number"])))


def _plain(mode: PowerMode) -> dict[str, object]:
    return {"name": mode.name, "number": mode.number}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it printed nothing"


def _runner(root: Path | str) -> Runner:
    """Return what runs the real nvpmodel.

    Raises:
        UsageError: There is none.
    """
    program = shutil.which(_PROGRAM) or shutil.which(_USUAL_PLACE)
    if program is None:
        mend = "it comes with JetPack"
        if in_container(root):
            mend = "it is not in the container: set the mode on the host, then start the container"
        raise UsageError(f"no {_PROGRAM} here, which sets the power mode", mend)

    def run(arguments: Sequence[str]) -> str:
        try:
            done = subprocess.run(
                [program, *arguments],
                stdin=subprocess.DEVNULL,  # its question is answered by the end of the file
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=child_environment(),
                start_new_session=True,  # Ctrl-C must not catch it halfway
                timeout=_LONGEST_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise MeasurementError(f"{program} has not ended within {_LONGEST_S:g} s") from error
        except OSError as error:
            raise UsageError(f"{program} cannot be run ({error.strerror})") from error
        return done.stdout.decode("utf-8", "replace")

    return run
