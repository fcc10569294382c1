#!/usr/bin/env python3
"""Look at a dataset: write its report.md."""

from edgejoule.cli.leave import leave
from edgejoule.cli.report import main

if __name__ == "__main__":
    leave(main())
