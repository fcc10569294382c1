"""TensorRT and Torch-TensorRT: build, run on a context of our own, time every layer."""

# Among the artefacts: the plan's bytes, what the session needs of it, the plan with what built it
# (as `--engine` takes it), and where the graph is that its layers can be built from alone.
PLAN_FILE = "plan.engine"
SESSION_FILE = "plan.json"
ENGINE_FILE = "engine.ejplan"
REPLAY_FILE = "replay.json"
