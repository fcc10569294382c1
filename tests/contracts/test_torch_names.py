"""Every name of torch_tensorrt that this project uses, against the wheels of seven versions."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgejoule.inference.trt import torch_names
from edgejoule.inference.trt.torch_names import RELIANCES, Reliance
from tests.contracts.folder import ROOT, listed
from tests.contracts.wheels import Wheel, disagreements, expected

pytestmark = pytest.mark.contracts

VERSIONS = listed("torch_tensorrt.txt")
PYTHON = "torch_tensorrt/dynamo/runtime/_PythonTorchTensorRTModule.py"
CPP = "torch_tensorrt/dynamo/runtime/_TorchTensorRTModule.py"
COMPILER = "torch_tensorrt/dynamo/_compiler.py"
INTERPRETER = "torch_tensorrt/dynamo/conversion/_TRTInterpreter.py"


@pytest.fixture(params=VERSIONS)
def folder(request: pytest.FixtureRequest, contracts: Path) -> Path:
    return contracts / "torch_tensorrt" / request.param


def test_the_table_is_of_the_versions_that_are_fetched() -> None:
    assert tuple(VERSIONS) == torch_names.VERSIONS


def test_every_name_is_in_the_versions_that_we_say(folder: Path) -> None:
    wheel = Wheel(folder)
    assert wheel.version.split("+")[0] == folder.name
    assert disagreements(wheel) == []


def copy_of(folder: Path, wheel: Path, file: str = "", old: str = "", new: str = "") -> None:
    """Write a wheel of a package's Python files, with a name changed throughout one of them."""
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder).as_posix()
            if path.is_file() and (path.suffix == ".py" or ".dist-info/" in inside):
                text = path.read_text(encoding="utf-8")
                if inside == file:
                    text, count = re.subn(rf"\b{old}\b", new, text)
                    assert count, f"no {old} in {file}"
                archive.writestr(inside, text)


def test_an_unchanged_copy_agrees(folder: Path, tmp_path: Path) -> None:
    copy_of(folder, tmp_path / "copy.whl")
    assert disagreements(Wheel(tmp_path / "copy.whl")) == []


@pytest.mark.parametrize(
    ("version", "file", "kind", "name"),
    [
        ("2.4.0", COMPILER, "parameter", "compile.enabled_precisions"),
        ("2.4.0", PYTHON, "attribute", "PythonTorchTensorRTModule.engine"),
        ("2.6.0", INTERPRETER, "method", "TRTInterpreter._populate_trt_builder_config"),
        ("2.8.0", PYTHON, "attribute", "PythonTorchTensorRTModule.serialized_engine"),
        ("2.8.0", CPP, "constant", "ENGINE_IDX"),
        ("2.10.0", COMPILER, "function", "compile"),
        ("2.12.1", CPP, "class", "TorchTensorRTModule"),
        ("2.13.0", CPP, "attribute", "TorchTensorRTModule.serialized_engine"),
        ("2.14.0", COMPILER, "parameter", "compile.max_aux_streams"),
        ("2.14.0", "torch_tensorrt/_version.py", "constant", "__version__"),
    ],
)
def test_one_renamed_name_in_a_copy_of_a_wheel_is_told(
    contracts: Path, tmp_path: Path, version: str, file: str, kind: str, name: str
) -> None:
    last = name.rpartition(".")[2]
    copy = tmp_path / f"torch_tensorrt-{version}.whl"
    copy_of(contracts / "torch_tensorrt" / version, copy, file, last, f"{last}_moved")
    lines = disagreements(Wheel(copy))
    assert any(
        line.startswith(f"torch_tensorrt {version} has no {kind} {name} in ") for line in lines
    )
    if kind not in {"class", "function"}:  # with these go their members
        assert len(lines) == 1, lines


def test_the_check_as_a_command_fails_for_that_copy(contracts: Path, tmp_path: Path) -> None:
    copy = tmp_path / "torch_tensorrt-2.8.0.whl"
    whole = contracts / "torch_tensorrt" / "2.8.0"
    copy_of(whole, copy, COMPILER, "optimization_level", "optimisation_level")
    command = [sys.executable, "-m", "tests.contracts.wheels"]
    for wheel, status, said in (
        (whole, 0, f"torch_tensorrt 2.8.0: {len(RELIANCES)} names agree"),
        (copy, 1, "torch_tensorrt 2.8.0 has no parameter compile.optimization_level in"),
    ):
        done = subprocess.run(
            [*command, str(wheel)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        assert said in done.stdout


def test_a_name_that_should_be_gone_is_told(contracts: Path) -> None:
    wheel = Wheel(contracts / "torch_tensorrt" / "2.4.0")
    entry = Reliance(COMPILER, "compile.device", "parameter", (2, 6), None, "an example")
    (line,) = disagreements(wheel, [entry])
    assert line.startswith("torch_tensorrt 2.4.0 has parameter compile.device in ")
    assert "which it lacks by the table (since (2, 6), until None)" in line
    assert not expected(entry, "2.4.0")
    assert expected(entry, "2.6.0+cu124")


def test_the_same_name_elsewhere_is_not_enough(contracts: Path) -> None:
    wheel = Wheel(contracts / "torch_tensorrt" / "2.8.0")
    table = [
        Reliance(CPP, "PythonTorchTensorRTModule.engine", "attribute", None, None, "wrong file"),
        Reliance(CPP, "TorchTensorRTModule.engine", "method", None, None, "wrong kind"),
        Reliance(COMPILER, "save_cross_compiled_exported_program.device", "parameter", None, None,
                 "another function's"),
        Reliance("torch_tensorrt/absent.py", "compile", "function", None, None, "no such file"),
    ]  # fmt: skip
    assert len(disagreements(wheel, table)) == len(table)
