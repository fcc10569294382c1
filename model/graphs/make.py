"""Write the kept graphs from the real definitions: `python -m model.graphs.make [--output DIR]`.

Each network of the demo is built with random weights, exported, and stripped: weights become
inputs of the graph with a note how to draw them again, and of the nodes' metadata only the
modules' names stay (the exporter also notes lines of source with paths of the machine). The note
is checked here against the exported values, so a file that would be filled wrongly is not written.
Needs torch, torchvision, onnx and onnxscript; the same versions write the same bytes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from pathlib import Path
from typing import Any

from edgejoule.errors import MeasurementError, run_command
from model import DEMO
from model.loading.kept_graph import FILL, FOLDER, MADE_WITH
from model.loading.network import find
from model.loading.node_paths import CLASS_HIERARCHY, NAME_SCOPES

_SEED = 0
_SMALL = 64  # constants of up to so many elements (shapes, bounds) stay in the graph
_IR_VERSION = 10  # the first with metadata on nodes; onnxruntime 1.18 reads it


def make(name: str) -> bytes:
    """Return the kept graph of a network as the bytes of an ONNX file.

    Raises:
        MeasurementError: A weight of the exported graph is not one of the module's, scaled.
    """
    import torch
    import torchvision

    from model.loading.export import to_program
    from model.loading.zoo import INPUT, build

    network = find(name)
    module, _ = build(network, "random", _SEED)
    proto = to_program(name, module, [torch.zeros(network.input_shape)], [INPUT]).model_proto
    parameters = {key: value.numpy() for key, value in module.named_parameters()}
    fill = _strip_weights(name, proto, parameters)
    _strip_metadata(proto)
    proto.ir_version = _IR_VERSION
    proto.producer_name, proto.producer_version = "edgejoule", ""
    versions = f"torch {torch.__version__.partition('+')[0]}, "
    versions += f"torchvision {torchvision.__version__.partition('+')[0]}"
    for key, value in ((FILL, json.dumps(fill)), (MADE_WITH, versions)):
        proto.metadata_props.add(key=key, value=value)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _strip_weights(name: str, proto: Any, parameters: dict[str, Any]) -> dict[str, list[Any]]:
    """Turn the weights into inputs and return how to draw each: [parameter, factor]."""
    import onnx
    from onnx import helper, numpy_helper

    fill: dict[str, list[Any]] = {}
    kept: list[Any] = []
    for tensor in proto.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or math.prod(tensor.dims) == 0:
            kept.append(tensor)
            continue
        note = _origin(numpy_helper.to_array(tensor), parameters)
        if note is not None:
            fill[tensor.name] = note
            entry = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            proto.graph.input.append(entry)
        elif math.prod(tensor.dims) <= _SMALL:
            kept.append(tensor)
        else:
            raise MeasurementError(f"{name}: weight {tensor.name!r} comes from no parameter")
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return fill


def _origin(values: Any, parameters: dict[str, Any]) -> list[Any] | None:
    """Find the parameter that `values` is a multiple of."""
    import numpy as np

    for key, parameter in parameters.items():
        if parameter.shape != values.shape or not parameter.any():
            continue
        factor = float(np.vdot(values, parameter) / np.vdot(parameter, parameter))
        if np.allclose(values, factor * parameter, rtol=1e-5, atol=1e-7) and factor:
            return [key, round(factor, 6)]
    return None


def _strip_metadata(proto: Any) -> None:
    graph = proto.graph
    del proto.metadata_props[:]
    graph.doc_string = proto.doc_string = ""
    for item in [graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        del item.metadata_props[:]
        item.doc_string = ""
    for node in graph.node:
        wanted = [(e.key, e.value) for e in node.metadata_props]
        del node.metadata_props[:]
        node.doc_string = ""
        for key, value in sorted(wanted):
            if key in (NAME_SCOPES, CLASS_HIERARCHY):
                node.metadata_props.add(key=key, value=value)


def main(arguments: list[str] | None = None) -> int:
    """Write all kept graphs."""
    parser = argparse.ArgumentParser(description="Write the ONNX graphs kept without weights.")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder (default: %(default)s)")
    folder: Path = parser.parse_args(arguments).output

    def write() -> None:
        warnings.simplefilter("ignore")
        for name in DEMO:
            data = make(name)
            (folder / f"{name}.onnx").write_bytes(data)
            print(f"{name}: {len(data) / 1024:.0f} KiB")

    return run_command(write)


if __name__ == "__main__":
    sys.exit(main())
