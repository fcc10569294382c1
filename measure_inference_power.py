#!/usr/bin/env python3
"""Measure one model: time and energy of every layer. See --help and docs/ExperimentScripts.md."""

from edgejoule.cli.leave import leave
from edgejoule.cli.measure_inference import main

if __name__ == "__main__":
    leave(main())
