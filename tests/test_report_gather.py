"""Runs are read side by side, in order, and one that cannot be read costs no other."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from edgejoule.errors import UsageError
from edgejoule.report import tables, write
from edgejoule.report.write import gather
from tests.support_dataset import Plan, build_run

NAMES = ["alexnet", "lenet", "resnet18", "vgg11"]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for name in NAMES:
        build_run(tmp_path / "data", Plan(model=name))
    return tmp_path / "data"


@pytest.mark.parametrize("threads", [None, 1, 2, 8])
def test_order_is_that_of_the_names(dataset: Path, threads: int | None) -> None:
    (dataset / "lenet" / "run.json").write_text("{")
    lines: list[str] = []
    found = gather(dataset, threads=threads, progress=lines.append)
    assert [run.name for run in found.runs] == ["alexnet", "resnet18", "vgg11"]
    assert [row.run for row in found.overviews] == ["alexnet", "resnet18", "vgg11"]
    assert [name for name, _ in found.damaged] == ["lenet"]
    assert "run.json cannot be read" in found.damaged[0][1]
    assert lines == [f"reading run {n} of 4: {name}" for n, name in enumerate(NAMES, 1)]


def test_threads_read_what_one_reads(dataset: Path) -> None:
    one, many = (gather(dataset, series=True, threads=threads) for threads in (1, 3))
    assert one.overviews == many.overviews
    for left, right in zip(one.runs, many.runs, strict=True):
        assert left.layers == right.layers
        assert left.series.spans == right.series.spans
        for a, b in zip(left.series.power, right.series.power, strict=True):
            assert a.rail == b.rail
            assert a.mean_w.tobytes() == b.mean_w.tobytes()
    assert one.overviews[0].peak_w is None  # the board's total is not known here
    assert one.overviews[0].temperature_c == pytest.approx(45.25)


def test_series_are_read_only_where_asked_for(dataset: Path) -> None:
    found = gather(dataset)
    assert all(run.series.start_ns is None for run in found.runs)
    assert found.overviews[0].temperature_c is None
    assert all(run.series.power for run in gather(dataset, series=True).runs)


def test_a_run_directory_is_a_dataset_of_one(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [run.name for run in gather(dataset / "lenet").runs] == ["lenet"]
    monkeypatch.chdir(dataset / "lenet")
    found = gather(Path())
    assert [row.run for row in found.overviews] == ["lenet"]


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        gather(tmp_path / "absent")
    with pytest.raises(UsageError, match="is no dataset"):
        gather(tmp_path)


def test_a_dataset_without_a_run(tmp_path: Path) -> None:
    (tmp_path / ".partial" / "cut-1").mkdir(parents=True)
    (tmp_path / ".partial" / "cut-1" / "request.json").write_text("{}")
    found = gather(tmp_path)
    assert (found.runs, found.overviews, found.damaged, found.unfinished) == ((), (), (), 1)


def test_an_interrupt_begins_no_further_run(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[str] = []
    go = threading.Event()
    real = tables.load_run

    def slow(path: Path, *, series: bool = False) -> tables.RunTables:
        began.append(path.name)
        go.wait(30)
        return real(path, series=series)

    monkeypatch.setattr(write.tables, "load_run", slow)

    def interrupt(line: str) -> None:
        threading.Timer(0.2, go.set).start()  # what has begun ends; nothing else starts
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(dataset, threads=2, progress=interrupt)
    assert len(began) <= 2


def test_a_hostile_name_does_not_reach_the_terminal(dataset: Path) -> None:
    (dataset / "lenet").rename(dataset / "a\x1b[31mb")
    lines: list[str] = []
    gather(dataset, progress=lines.append)
    assert "\x1b" not in "".join(lines)
