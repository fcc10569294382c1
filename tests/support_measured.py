"""Two small networks, measured once per test process on this machine's CPU, without a sensor."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = ("lenet", "mobilenet_v2")  # their graphs are kept with the project


@functools.cache
def _measured(base: Path) -> Path:
    dataset = Path(tempfile.mkdtemp(prefix="measured-cpu-", dir=base)) / "raw_data"
    for model in NETWORKS:
        words = f"--model {model} --backend onnxruntime --device cpu --weights random --runs 10 "
        words += "--warmup 5 --clean-runs 5 --sensor none --idle-duration 0.1 --quiet --result-dir"
        script = [sys.executable, str(ROOT / "measure_inference_power.py")]
        subprocess.run([*script, *words.split(), str(dataset)], cwd=ROOT, check=True)
    return dataset


def measured_copy(factory: pytest.TempPathFactory, folder: Path) -> Path:
    """Return `folder/raw_data`, a copy that a test may change; skips where nothing can measure."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    copied: Path = shutil.copytree(_measured(factory.getbasetemp()), folder / "raw_data")
    return copied
