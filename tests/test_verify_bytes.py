"""Whatever byte of whatever file of a dataset changes, `verify` names the file."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.dataset import verify_version
from edgejoule.dataset.findings import ERROR, NOTE
from edgejoule.dataset.verify import verify_dataset, verify_run
from edgejoule.files import files_below
from tests.support_dataset import build_run
from tests.support_format import commit, make_repository, write_pointer

SETTINGS = verify_version.SETTINGS


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A dataset of a run with one version, whole."""
    folder = tmp_path_factory.mktemp("bytes") / "data"
    build_run(folder, model="a")
    make_repository(folder)
    assert verify_dataset(folder).findings == ()
    assert verify_dataset(folder).ok()
    return folder


def versioned_files(dataset):
    return [
        name
        for name in files_below(dataset)
        if not name.startswith((".git/", ".partial/")) and name != ".git"
    ]


def said_of(report):
    """What was found, by file as a path below the dataset."""
    found = {(item.file, item.severity) for item in report.findings}
    for run in report.runs:
        found |= {(f"{run.path.name}/{item.file}", item.severity) for item in run.findings}
    return found


@pytest.fixture
def restore(dataset):
    """Puts a file back as it was."""
    kept = {}

    def keep(name):
        kept[name] = (dataset / name).read_bytes()
        return kept[name]

    yield keep
    for name, content in kept.items():
        (dataset / name).write_bytes(content)


def test_the_files_of_a_dataset_are_all_there_is_to_flip(dataset):
    names = versioned_files(dataset)
    assert {name for name in names if "/" not in name} == {
        ".dvcignore", ".gitignore", "a.dvc", "dataset.json", "idling_power.json",
    }  # fmt: skip
    assert {"a/run.json", "a/layers.parquet", ".dvc/config", ".dvc/.gitignore"} <= set(names)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_changed_or_cut_byte_of_any_file_is_found(dataset, data):
    name = data.draw(st.sampled_from(versioned_files(dataset)))
    path = dataset / name
    raw = path.read_bytes()
    where = data.draw(st.integers(0, len(raw) - 1))
    flip = data.draw(st.integers(0, 255))
    # Nothing to flip: the file is cut there.
    path.write_bytes(raw[:where] + (bytes([raw[where] ^ flip]) + raw[where + 1 :] if flip else b""))
    try:
        report = verify_dataset(dataset)
        found = said_of(report)
    finally:
        path.write_bytes(raw)
    # Settings hold no data, and the commands change them: what differs is told, and not an error.
    assert (name, NOTE if name in SETTINGS else ERROR) in found
    assert report.ok() == (name in SETTINGS)
    assert {file for file, _ in found} == {name}


def test_every_byte_of_a_pointer_is_held_against_the_run_alone(dataset):
    report = verify_run(dataset / "a")
    no_git = verify_version._Committed(None)
    raw = (dataset / "a.dvc").read_bytes()
    assert verify_version._check_pointer(dataset, "a.dvc", raw, report, no_git) == []
    for where in range(len(raw)):
        # Every single bit, and what YAML reads in a way of its own.
        others = {raw[where] ^ 1 << bit for bit in range(8)} | set(b" #\n\r-:'")
        for change in {raw[where] ^ other for other in others} - {0}:
            other = raw[:where] + bytes([raw[where] ^ change]) + raw[where + 1 :]
            found = verify_version._check_pointer(dataset, "a.dvc", other, report, no_git)
            assert found, (where, change)


def test_any_deleted_file_is_found(dataset, restore):
    for name in versioned_files(dataset):
        raw = restore(name)
        (dataset / name).unlink()
        report = verify_dataset(dataset)
        (dataset / name).write_bytes(raw)
        assert (name, ERROR) in said_of(report)
        assert not report.ok()


def test_any_added_file_of_a_run_is_found(dataset):
    for name in ("a/sub/notes.txt", "a/.hidden"):
        (dataset / name).parent.mkdir(exist_ok=True)
        (dataset / name).touch()
        assert (name, ERROR) in said_of(verify_dataset(dataset))
        (dataset / name).unlink()
    (dataset / "a" / "sub").rmdir()
    (dataset / "report.md").touch()  # the user's
    assert verify_dataset(dataset).ok()
    (dataset / "report.md").unlink()


def test_the_figures_of_a_report_are_no_part_of_the_dataset(dataset, tmp_path):
    dataset = Path(shutil.copytree(dataset, tmp_path / "data"))
    (dataset / "figures" / "a").mkdir(parents=True)
    (dataset / "figures" / "a" / "power.svg").touch()
    report = verify_dataset(dataset)
    assert report.ok()
    assert not [name for name, _ in said_of(report) if "figures" in name]
    (dataset / "notes").mkdir()
    assert any(name == "notes" for name, _ in said_of(verify_dataset(dataset)))


def test_files_of_two_runs_that_changed_places_are_found(dataset, tmp_path):
    copy = Path(shutil.copytree(dataset, tmp_path / "data"))
    build_run(copy, model="b", profiled=2, starts=False)
    write_pointer(copy, "b")
    commit(copy)
    assert verify_dataset(copy).findings == ()
    for name in ("layers.parquet", "run.json"):
        first, second = ((copy / run / name).read_bytes() for run in ("a", "b"))
        (copy / "a" / name).write_bytes(second)
        (copy / "b" / name).write_bytes(first)
        found = {file for file, severity in said_of(verify_dataset(copy)) if severity == ERROR}
        assert {f"a/{name}", f"b/{name}"} <= found
        (copy / "a" / name).write_bytes(first)
        (copy / "b" / name).write_bytes(second)
    write_pointer(copy, "a").rename(copy / "b.dvc")
    assert {("a.dvc", ERROR), ("b.dvc", ERROR)} <= said_of(verify_dataset(copy))
