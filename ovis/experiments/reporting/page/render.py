"""A report as one HTML file that needs nothing else: figures, claims, tables to sort and filter, configuration.

Style and script stand in ``page.css`` and ``page.js`` beside this file, and are copied into the page. A policy in its
head allows these two by their hashes and images within the page, and nothing else: no other script, no network.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from ovis.experiments.reporting.page.content import Page
from ovis.experiments.reporting.page.html import element, escape, section, sortable_table
from ovis.experiments.reporting.page.sections import (
    claims_section,
    figures_section,
    header,
    problems_section,
    provenance_section,
)
from ovis.experiments.runs.atomic import write_text

__all__ = ["FILE", "render_page", "write_page"]

#: The page's name in the report's folder.
FILE = "index.html"

HERE = Path(__file__).parent


def write_page(folder: Path, page: Page) -> Path:
    """Write ``index.html``: whoever looks at it meanwhile sees the old page or the new one.

    Args:
        folder: of the report; it is there.
        page: what to show.

    Returns:
        the file.
    """
    path = folder / FILE
    write_text(path, render_page(page, folder), durable=False)
    return path


def render_page(page: Page, folder: Path) -> str:
    """The page as HTML; the same data make the same text.

    Args:
        page: what to show.
        folder: where the figures' PNGs are.

    Raises:
        OSError, ValueError: a figure can't be read, or is no PNG.
    """
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    sections = [
        figures_section(page.figures, folder),
        claims_section(page.verdicts),
        *(section(f"table{i}", table.title, sortable_table(table, f"table{i}")) for i, table in enumerate(page.tables)),
        problems_section(page.problems),
        provenance_section(page.provenance, page.command),
    ]
    main = "\n".join([header(page), _contents(page), *filter(None, sections)])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(style, script)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(page.title)}</title>
<style>{style}</style>
</head>
<body>
<main>
{main}
</main>
<script>{script}</script>
</body>
</html>
"""


def _contents(page: Page) -> str:
    """Links to the sections that are there."""
    links = [
        ("figures", "Figures", page.figures),
        ("claims", "What the paper says", page.verdicts),
        *((f"table{i}", table.title, True) for i, table in enumerate(page.tables)),
        ("problems", "Failed and missing runs", page.problems),
        ("configuration", "Configuration", page.provenance.settings or page.command),
    ]
    items = [element("a", escape(title), href=f"#{id}") for id, title, there in links if there]
    return element("nav", "".join(items), aria_label="Sections")


def _policy(style: str, script: str) -> str:
    """What a browser is to allow in the page."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
