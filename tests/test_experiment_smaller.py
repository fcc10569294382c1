"""A build that the kernel kills for want of memory is tried again with less."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from edgejoule import experiment
from edgejoule.closing import _output_notes
from edgejoule.config import RunConfig
from edgejoule.experiment import Task
from edgejoule.supervision import KilledForMemoryError

CONFIG = RunConfig("net", "tensorrt", "float16")


class Kernel:
    """Kills the first builds, and remembers what each was told."""

    def __init__(self, kills: int) -> None:
        self.kills = kills
        self.told: list[int] = []
        self.forgotten = 0

    def start(self, task: Task, directory: Path, killed: int) -> int:
        (directory / "artefacts").mkdir()
        self.told.append(killed)
        return killed

    def add(self, child: int) -> int:
        return child

    def run_to_end(self, child: int) -> dict[str, Any]:
        if child < self.kills:
            raise KilledForMemoryError("the set-up process was killed", "smaller")
        return {"name": "net"}

    def forget(self, child: int) -> None:
        del child
        self.forgotten += 1


def build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, **changes: object
) -> tuple[dict[str, Any] | None, Kernel]:
    kernel = Kernel(kills)
    monkeypatch.setattr(experiment, "_start_set_up", kernel.start)
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    task = Task(config, "net", tmp_path, "model:load")
    try:
        return experiment.set_up(task, tmp_path, kernel), kernel  # type: ignore[arg-type]
    except KilledForMemoryError:
        return None, kernel


def test_each_try_knows_how_many_were_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, kernel = build(tmp_path, monkeypatch, kills=2)
    assert done == {"name": "net", "killed": 2}
    assert (kernel.told, kernel.forgotten) == ([0, 1, 2], 2)
    assert "killed the build 2 times for lack of memory" in _output_notes(done, CONFIG)[0]
    assert _output_notes({"name": "net", "killed": 0, "accuracy": {"note": None}}, CONFIG) == []


@pytest.mark.parametrize(
    ("changes", "tries"),
    [({}, 3), ({"backend": "torch"}, 1), ({"backend": "torch-tensorrt"}, 3), ({"engine": "e"}, 1)],
)
def test_it_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], tries: int
) -> None:
    done, kernel = build(tmp_path, monkeypatch, 9, **changes)
    assert done is None
    assert len(kernel.told) == tries


def test_what_the_build_says_is_a_note_of_the_run() -> None:
    settings = {"notes": ["last release for this board"], "aux_streams_warning": "may overlap"}
    assert _output_notes({"settings": settings}, CONFIG) == [
        "last release for this board", "may overlap",
    ]  # fmt: skip


def test_int8_calibrated_with_one_kind_and_fed_with_another_is_noted() -> None:
    config = dataclasses.replace(CONFIG, calibration="photos", calibration_sha256="a")
    (note,) = _output_notes({}, config)
    assert note.startswith("calibrated with photos and fed with normal values")
    assert _output_notes({}, dataclasses.replace(config, input="x", input_sha256="b")) == []
