"""Evaluating L_K of the paper's sigmoid belief network against its matrix products alone, the floor.

    python benchmarks/bench_evaluate.py [--iw 5000] [--points 20] [--threads 1,2] [--device cpu]

3 x 200 Bernoulli variables, 28 x 28 inputs, 10 data a batch (``--test_bs``). The cost is proportional to the points, of
which a test set has 10,000. The products are those of as many particles, 1000 at once, into memory that is there. All
in one run, in turns. Quote it from a quiet machine: memory traffic suffers from neighbours more than products do.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable

import torch

from ovis.analysis.evaluate import evaluate
from ovis.models import SigmoidBeliefNetwork

BATCH, WIDTH, PIXELS = 10, 200, 784
ROWS = 1000


def matrix_products(particles: int, device: torch.device) -> Callable[[], None]:
    """The products that score so many particles of a batch: x is encoded once per datum."""
    passes = -(-particles // ROWS)
    rows = -(-particles // passes)
    x, h = torch.rand(BATCH, PIXELS, device=device), torch.rand(rows, WIDTH, device=device)
    first = torch.rand(WIDTH, PIXELS, device=device)
    square, last = torch.rand(WIDTH, WIDTH, device=device), torch.rand(PIXELS, WIDTH, device=device)
    features, hidden, logits = x @ first.t(), h @ square.t(), h @ last.t()

    def run() -> None:
        torch.mm(x, first.t(), out=features)  # q(z_1|x)
        for _ in range(passes):
            for _ in range(4):  # q(z_2|z_1), q(z_3|z_2), p(z_2|z_3), p(z_1|z_2)
                torch.mm(h, square.t(), out=hidden)
            torch.mm(h, last.t(), out=logits)  # p(x|z_1)

    return run


def seconds(run: Callable[[], None], device: torch.device) -> float:
    """Time of one call."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def turns(iw: int, points: int, rounds: int, device: torch.device) -> list[tuple[float, float]]:
    """Seconds of the evaluation of all points and of their products, a batch of each in turns: ``rounds`` pairs."""
    torch.manual_seed(0)
    model = SigmoidBeliefNetwork((1, 28, 28), N=WIDTH, depth=3).to(device)
    data = (torch.rand(points // BATCH, BATCH, 1, 28, 28, device=device) < 0.2).float()
    floor = matrix_products(BATCH * iw, device)

    def evaluation() -> None:
        evaluate(model, next(batches), iw, BATCH)

    def pair() -> tuple[float, float]:
        measured = [(seconds(evaluation, device), seconds(floor, device)) for _ in data]
        return sum(a for a, _ in measured), sum(b for _, b in measured)

    batches = itertools.cycle(data)
    pair()  # warms up
    return [pair() for _ in range(rounds)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iw", type=int, default=5000, help="particles K")
    parser.add_argument("--points", type=int, default=20, help=f"data that are evaluated, a multiple of {BATCH}")
    parser.add_argument("--threads", default="1,2", help="numbers of CPU threads, separated by commas")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=9, help="turns between floor and evaluation")
    opt = parser.parse_args()
    if opt.points < BATCH or opt.points % BATCH:
        parser.error(f"--points must be a multiple of {BATCH}, got {opt.points}")
    device = torch.device(opt.device)
    print(f"3x200 SBN, 784 inputs, K = {opt.iw}, {opt.points} points, {device}; load {os.getloadavg()[0]:.1f}")
    print(f"{'threads':>7s} {'evaluate s':>11s} {'floor s':>9s} {'evaluate/floor':>15s} {'10,000 points, min':>19s}")
    for threads in map(int, opt.threads.split(",")):
        torch.set_num_threads(threads)
        pairs = turns(opt.iw, opt.points, opt.rounds, device)
        times, floors = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"{threads:7d} {times:11.3f} {floors:9.3f} {ratio:15.2f} {times / opt.points * 10_000 / 60:19.1f}")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
