"""`measure_power.py rails`: what can be read here, and for what cannot, what was looked for."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING, Any

from edgejoule.cli.power_options import add_sensor_options, where_of
from edgejoule.errors import EXIT_USAGE

if TYPE_CHECKING:
    from edgejoule.power.sensor import Sensor, Where


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb `rails`."""
    parser = verbs.add_parser(
        "rails",
        help="what can be read here, and what was looked for",
        description="""Show every sensor of this machine: its rails with one reading of each, the
        rhythm in which the hardware renews them, the board they belong to and what its total is
        made of. For each sensor that is not here: what was looked for, and what would mend it.""",
        epilog="example: measure_power.py rails --sensor ina3221",
    )
    add_sensor_options(parser)
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print the rails; 2 if a sensor that was named is not here."""
    import json

    from edgejoule.power.sensors import AUTO, NONE, SENSORS, SIMULATED, names_of

    where = where_of(arguments)
    names = names_of(arguments.sensor)
    if arguments.sensor in {AUTO, NONE}:
        names = tuple(name for name, kind in SENSORS.items() if not kind.simulated)
    with contextlib.ExitStack() as stack:
        if names == (SIMULATED,):
            where = stack.enter_context(_simulated_board())
        found = {name: _look(name, where) for name in names}
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n\n".join(_text(name, facts) for name, facts in found.items()))
        if arguments.sensor == AUTO:
            print(f"\n{_auto_line(where)}")
    missing = arguments.sensor not in {AUTO, NONE} and any("why_not" in f for f in found.values())
    return EXIT_USAGE if missing else 0


@contextlib.contextmanager
def _simulated_board() -> Any:
    """The simulated board for as long as the context lasts; gives where it is."""
    import tempfile
    from pathlib import Path

    from edgejoule.power.acquire import SYSFS_DIRECTORY, start_simulator
    from edgejoule.power.sensor import Where

    with tempfile.TemporaryDirectory(prefix="edgejoule-") as temporary:
        child = start_simulator(Path(temporary))
        try:
            yield Where(str(Path(temporary, SYSFS_DIRECTORY)))
        finally:
            child.stop()


def _look(name: str, where: Where) -> dict[str, Any]:
    """Return what a sensor shows, or why it shows nothing."""
    from edgejoule.errors import EdgejouleError
    from edgejoule.power.sensors import SENSORS, open_sensor

    try:
        sensor = open_sensor(name, where)
    except EdgejouleError as error:
        looked = SENSORS[name].looked_for(where)
        return {"why_not": error.message, "mend": error.mend, "looked_for": looked}
    with contextlib.closing(sensor):
        return _facts(sensor, where)


def _facts(sensor: Sensor, where: Where) -> dict[str, Any]:
    from dataclasses import asdict

    from edgejoule.power.sensors import identify

    channels = []
    for channel in sensor.channels():
        value, error = None, None
        try:
            value = sensor.read(channel.index)
        except OSError as problem:
            error = problem.strerror or str(problem)
        channels.append({**channel.to_json(), "value": value, "error": error})
    board, total = identify(sensor, where)
    return {
        "simulated": sensor.simulated,
        "channels": channels,
        "groups": [asdict(group) for group in sensor.groups()],
        "board": board,
        "total": None if total is None else total.to_json(),
        "configuration": sensor.configuration(),
    }


def _text(name: str, facts: dict[str, Any]) -> str:
    """Return one sensor's part of the listing."""
    from edgejoule.power.sensors import SENSORS

    lines = [f"{name}: {SENSORS[name].summary}"]
    if "why_not" in facts:
        lines.append(f"  not here: {facts['why_not']}")
        # Some say the reason once more.
        looked = [line for line in facts["looked_for"] if facts["why_not"] not in line]
        lines += [f"    looked for {line}" for line in looked]
        if facts["mend"]:
            lines.append(f"  -> {facts['mend']}")
        return "\n".join(lines)
    columns = ("rail", "chip", "quantity", "value", "unit", "step", "source")
    rows = [columns, *(_row(channel) for channel in facts["channels"])]
    widths = [max(len(row[n]) for row in rows) for n in range(len(columns))]
    for row in rows:
        cells = [
            text.rjust(width) if column in {"value", "step"} else text.ljust(width)
            for text, width, column in zip(row, widths, columns, strict=True)
        ]
        lines.append(f"  {'  '.join(cells).rstrip()}")
    for group in facts["groups"]:
        lines.append(f"  refresh of {group['name']}: {_refresh(group)}")
    for item in facts["configuration"].get("left_out", ()):
        lines.append(
            f"  left out: {item['rail']} {item['source']} on {item['chip']}: {item['why']}"
        )
    lines += _board_lines(facts)
    if facts["simulated"]:
        lines.append("  SIMULATED: these are no measured values")
    return "\n".join(lines)


def _row(channel: dict[str, Any]) -> tuple[str, ...]:
    value = channel["error"] if channel["value"] is None else str(channel["value"])
    step = "-" if channel["lsb"] is None else f"{channel['lsb']:g}"
    source = channel["source"]
    if channel["averaging"]:
        source += f" ({channel['averaging']})"
    return (
        *(channel["rail"], _short(channel["chip"]), channel["quantity"], value),
        *(channel["unit"], step, source),
    )


def _short(chip: str) -> str:
    """Return a chip's name, a GPU's UUID cut to what tells it apart."""
    return f"{chip[:12]}.." if len(chip) > 16 else chip


def _refresh(group: dict[str, Any]) -> str:
    if not group["refresh_ns"]:
        return "not known"
    text = f"{group['refresh_ns'] * 1e-6:g} ms"
    return f"{text}, the driver waits for it in every read" if group["blocking"] else text


def _board_lines(facts: dict[str, Any]) -> list[str]:
    board, total = facts["board"] or {}, facts["total"]
    lines = []
    if board.get("name") or board.get("how"):
        lines.append(f"  board: {board.get('name') or 'not known'} ({board.get('how')})")
    lines += [f"  note: {note}" for note in board.get("notes", ())]
    for rail, parent in board.get("parents", {}).items():
        lines.append(f"  {rail} lies inside {parent}")
    if total is None:
        lines.append("  total: none")
    else:
        lines.append(f"  total: {' + '.join(total['rails'])}")
        lines.append(f"    contains {total['contains']}")
        lines.append(f"    excludes {total['excludes']}")
        lines.append(f"    by {total['source']}")
    return lines


def _auto_line(where: Where) -> str:
    from edgejoule.power.sensors import choose_sensor

    choice = choose_sensor("auto", where)
    if choice.usable:
        return f"auto takes: {choice.name}"
    return "auto takes none: there is no power sensor here; --sensor simulated tries things out"
