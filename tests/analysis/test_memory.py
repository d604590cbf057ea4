"""The memory of the gradient analysis is bounded by the gradients, too, where they are larger than the particles."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from ovis.analysis import gradient_samples as drawing
from ovis.analysis import gradients
from ovis.analysis.gradient_samples import ParameterGradientSampler
from ovis.analysis.gradients import compare_gradients
from ovis.estimators import get_config
from ovis.models import SigmoidBeliefNetwork

#: A layer of 784 x 200 weights, one datum, two particles: 157,000 numbers of a draw that takes two particles.
PROGRAM = """
import resource
import torch
from ovis.analysis.gradients import get_gradients_statistics
from ovis.estimators import get_config
from ovis.models import SigmoidBeliefNetwork

model, x = SigmoidBeliefNetwork((784,), N=200, depth=1), torch.ones(1, 784)
Estimator, config = get_config("vimco")
estimator = Estimator(iw=2, **config)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
get_gradients_statistics(estimator, model, x, 2, compute_dsnr=False)
before = peak()
get_gradients_statistics(estimator, model, x, 200, compute_dsnr=False)
streamed = peak() - before
get_gradients_statistics(estimator, model, x, 200)
print(streamed, peak() - before)
"""


@pytest.mark.slow
def test_a_large_model_with_few_particles_takes_little_memory() -> None:
    """200 draws are 126 MB. At once, with their copies, they took 900 MB."""
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    streamed, kept = map(float, run.stdout.split())
    assert streamed < 400
    assert kept < 400 + 126


def problem() -> tuple[dict[str, object], SigmoidBeliefNetwork, Tensor]:
    torch.manual_seed(0)
    Estimator, config = get_config("vimco")
    model = SigmoidBeliefNetwork((6,), N=4, depth=1).double()
    return {"vimco": Estimator(iw=2, **config)}, model, (torch.rand(3, 6) < 0.5).double()


def test_draws_ride_together_as_far_as_their_gradients_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    estimators, model, x = problem()
    whole = list(ParameterGradientSampler(estimators, model, x, seed=1)(0, 7))  # type: ignore[arg-type]
    assert [len(part) for part in whole] == [7]
    monkeypatch.setattr(drawing, "NUMBERS", 3 * 28 + 5)  # 4 x 6 weights, 4 biases
    parts = list(ParameterGradientSampler(estimators, model, x, seed=1)(0, 7))  # type: ignore[arg-type]
    assert [len(part) for part in parts] == [3, 3, 1]
    torch.testing.assert_close(torch.cat(parts), whole[0], rtol=1e-11, atol=1e-13)


def test_draws_are_kept_up_to_a_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    estimators, model, x = problem()
    calls = []
    call = ParameterGradientSampler.__call__
    monkeypatch.setattr(
        ParameterGradientSampler, "__call__", lambda self, *span: calls.append(span) or call(self, *span)
    )
    for limit, drawn in ((7 * 28 * 8, 1), (7 * 28 * 8 - 1, 2)):  # float64
        monkeypatch.setattr(gradients, "MAX_KEPT_BYTES", limit)
        calls.clear()
        compare_gradients(estimators, model, x, 7, seed=1)  # type: ignore[arg-type]
        assert len(calls) == drawn
