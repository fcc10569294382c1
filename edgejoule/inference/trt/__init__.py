"""TensorRT and Torch-TensorRT: build, run on a context of our own, time every layer."""

# Among the artefacts: the plan with what built it, as `--engine` takes it.
ENGINE_FILE = "engine.ejplan"
