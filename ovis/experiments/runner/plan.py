"""The plan of a manager: which runs and which code, also where the experiment file or the code has changed.

A sweep continues with the runs and the code with which it was queued, unless an option says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ovis.experiments.runner.display.text import runs_text
from ovis.experiments.runner.experiment_file import Experiment, GridError, load_experiment
from ovis.experiments.runner.queue.queue import Queue
from ovis.experiments.runner.snapshot import Code, Snapshot, is_intact, live_package, read_code, take_snapshot
from ovis.experiments.runs.atomic import write_text
from ovis.experiments.runs.failpoints import failpoint
from ovis.experiments.studies import STUDIES

__all__ = ["Plan", "PlanError", "make_plan", "option_defaults", "restore_snapshot", "start_plan"]

#: Symbolic links that are named in a note.
NAMED = 5


class PlanError(RuntimeError):
    """The sweep can't continue as it was queued. The message is one line with the reason and the remedy."""


@dataclass(frozen=True)
class Plan:
    """The runs and the code of a manager; nothing is written yet.

    Attributes:
        experiment: the runs.
        code: the code to take a snapshot of; None: the sweep keeps its snapshot.
        notes: lines for the user.
    """

    experiment: Experiment
    code: Code | None
    notes: tuple[str, ...] = ()

    def read_code(self) -> None:
        """Read the code of the snapshot, if it was not needed before.

        Raises:
            OSError: it can't be read.
        """
        if self.code is not None:
            _ = self.code.files


def make_plan(
    path: Path,
    queue: Queue,
    *,
    fresh: bool = False,
    resume: bool = False,
    update_exp: bool = False,
    update_lib: bool = False,
) -> Plan:
    """Decide which runs and which code to use. Writes nothing.

    Args:
        path: the experiment file.
        queue: the experiment's queue.
        fresh: the experiment's earlier runs will be deleted first.
        resume: continue with the queued runs, even if the file has changed.
        update_exp: take the file as it is now.
        update_lib: take the code as it is here.

    Raises:
        GridError: the file, or the copy of it, can't be read or is invalid.
        LedgerError: the ledger can't be read.
        PlanError: the file has changed and no option decides about it; or the code was lost, or has other defaults.
        OSError: the code can't be read.
    """
    known = set() if fresh else {record.key for record in queue.read()}
    copy = queue.paths.experiment
    kept = copy if copy.is_file() and not fresh and not update_exp else None
    experiment, notes = _choose_runs(path, kept, resume)
    here, current = read_code(live_package()), None if fresh else queue.snapshot()
    links = _describe_links(here)
    if current is None:
        return Plan(experiment, here, (*notes, *links))
    same = here.digest == current.digest
    if update_lib:
        notes.append(_describe_update(current, same))
        return Plan(experiment, here, (*notes, *links))
    if not is_intact(queue.paths, current.id, current.digest):
        if not same:
            raise PlanError(
                f"{queue.paths.snapshot(current.id)} is no longer the code that this sweep was queued with: put it "
                f"back, or go on with the code here by --update_lib"
            )
        return Plan(experiment, here, (*notes, *links))  # the same content, written again
    if not same:
        _check_defaults(current, {run.key for run in experiment.runs} - known, experiment.script)
        notes.append(f"runs on the code as of {current}; it differs from the code here: --update_lib takes that")
    return Plan(experiment, None, tuple(notes))


def start_plan(plan: Plan, queue: Queue) -> None:
    """Write the snapshot, then the ledger, then the copy of the experiment file.

    In this order a kill in between leaves no run without its code, and no copy of a file whose runs are not queued.

    Raises:
        LedgerError: the ledger can't be written.
        OSError: a file can't be written.
    """
    snapshot = None
    if plan.code is not None:
        snapshot = take_snapshot(queue.paths, plan.code, option_defaults(plan.experiment.script))
    queue.add([run.record() for run in plan.experiment.runs], snapshot)
    failpoint("plan.queued")
    if _text(queue.paths.experiment) != plan.experiment.text:
        write_text(queue.paths.experiment, plan.experiment.text)


def restore_snapshot(queue: Queue, snapshot: Snapshot) -> bool:
    """Write a snapshot again that was deleted; False if the code here is no longer the same.

    Raises:
        OSError: it can't be written.
    """
    try:
        code = read_code(live_package())
        same = code.digest == snapshot.digest
    except OSError:  # somebody is at work on the code
        return False
    if same:
        take_snapshot(queue.paths, code, snapshot.defaults)
    return same


def option_defaults(script: str) -> dict[str, Any]:
    """The defaults of the options that define a study's run; a run's settings list only the differences from them."""
    return {item.name: item.default for item in fields(STUDIES[script].settings) if item.metadata["identity"]}


def _choose_runs(path: Path, kept: Path | None, resume: bool) -> tuple[Experiment, list[str]]:
    """The runs to go on with; ``kept`` is the copy of the experiment file as queued, None where it does not matter."""
    if kept is None:
        return load_experiment(path), []
    if resume:
        changed = _text(path) != _text(kept)
        note = f"goes on with the sweep as it was queued: {path} has changed since, --update_exp takes the change"
        return _load_copy(kept, path), [note] if changed else []
    experiment = load_experiment(path)
    if experiment.text == _text(kept):
        return experiment, []
    now, then = ({run.key for run in one.runs} for one in (experiment, _load_copy(kept, path)))
    if now != then:
        raise PlanError(
            f"{path} has changed since this sweep was queued ({_count_changes(len(now - then), len(then - now))}): "
            f"--update_exp takes the change, --resume goes on with the sweep as it was"
        )
    return experiment, []


def _load_copy(kept: Path, path: Path) -> Experiment:
    try:
        return load_experiment(kept)
    except GridError as error:
        raise GridError(f"{error}; --update_exp takes {path} instead of this copy") from None


def _count_changes(more: int, fewer: int) -> str:
    if more and fewer:
        return f"{runs_text(more)} more, {fewer} fewer"
    return f"{runs_text(more)} more" if more else f"{runs_text(fewer)} fewer"


def _describe_update(current: Snapshot, same: bool) -> str:
    if same:
        return "the code here is the code that this sweep runs on already"
    return f"attempts start on the code here from now on, those of half-trained runs too; so far: as of {current}"


def _describe_links(code: Code) -> list[str]:
    if not code.links:
        return []
    count, more = len(code.links), " ..." if len(code.links) > NAMED else ""
    links = ", ".join(code.links[:NAMED])
    return [f"symbolic links are not copied with the code, {count} in {code.package}: {links}{more}"]


def _check_defaults(current: Snapshot, new: set[str], script: str) -> None:
    """Refuse to queue runs if the code that would run them has other defaults."""
    for name, value in option_defaults(script).items():
        if new and name in current.defaults and current.defaults[name] != value:
            raise PlanError(
                f"--{name} is {value} by default here, and {current.defaults[name]} in the code that this sweep runs "
                f"on: {runs_text(len(new))} can't be added without --update_lib"
            )


def _text(path: Path) -> str | None:
    """The file's content; None where it can't be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
