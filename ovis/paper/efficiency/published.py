"""What the authors measured of memory and time, read off ``efficiency.png`` of their repository (vlievin/ovis).

One GPU of 2020, the maximum of allocated CUDA memory and the time of an epoch of 2,084 steps, mean of five runs; to
2 %, values with ~ to 5 %. OVIS-MC and the pathwise estimators were not measured.
"""

from __future__ import annotations

from ovis.estimators.ids import parse_estimator

__all__ = ["published_costs"]

IW = (10, 19, 39, 79, 158, 315, 629, 1256, 2506, 5000)

_MEMORY = "12 17.9 31.4 58.7 112 220 432 858 1705 3390"
_TIME = "18.1 20.3 29.3 50.5 94 185 359"  # from K = 79 on

#: Measure -> estimator -> a value for each K; a dash where none can be read.
COSTS = {
    "memory_mb": {
        "ovis-gamma1": _MEMORY,
        "tvo-part2-config1": _MEMORY,
        "reinforce": _MEMORY,
        "vimco-arithmetic": "12 17.9 31.4 58.7 112 220 432 ~1000 ~3200 ~11200",
    },
    "epoch_s": {
        "ovis-gamma1": f"17.9 18.2 18.1 {_TIME}",
        "tvo-part2-config1": "~19.5 ~19.5 ~19.5 ~19.5 20.3 29.3 50.5 94 185 359",
        "reinforce": "~17 ~17 ~17 ~17 20.3 29.3 50.5 94 185 359",
        "vimco-arithmetic": "~19.7 ~19.7 ~19.7 ~19.7 - 32 ~60 ~131 ~333 ~975",
    },
}


def published_costs() -> dict[tuple[str, str, int], float]:
    """(measure, canonical estimator, K) -> the published value, in MB or seconds."""
    return {
        (measure, parse_estimator(estimator).canonical, iw): float(text.lstrip("~"))
        for measure, by_estimator in COSTS.items()
        for estimator, texts in by_estimator.items()
        for iw, text in zip(IW, texts.split(), strict=True)
        if text != "-"
    }
