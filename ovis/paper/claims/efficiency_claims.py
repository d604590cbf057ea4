"""The paper's claims about memory and time."""

from __future__ import annotations

from ovis.paper.claims.compare import Comparison, Configuration, PaperClaim

__all__ = ["EFFICIENCY"]

MEMORY, TIME = "memory_mb", "epoch_s"
GAMMA1, REINFORCE, TVO, VIMCO = map(
    Configuration, ("ovis-gamma1", "reinforce", "tvo-part2-config1-left", "vimco-arithmetic")
)

EFFICIENCY: tuple[PaperClaim, ...] = (
    PaperClaim(
        "cost-memory",
        "Efficiency",
        "OVIS~ (γ=1) needs as much memory as REINFORCE and TVO: within a factor of 1.1 at the largest K.",
        "figure of the computational efficiency, left",
        "3390 MB each at K = 5000",
        (Comparison(MEMORY, (GAMMA1,), "within", (REINFORCE, TVO), by=1.1, at="largest common K"),),
    ),
    PaperClaim(
        "cost-time",
        "Efficiency",
        "OVIS~ (γ=1) needs as much time as REINFORCE and TVO: within a factor of 1.25 at the largest K.",
        "figure of the computational efficiency, right",
        "359 s each at K = 5000",
        (Comparison(TIME, (GAMMA1,), "within", (REINFORCE, TVO), by=1.25, at="largest common K"),),
    ),
    PaperClaim(
        "cost-linear",
        "Efficiency",
        "Memory and time of OVIS~ (γ=1) grow no faster than K: exponent below 1.15 between the two largest K.",
        "figure of the computational efficiency",
        "exponents .99 (memory), .96 (time)",
        (
            Comparison(f"exponent of {MEMORY}", (GAMMA1,), "below", 1.15),
            Comparison(f"exponent of {TIME}", (GAMMA1,), "below", 1.15),
        ),
    ),
    PaperClaim(
        "cost-vimco-quadratic",
        "Efficiency",
        "Memory and time of VIMCO come to grow as K²: exponents above 1.4 between the two largest K. (True of the "
        "authors' code, which compares all pairs of particles; VIMCO needs O(K) only, and ours does.)",
        "figure of the computational efficiency",
        "exponents 1.8 (memory), 1.6 (time); 3.3 times the memory and 2.7 times the time of γ=1 at K = 5000",
        (
            Comparison(f"exponent of {MEMORY}", (VIMCO,), "above", 1.4),
            Comparison(f"exponent of {TIME}", (VIMCO,), "above", 1.4),
        ),
    ),
)
