"""A compiled step equals the eager one up to rounding; a missing compiler is reported in one line."""

from __future__ import annotations

import functools
import math
import re
import shutil

import pytest
import torch
from slow_cases import slow_except
from test_cuda_graph import CASES, STEPS
from test_steady_state import CASES as FAMILIES
from test_steady_state import SBM
from torch.fx.experimental.proxy_tensor import make_fx

from ovis.experiments.runs.identity import identify
from ovis.experiments.settings import SettingsError, TrainSettings
from ovis.experiments.training.build import build_run
from ovis.experiments.training.ensemble.vmapped import compile_graph
from ovis.experiments.training.step import TrainingStep

EVERY = {**FAMILIES, **CASES}
compile_for_real = torch.compile


def trained(options, **more):
    run = build_run(TrainSettings(**{"bs": 20, "N": 6, "hdim": 8, "iw": 4, "nsteps": STEPS, **options, **more}))
    take = TrainingStep(run)
    losses = [take(x, step) for step, x in enumerate(run.batches(0, STEPS))]
    return [parameter.detach() for parameter in run.model.parameters()], losses


@pytest.fixture
def traced(monkeypatch):
    """One graph as for the compiler, but run by torch's own operations: in a second, and with their random numbers."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(compile_for_real, backend="aot_eager"))


@pytest.mark.parametrize("case", slow_except(("iwae", "halvings"), EVERY))
def test_every_step_is_one_graph_and_equals_the_eager_step(case, traced):
    plain, losses = trained(EVERY[case])
    with torch._dynamo.config.patch(error_on_recompile=True):  # not when alpha or the learning rate changes, either
        result, found_losses = trained(EVERY[case], compile=True)
    torch.testing.assert_close(found_losses, losses, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(result, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_density_of_many_variables_is_in_the_graph_with_its_gradient(traced, monkeypatch):
    monkeypatch.setattr("ovis.functional.bernoulli.FEW", 0)
    options = {**SBM, "estimator": "ovis-S2-exclusive"}
    torch.testing.assert_close(trained(options, compile=True), trained(options), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_compilers_step_learns_and_repeats_itself():
    """Its random numbers are others; they come from torch's generator, as a resumed run needs."""
    options = {**SBM, "estimator": "ovis-gamma1", "lr": 0.02}
    (first, losses), (again, again_losses) = trained(options, compile=True), trained(options, compile=True)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert losses == again_losses
    _, plain = trained(options)
    assert abs(sum(losses) - sum(plain)) / STEPS < 0.1 * float(plain[0])


@pytest.mark.parametrize("named", [None, "no-such-compiler"])
def test_a_missing_compiler_is_reported_in_one_line(named, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    if named:
        monkeypatch.setenv("CXX", named)
    else:
        monkeypatch.delenv("CXX", raising=False)
    message = re.escape(f"--compile: no C++ compiler {named or 'g++'!r} here; install g++")
    with pytest.raises(SettingsError, match=message):
        build_run(TrainSettings(**SBM, estimator="vimco", iw=4, compile=True))


@pytest.mark.parametrize("name", ["compile", "capture"])
def test_particles_per_pass_is_rejected(name):
    settings = TrainSettings(**SBM, estimator="vimco", iw=4, particles_per_pass="2", **{name: True})
    with pytest.raises(SettingsError, match="--particles_per_pass: must be all with --compile"):
        settings.check_combination()


def test_another_rounding_is_another_run():
    keys = {identify(TrainSettings(compile=a, capture=b)).key for a in (False, True) for b in (False, True)}
    assert len(keys) == 4


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")
def test_a_compiled_graph_equals_the_traced_one_and_is_cached(tmp_path, monkeypatch):
    """As ensembles compile theirs; once they lay on the disk, evaluations took a third of the time to compile."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def function(x):
        return [x.nan_to_num(0.5, 2.0, -3.0), x.isnan().float().sum(-1), (x * x).logsumexp(-1)]

    x = torch.tensor([[0.0, -1.0, math.nan, 4.0], [math.inf, 1.0, -math.inf, 2.0]])
    graph = make_fx(function)(x)
    torch._dynamo.utils.counters.clear()
    for compilation in ({"fxgraph_cache_miss": 1}, {"fxgraph_cache_miss": 1, "fxgraph_cache_hit": 1}):
        result = compile_graph(graph, [x])
        assert result is not graph
        torch.testing.assert_close(result(x), function(x), equal_nan=True)
        counts = torch._dynamo.utils.counters["inductor"]
        assert {name: count for name, count in counts.items() if name.startswith("fxgraph_cache")} == compilation
