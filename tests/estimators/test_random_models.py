"""Every estimator on random models, against a textbook in float64 on the same samples: value, theta- and phi-gradient.

hypothesis draws the models (:mod:`random_models`); the formulas are those of :mod:`textbook`. The samples are recorded
where the model draws them, so each comparison is exact up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import textbook
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from random_models import (
    FAMILIES,
    HALF,
    REPARAMETERIZED,
    Conditional,
    Draw,
    Layer,
    Particles,
    Repeated,
    Spec,
    Weights,
    build,
    features_of,
    parameters,
    random_data,
    raw_of_p,
    raw_of_q,
    specs,
)
from textbook import Objective, Particle, Settings
from torch import Tensor, nn

from ovis.analysis.evaluate import evaluate
from ovis.estimators import GradientEstimator, get_config
from ovis.estimators.ids import ESTIMATORS, example_ids, parse_estimator
from ovis.models.baseline import Baseline

pytestmark = pytest.mark.slow

#: of values. In bfloat16 the network's outputs are rounded, in the textbook too; densities are in single precision.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-3}
#: of gradients, relative to the factors of the log-densities
GRADIENT_TOLERANCE = {**TOLERANCE, torch.bfloat16: 3e-2}
#: torch approximates the derivative of a Gamma sample
GAMMA_TOLERANCE = 2e-3

SCORE: dict[str, textbook.Variate] = {
    "reinforce": textbook.no_variate,
    "reinforce-baseline": textbook.no_variate,
    "vimco-arithmetic": textbook.vimco_arithmetic,
    "vimco-geometric": textbook.vimco_geometric,
    "ovis-gamma0": textbook.ovis_asymptotic(0.0),
    "ovis-gamma0.3": textbook.ovis_asymptotic(0.3),
    "ovis-gamma1": textbook.ovis_asymptotic(1.0),
    "ovis-S1-exclusive": textbook.ovis_monte_carlo,
    "ovis-S2-exclusive": textbook.ovis_monte_carlo,
}
AUXILIARY = {"ovis-S1-exclusive": 1, "ovis-S2-exclusive": 2}
OTHERS: dict[str, Callable[[Sequence[Particle], Settings], Objective]] = {
    "ovis-S1": textbook.ovis_inclusive(1),
    "ovis-S0.8": textbook.ovis_inclusive(4),  # of K = 5
    "wake-wake": textbook.wake_wake,
    "rloo": textbook.leave_one_out,
    "tvo-part1": textbook.tvo(1, 0.5),
    "tvo-part2-config1": textbook.tvo(2, 0.05),
    "tvo-part2-beta1-right": textbook.tvo(2, 0.1, "right"),
    "tvo-part4-beta2-trapz": textbook.tvo(4, 0.01, "trapz"),
}
SAMPLED = [*SCORE, *OTHERS, "wake-sleep"]
PATHWISE: dict[str, Callable[[Sequence[Particle], Settings], Objective]] = {
    "pathwise-iwae": textbook.pathwise_iwae,
    "pathwise-vae": textbook.pathwise_vae,
    "stl": textbook.pathwise_iwae,
    "dreg": textbook.dreg,
}
DETACHED = ("stl", "dreg")
#: of torch's reparameterized families the textbook lacks the beta
MIXABLE = tuple(family for family in FAMILIES if family != "beta")
#: every score-function estimator that can be combined, and every pathwise one
MIXED = [
    *(f"{name}+iwae" for name in SCORE if name != "reinforce-baseline"),
    *("vimco-arithmetic+stl", "ovis-gamma1+stl", "ovis-S1-exclusive+stl", "rloo+vae", "rloo+stl"),
]


def test_every_row_of_the_table_is_here() -> None:
    """But for those of enumeration and quadrature alone."""
    others = {"wake-mix", "ciwae", "piwae"}
    assert {parse_estimator(name).family for name in (*SAMPLED, *PATHWISE, *MIXED)} == set(ESTIMATORS) - others
    assert {name for name in example_ids() if "+" in name} <= {name.replace("-arithmetic", "") for name in MIXED}


def is_pathwise(name: str) -> bool:
    return name in PATHWISE or "+" in name


# ----------------------------------------------------------------------------------------------- scored by the textbook


def density(layer: Layer, conditional: Conditional, raw: Tensor, value: Tensor, detached: bool = False) -> Tensor:
    given = [item.double() for item in parameters(conditional, raw)]
    given = [item.detach() for item in given] if detached else given
    value = value.long() if layer.support == "category" else value.double()
    return textbook.log_density(conditional.family, value, *given)


def log_q_of(spec: Spec, weights: Weights, x: Tensor, z: Sequence[Tensor]) -> list[Tensor]:
    """log q(z_l | ...) of one x [*event] and one z_l [*event] each."""
    features = features_of(spec, weights, x)
    return [
        density(layer, layer.q, raw_of_q(spec, weights, i, features, z), z[i]) for i, layer in enumerate(spec.layers)
    ]


def scored(spec: Spec, weights: Weights, x: Tensor, z: Sequence[Tensor], pathwise: bool, detached: bool) -> Particle:
    """One particle, of one x [*event] and one z_l [*event] each."""
    features = features_of(spec, weights, x)
    samples: list[Tensor] = []
    qz: list[Tensor] = []
    for i, (layer, value) in enumerate(zip(spec.layers, z, strict=True)):
        raw = raw_of_q(spec, weights, i, features, samples)
        if pathwise and layer.q.family in REPARAMETERIZED:
            first, second, _ = parameters(layer.q, raw)
            value = textbook.reparameterized(layer.q.family, value.double(), first.double(), second.double())
        samples.append(value)
        qz.append(density(layer, layer.q, raw, value, detached and layer.q.family in REPARAMETERIZED))
    pz = [density(each, each.p, raw_of_p(spec, weights, i, samples), samples[i]) for i, each in enumerate(spec.layers)]
    px = density(spec.x, spec.x.p, raw_of_p(spec, weights, -1, samples), x)
    return Particle(px, pz, qz, samples, [pathwise and each.q.family in REPARAMETERIZED for each in spec.layers])


@dataclass
class Case:
    """A model, its data, and the textbook's weights; what was scored is kept, as estimators draw the same samples."""

    spec: Spec
    model: Particles | Repeated
    x: Tensor
    weights: dict[str, Tensor]
    cotangent: Tensor  # of the data's losses, all different

    def __post_init__(self) -> None:
        self.kept: dict[Any, Any] = {}

    def particles(
        self, z: Sequence[Tensor], pathwise: bool = False, detached: bool = False, start: int = 0
    ) -> list[list[Particle]]:
        """Of samples [rows, n, *event] of each layer, of the data from ``start``."""
        key = (pathwise, detached, start, *(item.double().numpy().tobytes() for item in z))
        if key not in self.kept:
            self.kept[key] = [
                [
                    scored(self.spec, self.weights, self.x[start + b], [item[b, n] for item in z], pathwise, detached)
                    for n in range(z[0].shape[1])
                ]
                for b in range(len(z[0]))
            ]
        return self.kept[key]

    def dreams(self, draws: Sequence[Draw]) -> list[list[Tensor]]:
        """log q(z|x) of the pairs (x, z) of the sleep phase, for each datum."""
        found: list[list[Tensor]] = [[] for _ in range(self.spec.batch)]
        for call in draws:
            assert call.given
            each = len(call.x) // self.spec.batch
            for row in range(len(call.x)):
                log_q = log_q_of(self.spec, self.weights, call.x[row], [item[row] for item in call.z])
                found[row // each].append(torch.stack(log_q).sum())
        return found

    @property
    def settings(self) -> Settings:
        return Settings(self.spec.alpha, self.spec.beta, self.spec.freebits)


def make_case(spec: Spec) -> Case:
    torch.manual_seed(spec.seed)
    model = build(spec)
    x = random_data(spec)
    dtype = torch.bfloat16 if spec.dtype == torch.bfloat16 else torch.float64
    weights = {
        name: item.detach().to(dtype, copy=True).requires_grad_() for name, item in model.network.weights.items()
    }
    return Case(spec, model, x, weights, torch.linspace(0.5, 1.5, spec.batch, dtype=torch.float64))


def take(draws: list[Draw], rows: int, count: int) -> list[Tensor]:
    """The next ``count`` particles of each datum, of one call or several: [B, count, *event] of each layer."""
    taken: list[list[Tensor]] = []
    while sum(call[0].shape[1] for call in taken) < count:
        taken.append([item.reshape(rows, -1, *item.shape[1:]) for item in draws.pop(0).z])
    samples = [torch.cat(layer, 1) for layer in zip(*taken, strict=True)]
    assert samples[0].shape[1] == count
    return samples


def random_baseline(case: Case) -> Baseline:
    """b(x) of REINFORCE, with random weights in its last layer, too."""
    baseline = Baseline(case.x.shape[1:], hdim=2).to(case.spec.dtype)
    for parameter in baseline.parameters():
        nn.init.normal_(parameter)
    return baseline


def baseline_of(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """b(x) of one x [*event], from the weights and biases of its two layers."""
    hidden, shift, out, constant = weights
    return (out[0] * torch.tanh(hidden @ x.double().flatten() + shift)).sum() + constant[0]


@dataclass
class Result:
    loss: Tensor  # [B]
    gradients: dict[str, Tensor]
    diagnostics: dict[str, Tensor]


def estimator_of(case: Case, name: str) -> GradientEstimator:
    Estimator, config = get_config(name)
    lacks = parse_estimator(name).lacks
    chosen = {"alpha": case.spec.alpha, "beta": case.spec.beta, "freebits": case.spec.freebits}
    chosen = {key: value for key, value in chosen.items() if key not in lacks}
    if name == "reinforce-baseline":
        config["baseline"] = random_baseline(case)
    return Estimator(mc=case.spec.mc, iw=case.spec.iw, **config, **chosen)


def run(case: Case, name: str, size: int | None) -> tuple[Result, list[Draw], GradientEstimator]:
    """The package's result, and what the model drew."""
    torch.manual_seed(case.spec.seed)
    draws = case.model.network.draws
    draws.clear()
    estimator = estimator_of(case, name)
    loss, diagnostics, _ = estimator(case.model, case.x, particles_per_pass=size)
    drawn = list(draws)  # the backward of chunks draws them again
    named = {**dict(case.model.network.weights), **dict(estimator.named_parameters())}
    total = (loss * case.cotangent.to(loss.dtype)).sum()
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return Result(loss.detach(), dict(zip(named, gradients, strict=True)), diagnostics["loss"]), drawn, estimator


def objective_of(
    name: str,
    particles: list[Particle],
    extra: list[Particle],
    dreams: list[Tensor],
    baseline: Tensor | float,
    given: Settings,
) -> Objective:
    """The textbook's objective of one bound."""
    if name == "wake-sleep":
        return textbook.wake_sleep(particles, dreams, given)
    name = name.split("+")[0]  # the textbook's particles of mixed latents know which layers are scored
    if name in SCORE:
        return textbook.score(particles, extra, given, SCORE[name], baseline)
    return {**OTHERS, **PATHWISE}[name](particles, given)


def defined(name: str, particles: list[list[Particle]], mc: int, iw: int) -> bool:
    """Whether all factors are finite: each bound has weights besides its largest one, TVO and RLOO none of zero."""
    kept = iw - {"ovis-S1": 1, "ovis-S0.8": 4}.get(name, 0)
    for each in particles:
        for m in range(mc):
            finite = [particle.log_w().isfinite().item() for particle in each[m * iw : (m + 1) * iw]]
            if sum(finite[:kept]) < min(2, kept) or (name.startswith(("tvo", "rloo")) and not all(finite)):
                return False
    return True


def expected(case: Case, name: str, drawn: list[Draw], estimator: GradientEstimator) -> tuple[Result, float] | None:
    """The textbook's result on these samples, and how large the factors of the log-densities are."""
    rows, mc, iw, count = case.spec.batch, case.spec.mc, case.spec.iw, AUXILIARY.get(name.split("+")[0], 0)
    detached = name in DETACHED or name.endswith("+stl")
    particles = case.particles(take(drawn, rows, mc * iw), is_pathwise(name), detached)
    if not defined(name, particles, mc, iw):
        return None
    extra = case.particles(take(drawn, rows, mc * count)) if count else [[]] * rows
    dreams = case.dreams(drawn)
    trained = {key: item.detach().double().requires_grad_() for key, item in estimator.named_parameters()}
    losses: list[float] = []
    theta, phi, fit = (torch.zeros((), dtype=torch.float64) for _ in range(3))
    size = 0.0
    for b in range(rows):
        baseline = baseline_of(case.x[b], list(trained.values())) if trained else 0.0
        losses.append(0.0)
        for m in range(mc):
            bound = particles[b][m * iw : (m + 1) * iw], extra[b][m * count : (m + 1) * count]
            objective = objective_of(name, *bound, dreams[b], baseline, case.settings)
            share = float(case.cotangent[b]) / mc
            losses[b] -= objective.value / mc
            theta = theta - share * objective.theta
            phi = phi - share * objective.phi
            fit = fit - share * objective.baseline
            size += share * objective.size
    names = {True: [], False: []}
    for key in case.weights:
        names["inference_network" in key].append(key)
    fitted = torch.autograd.grad(fit, list(trained.values())) if trained else ()
    gradients = dict(zip(trained, fitted, strict=True))
    for total, keys in ((theta, names[False]), (phi, names[True])):
        found = torch.autograd.grad(total, [case.weights[key] for key in keys], retain_graph=True, allow_unused=True)
        gradients |= dict(zip(keys, found, strict=True))
    return Result(torch.tensor(losses, dtype=torch.float64), gradients, diagnostics_of(particles, mc, iw)), size


def diagnostics_of(particles: list[list[Particle]], mc: int, iw: int) -> dict[str, Tensor]:
    """Of the untempered weights."""
    rows = []
    for each in particles:
        log_w = [textbook.number(particle.log_w()) for particle in each]
        bounds = [log_w[m * iw : (m + 1) * iw] for m in range(mc)]
        elbo = sum(log_w) / len(log_w)
        bound = sum(textbook.log_sum_exp(values) - math.log(iw) for values in bounds) / mc
        shares = [textbook.softmax(values) for values in bounds]
        rows.append(
            {
                "L_k": bound,
                "elbo": elbo,
                "kl": sum(particle.kl for particle in each) / len(each),
                "kl_q_p": bound - elbo,
                "nll": -sum(textbook.number(particle.px) for particle in each) / len(each),
                "ess": sum(1 / sum(v * v for v in values) for values in shares) / mc,
            }
        )
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]}


# ------------------------------------------------------------------------------------------------------------ the tests


def applicable(spec: Spec, names: Sequence[str]) -> list[str]:
    """The estimators that this model and these numbers of particles allow."""

    def allowed(name: str) -> bool:
        if name in DETACHED and len(spec.layers) > 1:
            return False
        if name.endswith("+stl") and sum(layer.q.family in REPARAMETERIZED for layer in spec.layers) > 1:
            return False
        needs = {"ovis-S1": 2, "ovis-S0.8": 5}.get(name, 2 if parse_estimator(name).needs_two_particles else 1)
        return spec.iw >= needs

    return [name for name in names if allowed(name)]


def compare(case: Case, name: str, size: int | None) -> None:
    """An estimator and the textbook."""
    result, drawn, estimator = run(case, name, size)
    answer = expected(case, name, drawn, estimator)
    if answer is None:
        return
    right, scale = answer
    tolerance = GRADIENT_TOLERANCE[case.spec.dtype]
    if is_pathwise(name) and any(layer.q.family == "gamma" for layer in case.spec.layers):
        tolerance = GAMMA_TOLERANCE
    what = f"{name} with particles_per_pass={size}: "

    def close(label: str, a: Tensor | None, b: Tensor | None, rtol: float, atol: float) -> None:
        shape = next((item.shape for item in (a, b) if item is not None), ())
        a, b = (torch.zeros(shape).double() if item is None else item.double() for item in (a, b))
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol, msg=lambda message: f"{what}{label}: {message}")

    exact = TOLERANCE[case.spec.dtype]
    close("loss", result.loss, right.loss, exact, exact)
    assert result.diagnostics.keys() == right.diagnostics.keys()
    for key, value in right.diagnostics.items():
        close(key, result.diagnostics[key], value, exact, exact)
    assert result.gradients.keys() == right.gradients.keys()
    for key, value in right.gradients.items():
        close(f"gradient to {key}", result.gradients[key], value, tolerance, tolerance * (1 + scale))


def check(spec: Spec, names: Sequence[str]) -> None:
    """All of these estimators that apply, a third of them in chunks, too."""
    case = make_case(spec)
    for i, name in enumerate(applicable(spec, names)):
        compare(case, name, None)
        if spec.mc * spec.iw > 1 and (i + spec.seed) % 3 == 0:
            compare(case, name, spec.size)


def random_test(examples: int) -> Any:
    """The same models in every run, and no limit on the time of one.

    A failure is reported as it is: the search for a smaller one takes minutes, up to the time limit of a test.
    """
    return settings(
        max_examples=examples,
        phases=[Phase.generate],
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


@random_test(25)
@given(specs(depths=[1]))
def test_score_function_estimators(spec: Spec) -> None:
    check(spec, SAMPLED)


@random_test(25)
@given(specs(depths=[2, 3]))
def test_score_function_estimators_of_hierarchies(spec: Spec) -> None:
    check(spec, SAMPLED)


@random_test(30)
@given(specs(q_families=REPARAMETERIZED))
def test_pathwise_estimators(spec: Spec) -> None:
    check(spec, list(PATHWISE))


def has_both(spec: Spec) -> bool:
    """Whether some layers are scored and others reparameterized."""
    return len({layer.q.family in REPARAMETERIZED for layer in spec.layers}) == 2


@random_test(15)
@given(specs(depths=[2, 3], q_families=MIXABLE).filter(has_both))
def test_mixed_latents(spec: Spec) -> None:
    """In any order."""
    check(spec, MIXED)


@random_test(5)
@given(specs(depths=[2], q_families=HALF, p_families=HALF, dtypes=[torch.bfloat16]).filter(has_both))
def test_mixed_latents_in_half_precision(spec: Spec) -> None:
    check(spec, MIXED)


@random_test(15)
@given(specs(q_families=HALF, p_families=HALF, dtypes=[torch.bfloat16]))
def test_networks_in_half_precision(spec: Spec) -> None:
    check(spec, SAMPLED)


@random_test(10)
@given(specs(q_families=("normal", "lognormal"), p_families=HALF, dtypes=[torch.bfloat16]))
def test_pathwise_estimators_of_networks_in_half_precision(spec: Spec) -> None:
    check(spec, list(PATHWISE))


@random_test(20)
@given(specs(), st.integers(1, 9), st.integers(1, 3), st.integers(1, 9), st.integers(1, 30))
def test_evaluation(spec: Spec, iw: int, batch_size: int, trained: int, values: int) -> None:
    """Of any number of particles, in chunks of any size."""
    case = make_case(spec)
    result = evaluate(case.model, case.x, iw, batch_size, ess_particles=trained, max_values=values)
    result = {name: value.mean() for name, value in result.per_datum.items()}
    draws = case.model.network.draws
    means = dict.fromkeys(result, 0.0)
    for start in range(0, spec.batch, batch_size):
        rows = min(batch_size, spec.batch - start)
        particles = case.particles(take(draws, rows, iw), start=start)
        measured = diagnostics_of(particles, 1, iw)
        measured["ess"] = diagnostics_of([each[:trained] for each in particles], 1, min(iw, trained))["ess"]
        assume(not any(value.isnan().any() for value in measured.values()))  # all weights are zero
        means = {name: means[name] + float(measured[name].sum()) / spec.batch for name in means}
    assert not draws, "more was drawn"
    tolerance = 1e-5 if spec.dtype == torch.float32 else 1e-11
    assert {name: float(value) for name, value in result.items()} == pytest.approx(means, rel=tolerance, abs=tolerance)


@random_test(25)
@given(specs(), st.sampled_from(["px", "pz", "qz"]), st.integers(0, 2))
def test_a_density_that_broadcasts_over_other_rows_is_refused(spec: Spec, name: str, index: int) -> None:
    """In all rows, and in so many that torch finds shapes that fit."""
    spec = replace(spec, batch=2, mc=1, iw=2)
    model = build(spec)
    model.network.broadcast = (name, 0 if name == "px" else index % len(spec.layers))
    for call in (lambda x: get_config("reinforce")[0](iw=2)(model, x), lambda x: evaluate(model, x, 2, 2)):
        with pytest.raises(ValueError, match=rf"{name}.*shape"):
            call(random_data(spec))
