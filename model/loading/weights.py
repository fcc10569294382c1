"""Weights: drawn at random by rules that are the same everywhere, or downloaded once.

Random weights are drawn by numpy, each tensor from a generator of its own whose seed is the asked
seed and the tensor's name. So a network has the same random weights as a torch module and as an
ONNX graph that was kept without weights, whatever the order in which tensors are visited.

The rule is not the library's own initialisation on purpose. That one suits training, where batch
normalisation rescales every layer; here nothing has been trained, the statistics are zero and one,
and deep networks would compute with numbers that vanish (standard deviation 1e-10 in
mobilenet_v3_large) or leave float16's range (7e8 in resnet152). Energy depends on the values, so
random weights keep them within float16: normal with variance 1.25 / fan-in for convolutions and
linear layers, a little bias.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import UsageError
from model.loading.network import Network
from model.loading.spec import one_line, sha256_of

if TYPE_CHECKING:
    import numpy as np

HUB = "https://download.pytorch.org/models/"
REACH_S = 20.0  # the longest wait for a first answer of the server, name look-up included
STALL_S = 60.0  # the longest wait for the next bytes of a download

_VARIANCE_TIMES_FAN_IN = 1.25
_BIAS_STD = 0.01
_HASH = re.compile(r"-([0-9a-f]{8,64})\.[^.]+$")


def draw(name: str, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return a random tensor by its name: float32, of that shape.

    Args:
        name: The parameter's name in the module (`layer1.0.conv1.weight`).
        seed: The run's seed.
        shape: One dimension: a bias, standard deviation 0.01. More: a weight whose first dimension
            counts outputs, standard deviation sqrt(1.25 / product of the others).
    """
    import numpy as np

    key = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(key[:16], "little")))
    std = _BIAS_STD
    if len(shape) > 1:
        std = math.sqrt(_VARIANCE_TIMES_FAN_IN / math.prod(shape[1:]))
    values: np.ndarray = generator.standard_normal(shape, dtype=np.float32)
    values *= np.float32(std)
    return values


def fill_module(module: Any, seed: int) -> None:
    """Give an `nn.Module` random weights in place.

    Weights and biases of convolutions and linear layers and the biases of batch normalisation are
    drawn; everything else stays as built (ones, zeros). Batch normalisation gets a bias so that
    the exporter, when it folds it into a convolution, leaves one there as it does for trained
    weights.
    """
    import torch
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.conv import _ConvNd

    with torch.no_grad():
        for path, part in module.named_modules():
            names: tuple[str, ...]
            if isinstance(part, (_ConvNd, nn.Linear)):
                names = ("weight", "bias")
            elif isinstance(part, _BatchNorm):
                names = ("bias",)
            else:
                continue
            for name in names:
                parameter = getattr(part, name)
                if parameter is not None:
                    values = draw(f"{path}.{name}".lstrip("."), seed, tuple(parameter.shape))
                    parameter.copy_(torch.from_numpy(values))


def cache_folder() -> Path:
    """Return the folder in which torch keeps downloaded weights, without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or str(Path(cache) / "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def cached_file(network: Network) -> Path | None:
    """Return the network's file of weights if it is in the cache."""
    path = cache_folder() / (network.weights_file or "")
    return path if path.is_file() else None


def load_pretrained(module: Any, network: Network) -> dict[str, Any]:
    """Load the published weights into `module`, downloading them once.

    Returns:
        Their provenance: torchvision's name, file and SHA-256.

    Raises:
        UsageError: They cannot be had, are damaged, or are not this network's.
    """
    import torch

    path = cached_file(network) or _download(network)
    found = sha256_of(path)
    wanted = _HASH.search(path.name)
    if wanted and not found.startswith(wanted.group(1)):
        raise UsageError(
            f"{path} is damaged: its SHA-256 starts with {found[:8]}, not {wanted.group(1)}",
            "delete it and start again, or use --weights random",
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(state)
    except Exception as error:  # the unpickler raises many kinds
        raise UsageError(
            f"{path} does not hold the weights of {network.name} ({one_line(error)})",
            "delete it and start again, or use --weights random",
        ) from error
    return {
        "weights": network.weights,
        "weights_file": network.weights_file,
        "weights_sha256": found,
    }


def _download(network: Network) -> Path:
    """Download a network's weights into torch's cache and return the file."""
    import torch.hub

    if network.weights_file is None:
        raise UsageError(
            f"no pretrained weights are published for {network.name}", "use --weights random"
        )
    url, folder = HUB + network.weights_file, cache_folder()
    target = folder / network.weights_file
    mend = f"use --weights random, or put {network.weights_file} into {folder}"
    what = f"the pretrained weights of {network.name} cannot be had"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{what}: {folder} cannot be made ({error.strerror})", mend) from error
    # torch's download has no time limit: first see that the server answers, then bound each wait.
    problem = _unreachable(url, REACH_S)
    if problem:
        raise UsageError(f"{what} from {url} ({problem})", mend)
    wanted = _HASH.search(network.weights_file)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_S)
    try:
        torch.hub.download_url_to_file(
            url, str(target), wanted.group(1) if wanted else None, progress=sys.stderr.isatty()
        )
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{what} from {url} ({one_line(error)})", mend) from error
    finally:
        socket.setdefaulttimeout(before)
    return target


def _unreachable(url: str, limit_s: float) -> str | None:
    """Return why the server does not answer within `limit_s`, or None if it does.

    In a thread of its own, since the look-up of a name obeys no time limit.
    """
    import http.client
    import urllib.request

    answer: list[str | None] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 (https, or a test's)
        try:
            with urllib.request.urlopen(request, timeout=limit_s):  # noqa: S310
                answer.append(None)
        except (OSError, ValueError, http.client.HTTPException) as error:
            answer.append(one_line(error))

    thread = threading.Thread(target=ask, name="reach-weights", daemon=True)
    thread.start()
    thread.join(limit_s)
    return answer[0] if answer else f"no answer within {limit_s:g} s"
