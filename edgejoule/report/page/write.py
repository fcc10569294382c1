"""The page: one HTML file with everything in it, which opens from disk and asks nobody anything.

    runs, overviews -> figures, blocks, tables -> page.html (jinja2, everything escaped)
                                                    |-- style.css, the page's scripts
                                                    |-- plotly's script, from the installed package
                                                    `-- per run: figures and layers as JSON

A policy in the page itself forbids the browser to fetch anything and to run any script but these:
each is named by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule import __version__
from edgejoule.errors import MeasurementError
from edgejoule.report.markdown import reading_guide
from edgejoule.report.overview import Overview
from edgejoule.report.page.overview_table import overview_table
from edgejoule.report.page.packed import packed
from edgejoule.report.page.prose import html
from edgejoule.report.page.run_page import drawn, run_page
from edgejoule.report.page.values import embedded, plain
from edgejoule.report.repeats import repeats_section
from edgejoule.report.text import printable

if TYPE_CHECKING:
    from markupsafe import Markup

    from edgejoule.report.write import Gathered

# Figures come rounded, times to a fraction of a pixel of the whole run: five would move points.
FIGURE_DIGITS = 8
# In this order: each may use what those before it define.
SCRIPTS = ("tables.js", "figures.js", "pages.js")


def page_text(name: str, found: Gathered, made: str) -> str:
    """Return the whole page.

    Args:
        name: The dataset's name, foreign text.
        found: Its runs, gathered with `series=True` for figures over time.
        made: When, for people.
    """
    from edgejoule.report.figures.dataset_figures import dataset_figures
    from edgejoule.report.figures.run_figures import run_figures

    by_name = {one.run: one for one in found.overviews}
    across = dataset_figures(found.overviews)
    pages = [run_page(run, by_name.get(run.name), run_figures(run)) for run in found.runs]
    # Plotly comes late: the page can be read while a browser still takes its megabytes in.
    scripts = [_read("theme.js"), "\n".join(map(_read, SCRIPTS)), _plotly(), "setUpFigures();"]
    text = (
        _environment()
        .get_template("page.html")
        .render(
            name=name,
            made=made,
            version=__version__,
            banners=banners(found.overviews, len(found.damaged)),
            table=overview_table(found.overviews, [run.name for run in found.runs]),
            across=across,
            repeats=html("\n".join(repeats_section(found.runs)[2:])),
            guide=html("\n\n".join(reading_guide(found.runs) if found.runs else ())),
            damaged=[(run, why.split(f"{run}: ", 1)[-1]) for run, why in found.damaged],
            unfinished=found.unfinished,
            pages=pages,
            data=[
                _trusted(embedded(packed(plain(one, FIGURE_DIGITS)), FIGURE_DIGITS))
                for one in ({"figures": drawn(across)}, *(page.embedded for page in pages))
            ],
            style=_trusted(_read("style.css")),
            scripts=[_trusted(script) for script in scripts],
            licence=_trusted(_read("plotly-licence.txt").strip()),
            policy=policy(scripts),
        )
    )
    return str(text)


def banners(overviews: Sequence[Overview], damaged: int) -> list[tuple[str, str]]:
    """Return kind and words of what must be seen before any figure.

    The kind is `mark` for what is unreal and `fault` for what is broken.
    """
    total = len(overviews)

    def of(count: int) -> str:
        if count == total:
            return "All runs" if total > 1 else "The run"
        return f"{count} of {total} runs"

    def have(mark: str) -> int:
        return sum(mark in one.marks for one in overviews)

    simulated = sum(one.simulated for one in overviews)
    found = []
    if simulated:
        found.append(
            ("mark", f"SIMULATED. {of(simulated)}: power and energy are made up, not measured.")
        )
    for mark, words in (
        ("random weights", "Random weights. {}: the network was never trained."),
        ("user's weights", "User's weights. {}."),
        ("shared GPU", "Shared GPU. {}: somebody else used it as well."),
    ):
        if have(mark):
            found.append(("mark", words.format(of(have(mark)))))
    broken = sum(one.verdict == "broken" for one in overviews)
    if broken:
        found.append(("fault", f"Broken. {of(broken)}: incomplete, failed, or a part is missing."))
    if damaged:
        several = "director" + ("y" if damaged == 1 else "ies")
        found.append(("fault", f"Not readable. {damaged} {several}, named below."))
    return found


def policy(scripts: Sequence[str]) -> str:
    """Return the content policy: nothing is fetched, only these scripts run.

    Style attributes are allowed, since plotly sets them; images are what a figure is turned into
    when it is saved. The hash is of the script as a browser reads it, with plain line ends.
    """
    hashes = [hashlib.sha256(text.encode("utf-8")).digest() for text in scripts]
    named = " ".join(f"'sha256-{base64.b64encode(one).decode('ascii')}'" for one in hashes)
    return (
        f"default-src 'none'; script-src {named}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    text = str(get_plotlyjs()).replace("\r\n", "\n").replace("\r", "\n")
    if re.search(r"</script|<!--", text, re.IGNORECASE):
        # No version has had this; one that does would end its element too early.
        raise MeasurementError("the installed plotly's script cannot stand in a page")
    return text


def _read(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _trusted(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 - this project's files, plotly's script, JSON made for it


def _environment() -> Any:
    """Return jinja's environment: all that is not `Markup` is made printable, then escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    def shown(value: Any) -> Any:
        return (
            printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
        )

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
