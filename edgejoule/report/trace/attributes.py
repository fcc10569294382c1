"""What a click on a layer shows: what it is, what it costs, and by which method that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgejoule.energy.rollup import Rollup
from edgejoule.report.energies import best_of
from edgejoule.report.tables import RunTables
from edgejoule.report.text import printable
from edgejoule.report.trace.packets import LONGEST_NAME

_PLAIN = ("type", "operation", "tactic", "flops", "bytes_moved", "weights", "groups")
_LISTS = ("kernel", "stride", "padding", "dilation", "fused", "modules")


def layer_values(item: Mapping[str, Any], index: int) -> dict[str, object]:
    """Return a layer's attributes as annotations.

    Args:
        item: The layer of `engine.json`, empty where it has none.
        index: Its number.
    """
    found: dict[str, object] = {"layer": index}
    name = str(item.get("name", ""))
    if printable(name, LONGEST_NAME) != name:  # what the slice itself is called is not all of it
        found["name"] = name
    path = item.get("module_path")
    found["module_path"] = "unmapped" if path is None else str(path) or "(the model)"
    for key in ("inputs", "outputs"):
        if told := _tensors(item.get(key)):
            found[key] = told
    for key in _PLAIN:
        if item.get(key) is not None:
            found[key] = _plain(item[key])
    for key in _LISTS:
        value = item.get(key)
        if isinstance(value, list) and value:
            found[key] = " x ".join(map(str, value)) if key == "kernel" else _joined(value)
    return found


def energies(run: RunTables) -> dict[int, dict[str, object]]:
    """Return each layer's energy as annotations: the best method's, on the rail of the run."""
    best = best_of(run.rollups)
    return {} if best is None else _by_layer(best, run)


def _by_layer(best: Rollup, run: RunTables) -> dict[int, dict[str, object]]:
    found: dict[int, dict[str, object]] = {}
    for piece in best.pieces:
        told: dict[str, object] = {
            "method": best.method,
            "rail": best.rail,
            "what": "mean per execution in the profiled pass; half-widths of 95 % intervals "
            "within this process",
        }
        if run.simulated:
            told["marks"] = "SIMULATED power"
        amount = piece.amount
        if piece.kind == "layer":
            told["gross_mj"] = amount.gross_mj
            told["gross_half_mj"] = amount.gross_half_mj
            told["dynamic_mj"] = amount.dynamic_mj
            told["dynamic_half_mj"] = amount.dynamic_half_mj
            told["systematic_mj"] = amount.systematic_mj
            told["resolved"] = _resolved(piece.resolved, amount.gross_mj)
        else:
            told["resolved"] = "not resolved"
            if len(piece.layers) > 1:
                others = ", ".join(map(str, piece.layers))
                told["resolved"] = f"not resolved: known only together, layers {others}"
            told["group_gross_mj"] = amount.gross_mj
            told["group_gross_half_mj"] = amount.gross_half_mj
            told["group_dynamic_mj"] = amount.dynamic_mj
        if piece.why:
            told["why"] = piece.why
        for layer in piece.layers:
            found[layer] = told
    return found


def _resolved(resolved: bool | None, gross_mj: float | None) -> str:
    if gross_mj is None:
        return "not resolved: no figure"
    if resolved is None:
        return "the method does not ask"
    return "resolved" if resolved else "not resolved"


def _tensors(value: object) -> str:
    """Return tensors in words: `1x3x224x224 float32; 1000 float32`."""
    told = []
    for one in value if isinstance(value, Sequence) and not isinstance(value, str) else ():
        if isinstance(one, Mapping):
            shape = one.get("shape")
            size = "x".join(map(str, shape)) if isinstance(shape, list) else "shape unknown"
            words = (size or "scalar", one.get("dtype"))
            told.append(" ".join(str(word) for word in words if word))
    return "; ".join(told)


def _plain(value: object) -> object:
    return value if isinstance(value, (int, float, str)) else str(value)


def _joined(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
