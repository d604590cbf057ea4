"""benchmarks/bench_others.py: its table, its limits, and that what it says of a gradient is so. pyro and storchastic
have environments of their own and are not needed here."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("bench_others")


@pytest.fixture
def contender(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS / "others")
    return importlib.import_module("contender")


# ----------------------------------------------------------------------------------------------------------- smoke


@pytest.mark.parametrize("name", ["ovis-gamma1", "ovis-gamma1/3", "vimco"])
def test_a_step_of_ovis_trains_all_parameters(contender: ModuleType, name: str):
    check_trains(contender, "with_ovis", name)


def test_a_step_of_the_textbook_trains_all_parameters(contender: ModuleType):
    check_trains(contender, "with_torch", "vimco")


def check_trains(contender: ModuleType, module: str, name: str) -> None:
    subject = contender.make(module, name, contender.SBN())
    before = [parameter.detach().clone() for parameter in subject.parameters]
    contender.training_step(subject, (torch.rand(4, contender.PIXELS) < 0.2).float())(5)
    assert len(before) == 5
    assert not any(torch.equal(a, b) for a, b in zip(before, subject.parameters, strict=True))


@pytest.mark.slow
def test_the_floor_in_a_process_of_its_own(bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert bench.main(["--only", "floor", "--particles", "5", "--venvs", str(tmp_path)]) == 0
    line = capsys.readouterr().out.splitlines()[-2]
    title, gradient, cell = (word.strip() for word in line.strip("|").split("|"))
    assert (title, gradient) == ("matrix products alone", "-")
    milliseconds, size = map(float, cell.split("/"))
    assert 0 < milliseconds < 1e4
    assert 0 <= size < 1e3


# -------------------------------------------------------------------------------------------------------- gradients


def test_exact_elbo_gradient_is_that_with_the_closed_kl(contender: ModuleType):
    model, x, _ = contender.tiny()
    model, x = model.double(), x.double()
    states = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=x.dtype)
    q = Bernoulli(logits=model.encode(x))
    log_px = Bernoulli(logits=model.decode(states)).log_prob(x[:, None]).sum(-1)
    probability = torch.stack([q.log_prob(state).sum(-1).exp() for state in states], 1)
    elbo = (probability * log_px).sum(1) - kl_divergence(q, Bernoulli(logits=model.prior)).sum(1)
    expected = torch.autograd.grad(elbo.mean(), model.q_parameters() + model.p_parameters())
    for iw, bound in [(1, "L_K"), (1, "ELBO"), (2, "ELBO")]:
        torch.testing.assert_close(contender.exact_gradients(model, x, iw)[bound], list(expected))
    assert not torch.allclose(contender.exact_gradients(model, x, 2)["L_K"][0], expected[0])


def vary(contender: ModuleType, kind: str):
    """The textbook VIMCO, its q-gradient multiplied; or a score function of the ELBO."""

    def make(model):
        subject = contender.make("with_torch", "vimco", model)

        def backward(x, iw):
            if kind == "elbo":
                z = (q := Bernoulli(logits=model.encode(x))).sample()
                log_q = q.log_prob(z).sum(-1)
                log_p = Bernoulli(logits=model.prior).log_prob(z).sum(-1)
                log_p = log_p + Bernoulli(logits=model.decode(z)).log_prob(x).sum(-1)
                return (-(log_p + (log_p - log_q).detach() * log_q)).mean().backward()
            subject.backward(x, iw)
            for parameter in model.q_parameters():
                parameter.grad *= float(kind)
            return None

        return subject._replace(backward=backward)

    return make


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [("1", "right"), ("0.9", "wrong for q"), ("0", "wrong: q's is zero"), ("elbo", "other bound: ELBO")],
)
def test_gradients_are_called_what_they_are(bench: ModuleType, contender: ModuleType, kind: str, verdict: str):
    torch.manual_seed(1)
    result = contender.measure_gradient(vary(contender, kind), calls=40)
    plain = bench.Contender("", "", "", "")
    assert bench.gradient_verdict(result, plain).startswith(verdict)


def test_documented_bias_is_no_error(bench: ModuleType):
    result = {"L_K": {"q": 50.0, "p": 1.0, "q_norm": 2.0}, "ELBO": {"q": 60.0, "p": 70.0, "q_norm": 2.0}}
    biased, other = (bench.Contender("", "", "", "", biased=each) for each in (True, False))
    assert bench.gradient_verdict(result, biased) == "biased for q, as documented (50 s.e.)"
    assert bench.gradient_verdict(result, other) == "wrong for q (50 s.e.)"
    result["L_K"]["p"] = 80.0
    assert bench.gradient_verdict(result, biased) == "wrong (80 s.e.)"


# ------------------------------------------------------------------------------------------------------------ table


def test_table_by_hand(bench: ModuleType):
    lines = [
        bench.Line(bench.Contender("", "ours", "", ""), "right", [bench.cell(0.0012345, 3.4e6), bench.cell(1.5, 2e9)]),
        bench.Line(bench.Contender("", "theirs", "", ""), "wrong", ["12.0 / 40", ">6 GB"], ["a zero", "slow"]),
        bench.Line(bench.Contender("", "third", "", ""), "-", ["-", "-"], ["slow"]),
    ]
    assert bench.table(lines, [5, 50]).splitlines() == [
        "| ms a step / MB | gradient of L_K |     K = 5 |      K = 50 |",
        "| -------------- | --------------- | --------: | ----------: |",
        "| ours           | right           |  1.23 / 3 | 1500 / 2000 |",
        "| theirs [1] [2] | wrong           | 12.0 / 40 |       >6 GB |",
        "| third [2]      | -               |         - |           - |",
        "",
        "[1] a zero.",
        "[2] slow.",
    ]


@pytest.mark.parametrize(
    ("end", "limit", "cells", "notes"),
    [
        ("", False, ["10.0 / 1", "20.0 / 2"], []),
        (">6 GB", True, ["10.0 / 1", ">6 GB"], []),
        ("no memory", False, ["10.0 / 1", "-"], ["not measured: no memory"]),
    ],
)
def test_what_ends_early(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, end: str, limit: bool, cells: list[str], notes: list[str]
):
    steps = [{"seconds": 0.01, "bytes": 1e6}, {"seconds": 0.02, "bytes": 2e6}][: 1 if end else 2]
    answer = bench.Answer([{"torch": "2"}, None, *steps], end, limit)
    monkeypatch.setattr(bench, "ask", lambda *args: answer)
    line = bench.measure(bench.Contender("", "", "", ""), [5, 20], Path())
    assert (line.cells, line.notes) == (cells, notes)


def test_without_its_environment_it_says_so(bench: ModuleType, tmp_path: Path):
    pyro = next(contender for contender in bench.CONTENDERS if contender.environment == "pyro")
    line = bench.measure(pyro, [5, 20], tmp_path)
    assert (line.gradient, line.cells) == ("-", ["-", "-"])
    assert line.notes[-1] == f"not measured: no environment {tmp_path / 'pyro'}: run with --setup"
    (tmp_path / "pyro").mkdir()
    (tmp_path / "pyro" / "requirements-pyro.txt").write_text("pyro-ppl==1.0\n")
    assert "of other pins" in bench.measure(pyro, [5], tmp_path).notes[-1]


@pytest.mark.parametrize(
    ("script", "note"),
    [
        ("raise ValueError('no such name')", "ValueError: no such name"),
        ("import os; os.abort()", "exit -6"),
        ('print(\'{"torch": "0.1"}\')', f"it has torch 0.1, ovis {torch.__version__}"),
    ],
)
def test_an_error_is_in_a_note(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, note: str
):
    monkeypatch.setattr(bench, "OTHERS", tmp_path)
    (tmp_path / "contender.py").write_text(script)
    line = bench.measure(bench.Contender("", "", "", ""), [5], tmp_path)
    assert (line.gradient, line.cells, line.notes) == ("-", ["-"], [f"not measured: {note}"])


@pytest.mark.parametrize(("limit", "message"), [("MOST_BYTES", ">0 GB"), ("MOST_SECONDS", ">0 s")])
def test_limits(bench: ModuleType, monkeypatch: pytest.MonkeyPatch, limit: str, message: str):
    monkeypatch.setattr(bench, limit, 0.1)
    monkeypatch.setattr(bench, "START", 0.0)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"])
    try:
        assert bench.watch(process, lambda: 0) == message
    finally:
        process.kill()
        process.wait()


def test_the_limit_is_for_each_line(bench: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench, "MOST_SECONDS", 0.1)
    monkeypatch.setattr(bench, "START", 0.0)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"])
    printed = iter(range(10_000))
    assert bench.watch(process, lambda: next(printed)) == ""


def test_share_of_other_programs(bench: ModuleType):
    assert bench.share_of_others((100.0, 50.0, 5.0), (120.0, 66.0, 15.0)) == pytest.approx(0.3)
    first, second = bench.spent(), bench.spent()
    assert all(a <= b for a, b in zip(first, second, strict=True))
    assert first[0] >= first[1] >= first[2] > 0


def test_unknown_contender(bench: ModuleType, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        bench.main(["--only", "floor,tensorflow"])
    assert "no contender 'tensorflow'; there are floor, ovis-gamma1" in capsys.readouterr().err
