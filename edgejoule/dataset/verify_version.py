"""Whether what is versioned beside the runs is whole: pointers, defaults, settings.

A pointer names every file of its run by MD5, as DVC reckons it, and `run.json` by SHA-256; both are
computed again from the files, without DVC. What git has is read from its last commit and compared
byte by byte, whatever time stamps say. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgejoule.dataset.findings import NOTE, Finding, RunReport
from edgejoule.dataset.run_directory import DATASET_JSON, RUN_JSON
from edgejoule.errors import EdgejouleError, UsageError
from edgejoule.files import files_below, read_json, sha256_of

SETTINGS = (".dvc/.gitignore", ".dvc/config", ".dvcignore", ".gitignore")
_TRACKED = (*SETTINGS, DATASET_JSON, "idling_power.json")
_OUT = ("md5", "size", "nfiles", "hash", "path")
_META = ("run_json_sha256", "config_sha256", "status", "simulated", "weights")
_OWN = re.compile(r"edgejoule|run_json_sha256|config_sha256")
_LINE = re.compile(r"(?P<lead>(?: {4}|  |- |))(?P<key>[a-z0-9_]+):(?P<rest>| | (?P<value>\S+))")
_FOLDED = re.compile(r" {6}(\S+)")
_QUOTED = re.compile(r"(['\"]?)([^'\"]+)\1")
_SECTIONS = {"outs": "", "meta": "meta", "edgejoule": "edgejoule"}
_NAMED = 8
_BLOCK = 1 << 20


@dataclass(frozen=True)
class _Committed:
    """What the last commit has: file -> hash of its content as git reckons it; None: no commit."""

    blobs: Mapping[str, str] | None

    def same(self, name: str, content: bytes) -> bool | None:
        """Say whether a file is as committed; None where it is not in the commit, or none is."""
        oid = (self.blobs or {}).get(name)
        if oid is None:
            return None
        digest = hashlib.sha256() if len(oid) == 64 else hashlib.sha1(usedforsecurity=False)
        digest.update(b"blob %d\0" % len(content) + content)
        return digest.hexdigest() == oid


def check_version(dataset: Path, reports: Mapping[str, RunReport]) -> list[Finding]:
    """Check pointers against the runs that are here, and the small files against the last commit.

    Args:
        dataset: The dataset's folder; a repository or not.
        reports: What was found about each run that is here, by name.
    """
    findings: list[Finding] = []
    committed = _committed(dataset, findings)
    names = sorted(path.name for path in dataset.glob("*.dvc") if path.is_file())
    vanished = _vanished(dataset) if committed.blobs is not None else set()
    absent = []
    for name in names:
        run = name[: -len(".dvc")]
        text = (dataset / name).read_bytes()
        found = _check_pointer(dataset, name, text, reports.get(run), committed)
        findings += found
        if run in reports:
            continue
        if run in vanished:
            problem = f"its run was here and is gone (pull --run {run} brings it back)"
            findings.append(Finding(name, problem))
        elif not found:
            absent.append(run)
    if absent:
        findings.append(Finding(*_absent_line(absent), NOTE))
    for name in sorted(committed.blobs or ()):
        file = dataset / name
        if not file.is_file():
            findings.append(Finding(name, f"is missing; {_bring_back(name)}"))
        elif name in _TRACKED and not committed.same(name, file.read_bytes()):
            # A baseline may be measured anew, settings follow the remote; defaults never change.
            kind = {} if name == DATASET_JSON else {"severity": NOTE}
            problem = f"differs from the last version; {_bring_back(name)}"
            findings.append(Finding(name, problem, **kind))
    return findings


def _absent_line(runs: list[str]) -> tuple[str, str]:
    """Return where and what: one line, however many runs of the version were not pulled."""
    if len(runs) == 1:
        return f"{runs[0]}.dvc", f"its run is not here (pull --run {runs[0]} brings it)"
    named = ", ".join(runs[:_NAMED])
    more = f" and {len(runs) - _NAMED} more" if len(runs) > _NAMED else ""
    return "*.dvc", f"{len(runs)} runs of the version are not here: {named}{more}; pull brings them"


def _check_pointer(
    dataset: Path, name: str, content: bytes, report: RunReport | None, committed: _Committed
) -> list[Finding]:
    run = name[: -len(".dvc")]
    same = committed.same(name, content)
    try:
        pointer = _parse(content.decode("utf-8"))
    except ValueError as error:
        return [Finding(name, f"is damaged ({error})")]
    if pointer["path"] != run:
        return [Finding(name, f"points at {pointer['path']}, not at {run}")]
    versioned = committed.blobs is not None
    if report is None:
        if same is False:
            return [Finding(name, f"differs from the last version; {_bring_back(name)}")]
        stray = same is None and versioned
        problem = "names a run that is neither here nor in the last version"
        return [Finding(name, problem)] if stray else []
    # What is wrong with a run is said already, and is not the pointer's fault.
    return [] if report.wrong else _compare(dataset / run, name, pointer, same, versioned=versioned)


def _compare(
    folder: Path, name: str, pointer: Mapping[str, str], same: bool | None, *, versioned: bool
) -> list[Finding]:
    """Compare a pointer with the run that is here; `same`: it is as committed."""
    problem = next(_contradictions(folder, pointer), None)
    if problem and same:
        run = folder.name
        advice = f"push --allow-change replaces it; or move this one out, then pull --run {run}"
        return [Finding(f"{run}/{RUN_JSON}", f"is another run than the version's; {advice}")]
    if problem:
        return [Finding(name, f"does not belong to the run that is here: {problem}")]
    if versioned and not same:
        return [Finding(name, "is not in a version yet: push", NOTE)]
    return []


def _parse(text: str) -> dict[str, str]:
    """Return what a pointer says, keys of `meta.edgejoule` among those of its only output.

    One that plain DVC wrote may hold more than is known here, and is read less closely.

    Raises:
        ValueError: It is not as DVC and this project write it.
    """
    own = _OWN.search(text) is not None
    if not text.endswith("\n"):
        raise ValueError("its last line is cut")
    found: dict[str, str] = {}
    section = ""
    for number, lead, key, value in _entries(text[:-1].split("\n"), strict=own):
        if value is None:
            section = _SECTIONS.get(key, "?")
            expected = (key in _SECTIONS, "  " if section == "edgejoule" else "")
            if own and (True, lead) != expected:
                raise _unusual(number)
            continue
        known = _META if section == "edgejoule" else _OUT
        indent = "    " if section == "edgejoule" else "  " if found else "- "
        if own and (key not in known or lead != indent or key in found or section == "meta"):
            raise _unusual(number)
        if section in {"", "edgejoule"} and key in known:
            found[key] = value
    _complete(found, own=own)
    return found


def _entries(lines: list[str], *, strict: bool) -> Iterator[tuple[int, str, str, str | None]]:
    """Return line number, indentation, key and value of each entry; no value: it has entries."""
    number = 0
    while number < len(lines):
        line = _LINE.fullmatch(lines[number])
        number += 1
        if line is None:
            if strict:
                raise _unusual(number)
            continue
        at, value = number, line["value"]
        if value is None and number < len(lines) and (more := _FOLDED.fullmatch(lines[number])):
            value = more[1]  # YAML writers put a long value on the next line
            number += 1
        plain = None if value is None else _QUOTED.fullmatch(value)
        if value is not None and plain is None and strict:
            raise _unusual(at)
        yield at, line["lead"], line["key"], plain[2] if plain else value


def _unusual(number: int) -> ValueError:
    return ValueError(f"line {number} is not as pointers are written")


def _complete(found: Mapping[str, str], *, own: bool) -> None:
    for key in (*_OUT, *_META) if own else ("md5", "path"):
        if key not in found:
            raise ValueError(f"{key} is missing")
    if not re.fullmatch(r"[0-9a-f]{32}\.dir", found["md5"]):
        raise ValueError("it points at no folder")
    if found.get("hash", "md5") != "md5":
        raise ValueError(f"its hash is {found['hash']}, not md5")
    for key in ("size", "nfiles"):
        if not found.get(key, "0").isdecimal():
            raise ValueError(f"{key} is no number")


def _contradictions(folder: Path, pointer: Mapping[str, str]) -> Iterator[str]:
    """Say in what a pointer and the run that is here differ; the run itself is right."""
    run: dict[str, Any] = read_json(folder / RUN_JSON)
    facts = {
        "run_json_sha256": sha256_of(folder / RUN_JSON),
        **{key: run[key] for key in _META[1:]},
    }
    names = files_below(folder)
    facts["nfiles"] = len(names)
    facts["size"] = sum((folder / name).stat().st_size for name in names)
    for key, value in facts.items():
        said = str(value).lower() if isinstance(value, bool) else str(value)
        if key in pointer and pointer[key] != said:
            yield f"{key} is {pointer[key]}, the run's {said}"
    listed = [{"md5": _md5(folder / name), "relpath": name} for name in names]
    oid = hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False)
    if pointer["md5"] != f"{oid.hexdigest()}.dir":
        yield f"md5 is {pointer['md5']}, that of the run's files {oid.hexdigest()}.dir"


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _committed(dataset: Path, findings: list[Finding]) -> _Committed:
    if not (dataset / ".git").exists():
        return _Committed(None)
    from edgejoule.dataset.versions.git import git_succeeds, is_repository, run_git

    try:
        if not is_repository(dataset) or not git_succeeds(
            dataset, "rev-parse", "--verify", "--quiet", "HEAD"
        ):
            return _Committed(None)
        listed = run_git(dataset, "ls-tree", "-r", "-z", "HEAD")
    except UsageError as error:  # no git on this machine
        findings.append(Finding(".git", f"was not compared with the files ({error})", NOTE))
        return _Committed(None)
    except EdgejouleError as error:
        findings.append(Finding(".git", f"cannot be read ({error})"))
        return _Committed(None)
    blobs = {}
    for line in filter(None, listed.split("\0")):
        facts, _, name = line.partition("\t")
        if name in _TRACKED or (name.endswith(".dvc") and "/" not in name):
            blobs[name] = facts.split()[2]
    return _Committed(blobs)


def _vanished(dataset: Path) -> set[str]:
    from edgejoule.dataset.versions.notes import had_here

    return set(had_here(dataset))


def _bring_back(name: str) -> str:
    return f"`git checkout HEAD -- {name}` brings it back"
