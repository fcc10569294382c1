"""What the code takes from the module `tensorrt` stands in the table that the contracts check.

The lane `contracts` holds `RELIED_ON` to the real bindings of nine versions; that is worth as much
as the table is complete. Seen here are names taken from the module itself, `trt.BuilderFlag.TF32`
and `getattr(trt, "IProgressMonitor", None)`; not names of objects that a call returned.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from edgejoule.inference.trt.library import RELIED_ON

ROOT = Path(__file__).resolve().parent.parent
# Of every enum and module; not TensorRT's.
PYTHONS = {"name", "value", "__version__", "__file__", "__path__", "__members__", "__init__"}


def chain(node: ast.AST) -> list[str] | None:
    """Return the names behind `trt`, None if it is no such expression."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return parts if isinstance(node, ast.Name) and node.id == "trt" else None


def used(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of what a source takes from `trt`."""
    for node in ast.walk(ast.parse(source)):
        parts = None
        if isinstance(node, ast.Attribute):
            parts = chain(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            asked = node.args[1] if len(node.args) > 1 else None
            if node.func.id in {"getattr", "hasattr"} and isinstance(asked, ast.Constant):
                owner = chain(node.args[0])
                parts = None if owner is None else [*owner, str(asked.value)]
        name = ".".join(part for part in parts or [] if part not in PYTHONS)
        if name:
            yield node.lineno, name


def test_every_name_used_is_in_the_table() -> None:
    known = {
        ".".join(entry.name.split(".")[:count])
        for entry in RELIED_ON
        for count in range(1, entry.name.count(".") + 2)
    }
    missing = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted((ROOT / "edgejoule").rglob("*.py"))
        for line, name in used(path.read_text(encoding="utf-8"))
        if name not in known
    ]
    assert missing == []


def test_the_scan_sees_both_ways_of_taking_a_name() -> None:
    source = (
        "flag = trt.BuilderFlag.FP16\n"
        "monitor = getattr(trt, 'IProgressMonitor', None)\n"
        "typed = getattr(trt.NetworkDefinitionCreationFlag, 'STRONGLY_TYPED', None)\n"
        "other = torch.cuda.Stream\n"
        "print(trt.__version__)\n"
    )
    assert sorted(set(used(source))) == [
        (1, "BuilderFlag"),
        (1, "BuilderFlag.FP16"),
        (2, "IProgressMonitor"),
        (3, "NetworkDefinitionCreationFlag"),
        (3, "NetworkDefinitionCreationFlag.STRONGLY_TYPED"),
    ]
