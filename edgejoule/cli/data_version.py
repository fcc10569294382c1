"""`data_version.py`: make a dataset a repository, check it, recover killed runs, push and pull."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgejoule.errors import EXIT_DONE, EXIT_WRONG, run_command

if TYPE_CHECKING:
    from edgejoule.dataset.findings import DatasetReport, Finding

_DESCRIPTION = """\
Check a dataset and keep its versions.

A dataset is a folder of runs, one directory each. It becomes its own git and DVC repository; no
command touches a repository around it. Versions go to DagsHub or to a folder.
"""
_EPILOG = """\
examples:
  data_version.py verify raw_data                 is every file whole, does every table make sense?
  data_version.py recover raw_data                make readable what killed runs left
  data_version.py push --dataset raw_data         to a folder beside it, or to DagsHub with a token
  DAGSHUB_USER_TOKEN=... data_version.py push --create
                                                  to your repository edgejoule-raw-data, made first
  DAGSHUB_USER_TOKEN=... data_version.py pull https://dagshub.com/OWNER/NAME --dataset theirs
  data_version.py pull raw_data-remote --dataset copy --run resnet18

environment:
  DAGSHUB_USER_TOKEN   the token; it is read from here alone, and written nowhere
  DAGSHUB_OWNER, DAGSHUB_REPO_NAME   as --owner and --name
  DAGSHUB_CLIENT_HOST  another host than https://dagshub.com
  CREATE_REPO=1        as --create

exit codes: 0 done and right; 1 data wrong or incomplete; 2 usage; 3 token refused; 4 no server
"""


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog=prog or "data_version.py",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(debug=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    init = _verb(
        verbs,
        "init",
        "make a folder its own git and DVC repository",
        "Make DATASET a git and DVC repository of its own. push does this by itself.",
    )
    _dataset_argument(init)

    verify = _verb(
        verbs,
        "verify",
        "check every file of a dataset or of one run",
        "Check hashes, row counts, schemas, time that only rises, layers within their inferences,\n"
        "and totals against their parts. Exits 0 only if every run is complete and right.",
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
    verify.add_argument("--json", action="store_true", help="print one JSON object")

    recover = _verb(
        verbs,
        "recover",
        "make readable what killed runs left",
        "Turn what killed runs left under .partial into <run>--incomplete-<id> directories. A run\n"
        "that lacked only its last rename is finished; one that is being measured is left alone.",
    )
    _dataset_argument(recover)

    push = _verb(
        verbs,
        "push",
        "send runs as a new version",
        "Check the runs that are new, send them, ask the remote for every object, and move the\n"
        "branch last. Without URL and names: the remote used last; with a token, the repository\n"
        "edgejoule-raw-data of its user; else the folder <dataset>-remote beside the dataset.\n"
        "Simulated, random-weight and incomplete runs are not sent to DagsHub unless forced.",
    )
    _remote_arguments(push)
    push.add_argument("--commit", metavar="MESSAGE", help="the version's message")
    push.add_argument(
        "--force",
        action="store_true",
        help="send simulated, random-weight and incomplete runs, too",
    )
    push.add_argument(
        "--allow-change",
        action="store_true",
        help="replace a run of the version by another one of the same name",
    )
    push.add_argument(
        "--create", action="store_true", help="create the repository if it is not there"
    )

    pull = _verb(
        verbs,
        "pull",
        "bring runs of a version and check every file",
        "Bring runs into DATASET, which may be new, empty, or a dataset, and hash every file of\n"
        "them. Without URL and names: the remote used last.",
    )
    _remote_arguments(pull)
    pull.add_argument("--rev", metavar="REV", help="an older version: a commit or a tag")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    arguments = build_parser().parse_args(argv)
    verbs = {
        "init": _init,
        "verify": _verify,
        "recover": _recover,
        "push": _push,
        "pull": _pull,
    }
    return run_command(lambda: verbs[arguments.verb](arguments), debug=arguments.debug)


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, short: str, long: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=short, description=long, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _dataset_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dataset", nargs="?", type=Path, default=Path("raw_data"), metavar="DATASET",
        help="the dataset's folder (default: %(default)s)",
    )  # fmt: skip


def _remote_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "url", nargs="?", metavar="URL", help="https://dagshub.com/OWNER/NAME, or a folder"
    )
    parser.add_argument(
        "--dataset", "--result-dir", type=Path, default=Path("raw_data"), metavar="DIR",
        help="the dataset's folder (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--owner", help="owner on DagsHub (default: the token's user)")
    parser.add_argument("--name", help="repository on DagsHub (default: edgejoule-raw-data)")
    parser.add_argument("--branch", default="main", help="branch (default: %(default)s)")
    parser.add_argument(
        "--run", action="append", default=[], metavar="RUN", dest="runs",
        help="only this run; may be given several times",
    )  # fmt: skip


def _init(arguments: argparse.Namespace) -> int:
    from edgejoule.dataset.versions import init

    made = init(arguments.dataset)
    said = "is now" if made else "already is"
    print(f"{arguments.dataset} {said} its own git and DVC repository")
    return EXIT_DONE


def _verify(arguments: argparse.Namespace) -> int:
    from edgejoule.dataset.verify import verify

    report = verify(arguments.dataset)
    if arguments.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        _print_report(report)
    return EXIT_DONE if report.ok(allow_incomplete=arguments.allow_incomplete) else EXIT_WRONG


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


def _push(arguments: argparse.Namespace) -> int:
    from edgejoule.dataset.versions import push, resolve_remote

    remote = resolve_remote(arguments.dataset, arguments.url, arguments.owner, arguments.name)
    done = push(
        arguments.dataset,
        remote,
        runs=arguments.runs,
        message=arguments.commit,
        branch=arguments.branch,
        force=arguments.force,
        allow_change=arguments.allow_change,
        create=arguments.create or os.environ.get("CREATE_REPO") == "1",
    )
    print(
        f"{done.remote.label} has {len(done.new)} new and {len(done.known)} known runs, "
        f"every object checked; version {done.commit[:12]}"
    )
    for run, why in done.refused.items():
        print(f"not sent: {run} ({why}); --force sends it all the same", file=sys.stderr)
    return EXIT_WRONG if done.refused else EXIT_DONE


def _pull(arguments: argparse.Namespace) -> int:
    from edgejoule.dataset.versions import pull, resolve_remote

    remote = resolve_remote(arguments.dataset, arguments.url, arguments.owner, arguments.name)
    done = pull(
        arguments.dataset,
        remote,
        runs=arguments.runs,
        branch=arguments.branch,
        rev=arguments.rev,
    )
    print(
        f"{arguments.dataset}: {len(done.runs)} runs of version {done.commit[:12]}, "
        "every file checked"
    )
    return EXIT_DONE
