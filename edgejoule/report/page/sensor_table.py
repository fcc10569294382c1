"""The sensor's own figures: how fast it was read, how late, with what gaps, and at what cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgejoule.errors import EdgejouleError
from edgejoule.report.tables import RunTables, number, part, texts
from edgejoule.report.text import percent, printable

Fact = tuple[str, str]


def sensor_facts(run: RunTables) -> list[Fact]:
    """Return name and value of each figure that the run has, none where nothing was sampled."""
    sensor, sampler = part(run.run, "sensor"), part(run.summary, "sampler")
    if (not sensor and not sampler) or sensor.get("name") == "none":
        return []
    found = [*_what(run, sensor), *_rate(sampler), *_punctuality(sampler), *_cost(sampler)]
    return [(name, printable(value)) for name, value in found if value]


def _what(run: RunTables, sensor: Mapping[str, Any]) -> Iterable[Fact]:
    name = sensor.get("name")
    yield "sensor", f"{name}{', SIMULATED' if run.simulated else ''}" if name else ""
    board = part(sensor, "board")
    if board.get("name"):
        how = f" (by {board['how']})" if board.get("how") else ""
        yield "rails of", f"{board['name']}{how}"
    channels = sensor.get("channels")
    rails = [one.get("rail") for one in channels or () if isinstance(one, Mapping)]
    yield "rails", ", ".join(dict.fromkeys(str(rail) for rail in rails if rail))
    total = part(sensor, "total")
    if total:
        yield "total", _total(total)


def _total(total: Mapping[str, Any]) -> str:
    text = " + ".join(texts(total.get("rails")))
    for key, word in (("contains", "contains"), ("excludes", "without")):
        text += f"; {word} {total[key]}" if total.get(key) else ""
    return text


def _rate(sampler: Mapping[str, Any]) -> Iterable[Fact]:
    sweeps, seconds = number(sampler, "sweeps"), number(sampler, "seconds")
    asked, refresh = number(sampler, "period_ns"), number(sampler, "refresh_ns")
    if sweeps is not None and seconds:
        wanted = f", asked for every {_ms(asked)}" if asked else ""
        yield "rate", f"{sweeps / seconds:.4g} sweeps per second{wanted}"
        yield "sweeps", f"{sweeps:.0f} in {seconds:.4g} s"
    if refresh:
        yield "refresh of the sensor", f"every {_ms(refresh)}"
    if seconds:
        seen = [
            f"{name} {count / seconds:.3g}"
            for name in part(sampler, "refreshes")
            if (count := number(part(sampler, "refreshes"), name)) is not None
        ]
        yield "changes seen per second", ", ".join(seen)
    reads = number(sampler, "reads")
    failed = {k: v for k, v in part(sampler, "errors").items() if isinstance(v, int) and v}
    if reads is not None:
        errors = ", ".join(f"{count} failed with {name}" for name, count in failed.items())
        yield "files read", f"{reads:.0f}, {errors or 'none failed'}"
    yield from _attribution(part(sampler, "attribution"))


def _attribution(figures: Mapping[str, Any]) -> Iterable[Fact]:
    reads, seconds = number(figures, "reads"), number(figures, "seconds")
    if reads and seconds:
        late = number(figures, "late_deadlines")
        tail = "" if late is None else f", {late:.0f} late"
        yield "polled for attribution", f"{reads / seconds:.4g} reads per second{tail}"
    elif figures.get("why"):
        yield "polled for attribution", f"not: {figures['why']}"


def _punctuality(sampler: Mapping[str, Any]) -> Iterable[Fact]:
    sweeps, late = number(sampler, "sweeps"), number(sampler, "late_deadlines")
    if late is not None:
        share = f" ({percent(late / sweeps)} % of the sweeps)" if sweeps else ""
        worst = number(sampler, "max_lateness_ns")
        yield "late", f"{late:.0f}{share}{'' if not worst else f', at most {_ms(worst)}'}"
    skipped = number(sampler, "skipped_deadlines")
    if skipped is not None:
        yield "left out", f"{skipped:.0f} sweeps"
    gaps, longest = number(sampler, "gaps"), number(sampler, "largest_gap_ns")
    if gaps is not None:
        worst_gap = f", the longest {_ms(longest)}" if gaps and longest else ""
        yield "gaps of over three periods", f"{gaps:.0f}{worst_gap}"
    pauses, paused = number(sampler, "pauses"), number(sampler, "paused_s")
    if pauses:
        yield "paused on purpose", f"{pauses:.0f} times, {paused or 0.0:.3g} s"


def _cost(sampler: Mapping[str, Any]) -> Iterable[Fact]:
    cpu, seconds = number(sampler, "cpu_s"), number(sampler, "seconds")
    if cpu is not None:
        share = f", {percent(cpu / seconds)} % of one core" if seconds else ""
        yield "CPU time", f"{cpu:.3g} s{share}"
    sweep = number(sampler, "mean_sweep_ns")
    if sweep is not None:
        yield "a sweep takes", _ms(sweep)
    place = part(sampler, "place")
    words = []
    if place.get("cpu") is not None:
        words.append(f"CPU {place['cpu']} ({place.get('why_cpu') or 'no reason given'})")
    if place.get("real_time"):
        words.append("real-time")
    if place.get("nice") is not None:
        words.append(f"nice {place['nice']}")
    yield "runs on", ", ".join(words)


def _ms(ns: float) -> str:
    return f"{ns * 1e-6:.3g} ms" if ns >= 1e5 else f"{ns * 1e-3:.3g} us"


def calibration_facts(run: RunTables) -> list[Fact]:
    """Return what a calibration says of each rail; one fact that there is none."""
    from edgejoule.energy.calibration_file import FILE_NAME, read_calibration

    path = run.path / FILE_NAME
    if not path.is_file():
        if not part(run.run, "sensor") or part(run.run, "sensor").get("name") == "none":
            return []
        return [("calibration", "none: the sensor's gain, offset and window are not measured here")]
    try:
        found = read_calibration(path)
    except EdgejouleError as error:
        return [("calibration", printable(f"cannot be read ({error.message})", 200))]
    facts = []
    for rail in found.rails:
        said = []
        for parameter in rail.parameters:
            if parameter.value is None:
                continue
            ends = ""
            if parameter.low is not None and parameter.high is not None:
                ends = f" ({parameter.low:.4g} to {parameter.high:.4g})"
            said.append(f"{parameter.name} {parameter.value:.4g}{ends} {parameter.unit}".rstrip())
        mark = ", SIMULATED" if found.simulated else ""
        text = "; ".join(said) or "nothing could be found"
        facts.append((printable(f"calibration of {rail.rail}{mark}"), printable(text)))
    return facts
