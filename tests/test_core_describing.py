"""Networks are described in a process that has no secret, whatever their files do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgejoule.describing import described, listed
from edgejoule.errors import UsageError
from edgejoule.inference.workload import ModelFacts


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "foreignzoo.py"


def test_a_foreign_file_sees_no_token(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", "tok-1")
    package.write_text(
        "import os\nprint('noise')\n"
        "SEEN = [name for name in os.environ if 'TOKEN' in name] + ['end']\n"
        "from edgejoule.inference.workload import ModelFacts\n"
        "def tell(spec): return ModelFacts(spec, (1, 2), forms=('torch',))\n"
    )
    assert listed("foreignzoo:SEEN") == ("end",)
    assert described("foreignzoo:tell", ["a"]) == [ModelFacts("a", (1, 2), forms=("torch",))]
    assert "foreignzoo" not in sys.modules


def test_a_file_that_breaks_is_one_line(package: Path) -> None:
    package.write_text("raise ValueError('broken zoo')\n")
    with pytest.raises(UsageError, match="foreignzoo:X gave no answer: ValueError: broken zoo"):
        listed("foreignzoo:X")
    package.write_text("import os\nos._exit(3)\n")
    with pytest.raises(UsageError, match="exit status 3"):
        listed("foreignzoo:X")


def test_what_is_not_there_is_named(package: Path) -> None:
    package.write_text("X = 1\n")
    for reference in ("foreignzoo:X", "foreignzoo:Y", "nosuchzoo:X"):
        with pytest.raises(UsageError, match=f"no list of networks '{reference}'"):
            listed(reference)


def test_a_runtime_uploads_nothing_unless_the_user_says_so() -> None:
    code = "import os, edgejoule; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for own, seen in ((None, "1"), ("0", "0")):
        kept = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
        environment = kept if own is None else {**kept, "ORT_DISABLE_TELEMETRY": own}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == seen
