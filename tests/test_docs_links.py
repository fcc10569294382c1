"""Every link of the documents leads to a file that git knows, and to a heading that is there."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import unicodedata
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parent.parent
# Promised by name to whoever links to them from elsewhere.
PROMISED = (
    ("docs/JetsonPowerMeasurement.md", ""),
    ("docs/DeepDive.md", "power-measurement-and-logging"),
    ("docs/DeepDive.md", "tensorrt-runtime-profiling"),
    ("docs/ExperimentScripts.md", "data-collection-script-on-jetson"),
    ("docs/DatasetFormats.md", "raw-dataset-format"),
    ("docs/TorchTensorRT.md", ""),
    ("docs/EnergyAttribution.md", ""),
    ("docs/Boards.md", ""),
    ("docs/Trouble.md", ""),
    ("docs/Extending.md", "a-board"),
    ("docs/Extending.md", "a-sensor"),
    ("docs/Extending.md", "a-backend"),
    ("docs/Extending.md", "a-model"),
)
PICTURES = ("assets/processes.svg", "assets/sensor_to_joule.svg")


@dataclass(frozen=True)
class Link:
    """A link or picture of a page: where it stands and what it names, as written."""

    page: str
    target: str
    picture: bool = False


@cache
def known_files() -> frozenset[str]:
    """Return the paths that git knows, relative to the project's folder."""
    said = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    return frozenset(path for path in said.stdout.split("\0") if path)


@cache
def pages() -> tuple[str, ...]:
    """Return the documents: at the root, in docs/ and in examples/."""
    patterns = (r"[^/]+\.md", r"docs/[^/]+\.md", r"examples/[^/]+\.(md|ipynb)")
    return tuple(sorted(p for p in known_files() if any(re.fullmatch(x, p) for x in patterns)))


def text_of(page: str) -> str:
    """Return a page's Markdown; of a notebook that of its cells."""
    text = (ROOT / page).read_text("utf-8")
    if not page.endswith(".ipynb"):
        return text
    cells = [
        cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"
    ]
    return "\n\n".join(cell if isinstance(cell, str) else "".join(cell) for cell in cells)


@cache
def tokens(page: str) -> tuple[Token, ...]:
    """Return a page's tokens; inline ones have theirs as children."""
    return tuple(MarkdownIt("commonmark").enable("table").parse(text_of(page)))


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading, without the number of a second one."""
    kept = [
        letter
        for letter in heading.strip().lower()
        if letter in " -_" or unicodedata.category(letter)[0] in "LN" or _combines(letter)
    ]
    return "".join(kept).replace(" ", "-")


def _combines(letter: str) -> bool:
    return unicodedata.category(letter) in ("Mn", "Mc", "Pc")


def numbered(slugs: list[str]) -> list[str]:
    """Return anchors with -1, -2, ... behind those that a page has already."""
    given: set[str] = set()
    times: Counter[str] = Counter()
    named = []
    for one in slugs:
        name = one
        while name in given:
            times[one] += 1
            name = f"{one}-{times[one]}"
        given.add(name)
        named.append(name)
    return named


def heading_text(inline: Token) -> str:
    """Return what a reader sees of a heading: text and code, not addresses or pictures."""
    shown = ("text", "code_inline", "softbreak")
    return "".join(
        " " if each.type == "softbreak" else each.content
        for each in inline.children or ()
        if each.type in shown
    )


class _Tags(HTMLParser):
    """Links, pictures and anchors of HTML within Markdown."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, bool]] = []
        self.anchors: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.links.append((value, tag == "img"))
            if value and name == "srcset":
                self.links += [(part.split()[0], True) for part in value.split(",")]
            if value and (name == "id" or (name == "name" and tag == "a")):
                self.anchors.append(value)


@cache
def read(page: str) -> tuple[tuple[Link, ...], frozenset[str]]:
    """Return a page's links and its anchors."""
    links: list[Link] = []
    headings: list[str] = []
    html = _Tags()
    before = None
    for token in tokens(page):
        if token.type == "html_block":
            html.feed(token.content)
        if token.type == "inline":
            if before is not None and before.type == "heading_open":
                headings.append(slug(heading_text(token)))
            for each in _flat(token):
                if each.type == "link_open":
                    links.append(Link(page, str(each.attrGet("href") or "")))
                elif each.type == "image":
                    links.append(Link(page, str(each.attrGet("src") or ""), picture=True))
                elif each.type == "html_inline":
                    html.feed(each.content)
        before = token
    links += [Link(page, target, picture) for target, picture in html.links]
    return tuple(links), frozenset([*numbered(headings), *html.anchors])


def _flat(token: Token) -> list[Token]:
    found = []
    for child in token.children or ():
        found += [child, *_flat(child)]
    return found


def file_of(link: Link) -> str | None:
    """Return the path of a relative link, relative to the project's folder; None: it leaves it."""
    path = unquote(urlsplit(link.target).path)
    if not path:
        return link.page
    whole = (ROOT / link.page).parent / path
    resolved = Path(*whole.parts).resolve()
    return resolved.relative_to(ROOT).as_posix() if resolved.is_relative_to(ROOT) else None


def wrong(link: Link) -> str:
    """Return what is wrong with a link, empty if nothing is."""
    parts = urlsplit(link.target)
    if parts.scheme or parts.netloc:
        return wrong_address(link.target)
    if link.target.startswith("/"):
        return "begins with /: on GitHub that is another place than on a disk"
    path = file_of(link)
    if path is None:
        return "leads out of the project"
    known = known_files()
    if path not in known and not any(file.startswith(f"{path}/") for file in known):
        return "git knows no such file"
    if parts.fragment and path.endswith((".md", ".ipynb")):
        anchors = read(path)[1]
        if parts.fragment not in anchors:
            return f"{path} has no heading with this anchor; it has {', '.join(sorted(anchors))}"
    return ""


def wrong_address(address: str) -> str:
    """Return what is wrong with an address of the web; nothing is fetched."""
    parts = urlsplit(address)
    if parts.scheme == "mailto":
        return ""
    if parts.scheme != "https":
        return "is not https"
    if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.hostname or ""):
        return "names no host"
    if parts.username or parts.password or re.search(r"\s", address):
        return "is not well formed"
    ours = {Path(file).name for file in known_files() if Path(file).suffix in (".md", ".svg")}
    # Many projects have these two.
    if Path(parts.path).name in ours - {"README.md", "CHANGELOG.md", "CONTRIBUTING.md"}:
        return "looks like a file of this project: say it relative to the page"
    return ""


@pytest.mark.parametrize("page", pages())
def test_every_link_leads_somewhere(page: str) -> None:
    found = {link.target: why for link in read(page)[0] if (why := wrong(link))}
    assert not found, f"{page}: " + "; ".join(f"{target!r} {why}" for target, why in found.items())


def test_every_page_is_reached_from_the_readme() -> None:
    seen, waiting = {"README.md"}, ["README.md"]
    while waiting:
        page = waiting.pop()
        for link in read(page)[0]:
            if urlsplit(link.target).scheme:
                continue
            path = file_of(link)
            if path in pages() and path not in seen:
                seen.add(path)
                waiting.append(path)
    lost = sorted({page for page in pages() if page.startswith("docs/")} - seen)
    assert not lost, f"no link leads to {lost}: add one in README.md, section 'Where to go next'"


@pytest.mark.parametrize(("page", "anchor"), PROMISED)
def test_what_was_promised_is_there(page: str, anchor: str) -> None:
    assert page in known_files()
    assert not anchor or anchor in read(page)[1]


@pytest.mark.parametrize(
    "picture", sorted(p for p in known_files() if p.startswith("assets/") and not p.endswith("/"))
)
def test_every_picture_is_one_and_is_shown(picture: str) -> None:
    data = (ROOT / picture).read_bytes()
    if picture.endswith(".png"):
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", data[16:24])
        assert width > 0
        assert height > 0
        assert data.endswith(b"IEND\xaeB`\x82")
    else:
        assert picture.endswith(".svg"), "pictures are SVG or PNG"
        check_svg(data)
    shown = {file_of(link) for page in pages() for link in read(page)[0] if link.picture}
    assert picture in shown, f"no page shows {picture}"


def check_svg(data: bytes) -> None:
    """Hold that a picture is SVG of its own: a size, a text for those who cannot see it."""
    root = ET.fromstring(data)
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    assert len([float(number) for number in root.attrib["viewBox"].split()]) == 4
    assert root.find(f"{space}title") is not None, "a picture has a title"
    for each in root.iter():
        assert each.tag != f"{space}script"
        for name, value in each.attrib.items():
            assert not name.startswith("on")
            if name.rpartition("}")[2] == "href":
                assert value.startswith("#"), "a picture fetches nothing"
    assert b"@import" not in data


def test_the_pictures_of_the_documents_are_there() -> None:
    assert set(PICTURES) <= known_files()


def test_pictures_have_a_text_beside_them() -> None:
    for page in pages():
        for token in tokens(page):
            for each in _flat(token):
                if each.type == "image":
                    assert each.content.strip(), f"{page}: {each.attrGet('src')} has no text"


# --- the rules themselves --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("Data collection script on Jetson", "data-collection-script-on-jetson"),
        ("run.json", "runjson"),
        ("measure_power.py watch", "measure_powerpy-watch"),
        ("INA3221: update interval and samples", "ina3221-update-interval-and-samples"),
        ("One's own model", "ones-own-model"),
        ("A - B  C", "a---b--c"),
        ("Zurück, 2 °C", "zurück-2-c"),
    ],
)
def test_anchors_are_githubs(heading: str, expected: str) -> None:
    assert slug(heading) == expected


def test_a_second_heading_of_a_name_is_numbered() -> None:
    assert numbered(["a", "b", "a", "a", "a-1"]) == ["a", "b", "a-1", "a-2", "a-1-1"]


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("https://example.org/a?b=c#d", ""),
        ("http://example.org/", "not https"),
        ("https://example", "no host"),
        ("https://user:secret@example.org/", "well formed"),
        ("https://github.com/somebody/edgejoule/blob/main/docs/Boards.md", "of this project"),
    ],
)
def test_what_an_address_must_be(address: str, why: str) -> None:
    found = wrong_address(address)
    assert why in found
    assert bool(why) == bool(found)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("Boards.md", ""),
        ("Boards.md#the-table", ""),
        ("#no-such-heading", "no heading"),
        ("Boards.md#no-such-heading", "no heading"),
        ("NoSuchPage.md", "git knows no such file"),
        ("../../elsewhere.md", "out of the project"),
        ("/docs/Boards.md", "begins with /"),
        ("../edgejoule/power", ""),
    ],
)
def test_what_a_link_must_be(target: str, why: str) -> None:
    found = wrong(Link("docs/Trouble.md", target))
    assert why in found
    assert bool(why) == bool(found)


def test_links_are_found_where_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "# One `code` [two](Boards.md)\n\n![p](x.svg) `[no](link.md)`\n\n"
        '<a href="y.md" id="here"><img src="z.png"></a>\n\n| [in](table.md) |\n|---|\n| a |\n'
    )
    (tmp_path / "page.md").write_text(text, "utf-8")
    monkeypatch.setattr("tests.test_docs_links.ROOT", tmp_path)
    links, anchors = read.__wrapped__("page.md")
    assert {(link.target, link.picture) for link in links} == {
        ("Boards.md", False),
        ("x.svg", True),
        ("y.md", False),
        ("z.png", True),
        ("table.md", False),
    }
    assert anchors == {"one-code-two", "here"}
