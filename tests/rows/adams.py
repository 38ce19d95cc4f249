"""Adam's relatives."""

import optax

import gradtx
from rows.row import Row, matrices_only

_ADAM = {"learning_rate": 0.2, "b1": 0.5, "b2": 0.9, "eps": 1e-2, "eps_root": 1e-2, "mu_dtype": "bfloat16"}

ROWS = [
    Row(
        "amsgrad",
        gradtx.amsgrad,
        optax.amsgrad,
        {**_ADAM, "bias_correction_mu": False, "bias_correction_nu": False},
        {"learning_rate": 0.1},
    ),
    Row(
        "amsgrad_raw",
        gradtx.amsgrad,
        optax.amsgrad,
        {"b1": 0.5, "bias_correction_mu": True, "bias_correction_nu": True},
        {"learning_rate": 0.1, "bias_correction_mu": False, "bias_correction_nu": False},
    ),
    Row("nadam", gradtx.nadam, optax.nadam, {**_ADAM, "nesterov": False}, {"learning_rate": 0.1}),
    Row(
        "nadamw",
        gradtx.nadamw,
        optax.nadamw,
        {**_ADAM, "weight_decay": 0.2, "mask": matrices_only, "nesterov": False},
        {"learning_rate": 0.1, "weight_decay": 0.1},
    ),
]
