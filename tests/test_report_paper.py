"""Figures for papers: what is written, text that stays text, the same bytes each time."""

from __future__ import annotations

import pickle
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from edgejoule.report.overview import Overview
from edgejoule.report.paper.write import DATASET_KEYS, RUN_KEYS, write_figures
from edgejoule.report.series import RunSeries
from edgejoule.report.tables import RunTables, load_run
from tests.support_figures import HOSTILE, drawn_run
from tests.support_tables import build

RUNS = (
    Overview("a", "a", dtype="float16", p50_ms=2.0, gross_mj=40.0, dynamic_mj=20.0, simulated=True,
             marks=("SIMULATED power",)),
    Overview("b", HOSTILE, dtype="int8", p50_ms=40.0, gross_mj=400.0, gross_half_mj=3.0,
             dynamic_mj=-1.0),
    Overview("c", "c", p50_ms=3.0, gross_mj=30.0, verdict="broken"),
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunTables:
    return drawn_run(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def written(run: RunTables, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = write_figures(tmp_path_factory.mktemp("figures"), run, ())
    return {path.name: path for path in found}


def words(path: Path) -> list[str]:
    """Every text of an SVG."""
    return [
        "".join(one.itertext())
        for one in ET.parse(path).getroot().iter("{http://www.w3.org/2000/svg}text")
    ]


def test_files_of_a_run(run: RunTables, written: dict[str, Path]) -> None:
    assert set(written) == {f"{key}.{kind}" for key in RUN_KEYS for kind in ("svg", "png")}
    assert {path.parent.name for path in written.values()} == {run.name}
    assert not list(written["layers.svg"].parent.glob(".*"))


def test_one_column_at_300_dots_per_inch(written: dict[str, Path]) -> None:
    for name, path in written.items():
        if name.endswith(".png"):
            data = path.read_bytes()
            assert int.from_bytes(data[16:20], "big") == pytest.approx(85 / 25.4 * 300, abs=1)
        else:
            width = ET.parse(path).getroot().get("width", "")
            assert float(width.removesuffix("pt")) == pytest.approx(85 / 25.4 * 72, abs=0.1)


def test_text_is_text_with_units_marks_and_names(written: dict[str, Path]) -> None:
    for name, path in written.items():
        if name.endswith(".svg"):
            assert "SIMULATED power · random weights" in words(path)
    layers = words(written["layers.svg"])
    assert {"time, ms", "energy, mJ", "gross (window regression)", "gap"} <= set(layers)
    assert "known together only" in layers
    assert {"power, W", "total", "clean"} <= set(words(written["power.svg"]))
    assert "share of time, %" in words(written["shares.svg"])


def test_names_are_shown_as_they_are(written: dict[str, Path]) -> None:
    """Dollars are no mathematics, tags no tags, and what no font has is still written."""
    shown = [text for text in words(written["layers.svg"]) if text.startswith("<img")]
    assert [(one[:11], one[-6:]) for one in shown] == [("<img src=x ", "} & co")]
    assert "<img" not in written["layers.svg"].read_text(encoding="utf-8")
    assert any("2 together: " in text for text in words(written["layers.svg"]))


def test_the_same_bytes_each_time(run: RunTables, written: dict[str, Path], tmp_path: Path) -> None:
    for path in write_figures(tmp_path, run, ()):
        assert path.read_bytes() == written[path.name].read_bytes()


def test_an_unknown_interval_is_no_interval_of_no_length(run: RunTables, tmp_path: Path) -> None:
    """Its caps would say that the share is certain."""

    def caps(of: RunTables, folder: str) -> int:
        (path,) = (p for p in write_figures(tmp_path / folder, of, ()) if p.name == "shares.svg")
        return sum(
            "LineCollection" in str(one.get("id")) for one in ET.parse(path).getroot().iter()
        )

    (best, *others) = run.rollups
    bare = tuple(
        replace(piece, amount=replace(piece.amount, gross_half_mj=None)) for piece in best.pieces
    )
    assert caps(run, "known") == 1
    assert caps(replace(run, rollups=(replace(best, pieces=bare), *others)), "bare") == 0


def test_what_compares_runs(tmp_path: Path) -> None:
    said: list[str] = []
    found = write_figures(tmp_path, None, RUNS, said.append)
    assert said == list(DATASET_KEYS)
    assert {path.name for path in found} == {
        f"{key}.{kind}" for key in DATASET_KEYS for kind in ("svg", "png")
    }
    text = words(tmp_path / "pareto.svg")
    assert {"SIMULATED power (1 of 3 runs)", "the best", "the best SIMULATED"} <= set(text)
    assert "broken run" in text
    assert any(one.startswith("<img s") and one.endswith("& co") for one in text)


def test_what_is_not_there_is_not_written(tmp_path: Path, run: RunTables) -> None:
    quiet = load_run(build(tmp_path, "quiet", sensor="none", run={"summary": {}}))
    assert [path.name for path in write_figures(tmp_path / "f", quiet, ())] == [
        "layers.svg", "layers.png",
    ]  # fmt: skip
    assert write_figures(tmp_path / "f", RunTables(tmp_path / "x", {}), ()) == []
    assert write_figures(tmp_path / "f", None, ()) == []
    assert not (tmp_path / "f" / "x").exists()
    bare = replace(run, series=RunSeries())
    assert "power.svg" not in {path.name for path in write_figures(tmp_path / "g", bare, ())}


def test_it_can_be_sent_to_another_process(run: RunTables, tmp_path: Path) -> None:
    job = pickle.loads(pickle.dumps(partial(write_figures, tmp_path, run, RUNS)))
    assert len(job()) == 2 * len(RUN_KEYS)


def test_matplotlib_is_left_as_it_was(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    write_figures(tmp_path, None, RUNS)
    assert dict(mpl.rcParams) == before
