"""Fill the page's template: a report as one self-contained HTML file.

Style and script stand in ``page.css`` and ``page.js`` beside the template, and are copied into the page. A policy in
its head allows these two by their hashes and images within the page, and nothing else: no other script, no network.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ovis.experiments.reporting.page.content import ABSENT, Page
from ovis.experiments.reporting.verdict import ClaimStatus, ClaimVerdict, count_verdicts
from ovis.experiments.runs.atomic import write_text

__all__ = ["FILE", "render_page", "write_page"]

#: The page's name in the report's folder.
FILE = "index.html"

HERE = Path(__file__).parent

#: Pixels of a figure per CSS pixel; figures have the resolution of print.
DENSITY = 2

#: The sign of a verdict, and its class in the style sheet.
SIGNS = {ClaimStatus.HOLDS: ("✓", "holds"), ClaimStatus.FAILS: ("✗", "fails"), ClaimStatus.OPEN: ("?", "open")}

#: Control characters, which HTML does not allow, not even escaped.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def write_page(folder: Path, page: Page) -> Path:
    """Write ``index.html`` atomically: a reader sees the old page or the new one.

    Args:
        folder: of the report; the figures' PNGs are there.
        page: what to show.

    Returns:
        the file.
    """
    path = folder / FILE
    write_text(path, render_page(page, folder), durable=False)
    return path


def render_page(page: Page, folder: Path) -> str:
    """The page as HTML; equal data give equal text.

    Args:
        page: what to show.
        folder: where the figures' PNGs are.

    Raises:
        OSError, ValueError: a figure can't be read, or is no PNG.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(count_verdicts=count_verdicts, number_tables=_number_tables)
    environment.globals.update(ABSENT=ABSENT, signs=SIGNS)
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return environment.get_template("page.html.j2").render(
        page=page,
        figures=[(figure, _read_image(folder / f"{figure.name}.png")) for figure in page.figures],
        style=style,
        script=script,
        policy=_policy(style, script),
    )


def _printable(value: object) -> object:
    """Replace control characters and lone surrogates, which HTML does not allow; applied to all inserted text."""
    if type(value) is not str:  # numbers, and markup of the template's own
        return value
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", value.encode("utf-8", "replace").decode("utf-8"))


@dataclass(frozen=True)
class _Image:
    """A PNG as a data URL, and its size in CSS pixels, so that the page does not jump while it loads."""

    source: str
    width: int
    height: int


def _read_image(path: Path) -> _Image:
    data = path.read_bytes()
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 24:
        raise ValueError(f"{path}: no PNG, which a page can show")
    width, height = struct.unpack(">II", data[16:24])
    source = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
    return _Image(source, width // DENSITY, height // DENSITY)


def _number_tables(verdict: ClaimVerdict) -> list[tuple[str, list[str], list[tuple[str, list[str]]]]]:
    """Our numbers behind a verdict: heading, columns (each K) and rows (name of an estimator, its texts)."""
    tables = []
    there = [cell for cell in verdict.cells if cell.count]
    for heading in _unique(cell.heading for cell in there):
        texts = {(cell.who, cell.at): cell.text for cell in there if cell.heading == heading}
        columns = _unique(at for _, at in texts)
        rows = [(who, [texts.get((who, at), ABSENT) for at in columns]) for who in _unique(w for w, _ in texts)]
        tables.append((heading, columns, rows))
    return tables


def _unique(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


def _policy(style: str, script: str) -> str:
    """The content security policy of the page."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
