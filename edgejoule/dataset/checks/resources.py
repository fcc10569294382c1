"""Whether the machine's figures over a run make sense."""

from __future__ import annotations

from pathlib import Path

from edgejoule.dataset.checks.common import first
from edgejoule.dataset.findings import Finding


def check_resources(path: Path) -> list[Finding]:
    """Check `resources.parquet`: time only rises, and a figure is a number or null."""
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    times = table["t_ns"].to_numpy()
    problems = [first("time runs backwards", np.flatnonzero(np.diff(times) <= 0) + 1)]
    for name in table.column_names:
        if name != "t_ns":
            values = table[name].fill_null(0.0).to_numpy()
            problems.append(first(f"{name} is no number", np.flatnonzero(~np.isfinite(values))))
    return [Finding(path.name, problem) for problem in problems if problem]
