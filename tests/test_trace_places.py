"""Where a timeline puts things: modelled starts, nesting, ranges of inferences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from edgejoule.energy.timeline import Timeline
from edgejoule.energy.window_design import Guess, before_ns, place
from edgejoule.energy.window_exposure import Exposure
from edgejoule.errors import UsageError
from edgejoule.report.trace.executions import (
    TOLERANCE_NS,
    _nested,
    read_executions,
    read_inferences,
)
from edgejoule.report.trace.packets import varint
from edgejoule.report.trace.selection import Selection, choose_inferences, parse_inferences
from edgejoule.report.trace.starts import gap_model
from tests.support_dataset import build_run

SEED = 7


def fitted(chosen: str, placement: tuple[float, float, float], own: list[float]) -> dict[str, Any]:
    """A run.json with what a window regression found on VDD_IN."""
    facts = {
        "placement": {
            "chosen": chosen, "not_told_from": ["rule, in proportion", chosen],
            "start_ns": placement[0], "launch_ns": placement[1], "share": placement[2],
            "own_ns": own,
        }
    }  # fmt: skip
    whole = {"total": {"facts": {"rails": {"VDD_IN": facts}}}, "VDD_IN": {"facts": facts}}
    return {"summary": {"energy": {"attribution": {"window": whole}}}}


@pytest.mark.parametrize("chosen", ["own, rest at the end", "rule, in proportion"])
def test_modelled_starts_are_those_of_the_regression(chosen: str) -> None:
    rng = np.random.default_rng(SEED)
    n, layers = 40, 5
    layer_ns = np.round(rng.uniform(20e3, 90e3, (n, layers)))
    held = rng.integers(0, 5_000, n)
    spent = layer_ns.sum(axis=1).astype(np.int64) + held + rng.integers(50_000, 90_000, n)
    start = np.cumsum(spent + 10_000) - spent
    timeline = Timeline(start, start + spent, layer_ns, None, held)
    exposure = Exposure(timeline, 0)
    guess = Guess(0.0, 1.0, 0.0, 1.0, np.array([9e3, 2e3, 0.05]), np.array([0, 3e3, -1e4, 0, 5e4]),
                  "in proportion" in chosen, np.zeros(12))  # fmt: skip
    expected, _, _ = exposure.boundaries(np.arange(n), place(exposure, guess))
    run = fitted(chosen, (9e3, 2e3, 0.05), [0.0, 3e3, -1e4, 0.0, 5e4])
    model = gap_model(run, layer_ns.mean(axis=0), exposure.mean_free)
    np.testing.assert_allclose(model.before_ns, before_ns(exposure, guess))
    flat = np.repeat(np.arange(n) * layers, layers)
    found = model.begins_ns(
        np.tile(np.arange(layers), n),
        layer_ns.ravel(),
        flat,
        np.repeat(exposure.free, layers),
        np.repeat(exposure.held, layers),
    )
    np.testing.assert_allclose(found.reshape(n, layers), expected[:, :layers], rtol=1e-9)
    assert "as fitted to the power of VDD_IN" in model.told
    assert "not told from: rule, in proportion" in model.told or "proportion" in chosen


@pytest.mark.parametrize(
    "run",
    [
        {},
        {"summary": {"energy": {"attribution": {"window": {"total": {"facts": {}}}}}}},
        fitted("true starts", (0.0, 0.0, 0.0), [0.0] * 3),
        fitted("own, rest at the end", (1.0, 1.0, 0.0), [0.0] * 2),
        fitted("own, rest at the end", (1.0, float("nan"), 0.0), [0.0] * 3),
    ],
)
def test_without_a_fit_layers_follow_one_another(run: dict[str, Any]) -> None:
    model = gap_model(run, np.array([10.0, 20.0, 30.0]), 5.0)
    assert "no gap model was fitted" in model.told
    assert model.before_ns.tolist() == [0, 0, 0]


LAYER = st.tuples(st.integers(0, 3), st.integers(-5_000, 60_000), st.integers(0, 30_000))


@given(st.lists(LAYER, max_size=30))
def test_what_nests_is_moved_by_at_most_the_tolerance(drawn: list[tuple[int, int, int]]) -> None:
    length = 50_000
    inference = np.array([one[0] for one in drawn], np.int64)
    layer = np.arange(len(drawn), dtype=np.int64)
    low = inference * 100_000 + 1_000_000
    begin = low + np.array([one[1] for one in drawn], np.int64)
    end = begin + np.array([one[2] for one in drawn], np.int64)
    found = _nested(inference, layer, begin, end, np.ones(len(drawn), bool), low, low + length)
    order = np.argsort(found.layer)
    assert found.layer[order].tolist() == layer.tolist()
    moved = np.maximum(abs(found.begin_ns[order] - begin), abs(found.end_ns[order] - end))
    assert (moved[found.fit[order]] <= TOLERANCE_NS).all()
    assert (moved[~found.fit[order]] == 0).all()
    latest: dict[int, int] = {}
    for number, start, stop, fit in zip(
        found.inference.tolist(), found.begin_ns.tolist(), found.end_ns.tolist(),
        found.fit.tolist(), strict=True,
    ):  # fmt: skip
        if fit:
            first = number * 100_000 + 1_000_000
            assert max(latest.get(number, first), first) <= start <= stop <= first + length
            latest[number] = stop
    # An inference whose layers follow one another loses none of them to another track.
    for number in set(inference.tolist()):
        rows = np.flatnonzero(inference == number)
        rows = rows[np.lexsort((end[rows], begin[rows]))]
        apart = (begin[rows][1:] >= end[rows][:-1]).all()
        inside = (begin[rows] >= low[rows]).all() and (end[rows] <= low[rows] + length).all()
        if apart and inside:
            assert found.fit[found.inference == number].all()


def test_batches_are_cut_between_inferences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgejoule.report.trace import executions

    run = build_run(tmp_path / "set", profiled=11)
    spans = {"profiled": (2, 9)}

    def rows(at_once: int) -> list[list[int]]:
        monkeypatch.setattr(executions, "_ROWS", at_once)
        inferences = read_inferences(run / "inferences.parquet", spans)
        batches = list(
            read_executions(
                run / "layers.parquet", inferences, "profiled", lambda: pytest.fail("model"), None
            )
        )
        return [
            np.concatenate([getattr(one, name) for one in batches]).tolist()
            for name in ("inference", "layer", "begin_ns", "end_ns")
        ]

    whole = rows(1_000_000)
    assert whole[0] == [number for number in range(2, 9) for _ in range(3)]
    assert rows(1) == rows(2) == rows(4) == rows(7) == whole


def test_inferences_that_overlap_are_left_out(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "inferences.parquet"
    times = [(0, 100), (50_000, 60_000), (59_500, 70_000), (64_000, 80_000), (90_000, 80_000),
             (95_000, 99_000)]  # fmt: skip
    pq.write_table(
        pa.table(
            {
                "pass": ["clean"] * len(times),
                "index": list(range(len(times))),
                "start_ns": [one[0] for one in times],
                "end_ns": [one[1] for one in times],
            }
        ),
        file,
    )
    found = read_inferences(file, {"clean": (0, 9)})
    assert found.index.tolist() == [0, 1, 2, 5]
    assert found.start_ns.tolist() == [0, 50_000, 60_000, 95_000]  # 500 ns of stamps were moved
    assert found.unusable == 2


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("3:7", (3, 7, False)),
        ("7", (0, 7, False)),
        (":7", (0, 7, False)),
        ("3:", (3, None, True)),
        (":", (0, None, True)),
        ("all", (0, None, True)),
    ],
)
def test_ranges(text: str, meant: tuple[int, int | None, bool]) -> None:
    assert parse_inferences(text) == meant


@pytest.mark.parametrize("text", ["", "x", "7:3", "3:3", "-1:4", "1:2:3", "1.5", "\u0664", "0"])
def test_no_ranges(text: str) -> None:
    with pytest.raises(UsageError, match="is no range"):
        parse_inferences(text)


@given(
    st.dictionaries(st.sampled_from(["warmup", "clean", "profiled"]), st.integers(1, 10**6)),
    st.integers(0, 300),
    st.integers(1, 10**6),
)
def test_what_a_browser_can_hold(counts: dict[str, int], layers: int, most: int) -> None:
    chosen = choose_inferences(counts, layers, Selection(), most)

    def slices(each: int) -> int:
        return sum(
            min(count, each) * (1 + layers * (name == "profiled")) for name, count in counts.items()
        )

    shown = max((last for _, last in chosen.spans.values()), default=1)
    assert slices(shown) <= most or shown == 1
    assert shown == max(counts.values(), default=1) or slices(shown + 1) > most
    for name, count in counts.items():
        assert chosen.spans[name] == (0, min(count, shown))
        assert any(one.startswith(f"{name} pass") for one in chosen.left_out) == (count > shown)
    everything = choose_inferences(counts, layers, Selection(every=True), most)
    assert everything.left_out == ()
    assert everything.spans == {name: (0, count) for name, count in counts.items()}


@given(st.integers(0, 2**63))
def test_lengths_are_written_as_the_package_does(number: int) -> None:
    packet = pb.TracePacket(timestamp=number).SerializeToString()
    assert packet == b"\x40" + varint(number)
