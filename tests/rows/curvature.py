"""Optimizers that estimate curvature, here as a multiple of the gradient: the tests have no loss."""

import optax

import gradtx
from rows.row import Row, matrices_only


def _sophia(curvature=0.5, **keywords):
    return gradtx.sophia(hessian_diagonal_fn=gradtx.scale(curvature), **keywords)


def _optax_sophia(curvature=0.5, **keywords):
    return optax.contrib.sophia(hessian_diagonal_fn=optax.scale(curvature), **keywords)


ROWS = [
    Row(
        "sophia",
        _sophia,
        _optax_sophia,
        {
            "learning_rate": 0.2,
            "b1": 0.5,
            "b2": 0.9,
            "eps": 0.2,
            "weight_decay": 0.2,
            "weight_decay_mask": matrices_only,
            "gamma": 1.0,
            "clip_threshold": 2.0,
            "update_interval": 3,
            "curvature": 1.0,
            "mu_dtype": "bfloat16",
        },
        {
            "learning_rate": 0.1,
            "b2": 0.5,
            "eps": 0.1,
            "weight_decay": 0.1,
            "gamma": 2.0,
            "clip_threshold": 5.0,
            "update_interval": 2,
        },
        no_complex="a curvature has an order",
        steps_of_three=2,
    ),
]
