#!/usr/bin/env python3
"""Check a dataset and keep its versions. See --help and docs/ExperimentScripts.md."""

from edgejoule.cli.data_version import main
from edgejoule.cli.leave import leave

if __name__ == "__main__":
    leave(main())
