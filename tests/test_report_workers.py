"""Figures drawn by several processes, and where they go."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import subprocess
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.cli.report import main
from edgejoule.errors import MeasurementError
from edgejoule.report.everything import write_everything
from edgejoule.report.paper import workers
from edgejoule.report.paper.folders import folder_names
from edgejoule.report.paper.worker import serve
from edgejoule.report.paper.workers import Job
from edgejoule.report.paper.write import write_figures
from edgejoule.report.tables import RunTables, load_run
from edgejoule.report.write import gather
from tests.support_dataset import Plan, build_run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("lenet", "LeNet", "pareto.svg"):
        build_run(folder, Plan(model="x" + name)).rename(folder / name)
    return folder


@pytest.fixture(scope="module")
def run(dataset: Path) -> RunTables:
    return load_run(dataset / "lenet", series=True)


def test_names_that_some_file_systems_take_for_one(dataset: Path, tmp_path: Path) -> None:
    write_everything(dataset, gather(dataset, series=True), tmp_path)
    folders = sorted(path.name for path in (tmp_path / "figures").iterdir() if path.is_dir())
    assert folders == ["LeNet", "lenet~2", "pareto.svg~2"]


@given(st.lists(st.text("aAbB\u00e9\u0301e~2\u00df", min_size=1), unique=True))
def test_every_run_has_a_folder_of_its_own(names: list[str]) -> None:
    found = folder_names(names, ["a", "B"])

    def key(name: str) -> str:
        return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())

    assert set(found) == set(names)
    keys = [key(name) for name in found.values()]
    assert len({*keys, "a", "b"}) == len(keys) + 2
    assert folder_names(names[::-1], ["a", "B"]) == found


def test_a_run_named_figures_is_not_drawn_into(tmp_path: Path) -> None:
    run = build_run(tmp_path / "data", Plan(model="x"))
    run = run.rename(run.with_name("figures"))
    before = sorted(path.name for path in run.iterdir())
    found = gather(tmp_path / "data", series=True)
    assert write_everything(tmp_path / "data", found)[-1].name == "report-figures"
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_report_within_a_run_is_refused(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = shutil.copytree(dataset / "lenet", tmp_path / "lenet")
    before = sorted(copy.iterdir())
    monkeypatch.chdir(copy)
    for words in (["."], [str(dataset), "-o", str(copy / "new")], [str(dataset), "-o", "."]):
        assert main([*words, "--quiet"]) == 2
        assert "is within the run directory" in capsys.readouterr().err
    assert sorted(copy.iterdir()) == before


def test_a_figure_without_data_does_not_keep_its_older_picture(
    run: RunTables, tmp_path: Path
) -> None:
    folder = tmp_path / "lenet"
    folder.mkdir()
    for name in ("shares.svg", "shares.png", "mine.svg"):
        (folder / name).write_text("old")
    assert "shares.svg" not in {path.name for path in write_figures(tmp_path, run, ())}
    assert {"mine.svg"} == {path.name for path in folder.iterdir() if path.read_bytes() == b"old"}


@pytest.mark.once("processes of this system, whatever the Python")
def test_workers_draw_what_one_process_draws(run: RunTables, tmp_path: Path) -> None:
    counts: list[int] = []
    jobs = [Job(tmp_path / "w", run, name) for name in ("a", "b", "c")]
    assert workers.draw_in_workers(jobs, 2, counts.append)
    assert counts == [1, 2, 3]
    for path in write_figures(tmp_path / "alone", run, ()):
        for job in jobs:
            assert (tmp_path / "w" / job.name / path.name).read_bytes() == path.read_bytes()


def test_figures_are_drawn_by_processes_that_have_no_secret(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drawing library starts `fc-list`, which would have it in its environment."""
    environments: list[dict[str, str]] = []
    real = subprocess.Popen

    def noted(*args: Any, **more: Any) -> Any:
        environments.append(dict(more.get("env") or os.environ))
        return real(*args, **more)

    monkeypatch.setenv("DAGSHUB_USER_TOKEN", "secret")
    monkeypatch.setattr(subprocess, "Popen", noted)
    write_everything(dataset, gather(dataset, series=True), tmp_path / "out")
    assert list((tmp_path / "out" / "figures").rglob("*.svg"))
    assert environments
    assert not [name for one in environments for name in one if "TOKEN" in name]


@pytest.mark.once("processes of this system, whatever the Python")
def test_ctrl_c_leaves_no_process_and_no_half_file(run: RunTables, tmp_path: Path) -> None:
    started: list[int] = []
    real = subprocess.Popen

    def noted(*args: Any, **more: Any) -> Any:
        process = real(*args, **more)
        started.append(process.pid)
        return process

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", noted)
        with pytest.raises(KeyboardInterrupt):
            workers.draw_in_workers(
                [Job(tmp_path, run, str(place)) for place in range(8)], 2, interrupt
            )
    assert len(started) == 2
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not list(tmp_path.rglob(".*"))
    assert len(list(tmp_path.iterdir())) < 8


def test_a_worker_that_was_ended_is_said(
    run: RunTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_WORKER", "this")  # prints, and ends
    with pytest.raises(MeasurementError, match="a process that draws figures was ended"):
        workers.draw_in_workers([Job(tmp_path, run, "a")], 1, lambda count: None)


def test_a_worker_answers_with_its_error(run: RunTables, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    jobs = [Job(tmp_path, run, "a"), Job(tmp_path / "file", run, "b"), Job(tmp_path, None, "")]
    answers = io.BytesIO()
    serve(io.BytesIO(b"".join(map(pickle.dumps, jobs)) + b"\x80"), answers)
    answers.seek(0)
    found = [pickle.load(answers) for _ in jobs]
    assert found[0] is True
    assert isinstance(found[1], OSError)
    assert found[1].strerror
    assert found[2] is False  # nothing to compare, nothing drawn


def test_as_many_workers_as_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert [workers.worker_count(runs) for runs in (0, 1, 3, 20)] == [1, 1, 3, 4]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert workers.worker_count(20) == 1


def test_nothing_readable_is_an_error_and_what_is_not_is_named(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "data" / "bro\x1bken"
    broken.mkdir(parents=True)
    (broken / "run.json").write_text("{")
    words = ["-o", str(tmp_path / "out"), "--quiet", "--no-figures"]
    assert main([str(tmp_path / "data"), *words]) == 1
    assert main([str(broken), *words]) == 1
    assert "not readable: bro\\x1bken: " in capsys.readouterr().err
    shutil.copytree(dataset / "lenet", tmp_path / "data" / "lenet")
    assert main([str(tmp_path / "data"), *words]) == 0
    assert "not readable: bro\\x1bken: " in capsys.readouterr().err
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| duplication slope % | verdict |" in text
    assert "| 45.2 | - | - | broken |" in text
    assert "- lenet: **broken**: no clean pass was recorded" in text
