"""Signals of a policy: by their definitions in extended precision, and by enumeration of all rollouts."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor

from ovis.functional import policy_signal

METHODS = ("reinforce", "vimco", "rloo", "rloo-log", "dr-grpo", "grpo", "maxrl")


def by_definition(row: list[float], method: str) -> list[float]:
    """Of finite log-rewards."""
    with mp.workdps(60):
        f = [mpf(value) for value in row]
        r, K = [mp.exp(value) for value in f], len(f)
        mean, mean_log = mp.fsum(r) / K, mp.fsum(f) / K
        sd = mp.sqrt(mp.fsum((value - mean) ** 2 for value in r) / (K - 1)) if K > 1 else mpf(0)
        result = {
            "reinforce": lambda k: mp.log(mean),
            "vimco": lambda k: mp.log(mean) - mp.log(mp.fsum(r[:k] + r[k + 1 :]) / (K - 1)),
            "rloo": lambda k: (r[k] - mean) / (K - 1),
            "rloo-log": lambda k: (f[k] - mean_log) / (K - 1),
            "dr-grpo": lambda k: (r[k] - mean) / K,
            "grpo": lambda k: (r[k] - mean) / (K * sd),
            "maxrl": lambda k: r[k] / mp.fsum(r),
        }[method]
        return [float(result(k)) for k in range(K)]


def rows(dtype: torch.dtype) -> list[Tensor]:
    """Spread, nearly equal, and nearly equal but for one reward, at several scales."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(6, generator=generator, dtype=torch.float64)
    # the rewards of NVIDIA-NeMo/RL #1518
    cases = [torch.tensor([0.35] * 7 + [0.75]).double().log(), noise, 20 * noise, noise[:2]]
    cases += [level + scale * noise for level in (-1.0, -300.0) for scale in (1e-2, 1e-5)]
    return [case.to(dtype) for case in cases]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_it_is_its_definition(method: str, dtype: torch.dtype) -> None:
    """To rounding, relative to the largest signal of a row."""
    for row in rows(dtype):
        found, exact = policy_signal(row, method), by_definition(row.tolist(), method)
        assert found.dtype == dtype
        unit = max(map(abs, exact))
        if unit < torch.finfo(dtype).tiny:  # r itself underflows
            continue
        torch.testing.assert_close(
            found.double() / unit,
            torch.tensor(exact, dtype=torch.float64) / unit,
            rtol=0,
            atol=16 * torch.finfo(dtype).eps,
        )


@pytest.mark.parametrize("method", METHODS)
def test_shapes_and_rows(method: str) -> None:
    log_r = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = policy_signal(log_r, method)
    assert found.shape == log_r.shape
    assert not found.requires_grad
    torch.testing.assert_close(found[1, 2], policy_signal(log_r[1, 2], method))
    assert policy_signal(log_r.bfloat16(), method).dtype == torch.float32


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("reinforce", "maxrl")])
@pytest.mark.parametrize("value", [0.0, math.log(0.35), -1e-30, -50.0, -1e4, -math.inf])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_equal_rewards_have_the_signal_0(method: str, value: float, count: int) -> None:
    assert torch.equal(policy_signal(torch.full((count,), value), method), torch.zeros(count))


def test_failures() -> None:
    """r = (1, 0, 0, 1) and (1, 0, 0, 0): finite but where the definition is infinite."""
    two, one = torch.tensor([0.0, -math.inf, -math.inf, 0.0]), torch.tensor([0.0, -math.inf, -math.inf, -math.inf])
    close = torch.testing.assert_close
    close(policy_signal(two, "rloo"), torch.tensor([0.5, -0.5, -0.5, 0.5]) / 3)
    close(policy_signal(two, "grpo"), torch.tensor([1.0, -1.0, -1.0, 1.0]) / 4 * math.sqrt(3 / 4))
    close(policy_signal(two, "maxrl"), torch.tensor([0.5, 0.0, 0.0, 0.5]))
    # L = log 1/2; without a success log 1/3, without a failure log 2/3
    close(policy_signal(two, "vimco"), torch.tensor([1.5, 0.75, 0.75, 1.5]).log())
    close(policy_signal(two, "reinforce"), torch.full((4,), -math.log(2)))
    assert policy_signal(one, "vimco")[0] == math.inf
    close(policy_signal(one, "vimco")[1:], torch.full((3,), math.log(0.75)))
    assert policy_signal(one, "rloo-log").tolist() == [math.inf, -math.inf, -math.inf, -math.inf]
    for method in ("vimco", "reinforce", "rloo-log"):
        floored = policy_signal(one, method, floor=-5.0)
        close(floored.double(), torch.tensor(by_definition([0.0, -5.0, -5.0, -5.0], method)).double())
    for method in METHODS:
        assert torch.equal(policy_signal(torch.full((4,), -math.inf), method), torch.zeros(4))


def expected(method: str, K: int, log_r: Tensor) -> Tensor:
    """The mean of sum_k signal_k grad log pi(c_k) over all K rollouts of a policy with three actions."""
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    log_pi = logits.log_softmax(0)
    index = torch.tensor(list(itertools.product(range(3), repeat=K)))
    probability = log_pi.detach()[index].sum(-1).exp()
    signal = policy_signal(log_r[index], method)
    total = (probability * (signal * log_pi[index]).sum(-1)).sum()
    return torch.autograd.grad(total, logits)[0]


def objective_gradient(method: str, K: int, log_r: Tensor) -> Tensor:
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    log_pi = logits.log_softmax(0)
    index = torch.tensor(list(itertools.product(range(3), repeat=K)))
    success = (log_pi.exp() * log_r.exp()).sum()
    value = {
        "reinforce": lambda: (log_pi[index].sum(-1).exp() * (log_r[index].logsumexp(-1) - math.log(K))).sum(),
        "rloo": lambda: success,
        "rloo-log": lambda: (log_pi.exp() * log_r).sum(),
        "dr-grpo": lambda: (K - 1) / K * success,
        "maxrl": lambda: -sum((1 - success) ** j / j for j in range(1, K + 1)),
    }[{"vimco": "reinforce"}.get(method, method)]()
    return torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "grpo"])
def test_it_is_unbiased_for_its_objective(method: str, K: int) -> None:
    success = [0.0, -math.inf, -math.inf] if method == "maxrl" else [-0.1, -1.7, -3.0]
    log_r = torch.tensor(success, dtype=torch.float64)
    exact = objective_gradient(method, K, log_r)
    assert exact.norm() > 0.01
    torch.testing.assert_close(expected(method, K, log_r), exact, rtol=0, atol=1e-12)


def test_what_it_refuses() -> None:
    for arguments, message in (
        (("grop",), "unknown method 'grop'; did you mean 'grpo'"),
        (("rloo", -5.0), "floor must be a finite number, for reinforce, vimco, rloo-log only; got -5.0 for rloo"),
        (("vimco", -math.inf), "floor must be a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            policy_signal(torch.zeros(3), *arguments)
    with pytest.raises(ValueError, match=r"log_r has NaN.*must not be negative"):
        policy_signal(torch.tensor([-1.0, 1.0]).log(), "grpo")
    with pytest.raises(ValueError, match="log_r"):
        policy_signal(torch.zeros(1), "vimco")
    with pytest.raises(TypeError, match=r"log_r|floating"):
        policy_signal(torch.zeros(3, dtype=torch.long), "vimco")
