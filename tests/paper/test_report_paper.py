"""The four report commands of the published README, as written there, on runs of the experiments that they are of."""

# ruff: noqa: E501

from __future__ import annotations

import html
import shlex
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from slow_cases import slow_except
from synthetic_paper import final_bound, write_experiment

from ovis.experiments.cli import report
from ovis.experiments.cli.report_command import run_report
from ovis.experiments.reporting.figures.save_figure import ReportFigure

COMMANDS = {
    "gaussian-mixture-model": r"""
    --exp=gaussian-mixture-model \
    --keys=dataset,estimator,iw \
    --metrics=test:gmm/posterior_mse,test:gmm/prior_mse,train:grads/variance,train:grads/snr \
    --detailed_metrics=test:gmm/posterior_mse,test:gmm/prior_mse,train:loss/ess,train:grads/variance,train:grads/snr \
    --pivot_metrics=min:test:gmm/posterior_mse,min:test:gmm/prior_mse,mean:train:grads/snr """,
    "sigmoid-belief-network-inc=iwbound": r"""
    --exp=sigmoid-belief-network  \
    --include=iwbound \
    --keys=dataset,estimator,iw  \
    --metrics=test:loss/L_k,train:loss/L_k,train:loss/kl_q_p,train:grads/snr \
    --detailed_metrics=test:loss/L_k,train:loss/L_k,train:loss/kl_q_p,train:loss/kl,train:loss/ess,train:active_units/au,train:grads/snr \
    --pivot_metrics=max:test:loss/L_k,max:train:loss/L_k,last:test:loss/kl_q_p,last:train:loss/ess \
    --ylims=test:loss/L_k:-94:-88,train:loss/L_k:-93:-86""",
    "sigmoid-belief-network-inc=iwrbound": r"""
    --exp=sigmoid-belief-network  \
    --include=iwrbound,tvo \
    --keys=dataset,estimator,iw  \
    --metrics=test:loss/L_k,train:loss/L_k,train:loss/kl_q_p,train:grads/snr \
    --detailed_metrics=test:loss/L_k,train:loss/L_k,train:loss/kl_q_p,train:loss/kl,train:loss/ess,train:active_units/au,train:grads/snr \
    --pivot_metrics=max:test:loss/L_k,max:train:loss/L_k,last:test:loss/kl_q_p,last:train:loss/ess \
    --ylims=test:loss/L_k:-94:-88,train:loss/L_k:-93:-86""",
    "gaussian-vae": r"""
    --exp=gaussian-vae  \
    --keys=dataset,estimator,iw  \
    --metrics=test:loss/L_k,train:loss/L_k,train:loss/kl_q_p,train:grads/snr \
    --detailed_metrics=train:loss/L_k,train:loss/kl_q_p \
    --pivot_metrics=max:train:loss/L_k,last:train:loss/kl_q_p,mean:train:loss/ess""",
}  # fmt: skip

#: Folder -> how many series the pivot plot has, and how many K.
SHAPES = {
    "gaussian-mixture-model": (10, 4),
    "sigmoid-belief-network-inc=iwbound": (6, 3),
    "sigmoid-belief-network-inc=iwrbound": (6, 3),
    "gaussian-vae": (7, 3),
}


@pytest.mark.parametrize("name", slow_except(["gaussian-vae"], COMMANDS))
def test_the_commands_run_as_written(
    name: str,
    tmp_path: Path,
    saved: dict[str, Figure],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # runs/ and reports/ are the defaults
    experiment = name.partition("-inc=")[0]
    write_experiment(Path("runs"), experiment, evaluations=4, seeds=2, datasets=["binmnist", "gmm"])
    words = shlex.split(COMMANDS[name].replace("\\\n", " "))
    drawn: list[ReportFigure] = []
    assert run_report(lambda options: drawn.extend(report.report(options)), report.build_parser(), words) == 0
    assert [item.name for item in drawn] == list(saved)
    panel = {"iwbound": ["figure3_left"], "iwrbound": ["figure3_right"]}.get(name.partition("=")[2], [])
    assert list(saved) == ["pivots", "curves", "detailed", *panel]
    tables = ["claims.csv", "curves.csv", "detailed.csv", "index.html", "pivot.csv", "table.txt"]
    assert sorted(path.name for path in Path("reports", name).iterdir() if path.suffix != ".png") == tables
    page = Path("reports", name, "index.html").read_text(encoding="utf-8")
    assert all(html.escape(item.alt) in page for item in drawn)
    series, counts = SHAPES[name]
    compared = [figure for part, figure in saved.items() if part not in panel]
    assert all(len(axes.lines) == series for figure in compared for axes in figure.axes)
    pivots = next(word for word in words if word.startswith("--pivot_metrics")).count(",") + 1
    assert len(saved["pivots"].axes) == pivots
    table = pd.read_csv(Path("reports", name, "pivot.csv"))
    assert len(table) == series * counts
    assert set(table["runs"]) == {2}
    assert f"read {series * counts * 2} of {series * counts * 2} runs" in capsys.readouterr().out


def test_the_experiment_alone_gives_the_papers_figure(tmp_path: Path, saved: dict[str, Figure]) -> None:
    write_experiment(tmp_path, "gaussian-vae-mini")
    options = ["--exp", "gaussian-vae-mini", "--root", str(tmp_path), "--output", str(tmp_path / "reports")]
    assert report.main(options) == 0
    labels = [axes.get_ylabel().replace("\n", ", ") for axes in saved["pivots"].axes]
    assert [label.partition(", ")[2] for label in labels] == [
        *("train, best [nats]", "train, final [nats]", "train, mean", "train, mean")
    ]
    table = pd.read_csv(tmp_path / "reports" / "gaussian-vae-mini" / "pivot.csv")
    tempered = table[(table["alpha"] == 0.7) & (table["iw"] == 5) & (table["estimator"] == "ovis-gamma1")]
    settings = {"iw": 5, "estimator": "ovis-gamma1", "warmup": 0, "alpha": 0.7, "dataset": "binmnist"}
    assert tempered["max:train:loss/L_k"].item() == pytest.approx(final_bound(settings), abs=0.5)


def test_the_test_set_is_called_what_it_is_where_it_chose_nothing(
    tmp_path: Path, saved: dict[str, Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    write_experiment(tmp_path, "sigmoid-belief-network-mini", held_out="valid")
    options = ["--exp", "sigmoid-belief-network-mini", "--root", str(tmp_path), "--output", str(tmp_path / "reports")]
    assert report.main(options) == 0
    assert "chosen on test" not in capsys.readouterr().out
    assert {"figure3_left", "figure3_right"} <= set(saved)
    assert saved["pivots"].axes[0].get_ylabel().splitlines()[1:] == ["test [nats]", "chosen on valid"]
    assert "valid" in saved["curves"].axes[0].get_ylabel()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ema=1"], "--ema: must be a number from 0 to below 1, e.g. 0.9, got '1'"),
        (["--ema=x"], "--ema: must be a number from 0 to below 1"),
        (["--downsample=1"], "--downsample: must be a whole number, 2 or more, got '1'"),
    ],
)
def test_options_that_make_no_sense(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        report.main(["--exp=x", *options])
    assert refused.value.code == 2
    assert message in capsys.readouterr().err


def test_smoothed_thinned_and_filtered(
    tmp_path: Path, saved: dict[str, Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    total = len(list(write_experiment(tmp_path, "gaussian-vae-mini", evaluations=9).iterdir()))
    output = ["--root", str(tmp_path), "--output", str(tmp_path / "reports")]
    wanted = ["--filter=family=ovis-gamma,iw=5,alpha=0", "--parse_estimator_args", "--metrics=train:loss/L_k"]
    assert report.main(["--exp=gaussian-vae-mini", *output, *wanted, "--ema=0.5", "--downsample=3"]) == 0
    name = "gaussian-vae-mini-family=ovis-gamma-iw=5-alpha=0"
    thin = pd.read_csv(tmp_path / "reports" / name / "curves.csv")
    assert len(thin) == 3
    assert report.main(["--exp=gaussian-vae-mini", *output, *wanted]) == 0
    whole = pd.read_csv(tmp_path / "reports" / name / "curves.csv")
    assert list(thin["step"]) == list(whole["step"][::4])
    by_hand = whole["mean"].ewm(alpha=0.5).mean()  # normalized weights 1, 1/2, 1/4 ...
    assert list(thin["mean"]) == pytest.approx(list(by_hand[::4]), rel=1e-9)
    assert f"left out by --include, --exclude and --filter: {total - 1} runs" in capsys.readouterr().out
    assert report.main(["--exp=gaussian-vae-mini", *output, "--filter=famly=tvo"]) == 2
    assert "report: --filter: no setting 'famly'" in capsys.readouterr().err
