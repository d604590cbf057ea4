"""A run's model, settings and data from its folder: :func:`ovis.load_run`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ovis.experiments.datasets import load_dataset
from ovis.experiments.datasets.splits import Splits
from ovis.experiments.models import build_model
from ovis.experiments.runs.identity import restore_settings
from ovis.experiments.runs.paths import RunPaths
from ovis.experiments.settings import SettingsError, TrainSettings
from ovis.experiments.training.checkpoint import load_parameters
from ovis.models.model import Model

__all__ = ["LoadedRun", "load_run"]


class LoadedRun(NamedTuple):
    """The result of :func:`ovis.load_run`.

    Attributes:
        model: the model with its trained parameters, on the CPU, in evaluation mode.
        settings: the options of the run.
        data: its data set: ``data.train``, ``data.valid``, ``data.test``.
    """

    model: Model
    settings: TrainSettings
    data: Splits


def load_run(folder: str | os.PathLike[str]) -> LoadedRun:
    """What :func:`ovis.load_run` does, where its packages are installed."""
    paths = RunPaths(Path(folder))
    settings = _settings(paths)
    parameters = load_parameters(paths)
    data = load_dataset(settings.dataset, settings.mini, **settings.dataset_options)
    with torch.random.fork_rng(devices=[]):  # of the initial parameters, which are replaced
        model = build_model(settings.trained_model, data.x_shape, data.mean, **settings.model_options)
    try:
        model.load_state_dict(parameters)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{paths.folder}: its parameters do not fit the model of its config.json: {reason}") from error
    return LoadedRun(model.eval(), settings, data)


def _settings(paths: RunPaths) -> TrainSettings:
    """The options in ``config.json``.

    Raises:
        FileNotFoundError: no such folder, or one without ``config.json``.
        ValueError: the file is damaged, or of another version of ovis or another study.
    """
    if not paths.folder.is_dir():
        raise FileNotFoundError(f"{paths.folder} is no folder: give that of a run, ROOT/EXP/NAME")
    if not paths.config.is_file():
        runs = sorted(path.parent.name for path in paths.folder.glob("*/config.json"))
        inside = f"; it contains those of runs, such as {runs[0]}" if runs else ""
        raise FileNotFoundError(f"{paths.folder} is no folder of a run: there is no config.json{inside}")
    try:
        config: Any = json.loads(paths.config.read_bytes())
        options = config["settings"]
        if not isinstance(options, dict):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{paths.config} is damaged: it holds no settings") from None
    try:
        settings: TrainSettings = restore_settings(TrainSettings, options)
    except SettingsError as error:
        raise ValueError(f"{paths.config} holds no training of this version of ovis: {error}") from None
    return settings
