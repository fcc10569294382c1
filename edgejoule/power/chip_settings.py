"""Changing how an INA3221 samples, only when asked to, and putting it back whatever happens.

Asked for is the cycle, which is the period at which the registers are renewed, and the number of
conversions that the chip averages. What the driver makes of either is `chip_register`'s matter.

The old values are noted on disk first. Whatever unwinds the process puts them back; what does not
(SIGKILL, loss of the parent, SIGTERM without a handler) leaves the note, and the next command puts
them back by it.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgejoule.errors import EdgejouleError, MeasurementError, UsageError
from edgejoule.power.chip_register import SAMPLES, ChangedChip, Files, Knobs, SysfsFiles
from edgejoule.power.ina3221 import find_chips
from edgejoule.power.left_over import StateFile, boot_id, state_folder, tell

STATE_NAME = "chip-settings.json"
_WHAT = "settings of the power monitors"
_SAVED = frozenset({"address", "samples", "update_interval_ms", "step"})


@contextmanager
def changed_chip_settings(
    sysfs_root: str = "/sys",
    update_interval_ms: int | None = None,
    samples: int | None = None,
    *,
    files: Files | None = None,
    state: Path | None = None,
    say: Callable[[str], None] = tell,
) -> Iterator[tuple[ChangedChip, ...]]:
    """Set all INA3221 chips for the time of a block, and put them back on every way out of it.

    A signal that ends the process without unwinding it (SIGKILL; SIGTERM without a handler) leaves
    a note, and `restore_left_over` puts the chips back at the next command.

    Args:
        sysfs_root: Where sysfs lies.
        update_interval_ms: Cycle to ask for, samples aside; 0 is the fastest. None: not touched.
        samples: Conversions to average. None: not touched.
        files: How files are read and written.
        state: Folder of the note.
        say: Takes lines for the user.

    Yields:
        What was set, per chip; nothing if nothing was asked for.

    Raises:
        UsageError: No such value; not root; another process has changed them; the old settings
            could not be put back through the driver, in which case nothing was changed.
        MeasurementError: No chip, or a chip does not do as it is told.
    """
    if update_interval_ms is None and samples is None:
        yield ()
        return
    _check(update_interval_ms, samples)
    io = files or SysfsFiles()
    knobs = [Knobs(chip, sysfs_root, io) for chip in find_chips(sysfs_root)]
    if not knobs:
        raise MeasurementError(f"no INA3221 below {sysfs_root}", "see `measure_power.py rails`")
    note_file = StateFile((state or state_folder()) / STATE_NAME, _WHAT)
    with note_file.held() as held:
        _clear(note_file, held, sysfs_root, io, say)
        before = [one.saved() for one in knobs]
        note = {"boot_id": boot_id(), "sysfs_root": sysfs_root, "chips": before}
        note_file.write(note)
        done = False
        try:
            if update_interval_ms is not None:
                for one, saved in zip(knobs, before, strict=True):
                    saved["step"], saved["note"] = one.find_step()
                note_file.write(note)
            yield tuple(
                one.change(saved, update_interval_ms, samples)
                for one, saved in zip(knobs, before, strict=True)
            )
            done = True
        finally:
            faults = []
            for one, saved in zip(knobs, before, strict=True):
                faults += _put_back(one, saved) if one.touched else []
            for fault in faults:
                say(fault)
            if not faults:
                note_file.remove()
            elif done:
                raise MeasurementError(faults[0], f"the old values stand in {note_file.path}")


def _check(update_interval_ms: int | None, samples: int | None) -> None:
    if samples is not None and samples not in SAMPLES:
        given = ", ".join(map(str, SAMPLES))
        raise UsageError(f"{samples} samples", f"an INA3221 averages one of {given}")
    if update_interval_ms is not None and not 0 <= update_interval_ms <= 1000:
        raise UsageError(f"an update interval of {update_interval_ms} ms", "give 0 to 1000")


def _clear(
    note_file: StateFile, held: bool, sysfs_root: str, io: Files, say: Callable[[str], None]
) -> None:
    """Put back what an earlier process left, so that its values are not taken for the old ones."""
    if not held:
        raise note_file.busy()
    for line in _restore(note_file, sysfs_root, io):
        say(line)
    if note_file.read() is not None:
        raise UsageError(f"older {_WHAT} are not put back", f"see {note_file.path} and remove it")


def restore_left_over(
    sysfs_root: str = "/sys", *, files: Files | None = None, state: Path | None = None
) -> list[str]:
    """Put back what a killed process left changed; return what there is to say, a line each.

    Nothing is touched while the process that changed the chips still runs, nor after a restart of
    the machine, with which the driver resets the chips. What cannot be put back stays noted.

    Args:
        sysfs_root: Where sysfs lies; a note about another one is left alone.
        files: How files are read and written.
        state: Folder of the note.
    """
    try:
        note_file = StateFile((state or state_folder()) / STATE_NAME, _WHAT)
        if note_file.read() is None:
            return []
        with note_file.held() as held:
            return _restore(note_file, sysfs_root, files or SysfsFiles()) if held else []
    except EdgejouleError as error:
        return [str(error)]


def _restore(note_file: StateFile, sysfs_root: str, io: Files) -> list[str]:
    note = note_file.read()
    if note is None or note.get("sysfs_root") != sysfs_root:
        return []
    if note.get("boot_id") != boot_id():
        note_file.remove()
        return [f"an earlier command left {_WHAT} changed; the restart since has reset them"]
    chips = {chip.address: chip for chip in find_chips(sysfs_root)}
    lines, faults = [], []
    for saved in note.get("chips", ()):
        if not isinstance(saved, dict) or not saved.keys() >= _SAVED:
            faults.append(f"{note_file.path} is damaged; see the {_WHAT}, then remove it")
            continue
        address = str(saved["address"])
        if address not in chips:
            faults.append(f"{address}: the chip is gone")
            continue
        now = _put_back(Knobs(chips[address], sysfs_root, io), saved)
        faults += now
        if not now:
            values = f"samples {saved['samples']}, update_interval {saved['update_interval_ms']} ms"
            lines.append(f"an earlier command was killed: {address} put back to {values}")
    if not faults:
        note_file.remove()
    return [*lines, *faults]


def _put_back(knobs: Knobs, saved: dict[str, Any]) -> list[str]:
    """Put one chip back; return what went wrong, nothing if all is as it was."""
    try:
        knobs.restore(saved)
    except EdgejouleError as error:
        return [f"{knobs.address} could not be put back: {error}"]
    now = knobs.saved()
    if any(now[name] != saved[name] for name in ("samples", "update_interval_ms")):
        return [
            f"{knobs.address} reads samples {now['samples']}, update_interval "
            f"{now['update_interval_ms']} ms and not {saved['samples']}, "
            f"{saved['update_interval_ms']} ms as before"
        ]
    return []
