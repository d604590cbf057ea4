"""The paper's claims about gradients as K grows (Figure 1). Slopes are those between the two largest K."""

from __future__ import annotations

from ovis.paper.claims.compare import Comparison, Configuration, PaperClaim

__all__ = ["FIGURE1"]

GAMMA0, GAMMA1, S1, S10, S50, IWAE, VIMCO, REINFORCE, STL, DREG = map(
    Configuration,
    (
        *("ovis-gamma0", "ovis-gamma1", "ovis-S1-exclusive", "ovis-S10-exclusive", "ovis-S50-exclusive"),
        *("pathwise-iwae", "vimco-arithmetic", "reinforce", "stl", "dreg"),
    ),
)

UNBIASED = (GAMMA0, S1, S10, S50)

FIGURE1: tuple[PaperClaim, ...] = (
    PaperClaim(
        "snr-ovis-grows",
        "Figure 1",
        "The SNR of OVIS grows with K: its slope over log K is positive.",
        "abstract; Figure 1",
        "+.25 to +.33",
        (Comparison("slope of snr", UNBIASED, "above", 0.0),),
    ),
    PaperClaim(
        "snr-ovis-sqrt",
        "Figure 1",
        "The SNR of OVIS grows as √K: its slope is 0.5 ± 0.1. (In the limit of large K; K = 1000 is not yet large "
        "for this toy.)",
        "abstract",
        "theory +.5; the paper's own points +.25 to +.33",
        (Comparison("slope of snr", UNBIASED, "within", 0.5, by=0.1),),
    ),
    PaperClaim(
        "snr-pathwise-falls",
        "Figure 1",
        "The SNR of the pathwise IWAE falls as 1/√K: its slope is -0.5 ± 0.1.",
        "abstract; Figure 1",
        "theory -.5; the paper's points -.49",
        (Comparison("slope of snr", (IWAE,), "within", -0.5, by=0.1),),
    ),
    PaperClaim(
        "snr-vimco-falls",
        "Figure 1",
        "The SNR of VIMCO falls as 1/√K: its slope is -0.5 ± 0.1.",
        "Figure 1",
        "theory -.5; the paper's points -.52",
        (Comparison("slope of snr", (VIMCO,), "within", -0.5, by=0.1),),
    ),
    PaperClaim(
        "snr-one-sample",
        "Figure 1",
        "One auxiliary sample is enough: the SNR of OVIS-MC (S=1) grows with K, and is no less than 0.7 times that "
        "of S = 50 at K = 1000.",
        "public review; Figure 1",
        "S=1 13.0, S=50 13.7 at K = 1000",
        (
            Comparison("slope of snr", (S1,), "above", 0.0),
            Comparison("snr", (S1,), "above", (S50,), by=0.7, at=(1000,)),
        ),
    ),
    PaperClaim(
        "snr-gamma0-best",
        "Figure 1",
        "At K = 1000, OVIS~ (γ=0) has the largest SNR: above OVIS-MC, VIMCO and the pathwise IWAE.",
        "Figure 1",
        "γ=0 15.7, S=10 and S=50 13.7, S=1 13.0, VIMCO .113, IWAE .090",
        (Comparison("snr", (GAMMA0,), "above", (S1, S10, S50, VIMCO, IWAE), at=(1000,)),),
    ),
    PaperClaim(
        "variance-order",
        "Figure 1",
        "The variance of OVIS falls faster than that of VIMCO and of the pathwise IWAE, by a power of K or more.",
        "Figure 1; theory -3 against -1",
        "between the last two K: γ=0 -2.7, S=10 and S=50 -2.5, VIMCO and IWAE -1.0",
        (
            Comparison("slope of variance", (VIMCO,), "above", UNBIASED, by=1.0),
            Comparison("slope of variance", (IWAE,), "above", UNBIASED, by=1.0),
        ),
    ),
    PaperClaim(
        "variance-ratio",
        "Figure 1",
        "At K = 1000 the variance of OVIS is 1,000 times and more below that of VIMCO and of the pathwise IWAE.",
        "Figure 1",
        "IWAE 3.7e-6, VIMCO 2.4e-6, γ=0 1.2e-10, S=10 and S=50 1.3e-10",
        (
            Comparison("variance", (VIMCO,), "above", UNBIASED, by=1000.0, at=(1000,)),
            Comparison("variance", (IWAE,), "above", UNBIASED, by=1000.0, at=(1000,)),
        ),
    ),
    PaperClaim(
        "variance-vimco",
        "Figure 1",
        "OVIS has less variance than VIMCO at every K.",
        "abstract; Figure 1",
        "K = 3: VIMCO 7.7e-4, γ=0 2.2e-4, S=10 1.3e-4",
        (Comparison("variance", (VIMCO,), "above", UNBIASED, at="every K"),),
    ),
    PaperClaim(
        "variance-slow",
        "Figure 1",
        "The variance of VIMCO and of the pathwise IWAE falls as 1/K: slope -1 ± 0.15.",
        "Figure 1",
        "between the last two K: VIMCO and IWAE -1.0",
        (Comparison("slope of variance", (VIMCO, IWAE), "within", -1.0, by=0.15),),
    ),
    PaperClaim(
        "snr-dreg",
        "Figure 1 (extended)",
        "The doubly reparameterized gradient repairs the pathwise one: the SNR of DReG grows as √K (slope 0.5 ± 0.1).",
        "introduction",
        "+.48 (with an error in log q)",
        (Comparison("slope of snr", (DREG,), "within", 0.5, by=0.1),),
    ),
    PaperClaim(
        "snr-biased",
        "Figure 1 (extended)",
        "OVIS~ (γ=1) and STL have an SNR that grows as √K (slope 0.5 ± 0.1), of another direction: their mean does "
        "not vanish (slope of |E g| 0 ± 0.1), while that of OVIS~ (γ=0) goes as 1/K (-1 ± 0.15).",
        "extended figure of the asymptotic gradients",
        "SNR +.50 (γ=1), |E g| .0854 at every K",
        (
            Comparison("slope of snr", (GAMMA1, STL), "within", 0.5, by=0.1),
            Comparison("slope of magnitude", (GAMMA1, STL), "within", 0.0, by=0.1),
            Comparison("slope of magnitude", (GAMMA0,), "within", -1.0, by=0.15),
        ),
    ),
    PaperClaim(
        "mean-unbiased",
        "Figure 1 (extended)",
        "At K = 3, OVIS-MC, OVIS~ (γ=0), VIMCO and DReG have the mean of the pathwise IWAE (|E g| within a factor "
        "of 1.1), OVIS~ (γ=1) and STL have another one (more than 1.2 times it).",
        "extended figure of the asymptotic gradients",
        "K = 3: γ=0 and IWAE .0350, γ=1 .0817, STL .062",
        (
            Comparison("magnitude", (*UNBIASED, VIMCO, DREG), "within", (IWAE,), by=1.1, at=(3,)),
            Comparison("magnitude", (GAMMA1, STL), "above", (IWAE,), by=1.2, at=(3,)),
        ),
    ),
    PaperClaim(
        "variance-reinforce",
        "Figure 1 (extended)",
        "Without a control variate the variance rises as K: slope of REINFORCE +1 ± 0.15.",
        "theory",
        "theory +1",
        (Comparison("slope of variance", (REINFORCE,), "within", 1.0, by=0.15),),
    ),
)
