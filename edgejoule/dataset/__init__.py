"""Run directories, their schema, manifest and versions."""
