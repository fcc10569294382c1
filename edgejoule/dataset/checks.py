"""Whether the tables of a run make sense: in themselves, with each other, with `run.json`.

Only files whose hash agreed are opened. Numpy and pyarrow; memory stays bounded by reading in
batches, apart from the inferences, of which there are some ten thousand.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.dataset.findings import ERROR, NOTE, Finding
from edgejoule.dataset.schema import ENERGY_KINDS, TABLES, read_metadata, table_schema
from edgejoule.files import read_json
from edgejoule.records import PASSES

if TYPE_CHECKING:
    import numpy as np

# A layer may stick out of its inference by this much: runtimes stamp in whole microseconds.
LAYER_TOLERANCE_NS = 1_000.0
# Relative rounding of float32, twice over.
_FLOAT32 = 1.2e-7
_ENERGY_TOLERANCE = 1e-6
_BATCH = 1 << 19
_CHANNEL = frozenset(("index", "rail", "quantity", "unit", "chip", "source"))


def check_tables(path: Path, run: dict[str, Any], sound: set[str]) -> list[Finding]:
    """Check the tables of a run directory.

    Args:
        path: The run directory.
        run: Its `run.json`, valid against the schema.
        sound: The files whose hash and row count agree; others are not opened.
    """
    findings: list[Finding] = []
    readable = set()
    for name in TABLES:
        file = f"{name}.parquet"
        if file not in sound:
            continue
        problems = _column_problems(path / file, name)
        findings += [Finding(file, problem) for problem in problems]
        if not problems:
            readable.add(name)
    if "power" in readable:
        wrong = _check_power(path / "power.parquet", run)
        findings += wrong
        if any(finding.severity == ERROR for finding in wrong):
            readable.discard("power")  # a damaged trace has no integral
    profiled = None
    windows = False
    if "inferences" in readable:
        passes = _read_inferences(path / "inferences.parquet")
        wrong = _check_inferences(passes, run)
        findings += wrong
        profiled = passes.get("profiled")
        windows = not wrong
    layers, overlap = _read_engine(path, sound, findings)
    if "layers" in readable and profiled is not None and layers:
        found = _check_layers(path / "layers.parquet", profiled, layers, run, overlap)
        findings += found
    elif (
        "layers" in readable
        and "inferences" in readable
        and layers
        and run["files"].get("layers.parquet", {}).get("rows")
    ):
        findings.append(Finding("layers.parquet", "has rows, but no inference was profiled"))
    if "energy" in readable:
        findings += _check_energy(path / "energy.parquet", run, layers)
    if "power" in readable:
        findings += _check_totals(path, run, profiled, energy=windows and "energy" in readable)
    if "resources" in readable:
        findings += _check_resources(path / "resources.parquet")
    return findings


def _column_problems(path: Path, name: str) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        return [f"cannot be read as Parquet ({' '.join(str(error).split())[:120]})"]
    figures = tuple(column for column in found.names if column != "t_ns")
    wanted = table_schema(name, figures)
    if found.names != wanted.names:
        return [f"has the columns {', '.join(found.names)}, not {', '.join(wanted.names)}"]
    problems = []
    for have, want in zip(found, wanted, strict=True):
        if have.type != want.type:
            problems.append(f"column {want.name} is {have.type}, not {want.type}")
        elif have.nullable and not want.nullable:
            problems.append(f"column {want.name} may hold null")
    return problems


def _check_power(path: Path, run: dict[str, Any]) -> list[Finding]:
    import numpy as np
    import pyarrow.parquet as pq

    name = path.name
    metadata = read_metadata(path)
    table = metadata.get("channels")
    if not isinstance(table, list) or not table:
        return [Finding(name, "has no channel table in its metadata")]
    if any(not isinstance(channel, dict) or not set(channel) >= _CHANNEL for channel in table):
        return [Finding(name, "its channel table lacks a field")]
    if [channel.get("index") for channel in table] != list(range(len(table))):
        return [Finding(name, "the indices of its channel table are not 0, 1, 2, ...")]
    findings = []
    if bool(metadata.get("simulated")) != run["simulated"]:
        findings.append(Finding(name, "simulated in its metadata contradicts run.json"))
    if metadata.get("cut_records"):
        findings.append(Finding(name, "the last record was cut short and left out", NOTE))
    last_end = np.full(len(table), np.iinfo(np.int64).min)
    row = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH):
            t0, t1 = batch["t0_ns"].to_numpy(), batch["t1_ns"].to_numpy()
            channel = batch["channel"].to_numpy()
            raw_null, errno_null = batch["raw"].is_null(), batch["errno"].is_null()
            both = np.flatnonzero(
                raw_null.to_numpy(zero_copy_only=False) == errno_null.to_numpy(zero_copy_only=False)
            )
            problem = _first("t1_ns is before t0_ns", np.flatnonzero(t1 < t0), row)
            problem = problem or _first(
                "a channel that the table lacks",
                np.flatnonzero((channel < 0) | (channel >= len(table))),
                row,
            )
            problem = problem or _first("one of raw and errno must be null", both, row)
            if problem:
                return [*findings, Finding(name, problem)]
            for index in range(len(table)):
                rows = np.flatnonzero(channel == index)
                before = np.concatenate([last_end[index : index + 1], t1[rows]])
                late = rows[t0[rows] < before[:-1]]
                last_end[index] = before[-1]
                if problem := _first(f"time of channel {index} runs backwards", late, row):
                    return [*findings, Finding(name, problem)]
            row += len(t0)
    return findings


def _first(what: str, rows: np.ndarray, offset: int) -> str | None:
    if not len(rows):
        return None
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    return f"{what} (row {offset + int(rows[0])}{more})"


def _read_inferences(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return row number, index, start and end of the inferences by pass, in the file's order."""
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    passes = np.array(table["pass"].cast("string").to_pylist(), dtype=object)
    columns = {key: table[key].to_numpy() for key in ("index", "start_ns", "end_ns")}
    columns["row"] = np.arange(len(passes))
    return {
        name: {key: values[passes == name] for key, values in columns.items()}
        for name in dict.fromkeys(passes.tolist())
    }


def _check_inferences(
    passes: dict[str, dict[str, np.ndarray]], run: dict[str, Any]
) -> list[Finding]:
    import numpy as np

    problems: list[str | None] = []
    if unknown := sorted(set(passes) - set(PASSES)):
        problems.append(f"has an unknown pass {unknown[0]!r}")
    for name, one in passes.items():
        late = one["row"][one["end_ns"] < one["start_ns"]]
        problems.append(_first("ends before it starts", late, 0))
        holes = one["row"][one["index"] != np.arange(len(one["index"]))]
        problems.append(_first(f"indices of pass {name} are not 0, 1, 2, ...", holes, 0))
        spans = [phase for phase in run["phases"] if phase["phase"] == name]
        problems.append(_first(f"outside of phase {name}", one["row"][~_inside(one, spans)], 0))
    if passes:
        rows = np.concatenate([one["row"] for one in passes.values()])
        order = np.argsort(rows)
        start = np.concatenate([one["start_ns"] for one in passes.values()])[order]
        end = np.concatenate([one["end_ns"] for one in passes.values()])[order]
        overlap = np.flatnonzero(start[1:] < end[:-1]) + 1
        problems.append(_first("starts before the inference before it ends", overlap, 0))
    counts = {name: len(one["index"]) for name, one in passes.items()}
    for name, count in run["summary"].get("inferences", {}).items():
        if counts.get(name, 0) != count:
            problems.append(f"has {counts.get(name, 0)} {name} inferences, the summary {count}")
    asked = run["config"]["runs"]
    if run["status"] == "complete" and counts.get("profiled", 0) != asked:
        problems.append(f"has {counts.get('profiled', 0)} profiled inferences, asked were {asked}")
    return [Finding("inferences.parquet", problem) for problem in problems if problem]


def _inside(one: dict[str, np.ndarray], spans: list[dict[str, Any]]) -> np.ndarray:
    """Return which inferences lie within one of the phase's spans; an open span has no end."""
    import numpy as np

    if not spans:
        return np.zeros(len(one["row"]), dtype=bool)
    limit = np.iinfo(np.int64).max
    starts = np.array([span["start_ns"] for span in spans])
    ends = np.array([limit if span["end_ns"] is None else span["end_ns"] for span in spans])
    which = np.searchsorted(starts, one["start_ns"], side="right") - 1
    return (which >= 0) & (one["end_ns"] <= ends[which])


def _read_engine(path: Path, sound: set[str], findings: list[Finding]) -> tuple[int, bool]:
    """Return how many layers `engine.json` has, 0 if it cannot be used, and if they may overlap."""
    if "engine.json" not in sound:
        return 0, False
    engine = read_json(path / "engine.json")
    layers = engine["layers"]
    if [layer["index"] for layer in layers] != list(range(len(layers))):
        findings.append(Finding("engine.json", "the indices of its layers are not 0, 1, 2, ..."))
        return 0, False
    return len(layers), bool(engine.get("overlap"))


def _check_layers(
    path: Path,
    profiled: dict[str, np.ndarray],
    layers: int,
    run: dict[str, Any],
    overlap: bool,
) -> list[Finding]:
    import numpy as np
    import pyarrow.parquet as pq

    inferences = len(profiled["index"])
    span_ns = (profiled["end_ns"] - profiled["start_ns"]).astype(np.float64)
    slack_ns = LAYER_TOLERANCE_NS + _FLOAT32 * span_ns
    sums_ns = np.zeros(inferences)
    seen = np.zeros(inferences * layers, dtype=np.int32)
    complete = run["status"] == "complete"
    row, last = 0, 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH):
            inference = batch["inference"].to_numpy().astype(np.int64)
            layer = batch["layer"].to_numpy().astype(np.int64)
            duration_ns = batch["duration_ms"].to_numpy().astype(np.float64) * 1e6
            offset = batch["start_offset_ns"]
            offset_ns = offset.fill_null(0).to_numpy().astype(np.float64)
            before = np.concatenate([[last], inference[:-1]])
            problem = _first("is not sorted by inference", np.flatnonzero(inference < before), row)
            wrong = (layer < 0) | (layer >= layers)
            problem = problem or _first(
                "a layer that engine.json lacks", np.flatnonzero(wrong), row
            )
            # A killed run may have layers of an inference whose own row was lost.
            known = (inference >= 0) & (inference < inferences)
            if complete or (inference < 0).any():
                problem = problem or _first(
                    "of an inference that inferences.parquet lacks", np.flatnonzero(~known), row
                )
            problem = problem or _first(
                "has a negative or unknown duration", np.flatnonzero(~(duration_ns >= 0)), row
            )
            if problem:
                return [Finding(path.name, problem)]
            last = int(inference[-1]) if len(inference) else last
            which = inference[known]
            out = (offset_ns[known] < 0) | (
                offset_ns[known] + duration_ns[known] > span_ns[which] + slack_ns[which]
            )
            rows = np.flatnonzero(known)[out]
            if problem := _first("reaches out of its inference", rows, row):
                return [Finding(path.name, problem)]
            sums_ns += np.bincount(which, duration_ns[known], minlength=inferences)
            seen += np.bincount(
                which * layers + layer[known], minlength=inferences * layers
            ).astype(np.int32)
            row += len(inference)
    over = np.zeros(inferences, bool) if overlap else sums_ns > span_ns + slack_ns
    return _check_layer_sums(path.name, over, seen, layers, complete)


def _check_layer_sums(
    name: str, over: np.ndarray, seen: np.ndarray, layers: int, complete: bool
) -> list[Finding]:
    import numpy as np

    findings = []
    twice = np.flatnonzero(seen > 1)
    absent = np.flatnonzero(seen == 0) if complete else twice[:0]
    for what, cells in (("twice", twice), ("not at all", absent)):
        if len(cells):
            inference, layer = divmod(int(cells[0]), layers)
            problem = f"inference {inference} has layer {layer} {what}"
            findings.append(Finding(name, f"{problem} ({len(cells)} such)"))
    if over.any():
        first = int(np.flatnonzero(over)[0])
        problem = f"the layers of inference {first} take longer than it ({int(over.sum())} such)"
        findings.append(Finding(name, problem))
    return findings


def _check_energy(path: Path, run: dict[str, Any], layers: int) -> list[Finding]:
    import pyarrow.parquet as pq

    findings = []
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in pq.read_table(path).to_pylist():
        groups.setdefault((row["method"], row["rail"]), []).append(row)
        if row["kind"] not in ENERGY_KINDS:
            return [Finding(path.name, f"has an unknown kind {row['kind']!r}")]
        if (row["kind"] == "layer") != (row["layer"] is not None):
            return [Finding(path.name, f"a row of kind {row['kind']} has layer {row['layer']}")]
    for (method, rail), rows in groups.items():
        where = f"{method} on {rail}"
        by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ENERGY_KINDS}
        counts = [len(by_kind[kind]) for kind in ("gap", "inference", "closure")]
        indices = sorted(row["layer"] for row in by_kind["layer"])
        if counts != [1, 1, 1] or (layers and indices != list(range(layers))):
            findings.append(Finding(path.name, f"{where}: a row is missing or there twice"))
            continue
        parts = sum(row["gross_mj"] for row in by_kind["layer"] + by_kind["gap"])
        whole = by_kind["inference"][0]["gross_mj"]
        closure = by_kind["closure"][0]["gross_mj"]
        if not _close(parts, closure, scale=whole):
            problem = f"{where}: layers and gap add up to {parts:.6g} mJ, closure {closure:.6g} mJ"
            findings.append(Finding(path.name, problem))
        elif not _close(closure, whole, scale=whole):
            share = f"{100 * closure / whole:.2f} %" if whole else "no part"
            problem = f"{where}: layers and gap make up {share} of the inference"
            # A split by time closes by construction; other methods may not, and say so.
            kind = {} if method == "proportional" else {"severity": NOTE}
            findings.append(Finding(path.name, problem, **kind))
        wrong = {row["n"] for row in rows} - {run["config"]["runs"]}
        if wrong and run["status"] == "complete":
            findings.append(Finding(path.name, f"{where}: n is {wrong.pop()}, not config.runs"))
    return findings


def _close(one: float, other: float, scale: float) -> bool:
    return abs(one - other) <= _ENERGY_TOLERANCE * max(abs(scale), 1e-9)


def _check_totals(
    path: Path, run: dict[str, Any], profiled: dict[str, np.ndarray] | None, *, energy: bool
) -> list[Finding]:
    """Integrate the trace anew and compare it with what the run says of itself."""
    import pyarrow.parquet as pq

    from edgejoule.energy.integrate import energies_mj
    from edgejoule.errors import EdgejouleError
    from edgejoule.phases import PhaseSpan
    from edgejoule.summary import phase_energies, read_power

    findings = []
    try:
        power = read_power(path / "power.parquet")
        spans = [PhaseSpan(**phase) for phase in run["phases"]]
        found = phase_energies(power, spans)
    except EdgejouleError as error:
        return [Finding("power.parquet", f"cannot be integrated ({error})")]
    for phase, rails in run["summary"].get("phase_energies", {}).items():
        for rail, said in rails.items():
            have = found.get(phase, {}).get(rail)
            if have is None or not _close(have["energy_mj"], said["energy_mj"], have["energy_mj"]):
                integral = "nothing" if have is None else f"{have['energy_mj']:.6g} mJ"
                problem = f"{rail} in phase {phase}: the trace gives {integral}"
                findings.append(
                    Finding("run.json", f"{problem}, the summary {said['energy_mj']:.6g} mJ")
                )
    if not energy or profiled is None or not len(profiled["index"]):
        return findings
    whole = [("kind", "=", "inference")]
    for row in pq.read_table(path / "energy.parquet", filters=whole).to_pylist():
        series = power.rails.get(row["rail"])
        if series is None:
            findings.append(Finding("energy.parquet", f"has a rail {row['rail']!r} unknown here"))
            continue
        mean = float(energies_mj(series, profiled["start_ns"], profiled["end_ns"]).mean())
        if not _close(mean, row["gross_mj"], mean):
            problem = f"{row['rail']}: an inference takes {mean:.6g} mJ by the trace"
            findings.append(Finding("energy.parquet", f"{problem}, {row['gross_mj']:.6g} by it"))
    return findings


def _check_resources(path: Path) -> list[Finding]:
    import numpy as np
    import pyarrow.parquet as pq

    times = pq.read_table(path, columns=["t_ns"])["t_ns"].to_numpy()
    problem = _first("time runs backwards", np.flatnonzero(np.diff(times) <= 0) + 1, 0)
    return [Finding(path.name, problem)] if problem else []
