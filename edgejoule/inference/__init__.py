"""Process one: build a model, run it, time each of its layers."""
