"""`data_version.py init`, `push`, `pull`: the dataset and its remote."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from edgejoule.cli.data_options import Verbs, add_verb, dataset_argument, remote_arguments
from edgejoule.errors import EXIT_DONE, EXIT_WRONG

if TYPE_CHECKING:
    from edgejoule.dataset.versions.pulling import Pulled
    from edgejoule.dataset.versions.pushing import Pushed

_PUSH = """\
Send runs as a new version: check the token and the runs, send what the store lacks, ask it for
every object, then move the branch and number the version (data-1, data-2, ...).

URL is one of
  https://dagshub.com/OWNER/NAME   needs DAGSHUB_USER_TOKEN; --create makes the repository
  FOLDER                           git and data in one folder: no account, no network
  any git address                  with --store; git's own credentials (helper, ssh) are used
Without it: the remote used last; with a token, the repository edgejoule-raw-data of its user; else
the folder <dataset>-remote beside the dataset.

Simulated, random-weight and incomplete runs are not sent to others unless forced. A run of the
version that changed here, or that was here and is gone, is refused unless --allow-change; older
versions keep it. A push that was cut short is run again. docs/Versions.md says more.
"""
_PULL = """\
Bring runs into DATASET and hash every file of them. DATASET may be new, empty, or a dataset; runs
of other names in it stay. What is here already is not fetched again.

URL is as in push; what its versions say of their store is followed, and our token goes to the
configured host alone. Without it: the remote used last.
"""
_PUSH_EXAMPLES = """\
examples:
  data_version.py push                                    to the remote used last, or a folder
  data_version.py push --commit "Orin Nano, 15 W" --tag paper
  data_version.py push --owner rosa --name power --store s3
  data_version.py push git@github.com:rosa/power.git --store s3://my-bucket/power
  data_version.py push --deep                             read all back; mends damaged objects
"""
_PULL_EXAMPLES = """\
examples:
  data_version.py pull https://dagshub.com/rosa/power --dataset theirs
  data_version.py pull --run resnet18 --run vgg16         these runs alone
  data_version.py pull --rev data-3                       an older version; pull goes back to new
"""


def add(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add these verbs."""
    init = add_verb(
        verbs,
        "init",
        "make a folder its own git and DVC repository",
        "Make DATASET a git and DVC repository of its own. push does this by itself.",
        _init,
    )
    dataset_argument(init)

    push = add_verb(verbs, "push", "send runs as a new version", _PUSH, _push)
    push.epilog = _PUSH_EXAMPLES
    remote_arguments(push)
    push.add_argument("--commit", metavar="MESSAGE", help="the version's message")
    push.add_argument("--tag", metavar="NAME", help="a name for the version, beside its number")
    push.add_argument(
        "--force",
        action="store_true",
        help="send simulated, random-weight and incomplete runs, too",
    )
    push.add_argument(
        "--allow-change",
        action="store_true",
        help="replace changed runs of the version, and take out those that vanished here",
    )
    push.add_argument(
        "--deep", action="store_true", help="read every object back and hash it; mend wrong ones"
    )
    push.add_argument(
        "--create", action="store_true", help="create the repository if it is not there"
    )

    pull = add_verb(verbs, "pull", "bring runs of a version and check every file", _PULL, _pull)
    pull.epilog = _PULL_EXAMPLES
    remote_arguments(pull)
    pull.add_argument(
        "--rev", metavar="REV", help="an older version: its number (data-3), a tag or a commit"
    )


def _init(arguments: argparse.Namespace) -> int:
    from edgejoule.dataset.versions.commands import init

    made = init(arguments.dataset)
    said = "is now" if made else "already is"
    print(f"{arguments.dataset} {said} its own git and DVC repository")
    return EXIT_DONE


def _push(arguments: argparse.Namespace) -> int:
    from edgejoule.dataset.versions.commands import push, resolve_remote
    from edgejoule.report.progress import Progress

    remote = resolve_remote(
        arguments.dataset, arguments.url, arguments.owner, arguments.name, arguments.store
    )
    with Progress(quiet=not sys.stderr.isatty()) as progress:
        done = push(
            arguments.dataset,
            remote,
            runs=arguments.runs,
            message=arguments.commit,
            branch=arguments.branch,
            force=arguments.force,
            allow_change=arguments.allow_change,
            create=arguments.create or os.environ.get("CREATE_REPO") == "1",
            deep=arguments.deep,
            tag=arguments.tag,
            progress=progress,
        )
    _say_pushed(done)
    return EXIT_WRONG if done.refused else EXIT_DONE


def _say_pushed(done: Pushed) -> None:
    what = f"{len(done.new)} new and {len(done.known)} known runs, {done.objects} objects checked"
    state = f"version {done.version}" if done.moved else f"nothing new, still {done.version}"
    print(f"{done.remote.label} has {what}; {state} ({done.commit[:12]})")
    for run in done.taken_out:
        print(f"taken out of the version: {run}; older versions keep it")
    for run in done.removed:
        print(
            f"not sent: {run} (others took it out of the version); --run {run} sends it all the "
            "same",
            file=sys.stderr,
        )
    for run, why in done.refused.items():
        print(f"not sent: {run} ({why}); --force sends it all the same", file=sys.stderr)


def _pull(arguments: argparse.Namespace) -> int:
    from edgejoule.dataset.versions.commands import pull, resolve_remote
    from edgejoule.report.progress import Progress

    remote = resolve_remote(
        arguments.dataset, arguments.url, arguments.owner, arguments.name, arguments.store
    )
    with Progress(quiet=not sys.stderr.isatty()) as progress:
        done = pull(
            arguments.dataset,
            remote,
            runs=arguments.runs,
            branch=arguments.branch,
            rev=arguments.rev,
            progress=progress,
        )
    _say_pulled(arguments.dataset, done)
    return EXIT_DONE


def _say_pulled(dataset: object, done: Pulled) -> None:
    of = f"{len(done.runs)} runs of version {done.version} ({done.commit[:12]})"
    if done.fetched:
        here = len(done.runs) - len(done.fetched)
        were = f", {here} were here already" if here else ""
        print(f"{dataset}: {of}{were}, every file checked")
    else:
        print(f"{dataset}: {of} were all here already, unchanged since they were checked")
    if done.others:
        names = ", ".join(done.others[:5]) + (", ..." if len(done.others) > 5 else "")
        print(f"also here, not of this version: {names}")
