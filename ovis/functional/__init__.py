"""The mathematics of gradient estimators as pure functions on log-weights: no state, no modules."""

from ovis.functional.control_variates import learning_signal, prefactor
from ovis.functional.log_weights import (
    effective_sample_size,
    iw_bound,
    leave_one_out_log_mean_exp,
    log_mean_exp,
    normalized_weights,
)
from ovis.functional.policy_signals import policy_signal
from ovis.functional.surrogates import doubly_reparameterized_loss, multisample_loss

__all__ = [
    "doubly_reparameterized_loss",
    "effective_sample_size",
    "iw_bound",
    "learning_signal",
    "leave_one_out_log_mean_exp",
    "log_mean_exp",
    "multisample_loss",
    "normalized_weights",
    "policy_signal",
    "prefactor",
]
