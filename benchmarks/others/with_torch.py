"""The textbook VIMCO, K x K, and the matrix products alone."""

from __future__ import annotations

import math

import torch
from sbn import SBN, Subject, log_bernoulli
from torch import Tensor


def make(name: str, model: SBN) -> Subject:
    """``vimco`` or ``floor``."""
    if name == "floor":
        return Subject([], Products(model))

    def backward(x: Tensor, iw: int) -> None:
        logits = model.encode(x)
        z = torch.bernoulli(logits.detach().sigmoid().expand(iw, *logits.shape))
        log_p = log_bernoulli(z, model.prior) + log_bernoulli(x, model.decode(z))
        vimco(log_p.t(), log_bernoulli(z, logits).t()).mean().backward()

    return Subject(model.q_parameters() + model.p_parameters(), backward)


def vimco(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Loss [B] of log-densities [B, K], as equations 5 to 8 of Mnih & Rezende (2016) stand there."""
    log_w = log_p - log_q
    iw = log_w.shape[1]
    bound = log_w.logsumexp(1) - math.log(iw)
    with torch.no_grad():
        others = (log_w.sum(1, keepdim=True) - log_w) / (iw - 1)  # the geometric mean of the others
        replaced = torch.where(torch.eye(iw, dtype=torch.bool), others[:, :, None], log_w[:, None, :])  # [B, K, K]
        signal = bound[:, None] - (replaced.logsumexp(2) - math.log(iw))
    return -(bound + (signal * log_q).sum(1))


class Products:
    """The products of one step: forward, and the weights' gradients (discrete samples need none of the inputs)."""

    def __init__(self, model: SBN):
        self.first, self.last = model.encoder.weight.detach(), model.decoder.weight.detach()
        self.inputs: list[Tensor] = []

    def __call__(self, x: Tensor, iw: int) -> None:
        rows = len(x) * iw
        if not self.inputs or len(self.inputs[1]) != rows:
            units, pixels = self.first.shape
            self.inputs = [torch.rand(len(x), units), torch.rand(rows, units), torch.rand(rows, pixels)]
        grad_first, h, grad_last = self.inputs
        x @ self.first.t(), grad_first.t() @ x  # q(z|x): once per datum
        h @ self.last.t(), grad_last.t() @ h  # p(x|z)
