"""Where do the joules of a neural network go: time and energy of every layer, with error bars."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgejoule.dataset.reading import Dataset

__version__ = "0.6.0"

# ONNX Runtime 1.31 collects and uploads usage data, on Linux too: no business of a measurement,
# and work beside the one measured. Set here, before anything can import it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def open(dataset: str | os.PathLike[str]) -> Dataset:  # noqa: A001 (it is `edgejoule.open`)
    """Return a dataset to read as data frames: runs, layers, durations, power, energy.

    Args:
        dataset: The dataset's folder.

    Raises:
        UsageError: It is an address, or no dataset.
    """
    from edgejoule.dataset.reading import open_dataset

    return open_dataset(dataset)
