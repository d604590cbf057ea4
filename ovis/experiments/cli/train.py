"""One training run: ``python -m ovis.experiments.cli.train --dataset digits --model sbm --estimator ovis-gamma1 --iw 10``."""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import platform
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

import ovis
from ovis.experiments.runs.atomic import write_json
from ovis.experiments.runs.fencing import Superseded, check_fence, hold_run, publish_outcome, read_fence, take_fence
from ovis.experiments.runs.identity import identify
from ovis.experiments.runs.paths import RunPaths, is_safe_name
from ovis.experiments.runs.status import ABORTED, BUSY, EXHAUSTED, STALE, AttemptResult, Outcome
from ovis.experiments.settings import SettingsError, TrainSettings, build_parser, parse_arguments
from ovis.experiments.studies import STUDIES

__all__ = ["ENDINGS", "asked_to_stop", "configuration", "explain", "main", "run_study"]

log = logging.getLogger(__name__)

#: What the disk says that has no room.
FULL = {errno.ENOSPC: "disk full", errno.EDQUOT: "disk quota used up"}

ENDINGS = {0: AttemptResult.SUCCESS, ABORTED: AttemptResult.ABORTED, EXHAUSTED: AttemptResult.EXHAUSTED}

Body = Callable[[Any, RunPaths, Callable[[], bool], Callable[[], None], bool], tuple[str, Callable[[], bool]]]


def main(argv: Sequence[str] | None = None) -> int:
    """Train one run, from its last checkpoint if it has one: see :func:`run_study`; with ``--ensemble``, several."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word.split("=")[0] == "--ensemble" for word in words):
        from ovis.experiments.cli.ensemble import train_ensemble

        return train_ensemble(words)
    return run_study("train", "Train one model; --ensemble SEED... trains several at once.", _training, words)


def run_study(script: str, description: str, body: Body, argv: Sequence[str] | None = None) -> int:
    """Make one run of a study, from where it stopped.

    Started by hand, it makes its own folder ``ROOT/EXP/NAME`` and keeps its log and its outcome there. The manager's
    jobs do that for it, and say ``--run_dir`` and ``--attempt``.

    Args:
        script: key of :data:`ovis.experiments.studies.STUDIES`.
        description: for ``--help``.
        body: (settings, paths, stop, guard, bar) -> the device, and what makes the run and says whether it is complete.
        argv: the command line; None: this process's.

    Returns:
        0: the run is complete; 3: it was asked to stop, and wrote a checkpoint; 1: it failed, 2: its options are wrong,
        the last line on stderr says why; 74: the disk is full; 75: another process is at work in its folder; 76:
        another attempt has taken the run over, and nothing was written since.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    place = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    place.add_argument("--run_dir", type=Path, default=None, help="folder of the run; by default ROOT/EXP/NAME")
    place.add_argument("--attempt", type=int, default=0, help="number of the attempt, set by the manager")
    study = STUDIES[script]
    parser = build_parser(study.settings, prog=f"python -m {study.module}", description=description, parents=[place])
    try:
        settings = parse_arguments(words, parser, kind=study.settings)
        study.check(settings)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    where, _ = place.parse_known_args(words)
    if not is_safe_name(settings.exp):
        print(f"error: --exp: {settings.exp!r} can't be the name of a folder in --root", file=sys.stderr)
        return 2
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    logging.raiseExceptions = False  # a full disk is told once, not at each line of the log
    paths = RunPaths(where.run_dir or Path(settings.root, settings.exp, identify(settings).name))
    try:
        paths.folder.mkdir(parents=True, exist_ok=True)
        return _make(body, settings, paths, where.attempt)[0] if where.attempt else _make_alone(body, settings, paths)
    except OSError as error:
        print(f"error: {_told(error)}", file=sys.stderr)
        return _code(error)


def _make_alone(body: Body, settings: Any, paths: RunPaths) -> int:
    """What a job does around a run, in this process."""
    with hold_run(paths) as lock:
        if lock is None:
            print(f"error: another process is at work in {paths.folder}", file=sys.stderr)
            return BUSY
        return _make_and_publish(body, settings, paths)


def _make_and_publish(body: Body, settings: Any, paths: RunPaths) -> int:
    attempt = read_fence(paths) + 1
    take_fence(paths, attempt)
    paths.success.unlink(missing_ok=True)
    paths.outcome.unlink(missing_ok=True)
    handler = logging.FileHandler(paths.log(attempt))
    logging.getLogger().addHandler(handler)
    try:
        code, message = _make(body, settings, paths, attempt)
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    if code == STALE or read_fence(paths) != attempt:
        return STALE
    ending = ENDINGS.get(code, AttemptResult.EXCEPTION)
    try:
        publish_outcome(paths, Outcome(ending, attempt, exit=code, message=message, t=time.time()))
    except OSError:
        if ending in (
            AttemptResult.SUCCESS,
            AttemptResult.ABORTED,
        ):  # the others have been told already, perhaps of this full disk
            raise
    if ending is AttemptResult.SUCCESS:
        print(f"done: {paths.folder}")
    return code


def _make(body: Body, settings: Any, paths: RunPaths, attempt: int) -> tuple[int, str]:
    """Make the run; exit code, and one line where it failed."""

    def guard() -> None:
        check_fence(paths, attempt)

    try:
        with asked_to_stop() as signals, logging_redirect_tqdm():
            # torch takes seconds to import: not before the options are known to be right
            import torch

            device, make = body(settings, paths, lambda: bool(signals), guard, sys.stderr.isatty())
            log.info("%s on %s, torch %s", paths.name, device, torch.__version__)
            guard()
            write_json(paths.config, configuration(settings, device, torch.__version__))
            complete = make()
        return (0, "") if complete else (ABORTED, "stopped on request")
    except Exception as error:  # whatever ends a run becomes one line, and a traceback in the log
        code, line = explain(error)
    sys.stdout.flush()
    print(f"error: {line}", file=sys.stderr)
    return code, line


def _training(
    settings: TrainSettings, paths: RunPaths, stop: Callable[[], bool], guard: Callable[[], None], bar: bool
) -> tuple[str, Callable[[], bool]]:
    from ovis.experiments.training.build import build_run
    from ovis.experiments.training.loop import train

    run = build_run(settings)
    return str(run.device), lambda: train(run, paths, stop=stop, guard=guard, bar=bar)


def explain(error: Exception) -> tuple[int, str]:
    """The exit code that tells of what has ended a run, and one line; the log gets a traceback where that helps."""
    if isinstance(error, SettingsError):
        return 2, str(error)
    if isinstance(error, Superseded):
        return STALE, str(error)
    if not isinstance(error, OSError) or error.filename is None:  # from where, only a traceback can tell
        log.error("the run failed", exc_info=error)
    if isinstance(error, OSError):
        return _code(error), _told(error)
    return 1, f"{type(error).__name__}: {error}".splitlines()[0]


def _told(error: OSError) -> str:
    """What is wrong with which file, in one line."""
    reason = FULL.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{reason}: {error.filename}"


def _code(error: OSError) -> int:
    """The exit code: a disk that is full now may have room later."""
    return EXHAUSTED if error.errno in FULL else 1


@contextlib.contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C: the training looks at the list between two steps. A second Ctrl-C stops at once."""
    received: list[int] = []

    def remember(signum: int, frame: object) -> None:
        if received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signum)

    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def configuration(settings: Any, device: str, torch_version: str) -> dict[str, object]:
    """What ``config.json`` holds: what is run, and on what."""
    return {
        "settings": asdict(settings),
        "run_id": identify(settings).key,
        "version": ovis.__version__,
        "torch": torch_version,
        "python": platform.python_version(),
        "device": device,
        "hostname": socket.gethostname(),
        "started": time.time(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
