"""The published numbers that our results are compared with: one CSV file per figure in this folder.

They were read off the figures of the paper (Lievin, Dittadi, Christensen, Winther, NeurIPS 2020,
https://arxiv.org/abs/2008.01998) and of the authors' repository, https://github.com/vlievin/ovis.

``figure1.csv``
    statistics of the gradient; ``source``: Figure 1, or the extended or the mini figure of the repository; ``accuracy``
    is the relative error of reading a point, larger where it lies behind another marker
``figure2.csv``
    Gaussian mixture, mean of ten seeds; ``approximate``: read with a larger error
``figure3.csv``
    log p(x) of the training data in nats, to 0.03 nats; binarized MNIST, mean of three seeds, smoothed with a Hann
    window of 15 evaluations; at the last step, and one curve at earlier steps
``efficiency.csv``
    memory (MB) and time of an epoch of 2,084 steps (s), mean of five runs on one GPU of 2020, to 2 % to 5 %
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

__all__ = ["read_published"]


def read_published(figure: str) -> pd.DataFrame:
    """The published numbers of a figure, one row each, in the column ``published``.

    Args:
        figure: ``figure1``, ``figure2``, ``figure3`` or ``efficiency``. Estimators are canonical ids.
    """
    return pd.read_csv(Path(__file__).with_name(f"{figure}.csv"))
