"""Several training runs in one process: ``python -m ovis.experiments.cli.train --iw 10 --ensemble 1 2 3``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from ovis.experiments.cli.train import ENDINGS, asked_to_stop, configuration, explain
from ovis.experiments.runs.atomic import write_json
from ovis.experiments.runs.fencing import check_fence, hold_run, publish_outcome, read_fence, take_fence
from ovis.experiments.runs.identity import identify
from ovis.experiments.runs.paths import RunPaths, is_safe_name
from ovis.experiments.runs.status import ABORTED, BUSY, STALE, AttemptResult, Outcome
from ovis.experiments.settings import SettingsError, TrainSettings, build_parser, parse_arguments

__all__ = ["train_ensemble"]

log = logging.getLogger(__name__)

USAGE = "seeds of runs that are trained at once; --seed is not looked at. The manager's jobs say SEED:ATTEMPT:FOLDER"


@dataclass(frozen=True)
class _Place:
    """One of the runs."""

    settings: TrainSettings
    paths: RunPaths
    attempt: int  # 0: nobody has claimed it, it is started by hand

    def guard(self) -> None:
        check_fence(self.paths, self.attempt)


def train_ensemble(words: Sequence[str]) -> int:
    """Train runs that differ only in the seed, each in a folder of its own, as if it had been trained alone.

    Started by hand, the folders are ``ROOT/EXP/NAME``. The manager's jobs name them, and hold their locks and fences.

    Args:
        words: the command line.

    Returns:
        0: every run is complete; 3: stopped on request; 1: one has failed; 2: the options are wrong; 75: another
        process is at work in one of the folders.
    """
    parent = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parent.add_argument("--ensemble", nargs="+", metavar="SEED", required=True, help=USAGE)
    parser = build_parser(
        TrainSettings, prog="python -m ovis.experiments.cli.train", description="Train models.", parents=[parent]
    )
    try:
        settings = parse_arguments(words, parser)
        where, _ = parent.parse_known_args(words)
        places = [_place(settings, text) for text in where.ensemble]
        if len({place.settings.seed for place in places}) < len(places):
            raise SettingsError("--ensemble: a seed is named twice")
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with contextlib.ExitStack() as held:
        for place in places:
            place.paths.folder.mkdir(parents=True, exist_ok=True)
            if not place.attempt and held.enter_context(hold_run(place.paths)) is None:
                print(f"error: another process is at work in {place.paths.folder}", file=sys.stderr)
                return BUSY
        by_hand = not all(place.attempt for place in places)
        return _make([_claimed(place) for place in places], by_hand)


def _place(settings: TrainSettings, text: str) -> _Place:
    seed, _, rest = text.partition(":")
    attempt, _, folder = rest.partition(":")
    if not seed.isdecimal() or (rest and not (attempt.isdecimal() and folder)):
        raise SettingsError(f"--ensemble: {text!r} is no seed")
    settings = dataclasses.replace(settings, seed=int(seed))
    if not is_safe_name(settings.exp):
        raise SettingsError(f"--exp: {settings.exp!r} can't be the name of a folder in --root")
    path = Path(folder) if folder else Path(settings.root, settings.exp, identify(settings).name)
    return _Place(settings, RunPaths(path), int(attempt or 0))


def _claimed(place: _Place) -> _Place:
    """What a job does before a run begins."""
    if place.attempt:
        return place
    attempt = read_fence(place.paths) + 1
    take_fence(place.paths, attempt)
    place.paths.success.unlink(missing_ok=True)
    place.paths.outcome.unlink(missing_ok=True)
    return dataclasses.replace(place, attempt=attempt)


def _make(places: Sequence[_Place], by_hand: bool) -> int:
    # torch takes seconds to import: not before the options are known to be right
    import torch

    from ovis.experiments.training.build import Run
    from ovis.experiments.training.ensemble.loop import Member, train_together

    def member_of(place: _Place) -> Member:
        def begun(run: Run) -> None:
            device, count = str(run.device), len(places)
            log.info("%s on %s, torch %s, one of %d runs", place.paths.name, device, torch.__version__, count)
            write_json(place.paths.config, configuration(place.settings, device, torch.__version__))

        return Member(place.settings, place.paths, place.guard, begun)

    members = [member_of(place) for place in places]
    codes = []
    with _logs(places, by_hand), asked_to_stop() as signals, logging_redirect_tqdm():
        train_together(members, lambda: bool(signals), sys.stderr.isatty())
        for member, place in zip(members, places, strict=True):
            with member.speaking():
                codes.append(_publish(place, member.error, member.complete))
    if 1 in codes or 2 in codes:
        return 1
    return max((code for code in codes if code != STALE), default=STALE)


@contextlib.contextmanager
def _logs(places: Sequence[_Place], by_hand: bool) -> Iterator[None]:
    """Each run's log gets what is said of it, and of all; a job's output goes to the log of the first run already."""
    from ovis.experiments.training.ensemble.loop import speaker

    logging.raiseExceptions = False  # a full disk is told once, not at each line of the log
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    root, handlers = logging.getLogger(), []
    level = root.level
    root.setLevel(logging.INFO)
    for place in places if by_hand else places[1:]:
        handler = logging.FileHandler(place.paths.log(place.attempt))
        handler.addFilter(_Own(place.paths, speaker))
        root.addHandler(handler)
        handlers.append(handler)
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)


class _Own(logging.Filter):
    """Lets through what a run says, and what is said of all."""

    def __init__(self, paths: RunPaths, speaker: ContextVar[RunPaths | None]):
        super().__init__()
        self.paths, self.speaker = paths, speaker

    def filter(self, record: logging.LogRecord) -> bool:
        return self.speaker.get() in (None, self.paths)


def _publish(place: _Place, error: Exception | None, complete: bool) -> int:
    """Say how a run has ended; the exit code that would tell of it."""
    code, message = (0, "") if complete else (ABORTED, "stopped on request")
    if error is not None:
        code, message = explain(error)
        log.error("error: %s", message)
    if code == STALE or read_fence(place.paths) != place.attempt:
        return STALE
    ending = ENDINGS.get(code, AttemptResult.EXCEPTION)
    publish_outcome(place.paths, Outcome(ending, place.attempt, exit=code, message=message, t=time.time()))
    return code
