"""What the paper says of gradients as K grows (Figure 1). Slopes are those between the two largest K."""

from __future__ import annotations

from ovis.experiments.reporting.verdict import Claim, Stated
from ovis.paper.claims.gradient_checks import Gradients, Larger, Near, Same, Steeper

__all__ = ["STATED"]

FIGURE = "Figure 1"

GAMMA0, GAMMA1, S1, S10, S50 = (
    "ovis-gamma0",
    "ovis-gamma1",
    "ovis-S1-exclusive",
    "ovis-S10-exclusive",
    "ovis-S50-exclusive",
)
IWAE, VIMCO, REINFORCE, STL, DREG = ("pathwise-iwae", "vimco-arithmetic", "reinforce", "stl", "dreg")

UNBIASED = (GAMMA0, S1, S10, S50)

STATED: tuple[Stated[Gradients], ...] = (
    Stated(
        Claim(
            "snr-ovis-grows",
            FIGURE,
            "The SNR of OVIS grows with K: its slope over log K is positive.",
            "abstract; Figure 1",
            "+.25 to +.33",
        ),
        (Steeper("snr", UNBIASED),),
    ),
    Stated(
        Claim(
            "snr-ovis-sqrt",
            FIGURE,
            "The SNR of OVIS grows as √K: its slope is 0.5 ± 0.1. (In the limit of large K; K = 1000 is not yet large "
            "for this toy.)",
            "abstract",
            "theory +.5; the paper's own points +.25 to +.33",
        ),
        (Near("snr", UNBIASED, 0.5, 0.1),),
    ),
    Stated(
        Claim(
            "snr-pathwise-falls",
            FIGURE,
            "The SNR of the pathwise IWAE falls as 1/√K: its slope is -0.5 ± 0.1.",
            "abstract; Figure 1",
            "theory -.5; the paper's points -.49",
        ),
        (Near("snr", (IWAE,), -0.5, 0.1),),
    ),
    Stated(
        Claim(
            "snr-vimco-falls",
            FIGURE,
            "The SNR of VIMCO falls as 1/√K: its slope is -0.5 ± 0.1.",
            "Figure 1",
            "theory -.5; the paper's points -.52",
        ),
        (Near("snr", (VIMCO,), -0.5, 0.1),),
    ),
    Stated(
        Claim(
            "snr-one-sample",
            FIGURE,
            "One auxiliary sample is enough: the SNR of OVIS-MC (S=1) grows with K, and is no less than 0.7 times that "
            "of S = 50 at K = 1000.",
            "public review; Figure 1",
            "S=1 13.0, S=50 13.7 at K = 1000",
        ),
        (Steeper("snr", (S1,)), Larger("snr", (S1,), (S50,), (1000,), by=0.7)),
    ),
    Stated(
        Claim(
            "snr-gamma0-best",
            FIGURE,
            "At K = 1000, OVIS~ (γ=0) has the largest SNR: above OVIS-MC, VIMCO and the pathwise IWAE.",
            "Figure 1",
            "γ=0 15.7, S=10 and S=50 13.7, S=1 13.0, VIMCO .113, IWAE .090",
        ),
        (Larger("snr", (GAMMA0,), (S1, S10, S50, VIMCO, IWAE), (1000,)),),
    ),
    Stated(
        Claim(
            "variance-order",
            FIGURE,
            "The variance of OVIS falls faster than that of VIMCO and of the pathwise IWAE, by a power of K or more.",
            "Figure 1; theory -3 against -1",
            "between the last two K: γ=0 -2.7, S=10 and S=50 -2.5, VIMCO and IWAE -1.0",
        ),
        (Steeper("variance", (VIMCO, IWAE), UNBIASED, by=1.0),),
    ),
    Stated(
        Claim(
            "variance-ratio",
            FIGURE,
            "At K = 1000 the variance of OVIS is 1,000 times and more below that of VIMCO and of the pathwise IWAE.",
            "Figure 1",
            "IWAE 3.7e-6, VIMCO 2.4e-6, γ=0 1.2e-10, S=10 and S=50 1.3e-10",
        ),
        (Larger("variance", (VIMCO, IWAE), UNBIASED, (1000,), by=1000.0),),
    ),
    Stated(
        Claim(
            "variance-vimco",
            FIGURE,
            "OVIS has less variance than VIMCO at every K.",
            "abstract; Figure 1",
            "K = 3: VIMCO 7.7e-4, γ=0 2.2e-4, S=10 1.3e-4",
        ),
        (Larger("variance", (VIMCO,), UNBIASED),),
    ),
    Stated(
        Claim(
            "variance-slow",
            FIGURE,
            "The variance of VIMCO and of the pathwise IWAE falls as 1/K: slope -1 ± 0.15.",
            "Figure 1",
            "between the last two K: VIMCO and IWAE -1.0",
        ),
        (Near("variance", (VIMCO, IWAE), -1.0, 0.15),),
    ),
    Stated(
        Claim(
            "snr-dreg",
            "Figure 1 (extended)",
            "The doubly reparameterized gradient repairs the pathwise one: the SNR of DReG grows as √K (slope 0.5 ± "
            "0.1).",
            "introduction",
            "+.48 (with an error in log q)",
        ),
        (Near("snr", (DREG,), 0.5, 0.1),),
    ),
    Stated(
        Claim(
            "snr-biased",
            "Figure 1 (extended)",
            "OVIS~ (γ=1) and STL have an SNR that grows as √K (slope 0.5 ± 0.1), of another direction: their mean does "
            "not vanish (slope of |E g| 0 ± 0.1), while that of OVIS~ (γ=0) goes as 1/K (-1 ± 0.15).",
            "extended figure of the asymptotic gradients",
            "SNR +.50 (γ=1), |E g| .0854 at every K",
        ),
        (
            Near("snr", (GAMMA1, STL), 0.5, 0.1),
            Near("magnitude", (GAMMA1, STL), 0.0, 0.1),
            Near("magnitude", (GAMMA0,), -1.0, 0.15),
        ),
    ),
    Stated(
        Claim(
            "mean-unbiased",
            "Figure 1 (extended)",
            "At K = 3, OVIS-MC, OVIS~ (γ=0), VIMCO and DReG have the mean of the pathwise IWAE (|E g| within a factor "
            "of 1.1), OVIS~ (γ=1) and STL have another one (more than 1.2 times it).",
            "extended figure of the asymptotic gradients",
            "K = 3: γ=0 and IWAE .0350, γ=1 .0817, STL .062",
        ),
        (
            Same("magnitude", (*UNBIASED, VIMCO, DREG), IWAE, 3, within=1.1),
            Larger("magnitude", (GAMMA1, STL), (IWAE,), (3,), by=1.2),
        ),
    ),
    Stated(
        Claim(
            "variance-reinforce",
            "Figure 1 (extended)",
            "Without a control variate the variance rises as K: slope of REINFORCE +1 ± 0.15.",
            "theory",
            "theory +1",
        ),
        (Near("variance", (REINFORCE,), 1.0, 0.15),),
    ),
)
