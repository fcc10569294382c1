#!/usr/bin/env python3
"""Look at a dataset: its report as page, words, table and figures; best, compare, trace."""

from edgejoule.cli.leave import leave
from edgejoule.cli.report import main

if __name__ == "__main__":
    leave(main())
