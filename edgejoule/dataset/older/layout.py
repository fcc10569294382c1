"""The older text layout: which files it has, and the recordings that a folder of it holds.

    raw_data/idling_power.json
    raw_data/<model>/<model>_power_log.log
    raw_data/<model>/<model>_tensorrt.json
    raw_data/<model>/trt_profiling/trt_engine_info.json
    raw_data/<model>/trt_profiling/trt_layer_latency.json

Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgejoule.errors import MeasurementError, UsageError

LAYOUT = "edgeprofiler"
IDLING_POWER = "idling_power.json"
POWER_LOG = "{model}_power_log.log"
RUN_FILE = "{model}_tensorrt.json"
ENGINE_INFO = "trt_profiling/trt_engine_info.json"
LAYER_TIMES = "trt_profiling/trt_layer_latency.json"
_COPY = "put a copy in its place, with cp -rL for instance"


@dataclass(frozen=True)
class Recording:
    """The files of one model; None: not there.

    Attributes:
        name: The folder's name, which is the model's.
        folder: The folder.
        layer_times: Durations of the layers.
        engine_info: What TensorRT says of the engine.
        power_log: Power over time.
        run_file: Configuration and latencies.
        idling: Idle power of the whole folder of recordings.
    """

    name: str
    folder: Path
    layer_times: Path
    engine_info: Path | None
    power_log: Path | None
    run_file: Path | None
    idling: Path | None

    @property
    def files(self) -> dict[str, Path]:
        """The files that are there, by their names below the folder of recordings."""
        there = (
            self.idling,
            self.power_log,
            self.run_file,
            self.engine_info,
            self.layer_times,
        )
        root = self.folder.parent
        return {path.relative_to(root).as_posix(): path for path in there if path is not None}


def recording_names(folder: Path, models: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Return the names of the recordings of a folder, and of its folders that hold none.

    Raises:
        UsageError: It is no folder, holds no recording, or not the models asked for.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", "give a folder of the older layout")
    below = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    there = [path.name for path in below if (path / LAYER_TIMES).exists()]
    others = [path.name for path in below if path.name not in there]
    if not there:
        inner = folder / LAYER_TIMES
        mend = "give the folder above it" if inner.exists() else "give the folder of all models"
        raise UsageError(f"{folder} holds no <model>/{LAYER_TIMES}", mend)
    for model in models:
        if model not in there:
            raise UsageError(
                f"{folder} has no recording {model!r}", f"it has {', '.join(there[:10])}"
            )
    return (list(dict.fromkeys(models)), []) if models else (there, others)


def find_recording(folder: Path, name: str) -> Recording:
    """Return the files of one recording.

    Raises:
        MeasurementError: One of them is a symbolic link or no plain file.
    """
    own = folder / name
    _refuse_links(own, own / "trt_profiling")

    def there(path: Path) -> Path | None:
        _refuse_links(path)
        if not path.exists():
            return None
        if not path.is_file():
            raise MeasurementError(f"{path} is no plain file", _COPY)
        return path

    times = there(own / LAYER_TIMES)
    if times is None:
        raise MeasurementError(f"{own / LAYER_TIMES} is not there")
    return Recording(
        name,
        own,
        times,
        there(own / ENGINE_INFO),
        there(own / POWER_LOG.format(model=name)),
        there(own / RUN_FILE.format(model=name)),
        there(folder / IDLING_POWER),
    )


def _refuse_links(*paths: Path) -> None:
    """Refuse links: what they lead to would be copied into the dataset and sent with it."""
    for path in paths:
        if path.is_symlink():
            raise MeasurementError(f"{path} is a symbolic link", _COPY)
