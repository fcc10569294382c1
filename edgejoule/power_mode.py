"""The power mode of a Jetson (`nvpmodel`): read where it is written, inferred where it is not.

`nvpmodel` keeps the number of the mode in force in /var/lib/nvpmodel/status (`pmode:0002`) and
what each number means in /etc/nvpmodel.conf. The same number is another mode on another board, so
modes go by name. In a container both files are missing unless they are mounted; what a mode does,
CPUs online and limits of clocks, is to be seen in sysfs all the same, so the mode can be inferred:
against the conf if that is there, else against a small table for boards whose modes are all known.
An inferred mode says so; several that fit are all named, and then there is no name.

Standard library only; nothing is written, no program is started.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edgejoule.clock_limits import Limits, Range, read_limits
from edgejoule.machine_state import read_int, read_text
from edgejoule.power_mode_table import KNOWN_MODES, KnownMode

_T = TypeVar("_T")

CONF = "etc/nvpmodel.conf"
STATUS = "var/lib/nvpmodel/status"
_SECTION = re.compile(r"^<\s*([A-Z_]+)\s([^<>]*)>")
_NUMBER = re.compile(r"-?[0-9]{1,19}")
# -1, 0 and the largest integers stand for "no cap".
_UNCAPPED = 2_147_483_647
_CPU = re.compile(r"/cpu([0-9]{1,4})/")
_NEAR = 0.02
_NEAR_KNOWN = 0.04  # the steps of these boards' clocks lie up to 4 % away from the documented caps


@dataclass(frozen=True)
class PowerMode:
    """A power mode of `nvpmodel`: its name (`MODE_30W`) and the number to set it with."""

    name: str
    number: int


@dataclass(frozen=True)
class Setting:
    """One line of a mode: `GPU MAX_FREQ 624750000`; the value None is a word (`on`)."""

    what: str
    argument: str
    value: int | None


@dataclass(frozen=True)
class ModeRule:
    """A mode and what it sets."""

    mode: PowerMode
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Conf:
    """An nvpmodel.conf.

    Attributes:
        rules: Its modes, in order.
        paths: (what, argument) -> the sysfs file that it is written to.
        default: Number of the mode after installation.
    """

    rules: tuple[ModeRule, ...] = ()
    paths: Mapping[tuple[str, str], str] | None = None
    default: int | None = None


@dataclass(frozen=True)
class FoundMode:
    """What is known of the power mode in force.

    Attributes:
        name: Its name, None if unknown or not unique.
        number: Its number for `nvpmodel -m`, where a file of this machine says it.
        source: What it is known by, None if unknown.
        inferred: It follows from CPUs and clocks, nobody wrote it down.
        candidates: Names of the modes that fit, if it is inferred.
        why: One line for people.
    """

    name: str | None
    number: int | None
    source: str | None
    inferred: bool
    candidates: tuple[str, ...]
    why: str


def parse_conf(text: str) -> Conf:
    """Parse an nvpmodel.conf; what is not understood is passed over.

    Sections are `< PARAM TYPE=... NAME=... >` with lines `ARGUMENT PATH`, `< POWER_MODEL ID=...
    NAME=... >` with lines `WHAT ARGUMENT VALUE`, and `< PM_CONFIG DEFAULT=... >`; `#` starts a
    comment.
    """
    rules: list[tuple[PowerMode, list[Setting]]] = []
    paths: dict[tuple[str, str], str] = {}
    default: int | None = None
    parameter, inside = "", False
    for raw in text.splitlines():
        line = raw.partition("#")[0].strip()
        section = _SECTION.match(line)
        if section:
            keys = dict(re.findall(r"(\w+)=(\S+)", section[2]))
            number = keys.get("ID", "")
            parameter = keys.get("NAME", "") if section[1] == "PARAM" else ""
            inside = False
            if section[1] == "POWER_MODEL" and re.fullmatch("[0-9]{1,9}", number):
                if keys.get("NAME"):
                    rules.append((PowerMode(keys["NAME"], int(number)), []))
                    inside = True
            elif section[1] == "PM_CONFIG" and re.fullmatch("[0-9]{1,9}", keys.get("DEFAULT", "")):
                default = int(keys["DEFAULT"])
            continue
        words = line.split()
        if inside and len(words) == 3:
            value = int(words[2]) if _NUMBER.fullmatch(words[2]) else None
            rules[-1][1].append(Setting(words[0], words[1], value))
        elif parameter and len(words) == 2:
            paths[parameter, words[0]] = words[1]
    return Conf(tuple(ModeRule(mode, tuple(lines)) for mode, lines in rules), paths, default)


def power_modes(root: Path | str = "/") -> tuple[PowerMode | None, list[PowerMode]]:
    """Return the power mode that is written down as in force, and all that the board offers.

    Without the conf the name is `mode <number>`.
    """
    offered = [rule.mode for rule in parse_conf(read_text(Path(root, CONF)) or "").rules]
    number = _status(Path(root))
    if number is None:
        return None, offered
    names = [mode for mode in offered if mode.number == number]
    return (names[0] if names else PowerMode(f"mode {number}", number)), offered


def find_power_mode(
    root: Path | str = "/", sysfs_root: Path | str = "/sys", boards: Iterable[str] = ()
) -> FoundMode:
    """Find out the power mode in force.

    Args:
        root: What `etc/nvpmodel.conf` and `var/lib/nvpmodel/status` are looked up below: `/`, or
            a folder into which they were mounted.
        sysfs_root: Where sysfs lies.
        boards: Names of the boards that this can be (`Recognition.names`).
    """
    root, sysfs = Path(root), Path(sysfs_root)
    mode, _ = power_modes(root)
    conf = parse_conf(read_text(root / CONF) or "")
    if mode is not None:
        named = any(rule.mode == mode for rule in conf.rules)
        why = f"/{STATUS} says mode {mode.number}"
        if not named:
            why += f"; its name is not known without /{CONF}"
        return FoundMode(mode.name, mode.number, "nvpmodel", False, (), why)
    limits = read_limits(sysfs)
    if conf.rules:
        return _inferred_from_conf(conf, limits, sysfs)
    return _inferred_from_table(tuple(boards), limits)


def _inferred_from_conf(conf: Conf, limits: Limits, sysfs: Path) -> FoundMode:
    verdicts = [(rule.mode, _fits(rule, conf.paths or {}, limits, sysfs)) for rule in conf.rules]
    modes = _best(verdicts)
    return _found(
        [mode.name for mode in modes],
        f"/{CONF}",
        modes[0].number if len(modes) == 1 else None,
        f"/{STATUS} is not there",
    )


def _inferred_from_table(boards: tuple[str, ...], limits: Limits) -> FoundMode:
    known = [mode for mode in KNOWN_MODES if mode.board in boards]
    missing = f"/{STATUS} and /{CONF} are not there"
    if not known:
        whose = " or ".join(boards) or "this machine"
        return FoundMode(
            None, None, None, False, (), f"{missing}; no list of all modes of {whose} is known"
        )
    fitting = _best([(mode, _known_fits(mode, limits)) for mode in known])
    names = list(dict.fromkeys(mode.name for mode in fitting))
    others = [board for board in boards if all(mode.board != board for mode in known)]
    if others and names:
        why = f"{missing}; the modes of {' or '.join(others)}, which this can be too, are not known"
        return FoundMode(None, None, None, False, tuple(names), why)
    return _found(names, "the table of modes", None, missing)


def _found(names: list[str], against: str, number: int | None, missing: str) -> FoundMode:
    seen = f"{missing}; CPUs online and limits of clocks, compared with {against},"
    if not names:
        return FoundMode(None, None, None, False, (), f"{seen} fit none of its modes")
    source = f"clock limits and {against}"
    if len(names) > 1:
        return FoundMode(None, None, None, False, tuple(names), f"{seen} fit {', '.join(names)}")
    why = f"{seen} fit {names[0]} alone"
    return FoundMode(names[0], number, source, True, tuple(names), why)


def _best(verdicts: list[tuple[_T, list[str | None]]]) -> list[_T]:
    """Return those that fit exactly, else those that nearly fit; nothing compared is no fit."""
    seen = [(mode, [v for v in verdict if v is not None]) for mode, verdict in verdicts]
    for allowed in ({"exact"}, {"exact", "near"}):
        fitting = [mode for mode, verdict in seen if verdict and set(verdict) <= allowed]
        if fitting:
            return fitting
    return []


def _fits(
    rule: ModeRule, paths: Mapping[tuple[str, str], str], limits: Limits, sysfs: Path
) -> list[str | None]:
    """Compare each setting of a mode with this machine: exact, near, no; None: cannot be seen."""
    verdict: list[str | None] = []
    for setting in rule.settings:
        value, path = setting.value, paths.get((setting.what, setting.argument), "")
        if value is None:
            continue
        core = re.fullmatch(r"CORE_([0-9]{1,4})", setting.argument)
        if setting.what == "CPU_ONLINE" and core:
            if limits.online is not None:
                verdict.append("exact" if (int(core[1]) in limits.online) == (value == 1) else "no")
        elif setting.argument.endswith("_PG_MASK"):
            mask = _below(sysfs, path)
            verdict.append(None if mask is None else "exact" if mask == value else "no")
        elif setting.argument == "MAX_FREQ" and setting.what.startswith("CPU"):
            verdict.append(_cpu_verdict(value, path, limits))
        elif setting.argument == "MAX_FREQ" and setting.what == "GPU":
            verdict.append(compare(value, limits.gpu_hz))
        elif setting.argument == "MAX_FREQ" and setting.what == "EMC" and value > 0:
            cap = _below(sysfs, path)
            verdict.append(None if cap is None else "exact" if cap == value else "no")
    return verdict


def _cpu_verdict(value: int, path: str, limits: Limits) -> str | None:
    named = _CPU.search(path)
    if named:
        return compare(value, limits.cpu_khz.get(int(named[1])))
    # A conf without PARAM sections does not say which CPUs: one of them must have that limit.
    every = [compare(value, one) for one in limits.cpu_khz.values()]
    found = [verdict for verdict in every if verdict is not None]
    return min(found, key=("exact", "near", "no").index) if found else None


def _known_fits(mode: KnownMode, limits: Limits) -> list[str | None]:
    if limits.present != mode.cpus or limits.online is None:
        return ["no"]
    verdict: list[str | None] = ["exact" if limits.online == mode.online else "no"]
    pairs = [(mode.cpu_khz, limits.cpu_khz.get(number)) for number in sorted(mode.online)]
    for cap, limit in (*pairs, (mode.gpu_hz, limits.gpu_hz)):
        upper = None if limit is None else limit.upper
        # The number of CPUs alone tells no mode: both clocks must have been seen.
        near = upper is not None and abs(upper - cap) <= _NEAR_KNOWN * cap
        verdict.append("exact" if upper == cap else "near" if near else "no")
    return verdict


def compare(cap: int, limit: Range | None) -> str | None:
    """Compare a mode's cap with the limit in force: `exact`, `near`, `no`; None: not to be seen.

    A driver may move a cap to a step that the hardware has; `near` is a neighbouring step, or
    within 2 % where the steps are not known.
    """
    if limit is None or limit.upper is None:
        return None
    top = limit.hardware
    if cap <= 0 or cap >= _UNCAPPED or (top is not None and cap >= top):
        return None if top is None else "exact" if limit.upper >= top else "no"
    if limit.upper == cap:
        return "exact"
    if limit.steps:
        below = max((step for step in limit.steps if step <= cap), default=None)
        above = min((step for step in limit.steps if step >= cap), default=None)
        return "near" if limit.upper in (below, above) else "no"
    return "near" if abs(limit.upper - cap) <= _NEAR * cap else "no"


def _below(sysfs: Path, path: str) -> int | None:
    """Read a file that a conf names; only below sysfs."""
    if not path.startswith("/sys/") or ".." in path:
        return None
    return read_int(sysfs / path.removeprefix("/sys/"))


def _status(root: Path) -> int | None:
    found = re.search(r"pmode:([0-9]{1,9})", read_text(root / STATUS) or "")
    return int(found[1]) if found else None
