"""Small runs of every kind, each with evaluations, gradient analysis and a learning rate that is halved."""

from __future__ import annotations

from typing import Any

COMMON = {"eval_freq": 1, "lr": 1e-2, "max_eval": 40, "iw_valid": 5, "iw_test": 5, "iw": 4, "grad_samples": 3}

#: By name; the first three are of the normal tests.
CASES: dict[str, dict[str, Any]] = {
    # 9 batches an epoch and 50 points that are left over; alpha's warm-up ends in mid-run
    "digits": {
        **COMMON,
        **{"dataset": "digits", "model": "sbm", "N": 8, "depth": 2, "nlayers": 0, "estimator": "ovis-gamma1"},
        **{"bs": 150, "epochs": 3, "warmup": 15, "lr_reduce_steps": 2, "mc_au_analysis": 20, "npoints_au_analysis": 30},
    },
    # fresh data at each step; a neural baseline with an optimizer group of its own; the last epoch is not whole
    "gmm": {
        **COMMON,
        **{"dataset": "gmm", "N": 20, "hdim": 16, "grad_key": "phi", "estimator": "reinforce-baseline"},
        **{"mini": True, "bs": 28, "nsteps": 27, "lr_reduce_steps": 1},
    },
    "gaussian-toy": {
        **COMMON,
        **{"dataset": "gaussian-toy", "N": 3, "grad_key": "A,b", "estimator": "dreg", "optimizer": "adamax"},
        **{"bs": 100, "nsteps": 27, "lr_reduce_steps": 3, "seed": 7},
    },
    # random numbers in the layers, and running statistics that are no parameters
    "dropout": {
        **COMMON,
        **{"dataset": "digits", "model": "vae", "nlayers": 1, "hdim": 16, "N": 4, "estimator": "tvo-part2-config1"},
        **{"dropout": 0.3, "normalization": "batchnorm", "bs": 150, "epochs": 3, "optimizer": "rmsprop"},
        **{"grad_samples": 0},
    },
    "relaxed": {
        **COMMON,
        **{"dataset": "digits", "model": "conv-vae", "prior": "categorical", "tau": 0.5, "N": 4, "estimator": "iwae"},
        **{"bs": 150, "epochs": 3, "warmup": 10, "warmup_mode": "sigmoid", "alpha_init": 0.5},
    },
    "wake-sleep": {
        **COMMON,
        **{"dataset": "digits", "model": "sbm", "N": 8, "depth": 2, "nlayers": 0, "estimator": "wake-sleep"},
        **{"bs": 150, "epochs": 3, "only_train_set": True, "optimizer": "sgd", "lr_reduce_steps": 2},
    },
    "auxiliary": {
        **COMMON,
        **{"dataset": "digits", "model": "sbm", "N": 8, "depth": 2, "nlayers": 0, "estimator": "ovis-S2-exclusive"},
        **{"bs": 150, "epochs": 3, "warmup": 20, "warmup_offset": 5, "mc": 2, "beta": 0.9},
    },
}

#: The first evaluation stays the best one.
CASES["still"] = {**CASES["digits"], "lr": 0.0}

#: Steps far too long: the second evaluation, of three, is the best one on either held-out set, by more than 100 nats.
CASES["overshoot"] = {
    **{**CASES["digits"], "optimizer": "sgd", "lr": 30.0, "seed": 3, "estimator": "vimco"},
    **{"lr_reduce_steps": 0, "grad_samples": 0},
}
