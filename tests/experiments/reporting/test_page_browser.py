"""The page in a real browser: no complaint in its console, tables that sort and filter, phones, the dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Tab, find_chromium, start_chromium
from matplotlib.figure import Figure
from synthetic_runs import METRIC, Folder

from ovis.experiments.reporting.data.read import read_experiment
from ovis.experiments.reporting.figures.save_figure import ReportFigure
from ovis.experiments.reporting.metrics import parse_pivot
from ovis.experiments.reporting.page.render import write_page
from ovis.experiments.reporting.page.runs_table import experiment_page
from ovis.experiments.reporting.verdict import Cell, Claim, ClaimStatus, ClaimVerdict

CHROMIUM = find_chromium()

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

EVIL = "<script>document.title = 'taken over'</script>"

SNR = "train:grads/snr"

#: Width of the narrow figure in CSS pixels.
NARROW = 420

#: Values in an order that no column has; the last one is missing.
VALUES = (-2.0, -10.0, -9.0, 0.5)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    assert CHROMIUM is not None
    with start_chromium(CHROMIUM, tmp_path_factory.mktemp("browser") / "profile") as tab:
        yield tab


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of eight runs with a wide figure and a verdict of each kind."""
    root = tmp_path_factory.mktemp("page")
    folder = Folder(root / "runs" / "demo")
    folder.path.mkdir(parents=True)
    for seed, value in enumerate(VALUES, start=1):
        folder.add("vimco", {METRIC: [value], SNR: [abs(value)]}, seed, iw=10 ** (seed - 1))
        folder.add("ovis-gamma1", {METRIC: [value / 10]}, seed, "exception", EVIL, iw=5, id="<b>" + "x" * 80)
    figure = Figure(figsize=(12, 3))
    figure.subplots(1, 4)
    drawn = ReportFigure("wide", "A wide figure", "Four empty panels.", figure)
    narrow = ReportFigure("narrow", "A narrow figure", "Nothing.", Figure(figsize=(NARROW / 100, 3)))
    for item in (drawn, narrow):
        item.save(root)
    claim = Claim("a-claim", "Figure 1", "A statement that takes more than a phone's width to say. " * 3, "Figure 1")
    cells = tuple(Cell("best bound", f"K = {k}", "OVIS-MC (S=10)", "-100.00 ± 0.01", 3) for k in range(8))
    verdicts = [ClaimVerdict(claim, status, cells, "open: " + "word" * 30, "seeds") for status in ClaimStatus]
    pivots = [parse_pivot(f"max:{METRIC}"), parse_pivot(f"last:{SNR}")]
    experiment = read_experiment(folder.path)
    command = "python report.py --exp=demo --keys=" + "estimator," * 40
    return write_page(
        root, experiment_page(experiment, folder.path, pivots, [drawn, narrow], verdicts, command=command)
    )


def column(tab: Tab, heading: str) -> list[str]:
    """What the rows in sight say under a heading, from top to bottom."""
    script = f"""(() => {{
        const table = document.querySelector(".sortable table");
        const heads = Array.from(table.tHead.rows[0].cells, (cell) => cell.textContent);
        const rows = Array.from(table.tBodies[0].rows).filter((row) => row.offsetParent !== null);
        return rows.map((row) => row.cells[heads.findIndex((head) => head.startsWith({heading!r}))].textContent);
    }})()"""
    return list(tab.evaluate(script))


def focus(tab: Tab, selector: str, text: str = "") -> None:
    """Put the focus on the first element of this kind that holds the text."""
    script = f"""Array.from(document.querySelectorAll({selector!r}))
        .find((item) => item.textContent.startsWith({text!r})).focus()"""
    tab.evaluate(script)


def choose(tab: Tab, label: str, value: str) -> None:
    """Set the field of this label, as a person's choice would."""
    script = f"""(() => {{
        const label = Array.from(document.querySelectorAll("label")).find((item) => item.textContent === {label!r});
        const field = document.getElementById(label.htmlFor);
        field.value = {value!r};
        field.dispatchEvent(new Event("input", {{ bubbles: true }}));
    }})()"""
    tab.evaluate(script)


def test_it_opens_without_a_complaint_and_asks_for_nothing(tab: Tab, page: Path) -> None:
    tab.open(page)
    assert tab.complaints == []
    assert tab.requests == [page.as_uri()]
    assert tab.evaluate("document.title") == "demo"
    images = tab.evaluate("Array.from(document.images, (image) => [image.alt, image.naturalWidth, image.complete])")
    assert images == [["Four empty panels.", 2400, True], ["Nothing.", 2 * NARROW, True]]


def test_another_script_would_not_run(tab: Tab, page: Path) -> None:
    """What the policy is for: even if something of a run became HTML, it would be refused, and complained about."""
    broken = page.with_name("broken.html")
    broken.write_text(page.read_text().replace("</main>", f"{EVIL}</main>"))
    tab.open(broken)
    assert tab.evaluate("document.title") == "demo"
    assert "Content Security Policy" in " ".join(tab.complaints)


def test_headings_sort_by_keyboard(tab: Tab, page: Path) -> None:
    """Numbers as numbers, up, then down; what is missing stays last; the heading says what was done."""
    tab.open(page)
    assert column(tab, "K") == ["5", "5", "5", "5", "1", "10", "100", "1000"]
    focus(tab, ".sortable th button", "K")
    tab.press("Enter", 13, "\r")
    assert column(tab, "K") == ["1", "5", "5", "5", "5", "10", "100", "1000"]
    assert tab.evaluate("document.querySelector('[aria-sort=ascending]').textContent") == "K"
    tab.press(" ", 32, " ")
    assert column(tab, "K") == ["1000", "100", "10", "5", "5", "5", "5", "1"]
    assert tab.evaluate("document.querySelectorAll('[aria-sort=descending]').length") == 1
    focus(tab, ".sortable th button", "final train SNR")
    tab.press("Enter", 13, "\r")
    assert column(tab, "final train SNR") == ["0.5000", "2.0000", "9.0000", "10.0000", *"––––"]
    tab.press("Enter", 13, "\r")
    assert column(tab, "final train SNR") == ["10.0000", "9.0000", "2.0000", "0.5000", *"––––"]
    focus(tab, ".sortable th button", "estimator")
    tab.press("Enter", 13, "\r")
    assert column(tab, "estimator") == ["OVIS~ (γ=1)"] * 4 + ["VIMCO"] * 4
    assert tab.evaluate("document.querySelectorAll('[aria-sort=ascending], [aria-sort=descending]').length") == 1


def test_rows_are_filtered(tab: Tab, page: Path) -> None:
    tab.open(page)
    count = "document.querySelector('.count').textContent"
    assert tab.evaluate(count) == "8 runs"
    choose(tab, "estimator", "VIMCO")
    assert (column(tab, "K"), tab.evaluate(count)) == (["1", "10", "100", "1000"], "4 of 8 runs")
    choose(tab, "seed", "2")
    assert (column(tab, "K"), tab.evaluate(count)) == (["10"], "1 of 8 runs")
    choose(tab, "estimator", "")
    assert column(tab, "state") == ["failed", "done"]
    focus(tab, "input")
    tab.write("DONE vimco")
    assert column(tab, "state") == ["done"]
    tab.write(" nobody")
    assert (column(tab, "state"), tab.evaluate(count)) == ([], "0 of 8 runs")
    focus(tab, "button", "Show all")
    tab.press("Enter", 13, "\r")
    tab.evaluate("new Promise((done) => setTimeout(done, 50))")
    assert (len(column(tab, "state")), tab.evaluate(count)) == (8, "8 runs")


def test_filters_hold_while_sorting(tab: Tab, page: Path) -> None:
    tab.open(page)
    choose(tab, "estimator", "VIMCO")
    focus(tab, ".sortable th button", "best test")
    tab.press("Enter", 13, "\r")
    assert column(tab, "best test") == ["-10.00", "-9.00", "-2.00", "0.50"]


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_no_width_makes_the_page_scroll_sideways(tab: Tab, page: Path, width: int) -> None:
    """Wide things (figures, tables) scroll in their boxes; text is as wide as the window."""
    tab.open(page, width=width, height=812)
    tab.evaluate("document.querySelectorAll('details').forEach((item) => { item.open = true; })")
    outside = """Array.from(document.querySelectorAll("main *")).filter((item) => !item.closest(".scroll"))
        .filter((item) => item.getBoundingClientRect().right > document.documentElement.clientWidth)
        .map((item) => item.outerHTML.slice(0, 80))"""
    assert tab.evaluate(outside) == []
    assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    wide = tab.evaluate("document.querySelector('figure img').clientWidth")
    assert wide > 700 if width < 700 else wide <= width


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_no_figure_is_blown_up(tab: Tab, page: Path, width: int) -> None:
    """A figure that fits a phone is not made wider than the phone."""
    tab.open(page, width=width, height=812)
    size = "(image) => [image.clientWidth, +image.getAttribute('width')]"
    sizes = tab.evaluate(f"Array.from(document.querySelectorAll('figure img'), {size})")
    assert [drawn for _, drawn in sizes] == [1200, NARROW]
    assert all(shown <= drawn for shown, drawn in sizes)


def luminance(color: str) -> float:
    """Relative luminance of ``rgb(r, g, b)`` (WCAG 2)."""
    parts = [int(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_both_schemes_and_figures_stay_on_white(tab: Tab, page: Path, dark: bool) -> None:
    tab.open(page, dark=dark)
    script = "(s, name) => getComputedStyle(document.querySelector(s))[name]"
    background = tab.evaluate(f"({script})('body', 'backgroundColor')")
    assert (luminance(background) < 0.05) is dark
    for selector in ("body", ".states", ".holds", ".fails", ".open", ".small", "nav a", "caption", ".filters label"):
        color = tab.evaluate(f"({script})({selector!r}, 'color')")
        light, deep = sorted((luminance(color), luminance(background)), reverse=True)
        assert (light + 0.05) / (deep + 0.05) >= 4.5, selector
    assert tab.evaluate(f"({script})('figure .scroll', 'backgroundColor')") == "rgb(255, 255, 255)"


def test_five_hundred_runs_stay_quick(tab: Tab, tmp_path: Path) -> None:
    """Milliseconds in the page's own clock, with a margin for a busy machine."""
    folder = Folder(tmp_path / "runs" / "demo")
    folder.path.mkdir(parents=True)
    for seed in range(500):
        folder.add("vimco", {METRIC: [-float(seed * 7919 % 500)]}, seed)
    experiment = read_experiment(folder.path)
    tab.open(write_page(tmp_path, experiment_page(experiment, folder.path, [parse_pivot(f"max:{METRIC}")], [])))
    script = """(() => {
        const start = performance.now();
        Array.from(document.querySelectorAll(".sortable th button"), (button) => button.click());
        const search = document.querySelector("input");
        search.value = "seed7";
        search.dispatchEvent(new Event("input", { bubbles: true }));
        document.body.getBoundingClientRect();
        return performance.now() - start;
    })()"""
    assert tab.evaluate(script) < 5000
    assert len(column(tab, "seed")) == 11
