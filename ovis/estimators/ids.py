"""The table of estimators: their ids, and the facts that training, settings and reports need. No torch.

A new estimator is one class and one row of :data:`ESTIMATORS`. An id is split at its dashes into tokens, and each token
is looked up in the grammar of its family. Ids are never evaluated as code.

    reinforce  reinforce-baseline  rloo  vimco[-arithmetic|-geometric]  rws (= wake-wake)  wake-sleep
    vae (= pathwise-vae)  iwae (= pathwise-iwae)  stl  dreg
    wake-mix<i>                              i times the phi of wake-wake and 1 - i times that of wake-sleep
    ciwae-beta<b>                            b ELBO + (1 - b) L_K
    piwae-<scored>                           theta from all mc iw particles, phi from each bound, e.g. piwae-vimco
    ovis-gamma<g>                            OVIS~ with its bias-variance parameter, 0 <= g <= 1
    ovis-S<s>[-exclusive]                    OVIS_MC: s auxiliary samples; with a decimal point, a fraction of iw
    tvo-part<P>-beta<b>[-left|-right|-trapz][-centred]  P partitions, the first at 10^-b
    <scored>+<pathwise>                      for models with both kinds of latents, e.g. vimco+iwae, rloo+vae
    tvo-part<P>-config1|-config2[-...]       the first partition depends on K, as in Masrani et al. 2019
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ovis.suggestions import did_you_mean

__all__ = [
    "ESTIMATORS",
    "EstimatorFacts",
    "EstimatorId",
    "Grammar",
    "LineStyle",
    "auxiliary_count",
    "example_ids",
    "parse_estimator",
]

Config = dict[str, int | float | str | bool]
Reader = Callable[[re.Match[str]], Config]


@dataclass(frozen=True)
class EstimatorId:
    """A parsed estimator id.

    Attributes:
        canonical: the id with aliases resolved and numbers in their shortest form; equal for equal estimators.
        family: key of :data:`ESTIMATORS`.
        config: the settings that the id fixes, keyword arguments of the estimator's class.
        also_lacks: settings that this id does not have and others of its family do -> why.
    """

    canonical: str
    family: str
    config: Mapping[str, int | float | str | bool]
    also_lacks: Mapping[str, str] = field(default_factory=dict)

    @property
    def scored(self) -> EstimatorId | None:
        """The score-function estimator that an id contains, of ``mixed`` and ``piwae``; None for all other ids."""
        return parse_estimator(str(self.config["scored"])) if "scored" in self.config else None

    @property
    def needs_two_particles(self) -> bool:
        """Whether it leaves one particle out, so that iw must be at least 2."""
        return self.facts.needs_two_particles or (self.scored is not None and self.scored.needs_two_particles)

    @property
    def lacks(self) -> Mapping[str, str]:
        """Settings that it does not have -> why."""
        return {**self.facts.lacks, **self.also_lacks, **({} if self.scored is None else self.scored.lacks)}

    @property
    def facts(self) -> EstimatorFacts:
        """The row of its family.

        Raises:
            KeyError: a family that is not in the table.
        """
        return ESTIMATORS[self.family]


@dataclass(frozen=True)
class Grammar:
    """How ids with parameters are written: a head and tokens in any order, joined by dashes.

    Attributes:
        head: the text before the first dash.
        tokens: regular expression of a whole token -> the settings of its match.
        finish: (id, its settings) -> the parsed id. Raises ValueError for settings that can't be combined.
        examples: ids that a message about an unknown id suggests.
    """

    head: str
    tokens: Mapping[str, Reader]
    finish: Callable[[str, Config], EstimatorId]
    examples: tuple[str, ...]


class LineStyle(NamedTuple):
    """How an estimator is drawn in figures."""

    color: str  # hexadecimal
    dash: str  # a key of ovis.experiments.reporting.figures.style.PATTERNS
    marker: str  # of matplotlib


@dataclass(frozen=True)
class EstimatorFacts:
    """The facts about a family of estimators, known without importing torch.

    Attributes:
        family: the id, or its constant part.
        implementation: ``module:Class`` of the :class:`ovis.estimators.GradientEstimator`.
        aliases: other ids.
        grammar: grammar of ids with parameters; None: the family is the whole id.
        needs_two_particles: it leaves one particle out, so iw must be at least 2.
        reparameterized: it differentiates through the samples; all others need exact samples without graph.
        lacks: settings that it does not have, of those that estimators share -> why, for messages.
        options: the training options that determine its own parameters: fields of ``TrainSettings``.
        label: name in legends and tables; empty: the id.
        line: style in figures; None: a colour, a dash pattern and a marker derived from the id.
        look: for ids with parameters, label and style of a parsed id, in place of the two above.
        lines: styles of particular ids, in the order of legends; they take precedence over ``look``.
        legend_group: families with the same group form one column of a grouped legend.
    """

    family: str
    implementation: str
    aliases: tuple[str, ...] = ()
    grammar: Grammar | None = None
    needs_two_particles: bool = False
    reparameterized: bool = False
    lacks: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    label: str = ""
    line: LineStyle | None = None
    look: Callable[[EstimatorId], tuple[str, LineStyle]] | None = None
    lines: Mapping[str, LineStyle] = field(default_factory=dict)
    legend_group: str = "other"


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
    r"centred": lambda m: {"centred": True},
}

_WAKE_TOKENS: dict[str, Reader] = {rf"mix{_NUMBER}": lambda m: {"wake": float(m[1])}}

_CIWAE_TOKENS: dict[str, Reader] = {rf"beta{_NUMBER}": lambda m: {"elbo_weight": float(m[1])}}


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
    raise ValueError(f"estimator {name!r}: needs gamma<g> or S<s>{did_you_mean(name, example_ids())}")


def _finish_tvo(name: str, config: Config) -> EstimatorId:
    partitions = int(config.get("partitions", 0))
    if partitions < 1 or ("first" not in config and partitions > 1):
        raise ValueError(
            f"estimator {name!r}: needs part<P> and beta<b>, config1 or config2{did_you_mean(name, example_ids())}"
        )
    first = config.setdefault("first", 0.5)
    if isinstance(first, float) and not 0 < first < 1:
        raise ValueError(f"estimator {name!r}: beta must lie in (0, 300], the first partition is at 10^-beta")
    integration = config.setdefault("integration", "left")
    centred = bool(config.get("centred"))
    if centred and integration == "right":
        raise ValueError(f"estimator {name!r}: centred leaves out a term of the node 0, which 'right' does not use")
    rule = f"{integration}-centred" if centred else str(integration)
    lacks = {"freebits": "the term that it leaves out would not have the mean 0"} if centred else {}
    if partitions == 1:  # there is no inner point: the value has no effect
        return EstimatorId(f"tvo-part1-{rule}", "tvo", {**config, "first": 0.5}, lacks)
    middle = first if isinstance(first, str) else f"beta{_decimal(float(f'{-math.log10(first):.12g}'))}"
    return EstimatorId(f"tvo-part{partitions}-{middle}-{rule}", "tvo", config, lacks)


def _finish_fraction(family: str, prefix: str, setting: str) -> Callable[[str, Config], EstimatorId]:
    """Of a family whose ids have one number in [0, 1]."""

    def finish(name: str, config: Config) -> EstimatorId:
        value = float(config[setting])
        if value > 1:
            raise ValueError(f"estimator {name!r}: {setting} must lie in [0, 1]")
        return EstimatorId(f"{prefix}{_decimal(value)}", family, config)

    return finish


def _decimal(number: float | int) -> str:
    """The shortest decimal that reads back as this number, without an exponent (its dash would split the id)."""
    text = f"{number}"  # torch.compile follows the parser, but not into repr() or the decimal module
    if "e" in text:
        digits, exponent = text.split("e")
        places = len(digits.partition(".")[2]) - int(exponent)
        text = f"{number:.{max(places, 0)}f}"
    return text.removesuffix(".0")


_OVIS = Grammar(
    "ovis",
    _OVIS_TOKENS,
    _finish_ovis,
    ("ovis-gamma0", "ovis-gamma1", "ovis-S1", "ovis-S10", "ovis-S1-exclusive", "ovis-S10-exclusive", "ovis-S0.5"),
)
_TVO = Grammar(
    "tvo",
    _TVO_TOKENS,
    _finish_tvo,
    (
        *("tvo-part2-config1", "tvo-part5-config2", "tvo-part5-beta2"),
        *("tvo-part5-beta2-left", "tvo-part5-beta2-right", "tvo-part5-beta2-trapz", "tvo-part2-config1-centred"),
    ),
)
_WAKE = Grammar("wake", _WAKE_TOKENS, _finish_fraction("wake-mix", "wake-mix", "wake"), ("wake-mix0.5",))
_CIWAE = Grammar("ciwae", _CIWAE_TOKENS, _finish_fraction("ciwae", "ciwae-beta", "elbo_weight"), ("ciwae-beta0.05",))


#: Score-function estimators that can be combined with a pathwise one -> the pathwise ones of the same bound.
_COMBINATIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("reinforce", "vimco-arithmetic", "vimco-geometric", "ovis-gamma", "ovis-S"), ("pathwise-iwae", "stl")
    ),
    "rloo": ("pathwise-vae", "stl"),
}


def _partners(scored: EstimatorId) -> tuple[str, ...]:
    """The pathwise estimators with the bound of a score-function estimator, if theta and phi have the same one."""
    inclusive = scored.family == "ovis-S" and not scored.config["exclusive"]
    return () if inclusive else _COMBINATIONS.get(scored.family, ())


def _finish_mixed(name: str, config: Config) -> EstimatorId:
    scored, pathwise = (parse_estimator(str(config[part])) for part in ("scored", "pathwise"))
    if pathwise.family not in _partners(scored):
        valid = ", ".join(dict.fromkeys(_MIXED.examples))
        raise ValueError(f"estimator {name!r}: these two can't be combined; valid combinations are, e.g., {valid}")
    short = pathwise.family.removeprefix("pathwise-")
    return EstimatorId(
        f"{scored.canonical}+{short}", "mixed", {"scored": scored.canonical, "pathwise": pathwise.canonical}
    )


def _finish_piwae(name: str, config: Config) -> EstimatorId:
    scored = parse_estimator(str(config["scored"]))
    if "pathwise-iwae" not in _partners(scored):
        valid = ", ".join(_PIWAE.examples)
        raise ValueError(f"estimator {name!r}: no score-function estimator of L_K; valid are, e.g., {valid}")
    return EstimatorId(f"piwae-{scored.canonical}", "piwae", {"scored": scored.canonical})


def _piwae_look(known: EstimatorId) -> tuple[str, LineStyle]:
    """The label and a darker colour of the estimator of phi, in a dash pattern of its own."""
    scored = parse_estimator(str(known.config["scored"]))
    label, line = _look(scored)
    return f"PIWAE, {label}", LineStyle(_mix(line.color, "#000000", 0.4), "dashdotdot", "p")


def _look(known: EstimatorId) -> tuple[str, LineStyle]:
    """The label and the style of an id of a family that has them."""
    facts = known.facts
    label, line = (facts.label, facts.line) if facts.look is None else facts.look(known)
    line = facts.lines.get(known.canonical, line)
    assert line is not None
    return label or known.canonical, line


def _mixed_look(known: EstimatorId) -> tuple[str, LineStyle]:
    """The label of both; the colour of the score-function estimator, in a dash pattern of its own."""
    scored, pathwise = (parse_estimator(str(known.config[part])) for part in ("scored", "pathwise"))
    (label, line), (pathwise_label, pathwise_line) = _look(scored), _look(pathwise)
    color = _mix(line.color, pathwise_line.color, 0.5)
    return f"{label} + {pathwise_label}", LineStyle(color, "sparse", line.marker)


_PIWAE = Grammar("piwae", {}, _finish_piwae, ("piwae-vimco", "piwae-ovis-gamma0", "piwae-ovis-gamma1"))
_MIXED = Grammar("+", {}, _finish_mixed, ("vimco+iwae", "ovis-gamma0+iwae", "ovis-gamma1+stl", "rloo+vae"))


def _gamma_look(known: EstimatorId) -> tuple[str, LineStyle]:
    """OVIS~: colours between those of gamma = 0 and gamma = 1."""
    gamma = float(known.config["gamma"])
    start, end = (known.facts.lines[name].color for name in ("ovis-gamma0", "ovis-gamma1"))
    return f"OVIS~ (γ={gamma:g})", LineStyle(_mix(start, end, gamma), "dashdot", "d")


def _auxiliary_look(known: EstimatorId) -> tuple[str, LineStyle]:
    """OVIS_MC: the more auxiliary samples the darker; inclusive ones (of a budget) are dashed."""
    count, exclusive = known.config["auxiliary"], bool(known.config["exclusive"])
    fraction = isinstance(count, float)
    ends = ("ovis-S0.1", "ovis-S0.7") if fraction else ("ovis-S1-exclusive", "ovis-S50-exclusive")
    start, end = (known.facts.lines[name].color for name in ends)
    position = (float(count) - 0.1) / 0.6 if fraction else math.log10(float(count)) / 2
    line = LineStyle(_mix(start, end, position), "solid" if exclusive else "dashed", "^")
    return f"OVIS-MC (S={count:g}{'K' if fraction else ''}{'' if exclusive else ', budget'})", line


def _tvo_look(known: EstimatorId) -> tuple[str, LineStyle]:
    """TVO: the more partitions the darker; the dashes show the integration rule, the marker whether it is centred."""
    position = (int(known.config["partitions"]) - 2) / 10
    dash = {"left": "dashed", "right": "dotted", "trapz": "dashdot"}[str(known.config["integration"])]
    centred = bool(known.config.get("centred"))
    line = LineStyle(_mix("#0072B2", "#00263B", position), "sparse" if centred else dash, "p" if centred else "P")
    return f"TVO{', centred' if centred else ''}", line


def _wake_look(known: EstimatorId) -> tuple[str, LineStyle]:
    """A colour between those of wake-sleep and wake-wake."""
    wake = float(known.config["wake"])
    return f"Wake-Mix ({wake:g})", LineStyle(_mix("#2B7FA8", "#56B4E9", wake), "longshort", "x")


def _ciwae_look(known: EstimatorId) -> tuple[str, LineStyle]:
    """A grey between those of IWAE and VAE."""
    weight = float(known.config["elbo_weight"])
    return f"CIWAE (β={weight:g})", LineStyle(_mix("#6E6E6E", "#A0A0A0", weight), "dashdot", "s")


def _mix(start: str, end: str, position: float) -> str:
    """The colour at ``position`` on the way from ``start`` (0) to ``end`` (1); beyond them, the nearer one."""
    position = min(max(position, 0.0), 1.0)
    channels = ((int(start[i : i + 2], 16), int(end[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + position * (b - a)):02X}" for a, b in channels)


_NO_BOUND_FOR_PHI = dict.fromkeys(("beta", "tau", "freebits"), "its phi follows no bound that could be weighted")

#: The rows of the table, in the order of legends. The hues are Okabe and Ito's, safe for colour-blind readers; related
#: estimators share a hue, and markers and dashes distinguish them without colour.
_ROWS = (
    EstimatorFacts(
        "ovis-gamma",
        "ovis.estimators.ovis:OvisAsymptotic",
        grammar=_OVIS,
        needs_two_particles=True,
        look=_gamma_look,
        lines={
            "ovis-gamma1": LineStyle("#E69F00", "solid", ">"),
            "ovis-gamma0": LineStyle("#5E4600", "dotted", "<"),
        },
        legend_group="OVIS~",
    ),
    EstimatorFacts(
        "ovis-S",
        "ovis.estimators.ovis:OvisMonteCarlo",
        grammar=_OVIS,
        look=_auxiliary_look,
        lines={
            "ovis-S1-exclusive": LineStyle("#F4A582", "dotted", "^"),
            "ovis-S10-exclusive": LineStyle("#D55E00", "longshort", "^"),
            "ovis-S50-exclusive": LineStyle("#992B00", "dashdot", "^"),
            # fractions of a budget, from pale pink to dark brown: distinguished by their lightness in grey print
            "ovis-S0.1": LineStyle("#FDC1B4", "sparse", "^"),
            "ovis-S0.2": LineStyle("#F49173", "dashdotdot", "^"),
            "ovis-S0.3": LineStyle("#D76941", "dashed", "^"),
            "ovis-S0.5": LineStyle("#9E4725", "long", "^"),
            "ovis-S0.7": LineStyle("#612C15", "solid", "^"),
        },
        legend_group="OVIS-MC",
    ),
    EstimatorFacts(
        "wake-wake",
        "ovis.estimators.wake_sleep:WakeWake",
        aliases=("rws",),
        lacks=_NO_BOUND_FOR_PHI,
        label="RWS",
        line=LineStyle("#56B4E9", "dashdot", "X"),
        legend_group="TVO, RWS",
    ),
    EstimatorFacts(
        "wake-sleep",
        "ovis.estimators.wake_sleep:WakeSleep",
        lacks=_NO_BOUND_FOR_PHI,
        label="Wake-Sleep",
        line=LineStyle("#2B7FA8", "dotted", "x"),
        legend_group="TVO, RWS",
    ),
    EstimatorFacts(
        "wake-mix",
        "ovis.estimators.wake_sleep:WakeMix",
        grammar=_WAKE,
        lacks=_NO_BOUND_FOR_PHI,
        look=_wake_look,
        legend_group="TVO, RWS",
    ),
    EstimatorFacts(
        "tvo",
        "ovis.estimators.tvo:Tvo",
        grammar=_TVO,
        needs_two_particles=True,
        lacks={"alpha": "its objective is no Renyi bound"},
        look=_tvo_look,
        legend_group="TVO, RWS",
    ),
    EstimatorFacts(
        "vimco-arithmetic",
        "ovis.estimators.vimco:VimcoArithmetic",
        aliases=("vimco",),
        needs_two_particles=True,
        label="VIMCO",
        line=LineStyle("#009E73", "dashdotdot", "h"),
        legend_group="VIMCO, REINFORCE",
    ),
    EstimatorFacts(
        "vimco-geometric",
        "ovis.estimators.vimco:VimcoGeometric",
        needs_two_particles=True,
        label="VIMCO (geometric)",
        line=LineStyle("#00543D", "dotted", "H"),
        legend_group="VIMCO, REINFORCE",
    ),
    EstimatorFacts(
        "reinforce",
        "ovis.estimators.reinforce:Reinforce",
        label="REINFORCE",
        line=LineStyle("#5A625D", "long", "o"),
        legend_group="VIMCO, REINFORCE",
    ),
    EstimatorFacts(
        "rloo",
        "ovis.estimators.reinforce:Rloo",
        aliases=("vargrad", "log-variance"),
        needs_two_particles=True,
        lacks={"alpha": "the ELBO has no order", "freebits": "its gradient would be biased"},
        label="RLOO",
        line=LineStyle("#8A8F3C", "dashed", "v"),
        legend_group="VIMCO, REINFORCE",
    ),
    EstimatorFacts(
        "reinforce-baseline",
        "ovis.estimators.reinforce:ReinforceBaseline",
        options=("hdim", "b_nlayers", "baseline_lr"),
        label="REINFORCE + baseline",
        line=LineStyle("#2B332F", "dashdot", "o"),
        legend_group="VIMCO, REINFORCE",
    ),
    EstimatorFacts(
        "pathwise-iwae",
        "ovis.estimators.pathwise:PathwiseIwae",
        aliases=("iwae",),
        reparameterized=True,
        label="IWAE",
        line=LineStyle("#6E6E6E", "solid", "s"),
        legend_group="pathwise",
    ),
    EstimatorFacts(
        "ciwae",
        "ovis.estimators.pathwise:Ciwae",
        grammar=_CIWAE,
        reparameterized=True,
        lacks={"alpha": "the ELBO has no order"},
        look=_ciwae_look,
        legend_group="pathwise",
    ),
    EstimatorFacts(
        "pathwise-vae",
        "ovis.estimators.pathwise:PathwiseVae",
        aliases=("vae",),
        reparameterized=True,
        lacks={"alpha": "the ELBO has no order"},
        label="VAE",
        line=LineStyle("#A0A0A0", "dotted", "D"),
        legend_group="pathwise",
    ),
    EstimatorFacts(
        "stl",
        "ovis.estimators.pathwise:PathwiseStl",
        reparameterized=True,
        label="STL",
        line=LineStyle("#7B5EA7", "dashed", "2"),
        legend_group="pathwise",
    ),
    EstimatorFacts(
        "dreg",
        "ovis.estimators.pathwise:PathwiseDreg",
        reparameterized=True,
        lacks={"freebits": "its gradient would be biased; use pathwise-iwae"},
        label="DReG",
        line=LineStyle("#CC79A7", "solid", "3"),
        legend_group="pathwise",
    ),
    EstimatorFacts(
        "mixed",
        "ovis.estimators.mixed:Mixed",
        grammar=_MIXED,
        reparameterized=True,
        lacks={"tau": "layers that can't be reparameterized are drawn exactly"},
        look=_mixed_look,
    ),
    EstimatorFacts(
        "piwae",
        "ovis.estimators.piwae:Piwae",
        grammar=_PIWAE,
        look=_piwae_look,
        legend_group="VIMCO, REINFORCE",
    ),
)

#: Every family of estimators, by its name.
ESTIMATORS: dict[str, EstimatorFacts] = {row.family: row for row in _ROWS}


def example_ids() -> list[str]:
    """Ids for the message about an unknown id, at least one of each family: plain ids, aliases, ids with tokens."""
    rows = ESTIMATORS.values()
    plain = [row.family for row in rows if row.grammar is None]
    aliases = [alias for row in rows for alias in row.aliases]
    composed = [name for row in rows if row.grammar is not None for name in row.grammar.examples]
    return list(dict.fromkeys([*plain, *aliases, *composed]))


_EXACT_SAMPLES = "ovis draws exact discrete samples; closest: vimco, ovis-gamma0"
_RELAXED = "closest: iwae with tau > 0 (relaxed samples)"
_COUPLED = "it draws coupled particles; closest: vimco, rloo"

#: Names of the literature that are no ids -> the closest estimator, and why.
_ELSEWHERE: dict[str, str] = {
    "nvil": "it is reinforce-baseline",
    "miwae": "it is any estimator with mc > 1, e.g. iwae with mc=8, iw=8",
    "piwae": "the paper's is pathwise; closest: piwae-<id> with a score-function estimator, e.g. piwae-vimco",
    "ciwae": "say how much of the ELBO: ciwae-beta<b>, e.g. ciwae-beta0.05",
    "vr-iwae": "the bound of order alpha is a setting: iwae, or any other, with alpha=0.5",
    "vr": "the bound of order alpha is a setting: iwae, or any other, with alpha=0.5",
    "insomnia": "it is wake-mix<i>, e.g. wake-mix0.5",
    "elbo": "it is vae (reparameterized) or rloo (score function)",
    "bbvi": "it is reinforce with iw=1; with less variance: rloo",
    **dict.fromkeys(("arm", "arms", "disarm", "u2g", "legrad"), _COUPLED),
    **dict.fromkeys(("gumbel", "gumbel-softmax", "concrete", "relaxed"), _RELAXED),
    **dict.fromkeys(("st", "straight-through", "gumbel-st", "reinmax"), _EXACT_SAMPLES),
    **dict.fromkeys(("rebar", "relax", "muprop", "double-cv", "rodeo"), "closest: vimco, ovis-gamma0, rloo"),
    **dict.fromkeys(("msc", "jsa", "inclusive-kl"), "it follows KL(p || q); closest: rws, which is wake-wake"),
    **dict.fromkeys(("sumo", "ais", "dais", "hvi", "uha"), "it changes the bound; closest: iwae, dreg"),
}


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
        TypeError: not a string.
        ValueError: an unknown id or token; the message names the nearest valid id.
    """
    if not isinstance(name, str):
        raise TypeError(f"an estimator id is a string such as 'ovis-gamma1', got {name!r}")
    for row in ESTIMATORS.values():
        if row.grammar is None and (name == row.family or name in row.aliases):
            return EstimatorId(row.family, row.family, {})
    if name.lower() in _ELSEWHERE:
        raise ValueError(f"estimator {name!r} is not in ovis: {_ELSEWHERE[name.lower()]}")
    if "+" in name:
        scored, _, pathwise = name.partition("+")
        return _finish_mixed(name, {"scored": scored, "pathwise": pathwise})
    if name.startswith("piwae-"):
        return _finish_piwae(name, {"scored": name.removeprefix("piwae-")})
    head, *tokens = name.split("-")
    grammars = [row.grammar for row in ESTIMATORS.values() if row.grammar is not None and row.grammar.head == head]
    if not grammars or not tokens:
        raise ValueError(f"unknown estimator {name!r}{did_you_mean(name, example_ids())}")
    config: Config = {}
    for token in tokens:
        settings = _read_token(token, grammars[0].tokens)
        if settings is None or settings.keys() & config.keys():
            problem = "unknown" if settings is None else "contradictory"
            raise ValueError(f"{problem} part {token!r} of estimator {name!r}{did_you_mean(name, example_ids())}")
        config.update(settings)
    return grammars[0].finish(name, config)


def auxiliary_count(auxiliary: int | float, particles: int) -> int:
    """S, the number of auxiliary samples of OVIS_MC.

    Args:
        auxiliary: an int is the number itself; a float is a fraction of the particles.
        particles: K.

    Returns:
        at least 1; a fraction is rounded down, except for floating-point error: 0.3 of 10 is 3.
    """
    if isinstance(auxiliary, int):
        return auxiliary
    return max(1, int(auxiliary * particles + 1e-9))
