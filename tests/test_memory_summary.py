"""Peaks of memory from made tables: nothing is counted twice, nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgejoule.memory import longest_s, memory_summary, peaks_of, summarise

SECOND = 1_000_000_000
MIB = 2**20
SETUP = {"peak_rss_mib": 2500.0}
ORIN = {"memory_mib": 7620.0, "l4t": "36.4.0", "gpu": {"names": None}}
DISCRETE = {"memory_mib": 64000.0, "l4t": None, "gpu": {"names": ["NVIDIA H200"]}}
LAPTOP = {"memory_mib": 16000.0, "l4t": None, "gpu": {"names": None}}


def rows(**columns: list[float | None]) -> list[tuple[int, dict[str, float]]]:
    """One sample per second."""
    count = len(next(iter(columns.values())))
    return [
        (
            at * SECOND,
            {name: values[at] for name, values in columns.items() if values[at] is not None},
        )
        for at in range(count)
    ]  # type: ignore[return-value]


def test_a_cpu_has_one_peak() -> None:
    samples = rows(
        rss_measuring_mib=[None, 500.0, 900.0, 880.0],
        memory_available_mib=[12000.0, 11500.0, 11000.0, 11000.0],
    )
    found = summarise(samples, SETUP, {"peak_rss_mib": 950.0}, LAPTOP, None)
    assert found["peak_mib"] == 950.0  # its own high-water mark: samples miss what is short
    assert found["how"] == "resident memory of the measuring process"
    assert found["unified"] is None
    assert (found["peak_board_mib"], found["board_rise_mib"]) == (5000.0, 1000.0)
    assert found["peak_gpu_driver_mib"] is None
    assert (found["setup_peak_rss_mib"], found["measure_peak_rss_mib"]) == (2500.0, 950.0)
    assert found["samples"] == 4
    assert found["limit"] is None
    json.dumps(found, allow_nan=False)


def test_on_a_shared_memory_nothing_is_added() -> None:
    """1.5 GiB resident and 2 GiB of the GPU are 2.9 GiB of the board, since they overlap."""
    samples = rows(
        rss_measuring_mib=[None, 800.0, 1500.0, 1500.0],
        memory_available_mib=[5000.0, 3000.0, 2100.0, 2200.0],
    )
    measure = {"peak_rss_mib": 1510.0, "settings": {"gpu": "Orin", "peak_gpu_mib": 2000.0}}
    found = summarise(samples, SETUP, measure, ORIN, None)
    assert found["unified"] is True
    assert found["peak_mib"] == found["board_rise_mib"] == 2900.0
    assert found["peak_mib"] < 1510.0 + 2000.0
    assert found["peak_board_mib"] == 7620.0 - 2100.0
    assert found["peak_gpu_allocator_mib"] == 2000.0
    assert "not added to the resident memory" in found["how"]


def test_a_discrete_gpu_has_a_memory_of_its_own() -> None:
    samples = rows(
        rss_measuring_mib=[None, 3000.0, 3100.0],
        memory_available_mib=[60000.0, 57000.0, 56000.0],
        gpu_memory_used_mib=[600.0, 1600.0, 4600.0],
    )
    measure = {"peak_rss_mib": 3100.0, "settings": {"gpu": "NVIDIA H200", "peak_gpu_mib": 3500.0}}
    found = summarise(samples, SETUP, measure, DISCRETE, None)
    assert found["unified"] is False
    assert found["peak_mib"] == found["gpu_rise_mib"] == 4000.0
    assert found["peak_gpu_driver_mib"] == 4600.0
    assert "CUDA context included" in found["how"]


def test_where_the_driver_says_nothing_the_allocator_does() -> None:
    settings = {
        "gpu": "NVIDIA H200",
        "gpu_integrated": False,
        "memory_limit": {"allocator_peak_bytes": 700 * MIB},
    }
    found = summarise([], SETUP, {"settings": settings}, DISCRETE, None)
    assert (found["peak_mib"], found["unified"]) == (700.0, False)
    assert "without the CUDA context" in found["how"]
    settings["gpu_integrated"] = True
    found = summarise([], SETUP, {"settings": settings}, DISCRETE, None)
    assert (found["peak_mib"], found["unified"]) == (None, True)
    assert "nobody watched" in found["how"]


def test_what_nobody_says_is_null() -> None:
    found = summarise([], {}, {}, {}, None)
    assert found["peak_mib"] is None
    assert found["unified"] is None
    found = summarise([], {}, {"settings": {"gpu": "?"}}, {"memory_mib": None}, None)
    assert (found["peak_mib"], found["how"]) == (None, "the GPU's memory was not watched")
    assert found["unified"] is None
    peaks = peaks_of([], {}, {}, 1000.0)
    assert set(vars(peaks).values()) == {None}


@pytest.mark.parametrize(
    ("settings", "machine", "unified"),
    [
        ({"gpu_integrated": True}, DISCRETE, True),
        ({"gpu_integrated": False}, ORIN, False),
        ({}, ORIN, True),
        ({}, {"soc": {"family": "Tegra"}}, True),
        ({}, {"soc": None, "l4t": None}, None),
        ({}, DISCRETE, None),  # a driver beside an integrated GPU shows its name, too
    ],
)
def test_whether_the_memory_is_shared(
    settings: dict[str, Any], machine: dict[str, Any], unified: bool | None
) -> None:
    measure = {"settings": {"gpu": "x", **settings}}
    assert summarise([], {}, measure, machine, None)["unified"] is unified


# The limit


def test_samples_above_the_limit_are_counted() -> None:
    samples = rows(
        rss_measuring_mib=[None, 900.0, 1025.0, 1100.0, 1000.0, 1030.0, 1024.0],
    )
    held = {"kind": "soft", "how": "watched"}
    measure = {"peak_rss_mib": 1100.0, "settings": {"memory_limit": held}}
    limit = summarise(samples, SETUP, measure, LAPTOP, 1.0)["limit"]
    assert limit == {
        "limit_mib": 1024.0,
        "kind": "soft",
        "how": "watched",
        "watched": "resident memory of the measuring process",
        "samples": 6,
        "violations": 3,
        "longest_s": 2.0,
        "refusals": None,
        "largest_refused_mib": None,
        "peak_above": True,
    }
    short = summarise(samples[:2], SETUP, measure, LAPTOP, 1.0)["limit"]
    assert (short["violations"], short["peak_above"]) == (0, True)


def test_on_a_shared_memory_the_boards_rise_is_held_to_the_limit() -> None:
    samples = rows(
        rss_measuring_mib=[100.0, 100.0, 5000.0],
        memory_available_mib=[5000.0, 3900.0, 4500.0],
    )
    held = {"kind": "hard", "how": "x", "refusals": 2, "largest_refused_bytes": 3 * MIB}
    measure = {"settings": {"gpu": "Orin", "memory_limit": held}}
    limit = summarise(samples, SETUP, measure, ORIN, 1.0)["limit"]
    assert (limit["kind"], limit["violations"], limit["samples"]) == ("hard", 1, 3)
    assert (limit["refusals"], limit["largest_refused_mib"]) == (2, 3.0)
    assert limit["watched"] == "rise of the board's used memory"
    measure["settings"]["gpu_integrated"] = False
    samples = rows(gpu_memory_used_mib=[500.0, 1600.0, 1500.0], rss_measuring_mib=[9000.0] * 3)
    limit = summarise(samples, SETUP, measure, DISCRETE, 1.0)["limit"]
    assert (limit["violations"], limit["watched"]) == (1, "rise of the GPU's used memory")


def test_a_limit_that_nobody_watched_says_so() -> None:
    limit = summarise([], SETUP, {}, LAPTOP, 2.0)["limit"]
    assert (limit["kind"], limit["how"]) == ("unavailable", "nobody watched it")
    assert limit["samples"] is limit["violations"] is limit["longest_s"] is None
    assert limit["peak_above"] is None
    measure = {"settings": {"gpu": "Orin"}}
    machine = {**ORIN, "memory_mib": None}
    samples = rows(memory_available_mib=[5000.0])
    assert summarise(samples, SETUP, measure, machine, 2.0)["limit"]["kind"] == "unavailable"
    samples = rows(rss_measuring_mib=[100.0])
    limit = summarise(samples, SETUP, {}, LAPTOP, 2.0)["limit"]
    assert limit["kind"] == "soft"
    assert limit["how"] == "watched once a second: resident memory of the measuring process"


def test_the_longest_stretch() -> None:
    assert longest_s([], []) == 0.0
    assert longest_s([0, SECOND], [False, False]) == 0.0
    assert longest_s([0, SECOND, 3 * SECOND], [True, False, True]) == 1.0
    assert longest_s([0, SECOND, 3 * SECOND], [False, True, True]) == 2.0
    assert longest_s([0, SECOND, 2 * SECOND, 4 * SECOND], [True, True, False, True]) == 2.0


# From the run's table


def test_the_runs_table_is_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(
        pyarrow.table(
            {
                "t_ns": [0, SECOND, 2 * SECOND],
                "rss_measuring_mib": [None, 700.0, 800.0],
                "memory_available_mib": [9000.0, None, 8000.0],
                "cpu_mhz_mean": [1.0, 2.0, 3.0],
            }
        ),
        tmp_path / "resources.parquet",
    )
    found = memory_summary(tmp_path, SETUP, {"peak_rss_mib": 750.0}, LAPTOP, 0.5)
    assert (found["peak_mib"], found["peak_board_mib"], found["samples"]) == (800.0, 8000.0, 3)
    assert found["limit"]["violations"] == 2
    found = memory_summary(tmp_path / "elsewhere", SETUP, {"peak_rss_mib": 750.0}, LAPTOP, 0.5)
    assert (found["peak_mib"], found["samples"]) == (750.0, 0)
    assert found["limit"]["kind"] == "unavailable"
