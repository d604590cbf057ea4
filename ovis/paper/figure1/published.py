"""What the paper shows of the asymptotic study, as numbers: read off its figures, and its theory.

Lievin, Dittadi, Christensen, Winther, "Optimal Variance Control of the Score Function Gradient Estimator for Importance
Weighted Bounds", NeurIPS 2020, arXiv 2008.01998: Figure 1, and two figures of the authors' repository, vlievin/ovis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from ovis.estimators.ids import parse_estimator

__all__ = ["FLAWED", "SETTINGS", "SOURCES", "Source", "published_table", "theory_slope"]


@dataclass(frozen=True)
class Source:
    """A published figure.

    Attributes:
        title: what it is called in tables.
        file: in the authors' repository.
        npoints: data points of its toy.
        iw: the K of its points.
        accuracy: relative error of reading its points; of those behind other markers (``~``): :data:`HIDDEN`.
        values: statistic -> estimator -> one value for each K.
    """

    title: str
    file: str
    npoints: int
    iw: tuple[int, ...]
    accuracy: float
    values: Mapping[str, Mapping[str, str]]


#: Relative error of a point that lies behind another marker.
HIDDEN = 0.05

SOURCES = {
    "figure1": Source(
        title="Figure 1",
        file=".assets/ovis-image.png",
        npoints=1024,
        iw=(3, 12, 54, 234, 1000),
        accuracy=0.04,
        values={
            "snr": {
                "ovis-S50-exclusive": "3.25 4.4 6.5 9.5 13.7",  # the markers of S=50 and S=10 coincide
                "ovis-S10-exclusive": "3.25 4.4 6.5 9.5 13.7",
                "ovis-S1-exclusive": "2.4 3.6 5.4 8.0 13.0",
                "ovis-gamma0": "2.4 4.1 6.3 9.8 15.7",
                "vimco-arithmetic": "1.37 .87 .47 .24 .113",
                "pathwise-iwae": "1.27 .72 .37 .183 .090",
            },
            "variance": {
                "ovis-S50-exclusive": "1.3e-4 6.9e-6 1.9e-7 5e-9 1.3e-10",
                "ovis-S10-exclusive": "1.3e-4 6.9e-6 1.9e-7 5e-9 1.3e-10",
                "ovis-gamma0": "2.2e-4 8.5e-6 2.6e-7 6e-9 1.2e-10",
                "vimco-arithmetic": "7.7e-4 1.8e-4 4.1e-5 1.05e-5 2.4e-6",
                "pathwise-iwae": "7.7e-4 2.7e-4 6.9e-5 1.6e-5 3.7e-6",
            },
        },
    ),
    "extended": Source(
        title="extended figure",
        file=".assets/asymptotic-gradients-extended.png",
        npoints=1024,
        iw=(3, 12, 54, 234, 1000),
        accuracy=0.02,
        values={
            "snr": {
                "ovis-gamma0": "2.19 3.83 5.67 8.13 12.5",
                "ovis-gamma1": "3.16 6.62 13.6 28.1 57.9",
                "pathwise-iwae": "1.25 .723 .367 .186 .0889",
                "stl": "4.75 7.84 16.4 33.8 69.7",
                "dreg": "~3.4 ~4 ~7 13.3 26.7",
            },
            "dsnr": {
                "ovis-gamma0": "3.06 5.58 8.79 14.6 25.2",
                "ovis-gamma1": "4.45 9.27 19.3 39.7 81.7",
                "pathwise-iwae": "1.73 .998 .519 .304 .230",
                "stl": "6.5 10.8 22.8 46.9 96.5",
                "dreg": "~5 ~5.8 ~9 ~18 36.9",
            },
            "variance": {
                "ovis-gamma0": "~2.6e-4 8.87e-6 2.70e-7 7.28e-9 1.75e-10",
                "ovis-gamma1": "~6e-4 1.65e-4 3.9e-5 9.0e-6 2.3e-6",
                "pathwise-iwae": "7.79e-4 2.60e-4 6.57e-5 1.60e-5 3.89e-6",
                "stl": "~2e-4 5.3e-5 1.29e-5 3.0e-6 7.1e-7",
                "dreg": "7.8e-5 5.0e-6 1.1e-7 1.5e-9 2.1e-11",
            },
            "magnitude": {
                "ovis-gamma0": ".0350 .0116 .00299 7.49e-4 1.74e-4",
                "pathwise-iwae": ".0350 .0116 .00299 7.49e-4 1.74e-4",
                "ovis-gamma1": ".0817 .0842 .0854 .0854 .0854",
                "stl": "~.062 .057 .0545 .0537 .0537",
                "dreg": ".026 .0086 .0022 5.3e-4 1.22e-4",
            },
        },
    ),
    "mini": Source(
        title="mini figure",
        file=".assets/asymptotic-gradients.png",
        npoints=100,
        iw=(3, 17, 100),
        accuracy=0.02,
        values={
            "snr": {"ovis-gamma0": ".738 1.47 2.40", "pathwise-iwae": ".413 .200 .0881"},
            "variance": {"ovis-gamma0": "2.35e-3 3.27e-5 4.35e-7", "pathwise-iwae": "7.9e-3 1.9e-3 3.7e-4"},
            "magnitude": {"ovis-gamma0": "~.035 ~.0087 ~.0018", "pathwise-iwae": "~.035 ~.0087 ~.0018"},
        },
    ),
}

#: The toy of all these figures; what differs in one of these is not compared.
SETTINGS = {"D": 20, "epsilon": 0.01, "q_scale": "std", "key_filter": "b"}

#: Estimators whose published values are wrong, and why.
FLAWED = dict.fromkeys(("stl", "dreg"), "the original rebuilds q without its scale: log q with std 1 in place of 2/3")

#: Exponents of K, as K grows, of the SNR, the variance and |E g| (alpha = 0), by id or family. Unbiased estimators of
#: grad L_K have |E g| ~ 1/K; the others follow another gradient, which does not vanish.
SLOPES = {
    "ovis-gamma0": (0.5, -3.0, -1.0),
    "ovis-gamma": (0.5, -1.0, 0.0),
    "ovis-S": (0.5, -3.0, -1.0),
    "vimco-arithmetic": (-0.5, -1.0, -1.0),
    "vimco-geometric": (-0.5, -1.0, -1.0),
    "reinforce": (-1.5, 1.0, -1.0),
    "pathwise-iwae": (-0.5, -1.0, -1.0),
    "stl": (0.5, -1.0, 0.0),
    "dreg": (0.5, -3.0, -1.0),
    "wake-wake": (0.5, -1.0, 0.0),
    "pathwise-vae": (0.5, -1.0, 0.0),
    "tvo": (0.5, -1.0, 0.0),
}


def theory_slope(estimator: str, statistic: str) -> float:
    """The exponent of K as K grows, by the paper's theory; NaN where it says nothing.

    The DSNR goes as the SNR, while it is not as small as noise makes it.
    """
    try:
        known = parse_estimator(estimator)
    except ValueError:  # of another version
        return math.nan
    found = SLOPES.get(known.canonical, SLOPES.get(known.family))
    place = {"snr": 0, "dsnr": 0, "variance": 1, "magnitude": 2}[statistic]
    return found[place] if found else math.nan


def published_table() -> pd.DataFrame:
    """Columns ``source, npoints, estimator, statistic, iw, published, accuracy`` (relative error of the reading)."""
    rows = [
        {
            "source": name,
            "npoints": source.npoints,
            "estimator": estimator,
            "statistic": statistic,
            "iw": iw,
            "published": float(text.lstrip("~")),
            "accuracy": HIDDEN if text.startswith("~") else source.accuracy,
        }
        for name, source in SOURCES.items()
        for statistic, by_estimator in source.values.items()
        for estimator, texts in by_estimator.items()
        for iw, text in zip(source.iw, texts.split(), strict=True)
    ]
    return pd.DataFrame(rows)
