"""TensorRT and Torch-TensorRT: build, run on a context of our own, time every layer."""
