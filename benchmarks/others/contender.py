"""One contender, in this process, for bench_others.py: prints a line of JSON for each thing measured.

    $ python contender.py MODULE NAME K...

First its mean gradient on a tiny model against the exact ones, then seconds and memory of a training step for each K,
which must grow, as the peak of the memory only does.
"""

from __future__ import annotations

import copy
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from sbn import BATCH, PIXELS, SBN, Subject, exact_gradients
from torch import Tensor

#: Seconds that the repeats of a K may take, and how many there are at least and at most.
BUDGET, FEWEST, MOST = 1.0, 3, 200

#: Of the tiny model: pixels, units, particles; copies of its two data in a call, and calls.
TINY, COPIES, CALLS = (3, 2, 3), 1000, 100


def make(module: str, name: str, model: SBN) -> Subject:
    """The contender ``name`` of ``with_*.py``, on this model."""
    subject: Subject = importlib.import_module(module).make(name, model)
    return subject


def training_step(subject: Subject, x: Tensor) -> Callable[[int], None]:
    """K -> None: sampling, forward, backward and fused Adam; only the first two for what has no parameters."""
    optimizer = torch.optim.Adam(subject.parameters, lr=1e-4, fused=True) if subject.parameters else None

    def run(iw: int) -> None:
        subject.backward(x, iw)
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def resident(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def seconds(run: Callable[[], None]) -> float:
    """Median time of a call after the first one; the first one's where it used up the budget."""
    times: list[float] = []
    while len(times) <= FEWEST or (sum(times) < BUDGET and len(times) < MOST):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
        if times[0] > 5 * BUDGET:
            return times[0]
    return statistics.median(times[1:])


def measure_steps(subject: Subject, x: Tensor, counts: Sequence[int]) -> Iterator[dict[str, float]]:
    """For each K: ``seconds`` of a step; by how many ``bytes`` the process had grown at its peak since K = 2."""
    step = training_step(subject, x)
    step(2)  # loads what torch loads, and makes Adam's moments
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    for iw in counts:
        median = seconds(partial(step, iw))
        yield {"seconds": median, "bytes": max(0, resident("VmHWM") - before)}


def tiny() -> tuple[SBN, Tensor, int]:
    """A model with an enumerable posterior, two data, and K."""
    torch.manual_seed(0)
    pixels, units, iw = TINY
    model = SBN(pixels, units)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), iw


def mean_gradient(subject: Subject, x: Tensor, iw: int, calls: int) -> tuple[Tensor, Tensor]:
    """Mean gradient of the bound over draws, and its standard errors: one entry per parameter's entry, float64."""
    batch = x.repeat(COPIES, 1)  # independent draws; the mean over the data is a mean over draws
    scale = -1.0 if subject.over_data == "mean" else -1.0 / len(batch)
    draws = []
    for _ in range(calls):
        for parameter in subject.parameters:
            parameter.grad = None
        subject.backward(batch, iw)
        each = [torch.zeros_like(p) if p.grad is None else p.grad for p in subject.parameters]
        draws.append(torch.cat([grad.flatten() for grad in each]).double() * scale)
    stacked = torch.stack(draws)
    return stacked.mean(0), stacked.std(0) / calls**0.5


def measure_gradient(make_subject: Callable[[SBN], Subject], calls: int = CALLS) -> dict[str, dict[str, float]]:
    """For each bound ("L_K", "ELBO") how far the mean gradient is from the exact one, for p's and for q's parameters.

    Returns:
        ``q`` and ``p``: the largest distance of an entry, in standard errors; ``q_norm``: the norm of q's part in that
        of the exact one.
    """
    model, x, iw = tiny()
    exact = exact_gradients(copy.deepcopy(model).double(), x.double(), iw)
    cut = sum(parameter.numel() for parameter in model.q_parameters())
    mean, error = mean_gradient(make_subject(model), x, iw, calls)
    result = {}
    for bound, parts in exact.items():
        gradient = torch.cat([part.flatten() for part in parts])
        distance = (mean - gradient).abs() / error.clamp_min(1e-9)
        result[bound] = {
            "q": float(distance[:cut].max()),
            "p": float(distance[cut:].max()),
            "q_norm": float(mean[:cut].norm() / gradient[:cut].norm()),
        }
    return result


def main(argv: list[str]) -> None:
    """Print what was measured, as soon as it is."""
    module, name, *counts = argv
    print(json.dumps({"torch": torch.__version__}), flush=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small tensors
    trained = bool(make(module, name, tiny()[0]).parameters)
    result = measure_gradient(partial(make, module, name)) if trained else None
    print(json.dumps(result), flush=True)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x = (torch.rand(BATCH, PIXELS) < 0.2).float()
    for each in measure_steps(make(module, name, SBN()), x, [int(word) for word in counts]):
        print(json.dumps(each), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
