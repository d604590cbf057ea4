"""The asymptotic study (Figure 1): draws of the gradients of several estimators on the Gaussian toy model, at one K.

A run leaves two files in its folder, which the reports read:

``gradients.npz`` (NumPy, plain arrays)
    ``draws``        float32 [n, E, D]: the gradient of the mini-batch's mean loss, for each draw, estimator and entry
    ``first``        int: number of the first draw; draw i is the same in every part of the study
    ``estimators``   str [E]: canonical ids
    ``iw``           int: K

``asymptotic.json``
    ``settings``     the run's options; ``iw`` is K, ``part`` of ``parts`` says which draws these are
    ``parameters``   names of the analysed parameters, D entries in all
    ``draws``        how many; ``seconds``: of computing, over all attempts; ``device``
    ``estimators``   for each id: ``mean`` and ``variance`` (lists of D numbers), and ``statistics``, those of
                     ``ovis.analysis.gradients.summary`` over entries: variance, magnitude, snr, snr_p5 ... snr_p95,
                     keep_ratio; and dsnr
    ``theory``       for each id that has a closed form (``ovis.analysis.closed_form``, large K): its ``statistics``
                     (variance, magnitude, snr, ...), ``mean`` and ``variance``

The parts of one K are pooled by joining their draws: moments, DSNR and histograms are then those of one run.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ovis.analysis.closed_form import location_moments
from ovis.analysis.gradients import make_sampler, select_parameters, summary
from ovis.estimators.base import GradientEstimator
from ovis.estimators.config import get_config
from ovis.experiments.datasets.gaussian_toy_points import draw
from ovis.experiments.runs.atomic import replace_file, write_json
from ovis.experiments.runs.context import RunContext
from ovis.experiments.runs.identity import identify
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.runs.retrying import retry
from ovis.experiments.settings import SettingsError
from ovis.experiments.training.build import pick_device
from ovis.functional.statistics import directional_snr
from ovis.models.gaussian_toy import GaussianToyVAE
from ovis.paper.figure1.asymptotic_settings import EPSILON, GRADIENTS, PARTIAL, RESULTS, AsymptoticSettings

__all__ = ["build_estimators", "build_toy", "run_asymptotic"]

log = logging.getLogger(__name__)

#: Seconds between two updates of the progress.
PULSE = 1.0
#: Seconds between two saves of the draws.
SAVE = 60.0


def run_asymptotic(settings: AsymptoticSettings, context: RunContext) -> bool:
    """Make the draws of a run, from where it stopped, and write their statistics.

    Args:
        settings: the run's options.
        context: its files, and whether to stop; asked between draws. The draws so far are then saved.

    Returns:
        whether the run is complete.

    Raises:
        SettingsError: parameters or a device that are not there.
    """
    device, paths = pick_device(settings.device), context.paths
    model, x = build_toy(settings, device)
    estimators = build_estimators(settings)
    try:
        parameters = select_parameters(model, settings.key_filter)
        draws = make_sampler(
            estimators, model, x, settings.key_filter, settings.seed, settings.samples_per_batch or None
        )
    except ValueError as error:
        raise SettingsError(f"--key_filter: {error}") from None
    numbers = settings.draws
    size = sum(p.numel() for p in parameters.values())
    kept = torch.zeros(len(numbers), len(estimators), size, device=device)
    done, before = _restore(paths, settings, kept)
    log.info("%d of %d draws are there, K = %d, on %s", done, len(numbers), settings.iw, device)
    begin = saved = pulse = time.monotonic()
    with tqdm(
        total=len(numbers), initial=done, unit="draw", desc=f"K={settings.iw}", disable=not context.show_progress
    ) as shown:
        for grads in draws(numbers.start + done, numbers.stop):
            kept[done : done + len(grads)] = grads
            done += len(grads)
            shown.update(len(grads))
            now, asked = time.monotonic(), context.should_stop()
            if now - pulse > PULSE:
                pulse = now
                _write_progress(paths, done, len(numbers))
            if asked or now - saved > SAVE:
                context.check_ownership()
                _save(paths.folder / PARTIAL, settings, kept[:done], before + now - begin)
                saved = time.monotonic()
            if asked and done < len(numbers):
                return False
    context.check_ownership()
    seconds = before + time.monotonic() - begin
    _save(paths.folder / GRADIENTS, settings, kept, seconds)
    write_json(paths.folder / RESULTS, _results(settings, model, x, kept, list(parameters), seconds))
    (paths.folder / PARTIAL).unlink(missing_ok=True)
    _write_progress(paths, done, len(numbers))
    log.info("%d draws in %.0f s", done, seconds)
    return True


def build_toy(settings: AsymptoticSettings, device: torch.device) -> tuple[GaussianToyVAE, Tensor]:
    """The perturbed toy model and its data, as in the paper's Figure 1."""
    x = draw(settings.D, settings.npoints)
    scale = 2 / 3 if settings.q_scale == "std" else math.sqrt(2 / 3)
    model = GaussianToyVAE(settings.D, scale=scale)
    model.set_optimal_parameters(x)
    model.perturb(settings.epsilon, torch.Generator().manual_seed(settings.seed))
    return model.to(device), x.to(device)


def build_estimators(settings: AsymptoticSettings) -> dict[str, GradientEstimator]:
    """The estimators of a run, by their ids."""
    estimators = {}
    for name in settings.names:
        Estimator, config = get_config(name)
        estimators[name] = Estimator(iw=settings.iw, **config)
    return estimators


def _save(path: Path, settings: AsymptoticSettings, kept: Tensor, seconds: float) -> None:
    draws = kept.cpu().numpy()

    def write() -> None:
        with replace_file(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                draws=draws,
                first=settings.draws.start,
                estimators=np.array(settings.names),
                iw=settings.iw,
                key=identify(settings).key,
                seconds=seconds,
            )

    retry(write)


def _restore(paths: RunPaths, settings: AsymptoticSettings, kept: Tensor) -> tuple[int, float]:
    """Copy the draws that an earlier attempt saved into ``kept``; returns their number, and the seconds they took."""
    path = paths.folder / PARTIAL
    if not path.exists():
        return 0, 0.0
    try:
        with np.load(path) as saved:
            draws = saved["draws"]
            if str(saved["key"]) != identify(settings).key or draws.shape[1:] != tuple(kept.shape[1:]):
                raise ValueError("of another run")
            kept[: len(draws)] = torch.from_numpy(draws).to(kept)
            return len(draws), float(saved["seconds"])
    except Exception as error:  # NumPy reports a broken file in half a dozen ways
        log.warning("can't use %s, starting anew: %s", path, error)
        kept.zero_()
        return 0, 0.0


def _write_progress(paths: RunPaths, done: int, total: int) -> None:
    """Write the progress of the run. A full disk does not stop it."""
    try:
        progress = {"step": done, "nsteps": total, "loss": None, "t": time.time()}
        write_json(paths.progress, progress, durable=False, indent=None)
    except OSError:
        return


def _results(
    settings: AsymptoticSettings,
    model: GaussianToyVAE,
    x: Tensor,
    kept: Tensor,
    parameters: list[str],
    seconds: float,
) -> dict[str, Any]:
    estimators: dict[str, Any] = {}
    for name, draws in zip(settings.names, kept.double().unbind(1), strict=True):
        mean = draws.mean(0)
        estimators[name] = _moments_and_statistics(mean, draws.var(0))
        estimators[name]["statistics"]["dsnr"] = float(directional_snr(draws, mean))
    return {
        "settings": asdict(settings),
        "parameters": parameters,
        "draws": len(kept),
        "seconds": round(seconds, 3),
        "device": str(x.device),
        "estimators": estimators,
        "theory": _theory(settings, model, x) if parameters == [model.location] else {},
    }


def _theory(settings: AsymptoticSettings, model: GaussianToyVAE, x: Tensor) -> dict[str, Any]:
    theory: dict[str, Any] = {}
    for name in settings.names:
        try:
            mean, variance = location_moments(model, x, name, settings.iw)
        except ValueError:  # no closed form
            continue
        theory[name] = _moments_and_statistics(mean, variance)
    return theory


def _moments_and_statistics(mean: Tensor, variance: Tensor) -> dict[str, Any]:
    statistics = {key: float(value) for key, value in summary(mean, variance, EPSILON).items()}
    return {"statistics": statistics, "mean": mean.tolist(), "variance": variance.tolist()}
