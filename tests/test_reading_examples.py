"""The code of docs/Modelling.md as it stands, and the notebook from a pull to a model, both run on
networks measured here."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import edgejoule
from edgejoule.dataset.tables.files import write_tables
from edgejoule.dataset.verify import verify
from tests.support_measured import NETWORKS, measured_copy
from tests.support_prediction import build_dataset
from tests.support_tables import build

pytestmark = pytest.mark.once("pandas, polars, DuckDB, dvc and Jupyter are absent there")
ROOT = Path(__file__).resolve().parent.parent
DOC = ROOT / "docs/Modelling.md"
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


# The notebook
NOTEBOOK = ROOT / "examples/from_pull_to_model.ipynb"


def test_it_is_committed_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5
    assert [(cell["outputs"], cell["execution_count"]) for cell in cells] == [([], None)] * len(
        cells
    )


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that two networks measured on this CPU and a made run with power were pushed to."""
    for library in ("dvc", "nbclient", "ipykernel", "pandas", "sklearn", "matplotlib"):
        pytest.importorskip(library)
    from edgejoule.cli.data_version import main

    folder = tmp_path_factory.mktemp("notebook")
    dataset = measured_copy(tmp_path_factory, folder)
    clean = {"gross_mj": 5.0, "dynamic_mj": 4.0, "mean_mw": 5000.0}
    build(dataset, "power", run={"summary": {"energy": {"rails": {"VDD_IN": {"clean": clean}}}}})
    assert main(["push", str(folder / "remote"), "--dataset", str(dataset), "--force"]) == 0
    return folder / "remote"


def execute(
    folder: Path, settings: Path, monkeypatch: pytest.MonkeyPatch, **environment: str
) -> list[Any]:
    """Run the notebook in `folder`; return the outputs of its code cells."""
    import nbformat
    from nbclient import NotebookClient

    for name in ("EDGEJOULE_REMOTE", "EDGEJOULE_DATASET"):
        monkeypatch.delenv(name, raising=False)
    # The kernel of this environment and nobody's settings; whoever asks the network gets nowhere.
    here = {name: str(settings) for name in ("JUPYTER_DATA_DIR", "IPYTHONDIR")}
    here |= {"JUPYTER_PREFER_ENV_PATH": "1", "MPLCONFIGDIR": str(settings)}
    here |= {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    here |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    }
    for name, value in {**here, **environment}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def shown(outputs: list[Any]) -> str:
    """All text of some outputs."""
    texts = [output.get("text", "") for output in outputs]
    texts += [output.get("data", {}).get("text/plain", "") for output in outputs]
    return "\n".join(texts)


def test_it_pulls_plots_and_scores(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = execute(tmp_path, remote.parent / ".jupyter", monkeypatch, EDGEJOULE_REMOTE=str(remote))
    assert {path.name for path in (tmp_path / "raw_data").iterdir()} >= set(NETWORKS)
    images = sum("image/png" in one.get("data", {}) for outputs in cells for one in outputs)
    assert images == 3
    assert "power" in shown(cells[2])
    scores = shown(cells[-2])
    for word in (*NETWORKS, "random forest", "linear in FLOPs and bytes"):
        assert word in scores
    assert "2 networks are too few to learn from all but one" in shown(cells[-1])


def code_cells() -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_a_network_that_was_left_out_is_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("pandas", "sklearn"):
        pytest.importorskip(library)
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import pandas as pd

    build_dataset(tmp_path / "raw_data", range(5))
    monkeypatch.setenv("EDGEJOULE_DATASET", str(tmp_path / "raw_data"))
    monkeypatch.delenv("EDGEJOULE_REMOTE", raising=False)
    known = edgejoule.open(tmp_path / "raw_data").layers()
    seen: list[Any] = []
    names = {"pd": pd, "plt": pytest.importorskip("matplotlib.pyplot"), "display": seen.append}
    names |= {"dataset": tmp_path / "raw_data", "known": known}
    exec(code_cells()[-1], names)
    assert names["left_out"] not in names["model"]["networks"]
    assert len(names["model"]["networks"]) == 4
    (totals,) = seen
    assert totals.measured["latency_ms"] == pytest.approx(totals.value["latency_ms"], rel=0.5)


@pytest.mark.parametrize("place", ["", "examples"])
def test_without_a_remote_it_reads_the_dataset_that_is_here(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    build(tmp_path / "raw_data")
    (tmp_path / place).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / place)
    for name in ("EDGEJOULE_REMOTE", "EDGEJOULE_DATASET"):
        monkeypatch.delenv(name, raising=False)
    names: dict[str, Any] = {}
    for cell in code_cells()[:4]:  # to the first look
        exec(cell, names)
    assert list(names["layers"].run.unique()) == ["lenet"]


def test_a_refused_pull_ends_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("dvc")
    monkeypatch.setenv("EDGEJOULE_REMOTE", str(tmp_path / "nowhere"))
    monkeypatch.setenv("EDGEJOULE_DATASET", str(tmp_path / "raw_data"))
    names: dict[str, Any] = {}
    exec(code_cells()[0], names)
    with pytest.raises(RuntimeError, match="nothing was pulled"):
        exec(code_cells()[1], names)
