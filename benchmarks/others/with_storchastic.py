"""storchastic: its score function, on L_K and on the ELBO.

A method averages the gradients of the samples in its plate, so K samples in a plate and a cost that joins them (the
bound) give 1/K of the score function's part: ``plate``. Right is one sample of all K particles at once: ``joint``. Its
leave-one-out baseline is for costs of one sample each, i.e. for the ELBO: ``elbo``.
"""

from __future__ import annotations

import math

import storch
from sbn import SBN, Subject, log_bernoulli
from storch.method import ScoreFunction
from torch import Tensor
from torch.distributions import Bernoulli


def make(name: str, model: SBN) -> Subject:
    """``joint``, ``plate`` or ``elbo``."""

    @storch.deterministic
    def log_weights(z: Tensor, logits: Tensor, x: Tensor) -> Tensor:
        log_p = log_bernoulli(z, model.prior) + log_bernoulli(x, model.decode(z))
        return log_p - log_bernoulli(z, logits)

    @storch.deterministic(l_broadcast=False)  # else x gets its missing dimension at the right
    def minus_bound(z: Tensor, logits: Tensor, x: Tensor) -> Tensor:  # z, logits [B, K, units], x [B, pixels]
        return -(log_weights(z, logits, x.unsqueeze(1)).logsumexp(-1) - math.log(z.shape[-2]))

    def backward(x: Tensor, iw: int) -> None:
        data = storch.denote_independent(x, 0, "data")
        logits = storch.deterministic(model.encode)(data)
        if name == "joint":
            logits = storch.deterministic(lambda each: each.unsqueeze(1).expand(-1, iw, -1))(logits)
            z = ScoreFunction("z", n_samples=1)(Bernoulli(logits=logits))
            cost = minus_bound(z, logits, data)
        else:
            baseline = "batch_average" if name == "elbo" else None
            z = ScoreFunction("z", n_samples=iw, baseline_factory=baseline)(Bernoulli(logits=logits))
            cost = -log_weights(z, logits, data)
            if name == "plate":
                cost = -(storch.logsumexp(-cost, "z") - math.log(iw))
        storch.add_cost(cost, "minus the bound")
        storch.backward()

    return Subject(model.q_parameters() + model.p_parameters(), backward)
