"""The measurements of an evaluation, and the names of the metrics.

=============================  =========================================================================================
``SPLIT:loss/L_k``             the bound with K particles, in nats; SPLIT is train, valid or test
``SPLIT:loss/elbo``, ``kl``,   other means over the data, in nats: :class:`ovis.analysis.evaluate.Evaluation`
``kl_q_p``, ``nll``
``SPLIT:loss/ess``             effective sample size of the training's particles
``SPLIT:gmm/...`` and others   distances of a model of synthetic data from the true parameters or distributions
``train:grads/...``            statistics of the gradient: :func:`ovis.analysis.gradients.get_gradients_statistics`
``train:active_units/au``      number of active latent variables, with ``--mc_au_analysis``
``train:schedule/lr``          learning rate; with ``--warmup`` also ``train:schedule/alpha`` (added by the journal)
=============================  =========================================================================================

Their labels, units and directions are in ``ovis/experiments/reporting/metrics.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from ovis.analysis.active_units import active_units
from ovis.analysis.evaluate import evaluate
from ovis.analysis.seeding import own_seed
from ovis.diagnostics import Diagnostic
from ovis.experiments.datasets.splits import StoredData, as_float
from ovis.experiments.training.build import TrainingRun
from ovis.experiments.training.gradient_analysis import GradientAnalysis
from ovis.models.model import Model

__all__ = ["Measurements", "Split"]

#: Evaluations use a separate random state, so that their frequency does not change the training.
EVALUATION_SEED = 200_801_998


@runtime_checkable
class SyntheticDataModel(Protocol):
    """A model of synthetic data, which measures its distance to the true parameters or distributions."""

    def diagnostics(self, x: Tensor) -> dict[str, dict[str, Tensor]]:
        """Distances by group and name."""


@dataclass(frozen=True)
class Split:
    """The points of a split that are evaluated."""

    points: Tensor  # float, [n, *event]
    iw: int  # particles
    batch: int  # points per batch


class Measurements:
    """Callable: evaluates a run, on data that are chosen once.

    Evaluations measure the training set and the held-out set that chooses the best parameters, ``--select_on``: valid,
    or test, as in the reference code. The *other* of the two is measured once, at the end of the run, with the best
    parameters; until then it is not read. With ``--only_train_set`` neither is measured.

    Args:
        run: the parts of the run.
        bar: show progress bars of long measurements.
        on_batch: called after each batch of data.
    """

    def __init__(self, run: TrainingRun, bar: bool = False, on_batch: Callable[[], None] | None = None):
        settings = run.settings
        self.run, self.on_batch = run, on_batch
        train = run.splits.train.points(max(settings.max_eval, settings.grad_bs, settings.npoints_au_analysis))
        self.splits = {"train": Split(train[: settings.max_eval], settings.iw_test, settings.test_bs)}
        self.held_out = ""
        if not settings.only_train_set:
            self.held_out = "test" if settings.select_on == "valid" else "valid"
            self.splits[settings.select_on] = self._held_out_split(settings.select_on)
        self.gradients = GradientAnalysis(run, train[: settings.grad_bs], bar) if settings.grad_samples else None
        self.unit_points = train[: settings.npoints_au_analysis]

    @property
    def selection(self) -> str:
        """The metric that chooses the best parameters, among those of each evaluation."""
        settings = self.run.settings
        return f"{'train' if settings.only_train_set else settings.select_on}:loss/L_k"

    def __call__(self, step: int) -> dict[str, float]:
        """Measure all but the split that is held out until the end.

        Args:
            step: optimizer steps so far; the analysed gradients are those of the next step.

        Returns:
            numbers by name, e.g. ``valid:loss/L_k`` (nats), ``train:grads/snr``.
        """
        model = self.run.model
        values: dict[str, float] = {}
        with self._own_seed():
            for name, split in self.splits.items():
                values.update(self._evaluate(model, name, split))
            if self.gradients is not None:
                values.update(self.gradients(step))
            values.update(self.active_units())
        return values

    def active_units(self) -> dict[str, float]:
        """``train:active_units/...`` with ``--mc_au_analysis``, else empty; draws from the global random state."""
        settings = self.run.settings
        if not settings.mc_au_analysis:
            return {}
        return active_units(self.run.model, self.unit_points, settings.mc_au_analysis).flat("train:")

    def distances(self, model: Model, name: str, split: Split) -> dict[str, float]:
        """Distances of a model of synthetic data to the truth, else empty; draws no random numbers."""
        if not isinstance(model, SyntheticDataModel):
            return {}
        return Diagnostic(model.diagnostics(split.points)).flat(f"{name}:")

    def measure_held_out(self, model: Model) -> dict[str, float]:
        """Measure the split that is held out until the end: call it once.

        Its points are ``--max_eval`` random ones, as in the other splits; its random numbers depend on the seed alone.

        Args:
            model: the model with the best parameters.

        Returns:
            numbers by name, e.g. ``test:loss/L_k``, ``test:gmm/posterior_mse``; none with ``--only_train_set``.
        """
        if not self.held_out:
            return {}
        with self._own_seed():
            return self._evaluate(model, self.held_out, self._held_out_split(self.held_out))

    def _held_out_split(self, name: str) -> Split:
        settings, splits = self.run.settings, self.run.splits
        if name == "valid":
            stored, iw, batch = splits.valid, settings.iw_valid, settings.valid_bs
        else:
            stored, iw, batch = splits.test, settings.iw_test, settings.test_bs
        return Split(as_float(StoredData(stored).subset(settings.max_eval).data), iw, batch)

    def _evaluate(self, model: Model, name: str, split: Split) -> dict[str, float]:
        particles = self.run.settings.iw
        result = evaluate(
            model, split.points, split.iw, split.batch, progress=False, ess_particles=particles, on_batch=self.on_batch
        )
        return result.diagnostic.flat(f"{name}:") | self.distances(model, name, split)

    @property
    def seed(self) -> int:
        """Seed of the random numbers of every evaluation."""
        return EVALUATION_SEED + self.run.settings.seed

    def _own_seed(self) -> AbstractContextManager[None]:
        return own_seed(self.seed, self.run.device)
