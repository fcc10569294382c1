"""What a build leaves for the replay pass: where its graph is, and how its inputs are shaped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgejoule.errors import MeasurementError
from edgejoule.inference.trt import REPLAY_FILE
from edgejoule.inference.workload import InputSpec


def write_replay_file(
    artefacts: Path, graph: Path, inputs: Sequence[InputSpec], *, calibrated: bool
) -> None:
    """Leave among the artefacts what a replay pass needs to know of a build.

    Args:
        artefacts: Folder.
        graph: The graph that the parser read; has to stay where it is.
        inputs: As they will be measured.
        calibrated: Whether TensorRT's own calibrator found the ranges.
    """
    about = {
        "graph": str(graph.resolve()),
        "inputs": [[spec.name, list(spec.shape)] for spec in inputs],
        "calibrated": calibrated,
    }
    (artefacts / REPLAY_FILE).write_text(json.dumps(about), encoding="utf-8")


def read_replay_file(artefacts: Path) -> dict[str, Any]:
    """Return what the build left for replay.

    Raises:
        MeasurementError: It left nothing, or its layers cannot be built alone.
    """
    path = artefacts / REPLAY_FILE
    if not path.exists():
        raise MeasurementError(
            "the engine came from a file, without the ONNX graph that its layers could be built "
            "from alone",
            "measure the ONNX model itself, or use another method of --energy",
        )
    about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if about["calibrated"]:
        raise MeasurementError(
            "TensorRT's own calibrator chose the types of this engine's layers, which a layer "
            "alone would not get",
            "install onnx and onnxruntime, which put Q/DQ into the graph",
        )
    return about
