"""TensorRT for RTX, the one TensorRT that builds without a GPU and comes from a package index.

What runs for real: builder, network, ONNX parser, logger, the classes of the API and, on top of
them, Torch-TensorRT's frontend. What does not: deserialising, so no engine, context or inspector.
Its API has the form of TensorRT 11, so it cannot stand for 10.x.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.folder import ROOT

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def rtx_folder(contracts: Path) -> Path:
    """The folder with tensorrt_rtx and torch_tensorrt, to be put on a path; this Python's own."""
    folder = contracts / "rtx"
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    if not folder.resolve().name.startswith(f"rtx-{tag}-"):
        pytest.skip(f"the packages are for another Python than {tag}; run prepare.sh again")
    return folder


@pytest.fixture(scope="session")
def tensorrt_rtx(rtx_folder: Path) -> Any:
    """The real module, where code takes `trt`."""
    sys.path.insert(0, str(rtx_folder))
    try:
        return importlib.import_module("tensorrt_rtx")
    finally:
        sys.path.remove(str(rtx_folder))


@pytest.fixture(scope="session")
def rtx_python(rtx_folder: Path) -> RunPython:
    """Runs code in an interpreter of its own that has the project and these packages.

    Torch-TensorRT changes torch when it is imported, so no other test may share its process.
    """
    path = os.pathsep.join([str(rtx_folder), str(ROOT)])

    def run(code: str, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
