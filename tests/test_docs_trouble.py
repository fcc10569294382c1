"""docs/Trouble.md has an entry for every error message of the code, and none for any other.

A message is compared as a template: its words, `...` for what is put in. An entry covers a template
if it matches it as a pattern (`...` for any text) and quotes at least half of its letters, so that
no entry can stand for everything.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.support_messages import HOLE, Message, letters, messages

PAGE = Path(__file__).resolve().parent.parent / "docs" / "Trouble.md"
OWN_WORDS = 5  # with fewer letters a message only hands on another one's words


def plain(text: str) -> str:
    """Return a message as the page quotes it: one line, without backticks."""
    return re.sub(r"\s+", " ", text.replace("`", "")).strip()


@cache
def pattern(entry: str) -> re.Pattern[str]:
    """Return what an entry matches."""
    return re.compile(".*".join(re.escape(part) for part in entry.split(HOLE)))


def covers(entry: str, template: str) -> bool:
    """Whether an entry stands for a template."""
    if entry == template:
        return True
    return 2 * letters(entry) >= letters(template) and bool(pattern(entry).fullmatch(template))


@cache
def entries() -> tuple[tuple[str, str], ...]:
    """Return message and mend of each entry: code in the first column, text of the second."""
    found = []
    row: list[tuple[list[str], str]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(PAGE.read_text("utf-8")):
        if token.type == "tr_open":
            row = []
        elif token.type == "inline":
            code = [each.content for each in token.children or () if each.type == "code_inline"]
            row.append((code, token.content))
        elif token.type == "tr_close" and len(row) == 2:
            found += [(plain(message), row[1][1]) for message in row[0][0]]
    return tuple(found)


@cache
def code_messages() -> tuple[Message, ...]:
    """Return the messages that need an entry."""
    return tuple(each for each in messages() if letters(plain(each.template)) >= OWN_WORDS)


def test_every_message_has_an_entry() -> None:
    quoted = [entry for entry, _ in entries()]
    lacking = {
        plain(message.template): message
        for message in code_messages()
        if not any(covers(entry, plain(message.template)) for entry in quoted)
    }
    lines = [
        f"{each.where}\n| `{template}` | {each.mend or 'WHAT TO DO'} |"
        for template, each in lacking.items()
    ]
    assert not lines, (
        "add a line to the table of the situation that fits in docs/Trouble.md for each of these "
        "(message | what to do, in words of a person who sees it for the first time):\n"
        + "\n".join(lines)
    )


def test_every_entry_is_a_message_of_the_code() -> None:
    templates = [plain(message.template) for message in code_messages()]
    dead = [entry for entry, _ in entries() if not any(covers(entry, each) for each in templates)]
    assert not dead, (
        f"take these out of docs/Trouble.md, no message of the code is like that: {dead}"
    )


def test_every_entry_says_what_to_do() -> None:
    empty = [entry for entry, mend in entries() if letters(mend) < 4]
    assert not empty, f"docs/Trouble.md says nothing on what to do for {empty}"


def test_no_message_stands_there_twice() -> None:
    quoted = [entry for entry, _ in entries()]
    twice = sorted({entry for entry in quoted if quoted.count(entry) > 1})
    assert not twice, f"docs/Trouble.md has two entries for {twice}"


def test_the_collector_finds_what_is_put_together(tmp_path: Path) -> None:
    source = tmp_path / "sample.py"
    source.write_text(
        "from edgejoule.errors import UsageError, EdgejouleError\n"
        "class Own(EdgejouleError): ...\n"
        "def one(path, n):\n"
        "    raise UsageError(f'{path} has {n} rows of which none is read', 'give ' + 'more')\n"
        "def two(bad):\n"
        "    raise Own('the left one is wrong here' if bad else 'the right one is wrong here')\n"
        "def _wrong(what):\n"
        "    return UsageError(f'file: {what}')\n"
        "def three():\n"
        "    raise _wrong('it ends too early')\n"
        "def four(words):\n"
        "    why = 'nothing can be done about ' + words\n"
        "    raise UsageError(why)\n"
        "def five():\n"
        "    return 'what a function returns', 'and its mend'\n"
        "def six():\n"
        "    raise UsageError(*five())\n"
        "def seven():\n"
        "    raise ValueError('is not shown to a user as one line')\n"
        "def eight():\n"
        "    Check('fan', 'ok', 'turns well now')\n"
        "    return Check('disk', 'blocks', 'there is no room left', 'free some')\n",
        "utf-8",
    )
    base = PAGE.parent.parent / "edgejoule" / "errors.py"
    found = {each.template: each.mend for each in messages([base, source])}
    assert found == {
        "... has ... rows of which none is read": "give more",
        "the left one is wrong here": "",
        "the right one is wrong here": "",
        "file: it ends too early": "",
        "nothing can be done about ...": "",
        "what a function returns": "and its mend",
        "there is no room left": "free some",
    }


@pytest.mark.parametrize(
    ("entry", "template", "expected"),
    [
        ("... is no dataset", "... is no dataset", True),
        ("... is no dataset", "... is no dataset: it holds ...", False),
        ("--engine ... is damaged...", "--engine ... is damaged: its header was changed", False),
        (
            "--engine ... is damaged: its header ...",
            "--engine ... is damaged: its header was changed",
            True,
        ),
        ("...", "anything at all", False),
    ],
)
def test_what_an_entry_covers(entry: str, template: str, expected: bool) -> None:
    assert covers(entry, template) is expected
