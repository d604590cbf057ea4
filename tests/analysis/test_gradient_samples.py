"""Numbered draws: the same whatever is grouped with what, whatever is drawn beside, and equal to plain calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import BernoulliNormal, OneBernoulli, OneNormal, ParticleForm, Problem, ReadmeForm, TwoBernoulli
from slow_cases import slow_except
from torch import Tensor, nn
from torch.distributions import Bernoulli, Beta, Dirichlet, Normal, kl_divergence

from ovis.analysis.gradient_samples import ParameterGradientSampler, TensorGradientSampler
from ovis.analysis.gradients import compare_gradients, get_gradients_statistics
from ovis.analysis.random_inputs import RandomInputs, make_random_inputs, record_random_inputs
from ovis.estimators import GradientEstimator, get_config
from ovis.models import GaussianMixture, GaussianToyVAE, SigmoidBeliefNetwork
from ovis.models.gaussian_vae import GaussianVAE

SCORE = ("reinforce", "vimco", "ovis-gamma0", "ovis-S1-exclusive", "ovis-S3-exclusive", "ovis-S2", "rws", "wake-sleep")
PATHWISE = ("vae", "iwae", "stl", "dreg")


def make(*names: str, **settings: Any) -> dict[str, GradientEstimator]:
    found = {}
    for name in names:
        Estimator, config = get_config(name)
        found[name] = Estimator(**{"iw": 4, "mc": 2, **settings, **config})
    return found


def cases() -> dict[str, tuple[nn.Module, Tensor, str, tuple[str, ...]]]:
    torch.manual_seed(0)
    binary = (torch.rand(5, 6) < 0.5).double()
    network = SigmoidBeliefNetwork((6,), N=4, depth=3).double()
    mixture = GaussianMixture(N=5).double()
    vae = GaussianVAE((6,), N=3, hdim=4, nlayers=1).double()
    one = torch.linspace(-1, 2, 5, dtype=torch.float64).unsqueeze(1)
    bits = binary[:, :1]
    return {
        "belief network": (network, binary, "inference_network", SCORE),
        "mixture": (mixture, one * 20, "phi", SCORE),
        "gaussian vae": (vae, binary, "inference_network", (*SCORE, *PATHWISE)),
        "normal and bernoulli": (ParticleForm(BernoulliNormal()), bits, "inference_network", SCORE[:6]),
        "readme, discrete": (ReadmeForm(TwoBernoulli()), bits, "inference_network", SCORE[:6]),
        "readme, continuous": (ReadmeForm(OneNormal()), one, "inference_network", (*SCORE[:6], *PATHWISE)),
        "toy": (GaussianToyVAE(3).double(), torch.randn(5, 3, dtype=torch.float64), "b", (*SCORE[:7], *PATHWISE)),
    }


CASES = cases()


@pytest.mark.parametrize("case", slow_except(["readme, discrete"], CASES))
def test_draws_do_not_depend_on_their_grouping(case: str) -> None:
    model, x, key, names = CASES[case]
    whole = torch.cat(list(ParameterGradientSampler(make(*names), model, x, key, seed=3)(0, 7)))
    assert whole.shape[:2] == (7, len(names))
    assert (whole.std(0) > 0).any(-1).all(), "an estimator's draws are all the same"
    for particles in (8, 24, 2 * 8 * len(x)):  # a datum, three data, two draws at a time
        draws = ParameterGradientSampler(make(*names), model, x, key, seed=3, samples_per_batch=particles)
        torch.testing.assert_close(torch.cat(list(draws(0, 7))), whole, rtol=1e-11, atol=1e-13)
    later = torch.cat(list(ParameterGradientSampler(make(*names), model, x, key, seed=3)(5, 7)))
    torch.testing.assert_close(later, whole[5:], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("case", slow_except(["readme, discrete", "toy"], CASES))
def test_estimators_have_the_draws_of_separate_runs(case: str) -> None:
    model, x, key, names = CASES[case]
    together = torch.cat(list(ParameterGradientSampler(make(*names), model, x, key, seed=3)(0, 4)))
    for place, (name, estimator) in enumerate(make(*names).items()):
        alone = torch.cat(list(ParameterGradientSampler({name: estimator}, model, x, key, seed=3)(0, 4)))
        torch.testing.assert_close(alone[:, 0], together[:, place], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("case", ["belief network", "mixture", "gaussian vae", "toy"])
def test_the_models_of_the_package_are_mapped(case: str) -> None:
    """None of them falls back to one draw at a time, pathwise estimators included."""
    model, x, key, names = CASES[case]
    draws = ParameterGradientSampler(make(*names), model, x, key)
    list(draws(0, 3))
    assert draws.mapped


@pytest.mark.parametrize("name", [*SCORE[:3], *PATHWISE])
def test_a_draw_is_what_a_plain_call_makes_of_the_same_noise(name: str) -> None:
    model, x, key, _ = CASES["gaussian vae"]
    (estimator,) = make(name).values()
    requests, _ = record_random_inputs(lambda: estimator(model, x[:1]))
    noise = make_random_inputs(requests, range(2 * len(x), 3 * len(x)), x.device, seed=9, purpose=0)
    with RandomInputs(noise):
        loss = estimator(model, x)[0].mean()
    parameters = [p for n, p in model.named_parameters() if key in n]
    plain = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
    (draw,) = ParameterGradientSampler({name: estimator}, model, x, key, seed=9)(2, 3)
    torch.testing.assert_close(draw[0, 0], plain)


def test_a_model_that_can_not_be_mapped_is_drawn_one_by_one() -> None:
    class Branching(ReadmeForm):
        def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
            output = super().forward(x, zgrads, **kwargs)
            return output if bool(output["z"][0].sum() > -1) else {}

    one = torch.ones(3, 1, dtype=torch.float64)
    draws = ParameterGradientSampler(make("vimco"), Branching(TwoBernoulli()), one, seed=1)
    found = torch.cat(list(draws(0, 5)))
    assert not draws.mapped
    expected = torch.cat(list(ParameterGradientSampler(make("vimco"), ReadmeForm(TwoBernoulli()), one, seed=1)(0, 5)))
    torch.testing.assert_close(found, expected)


class Counting(ReadmeForm):
    """Counts its calls in a buffer, in place or not, and has an autograd.Function without vmap support."""

    calls: Tensor

    class Same(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad

    def __init__(self, problem: Problem, in_place: bool):
        super().__init__(problem)
        self.register_buffer("calls", torch.zeros(()))
        self.in_place = in_place

    def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
        self.calls = self.calls.add_(1) if self.in_place else self.calls + 1
        output = super().forward(x, zgrads, **kwargs)
        (q,) = output["qz"]
        logits = self.Same.apply(q.logits)
        return {**output, "qz": [Bernoulli(logits=logits)]}


@pytest.mark.parametrize("in_place", [False, True])
def test_what_torch_func_can_not_differentiate_is_differentiated_and_buffers_are_left(in_place: bool) -> None:
    ones = torch.ones(3, 1, dtype=torch.float64)
    model = Counting(OneBernoulli(), in_place)
    draws = ParameterGradientSampler(make("vimco", "ovis-gamma1"), model, ones, seed=1)
    found = torch.cat(list(draws(0, 5)))
    assert not draws.mapped
    expected = ParameterGradientSampler(make("vimco", "ovis-gamma1"), ReadmeForm(OneBernoulli()), ones, seed=1)
    torch.testing.assert_close(found, torch.cat(list(expected(0, 5))))
    tensors = TensorGradientSampler(make("vimco"), model, ones, "qlogits", seed=1)
    assert len(torch.cat(list(tensors(0, 2)))) == 2
    assert model.calls == 0


@pytest.mark.parametrize("law", [Beta, Dirichlet])
def test_a_q_of_which_the_samples_are_functions_of_autograd(law: Any) -> None:
    """E log w is the ELBO: its pathwise gradient from the draws, against the one of KL(q || p), which torch knows."""

    class Simplex(ReadmeForm):
        def __init__(self) -> None:
            super().__init__(OneBernoulli())
            self.inference_network = nn.Parameter(torch.tensor([0.4, 0.1], dtype=torch.float64))

        def q(self) -> Any:
            values = self.inference_network.exp()
            return law(values) if law is Dirichlet else law(values[:1], values[1:])

        def forward(self, x: Tensor, zgrads: bool = False, **kwargs: Any) -> Any:
            q = self.q().expand((len(x), *self.q().batch_shape))
            z = q.rsample() if zgrads else q.sample()
            prior = Dirichlet(torch.ones(2)) if law is Dirichlet else Beta(torch.ones(1), torch.ones(1))
            return {"px": Normal(torch.zeros(1), 1.0).expand((len(x), 1)), "z": [z], "qz": [q],
                    "pz": [prior.expand(q.batch_shape)]}  # fmt: skip

    model, prior = Simplex(), Dirichlet(torch.ones(2)) if law is Dirichlet else Beta(torch.ones(1), torch.ones(1))
    (exact,) = torch.autograd.grad(kl_divergence(model.q(), prior).sum(), model.inference_network)
    x = torch.ones(1, 1, dtype=torch.float64)
    draws = torch.cat(list(ParameterGradientSampler(make("vae"), model, x, "inference_network", seed=1)(0, 300)))[:, 0]
    draws = draws[:, :2]  # the others are the problem's own
    assert (draws.std(0) > 0).all()
    assert ((draws.mean(0) - exact).abs() < 4 * draws.std(0) / 300**0.5).all()


@pytest.mark.parametrize(("key", "entries"), [("qlogits", 5 * (4 + 8 * 4 + 8 * 4)), ("xlogits", 5 * 8 * 6)])
def test_gradients_of_tensors(key: str, entries: int) -> None:
    """Chunked or not, of one or several estimators; those of the logits of q(z_1|x) sum to the bias' gradient."""
    model, x, _, _ = CASES["belief network"]
    estimators = make("vimco", "ovis-gamma1")
    whole = torch.cat(list(TensorGradientSampler(estimators, model, x, key, seed=2)(0, 3)))
    assert whole.shape == (3, 2, entries)
    chunked = torch.cat(list(TensorGradientSampler(estimators, model, x, key, seed=2, samples_per_batch=8)(0, 3)))
    torch.testing.assert_close(chunked, whole)
    if key == "qlogits":
        bias = torch.cat(
            list(ParameterGradientSampler(estimators, model, x, "inference_network.0.0.bias", seed=2)(0, 3))
        )
        torch.testing.assert_close(whole.view(3, 2, 5, -1)[..., :4].sum(2), bias)


def test_statistics_of_a_tensor_and_a_key_that_is_none() -> None:
    model, x, _, _ = CASES["gaussian vae"]
    (estimator,) = make("iwae").values()
    stats, meta = get_gradients_statistics(estimator, model, x, 20, key_filter="tensor:qloc")
    assert meta.mean.shape == (5 * 3,)
    assert stats["grads"]["snr"] > 0
    with pytest.raises(ValueError, match=r"no tensor 'qnothing'.*px"):
        get_gradients_statistics(estimator, model, x, 20, key_filter="tensor:qnothing")


def test_a_study_of_several_estimators_is_their_separate_studies() -> None:
    model, x, key, _ = CASES["toy"]  # the location's own draws
    estimators = make("ovis-gamma0", "ovis-S3-exclusive", "ovis-S1-exclusive", "iwae")
    study = compare_gradients(estimators, model, x, 30, key, seed=4)
    for name, (stats, meta) in study.items():
        alone, alone_meta = get_gradients_statistics(estimators[name], model, x, 30, key, seed=4)
        torch.testing.assert_close(meta.mean, alone_meta.mean, rtol=1e-12, atol=1e-16)
        assert stats["grads"]["dsnr"].item() == pytest.approx(alone["grads"]["dsnr"].item(), rel=1e-10)


def test_the_directional_snr_is_the_same_where_draws_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from ovis.analysis import gradients

    model, x, key, _ = CASES["mixture"]
    (estimator,) = make("vimco").values()
    kept, _ = get_gradients_statistics(estimator, model, x, 30, key, seed=4)
    monkeypatch.setattr(gradients, "MAX_KEPT_BYTES", 0)
    again, _ = get_gradients_statistics(estimator, model, x, 30, key, seed=4)
    assert again["grads"]["dsnr"].item() == pytest.approx(kept["grads"]["dsnr"].item(), rel=1e-12)


def test_the_global_random_state_is_left_and_a_seed_repeats() -> None:
    model, x, key, _ = CASES["belief network"]
    (estimator,) = make("ovis-S1-exclusive").values()
    before = torch.get_rng_state()
    first, _ = get_gradients_statistics(estimator, model, x, 5, key, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    second, _ = get_gradients_statistics(estimator, model, x, 5, key, seed=1)
    other, _ = get_gradients_statistics(estimator, model, x, 5, key, seed=2)
    assert first["grads"]["snr"] == second["grads"]["snr"] != other["grads"]["snr"]


def test_statistics_of_the_batch_are_those_of_all_data_and_the_model_keeps_its_own() -> None:
    torch.manual_seed(1)
    model = SigmoidBeliefNetwork((6,), N=4, depth=1, nlayers=1, hdim=5, normalization="batchnorm").double().train()
    x = (torch.rand(5, 6) < 0.5).double()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert any("running_mean" in name for name in before)
    grads = []
    for particles in (None, 8):
        _, meta = get_gradients_statistics(
            make("vimco")["vimco"], model, x, 3, samples_per_batch=particles, return_grads=True, seed=1
        )
        grads.append(meta.grads)
    assert grads[0] is not None
    torch.testing.assert_close(grads[0], grads[1])
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert all(module.training for module in model.modules())
    draws = ParameterGradientSampler(make("vimco"), model, x, seed=1)
    torch.testing.assert_close(torch.cat(list(draws(0, 3)))[:, 0], grads[0])
    assert draws.mapped
