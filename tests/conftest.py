"""Where skips are forbidden, a skip is a failure; the servers, and the watch over their secrets.

CI installs what a lane needs and sets EDGEJOULE_FORBID_SKIPS: a lane that skips would be green
without having tested anything.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers import standin

if TYPE_CHECKING:
    from tests.servers.commands import Commands
    from tests.servers.places import Place
    from tests.servers.s3 import Moto
    from tests.servers.watcher import Watch

with contextlib.suppress(ImportError):  # on a board pytest alone is enough
    from hypothesis import settings

    # How long an example takes says something of the machine, nothing of the code.
    settings.register_profile("edgejoule", deadline=None)
    settings.load_profile("edgejoule")

# Where git, DVC and the like keep what is a user's; the tests' own home folder is another.
_OF_A_USER = (
    ".git-credentials", ".gitconfig", ".netrc", ".aws", ".boto", ".dvc", ".config/git",
    ".config/dvc", ".cache/dvc", ".cache/dagshub", ".cache/edgejoule",
)  # fmt: skip
_WATCH: pytest.StashKey[Watch] = pytest.StashKey()
_REPORT: pytest.StashKey[list[str]] = pytest.StashKey()


@pytest.fixture(scope="session")
def watch(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watch]:
    """Watches every test that uses a server for the tokens; finding one is an error at the end."""
    from tests.servers.watcher import Watch

    elsewhere = {Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")}
    elsewhere |= {Path.home() / name for name in _OF_A_USER}
    secrets = {"token": standin.TOKEN, "reader": standin.READER, "wrong": standin.WRONG}
    watch = Watch(secrets, tmp_path_factory.getbasetemp())
    watch.start()
    request.config.stash[_WATCH] = watch
    yield watch
    watch.stop([*sorted(elsewhere), request.config.rootpath])
    assert watch.found == []


@pytest.fixture
def server(
    watch: Watch, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> Iterator[standin.StandIn]:
    """Git and DVC servers on loopback, with the environment that points a command at them."""
    from tests.servers.places import serving

    with serving(watch, tmp_path_factory.mktemp("s"), tmp_path) as running:
        yield running


@pytest.fixture(scope="session")
def moto(watch: Watch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    """An S3 server, to be put behind the stand-in."""
    pytest.importorskip("moto")
    from tests.servers import s3

    home = tmp_path_factory.mktemp("moto")
    watch.excluded.add(home)
    with s3.running(home) as running:
        yield running


@pytest.fixture
def place(request: pytest.FixtureRequest, server: standin.StandIn, tmp_path: Path) -> Place:
    """Where to push to, by the kind that the test asks for: see `tests/servers/places.py`."""
    from tests.servers.places import place_of

    moto = request.getfixturevalue("moto") if request.param == "s3" else None
    return place_of(request.param, server, tmp_path, moto)


@pytest.fixture(scope="session")
def commands(watch: Watch) -> Commands:
    """Runs `data_version.py`."""
    from tests.servers.commands import Commands

    return Commands(watch)


@pytest.fixture
def plain_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home without the user's settings, for commands on versions."""
    from tests.support_versions import plain_environment

    plain_environment(monkeypatch, tmp_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: Any = yield
    watch = item.config.stash.get(_WATCH, None)
    if watch is not None:
        for name, text in report.sections:
            watch.look_at_output(f"{name} of {item.name}", text)
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    watch = session.config.stash.get(_WATCH, None)
    if watch is not None:
        session.config.stash[_REPORT] = watch.report()
        if hasattr(session.config, "workeroutput"):  # one of several side by side
            session.config.workeroutput["watch"] = watch.report()
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("EDGEJOULE_FORBID_SKIPS") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Keep what a worker's watch reports."""
    lines = getattr(node, "workeroutput", {}).get("watch", [])
    node.config.stash.setdefault(_REPORT, []).extend(f"{node.gateway.id}: {one}" for one in lines)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if lines := config.stash.get(_REPORT, []):
        terminalreporter.section("the watch over the tokens")
        for line in lines:
            terminalreporter.line(line)
    skipped = terminalreporter.stats.get("skipped", [])
    if os.environ.get("EDGEJOULE_FORBID_SKIPS") and skipped:
        terminalreporter.section("skips are forbidden here")
        for report in skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            terminalreporter.line(f"{report.nodeid}: {reason}")
