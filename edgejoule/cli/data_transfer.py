"""`data_version.py init`, `push`, `pull`: the dataset and its remote."""

from __future__ import annotations

import argparse
import os
import sys

from edgejoule.cli.data_options import Verbs, add_verb, dataset_argument, remote_arguments
from edgejoule.errors import EXIT_DONE, EXIT_WRONG


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

    push = add_verb(
        verbs,
        "push",
        "send runs as a new version",
        "Check the runs that are new, send them, ask the remote for every object, and move the\n"
        "branch last. Without URL and names: the remote used last; with a token, the repository\n"
        "edgejoule-raw-data of its user; else the folder <dataset>-remote beside the dataset.\n"
        "Simulated, random-weight and incomplete runs are not sent to DagsHub unless forced.",
        _push,
    )
    remote_arguments(push)
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

    pull = add_verb(
        verbs,
        "pull",
        "bring runs of a version and check every file",
        "Bring runs into DATASET, which may be new, empty, or a dataset, and hash every file of\n"
        "them. Without URL and names: the remote used last.",
        _pull,
    )
    remote_arguments(pull)
    pull.add_argument("--rev", metavar="REV", help="an older version: a commit or a tag")


def _init(arguments: argparse.Namespace) -> int:
    from edgejoule.dataset.versions import init

    made = init(arguments.dataset)
    said = "is now" if made else "already is"
    print(f"{arguments.dataset} {said} its own git and DVC repository")
    return EXIT_DONE


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
