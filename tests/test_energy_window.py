"""Energy per layer by the window regression, against known powers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgejoule.energy.sensor_model import SensorParameters
from edgejoule.energy.timeline import ChannelReads, Timeline
from edgejoule.energy.window import WindowAttribution, add_rails, attribute_window
from edgejoule.simulation import SCENARIOS, Gaps, Simulated, simulate

_FEW = 3000


def _run(name: str, seed: int = 1, **changes: object) -> tuple[Simulated, WindowAttribution]:
    simulated = simulate(replace(SCENARIOS[name], **{"inferences": _FEW, **changes}), seed)  # type: ignore[arg-type]
    return simulated, _attribute(simulated)


def _attribute(
    simulated: Simulated, rail: str | None = None, model: SensorParameters | None = None
) -> WindowAttribution:
    rail = rail or next(iter(simulated.reads))
    idle = simulated.idle_mw[rail]
    return attribute_window(
        rail,
        simulated.timeline,
        simulated.reads[rail],
        baseline_mw=idle.measured_mw,
        baseline_half_width_mw=idle.half_width_mw,
        model=model,
    )


def _errors(simulated: Simulated, found: WindowAttribution, rail: str) -> np.ndarray:
    """Return relative errors of layers with at least 5 % of the energy, 1 if not resolved."""
    truth = simulated.truth[rail]
    rows = {row.layer: row for row in found.rows if row.kind == "layer"}
    errors = []
    for layer in np.flatnonzero(truth.layer_mj > 0.05 * truth.inference_mj):
        gross = rows[int(layer)].gross_mj
        errors.append(1.0 if gross is None else abs(gross / truth.layer_mj[layer] - 1))
    return np.array(errors)


def _kind(found: WindowAttribution, kind: str) -> list:
    return [row for row in found.rows if row.kind == kind]


@pytest.fixture(scope="module")
def base() -> tuple[Simulated, WindowAttribution]:
    return _run("base")


@pytest.fixture(scope="module")
def gaps() -> tuple[Simulated, WindowAttribution]:
    return _run("gap30-unequal", inferences=8000)


def test_layers_that_touch(base: tuple[Simulated, WindowAttribution]) -> None:
    simulated, found = base
    assert np.median(_errors(simulated, found, "VDD_IN")) < 0.01
    inference = _kind(found, "inference")[0]
    assert inference.gross_mj == pytest.approx(simulated.truth["VDD_IN"].inference_mj, rel=0.01)


def test_the_phase_is_found_blindly(base: tuple[Simulated, WindowAttribution]) -> None:
    _, found = base
    # A value is read at 0.7 of 0.55 ms and taken to be read in the middle: 0.11 ms too early.
    assert found.facts["delay_ns"] == pytest.approx(-110e3, abs=25e3)
    assert found.facts["window_ns"] == pytest.approx(1.1e6, rel=0.01)
    assert found.facts["samples"] == 1


def test_closure_where_nothing_was_fitted(base: tuple[Simulated, WindowAttribution]) -> None:
    _, found = base
    closure = found.facts["closure"]
    for kind, held in (("gross", "held_out"), ("dynamic", "held_out_dynamic")):
        low, high = closure[f"interval_{kind}"]
        assert low < closure[held] < high
        assert closure[held] == pytest.approx(1.0, abs=0.005)
        assert high - low < 0.02
        assert closure[kind] == pytest.approx(1.0, abs=0.02)


def test_rows_add_up(base: tuple[Simulated, WindowAttribution]) -> None:
    simulated, found = base
    layers = _kind(found, "layer")
    assert [row.layer for row in layers] == list(range(simulated.timeline.layers))
    groups, gap = _kind(found, "group"), _kind(found, "gap")[0]
    parts = [row.gross_mj for row in layers if row.gross_mj is not None]
    parts += [row.gross_mj for row in groups]
    closure = _kind(found, "closure")[0]
    assert closure.gross_mj == pytest.approx(sum(parts) + gap.gross_mj, rel=1e-6)
    assert {row.group for row in layers if row.gross_mj is None} == {row.group for row in groups}


def test_gaps_of_unknown_place(gaps: tuple[Simulated, WindowAttribution]) -> None:
    simulated, found = gaps
    errors = _errors(simulated, found, "VDD_IN")
    assert np.median(errors) < 0.03
    assert found.facts["placement"]["chosen"].endswith("in proportion")


def test_a_placement_that_leaves_more_than_noise_gives_no_numbers(
    gaps: tuple[Simulated, WindowAttribution],
) -> None:
    """A wrong place for the layers fits with other powers nearly as well: the rest tells it."""
    simulated, found = gaps
    assert found.facts["residual_mw"] < found.facts["noise_mw"]
    quiet = replace(simulated.reads["VDD_IN"], lsb_mw=8.0)
    idle = simulated.idle_mw["VDD_IN"]
    refuted = attribute_window(
        "VDD_IN", simulated.timeline, quiet, baseline_mw=idle.measured_mw,
        baseline_half_width_mw=idle.half_width_mw, noise_mw=5.0,
    )  # fmt: skip
    layers = _kind(refuted, "layer")
    assert all(row.gross_mj is None and row.resolved is False for row in layers)
    assert "where layers lie in the inference is not known" in str(layers[0].why)
    groups = _kind(refuted, "group")
    assert groups
    assert not any(row.resolved for row in groups)
    assert {row.group for row in layers} == {row.group for row in groups}


def test_true_starts_are_used() -> None:
    simulated, found = _run("gap30-starts")
    assert found.facts["placement"]["chosen"] == "true starts"
    assert np.median(_errors(simulated, found, "VDD_IN")) < 0.02


def test_a_low_pass_is_fitted() -> None:
    simulated, found = _run("lowpass100")
    assert found.facts["tau_ns"] == pytest.approx(100e3, rel=0.15)
    assert np.median(_errors(simulated, found, "VDD_IN")) < 0.03


def test_what_a_calibration_knows_is_used() -> None:
    simulated = simulate(replace(SCENARIOS["average16"], inferences=8000), 2)
    model = SensorParameters(6.6e6, 1.1e6, samples=16)
    found = _attribute(simulated, model=model)
    assert found.facts["samples"] == 16
    assert found.facts["window_ns"] == 1.1e6
    assert np.median(_errors(simulated, found, "VDD_IN")) < 0.08


def test_a_layer_of_5_us_in_200_inferences_is_not_resolved() -> None:
    for seed in range(4):
        simulated = simulate(SCENARIOS["no-information"], seed)
        found = _attribute(simulated)
        short = simulated.plan.short
        row = next(row for row in found.rows if row.kind == "layer" and row.layer == short)
        assert row.resolved is False
        assert row.gross_mj is None
        assert row.why


def test_equal_data_give_equal_answers() -> None:
    simulated = simulate(replace(SCENARIOS["base"], inferences=1500), 3)
    assert _attribute(simulated).rows == _attribute(simulated).rows


def test_rails_add_and_keep_what_is_known_together() -> None:
    simulated = simulate(replace(SCENARIOS["agx-orin"], inferences=_FEW, gaps=Gaps(0.0)), 1)
    parts = [_attribute(simulated, rail) for rail in simulated.reads]
    total = add_rails(parts)
    for kind in ("gap", "inference", "closure"):
        rows = [_kind(part, kind)[0] for part in parts]
        assert _kind(total, kind)[0].gross_mj == pytest.approx(sum(r.gross_mj for r in rows))
    for row in _kind(total, "layer"):
        own = [_kind(part, "layer")[row.layer] for part in parts]
        if all(one.gross_mj is not None for one in own) and row.gross_mj is not None:
            assert row.gross_mj == pytest.approx(sum(one.gross_mj for one in own))
            widths = [one.gross_statistical_mj for one in own]
            assert row.gross_statistical_mj == pytest.approx(np.hypot.reduce(widths))
    errors = _errors(simulated, total, "total")
    assert np.median(errors) < 0.06
    assert set(total.facts["rails"]) == set(simulated.reads)


def _timeline(n: int = 300, layers: int = 3) -> Timeline:
    start = 10**9 + np.arange(n) * 4_000_000
    layer = np.full((n, layers), 1e6)
    return Timeline(start, start + 3_500_000, layer)


def _reads(power: np.ndarray, every_ns: int = 1_300_000) -> ChannelReads:
    at = 10**9 + np.arange(len(power)) * every_ns
    return ChannelReads("r", at, at + 100_000, power.astype(np.int64), power.astype(np.float64))


_STEADY = np.full(900, 5000)
_RANDOM = np.random.default_rng(0).integers(4000, 9000, 900)


@pytest.mark.parametrize(
    ("timeline", "reads", "why"),
    [
        (_timeline(), _reads(_STEADY), "changed 0 times"),
        (_timeline(), _reads(_RANDOM[:1]), "1 reads"),
        (_timeline(1), _reads(_RANDOM), "fewer than two inferences"),
        (_timeline(300, 0), _reads(_RANDOM), "no layers"),
        (
            replace(_timeline(), end_ns=_timeline().start_ns + 5_000_000),
            _reads(_RANDOM),
            "inferences overlap",
        ),
        (
            _timeline(),
            replace(_reads(np.repeat(_RANDOM, 4)), t0_ns=10**13 + np.arange(3600) * 1_300_000,
                    t1_ns=10**13 + np.arange(3600) * 1_300_000 + 1000),
            "0 values of the sensor fell into the pass",
        ),
    ],
    ids=["constant", "one read", "one inference", "no layers", "overlap", "elsewhere"],
)  # fmt: skip
def test_what_cannot_be_attributed_says_why(
    timeline: Timeline, reads: ChannelReads, why: str
) -> None:
    found = attribute_window("r", timeline, reads, baseline_mw=1000.0, baseline_half_width_mw=None)
    assert why in found.facts["why"]
    assert all(row.gross_mj is None for row in found.rows)
    assert all(row.why == found.facts["why"] for row in found.rows)
    assert add_rails([found, found]).rows[-1].gross_mj is None


def test_layers_without_time_take_no_energy() -> None:
    simulated = simulate(replace(SCENARIOS["base"], inferences=1500), 4)
    plain = simulated.timeline
    layer = np.column_stack([plain.layer_ns, np.zeros(len(plain.layer_ns))])
    found = attribute_window(
        "VDD_IN",
        replace(plain, layer_ns=layer),
        simulated.reads["VDD_IN"],
        baseline_mw=5000.0,
        baseline_half_width_mw=10.0,
    )
    last = _kind(found, "layer")[-1]
    assert (last.gross_mj, last.dynamic_mj, last.why) == (0.0, 0.0, "it took no time")
