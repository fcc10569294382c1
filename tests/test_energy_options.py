"""The flags that say how energy is split over layers, as a user types them."""

from __future__ import annotations

import pytest

from edgejoule.cli.measure_inference import build_parser


@pytest.mark.parametrize(("text", "seconds"), [("0", 0.0), ("0.0", 0.0), ("2.5", 2.5)])
def test_no_observer_pass_can_be_asked_for(text: str, seconds: float) -> None:
    arguments = build_parser().parse_args(["--model", "m", "--observer-seconds", text])
    assert arguments.observer_seconds == seconds


@pytest.mark.parametrize(
    ("flag", "text", "said"),
    [
        ("--observer-seconds", "-1", "-1 is no finite number"),
        ("--observer-seconds", "nan", "nan is no finite number"),
        ("--observer-seconds", ".", "'.' is no number"),
        ("--replay-budget", "inf", "inf is no finite number above 0"),
        ("--replay-budget", "0", "0 is no finite number above 0"),
        ("--check-attribution", "0", "0 is less than 1"),
    ],
)
def test_what_is_no_length_is_named(
    flag: str, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        build_parser().parse_args(["--model", "m", f"{flag}={text}"])
    assert said in capsys.readouterr().err
