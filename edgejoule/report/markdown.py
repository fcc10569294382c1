"""`report.md` of a dataset: an overview, then a section per run.

Pure functions from `RunTables` to Markdown. Wherever a power or an energy stands that was not
measured, the word *simulated* stands with it; wherever a layer's energy stands, its method does.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from edgejoule.report.tables import TOTAL, RunTables, number, part, texts
from edgejoule.report.terminal import energy_header, layer_energy
from edgejoule.report.text import (
    ABSENT,
    bar,
    energy,
    markdown,
    markdown_table,
    ms,
    percent,
    power,
    printable,
)

SLOWEST = 10


def report(
    title: str,
    runs: Sequence[RunTables],
    damaged: Sequence[tuple[str, str]] = (),
    unfinished: int = 0,
) -> str:
    """Return the whole report.

    Args:
        title: What the dataset is called.
        runs: The runs, in the order in which they are shown.
        damaged: Name and reason of each directory that could not be read.
        unfinished: Runs that were cut off and wait for `data_version.py recover`.
    """
    lines = [f"# edgejoule: {markdown(title)}", ""]
    lines += [f"{len(runs)} run{'' if len(runs) == 1 else 's'}.", ""]
    simulated = sum(run.simulated for run in runs)
    if simulated:
        which = "All" if simulated == len(runs) else f"{simulated} of {len(runs)}"
        lines += [f"**{which}: power and energy are simulated, not measured.**", ""]
    if runs:
        lines += [overview(runs), "", *_reading_guide(runs), ""]
    if damaged:
        lines += ["## Not readable", ""]
        lines += [f"- {markdown(name)}: {markdown(why)}" for name, why in damaged]
        lines.append("")
    if unfinished:
        lines += [f"{unfinished} cut off: `data_version.py recover` makes them readable.", ""]
    for run in runs:
        lines += [section(run), ""]
    return "\n".join(lines).rstrip() + "\n"


def overview(runs: Sequence[RunTables]) -> str:
    """Return one row per run."""
    header = ["run", "backend", "dtype", "clean median ms", "p99 ms", "profiled/clean"]
    header += ["gross per inference", "dynamic per inference", "mean power", "marks"]
    rows = []
    for run in runs:
        clean = part(run.summary, "clean")
        joules = part(run.summary, "energy", "clean")
        ratio = number(run.summary, "profiled_over_clean")
        rows.append(
            [
                f"[{markdown(run.name)}](#{anchor(run.name)})",
                markdown(run.config.get("backend", ABSENT)),
                markdown(run.config.get("dtype", ABSENT)),
                ms(number(clean, "median_ms")),
                ms(number(clean, "p99_ms")),
                ABSENT if ratio is None else f"{ratio:.3f}",
                _marked(run, energy(number(joules, "gross_mj"))),
                _marked(run, energy(number(joules, "dynamic_mj"))),
                _marked(run, power(number(joules, "mean_mw"))),
                markdown(", ".join(run.marks) or ABSENT),
            ]
        )
    return markdown_table(header, rows, {3, 4, 5, 6, 7, 8})


def _reading_guide(runs: Sequence[RunTables]) -> list[str]:
    lines = [
        "Latency and energy per inference come from the clean pass, the times of layers from the "
        "profiled pass; profiled/clean is the ratio of their medians. Intervals are 95 % and hold "
        "within one process."
    ]
    if any(layer.energy is not None for run in runs for layer in run.layers):
        lines.append(
            "The only figures of energy for layers here are *proportional to time*: they assume "
            "that each layer draws the same power, so they add nothing to the times."
        )
    return lines


def anchor(name: str) -> str:
    """Return the link target that Markdown viewers make from the heading of a run."""
    return "".join(char for char in name.lower() if char.isalnum() or char in "-_")


def section(run: RunTables) -> str:
    """Return the section of one run."""
    blocks = [f"## {markdown(run.name)}"]
    if run.marks:
        blocks.append("**" + markdown("; ".join(run.marks)) + "**")
    notes = [*run.notes, *(f"missing: {text}" for text in run.missing)]
    if notes:
        blocks.append("\n".join(f"- {markdown(note)}" for note in notes))
    blocks += [_latency(run), _energy(run), _layers(run)]
    blocks += [_phases(run), _baselines(run), _conduct(run), _provenance(run)]
    return "\n\n".join(block for block in blocks if block)


def _marked(run: RunTables, text: str) -> str:
    return f"{text} (simulated)" if run.simulated and text != ABSENT else text


def _simulated(run: RunTables) -> str:
    return " (simulated)" if run.simulated else ""


def _latency(run: RunTables) -> str:
    header = ["pass", "inferences", "median ms", "mean ms", "95 % of the mean, ms"]
    header += ["p90 ms", "p99 ms", "min ms"]
    rows = []
    for name in ("clean", "rate", "profiled"):
        figures = part(run.summary, name)
        if not figures:
            continue
        count = number(figures, "inferences")
        interval = _interval(figures.get("interval_mean_ms"))
        rows.append(
            [
                name,
                ABSENT if count is None else f"{count:.0f}",
                ms(number(figures, "median_ms")),
                ms(number(figures, "mean_ms")),
                interval,
                *(ms(number(figures, f"{key}_ms")) for key in ("p90", "p99", "min")),
            ]
        )
    if not rows:
        return "No latency was recorded."
    text = markdown_table(header, rows, set(range(1, 8)))
    gap = number(part(run.summary, "profiled"), "gap_ms_median")
    share = number(part(run.summary, "profiled"), "layers_share")
    if gap is not None and share is not None:
        text += f"\n\nLayers make up {percent(share)} % of a profiled inference; the gap (in no "
        text += f"layer) has a median of {ms(gap)} ms."
    return text


def _interval(ends: Any) -> str:
    if not isinstance(ends, (list, tuple)) or len(ends) != 2:
        return ABSENT
    low, high = (number({"end": end}, "end") for end in ends)
    return ABSENT if low is None or high is None else f"{ms(low)} to {ms(high)}"


def _energy(run: RunTables) -> str:
    figures = part(run.summary, "energy")
    if not part(figures, "clean") and not part(figures, "profiled"):
        return f"Energy: none, {markdown(figures.get('why') or 'not recorded')}."
    header = [f"{word} per inference{_simulated(run)}" for word in ("gross", "dynamic")]
    rows = []
    for name in ("clean", "profiled"):
        row = [name]
        for kind in ("gross", "dynamic"):
            half = number(part(figures, name), f"{kind}_statistical_mj")
            value = energy(number(part(figures, name), f"{kind}_mj"))
            row.append(value if half is None else f"{value} ± {energy(half)}")
        row.append(power(number(part(figures, name), "mean_mw")))
        rows.append(row)
    rail = markdown(figures.get("rail", TOTAL))
    table = markdown_table(["pass", *header, f"mean power{_simulated(run)}"], rows, {1, 2, 3})
    return f"Energy on the rail {rail}; dynamic is above idle with the engine loaded.\n\n{table}"


def _layers(run: RunTables) -> str:
    if not run.layers:
        return "Layers: no times were recorded."
    header = ["#", "layer", "type", "module path", "median ms", "share %", ""]
    energies = energy_header(run)
    if energies:
        header.append(energies)
    rows = []
    for rank, layer in enumerate(run.slowest(SLOWEST), 1):
        row = [
            str(rank),
            markdown(layer.name, 60),
            markdown(layer.type or ABSENT, 30),
            markdown(layer.module_path or "unmapped", 40),
            ms(layer.median_ms),
            percent(layer.share),
            bar(layer.share),
        ]
        if energies:
            row.append(layer_energy(layer.energy))
        rows.append(row)
    title = f"Slowest {len(rows)} of {len(run.layers)} layers, profiled pass:"
    return f"{title}\n\n{markdown_table(header, rows, {0, 4, 5, 7})}"


def _phases(run: RunTables) -> str:
    phases = part(run.summary, "energy", "phases") or part(run.summary, "phase_energies")
    rows = []
    for phase, rails in phases.items():
        shown = [TOTAL] if TOTAL in rails else list(rails)
        for rail in shown:
            figures = part(rails, rail)
            seconds = number(figures, "seconds")
            rows.append(
                [
                    markdown(phase),
                    markdown(rail),
                    ABSENT if seconds is None else f"{seconds:.2f}",
                    energy(number(figures, "energy_mj")),
                    power(number(figures, "mean_mw")),
                ]
            )
    if not rows:
        return ""
    mark = _simulated(run)
    header = ["phase", "rail", "seconds", f"energy{mark}", f"mean power{mark}"]
    return "Phases:\n\n" + markdown_table(header, rows, {2, 3, 4})


def _baselines(run: RunTables) -> str:
    found = run.idle.get("baselines") if isinstance(run.idle, Mapping) else run.idle
    rows = []
    for item in found if isinstance(found, list) else []:
        if not isinstance(item, Mapping):
            continue
        rails = part(item, "rails")
        for rail in [TOTAL] if TOTAL in rails else list(rails):
            figures = part(rails, rail)
            mean, half = number(figures, "mean_mw"), number(figures, "half_width_mw")
            count = number(figures, "n")
            rows.append(
                [
                    markdown(f"{item.get('kind', ABSENT)}, {item.get('when', ABSENT)}"),
                    markdown(rail),
                    power(mean) if half is None else f"{power(mean)} ± {power(half)}",
                    ABSENT if count is None else f"{count:.0f}",
                ]
            )
    if not rows:
        return ""
    header = ["baseline", "rail", f"mean power{_simulated(run)}", "n"]
    return "Idle power:\n\n" + markdown_table(header, rows, {2, 3})


def _conduct(run: RunTables) -> str:
    """Warm-up, sampler and memory: how the measurement went."""
    lines = []
    warmup = part(run.summary, "warmup")
    if warmup:
        steady = "steady" if warmup.get("steady") else "NOT steady"
        text = f"Warm-up: {steady}"
        for key, unit in (("inferences", "inferences"), ("seconds", "s")):
            value = number(warmup, key)
            text += "" if value is None else f", {value:.4g} {unit}"
        reason = warmup.get("reason")
        lines.append(markdown(f"{text} ({reason})" if reason else text))
    for name, title in (("sampler", "Sampler"), ("memory", "Memory")):
        figures = _flat(part(run.summary, name))
        if figures:
            lines.append(f"{title}: {markdown('; '.join(figures))}")
    return "\n".join(f"- {line}" for line in lines)


def _flat(figures: Mapping[str, Any]) -> list[str]:
    """Return `name value` for every figure that is a plain number or text."""
    shown = []
    for name, value in figures.items():
        if isinstance(value, float):
            shown.append(f"{name} {value:.5g}")
        elif isinstance(value, (bool, int, str)):
            shown.append(f"{name} {value}")
    return shown


def _provenance(run: RunTables) -> str:
    machine = part(run.run, "machine")
    code = part(machine, "code")
    sensor = part(run.run, "sensor").get("name", run.run.get("sensor"))
    libraries = part(machine, "libraries") or part(run.run, "versions")
    facts = [
        ("started", run.run.get("started_at")),
        ("board", run.run.get("board_id") or machine.get("board_id")),
        ("power mode", run.run.get("power_mode")),
        ("JetPack", machine.get("jetpack")),
        ("L4T", machine.get("l4t")),
        ("system", machine.get("distribution")),
        ("kernel", machine.get("kernel")),
        ("container", "yes" if machine.get("container") is True else None),
        ("Python", machine.get("python")),
        ("libraries", ", ".join(f"{name} {is_}" for name, is_ in libraries.items() if is_)),
        ("code", _code(code)),
        ("sensor", f"{sensor}{_simulated(run)}" if sensor else None),
        ("weights", run.run.get("weights")),
        ("configuration", run.run.get("config_sha256")),
    ]
    lines = [f"- {name}: {markdown(value)}" for name, value in facts if value]
    text = "Provenance:\n\n" + "\n".join(lines)
    stored = texts(run.run.get("command"))
    command = shlex.join(["python", *stored]) if stored else repeat_command(run.config)
    if command:
        text += f"\n\nTo repeat it:\n\n{fenced(command)}"
    return text


def _code(code: Mapping[str, Any]) -> str | None:
    commit = code.get("commit")
    return f"{commit}{' with local changes' if code.get('dirty') else ''}" if commit else None


def repeat_command(config: Mapping[str, Any]) -> str | None:
    """Return the command that measures this configuration again, None if it names no model."""
    if not config.get("model"):
        return None
    words = ["python", "measure_inference_power.py", "--model", str(config["model"])]
    flags = {
        "--backend": "backend",
        "--dtype": "dtype",
        "--weights": "weights",
        "--warmup": "warmup",
        "--runs": "runs",
        "--clean-runs": "clean_runs",
        "--precision": "precision_percent",
        "--rate-hz": "rate_hz",
        "--idle-duration": "idle_duration_s",
        "--sensor": "sensor",
    }
    for flag, key in flags.items():
        value = config.get(key)
        if value is not None:
            words += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
    if config.get("input") not in (None, "normal"):
        words += ["--input", str(config["input"])]
    shape = config.get("input_shape")
    if isinstance(shape, (list, tuple)):
        words += ["--input-shape", *map(str, shape)]
    for flag, key in (
        ("--optimization-level", "optimization_level"),
        ("--min-block-size", "min_block_size"),
        ("--memory-limit-gib", "memory_limit_gib"),
    ):
        value = part(config, "extra").get(key)
        if value is not None:
            words += [flag, str(value)]
    return " ".join(shlex.quote(word) for word in words)


def fenced(text: str) -> str:
    """Return text as a code block that it cannot end itself: the fence is longer than its ticks."""
    line = printable(text)
    fence = "```"
    while fence in line:
        fence += "`"
    return f"{fence}\n{line}\n{fence}"
