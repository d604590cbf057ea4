"""What the paper shows in Figure 3, as numbers read off it (± 0.03 nats): final values, and one curve on its way.

Lievin, Dittadi, Christensen, Winther, "Optimal Variance Control of the Score Function Gradient Estimator for Importance
Weighted Bounds", NeurIPS 2020, arXiv 2008.01998: Figure 3, log p(x) of the training data, binarized MNIST, mean of
three seeds, smoothed with a Hann window of 15 evaluations.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from ovis.estimators.ids import parse_estimator

__all__ = ["ACCURACY", "CURVES", "FINAL_STEP", "SETTINGS", "published_final"]

#: Optimizer steps at the right edge of both panels.
FINAL_STEP = 4_000_000

#: Error of reading a value, in nats.
ACCURACY = 0.03

#: Panel -> estimator -> the value at :data:`FINAL_STEP` for K = 5, 10, 50.
FINAL = {
    "left": {
        "ovis-S50-exclusive": "-89.25 -88.40 -87.04",
        "ovis-S10-exclusive": "-89.29 -88.35 -86.86",
        "ovis-S1-exclusive": "-89.82 -88.35 -86.96",
        "ovis-gamma1": "-90.13 -88.17 -86.72",
        "ovis-gamma0": "-90.36 -88.62 -87.00",
        "vimco-arithmetic": "-90.37 -88.67 -86.97",
    },
    "right": {
        "ovis-S50-exclusive": "-88.21 -87.57 -86.75",
        "ovis-S10-exclusive": "-88.17 -87.45 -86.63",
        "ovis-S1-exclusive": "-88.37 -87.51 -86.53",
        "ovis-gamma1": "-88.17 -87.55 -86.69",
        "tvo-part2-config1": "-88.80 -87.89 -87.02",
    },
}
IW = (5, 10, 50)

#: Panel -> (estimator, K) -> step -> value.
CURVES = {
    "left": {("ovis-gamma1", 50): {900_000: -88.74, 1_600_000: -87.55, 2_400_000: -87.08, 3_200_000: -86.86}},
    "right": {},
}

#: How the paper trained and evaluated: other runs are another experiment.
SETTINGS: Mapping[str, Hashable] = {
    "dataset": "binmnist",
    "model": "sbm",
    "N": 200,
    "depth": 3,
    "nlayers": 0,
    "optimizer": "adam",
    "lr": 3e-4,
    "bs": 24,
    "iw_test": 5000,
}


def published_final(figure: str) -> dict[tuple[str, int], float]:
    """(canonical estimator, K) -> the published value at :data:`FINAL_STEP`, in nats."""
    return {
        (parse_estimator(estimator).canonical, iw): float(text)
        for estimator, texts in FINAL[figure].items()
        for iw, text in zip(IW, texts.split(), strict=True)
    }
