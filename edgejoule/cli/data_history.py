"""`data_version.py status`, `log`, `diff`: folder against version, versions against each other."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgejoule.cli.data_options import Verbs, add_verb, dataset_argument
from edgejoule.errors import EXIT_DONE
from edgejoule.report.text import printable, table

if TYPE_CHECKING:
    from edgejoule.dataset.versions.history import ChangedRun, Difference, Version
    from edgejoule.dataset.versions.status import RemoteStatus, RunStatus, Status

_SHORT = 12  # characters of a commit
_VERSIONS = 20
_UNITS = {"latency_ms": ("latency", "ms"), "energy_mj": ("energy", "mJ")}
# State -> what it means and what to do.
_ADVICE = {
    "damaged": "its files are not those of its run.json: delete what is wrong, then pull --run",
    "changed": "another run than the version's: push --allow-change, or move it out and pull",
    "vanished": "this folder had it: pull --run brings it back",
    "new": "not in the version yet: push sends it",
    "removed": "others took it out of the version: push --run sends it all the same",
    "later": "of a newer version than the one shown",
}


def add(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add these verbs."""
    status = add_verb(
        verbs,
        "status",
        "what differs between folder, version and remote",
        "Compare the runs of DATASET with its version: run.json is hashed, of other files the\n"
        "sizes are looked at. A folder as remote is asked, another only with --remote.\n"
        "Exits 0 if there is nothing to do, 1 if something differs, 3 or 4 if the remote was to\n"
        "be asked and the token or the server failed.",
        _status,
    )
    dataset_argument(status)
    status.add_argument("--remote", action="store_true", help="ask a remote over the network, too")
    status.add_argument("--full", action="store_true", help="hash every file")
    status.add_argument("--branch", default="main", help="branch (default: %(default)s)")
    status.add_argument("--json", action="store_true", help="print one JSON object")

    log = add_verb(
        verbs,
        "log",
        "list the versions",
        "List the versions, newest first: what each added, changed and removed, and how many runs\n"
        "it holds. Needs neither the data nor the network.",
        _log,
    )
    dataset_argument(log)
    log.add_argument(
        "-n", type=_count, default=_VERSIONS, metavar="N", dest="limit",
        help="how many, 0 for all (default: %(default)s)",
    )  # fmt: skip
    log.add_argument("--json", action="store_true", help="print one JSON object")

    diff = add_verb(
        verbs,
        "diff",
        "compare two versions, or one with the folder",
        "Compare version A with version B, or with the folder if there is no B. Each is a commit\n"
        "or a tag; without any, the version shown is compared with the folder. Of changed runs:\n"
        "configuration, latency and energy, where both run.json are in the folder or its cache.",
        _diff,
    )
    diff.add_argument("old", nargs="?", default="HEAD", metavar="A", help="a commit or tag")
    diff.add_argument("new", nargs="?", metavar="B", help="another one")
    diff.add_argument(
        "--dataset", "--result-dir", type=Path, default=Path("raw_data"), metavar="DIR",
        help="the dataset's folder (default: %(default)s)",
    )  # fmt: skip
    diff.add_argument("--json", action="store_true", help="print one JSON object")


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError("must be a whole number, 0 for all")
    return int(text)


def _status(arguments: argparse.Namespace) -> int:
    from edgejoule.dataset.versions.status import status

    found = status(
        arguments.dataset,
        full=arguments.full,
        ask_remote=arguments.remote,
        branch=arguments.branch,
    )
    if arguments.json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        _print_status(found)
    return found.exit_code


def _print_status(found: Status) -> None:
    _print_item("dataset", str(found.dataset))
    version = found.version
    if version is None:
        _print_item("version", "none yet: push makes the first, to a folder or to DagsHub")
    else:
        old = "an old version: pull without --rev shows the newest"
        shown = f"branch {version.branch}" if version.branch else old
        size = byte_size(version.bytes)
        words = [_named(version.commit, version.tags), _date(version.date), shown]
        _print_item("version", ", ".join([*words, f"{_runs(version.runs)}, {size}"]))
    _print_item("remote", _remote_text(found.remote))
    if found.remote.damaged:
        names = some(found.remote.damaged)
        _print_item("damaged", f"on the remote, as last checked: {names}; push sends them again")
    if found.small_files:
        _print_item("differs", f"{', '.join(found.small_files)}; push sends it")
    if found.unfinished:
        _print_item("unfinished", f"{some(found.unfinished)}; recover reads what was killed")
    _print_runs(found)


def _print_runs(found: Status) -> None:
    rows = [
        [run.state, printable(run.run), ", ".join(run.marks), printable(run.why)]
        for run in found.runs
        if run.state not in {"same", "absent"}
    ]
    if rows:
        used = [any(row[column] for row in rows) for column in range(4)]
        rows = [[cell for cell, keep in zip(row, used, strict=True) if keep] for row in rows]
        header = [
            name for name, keep in zip(("state", "run", "marks", "why"), used, strict=True) if keep
        ]
        print(f"\n{table(header, rows, set())}")
    print()
    absent = [run.run for run in found.runs if run.state == "absent"]
    if absent:
        _print_item("absent", f"{_runs(len(absent))}, pull --run brings them: {some(absent)}")
    same = [run for run in found.runs if run.state == "same"]
    how = "every file hashed" if found.full else "run.json hashed; --full hashes every file"
    _print_item("same", f"{_runs(len(same))}{_marked(same)} ({how})")
    states = {run.state for run in found.runs}
    if states & _ADVICE.keys():
        print()
    for state, advice in _ADVICE.items():
        if state in states:
            _print_item(state, advice)
    if not found.differs and not found.remote.exit_code:
        print("nothing to do")


def _marked(runs: Iterable[RunStatus]) -> str:
    counts: dict[str, int] = {}
    for run in runs:
        for mark in run.marks:
            counts[mark] = counts.get(mark, 0) + 1
    return "".join(f", {count} {mark}" for mark, count in counts.items())


def _remote_text(remote: RemoteStatus) -> str:
    if remote.label is None:
        return "none yet" if remote.state == "none" else f"unknown ({remote.why})"
    if remote.state == "unknown":
        return f"{remote.label}: unknown ({remote.why})"
    if remote.state == "empty":
        return f"{remote.label}: holds no version yet; push sends one"
    counts = []
    if remote.ahead:
        counts.append(f"{_versions(remote.ahead)} ahead, push sends them")
    if remote.behind:
        runs = f" ({some(remote.runs_there)})" if remote.runs_there else ""
        counts.append(f"{_versions(remote.behind)} behind{runs}, pull brings them")
    said = "; ".join(counts) or "in step"
    if remote.state != "not asked":
        return f"{remote.label}: {said}"
    last = "" if remote.ahead is None else f"; when last asked: {said}"
    return f"{remote.label}: not asked, --remote asks{last}"


def _log(arguments: argparse.Namespace) -> int:
    from edgejoule.dataset.versions.history import count_versions, log

    versions = log(arguments.dataset, arguments.limit or None)
    total = count_versions(arguments.dataset)
    if arguments.json:
        plain = {
            "dataset": str(arguments.dataset),
            "versions": [version.to_json() for version in versions],
            "total": total,
        }
        print(json.dumps(plain, indent=2))
        return EXIT_DONE
    for version in versions:
        _print_version(version)
    if total > len(versions):
        print(f"{total - len(versions)} older; -n 0 shows all")
    return EXIT_DONE


def _print_version(version: Version) -> None:
    author = printable(version.author)
    print(f"{_named(version.commit, version.tags)}  {_date(version.date)}  {author}")
    joins = "joins two that were made at once: " if version.joins else ""
    _print_wrapped(f"{joins}{printable(version.message)}", "    ")
    changes = [
        f"{word} {some(runs)}"
        for word, runs in (
            ("added", version.added),
            ("changed", version.changed),
            ("removed", version.removed),
        )
        if runs
    ]
    holds = f"holds {_runs(version.runs)}, {byte_size(version.bytes)}"
    _print_wrapped("; ".join([*changes, holds]), "    ")


def _diff(arguments: argparse.Namespace) -> int:
    from edgejoule.dataset.versions.history import compare

    found = compare(arguments.dataset, arguments.old, arguments.new)
    if arguments.json:
        print(json.dumps({"dataset": str(arguments.dataset), **found.to_json()}, indent=2))
    else:
        _print_difference(found, arguments.dataset)
    return EXIT_DONE


def _print_difference(found: Difference, dataset: Path) -> None:
    new = found.new[:_SHORT] if found.new else f"the folder {dataset}"
    print(f"{found.old[:_SHORT]} -> {new}")
    for word, runs in (
        ("added", found.added),
        ("removed", found.removed),
        ("absent", found.absent),
    ):
        if runs:
            _print_item(word, some(runs, limit=None))
    for run in found.changed:
        _print_changed(run)
    differing = len(found.added) + len(found.removed) + len(found.changed)
    print(f"{_runs(differing)} {'differs' if differing == 1 else 'differ'}, {found.same} the same")


def _print_changed(run: ChangedRun) -> None:
    _print_item("changed", printable(run.run))
    if not run.known:
        same = {None: "", True: ", the same configuration", False: ", another configuration"}
        _print_wrapped(
            f"only the hashes are at hand{same[run.same_config]}; pull of both versions tells more",
            " " * 14,
        )
        return
    lines = [f"{name}: {_plain(old)} -> {_plain(new)}" for name, (old, new) in run.config.items()]
    lines += [f"{name}: {_plain(old)} -> {_plain(new)}" for name, (old, new) in run.facts.items()]
    for name, (word, unit) in _UNITS.items():
        if name not in run.figures:
            continue
        before, after = run.figures[name]
        mark = "SIMULATED " if run.simulated and unit == "mJ" else ""
        change = f"{_figure(before)} -> {_figure(after)} {unit}{_ratio(before, after)}"
        lines.append(f"{mark}{word}: {change}")
    if run.files:
        lines.append(f"files: {', '.join(map(printable, run.files))}")
    for line in lines or ["run.json alone"]:
        _print_wrapped(line, " " * 14)


def byte_size(count: int | None) -> str:
    """Return a size for people: `812 B`, `54 kB`, `1.2 GB`; `size unknown` for None."""
    if count is None:
        return "size unknown"
    size, unit, larger = float(count), "B", ["kB", "MB", "GB", "TB"]
    while size >= 999.5 and larger:
        size, unit = size / 1000, larger.pop(0)
    return f"{size:.0f} {unit}" if size >= 9.95 or unit == "B" else f"{size:.1f} {unit}"


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _ratio(old: float | None, new: float | None) -> str:
    return f" ({100 * (new / old - 1):+.1f} %)" if old and new is not None else ""


def _plain(value: object) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value))


def _named(commit: str, tags: Sequence[str]) -> str:
    names = ", ".join(map(printable, tags))
    return f"{commit[:_SHORT]} ({names})" if tags else commit[:_SHORT]


def _date(date: str) -> str:
    return date[:16].replace("T", " ")


def _runs(count: int) -> str:
    return f"{count} run" + ("" if count == 1 else "s")


def _versions(count: int) -> str:
    return f"{count} version" + ("" if count == 1 else "s")


def some(names: Sequence[str], limit: int | None = 8) -> str:
    """Return names in a row, the first ones and how many more there are."""
    shown = ", ".join(printable(name) for name in names[:limit])
    more = 0 if limit is None else len(names) - limit
    return f"{shown} and {more} more" if more > 0 else shown


def _print_item(word: str, text: str) -> None:
    _print_wrapped(text, " " * 12, f"{word:<12}")


def _print_wrapped(text: str, indent: str, first: str | None = None) -> None:
    width = max(60, min(shutil.get_terminal_size((80, 24)).columns, 100))
    print(
        textwrap.fill(
            text, width, initial_indent=indent if first is None else first,
            subsequent_indent=indent, break_long_words=False, break_on_hyphens=False,
        )
    )  # fmt: skip
