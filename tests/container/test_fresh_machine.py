"""The demo's environment on a machine that has Python and nothing else.

The base of the image serves as that machine: its Python refuses `pip install` (PEP 668) and has no
venv; one test takes its pip away too. With the network of the host.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.container.conftest import OWNER, Engine, own_certificates

pytestmark = [pytest.mark.container, pytest.mark.timeout(900)]

MAKE = """
source ./environment.sh
edgejoule_environment .venv-demo any --no-default-groups --group demo --no-install-project
"$EDGEJOULE_MADE_PYTHON" -c 'import numpy, pyarrow, rich, jsonschema, onnx, onnxruntime, sys
from importlib.util import find_spec
assert find_spec("torch") is None and sys.prefix.endswith(".venv-demo")
print("made")'
"""


def on_fresh_machine(
    engine: Engine, base: str, project: Path, script: str, *options: str, network: str = "host"
) -> subprocess.CompletedProcess[str]:
    return engine(
        "podman",
        "run",
        *("--rm", "--network", network, "-v", f"{project}:/home/my clone", "-w", "/home/my clone"),
        *(*own_certificates(engine.storage), "-e", "SSL_CERT_DIR=/etc/ssl/certs", "-e", "HOME=/no"),
        *(*options, base, "bash", "-c", script),
        check=False,
        timeout=600,
    )


def test_pip_without_venv_in_a_python_that_refuses_installs(
    engine: Engine, base: str, project: Path
) -> None:
    user = ("--user", f"{OWNER}:{OWNER}")
    done = on_fresh_machine(engine, base, project, MAKE, *user)
    assert (done.returncode, done.stdout) == (0, "made\n"), done.stderr
    size = sum(f.stat().st_size for f in (project / ".venv-demo").rglob("*") if f.is_file())
    assert size < 600e6
    # git sees nothing of it, and a second time nothing is fetched: it works without a network.
    trust = ["git", "-c", f"safe.directory={project}", "-C", str(project)]
    subprocess.run([*trust, "init", "-q"], check=True)
    status = [*trust, "status", "--porcelain", "--untracked-files=all"]
    seen = subprocess.run(status, check=True, capture_output=True, text=True).stdout
    assert "run_experiment.sh" in seen
    assert not [line for line in seen.splitlines() if ".venv" in line or ".uv" in line]
    again = on_fresh_machine(engine, base, project, MAKE, *user, network="none")
    assert (again.returncode, again.stdout) == (0, "made\n"), again.stderr
    assert "making" not in again.stderr


def test_neither_pip_nor_venv_is_one_line_with_the_mend(
    engine: Engine, base: str, project: Path
) -> None:
    script = "rm -r /usr/lib/python3/dist-packages/pip; ./run_experiment.sh --demo"
    done = on_fresh_machine(engine, base, project, script)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "apt-get install -y python3-venv" in done.stderr
    assert not (project / ".uv").exists()
