#!/usr/bin/env python3
"""Learn power and runtime from a dataset, and predict networks. See docs/Prediction.md."""

from edgejoule.cli.leave import leave
from edgejoule.cli.predict_power import main

if __name__ == "__main__":
    leave(main())
