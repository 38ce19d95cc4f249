"""Optimizers that estimate their learning rate."""

import optax

import gradtx
from rows.row import Row

ROWS = [
    Row(
        "prodigy",
        gradtx.prodigy,
        optax.contrib.prodigy,
        {
            "learning_rate": 0.5,
            "betas": (0.5, 0.9),
            "beta3": 0.5,
            "eps": 1e-2,
            "estim_lr0": 1e-3,
            "estim_lr_coef": 0.5,
            "weight_decay": 0.1,
            "safeguard_warmup": True,
        },
        no_complex="Optax's estimate of the distance is complex there",
        joint=True,
        walks=True,
    ),
]
