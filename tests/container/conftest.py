"""The image, built once on a base with a distribution's CPU torch, and ways to run it.

NVIDIA's image is not to be had everywhere and needs their hardware. What matters about it can be
had: a torch and a numpy that no package index gave, in the system's site-packages. Debian 13 has
both (torch 2.6, numpy 2.2, Python 3.13). Images and containers live in a storage of their own,
which is deleted at the end; the machine's own images are not touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("buildah", "podman", "runc", "mmdebstrap")
BASE_PACKAGES = "python3,python3-pip,python3-torch,python3-numpy,ca-certificates"
OWNER = 1000
TOKEN = f"tok-{uuid.uuid4().hex}"

# No cgroup manager and no raising of limits: works as root in a plain virtual machine too. No
# network: an experiment with random weights and no push needs none.
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
netns = "none"
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


@dataclass(frozen=True)
class Engine:
    """buildah and podman over one storage of their own."""

    storage: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "CONTAINERS_CONF": str(self.storage / "containers.conf")}

    def command(self, tool: str, *arguments: str) -> list[str]:
        places = ["--root", str(self.storage / "root"), "--runroot", str(self.storage / "run")]
        return [tool, *places, *arguments]

    def __call__(
        self, tool: str, *arguments: str, check: bool = True, timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(tool, *arguments),
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f"{tool} {' '.join(arguments)}: {done.returncode}\n{done.stderr[-3000:]}")
        return done


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.getuid() != 0:
        pytest.skip(f"needs root and {', '.join(missing or TOOLS)}")
    # Not below pytest's own folder: it keeps the last three, and an image is over a gigabyte.
    storage = Path(tempfile.mkdtemp(prefix="edgejoule-containers-", dir="/var/tmp"))
    (storage / "containers.conf").write_text(CONTAINERS_CONF, encoding="utf-8")
    made = Engine(storage)
    yield made
    made("podman", "rm", "--all", "--force", "--time", "0", check=False)
    made("podman", "rmi", "--all", "--force", check=False)
    shutil.rmtree(storage, ignore_errors=True)


def own_certificates(folder: Path) -> list[str]:
    """Mounts for a machine whose way out has a certificate authority of its own."""
    bundle = os.environ.get("SSL_CERT_FILE")
    if not bundle or not Path(bundle).is_file():
        return []
    inside = "/etc/ssl/certs/ca-certificates.crt"
    (folder / "pip.conf").write_text(f"[global]\ncert = {inside}\n", encoding="utf-8")
    (folder / "uv.toml").write_text("system-certs = true\n", encoding="utf-8")
    mounts = ((bundle, inside), ("pip.conf", "/etc/pip.conf"), ("uv.toml", "/etc/uv/uv.toml"))
    return [part for host, place in mounts for part in ("-v", f"{folder / host}:{place}:ro")]


@pytest.fixture(scope="session")
def base(engine: Engine) -> str:
    archive = engine.storage / "base.tar"
    subprocess.run(
        [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={BASE_PACKAGES}",
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")),
            "trixie",
            str(archive),
        ],
        check=True,
        timeout=600,
    )
    engine("podman", "import", str(archive), "localhost/base:latest")
    archive.unlink()
    return "localhost/base:latest"


@pytest.fixture(scope="session")
def build_log(engine: Engine, base: str) -> str:
    """Build the image `localhost/edgejoule`; return what the build printed."""
    done = engine(
        "buildah",
        "build",
        *("--format", "docker", "--isolation", "chroot", "--network", "host"),
        *own_certificates(engine.storage),
        *("--build-arg", f"BASE_IMAGE={base}", "-f", "Dockerfile.jetson"),
        *("-t", "localhost/edgejoule", "."),
        timeout=600,
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def image(build_log: str) -> str:
    assert build_log
    return "localhost/edgejoule"


def copy_project(target: Path, owner: int = OWNER) -> Path:
    """Copy what git would take along into `target`, for `owner`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    give(target, owner)
    return target


def give(folder: Path, owner: int) -> None:
    os.chown(folder, owner, owner)
    for path in folder.rglob("*"):
        os.chown(path, owner, owner, follow_symlinks=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout that belongs to an ordinary user."""
    return copy_project(tmp_path / "checkout")


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(engine: Engine, image: str) -> Run:
    """Run the image on a folder: `run(folder, *command, options=[...])`, the user's own line."""

    def start(
        folder: Path | None, *command: str, options: tuple[str, ...] = (), timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        mount = ["-v", f"{folder}:/app"] if folder else []
        return engine(
            "podman",
            "run",
            *("--rm", "--ipc=host", "-e", f"DAGSHUB_USER_TOKEN={TOKEN}"),
            *(*mount, *options, image, *command),
            check=False,
            timeout=timeout,
        )

    return start
