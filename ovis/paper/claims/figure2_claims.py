"""The paper's claims about the Gaussian mixture model (Figure 2)."""

from __future__ import annotations

from ovis.paper.claims.compare import Comparison, Configuration, PaperClaim

__all__ = ["FIGURE2"]

POSTERIOR = "min:test:gmm/posterior_mse"
PRIOR = "min:test:gmm/prior_mse"
SNR = "mean:train:grads/snr"

GAMMA1, GAMMA0 = Configuration("ovis-gamma1"), Configuration("ovis-gamma0")
S1, S10, S50 = (Configuration(f"ovis-S{s}-exclusive") for s in (1, 10, 50))
VIMCO, REINFORCE, RWS, TVO = (
    Configuration(name) for name in ("vimco-arithmetic", "reinforce", "wake-wake", "tvo-part5-beta2-left")
)

OVIS = (GAMMA1, GAMMA0, S1, S10, S50)
SHARP = (GAMMA1, S1, S10, S50)
OTHERS = (RWS, TVO, VIMCO, REINFORCE)

FIGURE2: tuple[PaperClaim, ...] = (
    PaperClaim(
        "gmm-posterior-best",
        "Figure 2",
        "For K of 10 and more, OVIS~ (γ=1) and OVIS-MC learn the posterior best: each has a lower L2 error than "
        "OVIS~ (γ=0), RWS, TVO, VIMCO and REINFORCE.",
        "Figure 2, left panel",
        "γ=1 .0125/.0126, S=10 .0125/.0157, S=50 .0124/.0132, γ=0 .0230/.0226, RWS .030/.024 at K = 10/20",
        (Comparison(POSTERIOR, SHARP, "better than", (GAMMA0, *OTHERS), at=(10, 20)),),
    ),
    PaperClaim(
        "gmm-posterior-tie",
        "Figure 2",
        "For K of 10 and more, OVIS~ (γ=1) and OVIS-MC learn the posterior equally well: within a factor of 1.35 "
        "of each other.",
        "Figure 2, left panel",
        "γ=1 .0125/.0126, S=1 .0136 at K = 10, S=10 .0125/.0157, S=50 .0124/.0132 at K = 10/20",
        (Comparison(POSTERIOR, (S1, S10, S50), "within", (GAMMA1,), by=1.35, at=(10, 20)),),
    ),
    PaperClaim(
        "gmm-two-particles",
        "Figure 2",
        "With K = 2 nobody learns the posterior: every L2 error is above 0.4.",
        "Figure 2, left panel",
        "γ=0 .553 ... RWS .85",
        (Comparison(POSTERIOR, (*OVIS, *OTHERS), "above", 0.4, at=(2,)),),
    ),
    PaperClaim(
        "gmm-vimco-prior-only",
        "Figure 2",
        "For K of 10 and more, VIMCO learns the prior (L2 error below 0.01) but not the posterior (above 0.1).",
        "Figure 2",
        "prior .0027/.0027, posterior .226/.276 at K = 10/20",
        (
            Comparison(PRIOR, (VIMCO,), "below", 0.01, at=(10, 20)),
            Comparison(POSTERIOR, (VIMCO,), "above", 0.1, at=(10, 20)),
        ),
    ),
    PaperClaim(
        "gmm-reinforce-neither",
        "Figure 2",
        "For K of 10 and more, REINFORCE learns neither prior (L2 error above 0.01) nor posterior (above 0.1).",
        "Figure 2",
        "prior .0377/.0322, posterior .593/.662 at K = 10/20",
        (
            Comparison(PRIOR, (REINFORCE,), "above", 0.01, at=(10, 20)),
            Comparison(POSTERIOR, (REINFORCE,), "above", 0.1, at=(10, 20)),
        ),
    ),
    PaperClaim(
        "gmm-tvo-catches-up",
        "Figure 2",
        "TVO catches up at K = 20 only: its posterior error is more than twice that of OVIS~ (γ=0) at K = 5 and "
        "10, and less than twice at K = 20.",
        "Figure 2, left panel",
        "TVO .402/.182/.0362, γ=0 .102/.0230/.0226 at K = 5/10/20",
        (
            Comparison(POSTERIOR, (GAMMA0,), "better than", (TVO,), at=(5, 10), by=2.0),
            Comparison(POSTERIOR, (TVO,), "better than", (GAMMA0,), at=(20,), by=0.5),
        ),
    ),
    PaperClaim(
        "gmm-snr-rises",
        "Figure 2",
        "The gradient's SNR, averaged over the training, rises with K for every OVIS: it is larger at the largest "
        "K than at the smallest.",
        "Figure 2, right panel; abstract",
        "K = 2 to 20: γ=0 .404 to 1.06, γ=1 .626 to 2.31, S=50 .67 to 2.81",
        (Comparison(SNR, OVIS, "rises with K"),),
    ),
    PaperClaim(
        "gmm-snr-falls",
        "Figure 2",
        "The gradient's SNR falls with K for VIMCO and REINFORCE: it is smaller at the largest K than at the smallest.",
        "Figure 2, right panel",
        "K = 2 to 20: VIMCO .201 to .161, REINFORCE .0890 to .0428",
        (Comparison(SNR, (VIMCO, REINFORCE), "falls with K"),),
    ),
    PaperClaim(
        "gmm-snr-order",
        "Figure 2",
        "At K = 20 every OVIS has a larger SNR than RWS, TVO, VIMCO and REINFORCE.",
        "Figure 2, right panel",
        "S=50 2.81, γ=1 2.31, S=1 2.17, γ=0 1.06; RWS .677, TVO .454, VIMCO .161, REINFORCE .0428",
        (Comparison(SNR, OVIS, "better than", OTHERS, at=(20,)),),
    ),
    PaperClaim(
        "gmm-variance",
        "Figure 2",
        "At the end of the training with K = 20, every OVIS has a lower gradient variance than VIMCO, and VIMCO "
        "than REINFORCE.",
        "abstract; detailed figure of the Gaussian mixture",
        "MC and γ=0 4e-4, γ=1 7e-3, VIMCO .1, REINFORCE 40",
        (
            Comparison("last:train:grads/variance", OVIS, "better than", (VIMCO,), at=(20,)),
            Comparison("last:train:grads/variance", (VIMCO,), "better than", (REINFORCE,), at=(20,)),
        ),
    ),
    PaperClaim(
        "gmm-ess",
        "Figure 2",
        "The effective sample size goes to K = 20 for OVIS, RWS and TVO (final ESS above 0.9 K), but not for VIMCO "
        "and REINFORCE (below 0.85 K).",
        "detailed figure of the Gaussian mixture",
        "VIMCO 15, REINFORCE 4.1 at K = 20",
        (
            Comparison("last:train:loss/ess", (*OVIS, RWS, TVO), "above", 0.9, at=(20,), per_particle=True),
            Comparison("last:train:loss/ess", (VIMCO, REINFORCE), "below", 0.85, at=(20,), per_particle=True),
        ),
    ),
    PaperClaim(
        "gmm-gamma-ess",
        "section on γ",
        "γ = 0 is for an effective sample size near K, γ = 1 for one near 1: where the final ESS of OVIS~ (γ=0) is "
        "above 0.9 K (K = 10 and 20), its gradient has less variance than that of OVIS~ (γ=1).",
        "limits of the control variate; detailed figure of the Gaussian mixture",
        "final variance at K = 20: γ=0 4e-4, γ=1 7e-3",
        (
            Comparison("last:train:loss/ess", (GAMMA0,), "above", 0.9, at=(10, 20), per_particle=True),
            Comparison("last:train:grads/variance", (GAMMA0,), "better than", (GAMMA1,), at=(10, 20)),
        ),
    ),
)
