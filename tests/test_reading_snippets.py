"""The code of docs/Modelling.md, run as it stands, on a dataset measured here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from edgejoule.dataset.table_files import write_tables
from edgejoule.dataset.verify import verify
from tests.support_measured import measured_copy
from tests.support_tables import build

DOC = Path(__file__).resolve().parent.parent / "docs/Modelling.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
LIBRARIES = ("pandas", "polars", "duckdb")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`raw_data` and its tables: two networks measured on this CPU, and a made run with power."""
    folder = tmp_path_factory.mktemp("measured")
    measured_copy(tmp_path_factory, folder)
    build(folder / "raw_data", "power")
    write_tables(folder / "raw_data", classic=True)
    return folder


def block(word: str) -> str:
    (found,) = [one for one in BLOCKS if word in one]
    return found


def run(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/Modelling.md", "exec"), names)
    return names


def test_what_was_measured_is_right(measured: Path) -> None:
    report = verify(measured / "raw_data" / "lenet")
    assert report.ok()


def test_the_page_shows_each_library() -> None:
    assert len(BLOCKS) == 5
    for library in LIBRARIES:
        assert sum(f"import {library}" in one for one in BLOCKS) == 1


def test_opening(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    names = run(block("data.layers()"), measured, monkeypatch)
    assert set(names["runs"].run) == {"lenet", "mobilenet_v2", "power"}
    layers = names["layers"]
    assert (layers.run == "lenet").sum() == 8  # as ONNX Runtime fuses it
    # LeNet-5 has 61,706 weights.
    assert layers[layers.run == "lenet"].weights.sum() == 61_706
    assert (layers.runtime_ms > 0).all()


def test_every_method(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    names = run(block("for run in data"), measured, monkeypatch)
    # The last run is `power`, which has everything.
    assert set(names["power"].rail) == {"VDD_IN"}
    assert set(names["energy"].method) == {"proportional"}
    assert {"layer_name", "duration_ms"} <= set(names["durations"].columns)


def test_pandas_alone(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    code = block("import pandas")
    assert len([line for line in code.splitlines() if line]) == 3
    layers = run(code, measured, monkeypatch)["layers"]
    assert (layers.network == "lenet").sum() == 8


def test_polars_on_raw_durations(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("polars")
    slowest = run(block("import polars"), measured, monkeypatch)["slowest"]
    assert sorted(slowest["layer"]) == list(range(8))
    assert slowest["duration_ms"].is_sorted(descending=True)


def test_duckdb_joins_raw_durations_with_names(
    measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("duckdb")
    rows = run(block("import duckdb"), measured, monkeypatch)["rows"]
    assert len(rows) == 8
    assert all(p90_ms > 0 for _, p90_ms in rows)
