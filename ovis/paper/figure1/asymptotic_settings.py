"""The options of a run of the asymptotic study, and the names of its files. It does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from ovis.estimators.ids import parse_estimator
from ovis.experiments.settings import RunSettings, SettingsError, option

__all__ = ["ALIASES", "EPSILON", "GRADIENTS", "PARTIAL", "RESULTS", "AsymptoticSettings"]

#: The published name of the experiment, and its name here.
ALIASES = {"asymptotic-variance": "asymptotic-analysis"}

#: Files of a run: its draws, the draws saved while it is running, and their statistics.
GRADIENTS, PARTIAL, RESULTS = "gradients.npz", "gradients.partial.npz", "asymptotic.json"

#: An entry of the gradient with less variance is left out of averages over entries.
EPSILON = 1e-30


@dataclass(frozen=True)
class AsymptoticSettings(RunSettings):
    """The options of one run of the asymptotic study: gradients of several estimators at one K.

    A run may make one of several parts of the draws, so that processes can share the work of one K.

    Raises:
        SettingsError: a value of the wrong type or out of range, an unknown estimator.
    """

    data_root: str = option("data/", "folder of the data sets (not used: the data are drawn)", identity=False)
    id: str = option("", "a label of your choice, part of the run's name")
    seed: int = option(10, "seed of the perturbation and of the draws", low=0)

    estimators: str = option("ovis-gamma0,vimco-arithmetic,pathwise-iwae", "estimators, separated by commas")
    iw: int = option(1000, "particles per bound, K", low=1)
    mc_samples: int = option(10_000, "draws of the gradient, over all parts", low=2)
    part: int = option(1, "the part of the draws that this run makes: 1 ... PARTS", low=1)
    parts: int = option(1, "number of runs that share the draws", low=1)

    npoints: int = option(1024, "data points, all of them in every draw", low=1)
    D: int = option(20, "dimensions", low=1)
    epsilon: float = option(0.01, "standard deviation of the perturbation of the optimal parameters", low=0.0)
    key_filter: str = option("b", "parameters whose gradient is analysed")
    q_scale: str = option("std", "whether q's std (as in the paper) or variance is 2/3", choices=("std", "variance"))
    samples_per_batch: int = option(0, "particles in memory at once; 0: depends on the device", low=0, identity=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            names = [parse_estimator(name.strip()).canonical for name in self.estimators.split(",")]
        except ValueError as error:
            raise SettingsError(f"--estimators: {error}") from None
        if len(set(names)) < len(names):
            raise SettingsError(f"--estimators: one is there twice: {', '.join(names)}")
        object.__setattr__(self, "estimators", ",".join(names))

    @property
    def names(self) -> list[str]:
        """The estimators' canonical ids."""
        return self.estimators.split(",")

    @property
    def draws(self) -> range:
        """The numbers of the draws that this run makes."""
        first, last = (self.mc_samples * part // self.parts for part in (self.part - 1, self.part))
        return range(first, last)

    @property
    def work(self) -> int:
        """The particles of all draws, and ten more for each draw."""
        return len(self.draws) * (self.iw + 10)

    @property
    def labels(self) -> tuple[str, ...]:
        part = f"part{self.part}of{self.parts}" if self.parts > 1 else ""
        return self.id, "asymptotic", f"iw{self.iw}", part, f"seed{self.seed}"

    def check_combination(self) -> None:
        if self.part > self.parts:
            raise SettingsError(f"--part: must be at most --parts, {self.parts}, got {self.part}")
        if self.mc_samples < 2 * self.parts:
            raise SettingsError(f"--mc_samples: every part needs 2 draws, got {self.mc_samples} in {self.parts}")
        alone = [name for name in self.names if parse_estimator(name).needs_two_particles]
        if alone and self.iw < 2:
            raise SettingsError(f"--iw: {alone[0]} leaves one particle out and needs at least 2, got {self.iw}")
