"""What a run says of its outputs against float32, and of the memory it took, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgejoule.report.tables import RunTables, number, part
from edgejoule.report.text import percent


def accuracy_text(tables: RunTables) -> str | None:
    """Return how far the outputs are from the float32 model's, None if the run does not say."""
    found = part(tables.run, "accuracy")
    if not found:
        return None
    largest, mean = number(found, "max_relative_error"), number(found, "mean_relative_error")
    top1, equal = number(found, "top1_agreement"), number(found, "equal")
    said = []
    if mean is not None and largest is not None:
        said.append(f"relative error {mean:.2g} mean, {largest:.2g} max")
    if top1 is not None:
        said.append(f"top class the same in {percent(top1)} % of {found.get('top1_rows')} rows")
    if equal is not None:
        said.append(f"{percent(equal)} % of whole numbers equal")
    lost = number(found, "not_finite")
    if lost:
        said.append(f"{lost:.0f} values NaN or infinite")
    if not said:
        return f"not compared with float32: {found.get('how') or 'no reason given'}"
    weights = " (random weights)" if tables.run.get("weights") == "random" else ""
    return f"against float32: {'; '.join(said)}{weights}"


def memory_text(figures: Mapping[str, Any]) -> str | None:
    """Return peak memory and how its limit was held, None if the run does not say."""
    said = []
    for key, words in (
        ("peak_mib", "peak"),
        ("measure_peak_rss_mib", "measuring process"),
        ("setup_peak_rss_mib", "set-up process"),
        ("peak_board_mib", "whole board"),
    ):
        value = number(figures, key)
        if value is not None:
            said.append(f"{words} {value:.0f} MiB")
    limit = part(figures, "limit")
    limit_mib = number(limit, "limit_mib")
    if limit_mib is not None:
        said.append(f"limit {limit_mib:.0f} MiB, {limit.get('kind')} ({limit.get('how')})")
        violations = number(limit, "violations")
        if violations is not None:
            said.append(f"above it in {violations:.0f} of {limit.get('samples')} samples")
    return "; ".join(said) or None
