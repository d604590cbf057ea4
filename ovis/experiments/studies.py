"""The studies: the kinds of experiments, of which an experiment file names one as its ``script``.

As ``ovis.experiments.settings``, it does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ovis.experiments.plugins import PluginTable
from ovis.experiments.settings import RunSettings, TrainSettings

__all__ = ["STUDIES", "Study", "experiment_name"]


@dataclass(frozen=True)
class Study:
    """A kind of experiment: the options of its runs, and what executes and reports them.

    Attributes:
        settings: the class of a run's options.
        module: ``python -m module OPTIONS`` executes a run.
        report: the command that makes the report of the experiment, a key of
            :data:`ovis.experiments.cli.commands.COMMANDS`.
        results: pattern of the files in a run's folder that the report reads.
        ensembles: whether one process can execute several runs that differ only in the seed.
        aliases: names of experiments by the alternative names that the commands accept.
    """

    settings: type[RunSettings]
    module: str
    report: str
    results: str
    ensembles: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)


#: The studies by name, those of plugins included.
STUDIES: PluginTable[Study] = PluginTable(
    "study",
    {
        "train": Study(
            TrainSettings,
            "ovis.experiments.cli.train",
            report="report",
            results="metrics.jsonl",
            ensembles=True,
        )
    },
)


def experiment_name(name: str) -> str:
    """The name of an experiment, of which ``name`` may be an alias."""
    return next((study.aliases[name] for study in STUDIES.values() if name in study.aliases), name)
