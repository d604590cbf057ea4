"""The identity of a run: its settings' differences from the defaults, a hash of them, and a readable folder name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ovis.estimators.ids import parse_estimator
from ovis.experiments.datasets import DATASETS
from ovis.experiments.models import MODELS
from ovis.experiments.runs.paths import is_safe_name
from ovis.experiments.settings import SettingsError, TrainSettings, value_type
from ovis.experiments.studies import AsymptoticSettings
from ovis.suggestions import did_you_mean

__all__ = ["Identity", "command_line", "differences", "identify", "option_words", "restore_settings"]

#: Hexadecimal digits of a run's key: among 10,000 runs two share one with a probability of 2e-7.
KEY_LENGTH = 12

#: Longest label that is kept in a folder's name.
LABEL_LENGTH = 60


@dataclass(frozen=True)
class Identity:
    """The identity of a run.

    Attributes:
        key: twelve hexadecimal digits, equal for equal :func:`differences`.
        name: its folder, e.g. ``iwbound-digits-sbm-ovis-gamma1-iw10-seed1-1a2b3c4d5e6f``. Made of letters, digits and
            ``. _ + = -`` only and never hidden, whatever the label holds.
        settings: what differs from the defaults, and nothing about where to run; see :func:`differences`.
    """

    key: str
    name: str
    settings: Mapping[str, Any]


def identify(settings: TrainSettings | AsymptoticSettings) -> Identity:
    """The identity of a run.

    Raises:
        ValueError: no safe folder name can be made of the settings.
    """
    different = differences(settings)
    text = json.dumps(different, sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
    return Identity(key, _name(settings, key), different)


def differences(settings: Any) -> dict[str, Any]:
    """The options that differ from the defaults, sorted by name: a JSON object that defines the run.

    Options that only say where to run are left out, and so are those that nothing in this run reads (``--depth`` of a
    model with one layer, say). The estimator is in its canonical form: ``vimco`` and ``vimco-arithmetic`` are one run.

    See also :func:`restore_settings`, the way back.
    """
    different: dict[str, Any] = {}
    idle = _idle(settings) if isinstance(settings, TrainSettings) else set()
    for item in sorted(dataclasses.fields(settings), key=lambda f: f.name):
        value = getattr(settings, item.name)
        if not item.metadata["identity"] or item.name in idle:
            continue
        if item.name == "grad_key" and value == MODELS[settings.trained_model].inference_parameters:
            value = item.default
        if item.name == "estimator":
            value = parse_estimator(value).canonical
        if value != item.default:
            real = value_type(settings.__class__, item.name) is float and value is not None
            different[item.name] = float(value) if real else value
    return different


def _idle(settings: TrainSettings) -> set[str]:
    """The options that nothing reads in this run."""
    read = set(MODELS[settings.trained_model].options) | set(DATASETS[settings.dataset].options)
    tables = [entry.options for entry in MODELS.values()] + [entry.options for entry in DATASETS.values()]
    idle = {option for options in tables for option in options} | {"b_nlayers", "baseline_lr"}
    if "prior" in read and settings.prior != "categorical":
        read -= {"K", "kdim"}
    if settings.estimator == "reinforce-baseline":
        read |= {"hdim", "b_nlayers", "baseline_lr"}
    idle -= read
    if DATASETS[settings.dataset].model:
        idle.add("model")
    if settings.only_train_set:
        idle |= {"select_on", "valid_bs", "iw_valid"}
    if not settings.warmup:
        idle |= {"alpha_init", "warmup_offset", "warmup_mode"}
    if settings.epochs > 0:
        idle.add("nsteps")
    if not settings.grad_samples:
        idle |= {"grad_bs", "grad_key", "grad_epsilon"}
    if not settings.mc_au_analysis:
        idle.add("npoints_au_analysis")
    return idle


def restore_settings(kind: Any, options: Mapping[str, Any]) -> Any:
    """Settings from a JSON object of options, such as :func:`differences` returns.

    Args:
        kind: the settings class of the study.
        options: values by name; the rest is at its default.

    Raises:
        SettingsError: an unknown option, or an invalid value.
    """
    names = [item.name for item in dataclasses.fields(kind)]
    for name in options:
        if name not in names:
            raise SettingsError(f"unknown option {name!r}{did_you_mean(name, names)}")
    return kind(**options)


def command_line(options: Mapping[str, Any]) -> str:
    """The options as people would type them."""
    return shlex.join(word for name, value in options.items() for word in option_words(name, value))


def option_words(name: str, value: Any) -> list[str]:
    """The command-line words that set option ``name`` to ``value``; ``=`` keeps a value with a leading dash a value."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}={value}"]


def _name(settings: TrainSettings | AsymptoticSettings, key: str) -> str:
    label, *parts = settings.labels if isinstance(settings, AsymptoticSettings) else _training_labels(settings)
    name = "-".join(part for part in (_safe(label), *parts, key) if part)
    if not is_safe_name(name):
        raise ValueError(f"can't make a folder name of {name!r}")
    return name


def _training_labels(settings: TrainSettings) -> tuple[str, ...]:
    return (
        settings.id,
        settings.dataset,
        settings.trained_model,
        parse_estimator(settings.estimator).canonical,
        f"iw{settings.iw}",
        f"seed{settings.seed}",
    )


def _safe(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+=]+", "-", label).strip(".-=+")[:LABEL_LENGTH].rstrip(".-=+")
