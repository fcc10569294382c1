"""The measuring process with dither, observer and replay pass, beside a sampler of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgejoule.energy.replay_segments import IDLE, LAYER, WHOLE, segments_of
from edgejoule.phases import PhaseBoard, read_phases
from edgejoule.power.acquire import start_sampler, start_simulator
from edgejoule.records import read_header

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from tests.test_inference_processes import (
    MEASURE,
    SETUP,
    finish,
    measure_config,
    setup_config,
)


@pytest.mark.once("three processes for ten seconds; nothing in it depends on Python's version")
def test_a_run_with_all_that_attribution_wants(tmp_path: Path) -> None:
    said, status = finish(SETUP, setup_config(tmp_path))
    assert status == 0, said
    board = PhaseBoard(tmp_path / "page.bin", tmp_path / "phases.jsonl")
    board.mark("idle_before")
    simulator = start_simulator(tmp_path)
    sampler, _ = start_sampler("simulated", tmp_path, pause_phases=("unsampled",))
    config = measure_config(
        tmp_path,
        clean_runs=None,
        clean_min_s=3.0,
        dither=True,
        observer_s=8.0,
        replay_budget_s=4.0,
        replay_segment_s=0.1,
        check_attribution=1,
    )
    said, status = finish(MEASURE, config)
    board.mark("end")
    board.close()
    sampler.stop()
    simulator.stop()
    assert status == 0, (tmp_path / "run.log").read_text()

    report = json.loads((tmp_path / "measure.json").read_text())
    assert report["profiled"]["dither"]["most_ms"] <= 3.0
    assert report["profiled"]["dither"]["seconds"] > 0
    observer = report["observer"]
    assert {block["factor"] for block in observer["blocks"]} == {"sampler", "profiler"}
    replay = report["replay"]
    assert replay["why"] is None
    assert report["roofline"]["why"] is not None  # too short a run for it

    header, offset = read_header(tmp_path / "replay.bin")
    dtype = np.dtype([tuple(field) for field in header["fields"]])
    segments = segments_of(np.fromfile(tmp_path / "replay.bin", dtype, offset=offset))
    assert len(segments) == replay["segments"]
    known = {layer for group in replay["groups"] for layer in group[:1]}
    assert set(segments.layer[segments.kind == LAYER].tolist()) <= known
    assert np.count_nonzero(segments.kind == WHOLE) >= 2
    assert np.count_nonzero(segments.kind == IDLE) >= 2

    spans = read_phases(tmp_path / "phases.jsonl")
    names = list(dict.fromkeys(span.phase for span in spans))
    order = ["clean", "observed", "unsampled", "profiled", "replay", "idle_loaded_after"]
    assert [name for name in names if name in order] in (
        order,
        [order[0], order[2], order[1], *order[3:]],
    )
    (phase,) = [span for span in spans if span.phase == "replay"]
    assert phase.start_ns < segments.start_ns[0]
    assert segments.end_ns[-1] <= (phase.end_ns or 0)
    # The inferences of the observer pass belong to no pass.
    inferences_header, start = read_header(tmp_path / "inferences.bin")
    rows = np.fromfile(
        tmp_path / "inferences.bin",
        np.dtype([tuple(field) for field in inferences_header["fields"]]),
        offset=start,
    )
    for span in spans:
        if span.phase in ("observed", "unsampled"):
            inside = (rows["start_ns"] >= span.start_ns) & (rows["start_ns"] < (span.end_ns or 0))
            assert not inside.any()
    counted = json.loads((tmp_path / "sampler.json").read_text())
    assert counted["pauses"] >= 1
