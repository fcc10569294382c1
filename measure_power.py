#!/usr/bin/env python3
"""Read the power rails of this board. See --help and docs/ExperimentScripts.md."""

from edgejoule.cli.leave import leave
from edgejoule.cli.measure_power import main

if __name__ == "__main__":
    leave(main())
