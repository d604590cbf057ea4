"""The grammar of estimator ids. No torch: the runner imports this.

An estimator id is split at its dashes into tokens, and each token is looked up in a table; nothing is ever evaluated.

    reinforce  reinforce-baseline  vimco[-arithmetic|-geometric]  rws (= wake-wake)  wake-sleep
    vae (= pathwise-vae)  iwae (= pathwise-iwae)  stl  dreg
    ovis-gamma<g>                            OVIS~ with its bias-variance knob, 0 <= g <= 1
    ovis-S<s>[-exclusive]                    OVIS_MC: s auxiliary samples; with a decimal point, a fraction of iw
    tvo-part<P>-beta<b>[-left|-right|-trapz]           P partitions, the first at 10^-b
    tvo-part<P>-config1|-config2[-left|-right|-trapz]  the first partition as the paper sets it, by K
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ovis.suggestions import did_you_mean

__all__ = [
    "ALIASES",
    "ESTIMATOR_FAMILIES",
    "LEAVE_ONE_OUT",
    "OPTIONS_LACKING",
    "REPARAMETERIZED",
    "EstimatorId",
    "auxiliary_count",
    "parse_estimator",
]

#: Families with no parameter in their id.
PLAIN_FAMILIES = (
    "reinforce",
    "reinforce-baseline",
    "vimco-arithmetic",
    "vimco-geometric",
    "wake-wake",
    "wake-sleep",
    "pathwise-vae",
    "pathwise-iwae",
    "stl",
    "dreg",
)

#: Every family: the keys of ``ovis.estimators.config.ESTIMATORS``.
ESTIMATOR_FAMILIES = (*PLAIN_FAMILIES, "ovis-gamma", "ovis-S", "tvo")

#: Short names and what they stand for.
ALIASES = {"vimco": "vimco-arithmetic", "rws": "wake-wake", "vae": "pathwise-vae", "iwae": "pathwise-iwae"}

#: Families that leave one particle out: they need two.
LEAVE_ONE_OUT = ("vimco-arithmetic", "vimco-geometric", "ovis-gamma", "tvo")

#: Families that differentiate through the samples; all others need exact ones.
REPARAMETERIZED = ("pathwise-vae", "pathwise-iwae", "stl", "dreg")

#: Which of the options of an estimator a family does not have.
OPTIONS_LACKING = {
    "wake-wake": ("beta", "tau", "freebits"),
    "wake-sleep": ("beta", "tau", "freebits"),
    "pathwise-vae": ("alpha",),
    "tvo": ("alpha",),
    "dreg": ("freebits",),
}


#: Ids shown when an unknown one is refused, one of each kind.
EXAMPLES = (
    *PLAIN_FAMILIES,
    *ALIASES,
    *("ovis-gamma0", "ovis-gamma1", "ovis-S1", "ovis-S10", "ovis-S1-exclusive", "ovis-S10-exclusive", "ovis-S0.5"),
    *("tvo-part2-config1", "tvo-part5-config2", "tvo-part5-beta2", "tvo-part5-beta2-left"),
    *("tvo-part5-beta2-right", "tvo-part5-beta2-trapz"),
)

Config = dict[str, int | float | str | bool]


@dataclass(frozen=True)
class EstimatorId:
    """A parsed estimator id.

    Attributes:
        canonical: the id with aliases resolved and numbers in their shortest form; equal for equal estimators.
        family: key of ``ovis.estimators.config.ESTIMATORS``.
        config: the settings that the id fixes, keyword arguments of the estimator's class.
    """

    canonical: str
    family: str
    config: Mapping[str, int | float | str | bool]


def parse_estimator(name: str) -> EstimatorId:
    """Parse an estimator id.

    >>> parse_estimator("ovis-gamma1").config
    {'gamma': 1.0}
    >>> parse_estimator("rws").canonical
    'wake-wake'

    Args:
        name: the id.

    Returns:
        its family and the settings it fixes.

    Raises:
        ValueError: an unknown id or token; the message names the nearest valid id.
    """
    if not isinstance(name, str):
        raise TypeError(f"an estimator id is a string such as 'ovis-gamma1', got {name!r}")
    plain = ALIASES.get(name, name)
    if plain in PLAIN_FAMILIES:
        return EstimatorId(plain, plain, {})
    head, *tokens = name.split("-")
    if head not in COMPOSED or not tokens:
        raise ValueError(f"unknown estimator {name!r}{did_you_mean(name, EXAMPLES)}")
    patterns, finish = COMPOSED[head]
    config: Config = {}
    for token in tokens:
        settings = _read_token(token, patterns)
        if settings is None or settings.keys() & config.keys():
            what = "unknown" if settings is None else "contradictory"
            raise ValueError(f"{what} part {token!r} of estimator {name!r}{did_you_mean(name, EXAMPLES)}")
        config.update(settings)
    return finish(name, config)


def auxiliary_count(auxiliary: int | float, particles: int) -> int:
    """S: an int is a count, a float is a fraction of the particles, rounded down (but 0.3 of 10 is 3), at least 1."""
    if isinstance(auxiliary, int):
        return auxiliary
    return max(1, int(auxiliary * particles + 1e-9))


Reader = Callable[[re.Match[str]], Config]

_NUMBER = r"(\d+(?:\.\d+)?)"

_OVIS_TOKENS: dict[str, Reader] = {
    rf"gamma{_NUMBER}": lambda m: {"gamma": float(m[1])},
    rf"S{_NUMBER}": lambda m: {"auxiliary": float(m[1]) if "." in m[1] else int(m[1])},
    r"exclusive": lambda m: {"exclusive": True},
}

_TVO_TOKENS: dict[str, Reader] = {
    r"part(\d+)": lambda m: {"partitions": int(m[1])},
    rf"beta{_NUMBER}": lambda m: {"first": 10.0 ** -float(m[1])},
    r"(config[12])": lambda m: {"first": m[1]},
    r"(left|right|trapz)": lambda m: {"integration": m[1]},
}


def _read_token(token: str, patterns: Mapping[str, Reader]) -> Config | None:
    for pattern, read in patterns.items():
        if match := re.fullmatch(pattern, token):
            return read(match)
    return None


def _finish_ovis(name: str, config: Config) -> EstimatorId:
    if config.keys() == {"gamma"}:
        gamma = float(config["gamma"])
        if gamma > 1:
            raise ValueError(f"estimator {name!r}: gamma must lie in [0, 1]")
        return EstimatorId(f"ovis-gamma{_decimal(gamma)}", "ovis-gamma", config)
    if "auxiliary" in config and "gamma" not in config:
        count = config["auxiliary"]
        assert isinstance(count, int | float)
        if count == 0:
            raise ValueError(f"estimator {name!r}: needs at least one auxiliary sample, e.g. ovis-S1")
        config.setdefault("exclusive", False)
        suffix = "-exclusive" if config["exclusive"] else ""
        fraction = isinstance(count, float) and count.is_integer()  # 1.0 is all particles, 1 is one
        return EstimatorId(f"ovis-S{_decimal(count)}{'.0' if fraction else ''}{suffix}", "ovis-S", config)
    raise ValueError(f"estimator {name!r}: needs gamma<g> or S<s>{did_you_mean(name, EXAMPLES)}")


def _finish_tvo(name: str, config: Config) -> EstimatorId:
    partitions = int(config.get("partitions", 0))
    if partitions < 1 or ("first" not in config and partitions > 1):
        raise ValueError(
            f"estimator {name!r}: needs part<P> and beta<b>, config1 or config2{did_you_mean(name, EXAMPLES)}"
        )
    first = config.setdefault("first", 0.5)
    if isinstance(first, float) and not 0 < first < 1:
        raise ValueError(f"estimator {name!r}: beta must lie in (0, 300], the first partition is at 10^-beta")
    integration = config.setdefault("integration", "left")
    if partitions == 1:  # there is no inner point: the value has no effect
        return EstimatorId(f"tvo-part1-{integration}", "tvo", {**config, "first": 0.5})
    middle = first if isinstance(first, str) else f"beta{_decimal(float(f'{-math.log10(first):.12g}'))}"
    return EstimatorId(f"tvo-part{partitions}-{middle}-{integration}", "tvo", config)


def _decimal(number: float | int) -> str:
    """The shortest decimal that reads back as this number, without an exponent (its dash would split the id)."""
    text = f"{number}"  # torch.compile follows the parser, but not into repr() or the decimal module
    if "e" in text:
        digits, exponent = text.split("e")
        places = len(digits.partition(".")[2]) - int(exponent)
        text = f"{number:.{max(places, 0)}f}"
    return text.removesuffix(".0")


COMPOSED: dict[str, tuple[dict[str, Reader], Callable[[str, Config], EstimatorId]]] = {
    "ovis": (_OVIS_TOKENS, _finish_ovis),
    "tvo": (_TVO_TOKENS, _finish_tvo),
}
