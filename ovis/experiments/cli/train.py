"""Train one run, or several at once: ``python -m ovis train --dataset digits --model sbm --iw 10``."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import logging
import platform
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ovis
from ovis.experiments.cli.options import prepare_streams
from ovis.experiments.runs.atomic import write_json
from ovis.experiments.runs.attempt import make_attempts
from ovis.experiments.runs.context import RunContext, WorkResult
from ovis.experiments.runs.identity import identify, restore_settings
from ovis.experiments.runs.paths import RunPaths, is_safe_name
from ovis.experiments.settings import SettingsError, TrainSettings, build_parser, parse_arguments
from ovis.experiments.studies import STUDIES, Study

__all__ = ["StudyWork", "main", "run_study"]

log = logging.getLogger(__name__)

#: Does the work of runs: (settings, contexts, begin) -> results. ``begin(index, device)`` is called before the first
#: step of each run, when it is known to be possible, and writes its ``config.json``.
StudyWork = Callable[[Sequence[Any], Sequence[RunContext], Callable[[int, str], None]], Sequence[WorkResult]]


def main(argv: Sequence[str] | None = None) -> int:
    """Train runs from their last checkpoints: see :func:`run_study`."""
    description = "Train one model; --ensemble SEED... trains several at once."
    return run_study("train", description, _train, argv, prog="python -m ovis train")


def run_study(
    script: str, description: str, work: StudyWork, argv: Sequence[str] | None = None, prog: str | None = None
) -> int:
    """Make runs of a study, each from where it stopped.

    A run started by hand is kept in ``ROOT/EXP/NAME``, with its log and its outcome. The manager's jobs set
    ``--run_dir``, ``--attempt`` and ``--settings`` instead, once for each run.

    Args:
        script: key of :data:`ovis.experiments.studies.STUDIES`.
        description: for ``--help``.
        work: makes the runs.
        argv: the command line; None: this process's.
        prog: the command in the usage line; None: ``python -m`` and the study's module.

    Returns:
        the exit code: 2: the options are wrong; else as of :func:`~ovis.experiments.runs.attempt.make_attempts`.
    """
    prepare_streams()
    words, study = list(sys.argv[1:] if argv is None else argv), STUDIES[script]
    try:
        options, settings = _parse(words, study, description, prog or f"python -m {study.module}")
        settings[0].check_combination()
        if not is_safe_name(settings[0].exp):
            raise SettingsError(f"--exp: {settings[0].exp!r} can't be the name of a folder in --root")
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    folders = options.run_dir or [Path(each.root, each.exp, identify(each).name) for each in settings]
    return make_attempts(
        [RunPaths(folder) for folder in folders], functools.partial(_work, work, settings), options.attempt
    )


def _parse(words: Sequence[str], study: Study, description: str, prog: str) -> tuple[argparse.Namespace, list[Any]]:
    """The options that are no settings, and the settings of each run."""
    parent = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add = functools.partial(parent.add_argument, action="append", default=[])
    add("--run_dir", type=Path, metavar="FOLDER", help="folder of the run; by default ROOT/EXP/NAME")
    add("--attempt", type=int, metavar="N", help="number of the attempt; set by the manager's jobs")
    add("--settings", type=_json_object, metavar="JSON", help="all settings as one object; set by the manager's jobs")
    if study.ensembles:
        help = "seeds of runs that are trained at once; --seed is ignored"
        parent.add_argument("--ensemble", nargs="+", type=int, default=[], metavar="SEED", help=help)
    parser = build_parser(study.settings, prog=prog, description=description, parents=[parent])
    settings = [parse_arguments(words, parser, kind=study.settings)]
    options, _ = parser.parse_known_args(words)
    if options.settings:
        if identify(settings[0]).settings:
            raise SettingsError("--settings: it holds all that a run is; no other option of a run can be given with it")
        settings = [restore_settings(study.settings, each) for each in options.settings]
    elif getattr(options, "ensemble", []):
        settings = [dataclasses.replace(settings[0], seed=seed) for seed in options.ensemble]
        if len(set(options.ensemble)) < len(settings):
            raise SettingsError("--ensemble: a seed is named twice")
    for name in ("run_dir", "attempt"):
        count = len(getattr(options, name))
        if count not in (0, len(settings)):
            raise SettingsError(f"--{name}: there are {len(settings)} runs, got {count}")
    return options, settings


def _json_object(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {text}")
    return data


def _work(work: StudyWork, settings: Sequence[Any], contexts: Sequence[RunContext]) -> Sequence[WorkResult]:
    # torch takes seconds to import: not before the options are known to be right
    import torch

    def begin(index: int, device: str) -> None:
        context, beside = contexts[index], f", one of {len(contexts)} runs" if len(contexts) > 1 else ""
        log.info("%s on %s, torch %s%s", context.paths.name, device, torch.__version__, beside)
        context.check_ownership()
        write_json(context.paths.config, _configuration(settings[index], device, torch.__version__))

    return work(settings, contexts, begin)


def _configuration(settings: Any, device: str, torch_version: str) -> dict[str, object]:
    """The content of ``config.json``: what is run, and on what."""
    return {
        "settings": dataclasses.asdict(settings),
        "run_id": identify(settings).key,
        "version": ovis.__version__,
        "torch": torch_version,
        "python": platform.python_version(),
        "device": device,
        "hostname": socket.gethostname(),
        "started": time.time(),
    }


def _train(
    settings: Sequence[TrainSettings], contexts: Sequence[RunContext], begin: Callable[[int, str], None]
) -> Sequence[WorkResult]:
    from ovis.experiments.training.trainer import Trainer

    return Trainer(settings, contexts, lambda index, run: begin(index, str(run.device))).run()


if __name__ == "__main__":
    raise SystemExit(main())
