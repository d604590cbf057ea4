"""The identity of a run: the settings that differ from the defaults, a hash of them, and a readable folder name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ovis.estimators.ids import ESTIMATORS, parse_estimator
from ovis.experiments.datasets import DATASETS
from ovis.experiments.models import MODELS
from ovis.experiments.runs.paths import is_safe_name
from ovis.experiments.settings import SettingsError, TrainSettings, value_type
from ovis.experiments.studies import AsymptoticSettings
from ovis.suggestions import did_you_mean

__all__ = ["Identity", "command_line", "differences", "identify", "option_words", "restore_settings"]

#: Hexadecimal digits of a run's key. With 10,000 runs the probability of a collision is 2e-7.
KEY_LENGTH = 12

#: Length to which a label is cut in a folder's name.
LABEL_LENGTH = 60


@dataclass(frozen=True)
class Identity:
    """The identity of a run.

    Attributes:
        key: twelve hexadecimal digits, equal for equal :func:`differences`.
        name: the name of its folder, e.g. ``iwbound-digits-sbm-ovis-gamma1-iw10-seed1-1a2b3c4d5e6f``. It consists of
            letters, digits and ``. _ + = -`` and does not begin with a dot, whatever the label is.
        settings: the settings that differ from the defaults, without those that only say where to run; see
            :func:`differences`.
    """

    key: str
    name: str
    settings: Mapping[str, Any]


def identify(settings: TrainSettings | AsymptoticSettings) -> Identity:
    """The identity of a run.

    Raises:
        ValueError: the settings give no safe folder name.
    """
    changed = differences(settings)
    text = json.dumps(changed, sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
    return Identity(key, _name(settings, key), changed)


def differences(settings: Any) -> dict[str, Any]:
    """The options that differ from the defaults, sorted by name: a JSON object that defines the run.

    Options that only say where to run are left out, and so are those that this run does not use, such as ``--depth``
    for a model with one layer. The estimator is in its canonical form: ``vimco`` and ``vimco-arithmetic`` are one run.

    See also :func:`restore_settings`, the inverse.
    """
    changed: dict[str, Any] = {}
    unused = _unused(settings) if isinstance(settings, TrainSettings) else set()
    for item in sorted(dataclasses.fields(settings), key=lambda f: f.name):
        value = getattr(settings, item.name)
        if not item.metadata["identity"] or item.name in unused:
            continue
        if item.name == "grad_key" and value == MODELS[settings.trained_model].inference_parameters:
            value = item.default
        if item.name == "estimator":
            value = parse_estimator(value).canonical
        if value != item.default:
            real = value_type(settings.__class__, item.name) is float and value is not None
            changed[item.name] = float(value) if real else value
    return changed


def _unused(settings: TrainSettings) -> set[str]:
    """The options that this run does not use."""
    used = set(MODELS[settings.trained_model].options) | set(DATASETS[settings.dataset].options)
    tables = [entry.options for entry in MODELS.values()] + [entry.options for entry in DATASETS.values()]
    tables += [facts.options for facts in ESTIMATORS.values()]
    unused = {option for options in tables for option in options}
    if "prior" in used and settings.prior != "categorical":
        used -= {"K", "kdim"}
    unused -= used | set(parse_estimator(settings.estimator).facts.options)
    if DATASETS[settings.dataset].model:
        unused.add("model")
    if settings.only_train_set:
        unused |= {"select_on", "valid_bs", "iw_valid"}
    if not settings.warmup:
        unused |= {"alpha_init", "warmup_offset", "warmup_mode"}
    if settings.epochs > 0:
        unused.add("nsteps")
    if not settings.grad_samples:
        unused |= {"grad_bs", "grad_key", "grad_epsilon"}
    if not settings.mc_au_analysis:
        unused.add("npoints_au_analysis")
    return unused


def restore_settings(kind: Any, options: Mapping[str, Any]) -> Any:
    """Settings from a JSON object of options, such as :func:`differences` returns.

    Args:
        kind: the settings class of the study.
        options: values by name; the other options have their defaults.

    Raises:
        SettingsError: an unknown option, or an invalid value.
    """
    names = [item.name for item in dataclasses.fields(kind)]
    for name in options:
        if name not in names:
            raise SettingsError(f"unknown option {name!r}{did_you_mean(name, names)}")
    return kind(**options)


def command_line(options: Mapping[str, Any]) -> str:
    """The options as a command line."""
    return shlex.join(word for name, value in options.items() for word in option_words(name, value))


def option_words(name: str, value: Any) -> list[str]:
    """The command-line words that set option ``name`` to ``value``; ``=`` allows values that begin with a dash."""
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
