#!/usr/bin/env python3
"""Measure the idle baseline of this board. See --help and docs/ExperimentScripts.md."""

from edgejoule.cli.leave import leave
from edgejoule.cli.measure_idling_power import main

if __name__ == "__main__":
    leave(main())
