"""The figures of `benchmarks/attribution.py`: from what methods said of passes to a table."""

import dataclasses
import math

import numpy as np

from edgejoule.simulation import SCENARIOS


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is asked of `window` in a scenario; None: nothing. Shares, not per cent."""

    resolved: float | None = None
    missed: float | None = None
    error: float | None = None
    rank: float | None = None
    half: float | None = None
    covered: float | None = 0.9
    short_unresolved: float | None = None


_BASE = Limits(resolved=0.9, missed=0.03, rank=0.95, half=0.06)
OR_NOT_RESOLVED = Limits(error=0.06)
LIMITS = {
    **{name: _BASE for name in SCENARIOS if name == "base" or name.startswith("clock")},
    "hard": Limits(missed=0.06),
    "average16": Limits(missed=0.06),
    "lowpass100": Limits(missed=0.06),
    "steps390": Limits(missed=0.06),
    "no-information": Limits(covered=None, short_unresolved=0.95),
}


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of one pass: what is true, what a method said."""

    layer: int
    true_mj: float
    true_mw: float
    big: bool
    short: bool
    mj: float | None
    half_mj: float | None
    mw: float | None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a method made of one pass.

    Attributes:
        method: Which.
        layers: By layer.
        groups: True energy, energy and half-width of each resolved group.
        gap: True energy in no layer, and the method's.
        inference: True energy of an inference, and the method's.
        closure: Sum over the whole as the method gives it.
        held_out: Closure on blocks that were not fitted.
        seconds: How long it took.
    """

    method: str
    layers: list[Layer]
    groups: list[tuple[float, float, float]]
    gap: tuple[float, float | None]
    inference: tuple[float, float | None]
    closure: float | None
    held_out: float | None
    seconds: float


def figures_of(found: list[Answer]) -> dict[str, float | None]:
    """Return the figures of one method and scenario over all seeds."""
    big = [layer for answer in found for layer in answer.layers if layer.big]
    resolved = [layer for layer in big if layer.mj is not None]
    every = [layer for answer in found for layer in answer.layers if layer.mj is not None]
    short = [layer for answer in found for layer in answer.layers if layer.short]
    errors = [abs(layer.mj / layer.true_mj - 1) for layer in resolved]
    missed = [*errors, *[math.inf] * (len(big) - len(resolved))]
    ranks = [_ranks(answer.layers) for answer in found]
    halves = [layer.half_mj / layer.true_mj for layer in resolved if layer.half_mj is not None]
    wholes = [answer.inference[1] / answer.inference[0] - 1 for answer in found
              if answer.inference[1] is not None]  # fmt: skip
    return {
        "seeds": len(found),
        "layers": len(big),
        "resolved": len(resolved) / len(big) if big else None,
        "missed": _median(missed),
        "error": _median(errors),
        "worst": max(errors, default=None),
        "rank_energy": _median([rank[0] for rank in ranks if rank is not None]),
        "rank_power": _median([rank[1] for rank in ranks if rank is not None]),
        "half": _median(halves),
        "covered": _coverage(resolved),
        "covered_all": _coverage(every),
        "resolved_all": len(every) / max(1, sum(len(answer.layers) for answer in found)),
        "groups": sum(len(answer.groups) for answer in found),
        "covered_groups": _share(
            [abs(mj - true) <= half for answer in found for true, mj, half in answer.groups]
        ),
        "gap_error": _median(
            [
                abs(answer.gap[1] - answer.gap[0]) / answer.inference[0]
                for answer in found
                if answer.gap[1] is not None
            ]
        ),
        "inference_error": _median([abs(whole) for whole in wholes]),
        "closure": _median([answer.closure for answer in found if answer.closure is not None]),
        "held_out": _median(
            [abs(answer.held_out - 1) for answer in found if answer.held_out is not None]
        ),
        "short_unresolved": _share([layer.mj is None for layer in short]),
        "seconds": _median([answer.seconds for answer in found]),
    }


def _ranks(layers: list[Layer]) -> tuple[float, float] | None:
    told = [layer for layer in layers if layer.big and layer.mj is not None]
    if len(told) < 3:
        return None
    energy = _spearman([one.mj for one in told], [one.true_mj for one in told])
    return energy, _spearman([one.mw for one in told], [one.true_mw for one in told])


def _spearman(first: list[float], second: list[float]) -> float:
    one, other = (np.argsort(np.argsort(values)).astype(float) for values in (first, second))
    if not one.std() or not other.std():
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _coverage(layers: list[Layer]) -> float | None:
    return _share(
        [abs(one.mj - one.true_mj) <= one.half_mj for one in layers if one.half_mj is not None]
    )


def _share(flags: list[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


def judge(limits: Limits, figures: dict[str, float | None]) -> dict[str, bool]:
    """Return which limits are met; what nobody could say is met only where silence is allowed."""
    rank = [figures["rank_energy"], figures["rank_power"]]
    rows = {
        "resolved": (limits.resolved, figures["resolved"], 1),
        "missed": (limits.missed, figures["missed"], -1),
        "error": (limits.error, figures["error"], -1),
        "rank": (limits.rank, None if None in rank else min(rank), 1),
        "half": (limits.half, figures["half"], -1),
        "covered": (limits.covered, figures["covered"], 1),
        "short_unresolved": (limits.short_unresolved, figures["short_unresolved"], 1),
    }
    silent = ("error", "covered") if limits.resolved is None else ()
    return {
        name: name in silent if value is None else sign * value >= sign * limit
        for name, (limit, value, sign) in rows.items()
        if limit is not None
    }


def finite(value: object) -> object:
    """Return a tree with infinities as text: JSON has none."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    return "infinite" if isinstance(value, float) and math.isinf(value) else value


def print_scenario(name: str, of: dict[str, dict]) -> None:
    """Print one scenario's rows."""
    about = SCENARIOS[name].about
    first = next(iter(of.values()))
    layers = first["layers"]
    print(f"\n{name}: {about}; {first['seeds']} seeds, {layers} layers")
    print(f"  {'method':12s} {'resolved':>9s} {'missed':>8s} {'error':>8s} {'worst':>7s} "
          f"{'rank mJ, mW':>12s} {'half':>8s} {'covered':>8s} {'all':>5s} {'groups':>8s} "
          f"{'gap':>6s} {'held out':>8s} {'s':>6s}")  # fmt: skip
    for method, row in of.items():
        met = row["met"]
        mark = {key: {True: "+", False: "!", None: " "}[met.get(key)] for key in
                ("resolved", "missed", "error", "rank", "half", "covered")}  # fmt: skip
        ranks = ", ".join("-" if row[key] is None else f"{row[key]:.2f}"
                          for key in ("rank_energy", "rank_power"))  # fmt: skip
        groups = f"{_percent(row['covered_groups'], 0)}/{row['groups']}"
        print(f"  {method:12s} {_percent(row['resolved'], 0) + mark['resolved']:>9s} "
              f"{_percent(row['missed']) + mark['missed']:>8s} "
              f"{_percent(row['error']) + mark['error']:>8s} {_percent(row['worst']):>7s} "
              f"{ranks + mark['rank']:>12s} {_percent(row['half']) + mark['half']:>8s} "
              f"{_percent(row['covered'], 0) + mark['covered']:>8s} "
              f"{_percent(row['covered_all'], 0):>5s} {groups:>8s} "
              f"{_percent(row['gap_error']):>6s} {_percent(row['held_out'], 2):>8s} "
              f"{row['seconds']:6.2f}", flush=True)  # fmt: skip
        if row["short_unresolved"] is not None:
            sign = {True: "+", False: "!", None: ""}[met.get("short_unresolved")]
            share = _percent(row["short_unresolved"], 0)
            print(f"  {'':12s} the short layer is not resolved in {share}{sign} of the passes")


def print_seed(seed: int, answer: Answer) -> None:
    """Print one pass: each layer of at least 5 % with its error and half-width, in per cent."""
    texts = []
    for layer in answer.layers:
        if not layer.big:
            continue
        if layer.mj is None:
            texts.append(f"{layer.layer}:-")
            continue
        error = (layer.mj / layer.true_mj - 1) * 100
        half = (layer.half_mj or 0.0) / layer.true_mj * 100
        texts.append(f"{layer.layer}:{error:+.1f}({half:.1f}){'*' if abs(error) > half else ''}")
    print(f"  seed {seed} {answer.seconds:5.1f} s  {' '.join(texts)}", flush=True)


def _percent(value: float | None, digits: int = 1) -> str:
    if value is None:
        return "-"
    return "missed" if math.isinf(value) else f"{100 * value:.{digits}f}%"
