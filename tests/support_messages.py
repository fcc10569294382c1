"""Every error message that the code can show a user, found in its syntax tree.

A message is a *template*: its words as they stand in the source, with `...` where a value goes in.
What is put together from several places (a helper's argument, what a function returns) is followed
there when a message has few words of its own.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parent.parent
HOLE = "..."
FEW_LETTERS = 14  # a message with fewer letters of its own is followed to where its words come from
DEEPEST = 4
MOST_VARIANTS = 60
BASE = "EdgejouleError"
CHECK = "Check"  # of the preflight: name, verdict, message, mend

Function = Optional[ast.FunctionDef]  # noqa: UP045 (a value at run time, also on Python 3.10)
Place = tuple[ast.expr, Function]  # an expression and the function that it stands in


@dataclass(frozen=True)
class Message:
    """One error message of the code.

    Attributes:
        template: The words, `...` for what is put in.
        mend: The same of the mend, empty where the message has none of its own.
        where: File and line, for the developer.
    """

    template: str
    mend: str
    where: str


@dataclass
class _Module:
    path: str
    calls: dict[str, list[tuple[ast.Call, Function]]]  # of all modules, by the name that is called
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    constants: dict[str, ast.expr] = field(default_factory=dict)
    own: list[tuple[ast.Call, Function]] = field(default_factory=list)


def sources() -> list[Path]:
    """Return the files whose messages users meet: package, models, scripts, the image's entry."""
    folders = [*(ROOT / "edgejoule").rglob("*.py"), *(ROOT / "model").rglob("*.py")]
    return sorted([*folders, *ROOT.glob("*.py"), ROOT / "docker" / "entrypoint.py"])


def messages(paths: Iterable[Path] | None = None) -> list[Message]:
    """Return all messages, in the order of files and lines; equal ones of one file once."""
    trees = {path: ast.parse(path.read_text("utf-8")) for path in (paths or sources())}
    errors = _error_classes(trees.values())
    calls: dict[str, list[tuple[ast.Call, Function]]] = {}
    modules = [_read(path, tree, calls) for path, tree in trees.items()]
    found: dict[tuple[str, str], Message] = {}
    for module in modules:
        for call, function in module.own:
            name = _called(call)
            if name in errors or (name == CHECK and _stands_in_the_way(call)):
                first = 2 if name == CHECK else 0
                for template, mend in _texts(call, function, module, first):
                    where = f"{module.path}:{call.lineno}"
                    found.setdefault((module.path, template), Message(template, mend, where))
    return list(found.values())


def letters(text: str) -> int:
    """Return how many letters a template has of its own."""
    return sum(letter.isascii() and letter.isalpha() for letter in text)


def _error_classes(trees: Iterable[ast.Module]) -> set[str]:
    classes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    known, before = {BASE}, 0
    while len(known) != before:
        before = len(known)
        known |= {each.name for each in classes if any(_name(base) in known for base in each.bases)}
    return known


def _read(
    path: Path, tree: ast.Module, calls: dict[str, list[tuple[ast.Call, Function]]]
) -> _Module:
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    module = _Module(name, calls)
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            module.constants[statement.targets[0].id] = statement.value
    waiting: list[tuple[ast.AST, Function]] = [(tree, None)]
    while waiting:
        node, function = waiting.pop()
        if isinstance(node, ast.FunctionDef):
            module.functions[node.name] = node
            function = node
        elif isinstance(node, ast.Call):
            module.own.append((node, function))
            calls.setdefault(_called(node), []).append((node, function))
        waiting += [(child, function) for child in ast.iter_child_nodes(node)]
    module.own.sort(key=lambda each: each[0].lineno)
    return module


def _stands_in_the_way(call: ast.Call) -> bool:
    verdict = call.args[1] if len(call.args) > 2 else None
    return isinstance(verdict, ast.Constant) and verdict.value in ("warning", "blocks")


def _texts(
    call: ast.Call, function: Function, module: _Module, first: int
) -> list[tuple[str, str]]:
    """Return template and mend of each message that one call can make."""
    if call.args and isinstance(call.args[0], ast.Starred):
        return _pairs(call.args[0].value, module)
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    message = call.args[first] if len(call.args) > first else given.get("message")
    mend = call.args[first + 1] if len(call.args) > first + 1 else given.get("mend")
    if message is None:
        return []
    templates = _follow((message, function), module, 0)
    if not any(letters(template) >= FEW_LETTERS for template in templates):
        templates = _follow((message, function), module, DEEPEST)
    mends = [""] if mend is None else _follow((mend, function), module, 1)
    return [(template, mends[0]) for template in dict.fromkeys(templates)]


def _pairs(value: ast.expr, module: _Module) -> list[tuple[str, str]]:
    """Return message and mend of `Error(*what_a_function_returns())`."""
    body = module.functions.get(_called(value))
    found = []
    for node in ast.walk(body) if body else ():
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
            texts = [_follow((part, body), module, DEEPEST)[0] for part in node.value.elts[:2]]
            found.append((texts[0], (*texts, "")[1]))
    return found


def _follow(place: Place, module: _Module, depth: int) -> list[str]:
    """Return the templates that an expression can be, following names and calls `depth` steps."""
    node, function = place
    if isinstance(node, ast.Constant):
        return [HOLE if node.value is None else str(node.value)]
    if isinstance(node, ast.JoinedStr):
        own = "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        depth = depth if letters(own) < FEW_LETTERS // 2 else 0
        parts = [
            part.value if isinstance(part, ast.FormattedValue) else part for part in node.values
        ]
        return _joined([_follow((part, function), module, depth) for part in parts])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = (node.left, node.right)
        return _joined([_follow((side, function), module, depth) for side in sides])
    choices: Sequence[ast.expr] = ()
    if isinstance(node, ast.IfExp):
        choices = (node.body, node.orelse)
    elif isinstance(node, ast.BoolOp):
        choices = node.values
    meant = [(each, function) for each in choices]
    if not choices and depth > 0:
        meant = list(_meanings(node, function, module))
        depth -= 1
    texts = [text for each in meant for text in _follow(each, module, depth)]
    return list(dict.fromkeys(texts))[:MOST_VARIANTS] or [HOLE]


def _meanings(node: ast.expr, function: Function, module: _Module) -> Iterator[Place]:
    """Yield the expressions that a name or a call of this module stands for."""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr == "join" and node.args:
            parts = node.args[0].elts if isinstance(node.args[0], ast.List) else []
            yield from ((each, function) for each in parts if not isinstance(each, ast.Starred))
            return
        body = module.functions.get(_called(node))
        for inner in ast.walk(body) if body else ():
            returned = inner.value if isinstance(inner, ast.Return) else None
            if returned is not None and not isinstance(returned, ast.Tuple):
                yield returned, body
    elif isinstance(node, ast.Subscript):
        yield node.value, function
    elif isinstance(node, ast.ListComp):
        yield node.elt, function
    elif isinstance(node, ast.Name):
        if function is not None:
            yield from ((value, function) for value in _assigned(node.id, function))
            yield from _arguments(node.id, function, module)
        if node.id in module.constants:
            yield module.constants[node.id], None


def _assigned(name: str, function: ast.FunctionDef) -> Iterator[ast.expr]:
    for node in ast.walk(function):
        targets: Sequence[ast.expr] = ()
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.NamedExpr):
            targets = (node.target,)
        if any(_name(target) == name for target in targets):
            yield node.value  # type: ignore[attr-defined]


def _arguments(name: str, function: ast.FunctionDef, module: _Module) -> Iterator[Place]:
    names = [argument.arg for argument in function.args.args]
    if name not in names:
        return
    position = names.index(name) - (names[0] == "self")
    # A private helper is called in its own module; a public one from anywhere.
    private = function.name.startswith("_")
    calls = module.own if private else module.calls.get(function.name, [])
    for call, caller in calls:
        if _called(call) == function.name:
            named = [keyword.value for keyword in call.keywords if keyword.arg == name]
            given = named or call.args[position : position + 1]
            yield from ((value, caller) for value in given)


def _joined(parts: Sequence[Sequence[str]]) -> list[str]:
    combined = itertools.islice(itertools.product(*parts), MOST_VARIANTS)
    texts = (re.sub(r"(\.\.\.){2,}", HOLE, "".join(each)) for each in combined)
    return list(dict.fromkeys(texts))


def _called(node: ast.expr) -> str:
    return _name(node.func) if isinstance(node, ast.Call) else ""


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""
