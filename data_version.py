#!/usr/bin/env python3
"""Check a dataset and keep its versions. See --help and docs/ExperimentScripts.md."""

import sys

from edgejoule.cli.data_version import main

if __name__ == "__main__":
    sys.exit(main())
