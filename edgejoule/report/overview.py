"""One row per run: what `summary.csv`, `report.json`, the page and the choice show alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["sound", "look", "broken"]


@dataclass(frozen=True)
class Overview:
    """The figures of one run; None where it does not have them. Units stand in the names.

    Energies are those of the clean pass per inference, on the rail `total` where there is one,
    otherwise on the rail that stands for the run; half-widths are of 95 % intervals within the
    process.

    Attributes:
        run: Its name.
        model: As asked for.
        backend: Runtime.
        dtype: Precision.
        batch: Images of an inference.
        device: What it ran on: the GPU's or CPU's name.
        board: The board's id, else the machine's name for people.
        mode: Power mode.
        repeat: Which repeat, 0 where only one was asked for.
        rebuild: Which build.
        status: `complete`, `incomplete`, `failed`.
        marks: What must stand wherever the run is shown (`SIMULATED power`, `random weights`, ...).
        simulated: Whether its power is made up.
        started_at: ISO 8601.
        inferences: Of the clean pass.
        p50_ms: Median latency of the clean pass.
        p90_ms: Ninetieth percentile.
        p99_ms: Ninety-ninth percentile.
        mean_ms: Mean.
        mean_half_ms: Half-width of the mean's interval.
        throughput_hz: Images per second: batch over mean latency.
        rail: What the energies are of.
        gross_mj: Energy per inference.
        gross_half_mj: Its half-width.
        dynamic_mj: Above the baseline.
        dynamic_half_mj: Its half-width.
        gross_mj_per_image: Energy per image of the batch.
        systematic_mj: Bound on what repeating cannot average out, per inference.
        mean_w: Average power of the clean pass.
        peak_w: Greatest single reading of the clean and profiled passes.
        idle_w: Idle power with the engine loaded.
        rate_hz: Rate of the rate pass.
        missed_deadlines: In the rate pass.
        gross_mj_per_frame: Energy of a period of the rate pass, waiting included.
        rate_mean_w: Average power of the rate pass.
        memory_mib: Greatest memory.
        memory_limit_mib: Its limit.
        temperature_c: Greatest temperature during the run.
        profiled_over_clean: Latency with over latency without the layer profiler.
        method: How energies of layers were found; None where there are none.
        closure_gross: Sum over layers and gap over the inference measured apart.
        closure_dynamic: The same above the baseline.
        resolved_share: Part of the energy that single layers are known to take.
        duplication_slope: Median of increase over attributed energy.
        duplication_layers: Layers behind it.
        relative_error: Outputs against float32, mean relative error.
        layers: How many layers.
        verdict: `sound`: nothing speaks against it; `look`: read the reasons before using a figure;
            `broken`: incomplete, failed, or a part is missing.
        reasons: Why, one sentence each; empty where sound.
    """

    run: str
    model: str
    backend: str | None = None
    dtype: str | None = None
    batch: int = 1
    device: str | None = None
    board: str | None = None
    mode: str | None = None
    repeat: int = 0
    rebuild: int = 0
    status: str = "complete"
    marks: tuple[str, ...] = ()
    simulated: bool = False
    started_at: str | None = None
    inferences: int | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    mean_ms: float | None = None
    mean_half_ms: float | None = None
    throughput_hz: float | None = None
    rail: str | None = None
    gross_mj: float | None = None
    gross_half_mj: float | None = None
    dynamic_mj: float | None = None
    dynamic_half_mj: float | None = None
    gross_mj_per_image: float | None = None
    systematic_mj: float | None = None
    mean_w: float | None = None
    peak_w: float | None = None
    idle_w: float | None = None
    rate_hz: float | None = None
    missed_deadlines: int | None = None
    gross_mj_per_frame: float | None = None
    rate_mean_w: float | None = None
    memory_mib: float | None = None
    memory_limit_mib: float | None = None
    temperature_c: float | None = None
    profiled_over_clean: float | None = None
    method: str | None = None
    closure_gross: float | None = None
    closure_dynamic: float | None = None
    resolved_share: float | None = None
    duplication_slope: float | None = None
    duplication_layers: int | None = None
    relative_error: float | None = None
    layers: int = 0
    verdict: Verdict = "sound"
    reasons: tuple[str, ...] = field(default=())
