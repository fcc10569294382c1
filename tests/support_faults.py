"""The measuring process with a profile that is cut short; run as `python -m tests.support_faults`.

A disk that ran full under the runtime, or its own silent limit, leaves such a profile.
"""

from __future__ import annotations

from pathlib import Path

from edgejoule.inference import measure_process, onnx_profile, onnxruntime_backend
from edgejoule.processes import child_main


def cut_and_read(path: Path) -> list[onnx_profile.ProfiledRun]:
    """Read a profile of which the last third is missing."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    return onnx_profile.read_runs(path)


if __name__ == "__main__":
    onnxruntime_backend.read_runs = cut_and_read
    child_main(measure_process.measure)
