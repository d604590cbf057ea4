"""L_K of data: equal to the estimator's bound for any chunk size, and tends to the exact log p(x) as K grows."""

import io
import itertools
import math
import sys
import weakref

import pytest
import torch
from torch import nn
from torch.distributions import Normal
from torch.utils.data import DataLoader, Dataset, TensorDataset

import ovis
from ovis.analysis import evaluate as module
from ovis.analysis.evaluate import evaluate
from ovis.models import GaussianToyVAE, SigmoidBeliefNetwork, Template


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
    bounds = [evaluate(model, x.repeat(200, 1), k, 1400).L_k.mean for k in (1, 5, 50)]
    assert bounds[0] < bounds[1] < bounds[2] < exact + 1e-3
    assert bounds[0] < exact - 0.05  # otherwise the next line would be trivial
    assert evaluate(model, x, 20_000, 7).L_k.mean == pytest.approx(exact, abs=2e-3)


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
    loss = evaluate(model, x, 64, 3)
    assert loss.kl_q_p.mean == pytest.approx(loss.L_k.mean - loss.elbo.mean, abs=1e-5)
    assert loss.elbo.mean == pytest.approx(-loss.nll.mean - loss.kl.mean, abs=1e-5)
    assert 1 <= loss.ess.mean <= 64
    assert evaluate(model, x, 64, 3, ess_particles=4).ess.mean <= 4


def test_the_mode_is_restored_and_no_graph_is_built(model, x):
    model.train()
    assert not evaluate(model, x, 3, 7).per_datum["L_k"].requires_grad
    assert model.training


def gaussian(scale, D=3):
    """p(z) = N(mu, I), p(x|z) = N(z, I), q(z|x) = N((x + mu)/2, scale^2): the posterior, where scale^2 is 1/2."""
    model = GaussianToyVAE(D, scale=scale).double()
    with torch.no_grad():
        model.mu.copy_(torch.linspace(-1, 1, D))
        model.A.copy_(torch.eye(D) / 2)
        model.b.copy_(model.mu / 2)
    return model


def test_with_the_posterior_as_q_it_is_the_likelihood_in_closed_form():
    """All weights are p(x) = N(x; mu, 2 I), so there is no Monte Carlo error, and the standard error is that of x."""
    model, x = gaussian(0.5**0.5), torch.randn(50, 3, dtype=torch.float64) * 1.5
    log_p = Normal(model.mu.detach(), 2**0.5).log_prob(x).sum(-1)
    result = ovis.evaluate(model, x, iw=20)
    torch.testing.assert_close(result.per_datum["L_k"], log_p)
    assert result.L_k.mean == pytest.approx(log_p.mean().item())
    assert result.L_k.standard_error == pytest.approx(log_p.std().item() / math.sqrt(50))
    assert result.ess.mean == pytest.approx(20)
    assert result.ess.standard_error == pytest.approx(0, abs=1e-9)
    assert result.kl_q_p.mean == pytest.approx(0, abs=1e-9)


def test_means_and_standard_errors_of_a_wide_q_cover_the_closed_forms():
    scale, x = 1.1, torch.randn(1, 3, dtype=torch.float64).expand(400, 3)
    model = gaussian(scale)
    result = ovis.evaluate(model, x, iw=30, seed=0)
    shift = (x[0] - model.mu.detach()) / 2  # of the mean of q from that of the prior
    kl = (0.5 * (scale**2 + shift.square() - 1) - math.log(scale)).sum().item()
    gap = 3 * 0.5 * (2 * scale**2 - 1 - math.log(2 * scale**2))
    log_p = Normal(model.mu.detach(), 2**0.5).log_prob(x[0]).sum().item()
    for actual, expected in ((result.kl, kl), (result.elbo, log_p - gap)):
        assert abs(actual.mean - expected) < 4 * actual.standard_error
        assert actual.standard_error < 0.1
    assert log_p - gap < result.L_k.mean < log_p + 4 * result.L_k.standard_error


class Plain(Template):
    """A model of a tensor, or of the dict that holds it."""

    def __init__(self):
        super().__init__()
        self.inference_network = nn.Sequential(nn.Linear(5, 2), nn.Dropout(0.5), nn.BatchNorm1d(2))
        self.seen = []

    def forward(self, x, zgrads=False, **kwargs):
        values = x["values"] if isinstance(x, dict) else x
        self.seen.append(self.training)
        qz = Normal(self.inference_network(values), 1.0)
        z = qz.sample()
        return {
            "px": Normal(z.sum(-1, keepdim=True).expand(-1, 5), 1.0),
            "z": [z],
            "qz": [qz],
            "pz": [Normal(z * 0, 1)],
        }

    def sample_from_prior(self, bs, **kwargs):
        raise NotImplementedError

    def target(self, x):
        return x["values"] if isinstance(x, dict) else x


def same(first, second):
    return all(torch.equal(first.per_datum[name], second.per_datum[name]) for name in first.per_datum)


class Dicts(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"values": self.x[i]}


def test_x_a_dict_and_loaders_give_the_same_to_the_bit(x):
    model = Plain()
    labels = torch.arange(7)
    expected = ovis.evaluate(model, x, 9, batch_size=3, seed=1)
    batches = list(x.split(3))
    others = [
        {"values": x},
        DataLoader(x, 3),
        DataLoader(TensorDataset(x), 3),
        DataLoader(Dicts(x), 3),
        (x for x, _ in DataLoader(TensorDataset(x, labels), 3)),
        iter(batches),
        ([batch] for batch in batches),
    ]
    for data in others:
        assert same(expected, ovis.evaluate(model, data, 9, batch_size=3, seed=1)), data
    assert expected.count == 7
    assert not same(expected, ovis.evaluate(model, x, 9, batch_size=3, seed=2))


def test_what_may_be_labels_is_refused_with_the_remedy(model, x):
    loader = DataLoader(TensorDataset(x, torch.arange(7)), 3)
    with pytest.raises(ValueError, match=r"^the batches of the DataLoader are a list of 2: .*x for x, label in loader"):
        ovis.evaluate(model, loader, 3)
    with pytest.raises(ValueError, match=r"^there are no data: .*an iterator can be read only once"):
        ovis.evaluate(model, iter([]), 3)
    with pytest.raises(TypeError, match=r"^data must be x, .* such as a DataLoader; got int$"):
        ovis.evaluate(model, 3)
    with pytest.raises(ValueError, match=r"^iw and batch_size must be at least 1, got 0 and 100$"):
        ovis.evaluate(model, x, 0)


def test_each_module_gets_its_mode_back(x):
    model = Plain().train()
    model.inference_network[2].eval()  # as a frozen normalization is
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ovis.evaluate(model, x, 3)
    assert model.seen == [False]
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="one row for each datum"):
        ovis.evaluate(model, iter([x, {"values": x, "other": x[:2]}]), 3)
    assert [module.training for module in model.modules()] == modes


def test_a_seed_leaves_the_global_random_state_as_it_was(model, x):
    before = torch.get_rng_state()
    first = ovis.evaluate(model, x, 5, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    assert same(first, ovis.evaluate(model, x, 5))
    assert not torch.equal(torch.get_rng_state(), before)


def test_the_table_names_the_units_and_the_errors(model, x):
    lines = str(ovis.evaluate(model, x, 5)).splitlines()
    assert lines[0] == "5 particles, 7 data"
    assert [line.split()[0] for line in lines[1:]] == ["L_5", "ELBO", "KL(q(z|x)", "L_5", "-log", "ESS"]
    assert all("+-" in line for line in lines[1:])
    single = ovis.evaluate(model, x[:1], 5)
    assert math.isnan(single.L_k.standard_error)
    assert "+-" not in str(single)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal, True), (io.StringIO, False)], ids=["terminal", "file"])
def test_the_bar_is_shown_in_terminals_only(model, x, monkeypatch, stream, shown):
    monkeypatch.setattr(sys, "stderr", stream())
    ovis.evaluate(model, x, 5, batch_size=2)
    assert ("evaluate" in sys.stderr.getvalue()) == shown
    assert "\n" not in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", Terminal())
    ovis.evaluate(model, x, 5, progress=False)
    monkeypatch.setitem(sys.modules, "tqdm", None)  # not installed
    ovis.evaluate(model, x, 5)
    assert sys.stderr.getvalue() == ""
