"""Where do the joules of a neural network go: time and energy of every layer, with error bars."""

import os

__version__ = "0.3.0"

# ONNX Runtime 1.31 collects and uploads usage data, on Linux too: no business of a measurement,
# and work beside the one measured. Set here, before anything can import it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
