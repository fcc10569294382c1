#!/usr/bin/env python3
"""Look at a dataset: write its report.md."""

import sys

from edgejoule.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
