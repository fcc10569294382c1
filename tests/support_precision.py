"""Calibration images, kept networks and int8 builds for the tests of precision."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.inference.accuracy import Accuracy, compare, reference_outputs
from edgejoule.inference.backend import BuildOptions, EngineDescription
from edgejoule.inference.calibration_data import CalibrationData, load_calibration
from edgejoule.inference.inputs import InputSet, make_inputs
from edgejoule.inference.onnxruntime_backend import OnnxRuntimeBackend
from edgejoule.inference.workload import LoadedModel, ModelRequest
from model.loading.kept_graph import load_kept
from model.loading.network import find

BACKEND = OnnxRuntimeBackend()


@functools.cache
def pictures(count: int, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Return images with structure, (count, channels, height, width) from 0 to 1.

    Stripes, blobs and a little noise: neighbouring pixels are alike, as in photographs.
    """
    random = np.random.default_rng(seed)
    channels, height, width = shape
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    planes: list[np.ndarray] = []
    for _ in range(count * channels):
        angle, waves = random.uniform(0, 6.3), random.uniform(1, 12)
        along = x * np.cos(angle) + y * np.sin(angle)
        plane = 0.5 + 0.25 * np.sin(6.3 * waves * along + random.uniform(0, 6.3))
        for _ in range(4):
            at_x, at_y, size = random.uniform(0, 1), random.uniform(0, 1), random.uniform(0.02, 0.2)
            blob = np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / size**2)
            plane = plane + random.uniform(-0.5, 0.5) * blob
        planes.append(plane + random.normal(0, 0.03, plane.shape))
    return np.clip(np.stack(planes).reshape(count, *shape), 0, 1)


def write_pictures(
    folder: Path, count: int, shape: tuple[int, int, int], seed: int, brightness: float = 1.0
) -> Path:
    """Write images as PNG files; `brightness` below 1 makes them dark."""
    pytest.importorskip("PIL")
    from PIL import Image

    folder.mkdir(parents=True)
    for index, image in enumerate(pictures(count, shape, seed) * brightness):
        pixels = np.round(image * 255).astype(np.uint8).transpose(1, 2, 0)
        picture = Image.fromarray(pixels if shape[0] == 3 else pixels[:, :, 0])
        picture.save(folder / f"{index:03}.png")
    return folder


def network(name: str, folder: Path) -> LoadedModel:
    """Load a kept network with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    return load_kept(find(name), ModelRequest(name, "random", 0, None, "onnx", folder))


def picture_shape(model: LoadedModel) -> tuple[int, int, int]:
    channels, height, width = model.inputs[0].shape[1:]
    return channels, height, width


def data_of(model: LoadedModel, kind: str = "normal", count: int = 4) -> CalibrationData:
    return load_calibration(kind, model.inputs, model.normalisation, 0, count)


def held_out(model: LoadedModel, folder: Path, count: int = 8) -> list[InputSet]:
    """Return sets of images that no calibration here has seen."""
    kept = write_pictures(folder, count, picture_shape(model), seed=2)
    return make_inputs(str(kept), model.inputs, model.normalisation, 0, sets=count)[0]


def build_int8(
    model: LoadedModel, folder: Path, calibration: str | None, **more: Any
) -> tuple[EngineDescription, BuildOptions]:
    """Build for ONNX Runtime's CPU below `folder`."""
    folder.mkdir(parents=True)
    options = BuildOptions("int8", threads=1, calibration=calibration, **more)
    return BACKEND.build(model, options, folder), options


def accuracy(
    model: LoadedModel, folder: Path, calibration: str, sets: Sequence[InputSet]
) -> Accuracy:
    """Build in int8 with this calibration and compare with the float32 outputs."""
    _, options = build_int8(model, folder, calibration)
    session = BACKEND.open(folder, options)
    session.bind(sets)
    found = [session.outputs(which) for which in range(len(sets))]
    session.close()
    return compare(reference_outputs(model, sets, options), found)


def run_graph(path: Path, sets: Sequence[InputSet], level: str = "DISABLE_ALL") -> list[Any]:
    """Return the first output for each set, of a graph run as it stands."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{level}")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [np.asarray(session.run(None, dict(one))[0], dtype=np.float64) for one in sets]


def relative_error(found: Sequence[Any], expected: Sequence[Any]) -> float:
    """Return the mean error over the mean magnitude."""
    a, b = np.stack(found), np.stack(expected)
    return float(np.abs(a - b).mean() / np.abs(b).mean())
