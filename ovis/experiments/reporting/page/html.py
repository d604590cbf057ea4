"""Pieces of HTML: everything that comes from runs goes through :func:`escape`, here and nowhere else."""

from __future__ import annotations

import html
import numbers
import re
from collections.abc import Iterable, Sequence

from ovis.experiments.reporting.figures.series import value_text
from ovis.experiments.reporting.page.content import Column, Table

__all__ = ["ABSENT", "definitions", "element", "escape", "section", "sortable_table"]

#: What a cell says where there is nothing.
ABSENT = "–"

#: Control characters, which HTML does not allow, not even escaped.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def escape(text: object) -> str:
    """Text that is shown as it is, whatever it holds; also in an attribute between double quotes."""
    plain = str(text).encode("utf-8", "replace").decode("utf-8")  # a lone surrogate is no text
    return html.escape(CONTROL.sub("\N{REPLACEMENT CHARACTER}", plain), quote=True)


def element(tag: str, content: str, **attributes: str | bool) -> str:
    """``<tag name="value">content</tag>``; attributes are escaped here, the content must be."""
    parts = [
        f" {name.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(value)}"')
        for name, value in attributes.items()
        if value is not False
    ]
    return f"<{tag}{''.join(parts)}>{content}</{tag}>"


def section(id: str, title: str, *parts: str) -> str:
    """A section under a heading; empty where it holds nothing."""
    content = "\n".join(part for part in parts if part)
    if not content:
        return ""
    heading = element("h2", escape(title), id=f"{id}-title")
    return element("section", f"\n{heading}\n{content}\n", id=id, aria_labelledby=f"{id}-title")


def definitions(rows: Iterable[tuple[str, str]]) -> str:
    """A list of names with their values; empty where there are none."""
    items = "".join(element("div", element("dt", escape(name)) + element("dd", escape(value))) for name, value in rows)
    return element("dl", items) if items else ""


def sortable_table(table: Table, id: str) -> str:
    """A table that ``page.js`` sorts and filters; without it, a table."""
    heads = "".join(_head(column) for column in table.columns)
    body = "\n".join(_row(row, table.columns) for row in _records(table))
    caption = element("caption", element("span", escape(table.caption)))  # the span stays in sight
    inner = f"{caption}\n<thead>{element('tr', heads)}</thead>\n<tbody>\n{body}\n</tbody>"
    box = element("div", element("table", inner), class_="scroll", tabindex="0", role="region", aria_label=table.title)
    return element("div", _filters(table, id) + box, class_="sortable", data_things=table.things)


def _records(table: Table) -> list[list[object]]:
    """The cells of each row, in the order of the columns."""
    columns = [table.rows[column.name].tolist() for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def _head(column: Column) -> str:
    """A heading that is a button: it can be reached and pressed by keyboard."""
    button = element("button", escape(column.heading), type="button")
    return element("th", button, scope="col", aria_sort="none", class_="measured" if column.digits else False)


def _row(cells: Sequence[object], columns: Sequence[Column]) -> str:
    first, *rest = (_cell(cell, column, i == 0) for i, (cell, column) in enumerate(zip(cells, columns, strict=True)))
    return element("tr", first + "".join(rest))


def _cell(value: object, column: Column, first: bool) -> str:
    tag, scope = ("th", "row") if first else ("td", False)
    if value is None:
        return element(tag, ABSENT, scope=scope, data_value="")
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return element(tag, escape(_shown(value)), scope=scope)
    text = format(float(value), column.digits) if column.digits else _shown(value)
    return element(tag, escape(text), scope=scope, class_="number", data_value=repr(float(value)))


def _shown(value: object) -> str:
    """A setting's value: what is empty shows that it is."""
    return value_text(value) or ABSENT


def _filters(table: Table, id: str) -> str:
    """Fields that narrow the table, each with its label; hidden until a script can answer them."""
    search = f'<input type="search" id="{escape(id)}-search" autocomplete="off">'
    fields = [_labelled("Search", search, f"{id}-search")]
    for place, column in enumerate(table.columns):
        if column.choices:
            name = f"{id}-{place}"
            options = element("option", "all", value="")
            options += "".join(element("option", escape(text), value=text) for text in _choices(table, column))
            select = element("select", options, id=name, data_column=str(place))
            fields.append(_labelled(column.heading, select, name))
    count = element("p", f"{len(table.rows)} {escape(table.things)}", role="status", class_="count")
    reset = element("button", "Show all", type="reset")
    return element("form", "".join(fields) + reset + count, class_="filters", hidden=True)


def _labelled(text: str, field: str, id: str) -> str:
    return element("div", element("label", escape(text), for_=id) + field)


def _choices(table: Table, column: Column) -> list[str]:
    """What the cells of a column say, each once, numbers by their size."""
    values = [value for value in table.rows[column.name].tolist() if value is not None]
    numeric = all(isinstance(value, numbers.Real) for value in values)
    order = sorted(set(values)) if numeric else list(dict.fromkeys(values))
    return list(dict.fromkeys(map(_shown, order)))
