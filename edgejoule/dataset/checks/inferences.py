"""Whether the inferences of a run make sense: their order, their passes, their phases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.dataset.checks.common import first
from edgejoule.dataset.findings import Finding
from edgejoule.records import PASSES

if TYPE_CHECKING:
    import numpy as np

_COLUMNS = ("index", "start_ns", "end_ns")


def read_inferences(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return the inferences by pass, in the file's order.

    Of each pass `row` (number in the file), `index`, `start_ns`, `end_ns`, `due_ns` (0 where it is
    null) and `due` (whether it is there), each of shape (n,).
    """
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    passes = np.array(table["pass"].cast("string").to_pylist(), dtype=object)
    columns = {key: table[key].to_numpy() for key in _COLUMNS}
    columns["due_ns"] = table["due_ns"].fill_null(0).to_numpy()
    columns["due"] = table["due_ns"].is_valid().to_numpy()
    columns["row"] = np.arange(len(passes))
    return {
        name: {key: values[passes == name] for key, values in columns.items()}
        for name in dict.fromkeys(passes.tolist())
    }


def check_inferences(
    passes: dict[str, dict[str, np.ndarray]], run: dict[str, Any]
) -> list[Finding]:
    """Check `inferences.parquet`; `passes` as `read_inferences` returns them."""
    import numpy as np

    problems: list[str | None] = []
    if unknown := sorted(set(passes) - set(PASSES)):
        problems.append(f"has an unknown pass {unknown[0]!r}")
    for name, one in passes.items():
        late = one["row"][one["end_ns"] < one["start_ns"]]
        problems.append(first("ends before it starts", late))
        holes = one["row"][one["index"] != np.arange(len(one["index"]))]
        problems.append(first(f"indices of pass {name} are not 0, 1, 2, ...", holes))
        spans = [phase for phase in run["phases"] if phase["phase"] == name]
        problems.append(first(f"outside of phase {name}", one["row"][~_inside(one, spans)]))
        problems += _due_problems(name, one)
    if passes:
        rows = np.concatenate([one["row"] for one in passes.values()])
        order = np.argsort(rows)
        start = np.concatenate([one["start_ns"] for one in passes.values()])[order]
        end = np.concatenate([one["end_ns"] for one in passes.values()])[order]
        overlap = np.flatnonzero(start[1:] < end[:-1]) + 1
        problems.append(first("starts before the inference before it ends", overlap))
    counts = {name: len(one["index"]) for name, one in passes.items()}
    for name, count in run["summary"].get("inferences", {}).items():
        if counts.get(name, 0) != count:
            problems.append(f"has {counts.get(name, 0)} {name} inferences, the summary {count}")
    asked = run["config"]["runs"]
    if run["status"] == "complete" and counts.get("profiled", 0) != asked:
        problems.append(f"has {counts.get('profiled', 0)} profiled inferences, asked were {asked}")
    return [Finding("inferences.parquet", problem) for problem in problems if problem]


def _due_problems(name: str, one: dict[str, np.ndarray]) -> list[str | None]:
    import numpy as np

    if name != "rate":
        return [first(f"has a due_ns in pass {name}", one["row"][one["due"]])]
    early = one["row"][one["due"] & (one["start_ns"] < one["due_ns"])]
    back = np.flatnonzero(np.diff(one["due_ns"]) <= 0) + 1
    return [
        first("has no due_ns in pass rate", one["row"][~one["due"]]),
        first("starts before it is due", early),
        first("is due no later than the one before it", one["row"][back]),
    ]


def _inside(one: dict[str, np.ndarray], spans: list[dict[str, Any]]) -> np.ndarray:
    """Return which inferences lie within one of the phase's spans; an open span has no end."""
    import numpy as np

    if not spans:
        return np.zeros(len(one["row"]), dtype=bool)
    limit = np.iinfo(np.int64).max
    starts = np.array([span["start_ns"] for span in spans])
    ends = np.array([limit if span["end_ns"] is None else span["end_ns"] for span in spans])
    which = np.searchsorted(starts, one["start_ns"], side="right") - 1
    return (which >= 0) & (one["end_ns"] <= ends[which])
