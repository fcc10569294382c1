"""What the verbs of `data_version.py` share: how a verb is added, and its common arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

Verbs = argparse._SubParsersAction
Command = Callable[[argparse.Namespace], int]


def add_verb(
    verbs: Verbs[argparse.ArgumentParser], name: str, short: str, long: str, command: Command
) -> argparse.ArgumentParser:
    """Add a verb and return its parser.

    Args:
        verbs: Where to.
        name: The verb.
        short: Its line in the list of verbs.
        long: What its own help begins with.
        command: Takes the parsed arguments and returns the exit code.
    """
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=short, description=long, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(command=command)
    return parser


def dataset_argument(parser: argparse.ArgumentParser) -> None:
    """Add the dataset's folder as a positional argument."""
    parser.add_argument(
        "dataset", nargs="?", type=Path, default=Path("raw_data"), metavar="DATASET",
        help="the dataset's folder (default: %(default)s)",
    )  # fmt: skip


def remote_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says where versions go to or come from."""
    parser.add_argument(
        "url", nargs="?", metavar="URL",
        help="https://dagshub.com/OWNER/NAME, a folder, or a git address",
    )  # fmt: skip
    parser.add_argument(
        "--dataset", "--result-dir", type=Path, default=Path("raw_data"), metavar="DIR",
        help="the dataset's folder (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--owner", help="owner on DagsHub (default: the token's user)")
    parser.add_argument("--name", help="repository on DagsHub (default: edgejoule-raw-data)")
    parser.add_argument(
        "--store", metavar="STORE",
        help="where the data are: http or s3 (both DagsHub's), an address that DVC knows "
        "(s3://BUCKET/PATH, gs://, ssh://, ...), or a folder; kept in the version",
    )  # fmt: skip
    parser.add_argument("--branch", default="main", help="branch (default: %(default)s)")
    parser.add_argument(
        "--run", action="append", default=[], metavar="RUN", dest="runs",
        help="only this run; may be given several times",
    )  # fmt: skip
