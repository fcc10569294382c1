"""The slope of energy against copies, and what it says of an attributed energy."""

from __future__ import annotations

import dataclasses

import pytest

from edgejoule.energy.duplication import check_duplication
from edgejoule.energy.replay_segments import DUPLICATE, LAYER
from edgejoule.energy.rows import EnergyRow
from tests.support_segments import REACH_NS, MadeUp

WHOLE_MJ, OWN_MJ = 20.0, 4.0


def made(seed: int = 0, layer: int = 7, **changes: float) -> MadeUp:
    pass_ = MadeUp(seed, **changes)  # type: ignore[arg-type]
    for number in range(3):
        pass_.idle(number)
        for copies in (1, 2, 4, 8):
            energy_mj = WHOLE_MJ + (copies - 1) * OWN_MJ
            pass_.repeat((DUPLICATE, layer, copies), 2000.0, energy_mj / 2.0, number)
    pass_.idle(3)
    return pass_


def row(layer: int, energy_mj: float | None, half_mj: float | None = 0.1) -> EnergyRow:
    return EnergyRow(
        "replay", "total", "layer", layer, energy_mj, half_mj, energy_mj, half_mj, None, 1,
        energy_mj is not None, why=None if energy_mj is not None else "too small",
    )  # fmt: skip


def check(pass_: MadeUp, rows: list[EnergyRow]) -> list[dict[str, object]]:
    return check_duplication("total", pass_.readings(), pass_.segments(), rows, reach_ns=REACH_NS)


def test_the_slope_is_the_energy_of_one_more_execution() -> None:
    (found,) = check(made(), [row(7, 4.2)])
    assert found["copies"] == [1, 2, 4, 8]
    assert found["slope_mj"] == pytest.approx(OWN_MJ, rel=0.01)
    assert found["attributed_mj"] == 4.2
    assert found["ratio"] == pytest.approx(OWN_MJ / 4.2, rel=0.01)
    assert found["bias_percent"] == pytest.approx(5.0, abs=1.0)
    assert found["outlier"] is False
    assert found["method"] == "replay"
    low, high = found["ratio_interval"]  # type: ignore[misc]
    assert low < found["ratio"] < high  # type: ignore[operator]


def test_an_energy_that_is_far_off_is_an_outlier() -> None:
    (found,) = check(made(), [row(7, 5.0)])
    assert found["outlier"] is True
    assert found["ratio"] == pytest.approx(0.8, rel=0.01)


def test_the_interval_covers_the_truth() -> None:
    covered = 0
    for seed in range(40):
        pass_ = made(seed, scatter=0.01, time_scatter=0.005)
        (found,) = check(pass_, [row(7, OWN_MJ)])
        covered += abs(found["slope_mj"] - OWN_MJ) <= found["slope_half_mj"]  # type: ignore[operator]
        assert found["slope_half_mj"] < 0.2 * OWN_MJ  # type: ignore[operator]
    assert covered >= 36


def test_what_cannot_be_compared_is_said() -> None:
    pass_ = made()
    (found,) = check(pass_, [row(7, None)])
    assert (found["ratio"], found["why"]) == (None, "too small")
    assert found["slope_mj"] == pytest.approx(OWN_MJ, rel=0.01)
    (found,) = check(pass_, [])
    assert found["why"] == "no energy is attributed to it"
    (found,) = check(pass_, [row(7, -0.1)])
    assert "not above zero" in str(found["why"])
    segments = pass_.segments()
    once = segments.chosen((segments.kind != DUPLICATE) | (segments.copies == 4))
    (found,) = check_duplication("total", pass_.readings(), once, [], reach_ns=REACH_NS)
    assert "fewer than two" in str(found["why"])


def test_other_rails_and_other_segments_are_none_of_its_business() -> None:
    pass_ = made()
    other = dataclasses.replace(row(7, 4.0), rail="VDD_SOC")
    (found,) = check(pass_, [other])
    assert found["attributed_mj"] is None
    plain = MadeUp()
    plain.idle()
    plain.repeat((LAYER, 0, 1), 2000.0, 1.0)
    assert check(plain, [row(0, 2.0)]) == []
