"""Every estimator's expected gradient against the exact one: sums over all tuples of particles, no sampling noise."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from estimator_cases import ALL, EXCLUSIVE, INCLUSIVE, PATHWISE, PIWAE, SCORE, TVO, WAKE, make
from problems import (
    DISCRETE,
    FORMS,
    BernoulliNormal,
    OneBernoulli,
    ParticleForm,
    Problem,
    SmallBeliefNetwork,
    TwoBernoulli,
    all_tuples,
    exact_bound,
    exact_evidence,
    expectation,
    gradient,
    phi_of,
    scripted,
    theta_of,
)
from torch import Tensor, nn

from ovis.estimators import ESTIMATORS, GradientEstimator
from ovis.estimators.ids import parse_estimator
from ovis.functional import multisample_loss

EXACT = 1e-10
#: What "biased" means below: further from the gradient of L_K than this, where the gradient is of order 0.1.
MARGIN = 1e-3

#: name -> (estimator settings at K particles, S drawn on top)
SAMPLED = [*SCORE, *EXCLUSIVE, *INCLUSIVE]


class TableBaseline(nn.Module):
    """b(x), some value for each datum: no such function may change an expectation."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor([0.7], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.level * (1 + x[:, 0])


def build(name: str, **settings: object) -> GradientEstimator:
    extra = {"baseline": TableBaseline()} if name == "reinforce-baseline" else {}
    return make(name, **settings, **extra)


def close(a: Tensor, b: Tensor, tolerance: float = EXACT) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def target(estimator: GradientEstimator, extra: int, alpha: float) -> tuple[int, float] | None:
    """(K, alpha) of the bound that the estimator names."""
    settings = estimator.settings
    named = {
        "L_K": (settings.iw, alpha),
        "L_{K-S}": (settings.iw - getattr(settings, "count", 0), alpha),
        "ELBO": (1, 0.0),
        None: None,
    }
    return named[estimator.unbiased_for]


def test_the_table_is_that_of_the_names() -> None:
    """RLOO has a test of its own, and mixed latents have test_mixed.py."""
    assert {parse_estimator(name).family for name in [*ALL, "rloo"]} == set(ESTIMATORS) - {"mixed"}


# ------------------------------------------------------------------------------------------- every id, every problem


def check(name: str, problem: Problem, model: nn.Module, x: float, alpha: float, iw: int, mc: int = 1, **objective):
    """Value and theta-gradient, the phi-gradient of the bound it names, or its known bias."""
    extra = EXCLUSIVE.get(name, 0)
    estimator = build(name, iw=iw, mc=mc, **({"alpha": alpha} if alpha else {}), **objective)
    result = expectation(estimator, model, problem, x, extra=extra)
    whole = exact_bound(problem, x, iw, alpha, **objective)
    assert result.value == pytest.approx(-whole.bound, abs=EXACT)
    close(-result.theta, whole.theta)
    assert whole.phi.norm() > 10 * MARGIN, "a gradient this small would hide an error"
    named = target(estimator, extra, alpha)
    if named is not None:
        close(-result.phi, exact_bound(problem, x, *named, **objective).phi)
        return
    assert (-result.phi - whole.phi).norm() > MARGIN
    known = {"wake-wake": whole.wake_phi}
    if name.startswith("ovis-gamma"):  # c_k holds - gamma v_k
        gamma = estimator.settings.gamma
        known[name] = whole.phi + gamma * whole.wake_phi
    close(-result.phi, known[name])


IDS = [*SAMPLED, "wake-wake"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("problem", DISCRETE)
@pytest.mark.parametrize("name", IDS)
def test_discrete(name: str, problem: str, alpha: float, form: str) -> None:
    few = problem == "rare-categorical" and name == "ovis-S2-exclusive"
    made = DISCRETE[problem]()
    check(name, made, FORMS[form](made), 1.0, alpha, iw=2 if few else 3)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("name", IDS)
def test_the_sigmoid_belief_network(name: str, alpha: float) -> None:
    problem = SmallBeliefNetwork()
    check(name, problem, problem.model, 1.0, alpha, iw=3)


@pytest.mark.parametrize("problem", [OneBernoulli, TwoBernoulli])
@pytest.mark.parametrize("name", [name for name in IDS if name not in ("ovis-S2", "ovis-S2-exclusive")])
def test_mc_averages_bounds(name: str, problem: type[Problem]) -> None:
    made = problem()
    check(name, made, ParticleForm(made), 0.0, 0.3, iw=2, mc=2)


@pytest.mark.parametrize("name", ["ovis-S2", "ovis-S2-exclusive"])
def test_mc_averages_bounds_with_two_auxiliary_samples(name: str) -> None:
    made = OneBernoulli()
    check(name, made, ParticleForm(made), 1.0, 0.3, iw=3, mc=2)


@pytest.mark.parametrize("name", [name for name in IDS if name not in EXCLUSIVE and name not in ("ovis-S2",)])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_bernoulli_then_normal(name: str, alpha: float) -> None:
    made = BernoulliNormal()
    check(name, made, ParticleForm(made), 1.0, alpha, iw=2)


@pytest.mark.parametrize("form", FORMS)
def test_bernoulli_then_normal_with_auxiliary_samples(form: str) -> None:
    made = BernoulliNormal()
    check("ovis-S1-exclusive", made, FORMS[form](made), 1.0, 0.0, iw=1)


@pytest.mark.parametrize("iw", [1, 4])
@pytest.mark.parametrize("name", ["reinforce", "reinforce-baseline", "ovis-S1-exclusive"])
def test_other_numbers_of_particles(name: str, iw: int) -> None:
    made = TwoBernoulli()
    check(name, made, ParticleForm(made), 1.0, 0.0, iw=iw)


# ----------------------------------------------------------------------------------------------- modified objectives


@pytest.mark.parametrize(
    "objective", [{"beta": 0.6}, {"beta": 1.7}, {"freebits": 0.05}, {"beta": 0.6, "freebits": 0.05}]
)
@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("name", SAMPLED)
def test_beta_and_free_bits(name: str, objective: dict[str, float], alpha: float) -> None:
    """The gradient of the bound of the modified weights, which depend on phi themselves."""
    made = TwoBernoulli()
    densities = made.log_densities(torch.ones(1, dtype=torch.float64))
    clamped = densities.qz - densities.pz < 0.05
    assert clamped.any(), "or else free bits would change nothing"
    assert not clamped.all()
    extra = EXCLUSIVE.get(name, 0)
    estimator = build(name, iw=3, alpha=alpha, **objective)
    result = expectation(estimator, ParticleForm(made), made, 1.0, extra=extra)
    whole = exact_bound(made, 1.0, 3, alpha, **objective)
    plain = exact_bound(made, 1.0, 3, alpha)
    assert (whole.phi - plain.phi).norm() > MARGIN
    assert (whole.theta - plain.theta).norm() > MARGIN
    assert result.value == pytest.approx(-whole.bound, abs=EXACT)
    close(-result.theta, whole.theta)
    named = target(estimator, extra, alpha)
    if named is not None:
        close(-result.phi, exact_bound(made, 1.0, *named, **objective).phi)
    else:
        close(-result.phi, whole.phi + estimator.settings.gamma * whole.wake_phi)
        assert (-result.phi - whole.phi).norm() > MARGIN


# --------------------------------------------------------------------------------------------------------------- TVO


def naive_tvo(log_p: Tensor, log_q: Tensor, knots: list[float], rule: str) -> tuple[Tensor, Tensor]:
    """Riemann sum, and a loss with its covariance gradient, both [T] (Masrani et al. 2019, eq. 13)."""
    log_w = (log_p - log_q).detach()
    count = log_w.shape[-1]
    value, surrogate = torch.zeros(len(log_w)).double(), torch.zeros(len(log_w)).double()
    for low, high in itertools.pairwise(knots):
        for power, width in {
            "left": [(low, high - low)],
            "right": [(high, high - low)],
            "trapz": [(low, (high - low) / 2), (high, (high - low) / 2)],
        }[rule]:
            snis = (power * log_w).softmax(-1)
            mean = (snis * log_w).sum(-1, keepdim=True)
            logpit = power * log_p + (1 - power) * log_q
            logpit = logpit - (snis * logpit).sum(-1, keepdim=True)
            covariance = (snis * (log_w - mean) * logpit).sum(-1) * count / (count - 1)
            value = value + width * mean.squeeze(-1)
            surrogate = surrogate - width * ((snis * (log_p - log_q)).sum(-1) + covariance)
    return value, surrogate


@pytest.mark.parametrize("name", TVO)
@pytest.mark.parametrize("problem", DISCRETE)
def test_tvo_is_the_covariance_gradient(name: str, problem: str) -> None:
    made = DISCRETE[problem]()
    estimator = build(name, iw=3)
    result = expectation(estimator, ParticleForm(made), made, 1.0)
    densities = made.log_densities(torch.ones(1, dtype=torch.float64))
    index = all_tuples(len(densities.measure), 3)
    log_p = (densities.px + densities.pz.sum(-1))[index]
    log_q = densities.qz.sum(-1)[index]
    first = parse_estimator(name).config["first"]
    inner = {"config1": 0.05, "config2": 0.01}.get(first, first)  # K < 10
    parts = parse_estimator(name).config["partitions"]
    knots = [0.0, *(torch.logspace(math.log10(inner), 0, parts).tolist() if parts > 1 else [1.0])]
    value, surrogate = naive_tvo(log_p, log_q, knots, parse_estimator(name).config["integration"])
    weights = log_q.detach().sum(-1).exp()
    total = (weights * surrogate).sum()
    tolerance = 1e-6 if parts > 1 else EXACT  # logspace is float32
    assert result.value == pytest.approx(-(weights * value).sum().item(), abs=tolerance)
    close(result.phi, gradient(total, phi_of(made)), tolerance)
    close(result.theta, gradient(total, theta_of(made)), tolerance)


@pytest.mark.parametrize("name", TVO)
@pytest.mark.parametrize("problem", DISCRETE)
@pytest.mark.parametrize("objective", [{}, {"beta": 0.6}])
def test_tvo_is_unbiased_where_it_says_so(name: str, problem: str, objective: dict[str, float]) -> None:
    made = DISCRETE[problem]()
    estimator = build(name, iw=3, **objective)
    result = expectation(estimator, ParticleForm(made), made, 1.0)
    elbo = exact_bound(made, 1.0, 1, **objective)
    if estimator.unbiased_for == "ELBO":
        assert name in ("tvo-part1", "tvo-part1-centred")
        assert result.value == pytest.approx(-elbo.bound, abs=EXACT)
        close(-result.phi, elbo.phi)
        close(-result.theta, elbo.theta)
    else:
        assert estimator.unbiased_for is None
        assert (-result.phi - elbo.phi).norm() > MARGIN
        assert (-result.phi - exact_bound(made, 1.0, 3, **objective).phi).norm() > MARGIN


@pytest.mark.parametrize("problem", DISCRETE)
def test_tvo_is_unbiased_with_free_bits(problem: str) -> None:
    made = DISCRETE[problem]()
    result = expectation(build("tvo-part1", iw=3, freebits=0.05), ParticleForm(made), made, 1.0)
    elbo = exact_bound(made, 1.0, 1, freebits=0.05)
    close(-result.phi, elbo.phi)
    close(-result.theta, elbo.theta)


@pytest.mark.parametrize("beta", [1.0, 0.6])
@pytest.mark.parametrize("name", [name for name in TVO if "centred" in name])
def test_what_centred_leaves_out_has_the_mean_0(name: str, beta: float) -> None:
    """TVO's mean does not move; the gradients of single draws do."""
    made = TwoBernoulli()
    centred, published = (build(each, iw=3, beta=beta) for each in (name, name.removesuffix("-centred")))
    results = [expectation(each, ParticleForm(made), made, 1.0) for each in (centred, published)]
    close(results[0].phi, results[1].phi)
    close(results[0].theta, results[1].theta)
    width = {"tvo-part1-centred": 1.0, "tvo-part2-config1-centred": 0.05, "tvo-part3-beta1-trapz-centred": 0.05}[name]
    log_w = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    without, full = (multisample_loss_factors(each, log_w) for each in (name, name.removesuffix("-centred")))
    close(without - full, torch.full_like(full, -width / 3))  # of the loss, minus the bound
    # where q is the posterior, all that is left of the factors is noise: a part D_0 of it goes
    without, full = (multisample_loss_factors(each, 0 * log_w) for each in (name, name.removesuffix("-centred")))
    close(without, (1 - width) * full)


def multisample_loss_factors(name: str, log_w: Tensor) -> Tensor:
    """The factors of grad log q."""
    log_q = torch.zeros_like(log_w, requires_grad=True)
    loss = multisample_loss(log_w, log_q, name)
    return torch.autograd.grad(loss.sum(), log_q)[0]


def test_centred_tvo_of_one_partition_is_rloo() -> None:
    log_w = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    close(multisample_loss_factors("tvo-part1-centred", log_w), multisample_loss_factors("rloo", log_w), 1e-15)


@pytest.mark.parametrize("objective", [{}, {"beta": 0.6}, {"freebits": 0.05}])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("name", PIWAE)
def test_piwae(name: str, alpha: float, objective: dict[str, float]) -> None:
    """theta of the bound of all particles, phi of the bound of each group; with one group, the estimator of phi."""
    made = TwoBernoulli()
    estimator = build(name, iw=2, mc=2, alpha=alpha, **objective)
    result = expectation(estimator, ParticleForm(made), made, 1.0)
    whole, group = (exact_bound(made, 1.0, K, alpha, **objective) for K in (4, 2))
    assert result.value == pytest.approx(-whole.bound, abs=EXACT)
    close(-result.theta, whole.theta)
    assert (whole.theta - group.theta).norm() > MARGIN
    assert (whole.phi - group.phi).norm() > MARGIN
    gamma = 1.0 if name == "piwae-ovis-gamma1" else 0.0
    close(-result.phi, group.phi + gamma * group.wake_phi)
    one, alone = (
        expectation(build(each, iw=2, alpha=alpha, **objective), ParticleForm(made), made, 1.0)
        for each in (name, name.removeprefix("piwae-"))
    )
    assert torch.equal(one.phi, alone.phi)
    assert torch.equal(one.theta, alone.theta)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("objective", [{}, {"beta": 0.6}, {"beta": 1.7}])
def test_rloo(objective: dict[str, float], form: str) -> None:
    made = TwoBernoulli()
    estimator = build("rloo", iw=3, **objective)
    result, elbo = expectation(estimator, FORMS[form](made), made, 1.0), exact_bound(made, 1.0, 1, **objective)
    assert result.value == pytest.approx(-elbo.bound, abs=EXACT)
    assert elbo.phi.norm() > 10 * MARGIN
    close(-result.phi, elbo.phi)
    close(-result.theta, elbo.theta)


def test_every_id_is_held_to_what_it_says() -> None:
    """The loops above and ``test_pathwise`` and ``test_wake_sleep`` leave nothing out."""
    assert {*IDS, *TVO, *PIWAE, *PATHWISE, *WAKE} == set(ALL)
    silent = {name for name in ALL if make(name, iw=3).unbiased_for is None}
    assert silent == {*WAKE, *TVO[1:6], *TVO[7:], "ciwae-beta0.3", "stl", "ovis-gamma0.3", "ovis-gamma1", PIWAE[1]}


# ------------------------------------------------------------------------------------------------------ known values


@pytest.mark.parametrize("problem", [OneBernoulli, TwoBernoulli, BernoulliNormal])
def test_the_oracle_is_a_probability_and_a_bound(problem: type[Problem]) -> None:
    made = problem()
    densities = made.log_densities(torch.ones(1, dtype=torch.float64))
    assert densities.log_probability.exp().sum().item() == pytest.approx(1, abs=1e-12)
    bounds = [exact_bound(made, 1.0, count).bound for count in (1, 2)]
    assert bounds[0] < bounds[1] < exact_evidence(made, 1.0)


@pytest.mark.parametrize("nodes", [40, 48])
def test_the_quadrature_has_converged(nodes: int) -> None:
    """The answers for Normal latents do not depend on the number of nodes."""
    fine, coarse = BernoulliNormal(), BernoulliNormal()
    coarse.nodes = nodes
    for alpha in (0.0, 0.3):
        a, b = exact_bound(fine, 1.0, 2, alpha), exact_bound(coarse, 1.0, 2, alpha)
        assert a.bound == pytest.approx(b.bound, abs=1e-11)
        close(a.phi, b.phi, 1e-11)
        close(a.theta, b.theta, 1e-11)


#: K, alpha: L_K, dL/dlogit, and of the gradient to the logit: Var REINFORCE, VIMCO arithmetic, geometric, OVIS_MC with
#: S -> inf, OVIS~ gamma = 0; E OVIS~ gamma = 1, E wake-phi
EXPECTED: dict[tuple[int, float], list[float]] = {
    (2, 0.0): [
        *(-1.0642675237, 0.2320088126),
        *(1.45742873, 0.13252962, 0.13252962, 0.00278463, 0.09380782),
        *(0.38451068, 0.15250186),
    ],
    (3, 0.0): [
        *(-1.0138559227, 0.1606030978),
        *(1.73129488, 0.09470876, 0.07118854, 0.00204798, 0.01929858),
        *(0.38235719, 0.22175409),
    ],
}


def gradients_of_tuples(name: str, particles: int, alpha: float, auxiliary: list[float]) -> tuple[Tensor, Tensor]:
    """The gradient to q's logit of every tuple of particles, and their probabilities, at fixed auxiliary samples."""
    problem = OneBernoulli()
    index = all_tuples(2, particles).double()
    on = torch.sigmoid(torch.tensor(-0.4, dtype=torch.float64))
    probability = torch.where(index == 1, on, 1 - on).prod(-1)
    estimator = build(name, iw=particles, alpha=alpha)
    draws = [index] + [torch.tensor([auxiliary], dtype=torch.float64).expand(len(index), -1)] * bool(auxiliary)
    with scripted(draws):
        loss, _, _ = estimator(ParticleForm(problem), torch.ones(len(index), 1, dtype=torch.float64))
    bias = problem.inference_network.bias
    return -torch.cat([torch.autograd.grad(item, bias, retain_graph=True)[0] for item in loss]), probability


def moments(gradients: Tensor, probability: Tensor) -> tuple[float, float]:
    mean = (probability * gradients).sum()
    return mean.item(), (probability * (gradients - mean).square()).sum().item()


@pytest.mark.parametrize(("particles", "alpha"), EXPECTED)
def test_known_means_and_variances(particles: int, alpha: float) -> None:
    bound, slope, *variances, ovis1, wake = EXPECTED[particles, alpha]
    exact = exact_bound(OneBernoulli(), 1.0, particles, alpha)
    assert exact.bound == pytest.approx(bound, abs=1e-10)
    assert exact.phi[1].item() == pytest.approx(slope, abs=1e-10)
    names = ["reinforce", "vimco-arithmetic", "vimco-geometric", "", "ovis-gamma0"]
    for name, variance in zip(names, variances, strict=True):
        if name:
            computed = moments(*gradients_of_tuples(name, particles, alpha, []))
            assert computed == pytest.approx((slope, variance), abs=1e-8)
    assert moments(*gradients_of_tuples("ovis-gamma1", particles, alpha, []))[0] == pytest.approx(ovis1, abs=1e-8)
    assert moments(*gradients_of_tuples("wake-wake", particles, alpha, []))[0] == pytest.approx(wake, abs=1e-8)
    assert ovis1 - slope == pytest.approx(wake, abs=1e-8)


@pytest.mark.parametrize("objective", [{"beta": 0.4}, {"freebits": 5.0}])
def test_auxiliary_samples_have_the_weights_of_the_objective(objective: dict[str, float]) -> None:
    """K = S = 1 and the auxiliary sample is z itself: d - c = 0, what is left is log w's own dependence on phi."""
    problem = TwoBernoulli()
    z = [torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)]
    x = torch.ones(1, 1, dtype=torch.float64)
    with scripted([*z, *z]):
        loss, _, output = make("ovis-S1-exclusive", iw=1, **objective)(ParticleForm(problem), x)
    log_q = sum(q.log_prob(sample).sum() for q, sample in zip(output["qz"], z, strict=True))
    own = 1 - objective["beta"] if "beta" in objective else 1.0  # of -v_k = -1, log w takes back beta, or nothing
    close(gradient(-loss.sum(), phi_of(problem)), gradient(own * log_q, phi_of(problem)))


@pytest.mark.parametrize(("particles", "alpha"), EXPECTED)
def test_known_variance_of_ovis_with_infinitely_many_auxiliary_samples(particles: int, alpha: float) -> None:
    """c_k is a mean over the auxiliary samples, so its limit is the mixture of its two values."""
    off, probability = gradients_of_tuples("ovis-S1-exclusive", particles, alpha, [0.0])
    on, _ = gradients_of_tuples("ovis-S1-exclusive", particles, alpha, [1.0])
    both, _ = gradients_of_tuples("ovis-S2-exclusive", particles, alpha, [1.0, 0.0])
    close(both, (on + off) / 2)
    p = torch.sigmoid(torch.tensor(-0.4, dtype=torch.float64))
    _, slope, *_ = EXPECTED[particles, alpha]
    assert moments(p * on + (1 - p) * off, probability) == pytest.approx(
        (slope, EXPECTED[particles, alpha][5]), abs=1e-8
    )


def test_known_values_of_the_renyi_bound() -> None:
    exact = exact_bound(OneBernoulli(), 1.0, 3, 0.3)
    assert exact.bound == pytest.approx(-1.0633374445, abs=1e-10)
    computed = moments(*gradients_of_tuples("ovis-gamma0", 3, 0.3, []))
    assert computed == pytest.approx((0.2150152112, 0.02786063), abs=1e-8)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_gamma1_is_vimco_plus_the_weight(alpha: float) -> None:
    """c_k(1) = VIMCO arithmetic - v_k for every tuple, so the gradients differ by wake-phi's."""
    of = {name: gradients_of_tuples(name, 3, alpha, [])[0] for name in ("ovis-gamma1", "vimco-arithmetic", "wake-wake")}
    close(of["ovis-gamma1"], of["vimco-arithmetic"] + of["wake-wake"])
