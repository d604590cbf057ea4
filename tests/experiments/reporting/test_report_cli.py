"""report.py from its command line to its files: defaults, exit codes, what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from synthetic_draws import power_law, write_draws
from synthetic_runs import METRIC, Folder

from ovis.experiments.cli.report import main

REPOSITORY = Path(__file__).parents[3]

QUICKSTART = {"reinforce": -27.0, "vimco": -22.0, "rws": -21.0, "ovis-gamma1": -20.0}


@pytest.fixture
def quickstart(demo: Folder) -> Folder:
    """Two seeds of four estimators, three evaluations of what a training measures."""
    for name, final in QUICKSTART.items():
        for seed in (1, 2):
            bound = [final - 9.0 / seed, final - 1.0, final + seed]
            values = {METRIC: bound, "train:loss/L_k": [b + 0.5 for b in bound], "train:grads/snr": [0.4, 0.2, 0.3]}
            demo.add(name, {**values, "train:loss/ess": [2.0, 3.0, 4.0]}, seed=seed)
    return demo


def run(demo: Folder, *options: str) -> int:
    return main(["--exp", "demo", "--root", str(demo.root), "--output", str(demo.root.parent / "reports"), *options])


def test_defaults(quickstart: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(quickstart) == 0
    folder = quickstart.root.parent / "reports" / "demo"
    names = ["curves.csv", "curves.pdf", "curves.png", "index.html", "pivot.csv", "table.txt"]
    assert sorted(path.name for path in folder.iterdir()) == names
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "read 8 of 8 runs (8 done)"
    assert printed[-2:] == [str(folder / "curves.png"), str(folder / "index.html")]
    table = (folder / "table.txt").read_text(encoding="utf-8").splitlines()
    assert printed[-len(table) - 3 : -3] == table
    # Best first, and numbers by hand: the last of gamma=1 are -19 and -18.
    assert [line.split("  ")[0] for line in table[3:]] == ["OVIS~ (γ=1)", "RWS", "VIMCO", "REINFORCE"]
    assert table[3].split()[2:6] == ["10", "-18.50", "±", "0.50"]
    for text in ("test bound L_K [nats]", "train bound L_K [nats]", "train SNR", "train ESS", "time [s]"):
        assert text in table[0]
    curves = pd.read_csv(folder / "curves.csv")
    assert list(curves["metric"].unique()) == ["train:loss/L_k", METRIC, "train:grads/snr"]
    assert len(curves) == 4 * 3 * 3
    pivot = pd.read_csv(folder / "pivot.csv")
    assert list(pivot["estimator"]) == ["ovis-gamma1", "wake-wake", "vimco-arithmetic", "reinforce"]
    assert list(pivot["max:test:loss/L_k"]) == [-18.5, -19.5, -20.5, -25.5]


@pytest.mark.usefixtures("saved")
def test_options(quickstart: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(
        quickstart,
        "--include=gamma,vimco",
        "--keys=estimator,seed",
        "--metrics=train:loss/ess",
        f"--pivot_metrics=min:{METRIC}",
        "--ylims=train:loss/ess:0:10",
        "--latex",
        "--float_format=%.1f",
        "--band=none",
    )
    assert code == 0
    folder = quickstart.root.parent / "reports" / "demo-inc=gamma"
    printed = capsys.readouterr().out
    assert printed.startswith("read 4 of 4 runs (4 done)\nleft out by --include, --exclude and --filter: 4 runs\n")
    assert str(folder / "curves.png") in printed
    assert r"\toprule" in (folder / "table.tex").read_text()
    pivot = pd.read_csv(folder / "pivot.csv")
    assert list(zip(pivot["estimator"], pivot["seed"], pivot[f"min:{METRIC}"], strict=True)) == [
        ("ovis-gamma1", 2, -24.5),
        ("vimco-arithmetic", 2, -26.5),
        ("ovis-gamma1", 1, -29.0),
        ("vimco-arithmetic", 1, -31.0),
    ]
    assert set(pd.read_csv(folder / "curves.csv")["metric"]) == {"train:loss/ess"}
    assert "-24.5 " in (folder / "table.txt").read_text(encoding="utf-8")


@pytest.mark.usefixtures("saved")
def test_a_sweep_that_is_not_finished(quickstart: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    quickstart.add("rws", [-1.0], seed=3, status=None)
    quickstart.add("rws", [-1.0], seed=4, status="failed", message="out of memory")
    empty = quickstart.add("rws", [-1.0], seed=5, status=None)
    (empty / "metrics.jsonl").write_text("")
    (quickstart.path / "notes").mkdir()
    assert run(quickstart) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("read 10 of 11 runs (8 done, 2 unfinished, 1 failed)\n")
    assert f"skipped {empty.name}: no evaluation (unfinished)" in printed
    assert "skipped notes: no config.json (foreign)" in printed
    assert ": out of memory (drawn as far as it came)" in printed
    assert "4 (2 done)" in printed


@pytest.mark.usefixtures("saved")
def test_runs_that_differ_in_more_than_their_seed_are_pointed_out(
    quickstart: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(quickstart) == 0
    assert "note:" not in capsys.readouterr().out
    quickstart.add("rws", [-1.0], lr=0.5)
    assert run(quickstart) == 0
    assert "note: runs of one series differ in lr: drawn as series of their own" in capsys.readouterr().out
    pivot = pd.read_csv(quickstart.root.parent / "reports" / "demo" / "pivot.csv")
    apart = pivot[pivot["estimator"] == "wake-wake"]
    assert dict(zip(apart["lr"], apart[f"last:{METRIC}"], strict=True)) == {0.5: -1.0, 0.001: -19.5}
    assert run(quickstart, "--merge_args=") == 0
    averaged = "note: runs that are averaged differ in lr: tell them apart with --merge_args or --keys"
    assert averaged in capsys.readouterr().out


@pytest.mark.usefixtures("saved")
def test_runs_without_the_usual_metrics(demo: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    demo.add("vimco", {"test:gmm/prior_mse": [2.0, 1.0]})
    assert run(demo) == 0
    table = pd.read_csv(demo.root.parent / "reports" / "demo" / "curves.csv")
    assert set(table["metric"]) == {"test:gmm/prior_mse"}


@pytest.mark.usefixtures("saved")
def test_an_estimator_of_another_version_is_drawn_in_a_default_look(demo: Folder) -> None:
    for iw in (5, 10):
        demo.add("of-another-version", [-2.0, -1.0], iw=iw)
        demo.add("vimco", [-3.0, -2.0], iw=iw)
    assert run(demo) == 0
    folder = demo.root.parent / "reports" / "demo"
    assert {"pivots.png", "curves.png"} <= {path.name for path in folder.iterdir()}
    assert "of-another-version" in (folder / "table.txt").read_text(encoding="utf-8")
    assert "of-another-version" in (folder / "index.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("saved")
def test_limits_that_hold_nothing_are_pointed_out(demo: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    demo.add("vimco", [-3.0, -2.0])
    assert run(demo, f"--ylims={METRIC}:5:6") == 0
    assert f"note: --ylims that hold no value, so not used: {METRIC}\n" in capsys.readouterr().out
    assert run(demo, f"--ylims={METRIC}:-2.5:6") == 0
    assert "note:" not in capsys.readouterr().out


def test_an_experiment_of_another_command(demo: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    write_draws(demo.path, 3, {"iwae": power_law(3, (1.0, 0.5), (1.0, -1), n=20)})
    assert run(demo) == 1
    message = f"report: no run has any evaluation in {demo.path}: its runs are for python report_asymptotic_variance.py"
    assert capsys.readouterr().err == f"{message} --exp demo\n"


def test_no_such_experiment(quickstart: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    (quickstart.root / "other").mkdir()
    for name in ("dem", "../runs/demo", ""):
        assert main(["--exp", name, "--root", str(quickstart.root)]) == 2
        error = capsys.readouterr().err
        assert error == f"report: no experiment {name!r} in {quickstart.root}/; there: demo, other\n"


def test_no_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--exp", "demo", "--root", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"report: no experiment 'demo' in {tmp_path}/none/; there: none\n"


def test_nothing_to_draw(quickstart: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(quickstart, "--include=nobody") == 1
    captured = capsys.readouterr()
    assert captured.err == f"report: no run was asked for in {quickstart.path}: nothing to draw\n"
    assert not (quickstart.root.parent / "reports").exists()


def test_no_run_with_data(demo: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(demo) == 1
    (demo.add("vimco", [1.0], status=None) / "metrics.jsonl").write_text("{")
    assert run(demo) == 1
    captured = capsys.readouterr()
    assert "read 0 of 1 runs (1 unfinished)" in captured.out
    assert f"report: no run has any evaluation in {demo.path}: nothing to draw" in captured.err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--metrics=test:loss/LK", "--metrics: no metric 'test:loss/LK'; did you mean 'test:loss/L_k'?"),
        ("--pivot_metrics=max:test:los/L_k", "--pivot_metrics: no metric 'test:los/L_k'; did you mean"),
        ("--pivot_metrics=maxi:test:loss/L_k", "expected agg:metric, e.g. max:test:loss/L_k; did you mean 'max'?"),
        ("--keys=estimater", "--keys: no setting 'estimater'; did you mean 'estimator'?"),
        ("--ylims=test:loss/L_k:3", "expected metric:lo:hi"),
        (
            "--ylims=train:grads/snr:-1:1",
            "--ylims: train:grads/snr has a logarithmic axis: its lower limit must be above 0, got -1\n",
        ),
    ],
)
def test_what_is_unknown_is_refused(
    quickstart: Folder, capsys: pytest.CaptureFixture[str], option: str, message: str
) -> None:
    assert run(quickstart, option) == 2
    assert message in capsys.readouterr().err
    assert not (quickstart.root.parent / "reports").exists()


@pytest.mark.parametrize("option", ["--float_format=abc", "--band=wide", "--metric=x"])
def test_argparse_refuses(quickstart: Folder, option: str) -> None:
    with pytest.raises(SystemExit) as refused:
        run(quickstart, option)
    assert refused.value.code == 2


def test_a_report_that_can_not_be_written(quickstart: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    (quickstart.root.parent / "reports").write_text("in the way")
    assert run(quickstart) == 1
    assert capsys.readouterr().err.startswith("report: ")


@pytest.mark.slow
def test_the_command_as_a_process(quickstart: Folder) -> None:
    command = [sys.executable, str(REPOSITORY / "report.py"), "--exp", "demo", "--root", str(quickstart.root)]
    # A terminal without Greek letters must not end in a traceback.
    done = subprocess.run(
        command, cwd=quickstart.root.parent, env={"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("reports/demo/curves.png\nreports/demo/index.html\n")
    missing = subprocess.run([*command[:3], "nothing", *command[4:]], capture_output=True, text=True)
    assert missing.returncode == 2
    assert "Traceback" not in missing.stderr
