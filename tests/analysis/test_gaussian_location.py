"""The location's draws: against autograd on the same noise, and against the closed form at K = 200, D = 3."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ovis.analysis.closed_form import location_moments
from ovis.analysis.gaussian_location import LocationGradientSampler
from ovis.analysis.seeding import fill_normal, seeded_generator
from ovis.estimators import GradientEstimator, get_config
from ovis.estimators.types import Particles
from ovis.models import GaussianToyVAE

NAMES = (
    *("ovis-gamma0", "ovis-gamma1", "ovis-S1-exclusive", "ovis-S10-exclusive", "vimco", "vimco-geometric"),
    *("reinforce", "iwae", "stl", "dreg"),
)


def make(*names: str, iw: int, **settings: Any) -> dict[str, GradientEstimator]:
    found = {}
    for name in names:
        Estimator, config = get_config(name)
        found[name] = Estimator(iw=iw, **settings, **config)
    return found


def toy(scale: float = 2 / 3, offset: tuple[float, ...] = (0.1, -0.05, 0.0)) -> GaussianToyVAE:
    """At x = 0, q is off the posterior's mean by the offset."""
    model = GaussianToyVAE(len(offset), scale=scale).double()
    with torch.no_grad():
        model.b.copy_(torch.tensor(offset))
    return model


def by_autograd(
    estimator: GradientEstimator, model: GaussianToyVAE, x: Tensor, noise: Tensor, aux: Tensor | None
) -> Tensor:
    """Gradient of the mean loss with respect to b, through distributions and the estimator's own loss."""
    given = [noise] + ([] if aux is None else [aux])

    class Fixed(GaussianToyVAE):
        def infer(self, features: Tensor, lead: Any, zgrads: bool, tau: float, z: Any) -> Any:
            sample = features + self.scale * given.pop(0).transpose(1, 2)
            _, q = super().infer(features, lead, zgrads, tau, [sample])
            return [sample if zgrads else sample.detach()], q

    twin = Fixed(3, scale=model.scale).double()
    twin.load_state_dict(model.state_dict())
    loss = estimator(twin, x, return_diagnostics=False)[0].mean()
    (gradient,) = torch.autograd.grad(loss, twin.b)
    return gradient


@pytest.mark.parametrize("name", [*NAMES, "ovis-S2", "rws", "tvo-part2-config1", "vae"])
@pytest.mark.parametrize("mc", [1, 2])
def test_equals_autograd_on_the_same_noise(name: str, mc: int) -> None:
    iw, draws = 5, 2
    model = toy()
    with torch.no_grad():
        model.A.normal_(generator=torch.Generator().manual_seed(1))
        model.mu.fill_(0.3)
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (estimator,) = make(name, iw=iw, mc=mc).values()
    count = {"ovis-S1-exclusive": 1, "ovis-S10-exclusive": 10}.get(name)
    found = torch.cat(list(LocationGradientSampler({name: estimator}, model, x, seed=6)(0, draws)))
    for i in range(draws):
        main = fill_normal(torch.empty(7, 3, mc * iw, dtype=x.dtype), [seeded_generator(x.device, 6, 0, i)])
        aux = fill_normal(
            torch.empty(7, 3, mc * (count or 1), dtype=x.dtype), [seeded_generator(x.device, 6, count or 0, i)]
        )
        expected = by_autograd(estimator, model, x, main, aux if count else None)
        torch.testing.assert_close(found[i, 0], expected, rtol=1e-8, atol=1e-12)


def test_chunks_make_the_same_draws() -> None:
    model, x = toy(), torch.randn(48, 3, dtype=torch.float64)
    estimators = make(*NAMES, iw=6)
    whole = torch.cat(list(LocationGradientSampler(estimators, model, x, seed=1)(0, 9)))
    for particles in (96, 192, 48 * 6 * 4):
        found = torch.cat(
            list(LocationGradientSampler(estimators, model, x, seed=1, samples_per_batch=particles)(0, 9))
        )
        torch.testing.assert_close(found, whole, rtol=1e-11, atol=1e-15)
    for name, estimator in estimators.items():
        alone = torch.cat(list(LocationGradientSampler({name: estimator}, model, x, seed=1)(4, 9)))
        torch.testing.assert_close(alone[:, 0], whole[4:, list(estimators).index(name)], rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize(("rows", "D", "iw"), [(17, 3, 3), (33, 2, 4), (20, 3, 3), (32, 1, 3), (16, 2, 3), (5, 1, 2)])
def test_chunks_make_the_same_draws_whatever_is_left_over(rows: int, D: int, iw: int) -> None:
    """torch makes fewer than 16 normals in another way: a small last piece would have other numbers."""
    model = toy(offset=(0.1, -0.05, 0.0)[:D])
    x = torch.randn(rows, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    estimators = make("ovis-gamma0", "ovis-S1-exclusive", "iwae", iw=iw)
    whole = torch.cat(list(LocationGradientSampler(estimators, model, x, seed=1)(0, 3)))
    found = torch.cat(list(LocationGradientSampler(estimators, model, x, seed=1, samples_per_batch=16 * iw)(0, 3)))
    torch.testing.assert_close(found, whole, rtol=1e-11, atol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2 / 3, (2 / 3) ** 0.5], ids=["std 2/3", "variance 2/3"])
def test_moments_agree_with_the_closed_form(scale: float) -> None:
    """K = 200, D = 3, within three standard errors, for every estimator that has one."""
    model, x, draws = toy(scale), torch.zeros(16, 3, dtype=torch.float64), 1500
    estimators = make(*NAMES, iw=200)
    found = torch.cat(list(LocationGradientSampler(estimators, model, x, seed=21)(0, draws)))
    for place, name in enumerate(NAMES):
        theory = location_moments(model, x, name, 200)
        sample = found[:, place]
        mean, variance = sample.mean(0), sample.var(0)
        kurtosis = (sample - mean).pow(4).mean(0) / variance.square()
        assert ((mean - theory.mean).abs() < 3 * (variance / draws).sqrt()).all(), name
        assert ((variance - theory.variance).abs() < 3 * variance * ((kurtosis - 1) / draws).sqrt()).all(), name


def test_the_closed_form_has_the_published_values() -> None:
    """Derived independently, for one datum."""
    model, x = toy(), torch.zeros(1, 3, dtype=torch.float64)
    mean = location_moments(model, x, "ovis-gamma0", 200).mean
    torch.testing.assert_close(
        -mean, torch.tensor([-1.359e-3, 6.80e-4, 0.0], dtype=torch.float64), rtol=0.05, atol=1e-9
    )
    assert location_moments(model, x, "vimco", 200).variance[0].item() == pytest.approx(0.01125)
    assert location_moments(model, x, "vimco-geometric", 200).variance[0].item() == pytest.approx(0.0108, rel=0.01)
    wake = location_moments(model, x, "ovis-gamma1", 200)
    assert (-wake.mean)[:2].tolist() == pytest.approx([-0.224, 0.112], rel=0.01)
    for name, published in {
        "ovis-gamma0": (2.5e-7, 2.1e-7, 2.0e-7),
        "ovis-S10-exclusive": (1.3e-7, 8.7e-8, 7.7e-8),
    }.items():
        assert location_moments(model, x, name, 200).variance.tolist() == pytest.approx(published, rel=0.06)


def test_log_weights_are_those_of_the_distributions() -> None:
    model, x = toy(0.8), torch.randn(4, 3, dtype=torch.float64)
    noise = torch.randn(4, 3, 6, dtype=torch.float64)
    z = model.encode(x).unsqueeze(1) + model.scale * noise.transpose(1, 2)
    output = model(x, particles=6, z=[z])
    log_px, log_pz = output["px"].log_prob(x.unsqueeze(1)), output["pz"][0].log_prob(z)
    particles = Particles(log_px, log_pz.unsqueeze(-1), output["qz"][0].log_prob(z).unsqueeze(-1), {})
    torch.testing.assert_close(model.noise_log_weights(x, noise), particles.log_w())


def test_what_has_no_plain_factors_is_refused() -> None:
    model, x = toy(), torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="more than factors"):
        LocationGradientSampler(make("wake-sleep", iw=3), model, x)
    with pytest.raises(ValueError, match="more than factors"):
        LocationGradientSampler(make("iwae", iw=3, beta=0.5), model, x)
    with pytest.raises(ValueError, match="no closed form"):
        location_moments(model, x, "tvo-part2-config1", 10)
    with pytest.raises(ValueError, match="fourth moment"):
        location_moments(toy(0.5), x, "ovis-gamma0", 10)
