"""What `verify` says of pointers, absent runs and versioned files."""

import pytest

from edgejoule.dataset.findings import ERROR, NOTE
from edgejoule.dataset.verify import verify_dataset
from edgejoule.dataset.verify_version import SETTINGS
from edgejoule.dataset.versions.git import init_repository
from edgejoule.dataset.versions.notes import note_here
from edgejoule.files import write_json
from tests.support_dataset import build_run, reseal
from tests.support_edit import edit_json
from tests.support_format import commit, make_repository, write_pointer


@pytest.fixture
def dataset(tmp_path):
    """A dataset of a small run with one version."""
    build_run(tmp_path / "data", model="a", profiled=1, clean=1, warmup=0, sensor="none")
    make_repository(tmp_path / "data")
    return tmp_path / "data"


def said(dataset):
    report = verify_dataset(dataset)
    return [(item.file, item.severity, item.problem) for item in report.findings]


def test_a_run_that_is_another_than_the_versions_is_an_error(dataset):
    edit_json(dataset / "a" / "engine.json", lambda engine: engine.update(settings={"x": 1}))
    reseal(dataset / "a")
    (found,) = said(dataset)
    assert found[:2] == ("a/run.json", ERROR)
    assert "is another run than the version's; push --allow-change replaces it" in found[2]
    write_pointer(dataset, "a")  # as push --allow-change does
    assert said(dataset) == [("a.dvc", NOTE, "is not in a version yet: push")]
    assert verify_dataset(dataset).ok()
    commit(dataset)
    assert said(dataset) == []


def test_without_git_a_pointer_is_held_against_the_run_all_the_same(dataset):
    (dataset / ".git").rename(dataset.parent / "git")
    assert said(dataset) == []
    pointer = dataset / "a.dvc"
    text = pointer.read_text(encoding="utf-8")
    for old, new, says in (
        ("nfiles: ", "nfiles: 1", "does not belong to the run that is here: nfiles is 1"),
        ("weights: pretrained", "weights: random", "weights is random, the run's pretrained"),
        ("path: a", "path: b", "points at b, not at a"),
        ("hash: md5", "hash: sha256", "its hash is sha256, not md5"),
        ("  size:", "- size:", "line 3 is not as pointers are written"),
        ("status:", "state:", "is not as pointers are written"),
        ("    simulated: false\n", "", "simulated is missing"),
        (".dir", "", "it points at no folder"),
        ("  path: a\n", "  path: a\n  path: a\n", "line 7 is not as pointers are written"),
    ):
        pointer.write_text(text.replace(old, new, 1), encoding="utf-8")
        (found,) = said(dataset)
        assert found[:2] == ("a.dvc", ERROR)
        assert says in found[2]


def test_a_pointer_that_plain_dvc_wrote_is_right(dataset):
    pointer = dataset / "a.dvc"
    text = pointer.read_text(encoding="utf-8").partition("meta:")[0]
    pointer.write_text(text + "desc: my first run\n", encoding="utf-8")
    commit(dataset)
    assert said(dataset) == []
    pointer.write_text(text.replace("md5: ", "md5: 0").replace("0.dir", ".dir"), encoding="utf-8")
    assert said(dataset)[0][:2] == ("a.dvc", ERROR)


def test_runs_that_were_not_pulled_are_one_note(dataset):
    for run in "bcdefghijk":
        text = (dataset / "a.dvc").read_text(encoding="utf-8")
        path = dataset / f"{run}.dvc"
        path.write_text(text.replace("path: a", f"path: {run}"), encoding="utf-8")
    commit(dataset)
    assert said(dataset) == [
        (
            "*.dvc",
            NOTE,
            "10 runs of the version are not here: b, c, d, e, f, g, h, i and 2 more; "
            "pull brings them",
        )
    ]
    assert verify_dataset(dataset).ok()
    note_here(dataset, {"c": "0" * 64})
    assert ("c.dvc", ERROR, "its run was here and is gone (pull --run c brings it back)") in said(
        dataset
    )


def test_a_pointer_of_a_run_that_nobody_has_is_an_error(dataset):
    text = (dataset / "a.dvc").read_text(encoding="utf-8")
    (dataset / "x.dvc").write_text(text.replace("path: a", "path: x"), encoding="utf-8")
    says = "names a run that is neither here nor in the last version"
    assert ("x.dvc", ERROR, says) in said(dataset)


def test_a_changed_pointer_of_an_absent_run_is_found_by_git(dataset, tmp_path):
    (dataset / "a").rename(tmp_path / "elsewhere")
    pointer = dataset / "a.dvc"
    pointer.write_bytes(pointer.read_bytes().replace(b"md5: ", b"md5: ").replace(b"1", b"2"))
    (found,) = said(dataset)
    assert found[:2] == ("a.dvc", ERROR)
    assert "differs from the last version" in found[2]


def test_what_may_change_between_versions_is_a_note(dataset):
    for name in SETTINGS:
        path = dataset / name
        path.write_text(path.read_text(encoding="utf-8") + "# mine\n", encoding="utf-8")
    write_json(dataset / "idling_power.json", {"timestamp": "2", "avg_idle_power": 1.0})
    assert {(file, severity) for file, severity, _ in said(dataset)} == {
        (name, NOTE) for name in (*SETTINGS, "idling_power.json")
    }
    assert verify_dataset(dataset).ok()


def test_a_repository_without_a_version_or_of_somebody_else_is_left_alone(dataset, tmp_path):
    build_run(tmp_path / "new", model="a", profiled=1, clean=1, warmup=0, sensor="none")
    init_repository(tmp_path / "new")
    assert said(tmp_path / "new") == []
    (tmp_path / "new" / ".dvc").mkdir()
    assert said(tmp_path / "new") == []


def test_a_damaged_repository_is_said_to_be_one(dataset):
    head = (dataset / ".git" / "refs" / "heads" / "main").read_text().strip()
    tree = dataset / ".git" / "objects" / head[:2] / head[2:]
    tree.chmod(0o644)
    tree.write_bytes(b"damaged")
    found = said(dataset)
    assert (found[0][0], found[0][1]) == (".git", ERROR)


def test_a_damaged_calibration_of_the_dataset_is_found(dataset):
    (dataset / "calibration.json").write_text("{}", encoding="utf-8")
    (found,) = said(dataset)
    assert found[:2] == ("calibration.json", ERROR)


def test_our_rules_of_a_pointer_are_those_of_dvc(tmp_path):
    pytest.importorskip("dvc")
    from edgejoule.dataset.versions import dvc_adapter
    from edgejoule.dataset.versions.push_checks import pointer_meta
    from edgejoule.dataset.versions.repository import init

    run = build_run(tmp_path / "data", model="a", profiled=1, clean=1, warmup=0, sensor="none")
    (run / "sub").mkdir()
    (run / "sub" / "inspector-0.json").write_text("{}", encoding="utf-8")
    reseal(run)
    own = write_pointer(run.parent, "a").read_text(encoding="utf-8")
    (run.parent / "a.dvc").unlink()
    init(run.parent, commit=False)
    with dvc_adapter.opened(run.parent) as repo:
        dvc_adapter.add_runs(repo, {"a": pointer_meta(run.parent, "a")})
    assert (run.parent / "a.dvc").read_text(encoding="utf-8") == own
    assert said(run.parent) == []
