"""Gradient statistics against closed forms and against plain loops."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from ovis.analysis.gradients import compare_gradients, get_gradients_statistics, select_parameters, summary
from ovis.estimators.config import get_config
from ovis.functional.statistics import RunningMoments, cosine, directional_snr, signal_to_noise
from ovis.models import SigmoidBeliefNetwork, Template


class Gaussian(Template):
    """z ~ N(0, 1), x|z ~ N(z, 1), q = N(b, 1): one parameter, of which the ELBO's gradient is known."""

    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))

    def forward(self, x, zgrads=False, **kwargs):
        qz = Normal(self.b.expand(len(x), 1), 1.0)
        z = qz.rsample() if zgrads else qz.sample()
        return {"px": Normal(z, 1.0), "z": [z], "qz": [qz], "pz": [Normal(torch.zeros_like(z), 1.0)]}

    def sample_from_prior(self, bs, **kwargs):
        raise NotImplementedError


def estimator_of(name, **settings):
    Estimator, config = get_config(name)
    return Estimator(**settings, **config)


def network():
    return SigmoidBeliefNetwork((4,), N=3, depth=2)


def test_pathwise_elbo_gradient_has_its_closed_form():
    """d log w/db = (x - z) - z, z ~ N(b, 1): mean x - 2b, variance 4 for one datum; the loss has the opposite sign."""
    x = torch.tensor([[2.0]], dtype=torch.float64)
    draws = 4000
    stats, meta = get_gradients_statistics(
        estimator_of("vae"), Gaussian(), x, mc_samples=draws, key_filter="b", oracle_grad=torch.tensor([-1.0])
    )
    assert meta.mean.item() == pytest.approx(-1.0, abs=4 * 2 / math.sqrt(draws))
    assert meta.variance.item() == pytest.approx(4.0, abs=4 * 4 * math.sqrt(2 / draws))
    assert stats["grads"]["snr"].item() == pytest.approx(abs(meta.mean.item()) / meta.variance.sqrt().item())
    assert stats["grads"]["direction"].item() == pytest.approx(1.0)
    assert stats["grads"]["keep_ratio"].item() == 1.0


def test_variance_falls_with_the_batch():
    x = torch.full((10, 1), 2.0, dtype=torch.float64)
    _, meta = get_gradients_statistics(estimator_of("vae"), Gaussian(), x, mc_samples=2000, key_filter="b")
    assert meta.variance.item() == pytest.approx(0.4, abs=4 * 0.4 * math.sqrt(2 / 2000))


def test_statistics_are_those_of_the_returned_draws():
    x = (torch.rand(6, 4) < 0.5).float()
    stats, meta = get_gradients_statistics(
        estimator_of("vimco", iw=4), network(), x, mc_samples=50, return_grads=True, eps=1e-15
    )
    grads = meta.grads.double()
    mean, variance = grads.mean(0), grads.var(0)
    torch.testing.assert_close(meta.mean, mean)
    torch.testing.assert_close(meta.variance, variance)
    snr = mean.abs() / variance.sqrt()
    assert stats["grads"]["variance"].item() == pytest.approx(variance.mean().item())
    assert stats["grads"]["snr"].item() == pytest.approx(snr.mean().item())
    for p in (5, 25, 50, 75, 95):
        assert stats["grads"][f"snr_p{p}"].item() == pytest.approx(snr.quantile(p / 100).item())
    unit = mean / mean.norm()
    parallel = grads @ unit
    normal = (grads - parallel[:, None] * unit).norm(dim=1)
    assert stats["grads"]["dsnr"].item() == pytest.approx((parallel.abs() / normal).mean().item())


def test_mode_gradients_and_parameters_are_left_as_found():
    model, x = network().eval(), torch.ones(3, 4)
    for p in model.parameters():
        p.grad = torch.full_like(p, 7.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    get_gradients_statistics(estimator_of("reinforce", iw=2), model, x, mc_samples=3)
    assert not model.training
    assert all((p.grad == 7).all() for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_splitting_the_batch_gives_the_same_gradients():
    model, x = Gaussian(), torch.tensor([[2.0], [1.0], [0.0]], dtype=torch.float64)
    whole, pieces = (
        get_gradients_statistics(
            estimator_of("vae"), model, x, mc_samples=40, key_filter="b", seed=1, samples_per_batch=samples
        )[1]
        for samples in (None, 2)
    )
    torch.testing.assert_close(pieces.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(pieces.variance, whole.variance, rtol=1e-10, atol=0)


def test_entries_without_variance_are_left_out():
    model = network()
    with torch.no_grad():  # a unit that q never sees on: x = -mean + ... has a constant zero weight gradient
        x = torch.zeros(3, 4)
        model.mean.fill_(1.0)  # (x - mean + 1)/2 = 0: no gradient of the first layer's weights
    stats, meta = get_gradients_statistics(estimator_of("vimco", iw=3), model, x, mc_samples=20)
    kept = meta.variance > 1e-15
    assert 0 < stats["grads"]["keep_ratio"].item() < 1
    assert stats["grads"]["keep_ratio"].item() == pytest.approx(kept.double().mean().item())
    assert stats["grads"]["variance"].item() == pytest.approx(meta.variance[kept].mean().item())


def test_a_gradient_that_is_no_number_is_not_taken_for_zero():
    """The variance of a NaN gradient must not be reported as 0; entries without variance are excluded."""
    stats = summary(torch.tensor([1.0, torch.nan, 2.0]), torch.tensor([4.0, torch.nan, 0.0]))
    assert all(stats[name].isnan() for name in ("variance", "magnitude", "snr", *(f"snr_p{p}" for p in (5, 50, 95))))
    assert stats["keep_ratio"].item() == pytest.approx(2 / 3)
    model = Gaussian()
    with torch.no_grad():
        model.b.fill_(torch.nan)
    x = torch.zeros(2, 1, dtype=torch.float64)
    Normal.set_default_validate_args(False)
    try:
        stats, _ = get_gradients_statistics(estimator_of("vae"), model, x, mc_samples=4, key_filter="b")
    finally:
        Normal.set_default_validate_args(True)
    assert all(stats["grads"][name].isnan() for name in ("variance", "magnitude", "snr", "dsnr"))


def test_parameters_are_selected_by_name():
    model = network()
    assert all("inference_network" in name for name in select_parameters(model, "inference_network"))
    both = select_parameters(model, "inference_network, prior_logits")
    assert "prior_logits" in both
    with pytest.raises(ValueError, match=r"'phi'.*inference_network"):
        select_parameters(model, "phi")
    with pytest.raises(ValueError, match="at least 2"):
        get_gradients_statistics(estimator_of("vimco", iw=2), model, torch.ones(1, 4), mc_samples=1)
    for message, options in (
        ("whole number, got 2.5", {"mc_samples": 2.5}),
        ("samples_per_batch must be", {"samples_per_batch": -5}),
        (r"oracle_grad must have shape \[\d+\]", {"oracle_grad": torch.ones(3), "mc_samples": 2}),
    ):
        with pytest.raises(ValueError, match=message):
            get_gradients_statistics(estimator_of("vimco", iw=2), model, torch.ones(1, 4), **options)
    with pytest.raises(ValueError, match="no estimator"):
        compare_gradients({}, model, torch.ones(1, 4))


def test_running_moments_equal_those_of_all_draws_at_once():
    draws = torch.randn(101, 5, dtype=torch.float64) * 1e-3 + 1e3
    moments = RunningMoments(5)
    for part in draws.split([1, 50, 7, 43]):
        moments.update(part)
    torch.testing.assert_close(moments.mean, draws.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(moments.variance, draws.var(0), rtol=1e-9, atol=0)
    assert RunningMoments(2).variance.isnan().all()


def test_small_formulas():
    assert signal_to_noise(torch.tensor([3.0]), torch.tensor([4.0])).item() == 1.5
    assert signal_to_noise(torch.tensor([3.0]), torch.tensor([0.0]), eps=0.5).item() == 6.0
    draws = torch.tensor([[2.0, 1.0], [2.0, -1.0]])
    assert directional_snr(draws, draws.mean(0)).item() == pytest.approx(2.0)
    assert cosine(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])).item() == pytest.approx(math.sqrt(0.5))
    assert cosine(torch.zeros(2), torch.ones(2)).item() == 0.0
