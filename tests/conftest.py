"""Where skips are forbidden, a skip is a failure.

CI installs what a lane needs and sets EDGEJOULE_FORBID_SKIPS: a lane that skips would be green
without having tested anything.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import standin

with contextlib.suppress(ImportError):  # on a board pytest alone is enough
    from hypothesis import settings

    # How long an example takes says something of the machine, nothing of the code.
    settings.register_profile("edgejoule", deadline=None)
    settings.load_profile("edgejoule")


@pytest.fixture
def server(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[standin.StandIn]:
    """Git and DVC servers on loopback, with the environment that points a command at them."""
    for name in list(os.environ):
        if name.startswith(("DAGSHUB_", "GIT_", "CREATE_REPO")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    with standin.running(tmp_path_factory.mktemp("s"), standin.TOKEN, standin.READER) as running:
        monkeypatch.setenv("DAGSHUB_CLIENT_HOST", running.url)
        monkeypatch.setenv("DAGSHUB_USER_TOKEN", standin.TOKEN)
        yield running


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("EDGEJOULE_FORBID_SKIPS") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if os.environ.get("EDGEJOULE_FORBID_SKIPS") and skipped:
        terminalreporter.section("skips are forbidden here")
        for report in skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            terminalreporter.line(f"{report.nodeid}: {reason}")
