"""pyro-ppl: RenyiELBO (alpha = 0, the importance-weighted bound), TraceTMC_ELBO and TraceGraph_ELBO, vectorized.

Without its validation, which costs time, and without SVI, whose optimizer is one per parameter: the same fused Adam
steps for all contenders.
"""

from __future__ import annotations

import pyro
from pyro.distributions import Bernoulli
from pyro.infer import RenyiELBO, TraceGraph_ELBO, TraceTMC_ELBO
from sbn import SBN, Subject
from torch import Tensor

KINDS = {"RenyiELBO": RenyiELBO, "TraceGraph_ELBO": TraceGraph_ELBO}


def make(name: str, sbn: SBN) -> Subject:
    """A name of ``KINDS``, or ``TraceTMC_ELBO``, which takes its K samples at the site."""
    pyro.enable_validation(False)

    def model(x: Tensor, **infer: object) -> None:
        pyro.module("sbn", sbn)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", Bernoulli(logits=sbn.prior).expand([len(x), len(sbn.prior)]).to_event(1))
            pyro.sample("x", Bernoulli(logits=sbn.decode(z)).to_event(1), obs=x)

    def guide(x: Tensor, **infer: object) -> None:
        pyro.module("sbn", sbn)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", Bernoulli(logits=sbn.encode(x)).to_event(1), infer=infer)

    def backward(x: Tensor, iw: int) -> None:
        if name == "TraceTMC_ELBO":
            tmc = TraceTMC_ELBO(max_plate_nesting=1)
            tmc.loss_and_grads(model, guide, x, enumerate="parallel", num_samples=iw, expand=True)
        else:
            bound = KINDS[name](num_particles=iw, max_plate_nesting=1, vectorize_particles=True)
            bound.loss_and_grads(model, guide, x)

    return Subject(sbn.q_parameters() + sbn.p_parameters(), backward, over_data="sum")
