"""What is known of a network before it is built, and the search for it by name.

Standard library only, so that `--help`, `--check` and `--dry-run` stay fast.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgejoule.errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# This project's own families, in the order in which their networks are listed. A name found here
# imports nothing that a user dropped in.
FAMILIES = (
    "alexnet",
    "vgg",
    "mobilenet",
    "resnet",
    "lenet",
    "convnext",
    "segmentation",
)


@dataclass(frozen=True)
class Network:
    """One network of a family.

    Attributes:
        name: How it is asked for; becomes the run's name.
        family: Networks of one family share their building blocks.
        builder: Name of torchvision's builder below `torchvision.models`, or a function without
            arguments that returns an `nn.Module`.
        parameters: Number of parameters.
        gflops: Floating-point operations of one forward pass at `input_shape`, in 1e9, counting a
            multiply-add as two, of convolutions and matrix products alone.
        input_shape: Default shape of its input, (batch, channels, height, width).
        weights: torchvision's name of the published weights (`ResNet18_Weights.IMAGENET1K_V1`),
            `"own"` if the builder itself fills in trained weights, None if none are published.
        weights_file: File name at torchvision's server, with the start of its SHA-256.
        download_mib: Size of that file.
        mean: Mean per channel that the training subtracted from images in 0..1.
        std: Standard deviation per channel that it divided by.
        builder_arguments: More arguments for torchvision's builder.
    """

    name: str
    family: str
    builder: str | Callable[[], Any]
    parameters: int | None = None
    gflops: float | None = None
    input_shape: tuple[int, ...] = (1, 3, 224, 224)
    weights: str | None = None
    weights_file: str | None = None
    download_mib: float = 0.0
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    builder_arguments: Mapping[str, Any] = field(default_factory=dict)

    def normalisation(self) -> dict[str, list[float]]:
        """Return mean and standard deviation per channel as JSON has them."""
        return {"mean": list(self.mean), "std": list(self.std)}


def built_in() -> Iterator[Network]:
    """Yield the networks of this project's own families."""
    for family in FAMILIES:
        yield from _networks_of(family)


def find(name: str) -> Network:
    """Return the network of that name, the project's own first, then those dropped in.

    Raises:
        UsageError: No such network; the line gives close names, or all of them.
    """
    known: dict[str, Network] = {network.name: network for network in built_in()}
    if name in known:
        return known[name]
    broken: list[str] = []
    for module in _dropped_in():
        try:
            known.update({network.name: network for network in _networks_of(module)})
        except Exception as error:  # noqa: BLE001 (a user's file may raise anything)
            broken.append(f"model/{module}.py cannot be imported ({error})")
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name.lower(), known, n=5, cutoff=0.6)
    mend = f"close: {', '.join(close)}" if close else f"there are: {', '.join(known)}"
    raise UsageError(
        ", and ".join([f"no network is called {name!r}", *broken]),
        f"{mend}; or give a file: x.onnx, x.pt2, file.py:function",
    )


def _dropped_in() -> list[str]:
    """Names of the files in `model/` that are not this project's own families."""
    import model

    return [
        module.name
        for module in pkgutil.iter_modules(model.__path__)
        if not module.ispkg and not module.name.startswith("_") and module.name not in FAMILIES
    ]


def _networks_of(module: str) -> tuple[Network, ...]:
    networks: tuple[Network, ...] = importlib.import_module(f"model.{module}").NETWORKS
    return networks
