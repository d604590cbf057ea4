"""The sections of a page, each a function from data to HTML."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from pathlib import Path

from ovis.experiments.reporting.estimates import ClaimStatus
from ovis.experiments.reporting.figures.save_figure import ReportFigure
from ovis.experiments.reporting.page.content import Page, Problem, Provenance, Setting
from ovis.experiments.reporting.page.html import ABSENT, definitions, element, escape, section
from ovis.experiments.reporting.verdict import Cell, ClaimVerdict
from ovis.experiments.reporting.verdict_table import count_verdicts

__all__ = ["claims_section", "figures_section", "header", "problems_section", "provenance_section"]

#: Dots of a figure to a CSS pixel: figures are drawn for paper.
DENSITY = 2

PNG = b"\x89PNG\r\n\x1a\n"

#: A verdict in a sign, for those who skim; the words stand beside it.
SIGNS = {ClaimStatus.HOLDS: ("✓", "holds"), ClaimStatus.FAILS: ("✗", "fails"), ClaimStatus.OPEN: ("?", "open")}

#: Values of a setting that are listed, at most.
LISTED = 12

#: States of runs that are in trouble.
TROUBLE = ("failed", "unreadable", "foreign")


def header(page: Page) -> str:
    """Title, description, and how much of the experiment is there."""
    total = sum(page.states.values())
    parts = [element("h1", escape(page.title))]
    if page.description:
        parts.append(element("p", escape(page.description), class_="lead"))
    if total:
        counts = ", ".join(f"{count} {state}" for state, count in page.states.items())
        read = f"{page.read} of {total} runs are shown; {counts}."
        parts.append(element("p", escape(read), class_="states"))
    if page.notes:
        parts.append(element("ul", "".join(element("li", escape(note)) for note in page.notes), class_="notes"))
    return element("header", "\n".join(parts))


def figures_section(figures: Sequence[ReportFigure], folder: Path) -> str:
    """The figures, in the page itself.

    Raises:
        ValueError: a figure is no PNG.
    """
    return section("figures", "Figures", *(_figure(drawn, folder) for drawn in figures))


def _figure(drawn: ReportFigure, folder: Path) -> str:
    path = folder / f"{drawn.name}.png"
    data = path.read_bytes()
    width, height = _size(data, path)
    source = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
    size = f'width="{width // DENSITY}" height="{height // DENSITY}"'
    image = f'<img src="{source}" alt="{escape(drawn.alt)}" {size}>'
    box = element("div", image, class_="scroll", tabindex="0", role="region", aria_label=drawn.title)
    return element("figure", element("figcaption", escape(drawn.title)) + box)


def _size(data: bytes, path: Path) -> tuple[int, int]:
    """Width and height of a PNG in dots, so that the page does not jump while it loads."""
    if data[:8] != PNG or len(data) < 24:
        raise ValueError(f"{path}: no PNG, which a page can show")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def claims_section(verdicts: Sequence[ClaimVerdict]) -> str:
    """What the paper says and what our runs say."""
    if not verdicts:
        return ""
    rule = (
        "A statement holds where all its comparisons do: the 95 % interval of a difference (paired by seed where two "
        "seeds are the same) lies on its side; it does not hold where one lies on the other side. Otherwise there are "
        "not enough runs. Runs that are not done don't count. ± is the standard error. A smaller variant of an "
        "experiment (-mini, -excerpt) is asked the same; what does not hold there may hold at full size."
    )
    heads = element("tr", "".join(element("th", text, scope="col", role="columnheader") for text in _CLAIM_HEADS))
    body = "\n".join(map(_claim, verdicts))
    caption = element("caption", escape(count_verdicts(verdicts)))
    # Roles are said again, as a table that is laid out as blocks on a phone loses them.
    table = element(
        "table", f"{caption}\n<thead>{heads}</thead>\n<tbody>\n{body}\n</tbody>", class_="claims", role="table"
    )
    return section("claims", "What the paper says", table, element("p", escape(rule), class_="small"))


_CLAIM_HEADS = ("Our runs say", "The paper says", "Our numbers")


def _claim(verdict: ClaimVerdict) -> str:
    sign, name = SIGNS[verdict.status]
    mark = element("span", sign, aria_hidden="true", class_="sign")
    badge = element("span", f"{mark} {escape(verdict.status.value)}", class_=f"badge {name}")
    basis = element("span", escape(verdict.basis), class_="small")
    claim, subject = verdict.claim, f" · {verdict.subject}" if verdict.subject else ""
    where = element("span", escape(f"{claim.id} · {claim.source}{subject}"), class_="small")
    published = element("span", escape(f"published: {claim.published}"), class_="small") if claim.published else ""
    there = [cell for cell in verdict.cells if cell.count]
    ours = "".join(_numbers(heading, there) for heading in dict.fromkeys(cell.heading for cell in there))
    reason = element("span", escape(verdict.reason), class_="small") if verdict.reason else ""
    cells = [
        element("td", badge + basis, role="cell"),
        element("th", escape(claim.statement) + published + where, scope="row", role="rowheader"),
        element("td", ours + reason, role="cell"),
    ]
    return element("tr", "".join(cells), class_="claim", role="row")


def _numbers(heading: str, cells: Sequence[Cell]) -> str:
    """Our numbers under one heading: a row for each estimator, a column for each K."""
    cells = [cell for cell in cells if cell.heading == heading]
    places = list(dict.fromkeys(cell.place for cell in cells))
    texts = {(cell.who, cell.place): cell.text for cell in cells}
    heads = "".join(element("th", escape(place), scope="col") for place in ("", *places))
    head = f"<thead>{element('tr', heads)}</thead>" if any(places) else ""
    rows = []
    for who in dict.fromkeys(cell.who for cell in cells):
        values = "".join(element("td", escape(texts.get((who, place), ABSENT))) for place in places)
        rows.append(element("tr", element("th", escape(who), scope="row") + values))
    body = f"<caption>{escape(heading)}</caption>{head}<tbody>{''.join(rows)}</tbody>"
    return element("div", element("table", body, class_="numbers"), class_="scroll")


def problems_section(problems: Sequence[Problem]) -> str:
    """Runs that failed, with their message; folded away, those that show nothing yet."""
    trouble = [problem for problem in problems if problem.state in TROUBLE]
    waiting = [problem for problem in problems if problem.state not in TROUBLE]
    folded = ""
    if waiting:
        count = f"{len(waiting)} run{'s' if len(waiting) > 1 else ''} with nothing to show yet"
        folded = element("details", element("summary", count) + _problems(waiting))
    return section("problems", "Failed and missing runs", _problems(trouble) if trouble else "", folded)


def _problems(problems: Sequence[Problem]) -> str:
    items = [
        element("li", f"{element('code', escape(p.name))} {escape(p.state)}: {escape(p.message or 'no message')}")
        for p in problems
    ]
    return element("ul", "".join(items), class_="problems")


def provenance_section(provenance: Provenance, command: str) -> str:
    """What was run, and where."""
    shared = [setting for setting in provenance.settings if len(setting.values) == 1]
    differing = [setting for setting in provenance.settings if len(setting.values) > 1]
    chosen = [setting for setting in shared if setting.values[0] != setting.default]
    usual = [setting for setting in shared if setting.values[0] == setting.default]
    parts = [
        _settings_table("Options in which the runs differ", differing),
        _settings_table("Options that all runs share, other than the defaults", chosen),
    ]
    if usual:
        rows = definitions((setting.name, setting.values[0] or ABSENT) for setting in usual)
        parts.append(element("details", element("summary", f"{len(usual)} options at their defaults") + rows))
    if provenance.environment:
        parts += [element("h3", "Environment"), definitions(provenance.environment)]
    if command:
        parts += [element("h3", "Command"), element("pre", element("code", escape(command)))]
    return section("configuration", "Configuration", *parts)


def _settings_table(caption: str, settings: Sequence[Setting]) -> str:
    if not settings:
        return ""
    heads = "".join(element("th", text, scope="col") for text in ("option", "value", "default"))
    rows = []
    for setting in settings:
        values = [value or ABSENT for value in setting.values]
        more = f" and {len(values) - LISTED} more" if len(values) > LISTED else ""
        listed = f"{', '.join(values[:LISTED])}{more}"
        cells = element("td", escape(listed)) + element("td", escape(setting.default or ABSENT))
        rows.append(element("tr", element("th", escape(setting.name), scope="row") + cells))
    body = f"<caption>{escape(caption)}</caption><thead>{element('tr', heads)}</thead><tbody>{''.join(rows)}</tbody>"
    return element("table", body, class_="settings")
