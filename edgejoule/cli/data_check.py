"""`data_version.py verify`, `recover`: is it whole, and what killed runs left."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edgejoule.cli.data_history import byte_size, some
from edgejoule.cli.data_options import Verbs, add_verb, dataset_argument
from edgejoule.errors import EXIT_DONE, EXIT_WRONG, UsageError
from edgejoule.report.progress import Progress
from edgejoule.report.text import printable

if TYPE_CHECKING:
    from edgejoule.dataset.findings import DatasetReport, Finding
    from edgejoule.dataset.versions.remote_check import RemoteReport

# Where this machine has what the remote has wrong -> what to do.
_MENDS = {
    "folder": "push sends what is wrong again",
    "cache": "pull --run takes it from this machine's cache, then push sends it",
    None: "not whole on this machine: push from one that has it, or measure it again",
}
_QUIET_S = 2.0  # a check that takes less needs no bar


def add(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add these verbs."""
    verify = add_verb(
        verbs,
        "verify",
        "check every file of a dataset, of one run, or of a remote",
        "Check hashes, row counts, schemas, time that only rises, layers within their inferences,\n"
        "and totals against their parts. Exits 0 only if every run is complete and right.\n\n"
        "With --remote also whether the dataset's remote has every object of its newest version,\n"
        "in the right size; with --deep, each is read back and hashed, nothing is kept. With a\n"
        "URL or --rev that alone is checked, and no dataset need be here. What is bad is noted,\n"
        "and the next push sends it again. Exits 0 only if every object was checked and is right.",
        _verify,
    )
    verify.add_argument(
        "dataset", nargs="?", type=Path, default=Path("raw_data"), metavar="DATASET",
        help="a dataset or one run directory (default: %(default)s)",
    )  # fmt: skip
    verify.add_argument(
        "--allow-incomplete",
        action="store_true",
        help="exit 0 although runs are incomplete, if what they hold is right",
    )
    verify.add_argument(
        "--run", action="append", default=[], metavar="RUN", dest="runs",
        help="only this run; may be given several times",
    )  # fmt: skip
    verify.add_argument(
        "--remote", nargs="?", const="", metavar="URL",
        help="check the remote, too; with a URL that remote alone",
    )  # fmt: skip
    verify.add_argument("--deep", action="store_true", help="read every object back and hash it")
    verify.add_argument("--rev", metavar="REV", help="an older version: a commit or a tag")
    verify.add_argument("--branch", default="main", help="branch (default: %(default)s)")
    verify.add_argument("--json", action="store_true", help="print one JSON object")

    recover = add_verb(
        verbs,
        "recover",
        "make readable what killed runs left",
        "Turn what killed runs left under .partial into <run>--incomplete-<id> directories. A run\n"
        "that lacked only its last rename is finished; one that is being measured is left alone.",
        _recover,
    )
    dataset_argument(recover)


def _verify(arguments: argparse.Namespace) -> int:
    if arguments.remote is None:
        for name in ("deep", "rev"):
            if getattr(arguments, name):
                raise UsageError(f"--{name} is about a remote", "add --remote [URL]")
    # A version that the folder does not show, or another's, says nothing of the folder.
    local = not arguments.remote and arguments.rev is None
    report = _verify_local(arguments) if local else None
    if report is not None and not arguments.json:
        _print_report(report)
    there = None if arguments.remote is None else _verify_remote(arguments)
    right = report is None or report.ok(allow_incomplete=arguments.allow_incomplete)
    if arguments.json:
        plain = {} if report is None else report.to_json()
        if there is not None:
            whole = (report is None or report.ok()) and there.ok
            plain = {**plain, "ok": whole, "remote": there.to_json()}
        print(json.dumps(plain, indent=2))
    elif there is not None:
        _print_remote(there)
    return EXIT_DONE if right and (there is None or there.ok) else EXIT_WRONG


def _verify_local(arguments: argparse.Namespace) -> DatasetReport:
    """Verify the folder; of runs that are asked for, those that are here."""
    from edgejoule.dataset.findings import DatasetReport
    from edgejoule.dataset.verify import verify, verify_run

    dataset: Path = arguments.dataset
    if not arguments.runs:
        return verify(dataset)
    here = [dataset / run for run in dict.fromkeys(arguments.runs) if (dataset / run).is_dir()]
    if arguments.remote is None and len(here) < len(set(arguments.runs)):
        names = {path.name for path in here}
        lacking = next(run for run in arguments.runs if run not in names)
        raise UsageError(f"{dataset} has no run {lacking}", "--remote looks for it on the remote")
    return DatasetReport(dataset, (), tuple(verify_run(path) for path in here))


def _verify_remote(arguments: argparse.Namespace) -> RemoteReport:
    from edgejoule.dataset.versions.commands import resolve_remote
    from edgejoule.dataset.versions.remote_check import check_remote
    from edgejoule.dataset.versions.repository import configured_remote

    remote = resolve_remote(arguments.dataset, arguments.remote or None, None, None)
    own = configured_remote(arguments.dataset)
    started_s: list[float] = []
    with Progress() as progress:

        def show(done: int, total: int, size: int) -> None:
            if not started_s:
                started_s.append(time.monotonic())
            elapsed_s = time.monotonic() - started_s[0]
            if elapsed_s < _QUIET_S:
                return
            rate_hz = done / elapsed_s
            progress.update(
                "checking", done, total, rate_hz, (total - done) / rate_hz, byte_size(size)
            )

        return check_remote(
            arguments.dataset,
            remote,
            scratch=own is None or own.git_url != remote.git_url,
            runs=arguments.runs,
            rev=arguments.rev,
            branch=arguments.branch,
            deep=arguments.deep,
            progress=show,
        )


def _print_remote(report: RemoteReport) -> None:
    for finding in report.findings:
        place = printable(f"{finding.run}/{finding.file}".rstrip("/"))
        what = "the list of its files " if not finding.file and finding.oid else ""
        print(f"error: {place}: {what}{printable(finding.problem)}, on the remote")
    tags = f" ({', '.join(map(printable, report.tags))})" if report.tags else ""
    how = "read back and hashed" if report.deep else "there; --deep reads them back"
    objects = f"{report.objects} object" + ("" if report.objects == 1 else "s")
    runs = f"{report.runs} run" + ("" if report.runs == 1 else "s")
    print(f"{report.remote}: version {report.commit[:12]}{tags}, {runs}")
    wrong = len({finding.oid for finding in report.findings if finding.oid})
    if report.ok:
        print(f"{objects}, {byte_size(report.bytes)}: all {how}")
        return
    others = len([finding for finding in report.findings if finding.oid is None])
    more = f"; {others} more that no object shows" if others else ""
    print(f"{objects}, {byte_size(report.bytes)}: {wrong} wrong{more}")
    for source, advice in _MENDS.items():
        bad = [x for x in report.findings if x.oid is not None and x.here == source]
        if bad:
            names = list(dict.fromkeys(printable(finding.run) for finding in bad))
            print(f"{some(names)}: {advice}")


def _print_report(report: DatasetReport) -> None:
    for finding in report.findings:
        print(_line("", finding))
    for run in report.runs:
        for finding in run.findings:
            print(_line(f"{run.path.name}/", finding))
    wrong = sum(run.wrong for run in report.runs)
    incomplete = sum(run.incomplete and not run.wrong for run in report.runs)
    right = len(report.runs) - wrong - incomplete
    print(f"{report.path}: {right} right, {incomplete} incomplete, {wrong} wrong")


def _line(prefix: str, finding: Finding) -> str:
    return f"{finding.severity}: {prefix}{finding.file}: {finding.problem}"


def _recover(arguments: argparse.Namespace) -> int:
    from edgejoule.dataset.recover import recover

    found = recover(arguments.dataset)
    for item in found:
        where = f" -> {item.path.name}" if item.path and item.action != "live" else ""
        print(f"{item.action}: {item.partial}{where} ({item.detail})")
    if not found:
        print(f"{arguments.dataset}: nothing to recover")
    return EXIT_WRONG if any(item.action == "stuck" for item in found) else EXIT_DONE
