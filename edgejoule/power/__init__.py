"""Process two: sensors, the sampler, traces and the idle baseline (standard library only)."""
