"""Which runs of A are held against which of B, and what forbids it.

Repeats and rebuilds of one configuration on one board in one power mode are one group. Groups pair
by equal configuration, board and mode, then by equal configuration; what is left of a model pairs
where each side has exactly one configuration of it, so that float16 can be held against float32.
Two runs given as directories always pair.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgejoule.report.compare.loading import Loaded, MeasuredRun
from edgejoule.report.tables import RunTables, part

_SAMPLE = ("repeat", "rebuild")
# How long and how often, not what: runs that differ in these measure the same.
_EFFORT = frozenset(
    {"warmup", "runs", "clean_runs", "clean_seconds", "precision_percent", "idle_duration_s",
     "energy", "replay_budget_s", "check_attribution", "observer_s"}
)  # fmt: skip
_ABSENT = "not known"


@dataclass(frozen=True)
class Group:
    """Runs of one configuration.

    Attributes:
        config: What they share.
        runs: In the order of their repeats.
    """

    config: Mapping[str, Any]
    runs: tuple[MeasuredRun, ...]

    @property
    def first(self) -> RunTables:
        """The run that stands for the group where its facts are asked for."""
        return self.runs[0].tables


@dataclass(frozen=True)
class Pair:
    """Two groups that are compared.

    Attributes:
        first: Of A.
        second: Of B.
        knobs: `name: there -> here` of what differs in the configuration.
        same: Whether they measure the same: nothing differs but how long.
        unequal: What forbids a comparison, one sentence each.
    """

    first: Group
    second: Group
    knobs: tuple[str, ...]
    same: bool
    unequal: tuple[str, ...]


@dataclass(frozen=True)
class Pairing:
    """All pairs, and the groups of either side that have no partner."""

    pairs: tuple[Pair, ...]
    alone: tuple[tuple[Group, ...], tuple[Group, ...]]


def pair_up(first: Loaded, second: Loaded) -> Pairing:
    """Pair the groups of two sides."""
    left, right = _groups(first.runs), _groups(second.runs)
    pairs: list[tuple[Group, Group]] = []
    if first.single and second.single:
        pairs, left, right = [(left[0], right[0])], [], []
    for key in (_exact, _whole, _what, _model):
        found, left, right = _match(left, right, key, several=key in {_exact, _whole})
        pairs += found
    return Pairing(tuple(_pair(*one) for one in pairs), (tuple(left), tuple(right)))


def _groups(runs: Sequence[MeasuredRun]) -> list[Group]:
    found: dict[str, list[MeasuredRun]] = {}
    for run in runs:
        found.setdefault(_place(run.tables), []).append(run)
    return [
        Group(_shared(some[0].tables), tuple(sorted(some, key=_order))) for some in found.values()
    ]


def _place(tables: RunTables) -> str:
    return _key([_shared(tables), tables.run.get("board_id"), tables.run.get("power_mode")])


def _order(run: MeasuredRun) -> tuple[int, int, str]:
    repeat = run.tables.config.get("repeat", 0)
    return (run.build, repeat if isinstance(repeat, int) else 0, run.tables.name)


def _shared(tables: RunTables) -> dict[str, Any]:
    return {key: value for key, value in tables.config.items() if key not in _SAMPLE}


def _match(
    left: list[Group], right: list[Group], key: Callable[[Group], str], *, several: bool
) -> tuple[list[tuple[Group, Group]], list[Group], list[Group]]:
    """Pair groups whose key only one group of each side has.

    With `several`, equal ones pair in their order: they differ in the machine, which is told.
    """
    by_key: dict[str, tuple[list[Group], list[Group]]] = {}
    for side, groups in enumerate((left, right)):
        for group in groups:
            by_key.setdefault(key(group), ([], []))[side].append(group)
    pairs = []
    for some, others in by_key.values():
        if several or (len(some) == 1 and len(others) == 1):
            pairs += list(zip(some, others, strict=False))
    used = {id(group) for pair in pairs for group in pair}
    return (
        pairs,
        [group for group in left if id(group) not in used],
        [group for group in right if id(group) not in used],
    )


def _exact(group: Group) -> str:
    return _place(group.first)


def _whole(group: Group) -> str:
    return _key(group.config)


def _what(group: Group) -> str:
    return _key({k: v for k, v in group.config.items() if k not in _EFFORT})


def _model(group: Group) -> str:
    return _key(group.config.get("model"))


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _pair(first: Group, second: Group) -> Pair:
    names = sorted(set(first.config) | set(second.config))
    differing = [name for name in names if first.config.get(name) != second.config.get(name)]
    knobs = [
        f"{name}: {_said(first.config.get(name))} -> {_said(second.config.get(name))}"
        for name in differing
    ]
    modes = [group.first.run.get("power_mode") for group in (first, second)]
    if modes[0] != modes[1] and "mode" not in differing:
        knobs.append(f"power mode: {_said(modes[0])} -> {_said(modes[1])}")
    same = modes[0] == modes[1] and _EFFORT.issuperset(differing)
    return Pair(first, second, tuple(knobs), same, tuple(unequal(first, second)))


def unequal(first: Group, second: Group) -> list[str]:
    """Return what forbids to compare two groups: another input, machine, or kind of power."""
    found = []
    facts = [(_facts(run.tables)) for group in (first, second) for run in group.runs]
    reference = facts[0]
    for name in reference:
        other = next((fact[name] for fact in facts if fact[name] != reference[name]), None)
        if any(fact[name] != reference[name] for fact in facts):
            found.append(f"{name}: {_said(reference[name])} and {_said(other)}")
    return found


def _facts(tables: RunTables) -> dict[str, Any]:
    """Return what must be equal, in the words of a refusal."""
    run, config = tables.run, tables.config
    made = part(run, "input")
    shapes = made.get("shapes") or config.get("input_shape")
    machine = part(run, "machine")
    return {
        # The same file may lie elsewhere; its hash tells.
        "model": config.get("model_sha256") or config.get("model"),
        "weights": run.get("weights", config.get("weights")),
        "input shape": shapes,
        "input": made.get("kind", config.get("input")),
        "input's hash": made.get("sha256", config.get("input_sha256")),
        "board": run.get("board_id"),
        "CPU": part(machine, "cpu").get("model"),
        "GPU": part(machine, "gpu").get("names"),
        "power": "simulated" if tables.simulated else "measured or none",
    }


def _said(value: Any) -> str:
    if value is None:
        return _ABSENT
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, default=str)
