"""How an estimator looks in every figure: one table, keyed by the canonical id or the family.

The hues are Okabe and Ito's, safe for colour-blind readers; relatives share a hue (OVIS~ gold, OVIS-MC vermilion to
brown, TVO and RWS blue, VIMCO green, REINFORCE and the pathwise bounds grey, STL and DReG purple). Marker and dashes
tell them apart without any colour.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ovis.estimators.ids import EstimatorId, parse_estimator

__all__ = [
    "DASHES",
    "FALLBACK",
    "MARKERS",
    "Look",
    "estimator_look",
    "estimator_looks",
    "house_style",
    "is_budgeted",
    "style_group",
    "style_order",
]

Dash = tuple[int, tuple[float, ...]]

#: Line styles in units of the line's width, from the plainest to the most broken.
SOLID: Dash = (0, ())
DASHED: Dash = (0, (5, 1.5))
DOTTED: Dash = (0, (1, 1.2))
DASHDOT: Dash = (0, (4, 1.2, 1, 1.2))
LONG: Dash = (0, (9, 2))
DASHDOTDOT: Dash = (0, (4, 1, 1, 1, 1, 1))
LONGSHORT: Dash = (0, (7, 1.4, 2, 1.4))
SPARSE: Dash = (0, (1, 2.6))

DASHES = (SOLID, DASHED, DOTTED, DASHDOT, LONG, DASHDOTDOT)


@dataclass(frozen=True)
class Look:
    """How a series is drawn.

    Attributes:
        label: for people; the legend's words.
        color: hexadecimal.
        dash: matplotlib's ``(offset, on-off sequence)``.
        marker: one of matplotlib's.
    """

    label: str
    color: str
    dash: Dash
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments of ``Axes.plot``."""
        thin = self.marker in ("+", "x", "2", "3")  # drawn with strokes, not filled
        return {
            "color": self.color,
            "linestyle": self.dash,
            "marker": self.marker,
            "markeredgecolor": self.color if thin else "white",
            "markeredgewidth": 1.4 if thin else 0.5,
        }


LOOKS = {
    "ovis-gamma1": Look("OVIS~ (γ=1)", "#E69F00", SOLID, ">"),
    "ovis-gamma0": Look("OVIS~ (γ=0)", "#5E4600", DOTTED, "<"),
    "ovis-S1-exclusive": Look("OVIS-MC (S=1)", "#F4A582", DOTTED, "^"),
    "ovis-S10-exclusive": Look("OVIS-MC (S=10)", "#D55E00", LONGSHORT, "^"),
    "ovis-S50-exclusive": Look("OVIS-MC (S=50)", "#992B00", DASHDOT, "^"),
    # Shares of a budget, from pale pink to dark brown: their lightness tells them apart in grey print as well.
    "ovis-S0.1": Look("OVIS-MC (S=0.1K, budget)", "#FDC1B4", SPARSE, "^"),
    "ovis-S0.2": Look("OVIS-MC (S=0.2K, budget)", "#F49173", DASHDOTDOT, "^"),
    "ovis-S0.3": Look("OVIS-MC (S=0.3K, budget)", "#D76941", DASHED, "^"),
    "ovis-S0.5": Look("OVIS-MC (S=0.5K, budget)", "#9E4725", LONG, "^"),
    "ovis-S0.7": Look("OVIS-MC (S=0.7K, budget)", "#612C15", SOLID, "^"),
    "tvo": Look("TVO", "#0072B2", DASHED, "P"),
    "wake-wake": Look("RWS", "#56B4E9", DASHDOT, "X"),
    "wake-sleep": Look("Wake-Sleep", "#2B7FA8", DOTTED, "x"),
    "vimco-arithmetic": Look("VIMCO", "#009E73", DASHDOTDOT, "h"),
    "vimco-geometric": Look("VIMCO (geometric)", "#00543D", DOTTED, "H"),
    "reinforce": Look("REINFORCE", "#5A625D", LONG, "o"),
    "reinforce-baseline": Look("REINFORCE + baseline", "#2B332F", DASHDOT, "o"),
    "pathwise-iwae": Look("IWAE", "#6E6E6E", SOLID, "s"),
    "pathwise-vae": Look("VAE", "#A0A0A0", DOTTED, "D"),
    "stl": Look("STL", "#7B5EA7", DASHED, "2"),
    "dreg": Look("DReG", "#CC79A7", SOLID, "3"),
}

#: The columns of a legend that is grouped: families that belong together.
COLUMNS = (
    ("ovis-gamma",),
    ("ovis-S",),
    ("tvo", "wake-wake", "wake-sleep"),
    ("vimco-arithmetic", "vimco-geometric", "reinforce", "reinforce-baseline"),
    ("pathwise-iwae", "pathwise-vae", "stl", "dreg"),
)

#: For what the table does not know: hues that are not the OVIS family's, which stand out.
FALLBACK = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#7D8B80", "#7F3300", "#44504A")
MARKERS = ("o", "s", "D", "v", "p", "*", "d", "8")


def estimator_look(estimator: str) -> Look:
    """The look of an estimator's id or alias; the same one in every figure, also for an id that nobody knows."""
    try:
        known = parse_estimator(estimator)
    except ValueError:
        return _unknown(estimator)
    if known.canonical in LOOKS:
        return LOOKS[known.canonical]
    return {"ovis-gamma": _asymptotic, "ovis-S": _monte_carlo, "tvo": _thermodynamic}[known.family](known)


def estimator_looks(estimators: Iterable[str]) -> dict[str, Look]:
    """The looks of several estimators in one figure: two that share a label (TVO) are told apart by their settings."""
    looks = {name: estimator_look(name) for name in estimators}
    labels = [look.label for look in looks.values()]
    return {
        name: replace(look, label=f"{look.label} ({name.partition('-')[2] or name})") if repeated else look
        for (name, look), repeated in zip(looks.items(), (labels.count(label) > 1 for label in labels), strict=True)
    }


def style_group(estimator: str) -> int:
    """The column of a grouped legend that an estimator belongs to; what nobody knows comes last."""
    try:
        family = parse_estimator(estimator).family
    except ValueError:
        return len(COLUMNS)
    return next(i for i, families in enumerate(COLUMNS) if family in families)


def is_budgeted(estimators: Iterable[str]) -> bool:
    """Whether K counts all particles, auxiliary ones too: where OVIS-MC pays for its samples out of K (inclusive)."""
    for name in estimators:
        try:
            known = parse_estimator(name)
        except ValueError:
            continue
        if known.family == "ovis-S" and not known.config["exclusive"]:
            return True
    return False


def style_order(estimator: str) -> tuple[int, int, str]:
    """A key that sorts estimators as the paper's legends do: by column, then as in the table of looks."""
    known = list(LOOKS)
    place = known.index(estimator) if estimator in known else len(known)
    return style_group(estimator), place, estimator


def _asymptotic(known: EstimatorId) -> Look:
    """OVIS~ between gamma = 0 and gamma = 1: between their colours."""
    gamma = float(known.config["gamma"])
    color = _mix(LOOKS["ovis-gamma0"].color, LOOKS["ovis-gamma1"].color, gamma)
    return Look(f"OVIS~ (γ={gamma:g})", color, DASHDOT, "d")


def _monte_carlo(known: EstimatorId) -> Look:
    """OVIS_MC: the more auxiliary samples the darker; inclusive ones (of a budget) are dashed."""
    count, exclusive = known.config["auxiliary"], bool(known.config["exclusive"])
    share = isinstance(count, float)
    ends = ("ovis-S0.1", "ovis-S0.7") if share else ("ovis-S1-exclusive", "ovis-S50-exclusive")
    place = (float(count) - 0.1) / 0.6 if share else math.log10(float(count)) / 2
    color = _mix(LOOKS[ends[0]].color, LOOKS[ends[1]].color, min(max(place, 0.0), 1.0))
    samples = f"S={count:g}K" if share else f"S={count:g}"
    kind = "" if exclusive else ", budget"
    return Look(f"OVIS-MC ({samples}{kind})", color, SOLID if exclusive else DASHED, "^")


def _thermodynamic(known: EstimatorId) -> Look:
    """TVO: the more partitions the darker; the dashes say how it integrates."""
    place = min((int(known.config["partitions"]) - 2) / 10, 1.0) if int(known.config["partitions"]) > 2 else 0.0
    dash = {"left": DASHED, "right": DOTTED, "trapz": DASHDOT}[str(known.config["integration"])]
    return replace(LOOKS["tvo"], color=_mix(LOOKS["tvo"].color, "#00263B", place), dash=dash)


def _unknown(estimator: str) -> Look:
    number = zlib.crc32(estimator.encode())  # not hash(): that one differs between processes
    color, marker = FALLBACK[number % len(FALLBACK)], MARKERS[number // 8 % len(MARKERS)]
    return Look(estimator, color, DASHES[number // 64 % len(DASHES)], marker)


def _mix(start: str, end: str, place: float) -> str:
    """The colour at ``place`` in [0, 1] on the way from ``start`` to ``end``."""
    channels = ((int(start[i : i + 2], 16), int(end[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + place * (b - a)):02X}" for a, b in channels)


#: Light grey axes with a white grid, as in the paper's figures; type that survives a column's width in print.
STYLE = {
    "figure.facecolor": "white",
    "axes.facecolor": "0.96",
    "axes.edgecolor": "white",
    "axes.linewidth": 0.0,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "white",
    "grid.linewidth": 1.0,
    "grid.linestyle": "-",
    "lines.linewidth": 1.3,
    "lines.markersize": 5.5,
    "lines.solid_capstyle": "round",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.0,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "axes.unicode_minus": True,
    "mathtext.fontset": "dejavusans",
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
}


@contextlib.contextmanager
def house_style() -> Iterator[None]:
    """Draw and save inside this block: the style holds here and nowhere else."""
    import matplotlib

    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]  # its stubs list every key as a literal
        yield
