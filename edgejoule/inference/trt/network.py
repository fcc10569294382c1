"""From an ONNX file to a TensorRT network: flags, parser, its errors in one line, shapes.

The file is parsed by its path (`OnnxParser.parse_from_file`), so that weights beside it are found.
Names, never numbers: `STRONGLY_TYPED` is 1 in 10.x and 0 in 11.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgejoule.errors import EdgejouleError, UsageError
from edgejoule.inference.trt.engine import DATA_TYPES
from edgejoule.inference.trt.library import version_of
from edgejoule.inference.trt.precision import Typing
from edgejoule.inference.workload import InputSpec

# A network's types are compared with a run's dtype, which does not tell the kinds of fp8 apart.
_DTYPES = {**DATA_TYPES, "FP8": "fp8"}
_UNSUPPORTED = re.compile(
    r"not supported|No importer registered|UNSUPPORTED_NODE|unsupported|[Pp]lugin not found"
)
_TEXT_LIMIT = 200


@dataclass
class Network:
    """A parsed network; the parser owns the weights and must outlive the build.

    Attributes:
        definition: `trt.INetworkDefinition`.
        parser: `trt.OnnxParser`.
        typing: How it is given its precision.
        dtypes: How many of the layers' outputs have which dtype, constants left out.
    """

    definition: Any
    parser: Any
    typing: Typing
    dtypes: dict[str, int]

    def inputs(self) -> list[Any]:
        """Return the input tensors (`trt.ITensor`)."""
        return [self.definition.get_input(i) for i in range(self.definition.num_inputs)]


def parse_network(
    trt: Any, builder: Any, onnx_path: Path, typing: Typing, log: Any, label: str = ""
) -> Network:
    """Parse an ONNX file into a new network.

    Args:
        trt: The module.
        builder: `trt.Builder`.
        onnx_path: The file.
        typing: Of `precision.typing_of`.
        log: Of `make_log`.
        label: What the graph is called in messages; empty: its path.

    Raises:
        UsageError: TensorRT cannot take the graph; every node that it names, with the reason.
    """
    label = label or str(onnx_path)
    if not onnx_path.is_file():
        raise UsageError(f"{onnx_path}: no such file", "give an .onnx file that exists")
    flags = 0
    for name in typing.network_flags:
        flags |= 1 << int(getattr(trt.NetworkDefinitionCreationFlag, name))
    definition = builder.create_network(flags)
    parser = trt.OnnxParser(definition, log)
    taken = parser.parse_from_file(str(onnx_path))
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    # A file that it takes may still leave errors of attempts that another way made good.
    if not taken:
        raise _refusal(trt, onnx_path, label, [_ParserError.of(error) for error in errors], log)
    if definition.num_outputs == 0 or definition.num_layers == 0:
        raise UsageError(f"{label}: the graph computes nothing", "export it again")
    return Network(definition, parser, typing, _dtypes(definition))


@dataclass(frozen=True)
class _ParserError:
    """What the parser says of one node; index -1: of the file."""

    index: int
    name: str
    operator: str
    text: str

    @classmethod
    def of(cls, error: Any) -> _ParserError:
        """Read a `trt.ParserError`: name and operator of the node are not in 8.6."""

        def ask(what: str) -> str:
            found = getattr(error, what, None)
            return str(found()) if found is not None else ""

        text = _plain(str(error.desc()))
        code = str(getattr(error.code(), "name", error.code()))
        # "false" is what an assertion without words leaves; then the kind of error says more.
        if text in {"", "false"}:
            text = f"{code.lower().replace('_', ' ')} (in {ask('func') or 'the parser'})"
        return cls(int(error.node()), ask("node_name"), ask("node_operator"), text)


def _refusal(
    trt: Any, onnx_path: Path, label: str, errors: Sequence[_ParserError], log: Any
) -> EdgejouleError:
    """Return the one line for a graph that the parser does not take.

    Nodes with the same trouble are named together; an operator that TensorRT lacks comes first.
    """
    version = f"TensorRT {trt.__version__}"
    if not errors:
        said = log.last_error() or "without a word"
        return UsageError(f"{version} cannot parse {label} ({said})", "export it again")
    if all(error.index < 0 for error in errors):
        said = "; ".join(dict.fromkeys(error.text for error in errors))
        return UsageError(f"{version} cannot read {label} as ONNX ({said})", "export it again")
    known = (
        _nodes_of(onnx_path) if any(error.index >= 0 and not error.name for error in errors) else {}
    )
    groups: dict[tuple[bool, str, str], list[str]] = {}
    for error in errors:
        name, operator = known.get(error.index, (error.name, error.operator))
        operator = operator or _operator_in(error.text)
        lacks = bool(_UNSUPPORTED.search(error.text))
        reason = "" if lacks and operator else error.text
        groups.setdefault((not lacks, operator, reason), []).append(name or f"node {error.index}")
    parts = []
    for (_, operator, reason), nodes in sorted(groups.items()):
        where = ", ".join(nodes[:4]) + (f" and {len(nodes) - 4} more" if len(nodes) > 4 else "")
        what = f"operator {operator}" if operator else "an operator"
        parts.append(f"{what} ({where})" + (f": {reason}" if reason else " is not supported"))
    mend = "use --backend onnxruntime or torch-tensorrt, or export the model without it"
    if not any(not key[0] for key in groups):
        mend = "export the model again; run.log has all that the parser said"
    return UsageError(f"{version} cannot take {label}: {'; '.join(parts)}", mend)


def _plain(text: str) -> str:
    """Return a parser's text as one short line without what a user cannot use."""
    lines = [line for line in text.splitlines() if "checkMacros" not in line]
    line = " ".join(" ".join(lines).split())
    line = re.sub(r"\s*In \w+ at \S+:\d+\)?", "", line)
    return line if len(line) <= _TEXT_LIMIT else line[: _TEXT_LIMIT - 3] + "..."


def _operator_in(text: str) -> str:
    found = re.search(r"(?:op|Op type|operator|op type)[: ]+'?(\w+)", text)
    return found[1] if found else ""


def _nodes_of(onnx_path: Path) -> dict[int, tuple[str, str]]:
    """Return name and operator of the nodes by index; empty without the package `onnx`."""
    try:
        import onnx
    except ImportError:
        return {}
    try:
        model = onnx.load(str(onnx_path), load_external_data=False)
    except Exception:  # noqa: BLE001 (protobuf's error has no stable type; the parser's own stands)
        return {}
    return {index: (node.name, node.op_type) for index, node in enumerate(model.graph.node)}


def _dtypes(definition: Any) -> dict[str, int]:
    """Count the dtypes of what layers compute; scales and weights of their own are left out."""
    found: Counter[str] = Counter()
    for index in range(definition.num_layers):
        layer = definition.get_layer(index)
        kind = str(layer.type.name)
        if kind == "CONSTANT":
            continue
        for output in range(layer.num_outputs):
            tensor = layer.get_output(output)
            if tensor is None:
                continue
            dtype = _dtype(tensor)
            # Before the build a weakly typed network may call it float (NVIDIA/TensorRT issues
            # 2941, 2962, 3844); there it quantises to int8 alone.
            if kind == "QUANTIZE" and dtype in {"float32", "float16"}:
                dtype = "int8"
            found[dtype] += 1
    return dict(sorted(found.items()))


def _dtype(tensor: Any) -> str:
    name = str(tensor.dtype.name)
    return _DTYPES.get(name, name.lower())


def check_types(network: Network, dtype: str, label: str, *, explicit: bool) -> None:
    """Refuse a graph that is typed otherwise than what is asked for.

    In a strongly typed network the graph alone decides: float32 asked for a graph in float16 would
    run, and be called, what it is not.

    Args:
        network: The parsed network.
        dtype: What is asked for.
        label: What the graph is called in messages.
        explicit: Whether the graph is to carry Q/DQ.

    Raises:
        UsageError: The graph has other floating types than the dtype, or nothing quantised.
    """
    reduced = sorted({"float16", "bfloat16"} & set(network.dtypes))
    if dtype in {"float32", "tf32"} and reduced:
        raise UsageError(
            f"{label} itself is typed {' and '.join(reduced)}, so it cannot run as {dtype}",
            f"use --dtype {reduced[0]}, or export it in float32",
        )
    quantised = sorted({"int8", "fp8"} & set(network.dtypes))
    if quantised and dtype not in {"int8", "fp8"}:
        raise UsageError(
            f"{label} itself is quantised to {quantised[0]}, so it cannot run as {dtype}",
            f"use --dtype {quantised[0]}, or give the graph before it was quantised",
        )
    if explicit and dtype not in network.dtypes:
        raise UsageError(
            f"{label}: no tensor of the parsed graph is {dtype}, so nothing in it is quantised",
            "use --dtype float16, or give a model with convolutions or matrix products",
        )


def set_profile(
    trt: Any,
    builder: Any,
    config: Any,
    network: Network,
    specs: Sequence[InputSpec],
    extra: Mapping[str, Any],
) -> dict[str, dict[str, list[int]]]:
    """Check the inputs against what is asked and give dynamic ones an optimisation profile.

    The builder chooses kernels that are fastest at `opt` and valid from `min` to `max`
    (`IOptimizationProfile`); equal shapes make the dimension a constant.

    Args:
        trt: The module.
        builder: `trt.Builder`.
        config: `trt.IBuilderConfig`, takes the profile.
        network: The parsed network.
        specs: The inputs as they will be measured: name and shape.
        extra: `shape_min`, `shape_max`: a list for the only dynamic input, or name -> list.

    Returns:
        Name -> min, opt, max of each dynamic input; empty if all shapes are fixed.

    Raises:
        UsageError: An input is missing, has another shape, or a dynamic one has no shape.
    """
    tensors = network.inputs()
    asked = {spec.name: spec for spec in specs}
    names = [str(tensor.name) for tensor in tensors]
    if sorted(names) != sorted(asked):
        raise UsageError(
            f"the graph takes the inputs {names}, given are {list(asked)}",
            "dynamic inputs need a shape each: give --input-shape",
        )
    dynamic = [tensor for tensor in tensors if -1 in tuple(tensor.shape)]
    least = _bounds(extra.get("shape_min"), "--shape-min", dynamic)
    most = _bounds(extra.get("shape_max"), "--shape-max", dynamic)
    profile: Any = builder.create_optimization_profile() if dynamic else None
    ranges: dict[str, dict[str, list[int]]] = {}
    for tensor in tensors:
        name, shape = str(tensor.name), tuple(int(dim) for dim in tensor.shape)
        wanted = tuple(asked[name].shape)
        if bool(getattr(tensor, "is_shape_tensor", False)):
            raise UsageError(
                f"input {name!r} decides the shapes of other tensors by its values",
                "export the model with that value fixed",
            )
        if len(wanted) != len(shape) or any(dim is None or dim < 1 for dim in wanted):
            raise UsageError(
                f"input {name!r} of the graph is of shape {list(shape)}, asked is {list(wanted)}",
                f"give --input-shape with {len(shape)} numbers above 0",
            )
        if any(own not in (-1, dim) for own, dim in zip(shape, wanted, strict=True)):
            raise UsageError(
                f"input {name!r} of the graph is of shape {list(shape)}, asked is {list(wanted)}",
                "choose an --input-shape that fits, or export with open dimensions",
            )
        if -1 not in shape:
            continue
        low, high = least.get(name, wanted), most.get(name, wanted)
        _check_range(name, shape, low, wanted, high)
        profile.set_shape(name, low, wanted, high)
        ranges[name] = {"min": list(low), "opt": list(wanted), "max": list(high)}
    if profile is not None and config.add_optimization_profile(profile) < 0:
        raise UsageError(
            f"TensorRT {'.'.join(map(str, version_of(trt)))} refuses the shapes {ranges}",
            "run.log says why",
        )
    if profile is not None and getattr(config, "int8_calibrator", None) is not None:
        config.set_calibration_profile(profile)
    return ranges


def _bounds(given: Any, flag: str, dynamic: Sequence[Any]) -> dict[str, tuple[int, ...]]:
    """Return the bound of each dynamic input that was given one."""
    if given is None:
        return {}
    names = [str(tensor.name) for tensor in dynamic]
    if not names:
        raise UsageError(f"{flag}: the graph has no dynamic input", "leave it out")
    if not isinstance(given, Mapping):
        if len(names) > 1:
            raise UsageError(
                f"{flag}: the graph has {len(names)} dynamic inputs ({', '.join(names)})",
                "export all but one of them with fixed shapes",
            )
        given = {names[0]: given}
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise UsageError(f"{flag}: no dynamic input {unknown[0]!r}", f"it has {', '.join(names)}")
    return {name: tuple(int(dim) for dim in shape) for name, shape in given.items()}


def _check_range(
    name: str,
    shape: tuple[int, ...],
    low: tuple[int, ...],
    wanted: tuple[int, ...],
    high: tuple[int, ...],
) -> None:
    fits = len(low) == len(shape) == len(high) and all(
        (1 <= a <= b <= c) and (own == -1 or a == b == c)
        for own, a, b, c in zip(shape, low, wanted, high, strict=True)
    )
    if not fits:
        raise UsageError(
            f"input {name!r} {list(shape)}: shapes from {list(low)} to {list(high)} do not hold "
            f"the run's {list(wanted)}",
            "--shape-min must be at most, --shape-max at least --input-shape in every dimension, "
            "and equal to it where the graph's is fixed",
        )
