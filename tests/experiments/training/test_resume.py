"""On the CPU, a run that is killed at any point, any number of times, ends bit-identical to an uninterrupted one."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from resume_cases import CASES
from resume_lab import KILLED, Plan, left_by, unequal, words_of
from slow_cases import slow_except

from ovis.experiments.datasets.splits import FreshData, StoredData
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.runs.status import ABORTED
from ovis.experiments.settings import TrainSettings
from ovis.experiments.training.build import build_run

EVERY_CASE = [pytest.param(name, marks=[pytest.mark.slow] * (i > 2)) for i, name in enumerate(CASES)]

#: Kills at the steps of an evaluation that publish something, in their order.
PUBLISHING = (
    *("evaluation.recorded", "checkpoint.temporary", "checkpoint.rotated", "checkpoint.saved"),
    *("best.written", "best.saved"),
)


@pytest.fixture(scope="module")
def whole(lab):
    """The results of uninterrupted runs, by case."""
    known = {}

    def left(case):
        if case not in known:
            known[case] = lab.finish(f"whole-{case}", CASES[case])
        return known[case]

    return left


@pytest.mark.parametrize("case", slow_except(["gmm"], CASES))
def test_one_run_killed_at_every_failpoint(lab, whole, case):
    """First in the first epoch, before there is a checkpoint; then at later evaluations; then between checkpoints."""
    name, settings = f"often-{case}", CASES[case]
    for failpoint in ("step 3", *(f"{failpoint}:1" for failpoint in PUBLISHING[:2])):
        plan = Plan(step=3) if failpoint == "step 3" else Plan(failpoint)
        assert lab.start(name, settings, plan) == KILLED, (failpoint, lab.output)
        assert not lab.paths(name).checkpoint.exists()
    for failpoint in ("best.written", "best.saved", "checkpoint.rotated", "checkpoint.saved"):
        assert lab.start(name, settings, Plan(failpoint)) == KILLED, (failpoint, lab.output)
    steps = torch.load(lab.paths(name).checkpoint, weights_only=True)["position"]["step"]
    assert lab.start(name, settings, Plan(step=steps + 2, seconds=-1)) == KILLED
    assert torch.load(lab.paths(name).checkpoint, weights_only=True)["position"]["step"] == steps + 2
    assert lab.start(name, settings, Plan(term=steps + 4)) == ABORTED
    assert torch.load(lab.paths(name).checkpoint, weights_only=True)["position"]["step"] == steps + 5
    assert unequal(lab.finish(name, settings), whole(case)) == []


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [-1.0, 1e9])
@pytest.mark.parametrize("case", ["digits", "gmm", "dropout"])
def test_each_failpoint_alone(lab, whole, case, seconds):
    """With a checkpoint after each step, and with none but those of the evaluations.

    The cases have stored data, fresh data with an estimator's own optimizer group, and buffers. What else there is in a
    checkpoint is killed at every failpoint of one run, above.
    """
    plans = [Plan(f"{failpoint}:{n}", seconds=seconds) for failpoint in PUBLISHING for n in (1, 2)]
    plans += [Plan(step=step, seconds=seconds) for step in (0, 8, 9, 13, 26)]
    plans += [Plan(term=step, seconds=seconds) for step in (8, 13)]
    for number, plan in enumerate(plans):
        name = f"alone-{case}-{seconds}-{number}"
        code = lab.start(name, CASES[case], plan)
        assert code in (KILLED, ABORTED) or (code == 0 and plan.failpoint.startswith("best")), (plan, lab.output)
        assert unequal(lab.finish(name, CASES[case], Plan(seconds=seconds)), whole(case)) == [], plan


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_at_random_moments(lab, whole, case):
    chance, kills = random.Random(case), 0
    name = f"chance-{case}"
    for _ in range(40):
        plan = Plan(seconds=chance.choice([-1.0, 0.01, 1e9]))
        code = lab.start(name, CASES[case], plan, kill_after=chance.uniform(0.02, 0.4))
        assert code in (0, KILLED), lab.output
        kills += code == KILLED
        if code == 0:
            break
    assert unequal(lab.finish(name, CASES[case]), whole(case)) == [], kills


@pytest.mark.parametrize(
    ("part", "plan", "noticed"),
    [
        ("random states", Plan(step=22, seconds=-1), "metrics 2"),
        ("optimizer", Plan(step=22, seconds=-1), "checkpoint.pt/model/prior_logits"),
        pytest.param("data order", Plan(step=22, seconds=-1), "metrics 2", marks=pytest.mark.slow),
        pytest.param("best", Plan(step=22, seconds=-1), "checkpoint.pt/position/best_step", marks=pytest.mark.slow),
        pytest.param("cut", Plan("evaluation.recorded:2"), "metrics 3", marks=pytest.mark.slow),
        pytest.param("purge", Plan("evaluation.recorded:2"), "board valid:loss/L_k", marks=pytest.mark.slow),
    ],
)
def test_a_part_that_is_not_restored_is_detected(lab, whole, part, plan, noticed):
    """The comparison can fail: without this part the same kill ends in another result."""
    case, name = "still" if part == "best" else "digits", f"forget-{part.replace(' ', '-')}"
    assert lab.start(name, CASES[case], plan) == KILLED
    assert noticed in unequal(lab.finish(name, CASES[case], Plan(forget=part)), whole(case))


@pytest.mark.slow
def test_resuming_by_the_training_command(lab, whole):
    """The same without the lab, from the start to the outcome: a new interpreter for each attempt."""
    words = [
        sys.executable,
        "-m",
        "ovis.experiments.cli.train",
        *words_of({**CASES["digits"], "root": lab.root / "typed"}),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(words, env={**environment, "OVIS_FAILPOINT": "evaluation.recorded:2"}, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    resumed = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert resumed.returncode == 0, resumed.stderr
    (folder,) = (lab.root / "typed" / "sandbox").iterdir()
    paths = RunPaths(folder)
    assert unequal(left_by(paths), whole("digits")) == []
    assert json.loads(paths.outcome.read_text())["status"] == "success"
    assert paths.success.exists()
    assert "step 27/27" in paths.log(2).read_text()
    assert json.loads(paths.config.read_text())["settings"]["estimator"] == "ovis-gamma1"


def test_with_a_corrupt_checkpoint_the_previous_one_leads_to_the_same_end(lab, whole):
    name, settings = "flipped", CASES["digits"]
    paths = lab.paths(name)
    assert lab.start(name, settings, Plan("best.saved:2")) == KILLED
    data = bytearray(paths.checkpoint.read_bytes())
    data[len(data) // 2] ^= 4
    paths.checkpoint.write_bytes(data)
    left = lab.finish(name, settings)
    (line,) = [line for line in lab.output.splitlines() if "corrupt" in line]
    assert line.startswith(f"{paths.checkpoint}.corrupt: wrong checksum in ")
    assert line.endswith("going on from checkpoint.previous.pt, step 9")
    assert (paths.folder / "checkpoint.pt.corrupt").read_bytes() == data
    assert unequal(left, whole("digits")) == []


def test_a_complete_run_that_is_started_again_stays_as_it_is(lab, whole):
    expected = whole("digits")
    shutil.copytree(lab.paths("whole-digits").folder, lab.paths("again").folder)
    assert unequal(lab.finish("again", CASES["digits"]), expected) == []


def binarized(points, generator):
    return (torch.rand(points.shape, generator=generator) < points).float()


@pytest.mark.parametrize(
    "source",
    [
        StoredData(torch.arange(25.0).unsqueeze(1)),
        StoredData(torch.rand(25, 4, generator=torch.Generator().manual_seed(0)), binarized),
        FreshData(lambda n, generator: torch.randn(n, 2, generator=generator), 25),
    ],
    ids=["stored", "binarized", "fresh"],
)
def test_a_batch_is_the_same_wherever_one_begins(source):
    run = build_run(TrainSettings(dataset="digits", model="sbm", bs=4, nlayers=0))
    splits = type(run.splits)(source, run.splits.valid, run.splits.test, run.splits.mean)
    run = type(run)(run.settings, run.device, splits, run.model, run.estimator, run.optimizer)
    every = list(run.batches(0, 20))
    assert len(every) == 20  # three epochs of 6 and a part of the fourth
    assert not torch.equal(every[0], every[6])
    for start in range(21):
        rest = list(run.batches(start, 20))
        assert len(rest) == 20 - start
        assert all(torch.equal(a, b) for a, b in zip(rest, every[start:], strict=True))
