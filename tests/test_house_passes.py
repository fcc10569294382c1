"""What the second pass leaves out: a test runs there unless it is marked, and the mark says why."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FILES = sorted(HERE.glob("test_*.py"))
# What the second pass is for, numpy above all: single tests of these may be left out, no file may.
ALWAYS = re.compile(
    r"test_(core|dataset|energy|experiment|house|memory|power|report|tables|verify)_"
)


def marks(path: Path, name: str) -> list[ast.Call | ast.Attribute]:
    """Return where `pytest.mark.<name>` stands in a file, with its call if it is called."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return [
        calls.get(id(node), node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == name
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "mark"
    ]


def reason(mark: ast.AST) -> str:
    if (
        isinstance(mark, ast.Call)
        and len(mark.args) == 1
        and isinstance(mark.args[0], ast.Constant)
    ):
        return str(mark.args[0].value)
    return ""


def test_what_is_left_out_has_its_reason() -> None:
    named = [path for path in FILES if "mark.once" in path.read_text(encoding="utf-8")]
    without = [
        f"{path.name}:{mark.lineno}"
        for path in named
        for mark in marks(path, "once")
        if len(reason(mark)) < 20
    ]
    assert without == []
    assert named


def test_no_file_of_what_the_second_pass_is_for_is_left_out_whole() -> None:
    whole = [
        path.name
        for path in FILES
        if ALWAYS.match(path.name) and "mark.once" in path.read_text(encoding="utf-8")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and "mark.once" in ast.unparse(node)
    ]
    assert whole == []
    assert sum(bool(ALWAYS.match(path.name)) for path in FILES) > 60


def test_a_mark_is_found_with_and_without_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "test_x.py"
    file.write_text(
        "import pytest\n@pytest.mark.once\ndef test_a(): pass\n"
        "@pytest.mark.once('because it is long')\ndef test_b(): pass\n"
    )
    assert sorted(reason(mark) for mark in marks(file, "once")) == ["", "because it is long"]


def test_the_script_leaves_out_by_this_mark_alone() -> None:
    text = (ROOT / "run_tests.sh").read_text(encoding="utf-8")
    assert re.findall(r'tests "\$\{\w+\}" "([^"]*)"', text) == ["(once or not once)", "not once"]
