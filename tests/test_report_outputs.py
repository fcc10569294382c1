"""What a report says of accuracy and of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgejoule.report.outputs import accuracy_text, memory_text
from edgejoule.report.tables import RunTables, load_run
from tests.support_dataset import Plan, build_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunTables:
    return load_run(build_run(tmp_path_factory.mktemp("data"), Plan()))


def with_accuracy(run: RunTables, accuracy: dict[str, Any], weights: str = "random") -> RunTables:
    import dataclasses

    return dataclasses.replace(run, run={**run.run, "accuracy": accuracy, "weights": weights})


def test_a_wrong_engine_shows(run: RunTables) -> None:
    figures = {
        "how": "x", "max_relative_error": 3.25, "mean_relative_error": 0.5, "top1_agreement": 0.25,
        "top1_rows": 4, "equal": None, "not_finite": 2,
    }  # fmt: skip
    text = accuracy_text(with_accuracy(run, figures))
    assert text == (
        "against float32: relative error 0.5 mean, 3.2 max; top class the same in 25.0 % of 4 "
        "rows; 2 values NaN or infinite (random weights)"
    )
    assert "random" not in str(accuracy_text(with_accuracy(run, figures, "pretrained")))


def test_no_reference_is_said(run: RunTables) -> None:
    assert accuracy_text(run) is None
    text = accuracy_text(with_accuracy(run, {"how": "onnxruntime is not installed"}))
    assert text == "not compared with float32: onnxruntime is not installed"


def test_memory_says_how_the_limit_was_held(tmp_path: Path) -> None:
    assert memory_text({}) is None
    limit = {"limit_mib": 4096, "kind": "soft", "how": "watched", "violations": 3, "samples": 40}
    assert memory_text({"peak_mib": 5000.4, "limit": limit}) == (
        "peak 5000 MiB; limit 4096 MiB, soft (watched); above it in 3 of 40 samples"
    )
