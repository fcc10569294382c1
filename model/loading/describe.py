"""What can be said of a model without loading it."""

from __future__ import annotations

import importlib.util

from edgejoule.inference.workload import ModelFacts
from model.loading.network import Network, find
from model.loading.spec import Spec, parse_spec, sha256_of


def describe_spec(text: str) -> ModelFacts:
    """Describe a network or a file; see `model.describe`."""
    spec = parse_spec(text)
    if spec.kind == "network":
        return _describe_network(find(spec.text))
    if spec.kind == "onnx":
        return _describe_onnx(spec)
    assert spec.path is not None  # noqa: S101 (narrowing: only a network has none)
    return ModelFacts(spec.name, None, sha256_of(spec.path), _torch_forms(_has("torch")))


def _describe_network(network: Network) -> ModelFacts:
    from model.loading.kept_graph import is_kept
    from model.loading.weights import cached_file

    needed = isinstance(network.builder, str)
    forms = _torch_forms(_has("torch") and (_has("torchvision") or not needed))
    kept: tuple[str, ...] = ("onnx",) if is_kept(network.name) else ()
    forms = forms or kept
    missing = network.weights_file is not None and cached_file(network) is None
    return ModelFacts(
        network.name,
        network.input_shape,
        forms=forms,
        random_forms=kept,
        download_mib=network.download_mib if missing else 0.0,
        gflops=network.gflops,
    )


def _describe_onnx(spec: Spec) -> ModelFacts:
    from model.loading.onnx_file import read_graph

    graph = read_graph(spec)
    first = graph.inputs[0].shape if graph.inputs else None
    known = first is not None and all(isinstance(size, int) for size in first)
    shape = tuple(size for size in first or () if isinstance(size, int)) if known else None
    return ModelFacts(spec.name, shape, graph.sha256, ("onnx",))


def _torch_forms(torch_is_there: bool) -> tuple[str, ...]:
    if not torch_is_there:
        return ()
    return ("torch", "onnx") if _has("onnx") and _has("onnxscript") else ("torch",)


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
