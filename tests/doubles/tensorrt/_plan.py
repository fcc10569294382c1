"""The double's "plan": JSON, with what the runtime needs to behave like an engine.

It begins as a real one does (tag, version at byte 24), so that it passes for one where only that is
looked at; then comes what tells it from a real one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ._state import VERSION_TEXT

MAGIC = b"EDGEJOULE-TENSORRT-DOUBLE\n"
_TAG = b"ftrt" + bytes(20)


def make_plan(
    *,
    layers: Sequence[dict[str, Any]],
    inputs: Sequence[dict[str, Any]],
    outputs: Sequence[dict[str, Any]],
    version: str = VERSION_TEXT,
    verbosity: str = "DETAILED",
    aux_streams: int = 0,
    profiles: Sequence[dict[str, Any]] = (),
    weights_bytes: int = 0,
    activation_bytes: int = 0,
    capability: str | None = None,
    platform: str = "linux",
    sleep: bool = False,
    step: float = 0.0,
    faults: Sequence[dict[str, Any]] = (),
    no_capture: bool = False,
) -> bytes:
    """Return plan bytes.

    Args:
        layers: `name`, `type`, `ms`, and `details`: more keys for the inspector; `silent`: the
            profiler is not told of it. A name that ends in ` [profile N]` runs in that one alone.
        inputs: `name`, `shape`, `dtype` (TensorRT's: FLOAT), `shape_tensor`, `location`, `layout`.
        outputs: The same, and `scale`, `offset`: the output is the first input, flattened and
            repeated, times one plus the other; `positive`: the values above 0, in any number.
        version: That built it.
        verbosity: LAYER_NAMES_ONLY, DETAILED or NONE.
        aux_streams: What `num_aux_streams` says.
        profiles: Per optimisation profile: input -> [min, opt, max].
        weights_bytes: Taken when it is deserialised.
        activation_bytes: Taken by each context.
        capability: Compute capability of the GPU it was built for; None fits all.
        platform: Where it was built.
        sleep: Whether an inference takes its time.
        step: Times of the n-th inference are (1 + n step) times those of the first.
        faults: Of the reports to the profiler: `inference` (counted from 0), `kind` (`drop`,
            `extra`, `swap`, `rename`), `layer`; `from` in place of `inference` is: from then on.
        no_capture: Whether it refuses to be captured.
    """
    content = {
        "layers": list(layers),
        "inputs": list(inputs),
        "outputs": list(outputs),
        "version": version,
        "verbosity": verbosity,
        "aux_streams": aux_streams,
        "profiles": list(profiles),
        "weights_bytes": weights_bytes,
        "activation_bytes": activation_bytes,
        "capability": capability,
        "platform": platform,
        "sleep": sleep,
        "step": step,
        "faults": list(faults),
        "no_capture": no_capture,
    }
    return write_plan(content)


def write_plan(content: dict[str, Any]) -> bytes:
    """Return plan bytes."""
    version = [int(part) for part in f"{content['version']}.0.0".split(".")[:4]]
    return _TAG + bytes(version) + MAGIC + json.dumps(content).encode()


def read_plan(plan: bytes) -> dict[str, Any] | None:
    """Return what `make_plan` was given, or None if this is no plan."""
    begin = len(_TAG) + 4
    if not plan.startswith(_TAG) or plan[begin : begin + len(MAGIC)] != MAGIC:
        return None
    content: dict[str, Any] = json.loads(plan[begin + len(MAGIC) :])
    return content
