"""From a request to the loader of its kind."""

from __future__ import annotations

from edgejoule.errors import UsageError
from edgejoule.inference.workload import LoadedModel, ModelRequest
from model.loading.network import find
from model.loading.spec import parse_spec


def load_spec(request: ModelRequest) -> LoadedModel:
    """Load what `request.spec` names; see `model.load`."""
    if request.form not in ("torch", "onnx"):
        raise UsageError(f"there is no form {request.form!r} of a model", "ask for torch or onnx")
    if request.weights not in ("pretrained", "random"):
        raise UsageError(
            f"there are no {request.weights!r} weights", "use --weights pretrained or random"
        )
    if request.input_shape is not None and min(request.input_shape, default=1) < 1:
        raise UsageError(
            f"an input of shape {list(request.input_shape)} has no elements",
            "every number of --input-shape is at least 1",
        )
    spec = parse_spec(request.spec)
    if spec.kind == "network":
        from model.loading.zoo import load_network

        return load_network(find(spec.text), request)
    if spec.kind == "onnx":
        from model.loading.onnx_file import load_onnx

        return load_onnx(spec, request)
    if spec.kind == "pt2":
        from model.loading.own import load_program

        return load_program(spec, request)
    from model.loading.own import load_function

    return load_function(spec, request)
