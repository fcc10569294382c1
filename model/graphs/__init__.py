"""ONNX graphs kept without weights, and the script `make` that writes them."""
