"""Which methods of attribution a run uses."""

from __future__ import annotations

import pytest

from edgejoule.energy_methods import DEFAULT_REPLAY_BUDGET_S, resolve_methods
from edgejoule.errors import UsageError


@pytest.mark.parametrize(
    ("sensor", "backend", "expected"),
    [
        ("none", "torch", ()),
        ("ina3221", "tensorrt", ("window",)),
        ("simulated", "onnxruntime", ("window",)),
        ("nvml", "torch", ("replay",)),
        ("nvml,rapl", "onnxruntime", ("replay",)),
        ("nvml", "torch-tensorrt", ()),
        ("battery", "torch", ()),
    ],
)
def test_auto_takes_what_the_sensor_allows(
    sensor: str, backend: str, expected: tuple[str, ...]
) -> None:
    found = resolve_methods("auto", sensor, backend)
    assert found.names == expected
    assert found.energy == (",".join(expected) or None)
    budget = DEFAULT_REPLAY_BUDGET_S if "replay" in expected else None
    assert found.replay_budget_s == budget


def test_methods_are_named_the_best_first_and_proportional_is_always_there() -> None:
    found = resolve_methods(" interval, window,replay,proportional", "ina3221", "torch", 30.0, 2)
    assert found.names == ("replay", "window", "interval")
    assert (found.replay_budget_s, found.check_attribution) == (30.0, 2)
    assert resolve_methods("proportional", "ina3221", "torch").energy is None


def test_the_check_brings_the_replay_pass_with_it() -> None:
    found = resolve_methods("auto", "ina3221", "tensorrt", None, 3)
    assert found.names == ("replay", "window")
    assert found.check_attribution == 3


@pytest.mark.parametrize(
    ("asked", "sensor", "backend", "options", "word"),
    [
        ("windows", "ina3221", "torch", (), "'windows'"),
        ("window", "nvml", "torch", (), "cannot be polled"),
        ("replay", "none", "torch", (), "needs a power sensor"),
        ("replay", "nvml", "torch-tensorrt", (), "torch-tensorrt"),
        ("auto", "ina3221", "torch", (20.0,), "--replay-budget"),
        ("proportional", "nvml", "torch", (None, 2), "--check-attribution"),
        ("auto", "none", "torch", (None, 2), "--check-attribution"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_mend(
    asked: str, sensor: str, backend: str, options: tuple[float | None, ...], word: str
) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        resolve_methods(asked, sensor, backend, *options)  # type: ignore[arg-type]
    assert caught.value.mend


@pytest.mark.parametrize("asked", ["", " , "])
def test_no_method_is_no_answer(asked: str) -> None:
    with pytest.raises(UsageError, match="names no method"):
        resolve_methods(asked, "ina3221", "torch")


def test_what_is_done_and_why_is_one_line() -> None:
    assert str(resolve_methods("auto", "ina3221", "tensorrt")) == (
        "window, proportional (the sensor's refreshes can be polled)"
    )
    assert str(resolve_methods("replay", "nvml", "torch", 20.0, 2)) == (
        "replay, proportional (replay was asked for); replay up to 20 s, and as long for the check"
    )
