"""What a forward in chunks leaves unchanged, and what it refuses."""

from __future__ import annotations

import copy
import re
import weakref
from typing import Any

import pytest
import torch
from chunked_reference import close, from_the_same_stream, weights_of
from estimator_cases import ALL, PATHWISE, make
from problems import OneBernoulli, OneNormal, ParticleForm, ReadmeForm
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Independent, Normal
from torch.func import functional_call, grad

from ovis.models import VAE, GaussianVAE, SigmoidBeliefNetwork, Template

B, K = 5, 7


def images(count: int = B, pixels: int = 6) -> Tensor:
    return (torch.rand(count, pixels, dtype=torch.float64) < 0.4).double()


def network(**settings: Any) -> nn.Module:
    return SigmoidBeliefNetwork((6,), N=4, depth=2, **settings).double()


def gradients(model: nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


# ------------------------------------------------------------------------------------------------ any use of the loss


@pytest.mark.parametrize("name", ["vimco", "reinforce-baseline", "wake-sleep", "ovis-S2-exclusive"])
def test_backward_and_an_optimizer_of_ones_own(name: str) -> None:
    model, x = network(), images()
    settings = {"baseline": nn.Sequential(nn.Linear(6, 1).double(), nn.Flatten(0))} if "baseline" in name else {}
    estimator = make(name, iw=K, particles_per_pass=3, **settings)
    found = []
    for backward in (True, False):
        model.zero_grad()
        torch.manual_seed(1)
        loss, _, _ = estimator(model, x, backward=backward)
        if not backward:
            assert all(p.grad is None for p in model.parameters())
            loss.mean().backward()
        found.append(gradients(model))
    assert sum(g.abs().sum() for g in found[0]) > 0
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_gradients_accumulate_and_hooks_run_once() -> None:
    model, x = network(), images()
    calls = []
    model.prior_logits.register_post_accumulate_grad_hook(lambda p: calls.append(p.grad.clone()))
    loss, _, _ = make("vimco", iw=K)(model, x, particles_per_pass=2)
    loss.mean().backward(retain_graph=True)
    loss.mean().backward()
    assert len(calls) == 2
    assert calls[0].abs().sum() > 0
    torch.testing.assert_close(calls[1], 2 * calls[0])


def test_x_may_come_from_a_graph() -> None:
    """It is run through once, however many chunks there are."""
    model, estimator = network(), make("ovis-gamma1", iw=K)
    shift, images_ = torch.zeros(6, dtype=torch.float64, requires_grad=True), images()
    found = []
    for leaf in (False, True):
        x = (images_ + shift.exp() - 1) * torch.ones_like(images_)
        x = x.detach().requires_grad_() if leaf else x
        torch.manual_seed(1)
        loss, _, _ = estimator(model, x, particles_per_pass=3)
        (value,) = torch.autograd.grad((loss * weights_of(x)).sum(), [x if leaf else shift])
        found.append(value.sum(0) if leaf else value)
    assert found[0].abs().min() > 0
    torch.testing.assert_close(*found)


def test_encoded_once_and_differentiated_once() -> None:
    model = network()
    forward, backward = [], []

    def watch(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        forward.append(inputs[0].shape)
        output.register_hook(lambda grad: backward.append(grad.shape))

    model.inference_network[0].register_forward_hook(watch)
    make("vimco", mc=2, iw=K)(model, images(), backward=True, particles_per_pass=3)
    assert forward == [(B, 6)]
    assert backward == [(B, 4)]


class Lookup(Template):
    """z is the index of a class, whose row of a table is the mean of x; ``dense`` also uses the table as a matrix."""

    def __init__(self, sparse: bool, dense: bool = False):
        super().__init__()
        self.inference_network = nn.Linear(2, 6, dtype=torch.float64)
        self.table = nn.Embedding(6, 2, sparse=sparse, dtype=torch.float64)
        self.dense = dense

    def forward(self, x: Tensor, **kwargs: Any) -> Any:
        q = Categorical(logits=self.inference_network(x))
        z = q.sample()
        mean = self.table(z) + (self.table.weight.mean() if self.dense else 0.0)
        prior = Categorical(logits=torch.zeros(6, dtype=torch.float64))
        return {"px": Independent(Normal(mean, 1.0), 1), "z": [z], "qz": [q], "pz": [prior]}

    def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("dense", [False, True])
def test_sparse_gradients_stay_sparse(dense: bool) -> None:
    """Those of an embedding, for optimizers such as SparseAdam; with the values of the dense ones."""
    found = []
    for sparse, size in ((True, None), (True, 3), (False, 3)):
        torch.manual_seed(0)
        model, x = Lookup(sparse, dense), torch.ones(B, 2, dtype=torch.float64)
        make("vimco", iw=K)(model, x, backward=True, particles_per_pass=size)
        gradient = model.table.weight.grad
        assert gradient is not None
        assert gradient.is_sparse is (sparse and not dense)
        found.append(gradient)
    assert found[1].to_dense().abs().sum() > 0.01
    torch.testing.assert_close(found[1].to_dense(), found[2].to_dense())
    if not dense:
        assert found[1].coalesce().values().shape[0] <= 6
        before = model.table.weight.detach().clone()
        model.table.weight.grad = found[1]
        torch.optim.SparseAdam([model.table.weight]).step()
        assert not torch.equal(before, model.table.weight)


def test_frozen_parameters_get_none() -> None:
    model = network()
    model.generative_model.requires_grad_(False)
    close(*from_the_same_stream(make("ovis-gamma0", iw=K), model, images(), 3, 1))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert not make("vimco", iw=K)(model, images(), particles_per_pass=3)[0].requires_grad


def test_without_graph_nothing_is_replayed() -> None:
    model, estimator, x = network(), make("vimco", iw=K), images()
    rows: list[int] = []
    model.generative_model[0].register_forward_hook(lambda m, i, o: rows.append(i[0].shape[1]))
    torch.manual_seed(1)
    with torch.no_grad():
        loss, diagnostics, _ = estimator(model, x, particles_per_pass=3)
    assert rows == [3, 3, 1]
    torch.manual_seed(1)
    again, expected, _ = estimator(model, x, particles_per_pass=3)
    assert torch.equal(loss, again)
    assert not loss.requires_grad
    torch.testing.assert_close(dict(diagnostics["loss"]), dict(expected["loss"]))


@pytest.mark.parametrize("name", ["vimco", "wake-sleep"])
def test_diagnostics_are_not_needed(name: str) -> None:
    model, x, found = network(), images(), []
    for wanted in (True, False):
        torch.manual_seed(1)
        loss, diagnostics, _ = make(name, iw=K)(model, x, return_diagnostics=wanted, particles_per_pass=3)
        found.append((loss.detach(), *torch.autograd.grad(loss.mean(), list(model.parameters()))))
        assert bool(diagnostics) is wanted
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# ------------------------------------------------------------------------------- weights of the KL term, all sorts of q


@pytest.mark.parametrize("settings", [{"beta": 0.3}, {"freebits": 0.4}, {"beta": 0.7, "freebits": 0.2}, {"alpha": 0.4}])
@pytest.mark.parametrize("name", ["vimco", "ovis-S2", "pathwise-iwae", "stl"])
def test_settings_of_the_bound(name: str, settings: dict[str, Any]) -> None:
    model = GaussianVAE((6,), N=4, hdim=5, nlayers=1).double()
    close(*from_the_same_stream(make(name, mc=2, iw=K, **settings), model, images(), 3, 1))


@pytest.mark.parametrize("name", ["pathwise-iwae", "pathwise-vae", "stl"])
def test_relaxed_samples(name: str) -> None:
    model = VAE((6,), prior="categorical", N=3, K=4, hdim=5, nlayers=1).double()
    close(*from_the_same_stream(make(name, iw=K, tau=0.6), model, images(), 3, 1))


@pytest.mark.parametrize("change_mode", [False, True])
def test_dropout_has_the_masks_of_the_forward(change_mode: bool) -> None:
    """Also where the model's mode is another one by the time of the backward."""
    model, estimator, x = network(nlayers=1, hdim=5, dropout=0.5), make("ovis-gamma1", iw=K), images()
    close(*from_the_same_stream(estimator, model, x, 3, 1))
    torch.manual_seed(1)
    expected = torch.autograd.grad(estimator(model, x, particles_per_pass=3)[0].mean(), list(model.parameters()))
    torch.manual_seed(1)
    loss, _, _ = estimator(model, x, particles_per_pass=3)
    if change_mode:
        model.eval()
    found = torch.autograd.grad(loss.mean(), list(model.parameters()))
    assert model.training is not change_mode
    assert all(module.training is not change_mode for module in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_autocast_is_that_of_the_forward() -> None:
    model, estimator, x = network().float(), make("ovis-gamma1", iw=K), images().float()
    found = []
    for inside in (True, False):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            loss, _, _ = estimator(model, x, particles_per_pass=3)
            if inside:
                loss.mean().backward()
        if not inside:
            loss.mean().backward()
        found.append(gradients(model))
        model.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    torch.manual_seed(1)
    loss, _, _ = estimator(model, x, backward=True, particles_per_pass=3)
    assert not all(torch.equal(a, b) for a, b in zip(gradients(model), found[0], strict=True)), "autocast did nothing"


# ------------------------------------------------------------------------------------------------- what is left alone


@pytest.mark.parametrize("name", [name for name in ALL if name not in PATHWISE and name != "reinforce-baseline"])
def test_random_numbers_go_on_where_the_first_pass_ended(name: str) -> None:
    model, estimator, x = network(), make(name, iw=K), images()
    torch.manual_seed(1)
    estimator(model, x, particles_per_pass=3)
    ended = torch.get_rng_state()
    torch.manual_seed(1)
    loss, _, _ = estimator(model, x, particles_per_pass=3)
    torch.rand(3)
    middle = torch.get_rng_state()
    loss.mean().backward()
    assert torch.equal(torch.get_rng_state(), middle)
    torch.manual_seed(1)
    estimator(model, x, backward=True, particles_per_pass=3)
    assert torch.equal(torch.get_rng_state(), ended)


@pytest.mark.parametrize("size", [K, K + 1, 10**6])
def test_one_pass_is_what_it_always_was(size: int) -> None:
    model, estimator, x = network(), make("vimco", iw=K), images()
    found = []
    for settings in ({}, {"particles_per_pass": size}):
        torch.manual_seed(1)
        loss, _, output = estimator(model, x, **settings)
        found.append((loss, torch.rand(()), output["z"][0]))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_no_more_than_a_pass_is_alive() -> None:
    """By the tensors that graphs keep; of the particles' numbers outside of a graph, few."""

    class Kept:
        """A saved tensor, counted while it lives."""

        alive = peak = 0

        def __init__(self, tensor: Tensor):
            self.tensor = tensor.detach()  # an output that a hook holds would hold its graph
            Kept.alive += tensor.numel()
            Kept.peak = max(Kept.peak, Kept.alive)
            weakref.finalize(self, Kept.release, tensor.numel())

        @staticmethod
        def release(count: int) -> None:
            Kept.alive -= count

    def peak(name: str, iw: int, size: int | None) -> int:
        Kept.alive = Kept.peak = 0
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            make(name, iw=iw)(model, x, backward=True, particles_per_pass=size)
        return Kept.peak

    model, x = SigmoidBeliefNetwork((50,), N=20, depth=2).double(), images(2, 50)
    for name in ("vimco", "wake-sleep", "ovis-S2-exclusive", "tvo-part5-config2-left"):
        one, whole = peak(name, 4, None), peak(name, 64, None)
        assert whole > 8 * one
        assert peak(name, 64, 4) == peak(name, 128, 4) <= one + 2 * sum(p.numel() for p in model.parameters())


def test_of_each_pass_the_model_sees_so_many() -> None:
    model = network()
    seen = []
    model.generative_model[0].register_forward_hook(
        lambda m, i, o: seen.append((i[0].shape[1], torch.is_grad_enabled()))
    )
    make("ovis-S5-exclusive", iw=K)(model, images(), backward=True, particles_per_pass=3)
    first = [(3, False), (3, False), (1, False)]
    extra = [(3, False), (2, False)]
    assert seen == first + extra + [(n, True) for n, _ in first]


# ------------------------------------------------------------------------------------------ not numbers, infinities


class Edges(Template):
    """A model of which particles have weight 0: log p(x|z) = -inf where z = 1."""

    def __init__(self, worst: float) -> None:
        super().__init__()
        self.inference_network = nn.Linear(1, 1, dtype=torch.float64)
        self.level = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.worst = worst

    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        qz = Bernoulli(logits=self.inference_network(x), validate_args=False)
        z = qz.sample()
        px = Level(torch.where(z == 1, self.worst, self.level * torch.ones_like(z)))
        return {"px": px, "z": [z], "qz": [qz], "pz": [Bernoulli(logits=self.level.expand(1, 1))]}

    def sample_from_prior(self, bs: int, **kwargs: Any) -> Any:
        raise NotImplementedError


class Level(Normal):
    def __init__(self, value: Tensor):
        self.value = value

    def log_prob(self, value: Tensor) -> Tensor:
        return self.value


@pytest.mark.parametrize("worst", [-float("inf"), float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["reinforce", "vimco", "ovis-gamma1", "rws", "tvo-part2-config1"])
def test_infinite_weights_do_what_they_do_in_one_chunk(name: str, worst: float) -> None:
    x = torch.ones(B, 1, dtype=torch.float64)
    several, one = from_the_same_stream(make(name, iw=K), Edges(worst), x, 3, 1)
    assert not all(torch.isfinite(v).all() for v in (one.loss, *one.grads.values())) or name == "rws" or worst < 0
    close(several, one)


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "all", "3", [3]])
def test_sizes_that_cannot_be(size: Any) -> None:
    message = re.escape(f"particles_per_pass must be an integer of at least 1, 'auto' or None, got {size!r}")
    with pytest.raises(ValueError, match=message):
        make("vimco", iw=K, particles_per_pass=size)
    with pytest.raises(ValueError, match=message):
        make("vimco", iw=K)(network(), images(), particles_per_pass=size)


def vae(normalization: str) -> nn.Module:
    return VAE((6,), prior="bernoulli", N=3, hdim=5, nlayers=1, normalization=normalization).double()


def test_batch_normalization_is_refused_where_it_sees_particles() -> None:
    model, estimator, x = vae("batchnorm"), make("vimco", iw=K), images()
    before = copy.deepcopy(model.generative_model.state_dict())
    for size in (3, "auto"):
        with pytest.raises(ValueError, match=r"particles_per_pass: VAE normalizes by statistics of all particles"):
            estimator(model, x, particles_per_pass=size)
    torch.testing.assert_close(model.generative_model.state_dict(), before)
    estimator(model, x, particles_per_pass=K, backward=True)
    close(*from_the_same_stream(estimator, model.eval(), x, 3, 1))
    close(*from_the_same_stream(estimator, vae("layernorm"), x, 3, 1))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_buffer_that_moves_is_refused() -> None:
    model = network()
    model.generative_model[0] = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 6).double()))
    with pytest.raises(ValueError, match=r"particles_per_pass: \S+ changes its buffer generative_model\.0\.0\."):
        make("vimco", iw=K)(model, images(), particles_per_pass=3)
    close(*from_the_same_stream(make("vimco", iw=K), model.eval(), images(), 3, 1))


class OwnNumbers(ReadmeForm):
    """Draws from a generator that nobody else knows."""

    def __init__(self) -> None:
        super().__init__(OneBernoulli())
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        output = super().forward(x)
        q = output["qz"][0]
        z = torch.bernoulli(q.probs.detach(), generator=self.generator)
        return {"px": self.problem.likelihood([z]), "z": [z], "qz": [q], "pz": [self.problem.prior(0, [z])]}


def test_other_particles_in_the_replay_are_noticed() -> None:
    loss, _, _ = make("vimco", iw=40)(OwnNumbers(), torch.ones(B, 1, dtype=torch.float64), particles_per_pass=13)
    with pytest.raises(RuntimeError, match="particles_per_pass: OwnNumbers drew other particles in the backward"):
        loss.mean().backward()


def test_a_tensor_that_is_no_parameter_is_not_forgotten() -> None:
    problem = OneBernoulli()
    model = ParticleForm(problem)
    secret = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    likelihood = problem.likelihood
    problem.likelihood = lambda z: likelihood([z[0] + secret])  # type: ignore[method-assign]
    loss, _, _ = make("vimco", iw=K)(model, torch.ones(B, 1, dtype=torch.float64), particles_per_pass=3)
    with pytest.raises(ValueError, match=r"a tensor of shape \(1,\) requires a gradient and is no parameter"):
        loss.mean().backward()


def test_parameters_that_changed_before_the_backward() -> None:
    model = network()
    loss, _, _ = make("vimco", iw=K)(model, images(), particles_per_pass=3)
    with torch.no_grad():
        model.prior_logits.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.mean().backward()


class Step(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.estimator = model, make("vimco", iw=K, particles_per_pass=3)

    def forward(self, x: Tensor, **call: Any) -> Tensor:
        return self.estimator(self.model, x, **call)[0].mean()


def test_parameters_that_were_exchanged_for_the_call() -> None:
    step, x = Step(network()), images()
    given = {name: (value.detach() + 0.1).requires_grad_() for name, value in step.named_parameters()}
    loss = functional_call(step, given, (x,))
    with pytest.raises(RuntimeError, match=r"parameter \S+ of SigmoidBeliefNetwork is not the tensor it was"):
        loss.backward()
    torch.manual_seed(1)
    functional_call(step, given, (x,), {"backward": True})
    assert all(value.grad is None for value in step.parameters())
    step.load_state_dict(given, strict=False)
    torch.manual_seed(1)
    step(x).backward()
    for name, value in step.named_parameters():
        torch.testing.assert_close(given[name].grad, value.grad)


def test_function_transforms_are_refused() -> None:
    step, x = Step(network()), images()
    parameters = {name: value.detach() for name, value in step.named_parameters()}
    with pytest.raises(RuntimeError, match=r"particles_per_pass does not work under torch\.func"):
        grad(lambda values: functional_call(step, values, (x,)))(parameters)


def test_samples_without_graph_are_refused_as_in_one_chunk() -> None:
    class NoGraph(ReadmeForm):
        def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
            with torch.no_grad():
                z = super().forward(x)["z"]
            q = self.problem.posterior(0, self.problem.features(x), [])
            return {"px": self.problem.likelihood(z), "z": z, "qz": [q], "pz": [self.problem.prior(0, z)]}

    model, x = NoGraph(OneNormal()), torch.ones(B, 1, dtype=torch.float64)
    for size in (None, 3):
        with pytest.raises(ValueError, match="needs reparameterized samples, and NoGraph returned z without graph"):
            make("pathwise-iwae", iw=K)(model, x, backward=True, particles_per_pass=size)


@pytest.mark.slow
def test_a_compiled_model() -> None:
    model, x, found = network(), images(), []
    for each in (model, torch.compile(model, backend="eager")):
        torch.manual_seed(1)
        make("ovis-gamma1", iw=K)(each, x, backward=True, particles_per_pass=3)
        found.append(gradients(model))
        model.zero_grad()
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
