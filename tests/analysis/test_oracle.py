"""The oracle against the enumeration of tests/problems.py, which shares no code with it, and known values."""

from __future__ import annotations

import pytest
import torch
from problems import (
    DISCRETE,
    OneBernoulli,
    OneNormal,
    ParticleForm,
    ReadmeForm,
    SmallBeliefNetwork,
    TwoBernoulli,
    exact_bound,
    expectation,
)

from ovis.analysis.enumeration import latent_states
from ovis.analysis.oracle import check_estimator, exact_gradient, exact_moments
from ovis.estimators import GradientEstimator, get_config
from ovis.estimators.reinforce import Reinforce
from ovis.estimators.types import Estimate
from ovis.functional.surrogates import score_factors

X = torch.ones(1, 1, dtype=torch.float64)


def make(name: str, **settings: float) -> GradientEstimator:
    Estimator, config = get_config(name)
    return Estimator(**settings, **config)


@pytest.mark.parametrize("problem", DISCRETE)
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_the_exact_gradient(problem: str, alpha: float) -> None:
    expected = exact_bound(DISCRETE[problem](), 1.0, 3, alpha).phi
    torch.testing.assert_close(exact_gradient(ParticleForm(DISCRETE[problem]()), X, 3, alpha), -expected)


@pytest.mark.parametrize("problem", DISCRETE)
def test_the_exact_gradient_with_beta_and_free_bits(problem: str) -> None:
    for beta, freebits in ((0.5, None), (0.5, 0.1)):
        expected = exact_bound(DISCRETE[problem](), 1.0, 2, 0.0, beta, freebits).phi
        found = exact_gradient(ParticleForm(DISCRETE[problem]()), X, 2, beta=beta, freebits=freebits)
        torch.testing.assert_close(found, -expected)


@pytest.mark.parametrize("name", ["reinforce", "vimco", "ovis-gamma1", "ovis-S1-exclusive", "ovis-S1", "rws"])
def test_the_exact_mean(name: str) -> None:
    extra = 1 if name.endswith("exclusive") else 0
    expected = expectation(make(name, iw=3), ParticleForm(TwoBernoulli()), TwoBernoulli(), 1.0, extra=extra).phi
    found = exact_moments(make(name, iw=3), ParticleForm(TwoBernoulli()), X, auxiliary=extra)
    torch.testing.assert_close(found.mean, expected)


@pytest.mark.parametrize(
    ("name", "iw", "variance"),
    [
        *(("reinforce", 2, 1.45742873), ("vimco", 2, 0.13252962), ("vimco-geometric", 3, 0.07118854)),
        *(("ovis-gamma0", 2, 0.09380782), ("ovis-gamma0", 3, 0.01929858), ("vimco", 3, 0.09470876)),
    ],
)
def test_published_variances(name: str, iw: int, variance: float) -> None:
    """One Bernoulli latent. The bias of q's linear map has the gradient of its logit."""
    found = exact_moments(make(name, iw=iw), ParticleForm(OneBernoulli()), X, key_filter="inference_network.bias")
    assert found.variance.tolist() == pytest.approx([variance], abs=1e-8)


def test_models_of_the_package_are_enumerated() -> None:
    problem = SmallBeliefNetwork()
    expected = exact_bound(problem, 1.0, 3).phi
    torch.testing.assert_close(exact_gradient(problem.model, X, 3), -expected)
    both = torch.cat([X, 0 * X])
    mean = (exact_gradient(problem.model, X, 2) + exact_gradient(problem.model, 0 * X, 2)) / 2
    torch.testing.assert_close(exact_gradient(problem.model, both, 2), mean)
    moments = [exact_moments(make("vimco", iw=2), problem.model, x).variance for x in (X, 0 * X, both)]
    torch.testing.assert_close(moments[2], (moments[0] + moments[1]) / 4)


@pytest.mark.parametrize(
    ("name", "verdict"),
    [("ovis-gamma0", "unbiased"), ("vimco", "unbiased"), ("ovis-gamma1", "biased"), ("rws", "biased")],
)
def test_verdicts_by_enumeration(name: str, verdict: str) -> None:
    found = check_estimator(make(name, iw=3), ParticleForm(TwoBernoulli()), X, mc_samples=3000)
    assert found.verdict == verdict
    assert found.reference == "enumeration"
    exact = exact_moments(make(name, iw=3), ParticleForm(TwoBernoulli()), X)
    assert found.variance == pytest.approx(exact.variance.mean().item(), rel=0.2)


@pytest.mark.parametrize(("name", "verdict"), [("iwae", "unbiased"), ("dreg", "unbiased"), ("stl", "biased")])
def test_verdicts_on_a_continuous_model(name: str, verdict: str) -> None:
    """q is far off, so the bias is large."""
    found = check_estimator(make(name, iw=4), ParticleForm(OneNormal()), 2 * X, mc_samples=2000)
    assert found.verdict == verdict
    assert "ovis-gamma0" in found.reference


@pytest.mark.parametrize(
    ("name", "settings", "claim"),
    [
        ("ovis-S2", {"iw": 4}, "L_{K-S}"),  # of two particles
        ("tvo-part1-config1", {"iw": 4}, "ELBO"),
        ("vimco", {"iw": 3, "beta": 0.5}, "L_K"),
        ("vimco", {"iw": 3, "freebits": 0.1, "alpha": 0.4}, "L_K"),
    ],
)
def test_an_estimator_is_compared_with_the_bound_that_it_claims(
    name: str, settings: dict[str, float], claim: str
) -> None:
    found = check_estimator(make(name, **settings), ParticleForm(TwoBernoulli()), X, mc_samples=3000)
    assert (found.reference, found.bound, found.verdict) == ("enumeration", claim, "unbiased")
    assert f"unbiased for {claim}" in str(found).splitlines()[-1]


@pytest.mark.parametrize("settings", [{"iw": 1}, {"iw": 4}, {"iw": 2, "beta": 0.5}])
def test_the_elbo_of_a_continuous_model(settings: dict[str, float]) -> None:
    found = check_estimator(make("vae", **settings), ParticleForm(OneNormal()), 2 * X, mc_samples=1000)
    assert (found.bound, found.verdict) == ("ELBO", "unbiased")
    assert "one partition" in found.reference


def test_settings_of_the_call_make_the_claim() -> None:
    found = check_estimator(
        make("ovis-gamma1", iw=3), ParticleForm(TwoBernoulli()), X, mc_samples=3000, gamma=0.0, beta=0.5
    )
    assert (found.claim, found.verdict) == ("L_K", "unbiased")


class Clumsy(Reinforce):
    """An estimator of a user's own that forgets a term."""

    def estimate(self, sample):  # type: ignore[no-untyped-def]
        signal = 0.5 * super().estimate(sample).factors.log_q
        return Estimate(score_factors(sample.log_w, signal))


def test_a_mistake_is_found_and_told() -> None:
    found = check_estimator(Clumsy(iw=3), ParticleForm(OneBernoulli()), X, mc_samples=20_000)
    assert found.verdict == "biased"
    assert found.claim == "L_K"
    lines = str(found).splitlines()
    assert lines[0] == "Clumsy"
    assert [line.split()[1:] for line in lines if "verdict" in line] == [["biased", "for", "L_K"]]


def test_noise_is_not_taken_for_a_proof() -> None:
    assert (
        check_estimator(make("reinforce", iw=3), ParticleForm(TwoBernoulli()), X, mc_samples=50).verdict == "undecided"
    )


def test_what_can_not_be_enumerated_is_refused() -> None:
    with pytest.raises(ValueError, match="Normal latents"):
        exact_gradient(ParticleForm(OneNormal()), X, 2)
    with pytest.raises(ValueError, match="too many"):
        exact_gradient(ParticleForm(TwoBernoulli()), X, 10)
    with pytest.raises(ValueError, match="auxiliary"):
        exact_moments(make("ovis-S1-exclusive", iw=2), ParticleForm(TwoBernoulli()), X)
    with pytest.raises(ValueError, match="reparameterized"):
        exact_moments(make("iwae", iw=2), ParticleForm(TwoBernoulli()), X)


def test_a_model_that_may_draw_instead_of_scoring_is_refused() -> None:
    """forward(**kwargs) of a ``Template`` ignores z: its gradient would be a random wrong number."""
    model = ReadmeForm(OneBernoulli())
    with pytest.raises(ValueError, match="ReadmeForm can't be enumerated"):
        latent_states(model, X)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ReadmeForm can't be enumerated"):
        exact_gradient(model, X, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ReadmeForm can't be enumerated"):
        exact_moments(make("vimco", iw=2), model, X)  # type: ignore[arg-type]


def test_calls_that_can_not_be_answered_are_refused_in_a_line() -> None:
    with pytest.raises(ValueError, match="iw must be an integer of at least 1, got 0"):
        exact_gradient(ParticleForm(OneBernoulli()), X, 0)
    with pytest.raises(ValueError, match="call it once before"):
        exact_moments(make("reinforce-baseline", iw=2), ParticleForm(OneBernoulli()), X)
