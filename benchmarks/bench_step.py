"""One training step against its matrix products alone, the floor.

    python benchmarks/bench_step.py [--model sbm] [--iw 50] [--estimators ovis-gamma1,vimco] [--compile] [--device cpu]

The paper's networks on 28 x 28 inputs, batch 24: sbm, 3 x 200 Bernoulli variables; gaussian-vae, 200 normal variables
and perceptrons of two hidden layers of 200. The floor is measured anew beside each estimator, in turns: the
fastest turn of each, their ratio, and the median ratio of all turns. On a quiet machine both ratios agree; where other
processes want the cores, torch's threads wait for each other, and the fastest is nearer the truth. With --profile it
tells where the time of the first estimator goes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from ovis.estimators.ids import parse_estimator
from ovis.experiments.datasets.splits import Splits, StoredData
from ovis.experiments.settings import TrainSettings
from ovis.experiments.training.build import build_run
from ovis.experiments.training.step import TrainingStep

BATCH, WIDTH, PIXELS = 24, 200, 784
SCORE = "reinforce,vimco,rws,tvo-part2-config1,ovis-gamma0,ovis-gamma1,ovis-S10-exclusive"
DEFAULT = {"sbm": SCORE, "gaussian-vae": f"{SCORE},iwae,dreg"}

Product = tuple[int, int, int, bool]  # rows, inputs, outputs, whether the inputs get a gradient


def products(model: str, iw: int, pathwise: bool) -> list[Product]:
    """The linear maps of a step: rows are data or particles; discrete samples, and x, need no gradient."""
    data, rows = BATCH, BATCH * iw
    if model == "sbm":
        first, last = (data, PIXELS, WIDTH, False), (rows, WIDTH, PIXELS, False)
        return [first, *[(rows, WIDTH, WIDTH, False)] * 4, last]  # q(z_2|z_1), q(z_3|z_2), p(z_2|z_3), p(z_1|z_2)
    encoder = [(data, PIXELS, WIDTH, False), (data, WIDTH, WIDTH, True), (data, WIDTH, 2 * WIDTH, True)]
    return [*encoder, (rows, WIDTH, WIDTH, pathwise), (rows, WIDTH, WIDTH, True), (rows, WIDTH, PIXELS, True)]


def matrix_products(model: str, estimator: str, iw: int, device: torch.device) -> Callable[[], None]:
    """Forward and backward of all of them; of the auxiliary particles of OVIS_MC forward alone."""
    spec = parse_estimator(estimator)
    extra = int(spec.config["auxiliary"]) if spec.family == "ovis-S" and spec.config["exclusive"] else 0
    shapes = products(model, iw, spec.facts.reparameterized)
    tensors = [
        (torch.rand(rows, inputs, device=device), torch.rand(outputs, inputs, device=device),
         torch.rand(rows, outputs, device=device), torch.rand(BATCH * extra * (rows > BATCH), inputs, device=device))
        for rows, inputs, outputs, _ in shapes
    ]  # fmt: skip

    def run() -> None:
        for (x, weight, grad, auxiliary), (*_, inputs_too) in zip(tensors, shapes, strict=True):
            x @ weight.t(), grad.t() @ x
            if inputs_too:
                grad @ weight
            if len(auxiliary):
                auxiliary @ weight.t()

    return run


def training_step(model: str, estimator: str, iw: int, device: str, **options: bool) -> Callable[[], None]:
    """The step that a training takes: sampling, forward, backward and fused Adam."""
    settings = TrainSettings(
        model=model, estimator=estimator, iw=iw, device=device, bs=BATCH, N=WIDTH, hdim=WIDTH, depth=3,
        nlayers=0 if model == "sbm" else 2, lr=1e-4, **options,
    )  # fmt: skip
    x = (torch.rand(BATCH, 1, 28, 28, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    take = TrainingStep(build_run(settings, Splits(StoredData(x), x, x, x.mean(0)).to(device)))
    x = x.to(device)
    return lambda: take(x, 0)


def seconds(run: Callable[[], None], device: torch.device, repeats: int = 2) -> float:
    """Mean time of a few calls."""
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / repeats


def where_the_time_goes(run: Callable[[], None], device: torch.device) -> str:
    """Table of the operations of twenty steps."""
    activities = [ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU]
    with profile(activities=activities, record_shapes=True) as profiler:
        seconds(run, device, 20)
    return str(profiler.key_averages(group_by_input_shape=True).table(sort_by="self_cpu_time_total", row_limit=30))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sbm", choices=sorted(DEFAULT), help="network")
    parser.add_argument("--iw", type=int, default=50, help="particles K")
    parser.add_argument("--estimators", default="", help="ids, separated by commas")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=60, help="turns between floor and step")
    parser.add_argument("--compile", action="store_true", help="as the training's option")
    parser.add_argument("--capture", action="store_true", help="as the training's option")
    parser.add_argument("--profile", action="store_true", help="tell where the time of the first estimator goes")
    opt = parser.parse_args()
    device, names = torch.device(opt.device), (opt.estimators or DEFAULT[opt.model]).split(",")
    options = {name: True for name in ("compile", "capture") if getattr(opt, name)}
    if opt.profile:
        step = training_step(opt.model, names[0], opt.iw, opt.device, **options)
        seconds(step, device)
        print(where_the_time_goes(step, device))
        return
    kind = " ".join([f"{torch.get_num_threads()} threads", *options])
    print(f"{opt.model}, {PIXELS} inputs, batch {BATCH}, K = {opt.iw}, {device}, torch {torch.__version__}, {kind}")
    print(f"{'estimator':22s} {'step ms':>9s} {'floor ms':>9s} {'step/floor':>11s} {'median':>7s}")
    for name in names:
        floor = matrix_products(opt.model, name, opt.iw, device)
        step = training_step(opt.model, name, opt.iw, opt.device, **options)
        seconds(floor, device), seconds(step, device)
        turns = [(seconds(step, device), seconds(floor, device)) for _ in range(opt.rounds)]
        fastest, least = (1e3 * min(column) for column in zip(*turns, strict=True))
        median = statistics.median(a / b for a, b in turns)
        print(f"{name:22s} {fastest:9.2f} {least:9.2f} {fastest / least:11.2f} {median:7.2f}", flush=True)


if __name__ == "__main__":
    main()
