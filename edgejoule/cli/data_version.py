"""`data_version.py`: make a dataset a repository, check it, recover killed runs, push and pull."""

from __future__ import annotations

import argparse

from edgejoule.cli import data_check, data_history, data_older, data_tables, data_transfer
from edgejoule.errors import run_command

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
  data_version.py push --owner rosa --name power --store s3
                                                  large files in parts; --store s3://BUCKET/PATH
  data_version.py status raw_data                 what is new, changed or gone?
  data_version.py log raw_data                    the versions; diff data-1 data-2 compares two
  data_version.py verify raw_data --remote --deep is every object on the remote, and right?
  data_version.py import older/raw_data --dataset raw_data --board "orin nano"
  data_version.py export raw_data -o older/raw_data --timezone UTC
  data_version.py tables raw_data                 layers, runs and energy as Parquet and CSV

environment:
  DAGSHUB_USER_TOKEN   the token; it is read from here alone, and written nowhere
  DAGSHUB_OWNER, DAGSHUB_REPO_NAME   as --owner and --name
  DAGSHUB_CLIENT_HOST  another host than https://dagshub.com
  EDGEJOULE_STORE      as --store
  CREATE_REPO=1        as --create

exit codes: 0 done and right; 1 data wrong or incomplete; 2 usage; 3 token refused; 4 no server
"""
# Each adds its verbs to the parser; what a verb needs is imported when it runs.
_MODULES = (data_transfer, data_check, data_history, data_older, data_tables)


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog=prog or "data_version.py",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for module in _MODULES:
        module.add(verbs)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    arguments = build_parser().parse_args(argv)
    return run_command(lambda: arguments.command(arguments), debug=arguments.debug)
