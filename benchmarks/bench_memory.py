"""Peak memory of one training step against K, in passes of P particles and in one pass.

    python benchmarks/bench_memory.py [--estimators ovis-gamma1,vimco] [--passes 1000] [--device cpu]

The paper's sigmoid belief network (3 x 200 Bernoulli variables, 784 inputs), batch 4; for the pathwise estimators 200
Gaussian variables, perceptrons of two hidden layers of 200. Each point is a process of its own: after a step with two
particles, which loads what torch loads, it takes steps with K and tells by how much its memory grew at the peak (on a
GPU: the peak of what torch allocated). K = P is one pass: the ratio says what 100,000 particles cost beside P.

On a CPU, glibc's heap takes some passes until it has all the fragments that it will have, so every point makes at least
as many passes as 100,000 particles are (for K = P in 100 steps, as a training does). With --exact the heap is told to
give back what is freed, which leaves what is alive, and takes longer. A busy machine changes the seconds only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ovis.estimators.config import get_config
from ovis.estimators.ids import parse_estimator
from ovis.models import GaussianVAE, SigmoidBeliefNetwork

BATCH, WIDTH = 4, 200

#: Passes that a point makes at least.
PASSES = 100

#: What makes glibc map each larger block for itself, and give it back when it is freed.
EXACT = {"MALLOC_MMAP_THRESHOLD_": "131072"}

DEFAULT = "reinforce,vimco,ovis-gamma1,ovis-S10-exclusive,rws,wake-sleep,tvo-part5-config2,pathwise-iwae,dreg"


def training_step(name: str, device: torch.device) -> Callable[[int, int | None], None]:
    """Sampling, forward, backward and Adam with K particles in passes of P."""
    torch.manual_seed(0)
    gaussian = parse_estimator(name).facts.reparameterized
    kind = GaussianVAE((1, 28, 28), N=WIDTH, hdim=200, nlayers=2) if gaussian else None
    model = (kind or SigmoidBeliefNetwork((1, 28, 28), N=WIDTH, depth=3)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    Estimator, config = get_config(name)
    estimator = Estimator(iw=2, **config)
    x = (torch.rand(BATCH, 1, 28, 28, device=device) < 0.2).float()

    def run(iw: int, size: int | None) -> None:
        estimator(model, x, backward=True, iw=iw, particles_per_pass=size)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def resident(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def measure(name: str, iw: int, size: int | None, device: torch.device) -> tuple[float, float]:
    """Growth of the memory at the peak, MB, and seconds of a step."""
    step = training_step(name, device)
    step(2, None)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if cuda else resident("VmRSS")
    steps = max(1, -(-PASSES * (size or iw) // iw))
    start = time.perf_counter()
    for _ in range(steps):
        step(iw, size)
    if cuda:
        torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - start) / steps
    peak = torch.cuda.max_memory_allocated(device) if cuda else resident("VmHWM")
    return (peak - before) / 1e6, seconds


def in_a_process(name: str, iw: int, size: int, device: str, exact: bool) -> tuple[float, float]:
    """The same; size 0: in one pass."""
    words = [sys.executable, __file__, "--point", name, str(iw), str(size), "--device", device]
    environment = {**os.environ, **(EXACT if exact else {})}
    output = subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout.split()
    return float(output[0]), float(output[1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--estimators", default=DEFAULT, help="ids, separated by commas")
    parser.add_argument("--passes", type=int, default=1000, help="particles of a pass, P")
    parser.add_argument("--particles", default="10000,100000", help="numbers of particles K, separated by commas")
    parser.add_argument("--one_pass", type=int, default=5000, help="particles of a step in one pass, to compare")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--exact", action="store_true", help="without the fragments of the heap")
    parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
    opt = parser.parse_args()
    if opt.point:
        name, iw, size = opt.point[0], int(opt.point[1]), int(opt.point[2]) or None
        print(*measure(name, iw, size, torch.device(opt.device)))
        return
    counts = [opt.passes, *map(int, opt.particles.split(","))]
    print(f"batch {BATCH}, P = {opt.passes}, {opt.device}, torch {torch.__version__}; MB (seconds)")
    columns = [*(f"K = {iw}" for iw in counts), "ratio", f"one pass, {opt.one_pass}"]
    print(f"{'estimator':20s}" + "".join(f"{column:>18s}" for column in columns))
    for name in opt.estimators.split(","):
        points = [in_a_process(name, iw, opt.passes, opt.device, opt.exact) for iw in counts]
        whole = in_a_process(name, opt.one_pass, 0, opt.device, opt.exact)
        cells = [f"{memory:.0f} ({seconds:.1f})" for memory, seconds in points]
        cells += [f"{points[-1][0] / points[0][0]:.2f}", f"{whole[0]:.0f} ({whole[1]:.1f})"]
        print(f"{name:20s}" + "".join(f"{cell:>18s}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
