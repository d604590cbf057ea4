"""The page as text: everything is there, everything is escaped, nothing is fetched, half a page is never seen."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64decode, b64encode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from synthetic_runs import METRIC, Folder

from ovis.experiments.reporting.data.read import read_experiment
from ovis.experiments.reporting.figures.save_figure import ReportFigure
from ovis.experiments.reporting.metrics import parse_pivot
from ovis.experiments.reporting.page import render as page_module
from ovis.experiments.reporting.page.content import Column, Page, Problem, Provenance, Setting, Table
from ovis.experiments.reporting.page.provenance import read_provenance
from ovis.experiments.reporting.page.render import render_page, write_page
from ovis.experiments.reporting.page.runs_table import experiment_page, plain_table, run_table
from ovis.experiments.reporting.verdict import Cell, Claim, ClaimStatus, ClaimVerdict, undecided

#: What a name or a message may hold.
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x00\ud800"

#: A PNG of one white pixel.
PIXEL = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP6DwABBQECz6AuzQAAAABJRU5ErkJggg==")

#: Elements that have no end.
VOID = {"meta", "link", "img", "input"}


class Parsed(HTMLParser):
    """A page's elements; refuses tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.stack: list[str] = []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.stack or self.stack[-1] not in ("style", "script"):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join("".join(f" {part} " for part in self.text).split())


def parse(page: Page, folder: Path = Path()) -> Parsed:
    return Parsed(render_page(page, folder))


@pytest.fixture
def drawn(tmp_path: Path) -> ReportFigure:
    (tmp_path / "curves.png").write_bytes(PIXEL)
    return ReportFigure("curves", f"Curves {EVIL}", f"Curves of {EVIL}", Figure())


def evil_page(drawn: ReportFigure) -> Page:
    """Every text of a page is an attack."""
    cell = Cell(EVIL, EVIL, EVIL, EVIL, 3)
    claim = Claim(EVIL, EVIL, EVIL, EVIL, EVIL)
    verdict = ClaimVerdict(claim, ClaimStatus.FAILS, (cell,), EVIL, EVIL, EVIL)
    rows = pd.DataFrame({"a": [EVIL, "b"], "b": [1.5, None]})
    table = Table(EVIL, EVIL, (Column("a", EVIL, choices=True), Column("b", EVIL, ".2f")), rows, EVIL)
    settings = (Setting(EVIL, (EVIL, "1"), EVIL), Setting(EVIL, (EVIL,), "x"), Setting(EVIL, (EVIL,), EVIL))
    return Page(
        title=EVIL,
        description=EVIL,
        states={EVIL: 2},
        read=1,
        problems=(Problem(EVIL, "failed", EVIL), Problem(EVIL, "queued", EVIL)),
        notes=(EVIL,),
        figures=(drawn,),
        verdicts=(verdict, undecided(claim, EVIL, EVIL)),
        tables=(table,),
        provenance=Provenance(settings, ((EVIL, EVIL),)),
        command=EVIL,
    )


def test_nothing_of_the_runs_becomes_html(drawn: ReportFigure, tmp_path: Path) -> None:
    text = render_page(evil_page(drawn), tmp_path)
    parsed = Parsed(text)
    assert len(parsed.all("script")) == 1
    assert [image["alt"] for image in parsed.all("img")] == [escape_and_back(f"Curves of {EVIL}")]
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
    assert "\x00" not in text
    assert text.encode()  # no lone surrogate is left
    assert parsed.words.count("<script>alert(1)</script>") > 30


def escape_and_back(text: str) -> str:
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").replace("\ud800", "?")


def test_text_is_escaped_in_attributes_too(drawn: ReportFigure, tmp_path: Path) -> None:
    figure = ReportFigure(drawn.name, "a", "a\"b'c<d>&\x07", Figure())
    text = render_page(Page("x", figures=(figure,)), tmp_path)
    assert 'alt="a&#34;b&#39;c&lt;d&gt;&amp;\N{REPLACEMENT CHARACTER}"' in text


def test_the_page_fetches_nothing_and_allows_no_other_script(drawn: ReportFigure, tmp_path: Path) -> None:
    text = render_page(evil_page(drawn), tmp_path)
    parsed = Parsed(text)
    sources = [attributes.get("src") or attributes.get("href") or "" for _, attributes in parsed.elements]
    assert {source.partition(",")[0][:10] for source in sources if source and not source.startswith("#")} == {
        "data:",
        "data:image",
    }
    assert not re.search(r"url\(|@import|https?:", text)
    policy = next(meta["content"] for meta in parsed.all("meta") if meta.get("http-equiv")) or ""
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert not [attributes for _, attributes in parsed.elements if "style" in attributes]


def test_tables_are_tables(drawn: ReportFigure, tmp_path: Path) -> None:
    """Captions, scopes, labels: what those need who can't see the page."""
    parsed = parse(evil_page(drawn), tmp_path)
    assert len(parsed.all("caption")) == len(parsed.all("table"))
    assert all(head.get("scope") in ("col", "row") for head in parsed.all("th"))
    ids = {attributes["id"] for tag, attributes in parsed.elements if tag in ("input", "select")}
    assert {label["for"] for label in parsed.all("label")} == ids
    assert len([head for head in parsed.all("th") if head.get("aria-sort") == "none"]) == 2
    named = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(set(named)) == len(named)
    links = {(link.get("href") or "")[1:] for link in parsed.all("a")}
    assert links == {"figures", "claims", "table0", "problems", "configuration"}
    assert links <= set(named)


def test_what_is_empty_is_left_out() -> None:
    parsed = parse(Page("nothing"))
    assert parsed.words.endswith("nothing")
    assert (parsed.all("section"), parsed.all("a")) == ([], [])


def test_verdicts_are_in_words_with_their_numbers(drawn: ReportFigure, tmp_path: Path) -> None:
    claim = Claim("one", "Figure 1", "A is better than B.", "Figure 1, left", "A 1, B 2")
    cells = (Cell("bound", "K = 5", "A", "1.0 ± 0.1", 2), Cell("bound", "K = 10", "B", "2.0", 1))
    verdicts = (
        ClaimVerdict(claim, ClaimStatus.HOLDS, cells, "", "seeds"),
        ClaimVerdict(claim, ClaimStatus.FAILS, (), "not so: A", "seeds"),
    )
    words = parse(Page("x", verdicts=verdicts)).words
    assert "2 claims: 1 holds, 1 does not hold, 0 not enough runs" in words
    assert "✓ holds 1 to 2 seeds A is better than B. published: A 1, B 2 one · Figure 1, left" in words
    assert "bound K = 5 K = 10 A 1.0 ± 0.1 – B – 2.0" in words
    assert "✗ does not hold 0 seeds" in words


@pytest.mark.parametrize("content", [b"", b"<svg/>", b"\x89PNG"])
def test_a_figure_that_is_no_png_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.png: no PNG"):
        render_page(Page("x", figures=(ReportFigure("broken", "a", "b", Figure()),)), tmp_path)


def test_a_page_replaces_the_old_one_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_page(tmp_path, Page("old"))
    assert path == tmp_path / "index.html"
    with pytest.raises(FileNotFoundError):
        write_page(tmp_path, Page("new", figures=(ReportFigure("gone", "a", "b", Figure()),)))
    assert "<title>old</title>" in path.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["index.html"]
    assert render_page(Page("old"), tmp_path) == path.read_text()


def test_the_script_evaluates_nothing() -> None:
    script = (Path(page_module.__file__).parent / "page.js").read_text()
    assert not re.search(r"\beval\b|\bFunction\b|innerHTML|document\.write|</", script)


def test_the_table_of_runs(demo: Folder) -> None:
    demo.add("vimco", {METRIC: [-3.0, -2.5], "train:grads/snr": [0.5, None]}, seed=2, alpha=0.5)
    demo.add("vimco", [-3.5], seed=1, status=None, alpha=0.0)
    demo.add("ovis-gamma1", {METRIC: [-2.0]}, seed=1, status="exception", message=EVIL, alpha=0.0)
    pivots = [parse_pivot(text) for text in (f"max:{METRIC}", "last:train:grads/snr")]
    table = run_table(read_experiment(demo.path), pivots)
    assert [column.heading for column in table.columns] == [
        *("estimator", "K", "seed", "α", "state", "evaluations"),
        *("best test bound L_K (chosen on test) [nats]", "final train SNR", "folder"),
    ]
    rows = table.rows.to_dict("records")
    assert [(row["estimator"], row["seed"], row["state"]) for row in rows] == [
        ("OVIS~ (γ=1)", 1, "failed"),
        ("VIMCO", 1, "unfinished"),
        ("VIMCO", 2, "done"),
    ]
    assert [row[f"max:{METRIC}"] for row in rows] == [-2.0, -3.5, -2.5]
    words = parse(Page("x", tables=(table,))).words
    assert "VIMCO 10 1 0 unfinished 1 -3.50 – " in words
    assert "VIMCO 10 2 0.5 done 2 -2.50 nan " in words


def test_columns_of_few_values_become_filters(demo: Folder) -> None:
    for seed in range(20):
        demo.add(
            "vimco" if seed % 2 else "tvo-part2-config1", [-1.0], seed=seed, id="" if seed < 5 else "b", bs=seed % 3
        )
    table = run_table(read_experiment(demo.path), [])
    assert [column.name for column in table.columns if column.choices] == ["estimator", "id", "bs"]
    parsed = parse(Page("x", tables=(table,)))
    assert [option["value"] for option in parsed.all("option")] == ["", "TVO", "VIMCO", "", "–", "b", "", "0", "1", "2"]


def test_any_table_of_a_report() -> None:
    frame = pd.DataFrame(
        {"estimator": ["vimco-arithmetic", "stl"], "iw": [3, 10], "slope_se": [0.01234567, float("nan")]}
    )
    parsed = parse(Page("x", tables=(plain_table("Slopes", "One row each.", frame),)))
    assert "VIMCO 3 0.01235 STL 10 –" in parsed.words
    assert "slope se" in parsed.words
    frame["q_scale"] = "std"
    table = plain_table("Slopes", "One row each.", frame)
    assert table.caption == "One row each. In all rows: q scale std."
    assert "q_scale" not in [column.name for column in table.columns]


def write_configuration(run: Path, **more: Any) -> None:
    config = json.loads((run / "config.json").read_text())
    config["settings"].update(more.pop("settings", {}))
    (run / "config.json").write_text(json.dumps({**config, **more}))


def test_provenance(demo: Folder) -> None:
    base = {"dataset": "digits", "bs": 32, "grad_key": "", "exp": "demo", "of_tomorrow": 3}
    for iw, host, started in ((100, "a", 100.0), (5, "b", 86_400.0), (20, "a", 0.0)):
        run = demo.add("vimco", [1.0], iw=iw, lr=2e-3, **base)
        write_configuration(run, torch="2.13.0", python="3.11.7", hostname=host, started=started)
    snapshot = {"id": "97", "digest": "97", "commit": "84c5dd291702a6c3", "dirty": True, "diff": "", "version": "0.1.0"}
    ledger = {"runs": {}, "snapshots": {"1": {**snapshot, "time": 0.0, "defaults": {}}}}
    (demo.path / ".db.json").write_text(json.dumps(ledger))
    result = read_provenance(demo.path)
    settings = {setting.name: setting for setting in result.settings}
    assert settings["iw"] == Setting("iw", ("5", "20", "100"), "1")
    assert settings["bs"] == Setting("bs", ("32",), "32")
    assert settings["of_tomorrow"] == Setting("of_tomorrow", ("3",), "")
    assert not {"root", "exp", "device"} & set(settings)
    assert dict(result.environment) == {
        "code": "commit 84c5dd291702 with changes, as of 1970-01-01 00:00 UTC",
        "ovis": "0.1.0",
        "Python": "3.11.7",
        "PyTorch": "2.13.0",
        "device": "cpu",
        "machine": "a (2 runs), b (1 run)",
        "started": "1970-01-01 00:00 UTC to 1970-01-02 00:00 UTC",
    }
    words = parse(Page("x", provenance=result)).words
    assert "Options in which the runs differ option value default iw 5, 20, 100 1" in words
    assert "dataset digits shapes" in words
    assert "5 options at their defaults id – seed 1 lr 0.002 bs 32 grad_key – Environment" in words
    one = read_provenance(demo.path, [run.name])
    assert dict(one.environment)["machine"] == "a"


@pytest.mark.parametrize("content", ["", "[]", '{"settings": 3}', "{", "[" * 100_000])
def test_what_says_nothing_of_itself_is_passed_over(demo: Folder, content: str) -> None:
    run = demo.add("vimco", [1.0])
    (run / "config.json").write_text(content)
    (demo.path / ".db.json").write_text("{broken")
    (demo.path / ".experiment.json").write_text(content)
    assert read_provenance(demo.path) == Provenance()


def test_the_page_of_an_experiment(demo: Folder, drawn: ReportFigure, tmp_path: Path) -> None:
    demo.add("vimco", [-3.0, -2.5], seed=1)
    demo.add("vimco", [-3.0], seed=2, status="exception", message="it broke")
    demo.add("vimco", [], seed=3, status="exception", message="it broke at once")
    (demo.path / "notes").mkdir()
    (demo.path / ".experiment.json").write_text(json.dumps({"description": "which one is best?"}))
    experiment = read_experiment(demo.path)
    page = experiment_page(
        experiment, demo.path, [parse_pivot(f"max:{METRIC}")], [drawn], notes=["a note"], command="c"
    )
    assert [(problem.state, problem.message) for problem in page.problems] == [
        ("failed", "it broke"),
        ("failed", "no evaluation: it broke at once"),
        ("foreign", "no config.json"),
    ]
    words = parse(page, tmp_path).words
    assert "demo which one is best? 2 of 3 runs are shown; 1 done, 2 failed." in words
    assert "failed: no evaluation: it broke at once" in words
    assert "a note" in words
