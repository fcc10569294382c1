"""What `verify` found. Standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ERROR = "error"  # the data is wrong
INCOMPLETE = "incomplete"  # the run was cut short and says so
NOTE = "note"  # worth knowing, nothing wrong

FAILED = "the measurement failed"  # how the finding about a failed run begins


@dataclass(frozen=True)
class Finding:
    """One thing about one file.

    Attributes:
        file: The file it is about, relative to what was verified.
        problem: One line.
        severity: `error`, `incomplete` or `note`.
    """

    file: str
    problem: str
    severity: str = ERROR

    def to_json(self) -> dict[str, str]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class RunReport:
    """What was found about one run; `status` as its `run.json` says, None where unreadable."""

    path: Path
    status: str | None
    findings: tuple[Finding, ...]

    @property
    def wrong(self) -> bool:
        """Whether any finding is an error."""
        return any(finding.severity == ERROR for finding in self.findings)

    @property
    def incomplete(self) -> bool:
        """Whether the run was cut short."""
        return any(finding.severity == INCOMPLETE for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "run": self.path.name,
            "status": self.status,
            "ok": not self.wrong and not self.incomplete,
            "findings": [finding.to_json() for finding in self.findings],
        }


@dataclass(frozen=True)
class DatasetReport:
    """What was found about a dataset: its own files, then each run."""

    path: Path
    findings: tuple[Finding, ...]
    runs: tuple[RunReport, ...]

    def ok(self, *, allow_incomplete: bool = False) -> bool:
        """Whether every run is right, and complete unless incomplete ones are allowed."""
        if any(finding.severity == ERROR for finding in self.findings):
            return False
        return not any(run.wrong or (run.incomplete and not allow_incomplete) for run in self.runs)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "dataset": str(self.path),
            "ok": self.ok(),
            "findings": [finding.to_json() for finding in self.findings],
            "runs": [run.to_json() for run in self.runs],
        }
