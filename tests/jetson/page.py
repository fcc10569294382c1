"""One page of facts from a board: what was found and how every test ended.

`write_page` is a pure function of the facts. It shortens them and takes out what names a person or
one single device, so that the page can be sent as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

SECTIONS = ("machine", "software", "power", "backends", "TensorRT", "torch_tensorrt", "runs")
LONGEST = 240  # characters of a value

Outcome = Literal["passed", "failed", "skipped", "unfinished"]


@dataclass(frozen=True)
class Fact:
    """One line: `- name: value` within its section."""

    section: str
    name: str
    value: str


@dataclass(frozen=True)
class Verdict:
    """How a test ended; `reason` in one line where it did not pass."""

    test: str
    outcome: Outcome
    seconds: float
    reason: str = ""


# What a page must not carry, each with what stands in its place. Jetson's serial number has 13
# digits; UUIDs name a GPU or a module for good.
_PRIVATE = (
    (re.compile(r"(?:GPU-|MIG-)?[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.I), "<uuid>"),
    (re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", re.I), "<address>"),
    # Of other addresses a version of four numbers (10.13.3.9) cannot be told.
    (re.compile(r"\b(?:192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2}\b"), "<address>"),
    (re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}(?=:\d)"), "<address>"),
    (re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"]+", re.I), "<url>"),
    (
        re.compile(r"/(?:home|Users|root|media|mnt|tmp|var|opt|app|srv|usr/local)\b[^\s'\":,;)]*/"),
        "",
    ),
    (re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"), "<mail>"),
    (re.compile(r"\b(?=\w*\d)[0-9a-f]{20,}\b", re.I), "<hash>"),
    (re.compile(r"(?<![\w.])\d{12,}(?![\w.])"), "<number>"),
)


def redact(text: str) -> str:
    """Return text without UUIDs, addresses, folders, mails, hashes and serial numbers."""
    for pattern, instead in _PRIVATE:
        text = pattern.sub(instead, text)
    return text


def one_line(text: object, longest: int = LONGEST) -> str:
    """Return a value as one redacted line of bounded length."""
    line = redact(" ".join(str(text).split()))
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def write_page(facts: Iterable[Fact], verdicts: Sequence[Verdict], taken: str) -> str:
    """Return the page.

    Args:
        facts: In the order in which they came; a later one of the same name replaces an earlier.
        verdicts: Of all tests that began.
        taken: The day, and the commit of the code.
    """
    known: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for fact in facts:
        known.setdefault(fact.section, {})[fact.name] = one_line(fact.value)
    lines = ["# edgejoule: facts from a board", "", one_line(taken)]
    for section, found in known.items():
        if found:
            lines += ["", f"## {section}", ""]
            lines += [f"- {name}: {value}" for name, value in found.items()]
    lines += ["", "## verdicts", "", _counted(verdicts)]
    alike: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts:
        if verdict.outcome == "passed":
            key, test = ("passed", ""), f"{verdict.test} ({verdict.seconds:.0f} s)"
        else:
            key, test = (verdict.outcome, one_line(verdict.reason)), verdict.test
        alike.setdefault(key, []).append(test)
    for (outcome, reason), tests in sorted(alike.items(), key=lambda one: one[0][0] == "passed"):
        lines.append(f"- {outcome} {', '.join(tests)}{f': {reason}' if reason else ''}")
    return "\n".join(lines) + "\n"


def _counted(verdicts: Sequence[Verdict]) -> str:
    counts = {
        outcome: sum(one.outcome == outcome for one in verdicts)
        for outcome in ("passed", "failed", "skipped", "unfinished")
    }
    total = sum(one.seconds for one in verdicts)
    told = [f"{count} {outcome}" for outcome, count in counts.items() if count]
    return f"{', '.join(told) or 'no test ran'}; {total / 60:.1f} min"
