"""report_asymptotic_variance.py from its command line to its files."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from synthetic_draws import power_law, write_draws
from synthetic_runs import Folder

from ovis.experiments.cli.commands import COMMANDS
from ovis.experiments.studies import STUDIES
from ovis.paper.figure1.figure1_cli import main

REPOSITORY = Path(__file__).parents[3]

LAWS = {"iwae": ((0.7, -0.5), (0.02, -1)), "ovis-gamma0": ((0.5, 0.5), (0.06, -3))}
FILES = ("claims.csv", "index.html", "published.csv", "published.md", "slopes.csv", "slopes.md", "statistics.csv")
FIGURES = ("distributions.pdf", "distributions.png", "statistics.pdf", "statistics.png")


@pytest.fixture
def study(tmp_path: Path) -> Folder:
    """An experiment like the mini one, K = 17 in two parts."""
    folder = tmp_path / "runs" / "asymptotic-analysis"
    folder.mkdir(parents=True)
    for k in (3, 17, 100):
        draws = {name: power_law(k, *law, n=200, D=20) for name, law in LAWS.items()}
        if k == 17:
            write_draws(folder, k, {n: d[:100] for n, d in draws.items()}, D=20, part=1, parts=2)
            write_draws(folder, k, {n: d[100:] for n, d in draws.items()}, D=20, first=100, part=2, parts=2)
        else:
            write_draws(folder, k, draws, D=20)
    return Folder(folder)


def run(study: Folder, *options: str) -> int:
    return main(["--root", str(study.root), "--output", str(study.root.parent / "reports"), *options])


def test_files_and_words(study: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(study, "--exp", "asymptotic-variance") == 0  # another name
    folder = study.root.parent / "reports" / "asymptotic-variance"
    assert sorted(path.name for path in folder.iterdir()) == sorted((*FILES, *FIGURES))
    for name in FIGURES:
        content = (folder / name).read_bytes()
        assert content.startswith(b"%PDF" if name.endswith("pdf") else b"\x89PNG")
    printed = capsys.readouterr().out
    assert printed.startswith("read 4 of 4 runs (4 done)\nwrote statistics.csv, ")
    assert (folder / "slopes.md").read_text(encoding="utf-8") in printed
    assert "18 values beside the paper's (published.md): " in printed
    assert printed.splitlines()[-2:] == [str(folder / "distributions.png"), str(folder / "index.html")]
    claims = pd.read_csv(folder / "claims.csv").set_index("id")["verdict"]
    assert claims["snr-dreg"] == "not enough runs"
    assert all(f"{verdict.upper()}  {name} (" in printed for name, verdict in claims.items())
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 2
    assert all(words in page for words in ("Statistics", "Slopes", "Beside the paper", "What the paper says"))

    statistics = pd.read_csv(folder / "statistics.csv").set_index(["estimator", "iw"])
    assert list(statistics.index) == [(n, k) for n in ("ovis-gamma0", "pathwise-iwae") for k in (3, 17, 100)]
    assert statistics.loc[("ovis-gamma0", 17), "draws"] == 200  # both parts
    assert statistics.loc[("ovis-gamma0", 17), "variance"] == pytest.approx(0.06 * 17.0**-3)
    slopes = pd.read_csv(folder / "slopes.csv").set_index(["estimator", "statistic"])
    assert slopes.loc[("pathwise-iwae", "snr"), ["slope", "theory"]].tolist() == pytest.approx([-0.5, -0.5])
    assert pd.read_csv(folder / "published.csv")["source"].unique().tolist() == ["mini"]


@pytest.mark.parametrize(
    ("exp", "folder"),
    [
        ("asymptotic-analysis", "asymptotic-variance"),  # "open reports/asymptotic-variance", says the published README
        ("asymptotic-analysis-mini", "asymptotic-variance-mini"),
        ("asymptotic-analysis2", "asymptotic-analysis2"),
        ("mine", "mine"),
    ],
)
def test_where_the_report_lies(study: Folder, exp: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovis.experiments.reporting.page.render.write_page", lambda folder, _: folder / "index.html")
    monkeypatch.setattr(
        "ovis.experiments.reporting.figures.save_figure.save_figure", lambda *_: [Path(), Path()]
    )  # takes a second
    study.path.rename(study.root / exp)
    assert run(study, "--exp", exp) == 0
    assert [path.name for path in (study.root.parent / "reports").iterdir()] == [folder]


def test_a_sweep_on_its_way(study: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("ovis.experiments.reporting.page.render.write_page", lambda folder, _: folder / "index.html")
    monkeypatch.setattr(
        "ovis.experiments.reporting.figures.save_figure.save_figure", lambda *_: [Path(), Path()]
    )  # takes a second
    draws = {"iwae": power_law(30, *LAWS["iwae"], n=50, D=20)}
    partial = write_draws(study.path, 30, draws, D=20, file="gradients.partial.npz", status=None)
    failed = write_draws(study.path, 300, draws, D=20, file="", status="exception", message="no memory")
    broken = write_draws(study.path, 200, draws, D=20)
    (broken / "gradients.npz").write_bytes(b"PK")
    (study.path / "notes").mkdir()
    assert run(study, "--include", "iwae") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "read 5 of 7 runs (4 done, 1 unfinished, 1 failed, 1 unreadable)"
    assert printed[1] == f"note: {partial.name}: 50 draws so far (unfinished)"
    assert printed[2].startswith(f"skipped {broken.name}: gradients.npz can't be read (") or broken.name in printed[3]
    assert f"skipped {failed.name}: no draws yet: no memory (failed)" in printed
    assert "skipped notes: no config.json (foreign)" in printed
    table = pd.read_csv(study.root.parent / "reports" / "asymptotic-variance-inc=iwae" / "statistics.csv")
    assert table[["estimator", "iw", "draws"]].to_numpy().tolist() == [
        ["pathwise-iwae", k, 50 if k == 30 else 200] for k in (3, 17, 30, 100)
    ]


def test_refusals(study: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("asymptotic", "../runs/asymptotic-analysis", ""):
        assert run(study, "--exp", name) == 2
        line = f"report: no experiment {name!r} in {study.root}/; there: asymptotic-analysis\n"
        assert capsys.readouterr().err == line
    assert run(study, "--include", "nobody") == 2
    assert "no estimator was asked for that is there (ovis-gamma0, pathwise-iwae)" in capsys.readouterr().err
    assert not (study.root.parent / "reports").exists()
    (study.root / "empty").mkdir()
    assert run(study, "--exp", "empty") == 1
    captured = capsys.readouterr()
    assert captured.out == "read 0 of 0 runs\n"
    assert captured.err == f"report: no run has any draw in {study.root / 'empty'}: nothing to draw\n"
    (study.root.parent / "reports").write_text("in the way")
    assert run(study) == 1
    assert capsys.readouterr().err.startswith("report: ")


def test_an_experiment_of_another_command(demo: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    demo.add("vimco", [1.0])
    assert main(["--root", str(demo.root), "--exp", "demo"]) == 1
    message = f"report: no run has any draw in {demo.path}: its runs are for python report.py --exp demo\n"
    assert capsys.readouterr().err == message


@pytest.mark.usefixtures("saved")
def test_words_for_people(study: Folder) -> None:
    """No raw ids in the alternative texts, no bare column names, units of relative numbers."""
    assert run(study) == 0
    page = (study.root.parent / "reports" / "asymptotic-variance" / "index.html").read_text(encoding="utf-8")
    alts = re.findall(r'alt="([^"]*)"', page)
    assert len(alts) == 2
    assert all("OVIS~ (γ=0), IWAE" in alt and "ovis-gamma0" not in alt for alt in alts)
    heads = [html.unescape(head) for head in re.findall(r'<th scope="col"[^>]*><button type="button">([^<]*)<', page)]
    assert {"SNR", "± SNR", "slope of the last two K", "slope in theory", "difference [%]"} <= set(heads)
    assert not {"dsnr", "last se", "fit se", "slope se", "difference", "ours se"} & set(heads)
    differences = pd.read_csv(study.root.parent / "reports" / "asymptotic-variance" / "published.csv")["difference"]
    assert f'data-value="{float(100 * differences[0])!r}"' in page


@pytest.mark.slow
def test_the_script_in_a_terminal_without_greek_letters(tmp_path: Path) -> None:
    script = [sys.executable, str(REPOSITORY / "report_asymptotic_variance.py"), "--root", str(tmp_path)]
    done = subprocess.run(script, env={"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"report: no experiment 'asymptotic-analysis' in {tmp_path}/; there: none\n"


def test_the_manager_knows_this_report() -> None:
    assert COMMANDS[STUDIES["asymptotic"].report].module == main.__module__


@pytest.mark.usefixtures("saved")
def test_a_part_of_other_parameters_is_left_out(study: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    draws = {name: power_law(17, *law, n=50, D=3) for name, law in LAWS.items()}
    odd = write_draws(study.path, 17, draws, D=20, first=200, part=3, parts=3)
    assert run(study, "--exp", "asymptotic-analysis") == 0
    printed = capsys.readouterr().out
    assert f"skipped {odd.name}: gradients of 3 entries, other parts have 20 (unreadable)" in printed
