"""L_K of data: equal to the estimator's bound, whatever the passes; K grows towards the exact log p(x)."""

import itertools
import weakref

import pytest
import torch

from ovis.models import SigmoidBeliefNetwork
from ovis.training import evaluate as module
from ovis.training.evaluate import evaluate


@pytest.fixture
def model():
    return SigmoidBeliefNetwork((5,), N=4, depth=1).eval()


@pytest.fixture
def x():
    return (torch.rand(7, 5) < 0.5).float()


def exact_log_likelihood(model, x):
    z = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
    px, pz = model.generate([z], 0.0)
    return torch.stack([torch.logsumexp(px.log_prob(datum) + pz[0].log_prob(z), 0) for datum in x])


def test_tends_to_the_exact_likelihood_from_below(model, x):
    exact = exact_log_likelihood(model, x).mean().item()
    bounds = [evaluate(model, x.repeat(200, 1), k, 1400)["loss"]["L_k"].item() for k in (1, 5, 50)]
    assert bounds[0] < bounds[1] < bounds[2] < exact + 1e-3
    assert bounds[0] < exact - 0.05  # so the next line says something
    assert evaluate(model, x, 20_000, 7)["loss"]["L_k"].item() == pytest.approx(exact, abs=2e-3)


def test_passes_are_of_the_size_asked_for_and_lose_no_particle(model, x, monkeypatch):
    sizes = []
    draw = module.draw
    monkeypatch.setattr(module, "draw", lambda m, rows, n, **kw: sizes.append(n) or draw(m, rows, n, **kw))
    evaluate(model, x, 100, 7, max_values=7 * 5 * 30)
    assert sum(sizes) == 100
    assert max(sizes) <= 30


@pytest.mark.parametrize("passes", [2, 10])
def test_no_pass_outlives_the_next_one(model, x, monkeypatch, passes):
    """However many there are, so any K fits: the outputs, with all x and z of a pass, are gone before the next one."""
    outputs, alive = [], []

    def drawn(*args, **kwargs):
        alive.append(sum(reference() is not None for reference in outputs))
        particles = draw(*args, **kwargs)
        outputs.append(weakref.ref(particles.output["px"]))
        return particles

    draw = module.draw
    monkeypatch.setattr(module, "draw", drawn)
    evaluate(model, x, passes * 30, 7, max_values=7 * 5 * 30)
    assert len(alive) == passes
    assert max(alive) == 0


def test_measures_are_consistent(model, x):
    loss = evaluate(model, x, 64, 3)["loss"]
    assert loss["kl_q_p"].item() == pytest.approx(loss["L_k"].item() - loss["elbo"].item(), abs=1e-5)
    assert loss["elbo"].item() == pytest.approx(-loss["nll"].item() - loss["kl"].item(), abs=1e-5)
    assert 1 <= loss["ess"].item() <= 64
    assert evaluate(model, x, 64, 3, ess_particles=4)["loss"]["ess"].item() <= 4


def test_leaves_the_mode_and_builds_no_graph(model, x):
    model.train()
    assert not evaluate(model, x, 3, 7)["loss"]["L_k"].requires_grad
    assert model.training
