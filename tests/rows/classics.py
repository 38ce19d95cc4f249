"""From SGD to AdamW."""

import optax

import gradtx
from rows.row import Row, matrices_only

ROWS = [
    Row("ema", gradtx.ema, optax.ema, {"decay": 0.5, "debias": False, "accumulator_dtype": "bfloat16"}, {"decay": 0.9}),
    Row("sgd", gradtx.sgd, optax.sgd, {"learning_rate": 0.2}, {"learning_rate": 0.1}),
    Row(
        "sgd_momentum",
        gradtx.sgd,
        optax.sgd,
        {"learning_rate": 0.2, "momentum": 0.5, "nesterov": True, "accumulator_dtype": "bfloat16"},
        {"learning_rate": 0.1, "momentum": 0.9},
    ),
    Row(
        "sgd_nesterov",
        gradtx.sgd,
        optax.sgd,
        {"momentum": 0.5},
        {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
    ),
    Row(
        "sgd_ema",
        gradtx.sgd,
        lambda learning_rate, momentum, ema, nesterov=False: optax.chain(
            optax.ema(momentum, debias=False), optax.sgd(learning_rate)
        ),
        {"learning_rate": 0.2, "momentum": 0.5, "nesterov": True, "ema": False},
        {"learning_rate": 0.1, "momentum": 0.9, "ema": True},
    ),
    Row(
        "adagrad",
        gradtx.adagrad,
        optax.adagrad,
        {"learning_rate": 0.2, "initial_accumulator_value": 0.5, "eps": 1e-2},
        {"learning_rate": 0.1},
    ),
    Row(
        "adadelta",
        gradtx.adadelta,
        optax.adadelta,
        {"learning_rate": 0.2, "rho": 0.5, "eps": 1e-2, "weight_decay": 0.2, "weight_decay_mask": matrices_only},
        {"learning_rate": 0.1, "weight_decay": 0.1},
        no_complex="Optax squares complex gradients without their modulus",
    ),
    Row(
        "optimistic_gradient_descent",
        gradtx.optimistic_gradient_descent,
        optax.optimistic_gradient_descent,
        {"learning_rate": 0.2, "alpha": 0.5, "beta": 0.5},
        {"learning_rate": 0.1},
    ),
    Row(
        "rmsprop",
        gradtx.rmsprop,
        optax.rmsprop,
        {
            "learning_rate": 0.2,
            "decay": 0.5,
            "eps": 1e-2,
            "initial_scale": 0.5,
            "eps_in_sqrt": False,
            "centered": True,
            "momentum": 0.5,
            "nesterov": True,
            "bias_correction": True,
        },
        {"learning_rate": 0.1},
        {"nesterov": {"momentum": 0.9}, "eps_in_sqrt": {"eps": 1e-2}},
    ),
    Row(
        "rmsprop_centered_momentum",
        gradtx.rmsprop,
        optax.rmsprop,
        {"decay": 0.5, "eps": 1e-2, "initial_scale": 0.5, "momentum": 0.5, "bias_correction": True},
        {"learning_rate": 0.1, "centered": True, "momentum": 0.9, "eps": 1e-4},
    ),
    Row(
        "adam",
        gradtx.adam,
        optax.adam,
        {
            "learning_rate": 0.2,
            "b1": 0.5,
            "b2": 0.9,
            "eps": 1e-2,
            "eps_root": 1e-2,
            "mu_dtype": "bfloat16",
            "nesterov": True,
        },
        {"learning_rate": 0.1},
    ),
    Row("adam_nesterov", gradtx.adam, optax.adam, {"b1": 0.5, "eps": 1e-2}, {"learning_rate": 0.1, "nesterov": True}),
    Row(
        "adamw",
        gradtx.adamw,
        lambda schedule=None, **kw: optax.adamw(**kw),
        {
            "learning_rate": 0.2,
            "b1": 0.5,
            "b2": 0.9,
            "eps": 1e-2,
            "eps_root": 1e-2,
            "mu_dtype": "bfloat16",
            "weight_decay": 0.2,
            "mask": matrices_only,
            "nesterov": True,
            "schedule": 0.5,
        },
        {"learning_rate": 0.1, "weight_decay": 0.1},
    ),
    Row(
        "adam_l2",
        lambda l2, learning_rate: gradtx.chain(gradtx.add_decayed_weights(l2), gradtx.adam(learning_rate)),
        lambda l2, learning_rate: optax.chain(optax.add_decayed_weights(l2), optax.adam(learning_rate)),
        {"l2": 0.3, "learning_rate": 0.2},
        {"l2": 0.1, "learning_rate": 0.1},
    ),
]
