"""One line of tegrastats; the lines are made up after the grammar of published ones."""

from __future__ import annotations

import contextlib
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.errors import EXIT_WRONG, EdgejouleError
from edgejoule.power.tegrastats import (
    Cpu,
    Engine,
    Memory,
    Rail,
    Sample,
    TegrastatsError,
    Temperature,
    parse_line,
)

OLD = (
    "RAM 2011/3962MB (lfb 12x4MB) SWAP 5/1981MB (cached 3MB) IRAM 7/252kB(lfb 126kB) "
    "cpu [3%,off,12%,0%]@921 EMC 2%@1331 APE 25 GR3D 44%@614"
)
XAVIER = (
    "RAM 901/15700MB (lfb 2x2MB) CPU [7%@1190,off] EMC_FREQ 1% GR3D_FREQ 9% APE 150 MTS fg 2% "
    "bg 11% AO@30C GPU@30.5C CPU@-256C GPU 463/470 CPU 618/600 SOC 2936/2931"
)
ORIN = (
    "02-29-2024 23:59:58 RAM 1/2GB (lfb 3x1MB) SWAP 0/1024kB (cached 512kB) CPU [100%@2201,0%@729] "
    "EMC_FREQ 43%@3199 GR3D_FREQ 63%@[621] NVDEC off VIC 31%@115 OFA @7 APE 174 cpu@-3.25C/9.5C "
    "gpu@-256C/61C tj@50C/-256C VDD_IN 12479mW/12400mW VIN -12mW/3mW/44mW ONE 5mW NC 0mW/0mW "
    "NC 1mW/2mW"
)


def test_a_line_of_jetpack_3() -> None:
    sample = parse_line(OLD + "\n")
    assert sample == Sample(
        memories=(
            Memory("RAM", 2011, 3962, 12, 4),
            Memory("SWAP", 5, 1981, cached_mib=3),
            Memory("IRAM", 7 / 1024, 252 / 1024, largest_block_mib=126 / 1024),
        ),
        cpus=(Cpu(0, 3, 921), Cpu(1, None, None, off=True), Cpu(2, 12, 921), Cpu(3, 0, 921)),
        engines=(Engine("EMC", 2, (1331,)), Engine("APE", None, (25,)), Engine("GR3D", 44, (614,))),
    )
    assert sample.local_time is None


def test_rails_and_temperatures_of_one_name_are_two_things() -> None:
    sample = parse_line(XAVIER)
    assert sample.temperatures == (Temperature("AO", 30.0), Temperature("GPU", 30.5))
    assert sample.off_temperatures == ("CPU",)
    assert sample.rails == (Rail("GPU", 463, 470), Rail("CPU", 618, 600), Rail("SOC", 2936, 2931))
    assert sample.cpus == (Cpu(0, 7, 1190), Cpu(1, None, None, off=True))
    assert sample.engine("MTS bg") == Engine("MTS bg", 11)
    assert sample.engine("EMC_FREQ") == Engine("EMC_FREQ", 1)
    assert sample.unknown == ()


def test_all_forms_of_newer_lines() -> None:
    sample = parse_line(ORIN)
    assert sample.wall_time == "02-29-2024 23:59:58"
    assert sample.local_time == datetime(2024, 2, 29, 23, 59, 58)
    assert sample.memory("RAM") == Memory("RAM", 1024, 2048, 3, 1)
    assert sample.memory("SWAP") == Memory("SWAP", 0, 1, cached_mib=0.5)
    assert sample.memory("IRAM") is None
    assert sample.engines == (
        Engine("EMC_FREQ", 43, (3199,)),
        Engine("GR3D_FREQ", 63, (621,)),
        Engine("NVDEC", off=True),
        Engine("VIC", 31, (115,)),
        Engine("OFA", None, (7,)),
        Engine("APE", None, (174,)),
    )
    assert sample.temperature("cpu") == Temperature("cpu", -3.25, 9.5)
    assert sample.temperature("tj") == Temperature("tj", 50.0)
    assert sample.off_temperatures == ("gpu",)
    assert sample.rails == (
        Rail("VDD_IN", 12479, 12400),
        Rail("VIN", -12, 3, 44),
        Rail("ONE", 5),
        Rail("NC", 0, 0),
        Rail("NC#2", 1, 2),
    )
    assert sample.rail("VIN") == Rail("VIN", -12, 3, 44)
    assert sample.rail("nothing") is None


def test_no_load_is_not_a_load_of_zero() -> None:
    sample = parse_line("RAM 1/2MB GR3D_FREQ @[0,0,0] NVENC0_FREQ @0 EMC_FREQ 0%@665")
    assert sample.engines == (
        Engine("GR3D_FREQ", None, (0, 0, 0)),
        Engine("NVENC0_FREQ", None, (0,)),
        Engine("EMC_FREQ", 0, (665,)),
    )


def test_what_is_not_understood_is_kept_and_not_guessed() -> None:
    sample = parse_line(
        "RAM 1/2MB (lfb soon) FAN speed 55rpm CPU [1%@5,x] VDD_IN 10mW/9mW lower 1/2 XYZ 7 "
        "GR3D_FREQ 5%@[] end"
    )
    assert sample.memories == (Memory("RAM", 1, 2),)
    assert sample.rails == (Rail("VDD_IN", 10, 9),)
    assert sample.cpus == ()
    assert sample.engines == ()
    assert sample.unknown == (
        "RAM (lfb soon)",
        "FAN speed 55rpm CPU [1%@5,x]",
        "lower 1/2 XYZ 7 GR3D_FREQ 5%@[] end",
    )


@pytest.mark.parametrize(
    ("cut", "rails"),
    [
        ("VDD_IN 49", []),  # no clock of 49 MHz
        ("VDD_IN 4915mW/", []),
        ("VDD_IN 4915mW/49", []),
        ("VDD_IN 4915mW/4915m", []),
        ("VDD_IN 4915mW", ["VDD_IN"]),
        ("VDD_IN", []),
    ],
)
def test_a_line_that_was_cut(cut: str, rails: list[str]) -> None:
    sample = parse_line(f"RAM 1/2MB CPU [1%@5] {cut}")
    assert [rail.name for rail in sample.rails] == rails
    assert sample.engines == ()
    assert sample.unknown == (() if rails else (cut,))


@pytest.mark.parametrize("text", ["RAM 1282/62", "RAM 12", "SWAP off GPU@3C", "RAM 1/2MBx"])
def test_a_memory_that_was_cut_is_no_rail_and_no_engine(text: str) -> None:
    with pytest.raises(TegrastatsError):
        parse_line(text)
    sample = parse_line(f"CPU [1%] {text}")
    assert (sample.rails, sample.engines) == ((), ())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n",
        "sudo tegrastats --interval 100",
        "GPU 463/463",
        "GR3D_FREQ 4%",
        "04-24-2023 00:01:24",
        "\0\0\0",
        "CPU []",
        "RAM 99999999999999/1MB",
    ],
)
def test_what_is_no_line_says_so(text: str) -> None:
    with pytest.raises(TegrastatsError, match="no line of tegrastats") as caught:
        parse_line(text)
    assert caught.value.exit_code == EXIT_WRONG


def test_a_part_of_a_line_needs_two_kinds_of_fields() -> None:
    assert parse_line("GPU@3C GPU 1/2").rails == (Rail("GPU", 1, 2),)
    assert parse_line("GPU@-256C GR3D_FREQ 4%").engines == (Engine("GR3D_FREQ", 4),)


@pytest.mark.parametrize("second", ["RAM 3/4MB", "CPU [2%]"])
def test_two_lines_in_one(second: str) -> None:
    with pytest.raises(TegrastatsError, match="ran into each other"):
        parse_line(f"RAM 1/2MB CPU [1%] {second}")


@pytest.mark.parametrize(
    "stamp", ["13-24-2023 00:01:24", "02-30-2023 00:01:24", "01-01-2023 25:00:00"]
)
def test_a_day_that_is_none_is_kept_as_text(stamp: str) -> None:
    sample = parse_line(f"{stamp} RAM 1/2MB")
    assert sample.wall_time is None
    assert sample.unknown == (stamp,)


def test_digits_of_other_scripts_are_no_numbers() -> None:
    sample = parse_line("RAM 1/2MB VDD_IN \u0661mW/\u0662mW GPU@\u0663C")
    assert (sample.rails, sample.temperatures) == ((), ())


@pytest.mark.parametrize(
    "piece",
    [
        *("A ", "NC 0/0 ", "NC 0/0 x ", "RAM 1/1MB(", "RAM 1/1MB ", "CPU [", "A", "a@", "RAM "),
        *("NC 1mW/", "X @[1,", "0%,", "(", "0-", "-", "a@1", "NVDEC off ", "GPU@1C ", "MTS fg "),
        *("1", "CPU [0%,", "GR3D_FREQ @[1,1,", "\u00a0", "9mW/9mW/9mW"),
    ],
)
def test_no_text_makes_it_try_combinations(piece: str) -> None:
    # 100 kB; an exponential or quadratic search would run into the suite's time limit here.
    for text in (piece * (100_000 // len(piece)), "RAM 1/2MB " + piece * (100_000 // len(piece))):
        for _ in range(3):
            with contextlib.suppress(TegrastatsError):
                parse_line(text)


@given(st.text())
def test_any_text(text: str) -> None:
    check(text)


WORDS = st.sampled_from(
    [
        *OLD.split(" "),
        *XAVIER.split(" "),
        *ORIN.split(" "),
        "@",
        "[",
        "]",
        "(",
        "/",
        "%",
        "-",
        "off",
    ]
)


@given(st.lists(WORDS, max_size=40))
def test_words_of_lines_in_any_order(words: list[str]) -> None:
    check(" ".join(words))


@given(
    st.sampled_from([OLD, XAVIER, ORIN]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), st.text(max_size=3)), max_size=5),
)
def test_lines_with_faults(line: str, faults: list[tuple[int, int, str]]) -> None:
    for place, removed, put in faults:
        line = line[:place] + put + line[place + removed :]
    check(line)


@given(st.sampled_from([OLD, XAVIER, ORIN]), st.integers(0, 500))
def test_lines_that_were_cut(line: str, length: int) -> None:
    check(line[:length])
    check(line[length:])


def check(text: str) -> None:
    """Whatever comes out is either the project's error or figures that a line can have."""
    try:
        sample = parse_line(text)
    except EdgejouleError:
        return
    assert sample.memories or sample.cpus or sample.engines or sample.rails
    _ = sample.local_time
    for group in (sample.memories, sample.engines, sample.temperatures, sample.rails):
        names = [thing.name for thing in group]
        assert len(names) == len(set(names))
        assert all(name.partition("#")[0].split()[-1] in text for name in names)
    for temperature in sample.temperatures:
        assert temperature.celsius > -256
    assert all(abs(rail.power_mw) < 10**9 for rail in sample.rails)
    assert all(word in text.replace("\0", " ") for item in sample.unknown for word in item.split())
