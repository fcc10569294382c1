"""The page as text: whole, self-contained, escaped, the same for the same input."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgejoule.errors import MeasurementError
from edgejoule.report.block import Block, joined
from edgejoule.report.overview import Overview
from edgejoule.report.page import write
from edgejoule.report.page.overview_table import overview_table
from edgejoule.report.page.prose import html
from edgejoule.report.page.values import embedded, plain
from edgejoule.report.page.write import page_text
from edgejoule.report.sections import blocks, section
from edgejoule.report.text import markdown, printable
from edgejoule.report.write import Gathered, gather
from tests.browser.dataset import HOSTILE_LAYERS, HOSTILE_RUN, build_dataset
from tests.support_page import unpacked

VOID = {"meta", "link", "input", "br", "hr", "img"}
MADE = "2026-01-02 03:04 UTC"


class Parsed(HTMLParser):
    """Tags, attributes and texts of a page; elements must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((found, ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def data(self) -> dict[str, Any]:
        def refuse(word: str) -> Any:
            raise AssertionError(f"{word} is no JSON")

        found = {
            attributes["id"]: json.loads(text, parse_constant=refuse)
            for attributes, text in self.scripts
            if attributes.get("type") == "application/json"
        }
        return {key: unpacked(value, value.pop("lists")) for key, value in found.items()}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Gathered:
    return gather(build_dataset(tmp_path_factory.mktemp("page")), series=True)


@pytest.fixture(scope="module")
def text(found: Gathered) -> str:
    return page_text("data <set> & שלום", found, MADE)


@pytest.fixture(scope="module")
def page(text: str) -> Parsed:
    return Parsed(text)


def of_run(text: str, found: Gathered, name: str) -> Parsed:
    """Return one run's part of the page."""
    place = [run.name for run in found.runs].index(name)
    views = text.split("</main>", maxsplit=1)[0].split('<section class="view run"')[1:]
    return Parsed(f'<section class="view run"{views[place]}')


def test_nothing_comes_from_elsewhere(page: Parsed) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "srcset", "poster", "data"):
            if name in attributes:
                assert attributes[name].startswith(("#", "data:,")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert "style" not in attributes, (tag, attributes)
    assert not {"img", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}


def test_only_the_named_scripts_may_run(page: Parsed) -> None:
    (policy,) = (
        attributes["content"]
        for tag, attributes in page.tags
        if tag == "meta" and "http-equiv" in attributes
    )
    assert policy.startswith("default-src 'none';")
    assert "unsafe-eval" not in policy
    assert "http" not in policy
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    scripts = [text for attributes, text in page.scripts if "type" not in attributes]
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert hashes == allowed
    assert "\r" not in "".join(scripts)
    assert len([text for text in scripts if "Licensed under the MIT license" in text]) == 1


def test_ids_are_unique_and_links_lead_somewhere(page: Parsed) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for name in ("aria-labelledby", "href"):
            target = attributes.get(name, "")
            route = re.fullmatch(r"#run=(\d+)(?:/(\w+))?", target)
            if route:
                target = "run-" + "-".join(part for part in route.groups() if part)
            if target and not target.startswith("data:"):
                assert target.removeprefix("#") in ids, attributes
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_hostile_names_are_text(text: str, page: Parsed, found: Gathered) -> None:
    assert " ".join(printable(HOSTILE_RUN).split()) in page.text
    assert "data <set> & שלום" in page.text
    place = [run.name for run in found.runs].index(HOSTILE_RUN)
    layers = page.data()[f"data-{place}"]["layers"]
    names = [column["title"] for column in layers["columns"]].index("layer")
    shown = [row[names] for row in layers["rows"]]
    assert shown == [printable(name) or "(no name)" for name in HOSTILE_LAYERS]
    for name in HOSTILE_LAYERS:
        if "<" in name:
            assert name not in text
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "link", "style", "script", "body", "a", "header", "div",
        "h1", "h2", "h3", "h4", "p", "button", "noscript", "main", "section", "form", "label",
        "input", "select", "option", "output", "table", "thead", "tbody", "tr", "th", "td", "span",
        "bdi", "details", "summary", "ul", "li", "b", "figure", "figcaption", "dl", "dt", "dd",
        "nav", "small", "pre", "code", "em", "strong", "footer",
    }  # fmt: skip
    text.encode("utf-8")  # no half of a surrogate pair


def test_every_part_of_a_run_is_there(text: str, found: Gathered) -> None:
    shown = of_run(text, found, "alexnet--float16")
    for words in (
        "Power and energy", "Power over time", "Phases", "Idle power", "Latency", "Layers by time",
        "Layers by energy", "All layers", "Not resolved, and why", "Modules and operations",
        "Roofline", "Energy of modules", "Energy of operations", "How far to trust it",
        "Duplication check", "Observer effect", "Clocks, temperatures, loads", "The sensor",
        "100 sweeps per second", "3 (0.8 % of the sweeps), at most 31 ms", "1, the longest 41 ms",
        "0.05 s, 1.2 % of one core", "calibration none", "Where it comes from", "To repeat it",
        "Configuration", "energy.parquet", "Orin Nano", "MAXN",
    ):  # fmt: skip
        assert words in shown.text, words
    run = next(run for run in found.runs if run.name == "alexnet--float16")
    assert run.run["config_sha256"] in shown.text
    assert run.run["files"]["power.parquet"]["sha256"] in shown.text


def test_marks_stand_with_the_run_and_in_its_figures(
    text: str, page: Parsed, found: Gathered
) -> None:
    shown = of_run(text, found, HOSTILE_RUN).text
    assert "SIMULATED power; random weights; shared GPU" in shown
    place = [run.name for run in found.runs].index(HOSTILE_RUN)
    figures = page.data()[f"data-{place}"]["figures"]
    assert figures
    for figure in figures:
        assert "SIMULATED" in json.dumps(figure["layout"]), figure["key"]
    assert "SIMULATED. 1 of 7 runs: power and energy are made up, not measured." in page.text
    assert "SIMULATED" not in of_run(text, found, "alexnet--float16").text


def test_what_is_not_there_is_said(text: str, page: Parsed, found: Gathered) -> None:
    power = of_run(text, found, "without-power").text
    assert "Energy: none, no power sensor was read (none <asked> for)." in power
    assert "No power sensor was read." in power
    assert "not recorded" in power
    profile = of_run(text, found, "without-profile").text
    assert "No times of layers were recorded." in profile
    files = of_run(text, found, "without-files").text
    assert "engine.json is missing" in files
    assert "power.parquet cannot be read" in files
    assert "INCOMPLETE" in files
    assert "in-pieces run.json cannot be read" in page.text
    assert "1 cut off: data_version.py recover" in page.text
    assert "NaN" not in page.text
    assert "None" not in page.text


def test_the_page_says_what_the_markdown_says(found: Gathered, text: str) -> None:
    for run in found.runs:
        shown = of_run(text, found, run.name).text
        report = section(run)
        for block in blocks(run):
            assert block.markdown in report
            if block.key in ("sampler", "provenance", "repeat"):
                continue  # shown as tables of their own
            if block.key == "slowest" and not run.layers:
                continue
            words = Parsed(str(html(block.markdown))).text
            assert words in shown, (run.name, block.key)


def test_an_empty_dataset_has_a_page() -> None:
    page = Parsed(page_text("nothing", Gathered((), (), 0, ()), MADE))
    assert "There are no runs in this dataset." in page.text
    assert page.data() == {"data-all": {"figures": []}}


def test_the_same_input_gives_the_same_page(found: Gathered, text: str) -> None:
    assert page_text("data <set> & שלום", found, MADE) == text


@pytest.mark.once("its size does not depend on the version")
def test_twenty_runs_stay_small(found: Gathered) -> None:
    run = next(run for run in found.runs if run.name == "alexnet--float16")
    one = next(one for one in found.overviews if one.run == run.name)
    layers = tuple(replace(run.layers[n % 10], index=n) for n in range(60))
    runs = tuple(replace(run, path=run.path.with_name(f"r{n}"), layers=layers) for n in range(20))
    overviews = tuple(replace(one, run=each.name) for each in runs)
    text = page_text("twenty", Gathered(runs, (), 0, overviews), MADE)
    assert len(text.encode()) < 10e6


def test_plotly_that_would_end_its_element_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import plotly.offline

    monkeypatch.setattr(plotly.offline, "get_plotlyjs", lambda: "x = '</script>'")
    with pytest.raises(MeasurementError, match="cannot stand in a page"):
        write.policy([write._plotly()])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_values_come_back_and_end_nothing(value: Any) -> None:
    text = embedded(value)
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text) == plain(value)


@given(st.floats())
def test_numbers_keep_five_digits(value: float) -> None:
    short = plain(value)
    if math.isfinite(value):
        assert short == pytest.approx(value, rel=6e-5)
    else:
        assert short is None


def test_arrays_are_lists() -> None:
    import numpy as np

    assert plain({"x": np.array([1.234567, np.nan]), "n": np.int64(3)}) == {
        "x": [1.2346, None],
        "n": 3,
    }
    with pytest.raises(TypeError, match="object"):
        plain(object())


@given(st.text(), st.text())
def test_markdown_shows_a_name_as_it_is(name: str, other: str) -> None:
    table = f"| a | b |\n| --- | ---: |\n| {markdown(name)}x | {markdown(other)} |"
    page = Parsed(str(html(table)))
    assert " ".join(printable(name + "x").split()) in page.text
    assert {tag for tag, _ in page.tags} <= {"div", "table", "thead", "tbody", "tr", "th", "td"}


def test_blocks_join_as_one_list() -> None:
    one, two = (Block(key, "", f"- {key}", of_list="l") for key in "ab")
    assert joined([one, two, Block("c", "", "text", lead="lead:")]) == "- a\n- b\n\nlead:\n\ntext"
    assert joined([one, Block("e", "", ""), two]) == "- a\n- b"


def overview(name: str, **fields: Any) -> Overview:
    return Overview(run=name, model=name, **fields)


def test_columns_in_which_all_agree_stand_above_the_table() -> None:
    table = overview_table(
        [overview("a", dtype="float16", board="X"), overview("b", dtype="float32", board="X")],
        ["b", "a"],
    )
    assert ("board", "X") in table.common
    keys = [column.key for column in table.columns]
    assert "board" not in keys
    assert keys[:2] == ["model", "dtype"]
    assert [key for _, key, _ in table.filters] == ["model", "dtype"]
    assert [row.index for row in table.rows] == [1, 0]


def test_simulated_is_said_in_the_heading_or_with_each_figure() -> None:
    made_up = overview("a", simulated=True, gross_mj=5.0, mean_w=1.0)
    measured = overview("b", gross_mj=6.0)
    (gross,) = (
        column for column in overview_table([made_up], ["a"]).columns if column.key == "gross"
    )
    assert (gross.title, gross.mark) == ("gross", "simulated")
    table = overview_table([made_up, measured], ["a", "b"])
    place = [column.key for column in table.columns].index("gross")
    assert table.columns[place].title == "gross"
    assert [row.cells[place].mark for row in table.rows] == ["simulated", ""]
    assert [row.cells[place + 1].mark for row in table.rows] == ["", ""]  # no figure, no mark


def test_energies_of_a_table_have_one_unit() -> None:
    small = overview_table([overview("a", gross_mj=500.0), overview("b", gross_mj=5000.0)], [])
    large = overview_table([overview("a", gross_mj=1500.0), overview("b", gross_mj=5000.0)], [])
    for table, unit, texts in ((small, "mJ", ["500", "5000"]), (large, "J", ["1.5", "5"])):
        place = [column.key for column in table.columns].index("gross")
        assert table.columns[place].unit == unit
        assert [row.cells[place].text for row in table.rows] == texts


def luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_both_themes_have_the_contrast_that_reading_needs() -> None:
    style = (Path(write.__file__).parent / "style.css").read_text(encoding="utf-8")
    themes = re.findall(r"color-scheme: (?:light|dark);([^}]*)}", style.split("@media print")[0])
    assert len(themes) == 3  # light, dark by the system, dark by choice
    assert " ".join(themes[1].split()) == " ".join(themes[2].split())
    for theme in themes[:2]:
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", theme))
        pairs = [
            (ink, on) for ink in ("ink", "muted", "accent") for on in ("paper", "raised", "hover")
        ]
        pairs += [
            (f"{kind}-ink", on) for kind in ("mark", "fault", "sound") for on in (kind, "paper")
        ]
        for ink, on in pairs:
            light, dark = sorted((luminance(colours[ink]), luminance(colours[on])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, on)
