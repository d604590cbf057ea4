"""REINFORCE with a neural baseline: what it learns, and that it changes nothing else."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from estimator_cases import make
from problems import OneBernoulli, ParticleForm, TwoBernoulli, exact_bound, expectation, gradient, phi_of, theta_of
from torch import Tensor, nn

from ovis.functional import iw_bound, normalized_weights
from ovis.models import Baseline


def observations(count: int) -> Tensor:
    return (torch.arange(count, dtype=torch.float64) % 2).unsqueeze(-1)


def test_the_baseline_has_the_gradient_of_least_squares() -> None:
    """1/2 mean_k (d_k - b(x))^2 with d_k = bound - v_k, averaged over data and bounds; by autograd from the output."""
    baseline = Baseline((1,), hdim=5).double()
    nn.init.normal_(baseline.network[-1].weight)
    estimator = make("reinforce-baseline", mc=2, iw=3, alpha=0.3, baseline=baseline)
    x = observations(6)
    loss, _, output = estimator(ParticleForm(TwoBernoulli()), x)
    pairs = [(output["px"].log_prob(x.unsqueeze(1)), 1)]
    pairs += [(p.log_prob(z), 1) for p, z in zip(output["pz"], output["z"], strict=True)]
    pairs += [(q.log_prob(z), -1) for q, z in zip(output["qz"], output["z"], strict=True)]
    log_w = sum(sign * item for item, sign in pairs).detach().view(6, 2, 3)
    signal = iw_bound(log_w, 0.3).unsqueeze(-1) - normalized_weights(log_w, 0.3)
    least_squares = ((signal - baseline(x).view(6, 1, 1)) ** 2).mean() / 2
    parameters = list(baseline.parameters())
    expected = gradient(least_squares, parameters)
    assert expected.norm() > 0.1
    torch.testing.assert_close(gradient(loss.mean(), parameters), expected)


@pytest.mark.parametrize("level", [-3.0, 0.0, 40.0])
def test_no_baseline_changes_the_expectation(level: float) -> None:
    class Level(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return level * x[:, 0]

    problem = TwoBernoulli()
    result = expectation(make("reinforce-baseline", iw=3, baseline=Level()), ParticleForm(problem), problem, 1.0)
    exact = exact_bound(problem, 1.0, 3)
    assert result.value == pytest.approx(-exact.bound, abs=1e-12)
    torch.testing.assert_close(-result.phi, exact.phi, rtol=0, atol=1e-11)
    torch.testing.assert_close(-result.theta, exact.theta, rtol=0, atol=1e-12)


def variance(estimator: nn.Module, problem: OneBernoulli, draws: int = 3000) -> float:
    """Of one datum's gradient to q's bias."""
    logits = problem.inference_network(observations(draws))
    logits = logits.detach().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            problem, "posterior", lambda layer, features, z: torch.distributions.Bernoulli(logits=logits[:, None])
        )
        loss, _, _ = estimator(ParticleForm(problem), observations(draws))
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    return grad.var().item()


def test_the_baseline_learns_the_mean_signal() -> None:
    """It tends to E d_k = L_K - 1/K of each datum, and lowers the variance; at the start it is far from both."""
    problem = OneBernoulli()
    torch.manual_seed(1)
    baseline = Baseline((1,), hdim=8).double()
    estimator = make("reinforce-baseline", iw=4, baseline=baseline)
    wanted = torch.tensor([exact_bound(problem, x, 4).bound - 0.25 for x in (0.0, 1.0)], dtype=torch.float64)

    def error() -> float:
        return (baseline(observations(2)) - wanted).abs().max().item()

    assert baseline(observations(2)).tolist() == [0.0, 0.0]
    start, before = error(), variance(estimator, problem)
    assert start > 0.3
    optimizer = torch.optim.Adam(baseline.parameters(), lr=0.03)
    model_before = [item.clone() for item in problem.parameters()]
    for step in range(250):
        optimizer.param_groups[0]["lr"] = 0.03 if step < 150 else 0.003
        estimator(ParticleForm(problem), observations(200), backward=True)
        optimizer.step()
        optimizer.zero_grad()
    assert error() < 0.05
    assert variance(estimator, problem) < 0.6 * before
    assert before == pytest.approx(variance(make("reinforce", iw=4), problem), rel=0.2)
    assert all(torch.equal(a, b) for a, b in zip(model_before, problem.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_default_baseline_learns_in_an_optimizer_made_before_the_first_call(dtype: torch.dtype) -> None:
    estimator = make("reinforce-baseline", iw=3)
    optimizer = torch.optim.Adam(estimator.parameters(), lr=0.1)
    model, x = ParticleForm(OneBernoulli()).to(dtype), observations(4).to(dtype)
    for _ in range(3):
        loss, _, _ = estimator(model, x, backward=True)
        assert loss.dtype == dtype
        optimizer.step()
    assert estimator.baseline(x).abs().min() > 0.05  # it starts at exactly 0
    again = make("reinforce-baseline", iw=3)
    again.load_state_dict(estimator.state_dict())
    assert torch.equal(again.baseline(x), estimator.baseline(x))


@pytest.mark.parametrize("count", [1, 4])
def test_a_baseline_of_the_wrong_shape_is_refused(count: int) -> None:
    class PerPixel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.repeat(1, 2)

    with pytest.raises(RuntimeError, match="shape"):
        make("reinforce-baseline", iw=3, baseline=PerPixel())(ParticleForm(OneBernoulli()), observations(count))


def test_model_gradients_do_not_reach_the_baseline_nor_the_reverse() -> None:
    problem = OneBernoulli()
    baseline = Baseline((1,)).double()
    estimator = make("reinforce-baseline", iw=3, baseline=baseline)
    torch.manual_seed(2)
    with_zero = estimator(ParticleForm(problem), observations(4))[0]
    torch.manual_seed(2)
    plain = make("reinforce", iw=3)(ParticleForm(problem), observations(4))[0]
    assert torch.equal(with_zero, plain)
    for select in (phi_of, theta_of):
        assert torch.equal(gradient(with_zero.sum(), select(problem)), gradient(plain.sum(), select(problem)))


@pytest.mark.parametrize("x_shape", [(), None])
def test_observations_may_be_single_numbers(x_shape: tuple[int, ...] | None) -> None:
    baseline = Baseline(x_shape, hdim=3).double()
    x = torch.randn(5, dtype=torch.float64)
    baseline(x)
    for parameter in baseline.parameters():
        torch.nn.init.normal_(parameter)
    hidden, shift, out, constant = baseline.parameters()
    expected = [(out[0] @ torch.tanh(hidden[:, 0] * value + shift) + constant).item() for value in x]
    assert baseline(x).tolist() == pytest.approx(expected)


def train(
    optimizers: list[torch.optim.Optimizer],
    steps: int = 6,
    *,
    batches: int = 1,
    clear_first: bool = False,
    **settings: Any,
) -> list[str]:
    """The warnings of a loop over these optimizers, as users write it."""
    estimator, model = settings.pop("estimator"), settings.pop("model")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(steps):
            for batch in range(batches):
                loss, _, _ = estimator(model, observations(4), **settings)
                if clear_first and batch == 0:
                    for optimizer in optimizers:
                        optimizer.zero_grad()
                loss.mean().backward()
            for optimizer in optimizers:
                optimizer.step()
                if not clear_first:
                    optimizer.zero_grad()
    return [str(item.message) for item in caught]


def baseline_and_model(**settings: Any) -> dict[str, Any]:
    estimator = make("reinforce-baseline", iw=3, baseline=Baseline((1,), hdim=3).double(), **settings)
    return {"estimator": estimator, "model": ParticleForm(OneBernoulli())}


ADAM = {"plain": {}, "fused": {"fused": True}}


@pytest.mark.parametrize("clear_first", [False, True])
@pytest.mark.parametrize("adam", ADAM.values(), ids=ADAM)
@pytest.mark.parametrize("chunk", [None, 2])
def test_a_baseline_in_no_optimizer_gets_one_warning(adam: Any, clear_first: bool, chunk: int | None) -> None:
    both = baseline_and_model()
    optimizers = [torch.optim.Adam(both["model"].parameters(), **adam)]
    assert train(optimizers, 2, clear_first=clear_first, particles_per_pass=chunk, **both) == []
    found = train(optimizers, 6, clear_first=clear_first, particles_per_pass=chunk, **both)
    assert len(found) == 1
    assert found[0].startswith("reinforce-baseline: ")
    assert found[0].endswith("pass estimator.parameters() to one")


@pytest.mark.parametrize("batches", [1, 5])
@pytest.mark.parametrize("clear_first", [False, True])
@pytest.mark.parametrize("adam", ADAM.values(), ids=ADAM)
@pytest.mark.parametrize("separate", [False, True])
def test_a_trained_baseline_gets_none(separate: bool, adam: Any, clear_first: bool, batches: int) -> None:
    """In one optimizer or in two, with gradients accumulated over several batches."""
    both = baseline_and_model()
    of_model, of_baseline = list(both["model"].parameters()), list(both["estimator"].parameters())
    groups = [of_model, of_baseline] if separate else [[*of_model, *of_baseline]]
    optimizers = [torch.optim.Adam(group, **adam) for group in groups]
    assert train(optimizers, batches=batches, clear_first=clear_first, **both) == []


def test_accumulation_without_a_step_gets_no_warning() -> None:
    """Nor does a model that is not trained, nor a loop that alternates between model and baseline."""
    both = baseline_and_model()
    assert train([], 3, batches=20, **both) == []
    both = baseline_and_model()
    assert train([torch.optim.Adam(both["estimator"].parameters(), fused=True)], **both) == []
    both = baseline_and_model()
    first, second = (torch.optim.SGD(both[key].parameters(), lr=0.1) for key in ("model", "estimator"))
    for _ in range(5):
        assert train([first], 1, **both) == train([second], 1, **both) == []


def test_gradients_in_place_of_zero_are_cleared_gradients() -> None:
    both = baseline_and_model()
    model, baseline = (torch.optim.SGD(both[key].parameters(), lr=0.1, fused=True) for key in ("model", "estimator"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            both["estimator"](both["model"], observations(4), backward=True)
            for optimizer, to_none in ((model, True), (baseline, False)):
                optimizer.step()
                optimizer.zero_grad(set_to_none=to_none)


def test_gradients_that_are_not_accumulated_get_no_warning() -> None:
    both = baseline_and_model()
    estimator, model = both["estimator"], both["model"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            loss, _, _ = estimator(model, observations(4))
            torch.autograd.grad(loss.mean(), list(model.parameters()))
            with torch.no_grad():
                estimator(model, observations(4))
            loss, _, _ = estimator(model, observations(4))
            loss.mean().backward(inputs=list(model.parameters()))
            model.zero_grad()
