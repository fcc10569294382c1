"""Collects facts and verdicts and writes the page, after every test: a crash must not cost it."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgejoule.machine import code_version
from edgejoule.processes import PROJECT_ROOT
from tests.jetson.page import Fact, Outcome, Verdict, write_page

PAGE = "jetson-facts.md"


@dataclass
class Notes:
    """What the page will say."""

    file: Path = Path(PAGE)
    facts: list[Fact] = field(default_factory=list)
    verdicts: dict[str, Verdict] = field(default_factory=dict)

    def note(self, section: str, name: str, value: object) -> None:
        """Add a line to the page."""
        self.facts.append(Fact(section, name, str(value)))

    def settle(self, test: str, outcome: Outcome, seconds: float, reason: str = "") -> None:
        """Set how a test ended, and write the page."""
        self.verdicts[test] = Verdict(test, outcome, seconds, reason)
        self.write()

    def text(self) -> str:
        """Return the page."""
        code = code_version(PROJECT_ROOT) or {}
        commit = str(code.get("commit") or "unknown")[:12]
        changed = ", changed" if code.get("dirty") else ""
        taken = f"{datetime.date.today().isoformat()}, code {commit}{changed}"
        return write_page(self.facts, list(self.verdicts.values()), taken)

    def write(self) -> None:
        """Write the page where the tests were started."""
        self.file.write_text(self.text(), encoding="utf-8")


_NOTES = Notes()


@pytest.fixture(scope="session")
def notes() -> Notes:
    """Where tests put what they find."""
    return _NOTES


def _name(nodeid: str) -> str:
    """`tests/jetson/test_runs.py::test_a_run[torch]` -> `runs: a_run[torch]`."""
    file, _, test = nodeid.partition("::")
    return f"{Path(file).stem.removeprefix('test_')}: {test.removeprefix('test_')}"


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash is not None else report.longrepr)


def pytest_configure(config: pytest.Config) -> None:
    _NOTES.file = Path(config.invocation_params.dir) / PAGE


def pytest_runtest_setup(item: pytest.Item) -> None:
    _NOTES.settle(_name(item.nodeid), "unfinished", 0.0)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    name = _name(report.nodeid)
    known = _NOTES.verdicts.get(name)
    if known is None:
        return
    outcome = known.outcome
    if report.when == "call" or not report.passed:
        outcome = report.outcome
    reason = "" if report.passed else _reason(report)
    _NOTES.settle(name, outcome, known.seconds + report.duration, reason or known.reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _NOTES.verdicts:
        return  # these tests were not asked for
    terminalreporter.section(f"send this page: {_NOTES.file}")
    terminalreporter.write(_NOTES.text())
