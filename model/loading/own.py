"""One's own model: a function of a Python file, or a program that `torch.export.save` wrote.

Both run what the file holds, with the rights of whoever starts the measurement: load only files
that you would also run.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any

from edgejoule.errors import UsageError
from edgejoule.inference.workload import LoadedModel, ModelRequest
from model.loading.spec import Spec, one_line, sha256_of, shape_text


def load_function(spec: Spec, request: ModelRequest) -> LoadedModel:
    """Call `file.py:function` and load what it returns.

    It returns an `nn.Module` (input 1x3x224x224 unless asked otherwise), a pair (module, example
    inputs), or a `LoadedModel`.

    Raises:
        UsageError: The file or the function raises, is missing, returns nothing usable, or the
            module does not run with its inputs.
    """
    path, function = _function_of(spec)
    digest = sha256_of(path)
    made = _call(spec.text, function)
    source = {"file": path.name, "function": spec.function, "sha256": digest}
    if isinstance(made, LoadedModel):
        return _adopt(spec, request, made, source)
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    _need_module(spec, module)
    from model.loading.tensors import DEFAULT_SHAPE, as_arguments, flatten

    mend = "give --input-shape, or return (module, example_inputs)"
    if example is None:
        import torch

        asked = request.input_shape
        example = torch.zeros(DEFAULT_SHAPE if asked is None else asked)
    else:
        mend = "see that the example inputs fit the module"
    args, kwargs = as_arguments(example)
    module.to("cpu").eval().requires_grad_(requires_grad=False)
    flat, tensors, names = flatten(module, args, kwargs)
    return _finish(spec, request, flat, tensors, names, source, mend)


def load_program(spec: Spec, request: ModelRequest) -> LoadedModel:
    """Load a program that `torch.export.save` wrote.

    Raises:
        UsageError: torch is not installed, the file is no such program, or the shape does not fit.
    """
    assert spec.path is not None  # noqa: S101 (narrowing: a program's spec has a path)
    _need_torch(spec)
    import torch.export

    try:
        program = torch.export.load(str(spec.path))
    except Exception as error:  # whatever unpickling and deserialising raise
        raise UsageError(
            f"{spec.path} cannot be loaded as an exported program ({one_line(error)})",
            "write it with torch.export.save and this torch",
        ) from error
    if program.example_inputs is None:
        raise UsageError(
            f"{spec.path} holds no example inputs", "write it again with torch.export.save"
        )
    args, kwargs = program.example_inputs
    source = {"file": spec.path.name, "sha256": sha256_of(spec.path), "torch": torch.__version__}
    from model.loading.tensors import flatten

    runnable = program.module()
    flat, tensors, names = flatten(runnable, tuple(args), dict(kwargs))
    if flat is runnable:  # nothing to rebuild: backends take the program itself
        names = list(program.graph_signature.user_inputs)
        return _finish(spec, request, program, tensors, names, source, "")
    return _finish(spec, request, flat, tensors, names, source, "")


def _finish(
    spec: Spec,
    request: ModelRequest,
    module: Any,
    tensors: list[Any],
    names: list[str],
    source: dict[str, Any],
    mend: str,
    normalisation: dict[str, list[float]] | None = None,
) -> LoadedModel:
    """Give the inputs the asked shape, run the model once, and put it into the asked form."""
    from model.loading.tensors import check_runs, specs_of, with_shape

    own = ", ".join(shape_text(tuple(tensor.shape)) for tensor in tensors)
    sized = with_shape(tensors, request.input_shape)
    if sized is not tensors:
        mend = f"its own shape is {own}"
    runnable = module if hasattr(module, "forward") else module.module()
    check_runs(spec.text, runnable, sized, mend)
    inputs = specs_of(sized, names)
    if request.form == "torch":
        return LoadedModel(spec.name, "torch", module, None, inputs, "user", source, normalisation)
    from model.loading.export import export_onnx

    path = request.directory / f"{spec.name}.onnx"
    paths = export_onnx(spec.text, module, sized, names, path)
    return LoadedModel(spec.name, "onnx", None, path, inputs, "user", source, normalisation, paths)


def _adopt(
    spec: Spec, request: ModelRequest, made: LoadedModel, source: dict[str, Any]
) -> LoadedModel:
    """Take a `LoadedModel` that the user's function returned."""
    source = {**made.source, **source}
    if made.form == "torch":
        from model.loading.tensors import tensors_of

        _need_module(spec, made.module, exported=True)
        names = [item.name for item in made.inputs]
        tensors = tensors_of(made.inputs)
        return _finish(spec, request, made.module, tensors, names, source, "", made.normalisation)
    from dataclasses import replace

    from model.loading.onnx_file import load_onnx
    from model.loading.spec import parse_spec

    loaded = load_onnx(parse_spec(str(made.onnx_path)), request)
    return replace(
        loaded,
        name=spec.name,
        source={**loaded.source, "onnx_sha256": loaded.source["sha256"], **source},
        normalisation=made.normalisation,
        module_paths={**loaded.module_paths, **made.module_paths},
    )


def _need_torch(spec: Spec) -> None:
    try:
        import torch  # noqa: F401
    except (ImportError, OSError) as error:
        raise UsageError(
            f"loading {spec.path} needs torch ({one_line(error)})", "install torch"
        ) from error


def _need_module(spec: Spec, module: Any, *, exported: bool = False) -> None:
    """See that the user's function returned a module."""
    if module is None:
        raise UsageError(f"{spec.text} returns nothing", "let it return the nn.Module")
    _need_torch(spec)
    import torch

    allowed: tuple[type, ...] = (torch.nn.Module,)
    if exported:
        allowed += (torch.export.ExportedProgram,)
    if not isinstance(module, allowed):
        raise UsageError(
            f"{spec.text} returns {type(module).__name__}, not an nn.Module",
            "let it return an nn.Module, (module, example_inputs) or a LoadedModel",
        )


def _function_of(spec: Spec) -> tuple[Path, Any]:
    """Import the user's file and return the function."""
    assert spec.path is not None  # noqa: S101 (narrowing: a function's spec has a path)
    path = spec.path.resolve()
    name = f"edgejoule_user_{path.stem}"
    location = importlib.util.spec_from_file_location(name, path)
    if location is None or location.loader is None:
        raise UsageError(f"{spec.path} cannot be imported", "give a .py file")
    loader = location.loader
    module = importlib.util.module_from_spec(location)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # the file may import its neighbours
    _call(str(spec.path), functools.partial(loader.exec_module, module))
    function = getattr(module, str(spec.function), None)
    if function is None:
        there = ", ".join(_functions_in(path)) or "none"
        raise UsageError(
            f"{spec.path} has no function {spec.function!r}", f"functions there: {there}"
        )
    if not callable(function):
        raise UsageError(f"{spec.text} is no function", "let it be one that returns the nn.Module")
    return spec.path, function


def _functions_in(path: Path) -> list[str]:
    tree = ast.parse(path.read_bytes())
    return [item.name for item in tree.body if isinstance(item, ast.FunctionDef)]


def _call(what: str, function: Any) -> Any:
    """Run the user's code; whatever it raises is the user's to mend."""
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise UsageError(f"{what} raises {one_line(error)}", "--debug shows where") from error
