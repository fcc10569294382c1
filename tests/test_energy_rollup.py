"""Sums of layers by module, operation, inference: they add up, and nothing is split by guess."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgejoule.energy.rollup import Node, Rollup, roll_up
from edgejoule.energy.rollup_amounts import Amount, Covariance, energy_rows
from edgejoule.energy.rows import EnergyRow
from edgejoule.errors import MeasurementError


def row(kind: str, layer: int | None = None, gross: float | None = None, **more: Any) -> EnergyRow:
    dynamic = None if gross is None else gross - 0.5
    half = None if gross is None else 0.1
    known = {"gross_mj": gross, "gross_statistical_mj": half, "dynamic_mj": dynamic,
             "dynamic_statistical_mj": half, "systematic_mj": half}  # fmt: skip
    return EnergyRow(
        **{"method": "window", "rail": "total", "kind": kind, "layer": layer, "n": 100,
           "resolved": True, **known, **more}  # type: ignore[arg-type]
    )  # fmt: skip


def net(*modules: tuple[str | None, str]) -> list[dict[str, Any]]:
    return [{"module_path": path, "operation": operation} for path, operation in modules]


NET = net(
    ("features.0", "convolution"),
    ("features.1", "activation"),
    ("features.3.conv", "convolution"),
    ("classifier", "dense"),
    (None, "reformat"),
)


def rows_of(grouped: Sequence[Sequence[int]] = (), layers: int = 5) -> list[EnergyRow]:
    """Layers of 1, 2, 3, ... mJ and k ms, a gap of 10 mJ, and groups with their sums."""
    inside = {layer: min(members) for members in grouped for layer in members}
    found = [
        row("layer", k, None if k in inside else k + 1.0, time_ms=float(k), group=inside.get(k),
            resolved=k not in inside)
        for k in range(layers)
    ]  # fmt: skip
    found += [
        row("group", gross=sum(k + 1.0 for k in members), group=min(members)) for members in grouped
    ]
    found.append(row("gap", gross=10.0, time_ms=5.0))
    whole = sum(k + 1.0 for k in range(layers)) + 10.0
    dynamic = math.fsum(one.dynamic_mj for one in found if one.dynamic_mj is not None)
    found.append(row("inference", gross=whole + 1.0, time_ms=20.0))
    found.append(row("closure", gross=whole, dynamic_mj=dynamic, gross_statistical_mj=None,
                     dynamic_statistical_mj=None))  # fmt: skip
    return found


def node(found: Rollup, path: str, kind: str = "module") -> Node:
    (one,) = [node for node in found.modules if (node.kind, node.path) == (kind, path)]
    return one


def test_a_tree_of_modules() -> None:
    found = roll_up(rows_of(), NET)
    shape = [(one.kind, one.path, one.depth) for one in found.modules]
    assert shape == [
        ("inference", "", 0),
        ("module", "", 1),
        ("module", "features", 2),
        ("module", "features.0", 3),
        ("module", "features.1", 3),
        ("module", "features.3", 3),
        ("module", "features.3.conv", 4),
        ("module", "classifier", 2),
        ("unmapped", "", 1),
        ("gap", "", 1),
    ]
    features = node(found, "features")
    assert (features.own.gross_mj, features.own.layers) == (0.0, 0)
    assert (features.total.gross_mj, features.total.layers) == (6.0, 3)
    assert features.total.dynamic_mj == pytest.approx(4.5)
    # 0 + 1 + 2 ms; 6 mJ in 3 ms are 2 W; 6 mJ times 3 ms are 18 uJ s.
    assert features.total.time_ms == pytest.approx(3.0)
    assert features.total.power_gross_mw == pytest.approx(2000.0)
    assert features.total.power_dynamic_mw == pytest.approx(1500.0)
    assert features.total.edp_uj_s == pytest.approx(18.0)
    # Estimates of one fit depend on each other: half-widths add up, as systematic bounds do.
    assert features.total.gross_half_mj == pytest.approx(0.3)
    assert features.total.systematic_mj == pytest.approx(0.3)
    assert node(found, "", "unmapped").total.gross_mj == 5.0
    assert node(found, "", "gap").total.gross_mj == 10.0
    assert node(found, "", "inference").total.gross_mj == 25.0
    assert found.interval == "sum of the half-widths"


def test_operations_with_the_largest_first() -> None:
    found = roll_up(rows_of(), [*NET[:4], {"module_path": None}])
    assert [(one.name, one.amount.gross_mj, one.amount.layers) for one in found.operations] == [
        ("gap", 10.0, 0),
        ("unknown", 5.0, 1),
        ("convolution", 4.0, 2),
        ("dense", 4.0, 1),
        ("activation", 2.0, 1),
    ]


def test_whole_image_and_closure() -> None:
    found = roll_up(rows_of(), NET, batch=4)
    assert (found.inference.gross_mj, found.inference.layers) == (26.0, 5)
    assert found.image.gross_mj == pytest.approx(6.5)
    assert found.image.gross_half_mj == pytest.approx(0.025)
    assert found.image.time_ms == pytest.approx(5.0)
    assert found.closure_gross == pytest.approx(25 / 26)
    assert found.closure_dynamic == pytest.approx((25 - 6 * 0.5) / 25.5)
    assert (found.resolved_layers, found.layers, found.resolved_share) == (5, 5, 1.0)


def test_a_group_within_a_module_belongs_to_it() -> None:
    found = roll_up(rows_of([(0, 2)]), NET)
    features = node(found, "features")
    assert (features.own.gross_mj, features.own.layers) == (4.0, 2)
    assert features.total.gross_mj == pytest.approx(6.0)
    assert features.outside == 0
    # Below it, two layers stand farther up.
    assert (node(found, "features.0").total.gross_mj, node(found, "features.0").outside) == (0, 1)
    assert node(found, "features.3").outside == node(found, "features.3.conv").outside == 1
    assert node(found, "features.1").total.gross_mj == 2.0
    assert (found.resolved_layers, found.layers) == (3, 5)
    assert found.resolved_share == pytest.approx(11 / 15)
    piece = found.pieces[0]
    assert (piece.kind, piece.layers, piece.amount.time_ms) == ("group", (0, 2), 2.0)
    # Both are convolutions, so their operation has it.
    assert next(one for one in found.operations if one.name == "convolution").amount.layers == 2


def test_a_group_across_modules_stands_in_the_smallest_around_it() -> None:
    found = roll_up(rows_of([(1, 3)]), NET)
    assert node(found, "").own.gross_mj == 6.0
    assert node(found, "features").total.gross_mj == 4.0
    assert (node(found, "features").outside, node(found, "classifier").outside) == (1, 1)
    assert node(found, "").outside == 0
    assert [one.name for one in found.operations if one.amount.layers == 2] == [
        "activation + dense",
        "convolution",
    ]


def test_a_group_of_mapped_and_unmapped_layers_stands_in_the_whole() -> None:
    found = roll_up(rows_of([(3, 4)]), NET)
    whole = node(found, "", "inference")
    assert (whole.own.gross_mj, whole.total.gross_mj) == (9.0, 25.0)
    assert node(found, "").total.gross_mj == 6.0
    assert (node(found, "").outside, node(found, "classifier").outside) == (1, 1)
    assert [one for one in found.modules if one.kind == "unmapped"] == []


def test_what_a_method_cannot_tell_from_the_rest_is_shown_and_not_dropped() -> None:
    rows = rows_of([(0, 1)])
    rows = [one if one.kind != "group" else row("group", gross=3.0, group=0, resolved=False)
            for one in rows]  # fmt: skip
    found = roll_up(rows, NET)
    assert node(found, "features").total.unresolved_mj == 3.0
    assert node(found, "classifier").total.unresolved_mj == 0.0
    assert found.closure.unresolved_mj == 3.0
    assert found.closure.gross_mj == 25.0


@pytest.mark.parametrize("with_row", [True, False])
def test_layers_without_any_number_are_counted_where_they_belong(with_row: bool) -> None:
    rows = [one for one in rows_of([(0, 1)]) if one.kind not in ("group", "closure")]
    if with_row:
        rows.append(row("group", group=0, resolved=False, why="cannot be repeated alone"))
    found = roll_up(rows, NET)
    features = node(found, "features").total
    assert (features.gross_mj, features.layers, features.unknown) == (3.0, 1, 2)
    assert features.time_ms == 2.0  # of what is known, so that the power is right
    assert node(found, "features.0").total.gross_mj == 0.0
    assert node(found, "features.0").outside == 1
    piece = found.pieces[0]
    assert (piece.layers, piece.resolved, piece.amount.gross_mj) == ((0, 1), False, None)
    assert piece.why == ("cannot be repeated alone" if with_row else None)
    assert (found.closure.gross_mj, found.closure.unknown) == (22.0, 2)
    (known,) = [one for one in found.operations if one.name == "convolution + activation"]
    assert (known.amount.gross_mj, known.amount.unknown) == (None, 2)


def test_equal_layers_that_were_measured_once_keep_their_own_numbers() -> None:
    rows = [
        row("layer", 0, 2.0, group=0),
        row("layer", 1, 3.0, group=1),
        row("layer", 2, 2.0, group=0),
    ]
    found = roll_up(rows, NET)
    assert [piece.layers for piece in found.pieces] == [(0,), (1,), (2,)]
    assert found.resolved_layers == 3
    # One measurement stands for both: no independence makes their sum narrower.
    assert found.operations[0].amount.gross_half_mj == pytest.approx(0.2)


def test_a_covariance_gives_the_interval_of_sums() -> None:
    sd = 0.1 / 1.959964
    keys = (*(("layer", k) for k in range(5)), ("gap", None))
    gross = np.diag([sd**2] * 6)
    gross[0, 1] = gross[1, 0] = -(sd**2)  # one takes what the other does not
    found = roll_up(rows_of(), NET, covariance=Covariance(keys, gross))
    features = node(found, "features").total
    assert features.gross_half_mj == pytest.approx(0.1)
    assert features.dynamic_half_mj == pytest.approx(0.3)  # no covariance of these
    assert found.interval == "from the covariance"
    short = roll_up(rows_of(), NET, covariance=Covariance(keys[:1], gross[:1, :1]))
    assert node(short, "features").total.gross_half_mj is None


def test_the_methods_own_interval_of_the_whole_is_taken() -> None:
    rows = rows_of()
    rows[-1] = row("closure", gross=25.0, dynamic_mj=22.0, gross_statistical_mj=0.2)
    found = roll_up(rows, NET)
    assert (found.closure.gross_half_mj, found.closure.dynamic_half_mj) == (0.2, 0.1)


def test_rows_of_older_formats_have_fewer_columns() -> None:
    plain = [
        {
            "method": "proportional",
            "rail": "A",
            "kind": kind,
            "layer": layer,
            "gross_mj": mj,
            "n": 7,
        }
        for kind, layer, mj in (("layer", 0, 1.0), ("layer", 1, 2.0), ("gap", None, 0.5))
    ]
    found = roll_up(energy_rows(plain), NET, layer_ms=[1.0, 2.0], inference_ms=4.0)
    assert [piece.amount.time_ms for piece in found.pieces] == [1.0, 2.0, 1.0]
    assert found.closure.gross_mj == 3.5
    assert found.closure.dynamic_mj is None
    assert found.closure.gross_half_mj is None
    assert (found.inference.gross_mj, found.closure_gross) == (None, None)
    assert found.resolved_layers == 2


def test_what_cannot_be_summed_up_is_refused() -> None:
    with pytest.raises(MeasurementError, match="one method on one rail"):
        roll_up([*rows_of(), row("gap", gross=1.0, rail="other")], NET)
    with pytest.raises(MeasurementError, match="one method on one rail"):
        roll_up([], NET)
    rows = rows_of()
    rows[-1] = row("closure", gross=26.0)
    with pytest.raises(MeasurementError, match="add up to 25 mJ, its closure says 26 mJ"):
        roll_up(rows, NET)


def test_an_amount_without_time_has_no_power() -> None:
    assert Amount(1.0).power_gross_mw is None
    assert Amount(1.0, time_ms=0.0).power_gross_mw is None
    assert Amount(1.0).edp_uj_s is None
    assert Amount(2.0, time_ms=4.0, layers=3).per(2) == Amount(1.0, time_ms=2.0, layers=3)


paths = st.none() | st.lists(st.sampled_from("abc"), max_size=3).map(".".join)
operations = st.sampled_from([None, "convolution", "dense", "pooling"])


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(paths, operations), min_size=1, max_size=9), st.data())
def test_every_table_adds_up_to_the_closure(
    modules: list[tuple[str | None, str | None]], data: st.DataObject
) -> None:
    count = len(modules)
    place = [data.draw(st.integers(0, 2 * count)) for _ in range(count)]
    grouped = [
        [k for k in range(count) if place[k] == which] for which in range(count) if which in place
    ]
    rows = rows_of(grouped, count)
    if data.draw(st.booleans()):  # a group that nothing could measure
        rows = [one for one in rows if one.kind not in ("group", "closure")]
    layers = [{"module_path": path, "operation": what} for path, what in modules]
    found = roll_up(rows, layers)
    for name in ("gross_mj", "dynamic_mj", "systematic_mj", "time_ms", "layers", "unknown"):
        whole = getattr(found.closure, name)
        for amounts in (
            [one.own for one in found.modules],
            [one.amount for one in found.operations],
            [one.amount for one in found.pieces],
        ):
            parts = [getattr(one, name) for one in amounts]
            assert math.fsum(filter(None, parts)) == pytest.approx(whole)
    assert found.closure.layers + found.closure.unknown == count
    # A module is what it has itself and what the modules below it have.
    for at, one in enumerate(found.modules[1:], 1):
        below = 0.0
        for other in found.modules[at + 1 :]:
            if other.depth <= one.depth:
                break
            below += other.own.gross_mj or 0.0
        assert (one.total.gross_mj or 0.0) == pytest.approx((one.own.gross_mj or 0.0) + below)
    # Each layer is counted below its module, or as outside of it.
    for one in found.modules:
        if one.kind == "module":
            prefix = one.path.split(".") if one.path else []
            inside = sum(
                path is not None and (path.split(".") if path else [])[: len(prefix)] == prefix
                for path, _ in modules
            )
            assert one.total.layers + one.total.unknown + one.outside == inside
