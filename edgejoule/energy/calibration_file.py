"""The file `calibration.json`: what was fitted, from what, and where. `docs/Calibration.md`.

A file that another version or a person wrote is checked on reading, figure by figure: a calibration
enters every later result, so nothing in it is taken on trust.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edgejoule.energy.calibration import PARAMETERS, Group, Parameter, RailCalibration
from edgejoule.energy.sensor_model import SensorParameters
from edgejoule.errors import EdgejouleError, MeasurementError
from edgejoule.files import disk_errors, write_json

SCHEMA = "edgejoule.calibration"
SCHEMA_VERSION = 1
FILE_NAME = "calibration.json"
_MEND = "calibrate again: measure_power.py calibrate"


@dataclass(frozen=True)
class Calibration:
    """A calibration of one sensor.

    Attributes:
        sensor: The sensor's name.
        simulated: Whether its values are made up.
        rails: What was fitted, in the order of the channels.
        made: How: `load`, `detail`, `seconds`, `seed`, and per rail `pulses` and `missed`.
        machine: Where: `board_id` and more, as `edgejoule.machine` tells.
        configuration: How the sensor was set (`Sensor.configuration`).
        versions: Of this project and its libraries.
        wall_ns: When, ns since 1970.
        against: Per rail what a comparison with an external meter gave; None: there was none.
    """

    sensor: str
    simulated: bool
    rails: tuple[RailCalibration, ...]
    made: dict[str, Any]
    machine: dict[str, Any]
    configuration: dict[str, Any]
    versions: dict[str, Any]
    wall_ns: int
    against: dict[str, Any] | None = None

    def rail(self, name: str) -> RailCalibration | None:
        """Return a rail's calibration, None if it was not calibrated."""
        return next((rail for rail in self.rails if rail.rail == name), None)

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rails"}
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            **plain,
            "rails": [rail_json(rail) for rail in self.rails],
        }


def rail_json(rail: RailCalibration) -> dict[str, Any]:
    """Return one rail as plain values."""
    return {
        "rail": rail.rail,
        "quantity": rail.quantity,
        "unit": rail.unit,
        "parameters": {
            p.name: {"unit": p.unit, "value": p.value, "low": p.low, "high": p.high, "why": p.why}
            for p in rail.parameters
        },
        "groups": [{**asdict(group), "members": list(group.members)} for group in rail.groups],
        "model": None if rail.model is None else asdict(rail.model),
        "facts": rail.facts,
    }


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write the file whole or not at all.

    Raises:
        MeasurementError: A figure is not finite, or the disk is full.
        UsageError: The folder cannot be written.
    """
    document = calibration.to_json()
    try:
        json.dumps(document, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise MeasurementError(f"this calibration cannot be written ({error})", _MEND) from error
    with disk_errors(path.parent):
        write_json(path, document)


def read_calibration(path: Path) -> Calibration:
    """Read a file back.

    Raises:
        MeasurementError: It cannot be read, is damaged, of another kind or version, or holds what
            is no figure.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise MeasurementError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise MeasurementError(f"{path} is damaged ({error})", _MEND) from error
    try:
        document = json.loads(text, parse_constant=_no_number)
        return _calibration(_object(document, "the file"))
    except EdgejouleError as error:
        raise MeasurementError(f"{path}: {error.message}", error.mend or _MEND) from error
    except (ValueError, RecursionError) as error:
        raise MeasurementError(f"{path} is damaged ({error})", _MEND) from error


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no figure")


def _calibration(document: Mapping[str, Any]) -> Calibration:
    if document.get("schema") != SCHEMA:
        raise MeasurementError(f"it is no {SCHEMA} file", "give a file that `calibrate` wrote")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise MeasurementError(
            f"its version is {document.get('schema_version')!r}, this program reads "
            f"{SCHEMA_VERSION}"
        )
    against = document.get("against")
    simulated = document.get("simulated")
    if not isinstance(simulated, bool):
        raise MeasurementError("it does not say whether its sensor is simulated")
    return Calibration(
        sensor=_text(document.get("sensor"), "sensor"),
        simulated=simulated,
        rails=tuple(_rail(item) for item in _list(document.get("rails"), "rails")),
        made=dict(_object(document.get("made"), "made")),
        machine=dict(_object(document.get("machine"), "machine")),
        configuration=dict(_object(document.get("configuration"), "configuration")),
        versions=dict(_object(document.get("versions"), "versions")),
        wall_ns=int(_number(document.get("wall_ns"), "wall_ns")),
        against=None if against is None else dict(_object(against, "against")),
    )


def _rail(item: Any) -> RailCalibration:
    given = _object(item, "a rail")
    name = _text(given.get("rail"), "rail")
    table = _object(given.get("parameters"), f"{name}: parameters")
    if set(table) != set(PARAMETERS):
        odd = ", ".join(sorted(set(table) ^ set(PARAMETERS)))
        raise MeasurementError(f"{name}: its parameters are not those of this version ({odd})")
    model = given.get("model")
    facts = _object(given.get("facts"), f"{name}: facts")
    return RailCalibration(
        rail=name,
        quantity=_text(given.get("quantity"), f"{name}: quantity"),
        unit=_text(given.get("unit"), f"{name}: unit"),
        parameters=tuple(_parameter(p, table[p], f"{name}: {p}") for p in PARAMETERS),
        groups=tuple(_group(g, name) for g in _list(given.get("groups"), f"{name}: groups")),
        model=None if model is None else _model(model, name),
        facts={key: _number(value, f"{name}: {key}") for key, value in facts.items()},
    )


def _parameter(name: str, item: Any, where: str) -> Parameter:
    given = _object(item, where)
    value, low, high = (
        None if given.get(key) is None else _number(given[key], f"{where}: {key}")
        for key in ("value", "low", "high")
    )
    ends = -math.inf if low is None else low, math.inf if high is None else high
    if not ends[0] <= ends[1] or (value is not None and not ends[0] <= value <= ends[1]):
        raise MeasurementError(f"{where}: the interval does not hold its value")
    unit, why = (_text(given.get(key), f"{where}: {key}") for key in ("unit", "why"))
    return Parameter(name, unit, value, low, high, why)


def _group(item: Any, name: str) -> Group:
    given = _object(item, f"{name}: a group")
    members = tuple(_text(m, f"{name}: a member") for m in _list(given.get("members"), name))
    known = _text(given.get("known"), f"{name}: a group")
    if not {*members, known} <= set(PARAMETERS):
        raise MeasurementError(f"{name}: a group names what is no parameter")
    return Group(members, known, _text(given.get("why"), f"{name}: a group"))


def _model(item: Any, name: str) -> SensorParameters:
    given = _object(item, f"{name}: model")
    known = {field.name for field in fields(SensorParameters)}
    if set(given) != known:
        raise MeasurementError(f"{name}: its model is not of this version")
    return SensorParameters(**{k: _number(v, f"{name}: model {k}") for k, v in given.items()})


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MeasurementError(f"{where} is no object")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise MeasurementError(f"{where} is no list")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise MeasurementError(f"{where} is no text")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise MeasurementError(f"{where} is no number")
    try:
        number = float(value)
    except OverflowError as error:
        raise MeasurementError(f"{where} is no finite number") from error
    if not math.isfinite(number):
        raise MeasurementError(f"{where} is no finite number")
    return number
