"""Figures of the page: pure functions from a run to plain values that plotly draws."""
