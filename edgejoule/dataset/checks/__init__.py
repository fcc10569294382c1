"""Whether the tables of a run make sense: in themselves, with each other, with `run.json`.

Only files whose hash agreed are opened. Numpy and pyarrow; memory stays bounded by reading in
batches, apart from the inferences, of which there are some ten thousand. One module per table;
`figures` computes anew what the run says of itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.dataset.checks.attribution import check_attribution
from edgejoule.dataset.checks.energy import check_energy, read_energy
from edgejoule.dataset.checks.figures import check_latencies, check_totals
from edgejoule.dataset.checks.inferences import check_inferences, read_inferences
from edgejoule.dataset.checks.json_files import check_measured
from edgejoule.dataset.checks.layers import Engine, LayerSums, check_layers, read_engine
from edgejoule.dataset.checks.power import check_power
from edgejoule.dataset.checks.replay import check_replay
from edgejoule.dataset.checks.resources import check_resources
from edgejoule.dataset.findings import ERROR, Finding
from edgejoule.dataset.schema import TABLES, table_schema

if TYPE_CHECKING:
    import numpy as np

    from edgejoule.summary import Power


def check_tables(path: Path, run: dict[str, Any], sound: set[str]) -> list[Finding]:
    """Check the tables of a run directory.

    Args:
        path: The run directory.
        run: Its `run.json`, valid against the schema.
        sound: The files whose hash and row count agree; others are not opened.
    """
    findings: list[Finding] = []
    readable = _readable(path, run, sound, findings)
    if "power" in readable:
        wrong = check_power(path / "power.parquet", run, sound)
        findings += wrong
        if any(finding.severity == ERROR for finding in wrong):
            readable.discard("power")  # a damaged trace has no integral
    engine = read_engine(path, sound, findings)
    passes, sums, windows = _check_passes(path, run, readable, engine, findings)
    replayed = []
    if "replay" in readable:
        replayed = check_replay(path / "replay.parquet", run, engine.layers, sound)
        findings += replayed
    energy, wrong = None, replayed
    if "energy" in readable:
        energy = read_energy(path / "energy.parquet")
        found = check_energy("energy.parquet", energy, run, engine.layers)
        findings += found
        wrong = [*replayed, *found]
        energy = energy if windows else None
    power = _power(path, findings) if "power" in readable else None
    if power is not None:
        found = check_totals(path, run, power, passes, energy, sums, sound)
        findings += found
        if energy is not None and sums is not None and not (wrong or found):
            findings += check_attribution(path, run, power, energy, sums, sound)
    findings += check_measured(path, run, sound)
    if "resources" in readable:
        findings += check_resources(path / "resources.parquet")
    return findings


def _readable(
    path: Path, run: dict[str, Any], sound: set[str], findings: list[Finding]
) -> set[str]:
    """Return the tables that have the columns that they should have."""
    readable = set()
    for name in TABLES:
        file = f"{name}.parquet"
        if file not in sound:
            continue
        problems = _column_problems(path / file, name, run)
        findings += [Finding(file, problem) for problem in problems]
        if not problems:
            readable.add(name)
    return readable


def _check_passes(
    path: Path, run: dict[str, Any], readable: set[str], engine: Engine, findings: list[Finding]
) -> tuple[dict[str, dict[str, np.ndarray]], LayerSums | None, bool]:
    """Check inferences and layers.

    Returns:
        The inferences by pass; the layers' times, None where they are not known or wrong; whether
        the inferences are right.
    """
    if "inferences" not in readable:
        return {}, None, False
    passes = read_inferences(path / "inferences.parquet")
    wrong = check_inferences(passes, run)
    findings += wrong
    profiled, sums = passes.get("profiled"), None
    if "layers" in readable and engine.layers:
        if profiled is not None:
            found, sums = check_layers(path / "layers.parquet", profiled, engine, run)
            findings += found
            sums = None if found else sums
        elif run["files"].get("layers.parquet", {}).get("rows"):
            findings.append(Finding("layers.parquet", "has rows, but no inference was profiled"))
    if not wrong:
        findings += check_latencies(passes, sums, run)
    return passes, sums, not wrong


def _power(path: Path, findings: list[Finding]) -> Power | None:
    """Read the trace; one that cannot be integrated goes to `findings`."""
    from edgejoule.errors import EdgejouleError
    from edgejoule.summary import read_power

    try:
        return read_power(path / "power.parquet")
    except EdgejouleError as error:
        findings.append(Finding("power.parquet", f"cannot be integrated ({error})"))
        return None


def _column_problems(path: Path, name: str, run: dict[str, Any]) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        return [f"cannot be read as Parquet ({' '.join(str(error).split())[:120]})"]
    figures = tuple(column for column in found.names if column != "t_ns")
    wanted = table_schema(name, figures, run["schema_version"])
    if run["status"] == "incomplete" and found.names == table_schema(name, figures, 1).names:
        wanted = table_schema(name, figures, 1)  # an earlier version measured what this one found
    if found.names != wanted.names:
        return [f"has the columns {', '.join(found.names)}, not {', '.join(wanted.names)}"]
    problems = []
    for have, want in zip(found, wanted, strict=True):
        if have.type != want.type:
            problems.append(f"column {want.name} is {have.type}, not {want.type}")
        elif have.nullable and not want.nullable:
            problems.append(f"column {want.name} may hold null")
    return problems
