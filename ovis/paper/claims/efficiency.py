"""What the paper says of memory and time."""

from __future__ import annotations

from ovis.experiments.reporting.verdict import Claim, Stated
from ovis.paper.claims.cost_checks import Alike, Costs, Grows, Linear

__all__ = ["STATED"]

FIGURE = "Efficiency"
MEMORY, TIME = "memory_mb", "epoch_s"
GAMMA1, REINFORCE, TVO, VIMCO = "ovis-gamma1", "reinforce", "tvo-part2-config1-left", "vimco-arithmetic"

STATED: tuple[Stated[Costs], ...] = (
    Stated(
        Claim(
            "cost-memory",
            FIGURE,
            "OVIS~ (γ=1) needs as much memory as REINFORCE and TVO: within a factor of 1.1 at the largest K.",
            "figure of the computational efficiency, left",
            "3390 MB each at K = 5000",
        ),
        (Alike(MEMORY, GAMMA1, (REINFORCE, TVO), 1.1),),
    ),
    Stated(
        Claim(
            "cost-time",
            FIGURE,
            "OVIS~ (γ=1) needs as much time as REINFORCE and TVO: within a factor of 1.25 at the largest K.",
            "figure of the computational efficiency, right",
            "359 s each at K = 5000",
        ),
        (Alike(TIME, GAMMA1, (REINFORCE, TVO), 1.25),),
    ),
    Stated(
        Claim(
            "cost-linear",
            FIGURE,
            "Memory and time of OVIS~ (γ=1) grow no faster than K: exponent below 1.15 between the two largest K.",
            "figure of the computational efficiency",
            "exponents .99 (memory), .96 (time)",
        ),
        (Linear(MEMORY, (GAMMA1,), 0.15), Linear(TIME, (GAMMA1,), 0.15)),
    ),
    Stated(
        Claim(
            "cost-vimco-quadratic",
            FIGURE,
            "Memory and time of VIMCO come to grow as K²: exponents above 1.4 between the two largest K. (True of the "
            "authors' code, which compares all pairs of particles; VIMCO needs O(K) only, and ours does.)",
            "figure of the computational efficiency",
            "exponents 1.8 (memory), 1.6 (time); 3.3 times the memory and 2.7 times the time of γ=1 at K = 5000",
        ),
        (Grows(MEMORY, (VIMCO,), 1.4), Grows(TIME, (VIMCO,), 1.4)),
    ),
)
