"""L_K of data: equal to the estimator's bound for any chunk size, and tends to the exact log p(x) as K grows."""

import itertools
import weakref

import pytest
import torch

from ovis.experiments.training import evaluate as module
from ovis.experiments.training.evaluate import evaluate
from ovis.models import SigmoidBeliefNetwork


@pytest.fixture
def model():
    return SigmoidBeliefNetwork((5,), N=4, depth=1).eval()


@pytest.fixture
def x():
    return (torch.rand(7, 5) < 0.5).float()


def exact_log_likelihood(model, x):
    z = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
    px, pz = model.generate([z], None, 0.0)
    return torch.stack([torch.logsumexp(px.log_prob(datum) + pz[0].log_prob(z), 0) for datum in x])


def test_tends_to_the_exact_likelihood_from_below(model, x):
    exact = exact_log_likelihood(model, x).mean().item()
    bounds = [evaluate(model, x.repeat(200, 1), k, 1400)["loss"]["L_k"].item() for k in (1, 5, 50)]
    assert bounds[0] < bounds[1] < bounds[2] < exact + 1e-3
    assert bounds[0] < exact - 0.05  # otherwise the next line would be trivial
    assert evaluate(model, x, 20_000, 7)["loss"]["L_k"].item() == pytest.approx(exact, abs=2e-3)


def test_chunks_have_the_requested_size_and_cover_all_particles(model, x, monkeypatch):
    sizes = []
    draw = module.draw
    monkeypatch.setattr(module, "draw", lambda m, rows, n, **kw: sizes.append(n) or draw(m, rows, n, **kw))
    evaluate(model, x, 100, 7, max_values=7 * 5 * 30)
    assert sum(sizes) == 100
    assert max(sizes) <= 30


@pytest.mark.parametrize("chunks", [2, 10])
def test_a_chunk_is_freed_before_the_next_one(model, x, monkeypatch, chunks):
    """The outputs of a chunk, with all its x and z, are freed before the next one, so any K fits into memory."""
    outputs, alive = [], []

    def drawn(*args, **kwargs):
        alive.append(sum(reference() is not None for reference in outputs))
        particles = draw(*args, **kwargs)
        outputs.append(weakref.ref(particles.output["px"]))
        return particles

    draw = module.draw
    monkeypatch.setattr(module, "draw", drawn)
    evaluate(model, x, chunks * 30, 7, max_values=7 * 5 * 30)
    assert len(alive) == chunks
    assert max(alive) == 0


@pytest.mark.parametrize("trained", [None, 1, 45, 100], ids=["all", "first", "one pass and a half", "as many"])
def test_the_sums_of_chunks_are_those_of_all_particles(model, x, monkeypatch, trained):
    """Against the formulas on the weights of all chunks, in double precision."""
    parts = []
    draw = module.draw
    monkeypatch.setattr(module, "draw", lambda m, rows, n, **kw: parts.append(draw(m, rows, n, **kw)) or parts[-1])
    actual = module.evaluate_batch(model, x, 100, trained, max_values=7 * 5 * 30)["loss"]
    assert [part.log_px.shape[1] for part in parts] == [25] * 4
    log_w = torch.cat([part.log_w() for part in parts], 1).double()
    weights = log_w[:, :trained].softmax(1)
    expected = {
        "L_k": log_w.exp().mean(1).log(),
        "elbo": log_w.mean(1),
        "kl_q_p": log_w.exp().mean(1).log() - log_w.mean(1),
        "nll": -torch.cat([part.log_px for part in parts], 1).double().mean(1),
        "kl": torch.cat([(part.log_qz - part.log_pz).sum(-1) for part in parts], 1).double().mean(1),
        "ess": 1 / weights.square().sum(1),
    }
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-6, atol=1e-6, msg=name)


def test_chunks_are_small_where_q_is_large(monkeypatch):
    """Many latent variables of a few pixels: it is their memory that counts."""
    sizes = []
    draw = module.draw
    monkeypatch.setattr(module, "draw", lambda m, rows, n, **kw: sizes.append(n) or draw(m, rows, n, **kw))
    evaluate(SigmoidBeliefNetwork((5,), N=400, depth=1), torch.ones(2, 5), 50, 2, max_values=2 * 400 * 10)
    assert max(sizes) == 10


def test_measures_are_consistent(model, x):
    loss = evaluate(model, x, 64, 3)["loss"]
    assert loss["kl_q_p"].item() == pytest.approx(loss["L_k"].item() - loss["elbo"].item(), abs=1e-5)
    assert loss["elbo"].item() == pytest.approx(-loss["nll"].item() - loss["kl"].item(), abs=1e-5)
    assert 1 <= loss["ess"].item() <= 64
    assert evaluate(model, x, 64, 3, ess_particles=4)["loss"]["ess"].item() <= 4


def test_the_mode_is_restored_and_no_graph_is_built(model, x):
    model.train()
    assert not evaluate(model, x, 3, 7)["loss"]["L_k"].requires_grad
    assert model.training
