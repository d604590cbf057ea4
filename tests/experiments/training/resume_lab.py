"""Training runs to be killed, and what is left of them.

A run is a process that calls the main of ``ovis.experiments.cli.train``, forked from one that has torch loaded already,
so that a test can afford dozens. Run as a script, this file is that process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ovis.experiments.runs.paths import RunPaths

KILLED = -signal.SIGKILL


@dataclass(frozen=True)
class Plan:
    """What shall happen to one attempt.

    Attributes:
        failpoint: where it kills itself, ``name:count``.
        step: it kills itself before this optimizer step.
        term: it is sent SIGTERM before this optimizer step.
        seconds: between checkpoints; -1: one after each step.
        limit: no file may become larger than so many bytes, as if the disk were full.
        forget: a part of the resumption that is left out, to see that the tests notice.
        usurp: another attempt takes the fence before this optimizer step.
        faults: the first attempt to write each file fails: when it is flushed and, the second time, when it is renamed.
    """

    failpoint: str = ""
    step: int = -1
    term: int = -1
    seconds: float = 120.0
    limit: int = -1
    forget: str = ""
    usurp: int = -1
    faults: bool = False


@dataclass
class Lab:
    """Starts attempts, one at a time.

    Attributes:
        root: folder of the runs.
    """

    root: Path
    started: int = 0
    output: str = ""
    nursery: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        self.nursery = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def close(self) -> None:
        self.nursery.communicate(timeout=60)

    def paths(self, name: str) -> RunPaths:
        return RunPaths(self.root / name)

    def start(self, name: str, settings: dict[str, Any], plan: Plan = Plan(), kill_after: float | None = None) -> int:
        """Run one attempt to its end: its exit code, or minus the signal that killed it; ``output`` is its output."""
        self.started += 1
        log = self.root / f"output.{self.started}.txt"
        options = {**settings, "root": self.root, "run_dir": self.root / name}
        words = words_of(options)
        assert self.nursery.stdin is not None
        assert self.nursery.stdout is not None
        order = {"words": words, "plan": asdict(plan), "log": str(log)}
        print(json.dumps(order), file=self.nursery.stdin, flush=True)
        pid = int(self.nursery.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(pid, signal.SIGKILL)  # not yet waited for: the id can't be another's
        self.nursery.stdin.write("wait\n")
        self.nursery.stdin.flush()
        code = int(self.nursery.stdout.readline())
        self.output = log.read_text(errors="replace")
        return code

    def finish(self, name: str, settings: dict[str, Any], plan: Plan = Plan()) -> dict[str, Any]:
        """Run one attempt that has to complete the run; what it left."""
        code = self.start(name, settings, plan)
        assert code == 0, self.output
        return left_by(self.paths(name))


def words_of(options: dict[str, Any]) -> list[str]:
    """Options as words of the command line."""
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]


def left_by(paths: RunPaths) -> dict[str, Any]:
    """Everything that a complete run left, by name, but for times: equal for runs that are equal."""
    import torch
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result: dict[str, Any] = {}
    for number, line in enumerate(paths.metrics.read_text().splitlines()):
        result[f"metrics {number}"] = {name: value for name, value in json.loads(line).items() if name != "time"}
    for path in (paths.checkpoint, paths.best):
        flatten(path.name, torch.load(path, weights_only=True), result)
    del result["checkpoint.pt/position/seconds"]
    board = EventAccumulator(str(paths.folder), size_guidance={"scalars": 0, "images": 0}).Reload()
    for tag in board.Tags()["scalars"]:
        result[f"board {tag}"] = [(event.step, event.value) for event in board.Scalars(tag)]
    for tag in board.Tags()["images"]:
        result[f"board {tag}"] = [(event.step, event.encoded_image_string) for event in board.Images(tag)]
    for path in (paths.samples, paths.reconstructions, paths.best_mark):
        result[path.name] = path.read_bytes() if path.exists() else None
    progress = json.loads(paths.progress.read_text())
    result["progress"] = [progress[name] for name in ("step", "nsteps", "loss")]
    result["outcome"] = json.loads(paths.outcome.read_text())["status"]
    result["temporary"] = [path.name for path in paths.folder.glob(".tmp-*")]
    return result


def unequal(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The names of what differs, to the bit."""
    return sorted(name for name in a.keys() | b.keys() if name not in a or name not in b or not _same(a[name], b[name]))


def _same(a: Any, b: Any) -> bool:
    import torch

    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and repr(a) == repr(b)  # a NaN equals itself, 0 is not -0


def flatten(name: str, value: Any, result: dict[str, Any]) -> None:
    """Collect the leaves of nested dictionaries under names with slashes."""
    if isinstance(value, dict):
        for key, part in value.items():
            flatten(f"{name}/{key}", part, result)
    else:
        result[name] = value


def _nursery() -> None:
    """Fork an attempt for each order on stdin; print its process id and, on request, how it ended."""
    import torch
    from sklearn.datasets import load_digits

    import ovis.experiments.cli.train
    import ovis.experiments.training.trainer  # noqa: F401

    load_digits()
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))]).step()  # the first one imports as much as all before
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_attempt(order))
        print(pid, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _attempt(order: dict[str, Any]) -> int:
    import torch

    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    from ovis.experiments.cli.train import main

    code = 70  # not one that a training returns
    try:
        _arrange(Plan(**order["plan"]), order["words"])
        code = main(order["words"])
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _arrange(plan: Plan, words: list[str]) -> None:
    import resource

    from ovis.experiments.training import trainer

    os.environ["OVIS_FAILPOINT"] = plan.failpoint
    trainer.CHECKPOINT_SECONDS = plan.seconds
    if plan.limit >= 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (plan.limit, plan.limit))
    run_dir = next(Path(word.partition("=")[2]) for word in words if word.startswith("--run_dir="))
    step = trainer.TrainingStep.__call__

    def interrupted(self: Any, x: Any, at: int) -> Any:
        if at == plan.step:
            os.kill(os.getpid(), signal.SIGKILL)
        if at == plan.term:
            os.kill(os.getpid(), signal.SIGTERM)
        if at == plan.usurp:
            RunPaths(run_dir).fence.write_text("99\n")
        return step(self, x, at)

    trainer.TrainingStep.__call__ = interrupted
    if plan.faults:
        _fail_once_for_each_file()
    if plan.forget:
        FORGET[plan.forget]()


def _fail_once_for_each_file() -> None:
    """Let ``os.fsync`` and ``os.replace`` fail at their first call for each file, with an error that passes."""
    import errno

    from ovis.experiments.runs import retrying

    retrying.PAUSE, seen = 0.01, set()
    fsync, replace = os.fsync, os.replace

    def fail_once(function: str, path: str) -> None:
        name = Path(path).name
        if name.startswith(".tmp-"):
            name = name[len(".tmp-") : -8]  # without the random part
        if (function, name) not in seen:
            seen.add((function, name))
            raise OSError(errno.EIO, f"injected into {function}", path)

    def failing_fsync(handle: int) -> None:
        fail_once("fsync", os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    def failing_replace(source: Any, target: Any) -> None:
        fail_once("replace", str(target))
        replace(source, target)

    os.fsync, os.replace = failing_fsync, failing_replace


def _forget_random_states() -> None:
    from ovis.experiments.training import checkpoint

    checkpoint.set_random_states = lambda states, device: None


def _forget_optimizer() -> None:
    import torch

    torch.optim.Adam.load_state_dict = lambda self, state: None


def _forget_data_order() -> None:
    from ovis.experiments.training.build import TrainingRun

    batches = TrainingRun.batches
    TrainingRun.batches = lambda run, start, end: batches(run, 0, end - start)


def _forget_best() -> None:
    from ovis.experiments.training import checkpoint

    load = checkpoint.load_checkpoint

    def forgetful(*args: Any) -> Any:
        position = load(*args)
        if position is not None:
            position.best, position.best_step = float("-inf"), -1
        return position

    checkpoint.load_checkpoint = forgetful


def _forget_to_cut() -> None:
    from ovis.experiments.training import journal

    journal._cut_after = lambda path, step: None


def _forget_to_purge() -> None:
    from ovis.experiments.training import journal

    events = journal.EventFile
    journal.EventFile = lambda folder, step: events(folder, 10**9)


#: Ways to resume wrongly.
FORGET = {
    "random states": _forget_random_states,
    "optimizer": _forget_optimizer,
    "data order": _forget_data_order,
    "best": _forget_best,
    "cut": _forget_to_cut,
    "purge": _forget_to_purge,
}


if __name__ == "__main__":
    _nursery()
