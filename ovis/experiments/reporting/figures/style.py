"""The look of each estimator in all figures, from its row in :data:`ovis.estimators.ids.ESTIMATORS`.

The hues are Okabe and Ito's, safe for colour-blind readers; related estimators share a hue (OVIS~ gold, OVIS-MC
vermilion to brown, TVO and RWS blue, VIMCO green, REINFORCE and the pathwise bounds grey, STL and DReG purple). Marker
and dashes distinguish them without colour.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ovis.estimators.ids import ESTIMATORS, parse_estimator

__all__ = [
    "DASHES",
    "FALLBACK",
    "MARKERS",
    "Look",
    "estimator_labels",
    "estimator_look",
    "estimator_looks",
    "figure_text",
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

#: Line styles by their names in the table of estimators.
PATTERNS = {
    "solid": SOLID,
    "dashed": DASHED,
    "dotted": DOTTED,
    "dashdot": DASHDOT,
    "long": LONG,
    "dashdotdot": DASHDOTDOT,
    "longshort": LONGSHORT,
    "sparse": SPARSE,
}


@dataclass(frozen=True)
class Look:
    """How a series is drawn.

    Attributes:
        label: text in the legend.
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


#: Colours of what has no line in a table: hues that are not the OVIS family's, which stand out.
FALLBACK = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#7D8B80", "#7F3300", "#44504A")
MARKERS = ("o", "s", "D", "v", "p", "*", "d", "8")


def estimator_look(estimator: str) -> Look:
    """The look of an estimator's id or alias, the same one in every figure.

    An unknown id, and a family without a line in the table, get one derived from the id.
    """
    try:
        known = parse_estimator(estimator)
    except ValueError:
        return _derived(estimator)
    facts = known.facts
    label, line = facts.look(known) if facts.look is not None else (facts.label or known.canonical, facts.line)
    line = facts.lines.get(known.canonical, line)
    if line is None:
        return replace(_derived(known.canonical), label=label)
    return Look(label, line.color, PATTERNS[line.dash], line.marker)


def estimator_looks(estimators: Iterable[str]) -> dict[str, Look]:
    """The looks of several estimators in one figure: equal labels (TVO) get the settings added."""
    looks = {name: estimator_look(name) for name in estimators}
    labels = [look.label for look in looks.values()]
    return {
        name: replace(look, label=f"{look.label} ({name.partition('-')[2] or name})") if repeated else look
        for (name, look), repeated in zip(looks.items(), (labels.count(label) > 1 for label in labels), strict=True)
    }


def estimator_labels(estimators: Iterable[str]) -> list[str]:
    """The label of each of several estimators, as in the legend of a figure of all of them."""
    names = list(map(str, estimators))
    looks = estimator_looks(names)
    return [looks[name].label for name in names]


def style_group(estimator: str) -> int:
    """The column of a grouped legend that an estimator belongs to; unknown ids come last."""
    groups = list(dict.fromkeys(row.legend_group for row in ESTIMATORS.values()))
    try:
        return groups.index(parse_estimator(estimator).facts.legend_group)
    except ValueError:
        return len(groups)


def is_budgeted(estimators: Iterable[str]) -> bool:
    """Whether K counts all particles, auxiliary ones too: if OVIS-MC takes its auxiliary samples from K (inclusive)."""
    for name in estimators:
        try:
            known = parse_estimator(name)
        except ValueError:
            continue
        if known.family == "ovis-S" and not known.config["exclusive"]:
            return True
    return False


def style_order(estimator: str) -> tuple[int, int, str]:
    """A key that sorts estimators as the paper's legends do: by column, then as in the table."""
    known = [name for row in ESTIMATORS.values() for name in (*row.lines, row.family)]
    position = known.index(estimator) if estimator in known else len(known)
    return style_group(estimator), position, estimator


def _derived(estimator: str) -> Look:
    number = zlib.crc32(estimator.encode())  # not hash(): that one differs between processes
    color, marker = FALLBACK[number % len(FALLBACK)], MARKERS[number // 8 % len(MARKERS)]
    return Look(estimator, color, DASHES[number // 64 % len(DASHES)], marker)


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
    """Draw and save inside this block: the style holds here and nowhere else.

    All other settings are matplotlib's defaults, whatever the user's ``matplotlibrc`` says: with ``text.usetex``, for
    example, nothing could be drawn without LaTeX.
    """
    import matplotlib

    settings: dict[Any, Any] = {**matplotlib.rcParamsDefault, **STYLE}
    del settings["backend"]  # the user's own, which draws nothing here
    with matplotlib.rc_context(settings):
        yield


def figure_text(text: str) -> str:
    """Text that matplotlib draws letter by letter: a dollar sign does not begin a formula.

    Control characters, which matplotlib can't write into every format, become replacement characters.
    """
    visible = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return visible.replace("$", r"\$")
