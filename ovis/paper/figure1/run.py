"""One run of the asymptotic study: ``python -m ovis.paper.figure1.run --estimators ovis-gamma0,pathwise-iwae --iw 54``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ovis.experiments.cli.train import run_study
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.studies import AsymptoticSettings

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Make the gradient draws of one K, or one part of them, from where an earlier attempt stopped.

    Exit codes and files as of :func:`ovis.experiments.cli.train.run_study`; what it finds: see ``ovis.paper.figure1.study``.
    """
    return run_study("asymptotic", "Draw gradients of several estimators at one K.", _drawing, argv)


def _drawing(
    settings: AsymptoticSettings, paths: RunPaths, stop: Callable[[], bool], guard: Callable[[], None], bar: bool
) -> tuple[str, Callable[[], bool]]:
    from ovis.experiments.training.build import pick_device
    from ovis.paper.figure1.study import run_asymptotic

    return str(pick_device(settings.device)), lambda: run_asymptotic(settings, paths, stop, guard, bar)


if __name__ == "__main__":
    raise SystemExit(main())
