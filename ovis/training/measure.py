"""What is measured at an evaluation, under the names that the reports know."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ovis.analysis.active_units import active_units
from ovis.analysis.gradients import get_gradients_statistics, select_parameters
from ovis.datasets.splits import StoredData, as_float
from ovis.diagnostics import Diagnostic
from ovis.settings import SettingsError
from ovis.training.build import Run
from ovis.training.evaluate import evaluate
from ovis.training.step import estimator_config

__all__ = ["Measurements", "own_random_state"]

#: Evaluations draw from a random state of their own, so that their number does not change the training.
EVALUATION_SEED = 200_801_998


@runtime_checkable
class KnowsTheTruth(Protocol):
    """A model of synthetic data, which can say how far it is from what drew them."""

    def diagnostics(self, x: Tensor) -> dict[str, dict[str, Tensor]]:
        """Distances by group and name."""


class Measurements:
    """The data that a run is evaluated on, chosen once, and the evaluation itself.

    Args:
        run: the parts of the run.
    """

    def __init__(self, run: Run):
        settings = run.settings
        self.run = run
        train = run.splits.train.points(max(settings.max_eval, settings.grad_bs, settings.npoints_au_analysis))
        self.splits: dict[str, tuple[Tensor, int, int]] = {
            "train": (train[: settings.max_eval], settings.iw_test, settings.test_bs)
        }
        if not settings.only_train_set:
            for name, points, iw, batch in (
                ("valid", run.splits.valid, settings.iw_valid, settings.valid_bs),
                ("test", run.splits.test, settings.iw_test, settings.test_bs),
            ):
                self.splits[name] = (as_float(StoredData(points).subset(settings.max_eval).data), iw, batch)
        if settings.grad_samples:
            try:
                select_parameters(run.model, settings.analysed_parameters)
            except ValueError as error:
                raise SettingsError(f"--grad_key: {error}") from None
        self.gradient_points = train[: settings.grad_bs]
        self.unit_points = train[: settings.npoints_au_analysis]

    @property
    def selection(self) -> str:
        """The metric that chooses the best parameters.

        The test set is measured at every evaluation, for the curves of the paper, and chooses nothing unless
        ``--select_on test`` says so: the reference does, so the published numbers are slightly too good.
        """
        settings = self.run.settings
        return f"{'train' if settings.only_train_set else settings.select_on}:loss/L_k"

    def __call__(self, step: int) -> dict[str, float]:
        """Measure everything.

        Args:
            step: optimizer steps so far: the gradients are those that the training would take here.

        Returns:
            numbers by name, e.g. ``test:loss/L_k`` (nats), ``train:grads/snr``.
        """
        settings, model = self.run.settings, self.run.model
        values: dict[str, float] = {}
        with own_random_state(EVALUATION_SEED + settings.seed, self.run.device):
            for name, (points, iw, batch) in self.splits.items():
                values.update(evaluate(model, points, iw, batch, ess_particles=settings.iw).flat(f"{name}:"))
                if isinstance(model, KnowsTheTruth):
                    values.update(Diagnostic(model.diagnostics(points)).flat(f"{name}:"))
            if settings.grad_samples:
                values.update(self._gradients(step))
            if settings.mc_au_analysis:
                units = active_units(model, self.unit_points, settings.mc_au_analysis)
                values.update(units.flat("train:"))
        return values

    def _gradients(self, step: int) -> dict[str, float]:
        settings = self.run.settings
        config = estimator_config(settings, step)
        stats, _ = get_gradients_statistics(
            self.run.estimator,
            self.run.model,
            self.gradient_points,
            mc_samples=settings.grad_samples,
            key_filter=settings.analysed_parameters,
            eps=settings.grad_epsilon,
            **config,
        )
        return stats.flat("train:")


@contextlib.contextmanager
def own_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global random numbers for a block, and leave them as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
