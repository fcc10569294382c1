"""Prints every public name of TensorRT's Python module as one JSON object.

Run by `bindings.py` in the interpreter of the bindings, which has nothing but the standard library.
`{"version": ..., "names": {"IProfiler.report_layer_time": [kind, first line of its docstring]}}`; a
kind is `class`, `function`, `property`, `read-only property`, or `value`.
"""

from __future__ import annotations

import json

import tensorrt_bindings as tensorrt


def kind_of(value: object) -> str:
    """Return what a name stands for."""
    if isinstance(value, property):
        return "read-only property" if value.fset is None else "property"
    if isinstance(value, type):
        return "class"
    return "function" if callable(value) else "value"


def signature_of(value: object) -> str:
    """Return the docstring's lines that are signatures; pybind11 writes one per overload."""
    lines = (getattr(value, "__doc__", None) or "").splitlines()
    return "\n".join(line.strip() for line in lines if "->" in line and "(" in line)


def names_of(owner: object, prefix: str, deeper: int) -> dict[str, list[str]]:
    """Return the public names of a module or class, and of the classes in it."""
    found = {}
    for name in dir(owner):
        value = getattr(owner, name, None)
        if name.startswith("__") and name != "__init__":
            continue
        found[prefix + name] = [kind_of(value), signature_of(value)]
        if isinstance(value, type) and deeper:
            found.update(names_of(value, f"{prefix}{name}.", deeper - 1))
    return found


print(json.dumps({"version": tensorrt.__version__, "names": names_of(tensorrt, "", 2)}))
