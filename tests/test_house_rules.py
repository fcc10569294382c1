"""Rules of the house that a reader cannot see at a glance: lock, licence, names, lengths, lint."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import coverage_report

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "uv.lock"
# Put together here, so that this file does not name what it forbids.
INDEX_HOSTS = ("pypi" + ".org", "files.python" + "hosted.org")
FORBIDDEN = (
    *INDEX_HOSTS,
    "deb.debian" + ".org",
    "registry.npm" + "js",
    "/wo" + "rk/",
    "/ro" + "ot/",
)
TEXT = {".py", ".sh", ".md", ".toml", ".json", ".cff", ".jetson", ".yaml", ".yml", ""}


def tracked() -> list[Path]:
    """Return the project's own files, as git knows them."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    names = [name for name in done.stdout.split("\0") if name and name != LOCK.name]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def texts() -> dict[str, str]:
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for path in tracked()
        if path.suffix in TEXT
    }


def tool(name: str) -> str:
    """Return a tool of this environment."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"no {name} in this environment")
    return found


def test_the_lock_agrees_with_the_project() -> None:
    places = [os.environ.get("PATH", ""), *(str(ROOT / ".uv" / p / "bin") for p in ("venv", "lib"))]
    uv = shutil.which("uv", path=os.pathsep.join(places))
    if uv is None:
        pytest.skip("no uv")
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("UV_INDEX", "UV_FIND", "UV_EXTRA"))
    }
    # Offline: all that it asks stands in the lock.
    done = subprocess.run(
        [uv, "lock", "--check", "--offline", "--python", sys.executable],
        cwd=ROOT,
        env={**kept, "UV_PYTHON_DOWNLOADS": "never"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_lock_names_only_the_public_index() -> None:
    hosts = set(re.findall(r'https?://([^/"]+)', LOCK.read_text(encoding="utf-8")))
    assert hosts == set(INDEX_HOSTS)


def test_the_lock_serves_four_platforms() -> None:
    text = LOCK.read_text(encoding="utf-8")
    required = text.split("required-markers = [")[1].split("]")[0]
    for platform in ("x86_64", "aarch64", "darwin", "win32"):
        assert platform in required


def test_nothing_names_an_index_or_a_machine() -> None:
    found = [(name, word) for name, text in texts().items() for word in FORBIDDEN if word in text]
    assert found == []


def test_nothing_is_left_for_later_and_text_is_plain() -> None:
    later = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
    found = [name for name, text in texts().items() if later.search(text) or "\u2014" in text]
    assert found == []


def test_modules_stay_short() -> None:
    rooms = ("edgejoule/", "model/")
    lengths = {name: text.count("\n") for name, text in texts().items() if name.endswith(".py")}
    assert {name: n for name, n in lengths.items() if name.startswith(rooms) and n > 400} == {}


def test_the_licence_is_apache_everywhere() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "license: Apache-2.0" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_one_version_everywhere() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert f"version: {version[1]}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {version[1]}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_what_coverage_leaves_out_has_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = coverage_report.tomllib.loads(text)
    assert all(len(reason) > 10 or reason for reason in coverage_report.omitted(project).values())
    project["tool"]["coverage"]["run"]["omit"].append("edgejoule/*")
    with pytest.raises(ValueError, match="edgejoule"):
        coverage_report.omitted(project)


def test_torn_coverage_data_is_dropped_and_whole_data_kept(tmp_path: Path) -> None:
    coverage = pytest.importorskip("coverage")
    for name in ("whole", "torn", "empty"):
        data = coverage.CoverageData(str(tmp_path / f".coverage.{name}"))
        data.add_arcs({"x.py": [(n, n + 1) for n in range(4000)]})
        data.close()
    torn = tmp_path / ".coverage.torn"
    torn.write_bytes(torn.read_bytes()[:6000])
    (tmp_path / ".coverage.empty").write_bytes(b"")
    assert coverage_report.drop_torn(tmp_path) == 2
    assert [file.name for file in tmp_path.iterdir()] == [".coverage.whole"]


def test_the_image_uses_the_uv_that_the_scripts_fetch() -> None:
    fetched = re.search(r"edgejoule_uv_version=(\S+)", (ROOT / "environment.sh").read_text())
    assert fetched
    assert f"uv=={fetched[1]}" in (ROOT / "Dockerfile.jetson").read_text(encoding="utf-8")


def test_shell_scripts_are_clean() -> None:
    shellcheck = tool("shellcheck")
    scripts = [
        str(path)
        for path in tracked()
        if path.suffix == ".sh" or path.read_bytes()[:64].startswith(b"#!/usr/bin/env bash")
    ]
    assert len(scripts) >= 4
    done = subprocess.run(
        [shellcheck, "-x", "-o", "all", "-S", "style", *scripts],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_is_clean() -> None:
    hadolint = tool("hadolint")
    command = [hadolint, "--no-color", "--failure-threshold", "warning", "Dockerfile.jetson"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("forbid", "status"), [("1", 1), ("", 0)])
def test_a_skip_fails_where_skips_are_forbidden(tmp_path: Path, forbid: str, status: int) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_x.py").write_text(
        "import pytest\ndef test_a(): pytest.skip('no such tool')\ndef test_b(): pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "EDGEJOULE_FORBID_SKIPS": forbid},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout
    assert ("no such tool" in done.stdout) == bool(forbid)


def test_the_ignored_folders_are_ignored() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    made = [
        ".venv/x",
        ".venv-demo/x",
        ".venv-py310/x",
        ".uv/x",
        ".cache/x",
        "raw_data/x",
        "demo_data/x",
    ]
    made += [".coverage", ".coverage.vm.1", "tests/__pycache__/x.pyc", ".hypothesis/x"]
    done = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "check-ignore", "--no-index", *made],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.dumps(done.stdout.split()) == json.dumps(made)
