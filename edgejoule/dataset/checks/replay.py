"""Whether the segments of a replay pass make sense: their order, their phase, what they repeat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.dataset.checks.common import first
from edgejoule.dataset.findings import Finding
from edgejoule.files import read_json
from edgejoule.records import REPLAY_KINDS

if TYPE_CHECKING:
    import numpy as np

_OF_A_LAYER = ("layer", "duplicate")


def check_replay(path: Path, run: dict[str, Any], layers: int, sound: set[str]) -> list[Finding]:
    """Check `replay.parquet`.

    Args:
        path: The file.
        run: `run.json`.
        layers: How many layers the engine has; 0: not known.
        sound: The files that may be opened.
    """
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    kind = np.array(table["kind"].cast("string").to_pylist(), dtype=object)
    unknown = np.flatnonzero(~np.isin(kind, REPLAY_KINDS))
    if len(unknown):
        return [Finding(path.name, f"has an unknown kind {kind[unknown[0]]!r} (row {unknown[0]})")]
    named = table["layer"].is_valid().to_numpy()
    layer = table["layer"].fill_null(0).to_numpy()
    start, end = table["start_ns"].to_numpy(), table["end_ns"].to_numpy()
    copies, turn = table["copies"].to_numpy(), table["round"].to_numpy()
    iterations = table["iterations"].to_numpy()
    of_layer, idle = np.isin(kind, _OF_A_LAYER), kind == "idle"
    single = (copies < 1) | ((kind != "duplicate") & (copies != 1))
    outside = (layer < 0) | ((layer >= layers) & bool(layers))
    checks: list[tuple[str, np.ndarray]] = [
        ("ends no later than it starts", end <= start),
        ("starts before the segment before it ends", np.append(False, start[1:] < end[:-1])),
        ("outside of phase replay", ~_inside(start, end, run)),
        ("a layer or copies that its kind has not", (named != of_layer) | single),
        ("a layer that engine.json lacks", named & outside),
        ("repeats nothing, or idles with something to do", (iterations > 0) == idle),
        ("has a negative round or number of executions", (turn < 0) | (iterations < 0)),
    ]
    problems = [first(what, np.flatnonzero(wrong)) for what, wrong in checks]
    problems += _plan_problems(path, kind, layer, turn, sound)
    return [Finding(path.name, problem) for problem in problems if problem]


def _inside(start: np.ndarray, end: np.ndarray, run: dict[str, Any]) -> np.ndarray:
    """Return which segments lie within a span of the phase; an open span has no end."""
    import numpy as np

    inside = np.zeros(len(start), dtype=bool)
    for span in run["phases"]:
        if span["phase"] == "replay":
            last = np.inf if span["end_ns"] is None else span["end_ns"]
            inside |= (start >= span["start_ns"]) & (end <= last)
    return inside


def _plan_problems(
    path: Path, kind: np.ndarray, layer: np.ndarray, turn: np.ndarray, sound: set[str]
) -> list[str | None]:
    """Hold the segments against what the measuring process says that it repeated."""
    import numpy as np

    if "measure.json" not in sound:
        return []
    said = read_json(path.parent / "measure.json").get("replay")
    if not isinstance(said, dict) or not isinstance(said.get("groups"), list):
        return []
    firsts = {group[0] for group in said["groups"] if group}
    alone = kind == "layer"
    strange = np.flatnonzero(alone & ~np.isin(layer, list(firsts)))
    problems = [first("a layer alone that stands for no group of measure.json", strange)]
    if isinstance(said.get("segments"), int) and said["segments"] != len(kind):
        problems.append(f"has {len(kind)} segments, measure.json says {said['segments']}")
    left_out = {int(number) for number in said.get("left_out") or {}}
    silent = sorted(firsts - left_out - set(layer[alone].tolist()))
    if silent:
        problems.append(f"layer {silent[0]} was never repeated, and measure.json does not say why")
    return problems
