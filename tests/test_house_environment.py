"""environment.sh, run_experiment.sh and run_tests.sh, as far as they go without a network."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None or sys.platform == "win32", reason="needs bash")

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of what the scripts need, in a folder with a space."""
    made = tmp_path / "a checkout"
    made.mkdir()
    for name in ("environment.sh", "run_experiment.sh", "pyproject.toml", "uv.lock"):
        shutil.copy2(ROOT / name, made / name)
    return made


def tools_without(tmp_path: Path, *left_out: str) -> Path:
    """Return a folder with the few tools that the scripts use, to stand as PATH."""
    made = tmp_path / "bin"
    made.mkdir(exist_ok=True)
    for name in ("bash", "env", "dirname", "mkdir", "tail", "cat"):
        found = shutil.which(name)
        if found and name not in left_out and not (made / name).exists():
            (made / name).symlink_to(found)
    return made


def executable(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def shell(
    folder: Path, script: str, path: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("UV_", "PIP_", "EDGEJOULE", "VIRTUAL_ENV"))
    }
    if path is not None:
        kept |= {"PATH": str(path), "HOME": str(folder.parent), "PYENV_ROOT": str(folder.parent)}
    assert BASH
    return subprocess.run(
        [BASH, "-c", script],
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_interpreter_is_found_as_a_file(folder: Path, tmp_path: Path) -> None:
    path = tools_without(tmp_path)
    executable(path / "python3", "#!/bin/sh\nexit 127\n")  # a pyenv shim whose version is not there
    executable(path / f"python{VERSION}", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    done = shell(folder, f". ./environment.sh; edgejoule_find_python {VERSION}", path)
    assert Path(done.stdout.strip()).samefile(sys.executable), done.stderr
    assert shell(folder, ". ./environment.sh; edgejoule_python_file python3 any", path).stdout == ""


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        ("uv 0.13.8 (x86_64-unknown-linux-gnu)", True),
        ("uv 0.6.0", True),
        ("uv 1.0.0", True),
        ("uv 0.5.31", False),
        ("something else", False),
        ("", False),
    ],
)
def test_an_old_uv_is_not_used(folder: Path, tmp_path: Path, said: str, fits: bool) -> None:
    executable(tmp_path / "uv", f"#!/bin/sh\necho '{said}'\n")
    done = shell(folder, f". ./environment.sh; edgejoule_uv_fits '{tmp_path / 'uv'}' && echo yes")
    assert (done.stdout == "yes\n") == fits


def test_no_python_is_one_line_with_the_mend(folder: Path, tmp_path: Path) -> None:
    path = tools_without(tmp_path)
    executable(path / "apt-get", "#!/bin/sh\n")
    # Of a version that no machine has, because absolute places are looked at too.
    script = ". ./environment.sh; edgejoule_environment .venv-x 3.99"
    done = shell(folder, script, path)
    assert done.returncode == 2
    assert "no Python 3.99" in done.stderr
    assert "apt-get install -y python3-venv" in done.stderr
    assert done.stderr.count("\n") == 1


def test_neither_pip_nor_venv_is_one_line_with_the_mend(folder: Path, tmp_path: Path) -> None:
    path = tools_without(tmp_path)
    executable(path / "dnf", "#!/bin/sh\n")
    bare = executable(
        tmp_path / "bare",
        "#!/bin/sh\n"
        'case "$*" in *ensurepip*|"-m pip"*) exit 1 ;; esac\n'
        f'exec "{sys.executable}" "$@"\n',
    )
    done = shell(folder, f". ./environment.sh; edgejoule_find_uv '{bare}'", path)
    assert done.returncode == 2
    assert "neither pip nor venv" in done.stderr
    assert "dnf install -y python3-pip" in done.stderr
    assert not (folder / ".uv").exists()


def test_a_failed_download_of_uv_says_so(folder: Path, tmp_path: Path) -> None:
    path = tools_without(tmp_path)
    offline = executable(
        tmp_path / "offline",
        "#!/bin/sh\n"
        'case "$*" in *ensurepip*) exit 1 ;; "-m pip install"*) echo no route; exit 1 ;; esac\n'
        f'case "$*" in "-m pip"*) exit 0 ;; esac\nexec "{sys.executable}" "$@"\n',
    )
    done = shell(folder, f". ./environment.sh; edgejoule_find_uv '{offline}'", path)
    assert done.returncode == 2
    assert "no route" in done.stderr
    assert "is the network there?" in done.stderr


def test_the_python_given_runs_from_anywhere(folder: Path, tmp_path: Path) -> None:
    given = executable(
        tmp_path / "given",
        '#!/bin/sh\n[ "$1" = -c ] || echo "$PYTHONPATH" "$@"\n',
    )
    script = f"cd /; '{folder}/run_experiment.sh' --demo --check"
    done = shell(folder, script, EDGEJOULE_PYTHON=str(given), PYTHONPATH="/there")
    expected = f"{folder}:/there -m edgejoule.cli.run_experiment --demo --check\n"
    assert (done.returncode, done.stdout) == (0, expected), done.stderr


def test_a_python_without_the_libraries_is_one_line(folder: Path, tmp_path: Path) -> None:
    path = tools_without(tmp_path)
    executable(path / "python3", f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    done = shell(folder, "./run_experiment.sh --check", path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "uv sync --frozen" in done.stderr


@pytest.fixture(scope="module")
def entrypoint() -> ModuleType:
    spec = importlib.util.spec_from_file_location("entrypoint", ROOT / "docker" / "entrypoint.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_entrypoint_lends_only_groups_that_may_use_a_device(
    entrypoint: ModuleType, tmp_path: Path
) -> None:
    for name, mode in (("nvmap", 0o660), ("nvhost-gpu", 0o600), ("null", 0o666)):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(mode)
    group = (tmp_path / "nvmap").stat().st_gid
    assert entrypoint.device_groups(tmp_path) == ([group] if group else [])
    (tmp_path / "nvmap").chmod(0o600)
    assert entrypoint.device_groups(tmp_path) == []


def test_the_entrypoint_leaves_open_rail_files_alone(
    entrypoint: ModuleType, tmp_path: Path
) -> None:
    for number, name in enumerate(("ina3221", "other")):
        chip = tmp_path / "class" / "hwmon" / f"hwmon{number}"
        chip.mkdir(parents=True)
        (chip / "name").write_text(name + "\n")
        for file, mode in (("in1_input", 0o400), ("curr1_input", 0o444), ("in1_label", 0o400)):
            (chip / file).write_text("5\n")
            (chip / file).chmod(mode)
    kept = entrypoint.open_rail_files(tmp_path)
    assert sorted(Path(path).name for path in kept) == ["in1_input", "in1_label"]
    for descriptor in kept.values():
        assert os.get_inheritable(descriptor)
        os.close(descriptor)


def test_the_entrypoint_keeps_secrets_and_git_settings_apart(entrypoint: ModuleType) -> None:
    plain, secrets = entrypoint.split_secrets({"DAGSHUB_USER_TOKEN": "t", "MODELS": "lenet"})
    assert (plain, secrets) == ({"MODELS": "lenet"}, {"DAGSHUB_USER_TOKEN": "t"})
    descriptor = entrypoint.pipe_with(json.dumps(secrets).encode())
    assert json.loads(os.read(descriptor, 999)) == secrets
    assert os.read(descriptor, 1) == b""
    os.close(descriptor)
    there = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "a.b"}
    assert entrypoint.git_environment(there, ["/x"]) == {
        "GIT_CONFIG_KEY_1": "safe.directory",
        "GIT_CONFIG_VALUE_1": "/x",
        "GIT_CONFIG_COUNT": "2",
    }
