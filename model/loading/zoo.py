"""A network of the catalogue: built, given weights, checked against the asked shape."""

from __future__ import annotations

from typing import Any

from edgejoule.errors import UsageError
from edgejoule.inference.workload import LoadedModel, ModelRequest, Weights
from model.loading.kept_graph import is_kept, load_kept
from model.loading.network import Network
from model.loading.spec import one_line, shape_text
from model.loading.weights import fill_module, load_pretrained

INPUT = "input"  # the name of every network's only input, in torch, export and kept graph


def load_network(network: Network, request: ModelRequest) -> LoadedModel:
    """Load a network; see `model.load`.

    With random weights and its default shape a network whose graph is kept comes from there, with
    torch or without, so that installing torch does not change what is measured.
    """
    shape = network.input_shape if request.input_shape is None else request.input_shape
    _check_shape(network, shape)
    kind = _weights_kind(network, request)
    default = shape == network.input_shape
    if request.form == "onnx" and kind == "random" and default and is_kept(network.name):
        return load_kept(network, request)
    _need_torch(network, request)
    module, source = build(network, kind, request.seed)
    import torch

    from model.loading.tensors import check_runs, specs_of

    names, tensors = [INPUT], [torch.zeros(shape)]
    if not default:
        expected = f"its own shape is {shape_text(network.input_shape)}"
        check_runs(network.name, module, tensors, expected, meta=True)
    inputs = specs_of(tensors, names)
    if request.form == "torch":
        return LoadedModel(
            network.name, "torch", module, None, inputs, kind, source, network.normalisation()
        )
    from model.loading.export import export_onnx

    path = request.directory / f"{network.name}.onnx"
    paths = export_onnx(network.name, module, tensors, names, path)
    return LoadedModel(
        network.name, "onnx", None, path, inputs, kind, source, network.normalisation(), paths
    )


def build(network: Network, kind: Weights, seed: int) -> tuple[Any, dict[str, Any]]:
    """Build a network with weights of that kind.

    Returns:
        The module in eval mode, without gradients, and its provenance.

    Raises:
        UsageError: The weights cannot be had, or this torchvision has no such network.
    """
    import torch

    source: dict[str, Any] = {"torch": torch.__version__, "parameters": network.parameters}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(network.builder, str):
            import torchvision

            source |= {"library": "torchvision", "library_version": torchvision.__version__}
            module = _build_torchvision(network)
        else:
            source |= {"library": f"model/{network.builder.__module__.partition('.')[2]}.py"}
            module = network.builder()
    if kind == "pretrained":
        source |= load_pretrained(module, network)
    elif kind == "random":
        fill_module(module, seed)
        source |= {"seed": seed}
    module.eval().requires_grad_(requires_grad=False)
    return module, source


def _build_torchvision(network: Network) -> Any:
    import torchvision.models

    place: Any = torchvision.models
    *folders, builder = str(network.builder).split(".")
    try:
        for folder in folders:
            place = getattr(place, folder)
        function = getattr(place, builder)
    except AttributeError as error:
        raise UsageError(
            f"torchvision {torchvision.__version__} has no {network.builder}", "update torchvision"
        ) from error
    return function(weights=None, **network.builder_arguments)


def _weights_kind(network: Network, request: ModelRequest) -> Weights:
    """Say truthfully which weights the network gets: where none are published, random ones."""
    if network.weights == "own":
        return "user"
    if request.weights == "pretrained" and network.weights_file is not None:
        return "pretrained"
    return "random"


def _check_shape(network: Network, shape: tuple[int, ...]) -> None:
    own = network.input_shape
    if len(shape) != len(own) or shape[1:2] != own[1:2]:
        raise UsageError(
            f"an input of {shape_text(shape)} does not fit {network.name}",
            f"its own shape is {shape_text(own)}; batch and size may change, channels may not",
        )


def _need_torch(network: Network, request: ModelRequest) -> None:
    """See that torch and torchvision can be imported."""
    try:
        import torch  # noqa: F401

        if isinstance(network.builder, str):
            import torchvision  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        mend = "install torch, torchvision and onnxscript"
        if request.form == "onnx" and is_kept(network.name):
            mend += (
                f", or use --weights random and the shape {shape_text(network.input_shape)}, "
                "for which its graph is kept"
            )
        raise UsageError(
            f"loading {network.name} needs torch and torchvision ({one_line(error)})", mend
        ) from error
