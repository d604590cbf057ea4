"""One training step of the paper's sigmoid belief network against its matrix products alone, the floor.

    python benchmarks/bench_step.py [--iw 50] [--estimators ovis-gamma1,vimco] [--device cpu]

3 x 200 Bernoulli variables, 28 x 28 inputs, batch 24. All in one run, the floor measured anew beside each estimator, in
turns. Quote it from a quiet machine: memory traffic suffers from neighbours more than matrix products do.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from ovis.estimators.config import get_config
from ovis.models import SigmoidBeliefNetwork

BATCH, WIDTH, PIXELS = 24, 200, 784
DEFAULT = "reinforce,vimco,rws,tvo-part2-config1,ovis-gamma0,ovis-gamma1,ovis-S10-exclusive"


def matrix_products(iw: int, device: torch.device) -> Callable[[], None]:
    """The products of one step: forward, and the weights' gradients (discrete samples need none of the inputs)."""
    rows = BATCH * iw
    x, h = torch.rand(BATCH, PIXELS, device=device), torch.rand(rows, WIDTH, device=device)
    grad_x, grad_h = torch.rand(rows, PIXELS, device=device), torch.rand(rows, WIDTH, device=device)
    grad_first = torch.rand(BATCH, WIDTH, device=device)
    first = torch.rand(WIDTH, PIXELS, device=device)
    square, last = torch.rand(WIDTH, WIDTH, device=device), torch.rand(PIXELS, WIDTH, device=device)

    def run() -> None:
        x @ first.t(), grad_first.t() @ x  # q(z_1|x): once per datum
        for _ in range(4):  # q(z_2|z_1), q(z_3|z_2), p(z_2|z_3), p(z_1|z_2)
            h @ square.t(), grad_h.t() @ h
        h @ last.t(), grad_x.t() @ h  # p(x|z_1)

    return run


def training_step(estimator_id: str, iw: int, device: torch.device) -> Callable[[], None]:
    """Sampling, forward, backward and fused Adam."""
    torch.manual_seed(0)
    model = SigmoidBeliefNetwork((1, 28, 28), N=WIDTH, depth=3).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    Estimator, config = get_config(estimator_id)
    estimator = Estimator(mc=1, iw=iw, **config)
    x = (torch.rand(BATCH, 1, 28, 28, device=device) < 0.2).float()

    def run() -> None:
        loss, _, _ = estimator(model, x, return_diagnostics=False)
        loss.mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def seconds(run: Callable[[], None], device: torch.device, repeats: int = 5) -> float:
    """Mean time of a few calls."""
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / repeats


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iw", type=int, default=50, help="particles K")
    parser.add_argument("--estimators", default=DEFAULT, help="ids, separated by commas")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=25, help="turns between floor and step")
    opt = parser.parse_args()
    device = torch.device(opt.device)
    floor = matrix_products(opt.iw, device)
    print(f"3x200 SBN, 784 inputs, batch {BATCH}, K = {opt.iw}, {device}, {torch.get_num_threads()} threads")
    print(f"{'estimator':22s} {'step ms':>9s} {'floor ms':>9s} {'step/floor':>11s}")
    for name in opt.estimators.split(","):
        step = training_step(name, opt.iw, device)
        seconds(floor, device), seconds(step, device)
        turns = [(seconds(step, device), seconds(floor, device)) for _ in range(opt.rounds)]
        steps, floors = (1e3 * statistics.median(column) for column in zip(*turns, strict=True))
        ratio = statistics.median(a / b for a, b in turns)
        print(f"{name:22s} {steps:9.2f} {floors:9.2f} {ratio:11.2f}")


if __name__ == "__main__":
    main()
