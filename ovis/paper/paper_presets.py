"""The metrics, figures and axes that report.py shows of the paper's experiments by default: Figures 2, 3 and 4.

Figures of Lievin, Dittadi, Christensen, Winther, NeurIPS 2020, https://arxiv.org/abs/2008.01998. To change what
Figure 2 shows, change the preset of ``gaussian-mixture-model``; :mod:`ovis.experiments.reporting.figures.pivots` draws
it.
"""

from __future__ import annotations

from dataclasses import replace

from ovis.experiments.reporting.presets import Preset
from ovis.paper.claims.paper_verdicts import TRAINING_CLAIMS, base_name, training_verdicts
from ovis.paper.figure3.figure3_plot import panel_figures

__all__ = ["PRESETS", "find_preset"]


BOUNDS = ("test:loss/L_k", "train:loss/L_k", "train:loss/kl_q_p", "train:grads/snr")
BUDGET = Preset(
    metrics=BOUNDS,
    pivot_metrics=("max:train:loss/L_k", "last:train:loss/kl_q_p", "mean:train:loss/ess"),
)

PRESETS = {
    # Figure 2
    "gaussian-mixture-model": Preset(
        metrics=("test:gmm/posterior_mse", "test:gmm/prior_mse", "train:grads/variance", "train:grads/snr"),
        detailed_metrics=(
            *("test:gmm/posterior_mse", "test:gmm/prior_mse"),
            *("train:loss/ess", "train:grads/variance", "train:grads/snr"),
        ),
        pivot_metrics=("min:test:gmm/posterior_mse", "min:test:gmm/prior_mse", "mean:train:grads/snr"),
    ),
    # the tables behind Figure 3, and Figure 3 itself
    "sigmoid-belief-network": Preset(
        metrics=BOUNDS,
        detailed_metrics=(
            *("test:loss/L_k", "train:loss/L_k", "train:loss/kl_q_p", "train:loss/kl"),
            *("train:loss/ess", "train:active_units/au", "train:grads/snr"),
        ),
        pivot_metrics=(
            *("max:test:loss/L_k", "max:train:loss/L_k", "last:train:loss/kl_q_p"),
            *("last:train:loss/ess", "last:train:active_units/au"),
        ),
        ylims=("test:loss/L_k:-94:-88", "train:loss/L_k:-93:-86"),
        figures=panel_figures,
    ),
    # Figure 4
    "gaussian-vae": Preset(
        metrics=BOUNDS,
        detailed_metrics=("train:loss/L_k", "train:loss/kl_q_p"),
        pivot_metrics=(
            *("max:train:loss/L_k", "last:train:loss/kl_q_p"),
            *("mean:train:loss/ess", "mean:train:grads/snr"),
        ),
    ),
    # the budget figures of the appendix
    "budget-analysis": BUDGET,
    "budget-analysis-sbm": BUDGET,
    "gaussian-toy": Preset(
        metrics=("test:gaussian_toy/mse_A", "test:gaussian_toy/mse_b", "train:grads/variance", "train:grads/snr"),
        pivot_metrics=("last:test:gaussian_toy/mse_A", "last:test:gaussian_toy/mse_b", "mean:train:grads/snr"),
    ),
    "mini-vae": Preset(
        metrics=BOUNDS,
        pivot_metrics=(
            *("max:test:loss/L_k", "max:train:loss/L_k"),
            *("last:train:loss/kl_q_p", "mean:train:loss/ess"),
        ),
    ),
}


def find_preset(exp: str) -> Preset | None:
    """The preset of an experiment of the paper; None: the paper has no such experiment.

    Of one in small (``-mini``) or of a part (``-excerpt``) it has no limits of axes: those are of the full experiment's
    numbers.
    """
    whole = base_name(exp)
    if whole not in PRESETS:
        return None
    preset = PRESETS[whole] if exp == whole else replace(PRESETS[whole], ylims=())
    return replace(preset, verdicts=training_verdicts) if whole in TRAINING_CLAIMS else preset
