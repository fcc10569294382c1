"""What goes wrong in the middle of a replay pass costs nothing that was measured before."""

from __future__ import annotations

from typing import Any

import pytest

from edgejoule.energy.replay_segments import LAYER
from edgejoule.energy.trace import RailPower
from edgejoule.inference import replay_pass
from edgejoule.inference.replay_bench import ReplayBench
from tests.test_inference_replay_pass import Bench, Player, Session, Thing, Trace, replay, run
from tests.test_inference_replay_pass import bench as bench  # noqa: PLC0414 (the fixture)


def test_what_fails_once_something_is_known_loses_nothing(bench: Bench) -> None:
    player, trace = Player(bench), Trace()
    whole, looks = player.whole, iter(range(100))

    def once() -> Thing:
        if next(looks):
            raise RuntimeError("out of memory")
        return whole()

    def unreadable() -> RailPower:
        raise ValueError("mmap length is greater than file size")

    player.whole = once  # type: ignore[method-assign]
    trace.power = unreadable  # type: ignore[method-assign]
    result, segments, _ = replay(bench, player, budget_s=6.0, trace=trace)
    assert result.whole["failed"] == "RuntimeError: out of memory"
    assert "mmap length" in result.whole["not_judged"]
    assert {0, 1, 2} <= set(segments.layer[segments.kind == LAYER].tolist())
    assert result.reason == "the budget is spent"
    assert set(result.left_out) == {4}
    assert result.narrow == 0


@pytest.mark.parametrize(
    ("failing", "reason"),
    [
        ((), "every layer is known well enough"),
        ((1,), "every layer is known well enough but 1 that cannot be repeated"),
        ((0, 1, 2), "no layer could be repeated"),
    ],
)
def test_why_it_ended_counts_what_failed(
    bench: Bench, failing: tuple[int, ...], reason: str
) -> None:
    player = Player(bench, dict.fromkeys(failing, RuntimeError("out of memory")))
    assert replay(bench, player)[0].reason == reason


def test_a_device_that_fails_at_the_end_costs_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    player, trace = Player(bench), Trace()

    def of_run(*what: Any) -> ReplayBench:
        trace.bench = ReplayBench(*what)
        return trace.bench

    def fail() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(replay_pass, "LiveTrace", lambda path: trace)
    monkeypatch.setattr(replay_pass, "ReplayBench", of_run)
    player.close = fail  # type: ignore[method-assign]
    found, _ = run(bench, Session(player))
    assert found["why"] is None
    assert found["groups"] == [[0, 3], [1], [2]]


def test_what_a_layer_that_failed_left_is_collected_before_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    player = Player(bench, {1: RuntimeError("out of memory")})
    opened_at: list[int] = []
    collect = "edgejoule.inference.replay_pass.gc.collect"
    monkeypatch.setattr(collect, lambda: opened_at.append(len(player.opened)))
    replay(bench, player)
    assert set(range(len(player.opened))) <= set(opened_at)  # before each, failed or not
