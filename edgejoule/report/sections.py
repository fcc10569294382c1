"""What a run's report says, in named blocks: pure functions from `RunTables` to Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from edgejoule.config import BACKEND_FLAGS
from edgejoule.phases import PHASES
from edgejoule.report.block import Block, items, joined
from edgejoule.report.energy_sections import energy_blocks
from edgejoule.report.outputs import accuracy_text, memory_text
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


def section(run: RunTables) -> str:
    """Return the section of one run in `report.md`."""
    head = [f"## {markdown(run.name)}"]
    if run.marks:
        head.append("**" + markdown("; ".join(run.marks)) + "**")
    notes = [*run.notes, *(f"missing: {text}" for text in run.missing), *imported(run)]
    if notes:
        head.append(items(map(markdown, notes)))
    text = joined(blocks(run))
    return "\n\n".join([*head, text] if text else head)


def blocks(run: RunTables) -> list[Block]:
    """Return everything a report says of a run but its name, marks and notes, in order."""
    found = [
        Block("latency", "Latency", _latency(run)),
        Block("rate", "Inferences at fixed times", _rate(run)),
        Block("energy", "Energy per inference", _energy(run)),
        _slowest(run),
        *energy_blocks(run),
        Block("phases", "Phases", _phases(run), lead="Phases:"),
        Block("baselines", "Idle power", _baselines(run), lead="Idle power:"),
        *_conduct(run),
        Block("provenance", "Provenance", items(_facts(run)), lead="Provenance:"),
        Block("repeat", "To repeat it", _repeat(run), lead="To repeat it:"),
    ]
    return [block for block in found if block.markdown]


def imported(run: RunTables) -> list[str]:
    """What was decided about a run that comes from another layout; empty for one of our own."""
    said = part(run.run, "imported")
    if not said:
        return []
    times = {"callback": "taken from the profiler's callbacks", "modelled": "modelled"}
    how = times.get(str(said.get("times")), "of unknown origin")
    layout = f"imported from the layout {said.get('layout')}: the times of inferences are {how}"
    return [layout, *texts(said.get("notes"))]


def simulated_mark(run: RunTables) -> str:
    """Return the words that stand behind every figure of simulated power."""
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
    if "window" in str(part(run.run, "config").get("energy") or "").split(","):
        text += (
            "\n\nBetween profiled inferences the host waited a random time, so that the sensor's "
        )
        text += (
            "windows begin anywhere in a layer; latencies and energies of the profiled pass are "
        )
        text += "without the waiting, its phase below is with it."
    return text


def _interval(ends: Any) -> str:
    if not isinstance(ends, (list, tuple)) or len(ends) != 2:
        return ABSENT
    low, high = (number({"end": end}, "end") for end in ends)
    return ABSENT if low is None or high is None else f"{ms(low)} to {ms(high)}"


def _energy(run: RunTables) -> str:
    figures = part(run.summary, "energy")
    rails = part(figures, "rails")
    rail = str(figures.get("rail") or TOTAL)
    rows = [
        _energy_row(name, rail, part(figures, name))
        for name in ("clean", "profiled")
        if part(figures, name)
    ]
    # An imported run has no clean pass.
    shown = "clean" if any(part(rails, name, "clean") for name in rails) else "profiled"
    for name in rails:
        figured = part(rails, name, shown)
        if figured and name != TOTAL and not (rows and shown == "profiled" and name == rail):
            rows.append(_energy_row(shown, name, figured))
    if not rows:
        return f"Energy: none, {markdown(figures.get('why') or 'not recorded')}."
    mark = simulated_mark(run)
    header = ["pass", "rail", f"gross per inference{mark}", f"dynamic per inference{mark}"]
    table = markdown_table([*header, f"mean power{mark}"], rows, {2, 3, 4})
    return f"Energy; dynamic is above idle with the engine loaded.\n\n{table}"


def _energy_row(name: str, rail: str, figures: Mapping[str, Any]) -> list[str]:
    row = [name, markdown(rail)]
    for kind in ("gross", "dynamic"):
        half = number(figures, f"{kind}_statistical_mj")
        row.append(energy(number(figures, f"{kind}_mj"), half))
    return [*row, power(number(figures, "mean_mw"))]


def _rate(run: RunTables) -> str:
    """The pass with inferences at fixed times: deadlines, and energy per frame."""
    figures = part(run.summary, "rate")
    if not figures:
        return ""
    frames, missed = number(figures, "frames"), number(figures, "missed_deadlines")
    rate, busy = number(figures, "rate_hz"), number(figures, "busy_share")
    text = f"Rate pass{'' if rate is None else f' at {rate:g} Hz'}"
    text += "" if frames is None else f", {frames:.0f} frames"
    text += "" if missed is None else f", {missed:.0f} deadlines missed"
    text += "" if busy is None else f", busy {percent(busy)} % of the time"
    rails = part(figures, "energy")
    rows = []
    for rail in [TOTAL] if TOTAL in rails else list(rails):
        cell = part(rails, rail)
        joules = energy(number(cell, "gross_mj_per_frame"))
        powers = [power(number(cell, key)) for key in ("mean_mw", "between_frames_mw")]
        rows.append([markdown(rail), joules, *powers])
    if not rows:
        return f"{text}."
    mark = simulated_mark(run)
    header = ["rail", f"gross per frame{mark}", f"mean power{mark}", f"between frames{mark}"]
    return f"{text}:\n\n{markdown_table(header, rows, {1, 2, 3})}"


def _slowest(run: RunTables) -> Block:
    if not run.layers:
        return Block("slowest", "Slowest layers", "Layers: no times were recorded.")
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
            markdown(layer.module, 40),
            ms(layer.median_ms),
            percent(layer.share),
            bar(layer.share),
        ]
        if energies:
            row.append(layer_energy(layer.energy))
        rows.append(row)
    title = f"Slowest {len(rows)} of {len(run.layers)} layers, profiled pass"
    return Block("slowest", title, markdown_table(header, rows, {0, 4, 5, 7}), lead=f"{title}:")


def _phases(run: RunTables) -> str:
    phases = part(run.summary, "energy", "phases") or part(run.summary, "phase_energies")
    rows = []
    # JSON keeps no order: as they come in a run, then whatever this version does not know.
    for phase in [*filter(phases.__contains__, PHASES), *sorted(set(phases) - set(PHASES))]:
        rails = part(phases, phase)
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
    mark = simulated_mark(run)
    header = ["phase", "rail", "seconds", f"energy{mark}", f"mean power{mark}"]
    return markdown_table(header, rows, {2, 3, 4})


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
                    power(mean, half),
                    ABSENT if count is None else f"{count:.0f}",
                ]
            )
    if not rows:
        return ""
    header = ["baseline", "rail", f"mean power{simulated_mark(run)}", "n"]
    return markdown_table(header, rows, {2, 3})


def _conduct(run: RunTables) -> list[Block]:
    """Warm-up, sampler, memory and outputs: how the measurement went."""
    sampler = "; ".join(_flat(part(run.summary, "sampler")))
    said = [
        ("warmup", "Warm-up", _warmup(run)),
        ("sampler", "Sampler", sampler),
        ("memory", "Memory", memory_text(part(run.summary, "memory"))),
        ("outputs", "Outputs", accuracy_text(run)),
    ]
    return [
        Block(key, title, items([f"{title}: {markdown(text)}"]), of_list="conduct")
        for key, title, text in said
        if text
    ]


def _warmup(run: RunTables) -> str:
    warmup = part(run.summary, "warmup")
    if not warmup:
        return ""
    text = "steady" if warmup.get("steady") else "NOT steady"
    for key, unit in (("inferences", "inferences"), ("seconds", "s")):
        value = number(warmup, key)
        shown = "" if value is None else f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
        text += f", {shown} {unit}" if shown else ""
    reason = warmup.get("reason")
    return f"{text} ({reason})" if reason else text


def _flat(figures: Mapping[str, Any]) -> list[str]:
    """Return `name value` for every figure that is a plain number or text."""
    shown = []
    for name, value in figures.items():
        if isinstance(value, float):
            shown.append(f"{name} {value:.5g}")
        elif isinstance(value, (bool, int, str)):
            shown.append(f"{name} {value}")
    return shown


def facts(run: RunTables) -> list[tuple[str, str]]:
    """Return name and value of what a run says of where and with what it was measured."""
    machine = part(run.run, "machine")
    sensor = part(run.run, "sensor").get("name", run.run.get("sensor"))
    libraries = part(machine, "libraries") or part(run.run, "versions")
    found = [
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
        ("code", _code(part(machine, "code"))),
        ("sensor", f"{sensor}{simulated_mark(run)}" if sensor else None),
        ("weights", run.run.get("weights")),
        ("configuration", run.run.get("config_sha256")),
    ]
    return [(name, str(value)) for name, value in found if value]


def _facts(run: RunTables) -> list[str]:
    return [f"{name}: {markdown(value)}" for name, value in facts(run)]


def command_of(run: RunTables) -> str | None:
    """Return the command that measures this run again, None where there is none."""
    if part(run.run, "imported"):
        return None
    stored = texts(run.run.get("command"))
    return shlex.join(["python", *stored]) if stored else repeat_command(run.config)


def _repeat(run: RunTables) -> str:
    command = command_of(run)
    return fenced(command) if command else ""


def _code(code: Mapping[str, Any]) -> str | None:
    commit = code.get("commit")
    return f"{commit}{' with local changes' if code.get('dirty') else ''}" if commit else None


def repeat_command(config: Mapping[str, Any]) -> str | None:
    """Return the command that measures this configuration again, None if it names no model."""
    if not config.get("model"):
        return None
    what = "--engine" if config.get("engine") else "--model"
    words = ["python", "measure_inference_power.py", what, str(config["model"])]
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
        "--calibration": "calibration",
        "--memory-limit-gib": "memory_limit_gib",
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
    for key, value in sorted(part(config, "extra").items()):
        if key in BACKEND_FLAGS and value not in (None, False):
            values = value if isinstance(value, list) else [] if value is True else [value]
            words += [BACKEND_FLAGS[key], *map(str, values)]
    return " ".join(shlex.quote(word) for word in words)


def fenced(text: str) -> str:
    """Return text as a code block that it cannot end itself: the fence is longer than its ticks."""
    line = printable(text)
    fence = "```"
    while fence in line:
        fence += "`"
    return f"{fence}\n{line}\n{fence}"
