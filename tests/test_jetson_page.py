"""The page of facts that the lane `jetson` ends in; the lane itself needs a board."""

from __future__ import annotations

import re

from tests.jetson.page import LONGEST, SECTIONS, Fact, Verdict, one_line, redact, write_page
from tests.jetson.test_runs import figures

TAKEN = "2026-01-31, code 0123456789ab"


def test_a_page() -> None:
    facts = [
        Fact("TensorRT", "version", "10.3.0"),
        Fact("machine", "board", "NVIDIA Jetson Orin Nano"),
        Fact("TensorRT", "callbacks", "60 layers,\n in the inspector's order"),
        Fact("machine", "board", "NVIDIA Jetson Orin Nano Developer Kit"),
    ]
    verdicts = [
        Verdict("machine: board", "passed", 1.2),
        Verdict("tensorrt: order", "failed", 60.0, "assert 'a' == 'b'\n +  where ..."),
        Verdict("torch_tensorrt: plan", "skipped", 0.0, "no module named torch_tensorrt"),
        Verdict("torch_tensorrt: dtype", "skipped", 0.0, "no module  named torch_tensorrt"),
        Verdict("runs: int8", "unfinished", 0.0),
        Verdict("runs: float16", "passed", 58.6),
    ]
    assert write_page(facts, verdicts, TAKEN) == (
        "# edgejoule: facts from a board\n\n"
        "2026-01-31, code 0123456789ab\n\n"
        "## machine\n\n"
        "- board: NVIDIA Jetson Orin Nano Developer Kit\n\n"
        "## TensorRT\n\n"
        "- version: 10.3.0\n"
        "- callbacks: 60 layers, in the inspector's order\n\n"
        "## verdicts\n\n"
        "2 passed, 1 failed, 2 skipped, 1 unfinished; 2.0 min\n"
        "- failed tensorrt: order: assert 'a' == 'b' + where ...\n"
        "- skipped torch_tensorrt: plan, torch_tensorrt: dtype: no module named torch_tensorrt\n"
        "- unfinished runs: int8\n"
        "- passed machine: board (1 s), runs: float16 (59 s)\n"
    )


def test_an_empty_page_says_so() -> None:
    page = write_page([], [], TAKEN)
    assert "no test ran; 0.0 min" in page
    assert not any(f"## {section}" in page for section in SECTIONS)


def test_a_section_that_is_not_known_comes_last() -> None:
    page = write_page([Fact("else", "a", "1"), Fact("runs", "b", "2")], [], TAKEN)
    assert re.findall("## (.*)", page) == ["runs", "else", "verdicts"]


def test_no_line_is_longer_than_a_line() -> None:
    line = one_line("x y " * 200)
    assert len(line) == LONGEST
    assert line.endswith("...")


def test_what_names_a_person_or_one_device_is_left_out() -> None:
    private = {
        "GPU-5ad1c9f2-3b1e-4c07-9b0a-0123456789ab": "<uuid>",
        "serial 1421020012345": "serial <number>",
        "mac 48:b0:2d:aa:bb:cc": "mac <address>",
        "host 192.168.1.20": "host <address>",
        "at /home/alice/edgejoule/model/x.py:3": "at x.py:3",
        "no '/tmp/pytest-of-alice/pytest-0/plan.engine'": "no 'plan.engine'",
        "peer 10.0.0.7:8080": "peer <address>:8080",
        "mail alice@example.org": "mail <mail>",
        "from https://user:secret@host.example/simple": "from <url>",
        "sha 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b": "sha <hash>",
    }
    assert {text: redact(text) for text in private} == private


def test_versions_and_figures_stay() -> None:
    for text in (
        "TensorRT 10.3.0, torch 2.8.0+cu126, L4T 36.4.3, driver 540.4.0",
        "10.13.3.9 and 8.6.1.6",
        "median 1.2345 ms of 2000, 3.4 J, 7.25 W, 15829164032 bytes",
        "CaskConvolution [profile 0] kgen: Format/Datatype, I/O Tensors",
        "nvidia,p3767-0003",
    ):
        assert redact(text) == text


def test_secrets_in_facts_and_reasons_do_not_reach_the_page() -> None:
    uuid = "5ad1c9f2-3b1e-4c07-9b0a-0123456789ab"
    page = write_page(
        [Fact("machine", "gpu", uuid)], [Verdict("a: b", "failed", 1, f"no {uuid}")], f"x {uuid}"
    )
    assert uuid not in page
    assert page.count("<uuid>") == 3


def test_a_run_in_one_line() -> None:
    summary = {
        "clean": {"median_ms": 1.23456},
        "profiled": {"layers_share": 0.8123},
        "profiled_over_clean": 1.08,
        "energy": {
            "rail": "total",
            "total_of": ["VDD_IN"],
            "clean": {"gross_mj": 9.87, "dynamic_mj": 4.32, "mean_mw": 8000.0},
        },
        "memory": {"peak_mib": 812.4, "gpu_rise_mib": None, "how": "the board's rise"},
    }
    layers = [{"module_path": "conv1"}, {"module_path": None}]
    run = {"summary": summary, "accuracy": {"max_relative_error": 0.00321}}
    assert figures(run, layers) == (
        "1.235 ms clean; profiled over clean 1.080; 2 layers are 81.2 % of the inference; "
        "0.00987 J gross, 0.00432 J dynamic per inference (VDD_IN, 8 W); "
        "MiB: peak 812; off by 0.0032 of float32; 1 layers without a module"
    )
    summary["energy"] = {"why": "no power sensor was read"}
    assert "; no energy; " in figures({"summary": summary, "accuracy": None}, layers)
