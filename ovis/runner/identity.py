"""Who a run is: a hash of its declared differences from the defaults, and a folder name that people can read."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

from ovis.names import IMPLIED_MODELS, parse_estimator
from ovis.runner.paths import is_safe_name
from ovis.settings import TrainSettings, differences
from ovis.studies import AsymptoticSettings

__all__ = ["Identity", "identify", "words"]

#: Hexadecimal digits of a run's key: among 10,000 runs two share one with a probability of 2e-7.
KEY_LENGTH = 12

#: Longest label that is kept in a folder's name.
LABEL_LENGTH = 60


@dataclass(frozen=True)
class Identity:
    """Who a run is.

    Attributes:
        key: twelve hexadecimal digits, equal for equal :func:`ovis.settings.differences`.
        name: its folder, e.g. ``iwbound-digits-sbm-ovis-gamma1-iw10-seed1-1a2b3c4d5e6f``. Made of letters, digits and
            ``. _ + = -`` only and never hidden, whatever the label holds.
        arg: the run as one command-line string: what differs from the defaults, and nothing about where to run.
    """

    key: str
    name: str
    arg: str


def identify(settings: TrainSettings | AsymptoticSettings) -> Identity:
    """The identity of a run.

    Raises:
        ValueError: no safe folder name can be made of the settings.
    """
    found = differences(settings)
    text = json.dumps(found, sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
    arg = shlex.join(word for option, value in found.items() for word in words(option, value))
    return Identity(key, _name(settings, key), arg)


def words(name: str, value: Any) -> list[str]:
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
        IMPLIED_MODELS.get(settings.dataset, settings.model),
        parse_estimator(settings.estimator).canonical,
        f"iw{settings.iw}",
        f"seed{settings.seed}",
    )


def _safe(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+=]+", "-", label).strip(".-=+")[:LABEL_LENGTH].rstrip(".-=+")
