"""docs/ExperimentScripts.md shows the help of every command as it is."""

from __future__ import annotations

import pytest

from tests import write_help


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return write_help.all_help()


def test_every_help_stands_in_the_page(texts: dict[str, str]) -> None:
    shown = write_help.blocks(write_help.PAGE.read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(texts), "type: python -m tests.write_help"
    for name, text in texts.items():
        mend = f"{name}: type: python -m tests.write_help"
        assert write_help.normal(shown[name]) == write_help.normal(text), mend


def test_a_page_is_filled_and_completed() -> None:
    page = (
        "# x\n\n<!-- help: a.py -->\n```text\nold\n```\n\ntail\n<!-- help: gone -->\n```text\n```\n"
    )
    written = write_help.filled(page, {"a.py": "new\n", "b.py": "other\n"})
    assert write_help.blocks(written) == {"a.py": "new\n", "b.py": "other\n"}
    assert "tail" in written
    assert write_help.filled(written, {"a.py": "new\n", "b.py": "other\n"}) == written


def test_the_verbs_of_a_script_are_found() -> None:
    text = (
        "positional arguments:\n  VERB\n    init      make\n              it\n    verify    look\n"
    )
    assert write_help.verbs_of("a.py", text + "\noptions:\n") == ["a.py init", "a.py verify"]
    assert write_help.verbs_of("b.py", "usage: b.py\n\noptions:\n    -h\n") == []


def test_pythons_write_short_options_differently() -> None:
    assert write_help.normal("-o FILE, --output FILE  x") == "-o, --output FILE x"
