"""Optimizers that use the gradient's sign."""

import optax

import gradtx
from rows.row import Row, matrices_only

SAME_SIGN = "rounding a momentum to 16 bits changes its sign only where it nearly vanishes"

ROWS = [
    Row("sign_sgd", gradtx.sign_sgd, optax.sign_sgd, {"learning_rate": 0.2}, {"learning_rate": 0.1}),
    Row(
        "signum",
        gradtx.signum,
        optax.signum,
        {"learning_rate": 0.2, "beta": 0.5, "accumulator_dtype": "bfloat16"},
        {"learning_rate": 0.1},
        hidden={"accumulator_dtype": SAME_SIGN},
    ),
    Row(
        "lion",
        gradtx.lion,
        optax.lion,
        {
            "learning_rate": 0.2,
            "b1": 0.1,
            "b2": 0.5,
            "mu_dtype": "bfloat16",
            "weight_decay": 0.2,
            "mask": matrices_only,
        },
        {"learning_rate": 0.1, "weight_decay": 0.1},
        hidden={"mu_dtype": SAME_SIGN},
    ),
    Row(
        "rprop",
        gradtx.rprop,
        None,  # Optax 0.2.8 applies every update one step late; torch.optim.Rprop is what it is compared to
        {"learning_rate": 0.2, "eta_minus": 0.25, "eta_plus": 2.0, "min_step_size": 0.09, "max_step_size": 0.11},
        {"learning_rate": 0.1},
        no_complex="complex numbers have no sign",
    ),
]
