"""Labels, ids and names are drawn and written as text, and the user's matplotlibrc changes no report."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from synthetic_runs import METRIC, Folder, write_run

from ovis.experiments.cli.report import main
from ovis.experiments.reporting.data.aggregate import pivot_table
from ovis.experiments.reporting.data.read import read_experiment
from ovis.experiments.reporting.figures.legend import add_legend
from ovis.experiments.reporting.figures.panels import new_figure
from ovis.experiments.reporting.figures.series import panel_title
from ovis.experiments.reporting.figures.style import STYLE, Look, figure_text, house_style
from ovis.experiments.reporting.metrics import make_metric, parse_pivot
from ovis.experiments.reporting.tables import latex_table

HOSTILE = [
    "Ba$$in",
    "$",
    "$$",
    r"$\frac{$",
    "$a_1$",
    r"\$5 $",
    "under_score",
    "_hidden",
    "100%",
    r"\input{secret}",
    "^~#&{}",
    "L_100",
    "<b>&amp;",
    "naïve Δ√ — «»",
    "$" * 150,
]

#: What a matplotlibrc may say; LaTeX is not installed in most places.
MATPLOTLIBRC = {
    "text.usetex": True,
    "text.parse_math": False,
    "axes.formatter.use_mathtext": True,
    "lines.marker": "x",
    "legend.loc": "lower left",
    "legend.fancybox": False,
    "axes.grid.axis": "x",
    "axes.spines.left": False,
    "font.sans-serif": ["no such font"],
    "figure.dpi": 37,
    "savefig.bbox": "tight",
    "savefig.transparent": True,
    "path.simplify_threshold": 1.0,
}


def width_of(drawn: Text) -> float:
    figure = drawn.get_figure()
    assert figure is not None
    return float(drawn.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width)


def letters(text: str, like: Text) -> float:
    """The width of a text that is drawn letter by letter."""
    figure = Figure(dpi=like.get_figure().dpi)
    return width_of(figure.text(0, 0, text, parse_math=False, fontproperties=like.get_fontproperties()))


def hostile_experiment(demo: Folder) -> None:
    """A run for each of the texts as its id, with a metric of an unknown name."""
    for place, text in enumerate(HOSTILE):
        values = {METRIC: -90.0 + place, "train:loss/L_k": -90.0, "a$b:my_$metric$": 1.0}
        settings = {"estimator": "vimco", "iw": 5 + place % 2, "seed": 1, "id": text, "dataset": "digits"}
        lines = [{"step": step, "time": 1.0, "epoch": 1.0, **values} for step in (100, 200)]
        write_run(demo.path / f"run{place}", settings, lines)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_is_drawn_letter_by_letter(text: str) -> None:
    with house_style():
        figure = new_figure(5.0, 3.0)
        axis = figure.subplots()
        axis.set_title(panel_title("dataset", text))
        axis.set_ylabel(make_metric(text).label)
        legend = add_legend(figure, [Look(text, "#000000", (0, ()), "o")], f"one seed; no finite value: {text[:40]}")
        assert len(legend.get_texts()) == 1
        for drawn, plain in ((legend.get_texts()[0], text), (axis.title, text)):
            assert width_of(drawn) == letters(plain, drawn)
        assert width_of(legend.get_title()) == max(
            letters(line.replace(r"\$", "$"), legend.get_title()) for line in legend.get_title().get_text().split("\n")
        )
        figure.canvas.draw()


def test_formulas_of_our_own_are_typeset_beside_hostile_text() -> None:
    with house_style():
        figure = Figure()
        mixed = figure.text(0, 0, make_metric("te$t:loss/L_k").label)
        whole = figure.text(0, 0, r"$\log\,p(x)$ bound $L_{K}$, te\$t [nats]")
        assert width_of(mixed) == width_of(whole) < letters(mixed.get_text(), mixed)


@pytest.mark.slow
def test_a_report_of_hostile_ids(demo: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile_experiment(demo)
    options = ["--exp=demo", f"--root={demo.root}", f"--output={tmp_path}", "--latex", "--keys=id,iw"]
    metrics = [f"--metrics={METRIC},a$b:my_$metric$", f"--pivot_metrics=max:{METRIC},last:a$b:my_$metric$"]
    assert main([*options, *metrics, f"--detailed_metrics={METRIC}"]) == 0
    folder = tmp_path / "demo"
    for name in ("pivots", "curves", "detailed"):
        assert (folder / f"{name}.png").stat().st_size > 0
        assert (folder / f"{name}.pdf").stat().st_size > 0
    assert sorted(pd.read_csv(folder / "pivot.csv")["id"]) == sorted(HOSTILE)
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;&amp;amp;" in page
    assert "<b>&amp;" not in page
    assert "Warning" not in capsys.readouterr().err


@pytest.mark.usefixtures("saved")
def test_a_hostile_data_set_stays_in_the_folder_of_the_report(demo: Folder, tmp_path: Path) -> None:
    for dataset in ("digits", "../a/b$$"):
        for iw in range(5, 12):
            for name in ("vimco", "rws"):
                demo.add(name, {METRIC: [-90.0, -80.0], "train:loss/L_k": [-90.0, -80.0]}, dataset=dataset, iw=iw)
    options = ["--exp=demo", f"--root={demo.root}", f"--output={tmp_path}", f"--detailed_metrics={METRIC}"]
    assert main([*options, "--keys=dataset,estimator,iw"]) == 0
    figures = {"pivots", "curves-digits", "curves-..%2Fa%2Fb%24%24", "detailed-digits", "detailed-..%2Fa%2Fb%24%24"}
    assert {path.stem for path in (tmp_path / "demo").glob("*.png")} == figures


def test_the_latex_table_escapes_every_special_character(demo: Folder) -> None:
    hostile_experiment(demo)
    table = pivot_table(read_experiment(demo.path), ["id"], [parse_pivot(f"last:{METRIC}")])
    rows = [line.split(" & ")[0] for line in latex_table(table, ["id"]).splitlines() if line.endswith(r"1 \\")]
    assert set(rows) == {
        r"Ba\$\$in",
        r"\$",
        r"\$\$",
        r"\$\textbackslash{}frac\{\$",
        r"\$a\_1\$",
        r"\textbackslash{}\$5 \$",
        r"under\_score",
        r"\_hidden",
        r"100\%",
        r"\textbackslash{}input\{secret\}",
        r"\textasciicircum{}$\sim$\#\&\{\}",
        r"L\_100",
        r"<b>\&amp;",
        "naïve Δ√ — «»",
        r"\$" * 150,
    }


@pytest.mark.slow
def test_the_style_does_not_depend_on_the_users(demo: Folder, tmp_path: Path) -> None:
    demo.add("vimco", {METRIC: [-90.0, -80.0, -75.0], "train:grads/snr": [0.001, 0.1, 3.0]})
    demo.add("rws", {METRIC: [-91.0, -82.0, -70.0], "train:grads/snr": [0.002, 0.2, 2.0]})
    drawn = []
    for rc in ({}, MATPLOTLIBRC):
        output = tmp_path / str(len(rc))
        with matplotlib.rc_context(rc):
            before = dict(matplotlib.rcParams)
            assert main(["--exp=demo", f"--root={demo.root}", f"--output={output}"]) == 0
            assert dict(matplotlib.rcParams) == before
        with Image.open(output / "demo" / "curves.png") as image:
            drawn.append(image.convert("RGB").tobytes())
    assert drawn[0] == drawn[1]
    with matplotlib.rc_context(MATPLOTLIBRC), house_style():
        for name, value in matplotlib.rcParamsDefault.items():
            if name != "backend":
                assert matplotlib.rcParams[name] == matplotlib.RcParams({name: STYLE.get(name, value)})[name], name


def test_a_matplotlibrc_that_asks_for_latex(demo: Folder, tmp_path: Path) -> None:
    """In a process of its own, which reads the file."""
    demo.add("vimco", [-90.0, -80.0])
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.family: serif\n")
    command = [sys.executable, "-m", "ovis", "report", "--exp=demo", f"--root={demo.root}", f"--output={tmp_path}"]
    environment = {**os.environ, "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "PATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "demo" / "curves.png").stat().st_size > 0


def test_figure_text_is_the_text_itself_where_no_dollar_is() -> None:
    assert figure_text(r"K = 5, α_1 \alpha 100%") == r"K = 5, α_1 \alpha 100%"
