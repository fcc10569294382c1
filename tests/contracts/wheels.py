"""What torch_tensorrt's Python files define, read from wheels as text; nothing is imported.

Most wheels of torch_tensorrt cannot be imported without TensorRT's libraries and a driver, and one
machine holds one version. Their sources say what there is: classes, methods, attributes assigned to
`self`, parameters, constants. What this proves: that the names of `torch_names.RELIANCES` are
defined where the table says and in the versions it says. What it does not: what they do.

    python -m tests.contracts.wheels FILE.whl...    another release: prints where it disagrees
"""

from __future__ import annotations

import ast
import functools
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgejoule.inference.trt.torch_names import RELIANCES, Reliance, version_of

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Wheel:
    """A wheel, as the file or unpacked in a folder."""

    def __init__(self, path: Path) -> None:
        self._root = path if path.is_dir() else zipfile.Path(path)
        self.version = self._version()

    def _version(self) -> str:
        """Return the version that the wheel's own metadata names."""
        for entry in self._root.iterdir():
            if entry.name.endswith(".dist-info"):
                lines = (entry / "METADATA").read_text(encoding="utf-8").splitlines()
                return next(line[9:] for line in lines if line.startswith("Version: "))
        raise ValueError(f"{self._root} is no wheel: no .dist-info in it")

    @functools.cache  # noqa: B019  # a wheel lives as long as a test
    def tree(self, file: str) -> ast.Module | None:
        """Return a file's syntax tree, None if there is no such file."""
        entry = self._root.joinpath(*file.split("/"))
        return ast.parse(entry.read_text(encoding="utf-8")) if entry.is_file() else None

    def has(self, entry: Reliance) -> bool:
        """Whether one of the entry's files defines the name as what the table says it is."""
        trees = [self.tree(file.strip()) for file in entry.file.split("|")]
        return any(_defines(tree, entry) for tree in trees if tree is not None)

    def parameters(self, file: str, function: str) -> dict[str, bool]:
        """Return a function's parameters with whether each can be left out, in order.

        `**name` stands for any further keyword.
        """
        tree = self.tree(file)
        found = _function(tree, function) if tree is not None else None
        if found is None:
            raise ValueError(f"torch_tensorrt {self.version} has no {function} in {file}")
        return _parameters(found)


def _defines(tree: ast.Module, entry: Reliance) -> bool:
    owner, _, name = entry.name.rpartition(".")
    if entry.kind == "function":
        return _function(tree, entry.name) is not None
    if entry.kind == "class":
        return _class(tree, entry.name) is not None
    if entry.kind == "parameter":
        function = _function(tree, owner)
        return function is not None and name in _parameters(function)
    if entry.kind == "constant":
        return entry.name in _constants(tree)
    defined_in = _class(tree, owner)
    if defined_in is None:
        return False
    if entry.kind == "method":
        return any(isinstance(one, _Function) and one.name == name for one in defined_in.body)
    return name in _attributes(defined_in)


def _top_level(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements that run on import, those within `if`, `try` and `with` too."""
    for one in body:
        yield one
        for field in ("body", "orelse", "finalbody"):
            if isinstance(one, (ast.If, ast.Try, ast.With)):
                yield from _top_level(getattr(one, field, []))
        if isinstance(one, ast.Try):
            for handler in one.handlers:
                yield from _top_level(handler.body)


def _function(tree: ast.Module, name: str) -> _Function | None:
    for one in _top_level(tree.body):
        if isinstance(one, _Function) and one.name == name:
            return one
    return None


def _class(tree: ast.Module, name: str) -> ast.ClassDef | None:
    for one in _top_level(tree.body):
        if isinstance(one, ast.ClassDef) and one.name == name:
            return one
    return None


def _parameters(function: _Function) -> dict[str, bool]:
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    required = len(positional) - len(given.defaults)
    found = {one.arg: index >= required for index, one in enumerate(positional)}
    for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        found[one.arg] = default is not None
    if given.kwarg is not None:
        found[f"**{given.kwarg.arg}"] = True
    return found


def _assigned(statement: ast.AST) -> Iterator[ast.expr]:
    """Yield what a statement assigns to, tuples taken apart."""
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = list(statement.targets)
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    while targets:
        target = targets.pop()
        if isinstance(target, (ast.Tuple, ast.List)):
            targets.extend(target.elts)
        else:
            yield target


def _constants(tree: ast.Module) -> set[str]:
    """Return names assigned at the top of a file, and those in the bodies of its classes."""
    found = set()
    for one in _top_level(tree.body):
        inner = one.body if isinstance(one, ast.ClassDef) else [one]
        for statement in inner:
            found |= {target.id for target in _assigned(statement) if isinstance(target, ast.Name)}
    return found


def _attributes(owner: ast.ClassDef) -> set[str]:
    """Return attributes assigned to `self` in any method, or named in the body of the class."""
    found = set()
    for statement in owner.body:
        found |= {target.id for target in _assigned(statement) if isinstance(target, ast.Name)}
        if isinstance(statement, _Function) and any(
            isinstance(one, ast.Name) and one.id == "property" for one in statement.decorator_list
        ):
            found.add(statement.name)
    for node in ast.walk(owner):
        for target in _assigned(node):
            if (
                isinstance(target, ast.Attribute)
                and isinstance(target.value, ast.Name)
                and target.value.id == "self"
            ):
                found.add(target.attr)
    return found


def expected(entry: Reliance, version: str) -> bool:
    """Whether that version must have the name, by the table."""
    numbers = version_of(version)
    return (entry.since is None or numbers >= entry.since) and (
        entry.until is None or numbers < entry.until
    )


def disagreements(wheel: Wheel, table: Iterable[Reliance] = RELIANCES) -> list[str]:
    """Return where a wheel is not what the table says, one line each."""
    found = []
    for entry in table:
        there, wanted = wheel.has(entry), expected(entry, wheel.version)
        what = f"{entry.kind} {entry.name} in {entry.file}"
        if wanted and not there:
            found.append(f"torch_tensorrt {wheel.version} has no {what} ({entry.why})")
        elif there and not wanted:
            found.append(
                f"torch_tensorrt {wheel.version} has {what}, which it lacks by the table "
                f"(since {entry.since}, until {entry.until})"
            )
    return found


def main(files: list[str]) -> int:
    """Print where wheels disagree with the table; 1 if any does."""
    status = 0
    for file in files:
        wheel = Wheel(Path(file))
        lines = disagreements(wheel)
        print("\n".join(lines) or f"torch_tensorrt {wheel.version}: {len(RELIANCES)} names agree")
        status = max(status, bool(lines))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
