"""A training step in steady state: no host-device synchronization, no worker process, no Python work growing with K."""

import contextlib
import dataclasses
import gc
import multiprocessing.process
import os
import sys

import pytest
import torch
import torch.utils.data
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from train_run import train

from ovis.estimators.ids import ESTIMATORS, parse_estimator
from ovis.experiments.datasets.images import binarize
from ovis.experiments.datasets.splits import StoredData
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.settings import TrainSettings
from ovis.experiments.training.build import build_run
from ovis.experiments.training.step import TrainingStep

SBM = {"dataset": "digits", "model": "sbm", "depth": 2, "nlayers": 0}
NORMAL = {"dataset": "digits", "model": "gaussian-vae", "nlayers": 1}
SCORE = (
    "reinforce", "reinforce-baseline", "rloo", "vimco", "vimco-geometric", "ovis-gamma0", "ovis-gamma1", "ovis-S2",
    "ovis-S2-exclusive", "rws", "wake-sleep", "wake-mix0.5", "tvo-part2-config1", "tvo-part5-config2-trapz",
    "piwae-vimco",
)  # fmt: skip
PATHWISE = ("vae", "iwae", "ciwae-beta0.05", "stl", "dreg")

#: Every family of estimators, then every kind of model and of data, and the options that change with the step.
CASES = {
    **{name: {**SBM, "estimator": name} for name in SCORE},
    **{name: {**NORMAL, "estimator": name} for name in PATHWISE},
    "mixture": {"dataset": "gmm", "estimator": "ovis-gamma1"},
    "toy": {"dataset": "gaussian-toy", "estimator": "dreg"},
    "bernoulli": {"dataset": "shapes", "mini": True, "model": "vae", "prior": "bernoulli", "estimator": "vimco"},
    "convolutions": {"dataset": "shapes", "mini": True, "model": "conv-vae", "hdim": 4, "estimator": "dreg"},
    "batchnorm": {**NORMAL, "model": "vae", "normalization": "batchnorm", "dropout": 0.1, "estimator": "iwae"},
    "categorical": {"dataset": "digits", "model": "vae", "prior": "categorical", "estimator": "vimco"},
    "relaxed": {"dataset": "digits", "model": "vae", "prior": "bernoulli", "tau": 0.5, "estimator": "iwae"},
    "schedules": {**SBM, "estimator": "ovis-gamma1", "warmup": 9, "lr_reduce_steps": 8, "beta": 0.5, "freebits": 0.1},
    **{optimizer: {**SBM, "estimator": "vimco", "optimizer": optimizer} for optimizer in ("adamax", "sgd", "rmsprop")},
}

#: Operations that read a number of the device, or the size of whose result depends on one.
READS = {
    *("_local_scalar_dense", "is_nonzero", "equal", "allclose", "nonzero", "masked_select", "argwhere", "bincount"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "histc"),
}


class Waits(AssertionError):
    """An operation for which the host has to wait for the device."""


class Counting(TorchDispatchMode):
    """Counts the operations."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


class Refusing(TorchDispatchMode):
    """Refuses what would wait on a GPU. (CPU tensors stand for those of a device.)

    Args:
        host: tensors that are on the host wherever the model is.
    """

    def __init__(self, host):
        super().__init__()
        self.host = {id(tensor) for tensor in host}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.waits(func.overloadpacket.__name__, args, kwargs or {}):
            raise Waits(func)
        return func(*args, **(kwargs or {}))

    def waits(self, name, args, kwargs):
        if name in READS:
            return id(args[0]) not in self.host
        if name == "multinomial":  # torch checks the probabilities on the host, but for several draws with replacement
            return args[1] == 1 or not (len(args) > 2 and args[2])
        if name in ("index", "index_put", "index_put_"):
            return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        return name == "_to_copy" and kwargs.get("device") is not None


#: What reads a tensor, or makes one of the host's numbers and has to copy it, past the dispatcher.
PAST = [(Tensor, name) for name in ("cpu", "numpy", "tolist", "__array__", "new_tensor")]
PAST += [(torch, name) for name in ("tensor", "as_tensor", "from_numpy")]


@contextlib.contextmanager
def nothing_waits(host=()):
    """Waiting is an error in this block."""

    def refuse(name):
        def refused(*args, **kwargs):
            raise Waits(name)

        return refused

    with pytest.MonkeyPatch.context() as patch, Refusing(host):
        for owner, name in PAST:
            patch.setattr(owner, name, refuse(name))
        yield


def prepared(iw, **options):
    """A run that has taken three steps, so that the optimizer and torch have allocated what they do once."""
    run = build_run(TrainSettings(**{"bs": 20, "N": 6, "hdim": 8, "iw": iw, "nsteps": 10, **options}))
    run.model.train()
    take, source = TrainingStep(run), run.batches(0, 10)
    for step in range(3):
        take(next(source), step)
    return run, take, source


def steps_of(run):
    """The optimizer's counts of steps, which torch keeps on the host, unless all is one kernel."""
    fused = any(group.get("fused") for group in run.optimizer.param_groups)
    return [] if fused else [state["step"] for state in run.optimizer.state.values() if "step" in state]


def test_the_cases_include_every_family():
    assert {parse_estimator(case["estimator"]).family for case in CASES.values()} == set(ESTIMATORS) - {
        "mixed"
    }  # no model has mixed latents


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: float(x.sum()),
        lambda x: [1, 2][x.sum().long()],
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: torch.equal(x, x + 0),
        lambda x: x.numpy(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.to("meta"),
        lambda x: x.new_tensor(1.0),
        lambda x: torch.tensor(1.0),
        lambda x: x.abs().multinomial(1),
        lambda x: torch.distributions.Categorical(logits=x).sample(),
        lambda x: torch.distributions.Normal(x, x.exp(), validate_args=True),
    ],
)
def test_synchronization_is_detected(read):
    x = torch.randn(5)
    with pytest.raises(Waits), nothing_waits():
        read(x)


@pytest.mark.parametrize("case", CASES)
def test_no_step_synchronizes(case):
    """The batch is made, the step is taken, and the next one, without the host knowing any number of them."""
    run, take, source = prepared(5, **CASES[case])
    with nothing_waits(steps_of(run)):
        for step in (3, 4):
            loss = take(next(source), step)
    assert torch.isfinite(loss)


def test_no_batch_of_grey_levels_synchronizes():
    run, _, _ = prepared(2, **SBM, estimator="vimco")
    grey = StoredData(torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8), binarize)
    splits = type(run.splits)(grey, run.splits.valid, run.splits.test, run.splits.mean)
    source = dataclasses.replace(run, splits=splits).batches(0, 6)
    next(source)
    with nothing_waits():
        rest = list(source)
    assert len(rest) == 5  # of three epochs
    assert {x.unique().tolist() == [0, 1] for x in rest} == {True}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("case", CASES)
def test_no_step_synchronizes_on_cuda(case):
    _, take, source = prepared(5, **CASES[case], device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in (3, 4):
            take(next(source), step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def work_of(take, x, step):
    """Operations that a step dispatches, and functions that it calls, Python's and C's."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    with Counting() as mode:
        take(x, step)
    gc.disable()  # finalizers of what another test left behind would be counted
    sys.setprofile(count)
    try:
        take(x, step + 1)
    finally:
        sys.setprofile(None)
        gc.enable()
    return mode.count, calls


@pytest.mark.parametrize("few", [0, 2**30])
@pytest.mark.parametrize("case", CASES)
def test_the_work_of_a_step_in_python_does_not_depend_on_k(case, few, monkeypatch):
    """Nor does it with either of two ways to a density, for few numbers and for many."""
    monkeypatch.setattr("ovis.functional.bernoulli.FEW", few)
    counts = []
    for iw in (40, 400):
        _, take, source = prepared(iw, **CASES[case], bs=2)
        counts.append(work_of(take, next(source), 3))
    assert counts[0] == counts[1]
    assert min(counts[0]) > 50  # something was counted


def test_no_worker_process_is_started(tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("a process or a data loader")

    for owner, name in (
        (os, "fork"),
        (multiprocessing.process.BaseProcess, "start"),
        (torch.utils.data.DataLoader, "__init__"),
    ):
        monkeypatch.setattr(owner, name, refused)
    small = {"iw": 2, "epochs": 2, "bs": 300, "eval_freq": 1, "max_eval": 5, "grad_samples": 2, "grad_bs": 2}
    run = build_run(TrainSettings(**SBM, **small, iw_valid=2, iw_test=2, estimator="vimco"))
    assert train(run, RunPaths(tmp_path))
