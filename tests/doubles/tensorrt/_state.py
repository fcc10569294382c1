"""Which version of TensorRT is played: the environment says so, so that children play the same."""

from __future__ import annotations

import os

VARIABLE = "EDGEJOULE_TENSORRT_DOUBLE"
WITHOUT = "EDGEJOULE_TENSORRT_DOUBLE_WITHOUT"
VERSION_TEXT = os.environ.get(VARIABLE) or "10.13.0"
VERSION = tuple(int(part) for part in VERSION_TEXT.split(".")[:3])
# Engines that the builder makes take the time they report, so that a whole run adds up.
REGISTERED: list[str] = []  # namespaces whose plugins were registered
SLOW = bool(os.environ.get("EDGEJOULE_TENSORRT_DOUBLE_SLOW"))
