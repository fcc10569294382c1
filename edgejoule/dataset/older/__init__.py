"""The older text layout of a dataset: read into ours, and written from it."""
