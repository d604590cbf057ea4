"""report_figure3.py from its command line to its files: what it says, exit codes, sweeps that are not finished."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from published_values import published_final
from slow_cases import slow_except
from synthetic_runs import Folder, write_run

from ovis.experiments.reporting.data.read import read_experiment
from ovis.paper.figure3.figure3_cli import main
from ovis.paper.figure3.figure3_plot import panel_figures
from ovis.paper.figure3.figure3_tables import FINAL_STEP, SETTINGS

REPOSITORY = Path(__file__).parents[3]
METRIC = "train:loss/L_k"
EVERY = FINAL_STEP // 20


def run_of(folder: Path, estimator: str, iw: int, seed: int, label: str, values: list[float], **more: object) -> Path:
    """A run of the paper's experiment; it is done where its values reach the last step."""
    settings = {**SETTINGS, "estimator": estimator, "iw": iw, "seed": seed, "id": label, **more}
    lines = [{"step": EVERY * (i + 1), "time": float(i), METRIC: value} for i, value in enumerate(values)]
    name = f"{label}-{settings['dataset']}-sbm-{estimator}-iw{iw}-seed{seed}-{len(list(folder.iterdir())):012x}"
    return write_run(folder / name, settings, lines, "success" if len(values) == 20 else None)


@pytest.fixture
def sweep(demo: Folder) -> Folder:
    """Two seeds of everything in Figure 3: straight lines that rise by a nat to the published final values."""
    for figure, label in (("left", "iwbound"), ("right", "iwrbound")):
        for (estimator, iw), final in published_final(figure).items():
            for seed, off in ((1, -0.5), (2, 0.5)):
                run_of(demo.path, estimator, iw, seed, label, [final + off - 1 + (i + 1) / 20 for i in range(20)])
    return demo


def run(demo: Folder, *options: str) -> int:
    return main(["--exp", "demo", "--root", str(demo.root), "--output", str(demo.root.parent / "reports"), *options])


@pytest.mark.parametrize(
    ("figure", "label", "runs"),
    slow_except([("left", "iwbound", 36)], [("left", "iwbound", 36), ("right", "iwrbound", 30)]),
    ids=["left", "right"],
)
def test_the_papers_numbers_come_out_again(
    sweep: Folder, capsys: pytest.CaptureFixture[str], figure: str, label: str, runs: int
) -> None:
    assert run(sweep, "--figure", figure) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"read {runs} of {runs} runs ({runs} done)\n")
    assert "note:" not in printed
    folder = sweep.root.parent / "reports" / f"demo-inc={label}"
    assert sorted(path.name for path in folder.iterdir()) == [
        f"figure3_{figure}.{e}" for e in ("csv", "pdf", "png", "txt")
    ]
    assert printed.endswith(f"{folder}/figure3_{figure}.png\n{folder}/figure3_{figure}.pdf\n")
    drawn = pd.read_csv(folder / f"figure3_{figure}.csv")
    assert len(drawn) == runs / 2 * 20
    ends = drawn[drawn["step"] == FINAL_STEP]
    result = {(e, k): v for e, k, v in zip(ends["estimator"], ends["iw"], ends["smoothed"], strict=True)}
    assert result == pytest.approx(published_final(figure))
    rows = [" ".join(line.split()) for line in printed.splitlines()]
    assert "OVIS-MC (S=10) 50 4,000,000 " + (
        "-86.86 2 of 2 -86.86" if figure == "left" else "-86.63 2 of 2 -86.63"
    ) in (row.rsplit(" ", 1)[0] for row in rows)
    assert ("OVIS~ (γ=1) 50 1,600,000 -87.32 2 -87.55 +0.23" in rows) == (figure == "left")


def test_a_sweep_that_is_not_finished(sweep: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(sweep.path, "vimco-arithmetic", 5, 3, "iwbound", [-91.0] * 3)
    empty = run_of(sweep.path, "vimco-arithmetic", 10, 3, "iwbound", [])
    other = run_of(sweep.path, "vimco-arithmetic", 10, 3, "iwbound", [], dataset="omniglot")
    assert run(sweep, "--figure=left") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("read 37 of 38 runs (36 done, 2 unfinished)\n")
    assert f"skipped {empty.name}: no evaluation (unfinished)" in printed
    assert other.name not in printed
    assert "2 of 3" in printed


def test_runs_that_are_no_reference(demo: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(demo.path, "vimco", 20, 1, "iwbound", [-150.0, -120.0, -110.0], N=100)
    run_of(demo.path, "vimco", 20, 2, "iwbound", [-150.0, -120.0, -111.0], N=200)
    assert run(demo, "--figure=left") == 0
    printed = capsys.readouterr().out
    assert "note: not the paper's experiment (N = 100): its numbers are no reference for these runs" in printed
    assert "note: runs that are averaged differ in N" in printed


def test_the_alternative_text_says_which_bound(demo: Folder) -> None:
    run_of(demo.path, "vimco", 5, 1, "iwbound", [-90.0], iw_test=5000)
    (figure,) = panel_figures(read_experiment(demo.path))
    assert figure.alt.startswith("train bound L_5000 [nats] of binmnist against training steps")
    assert "$L_{5000}$" in figure.figure.axes[0].get_ylabel()


@pytest.mark.slow
def test_another_metric_data_set_and_axis(demo: Folder) -> None:
    demo.add("vimco", {"test:loss/ess": [2.0, 3.0]}, id="iwbound", dataset="digits")
    assert run(demo, "--figure=left", "--dataset=digits", "--metric=test:loss/ess", "--ylims=0:5") == 0


def test_nothing_to_draw_is_one_line(demo: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(demo, "--figure=left") == 1
    assert capsys.readouterr().err.count("\n") == 1
    run_of(demo.path, "vimco", 5, 1, "iwbound", [-90.0])
    absent = "--metric=test:loss/ess"
    for words in (["--figure=right"], ["--figure=left", "--dataset=fashion"], ["--figure=left", absent]):
        assert run(demo, *words) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "nothing to draw" in error
    assert not (demo.root.parent / "reports").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--metric=foo", "report: --metric: no metric 'foo'; Valid: train:loss/L_k\n"),
        ("--metric=train:loss/Lk", "report: --metric: no metric 'train:loss/Lk'; did you mean 'train:loss/L_k'?"),
        (
            "--ylims=-50:-40",
            "report: --ylims=-50:-40 holds nothing of train:loss/L_k: its curves go from -90 to -90\n",
        ),
    ],
)
def test_options_that_leave_nothing_to_draw_are_refused(
    demo: Folder, capsys: pytest.CaptureFixture[str], option: str, message: str
) -> None:
    run_of(demo.path, "vimco", 5, 1, "iwbound", [-90.0])
    assert run(demo, "--figure=left", option) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert not (demo.root.parent / "reports").exists()


def test_no_such_experiment(demo: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("dem", "../runs/demo"):
        assert main(["--figure=left", "--exp", name, "--root", str(demo.root)]) == 2
        assert capsys.readouterr().err == f"report: no experiment {name!r} in {demo.root}/; there: demo\n"


@pytest.mark.parametrize("words", [[], ["--figure=middle"], ["--figure=left", "--ylims=3"], ["--figure=left", "--x"]])
def test_argparse_refuses(demo: Folder, words: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        run(demo, *words)
    assert refused.value.code == 2


@pytest.mark.slow
def test_the_command_draws_without_torch(demo: Folder) -> None:
    run_of(demo.path, "vimco", 5, 1, "iwbound", [-90.0, -89.0])
    code = (
        "import sys\n"
        "from ovis.paper.figure3.figure3_cli import main\n"
        "code = main(sys.argv[1:])\n"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    words = ["--figure=left", "--exp=demo", f"--root={demo.root}", f"--output={demo.root.parent / 'reports'}"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
