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

from ovis.experiments.runs.paths import is_safe_name
from ovis.experiments.settings import RunSettings, SettingsError, value_type
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


def identify(settings: RunSettings) -> Identity:
    """The identity of a run.

    Raises:
        ValueError: the settings give no safe folder name.
    """
    changed = differences(settings)
    text = json.dumps(changed, sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
    return Identity(key, _name(settings, key), changed)


def differences(settings: RunSettings) -> dict[str, Any]:
    """The options that differ from the defaults, sorted by name: a JSON object that defines the run.

    Options that only say where to run are left out, and so are those that this run does not use, such as ``--depth``
    for a model with one layer. The estimator is in its canonical form: ``vimco`` and ``vimco-arithmetic`` are one run.

    See also :func:`restore_settings`, the inverse.
    """
    changed: dict[str, Any] = {}
    unused = settings.unused
    for item in sorted(dataclasses.fields(settings), key=lambda f: f.name):
        value = getattr(settings, item.name)
        if not item.metadata["identity"] or item.name in unused:
            continue
        if item.metadata["canonical"] is not None:
            value = item.metadata["canonical"](value)
        if value != item.default:
            real = value_type(type(settings), item.name) is float and value is not None
            changed[item.name] = float(value) if real else value
    return changed


def restore_settings(kind: type[RunSettings], options: Mapping[str, Any]) -> Any:
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


def _name(settings: RunSettings, key: str) -> str:
    label, *parts = settings.labels
    name = "-".join(part for part in (_safe(label), *parts, key) if part)
    if not is_safe_name(name):
        raise ValueError(f"can't make a folder name of {name!r}")
    return name


def _safe(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+=]+", "-", label).strip(".-=+")[:LABEL_LENGTH].rstrip(".-=+")
