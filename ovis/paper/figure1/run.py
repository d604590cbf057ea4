"""Make one run of the asymptotic study: ``python -m ovis.paper.figure1.run --estimators ovis-gamma0,vimco --iw 54``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ovis.experiments.cli.train import run_study
from ovis.experiments.runs.context import RunContext, WorkResult
from ovis.paper.figure1.asymptotic_settings import AsymptoticSettings

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw gradients of several estimators at one K, or one part of the draws, from where an earlier attempt stopped.

    Exit codes and files: see :func:`ovis.experiments.cli.train.run_study`; the numbers: see
    :mod:`ovis.paper.figure1.asymptotic_study`.
    """
    return run_study("asymptotic", "Draw gradients of several estimators at one K.", _draw, argv)


def _draw(
    settings: Sequence[AsymptoticSettings], contexts: Sequence[RunContext], begin: Callable[[int, str], None]
) -> Sequence[WorkResult]:
    from ovis.experiments.training.build import pick_device
    from ovis.paper.figure1.asymptotic_study import run_asymptotic

    ((run, context),) = zip(settings, contexts, strict=True)
    begin(0, str(pick_device(run.device)))
    complete = run_asymptotic(run, context)
    return [WorkResult(complete)]


if __name__ == "__main__":
    raise SystemExit(main())
