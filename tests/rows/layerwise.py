"""Optimizers that look at the norm of a layer."""

import optax

import gradtx
from rows.row import Row, matrices_only

ROWS = [
    Row(
        "lars",
        gradtx.lars,
        optax.lars,
        {
            "learning_rate": 0.2,
            "weight_decay": 0.2,
            "weight_decay_mask": matrices_only,
            "trust_coefficient": 0.01,
            "eps": 0.1,
            "trust_ratio_mask": matrices_only,
            "momentum": 0.5,
            "nesterov": True,
        },
        {"learning_rate": 0.1, "weight_decay": 0.1},
    ),
    Row(
        "lamb",
        gradtx.lamb,
        optax.lamb,
        {
            "learning_rate": 0.2,
            "b1": 0.5,
            "b2": 0.9,
            "eps": 1e-2,
            "eps_root": 1e-2,
            "weight_decay": 0.2,
            "mask": matrices_only,
        },
        {"learning_rate": 0.1, "weight_decay": 0.1},
    ),
    Row("fromage", gradtx.fromage, optax.fromage, {"learning_rate": 0.2, "min_norm": 2.0}, {"learning_rate": 0.01}),
]
