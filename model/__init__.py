"""What is measured: the networks, one file per family, and the loading of one's own.

A family is a file in this folder with a tuple `NETWORKS` of `model.Network`; a file dropped in is
found by itself. `edgejoule` gets the name `model:load` and imports it in its set-up process only.
Importing this package is light: torch, numpy and onnx come in when a model is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from model.loading.network import Network

if TYPE_CHECKING:
    from edgejoule.inference.workload import LoadedModel, ModelFacts, ModelRequest

__all__ = ["DEMO", "EXPERIMENT", "Network", "describe", "load"]

EXPERIMENT = (
    "alexnet",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "lenet",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
)
"""The networks of the default experiment, in their order."""

DEMO = ("lenet", "mobilenet_v2", "resnet18")
"""The networks of the demo; their graphs are kept in `model/graphs/` and need no torch."""


def describe(spec: str) -> ModelFacts:
    """Say what can be known of a model without loading it; imports no framework.

    Args:
        spec: A network's name, `path/to/file.py:function`, `x.onnx` or `x.pt2`.

    Raises:
        UsageError: The name is unknown (close names are given), or the file is not there.
    """
    from model.loading.describe import describe_spec

    return describe_spec(spec)


def load(request: ModelRequest) -> LoadedModel:
    """Load a model in the form that the backend wants.

    A `.py` or `.pt2` file is the user's code or a saved program: loading it runs what it holds.

    Raises:
        UsageError: Unknown name, file or function; a shape that does not fit; weights that cannot
            be had; a library that is not installed; the user's code raises or returns nothing.
    """
    from model.loading.dispatch import load_spec

    return load_spec(request)
