"""Adam's relatives."""

import optax

import gradtx
from rows.row import Row, matrices_only

_ADAM = {"learning_rate": 0.2, "b1": 0.5, "b2": 0.9, "eps": 1e-2, "eps_root": 1e-2, "mu_dtype": "bfloat16"}


def _yogi(**keywords):
    """Optax's, with the first moment started at zero as in the paper: Optax starts it at 1e-6."""
    tx = optax.yogi(**keywords)

    def init(params):
        moments, *rest = tx.init(params)
        return (moments._replace(mu=optax.tree.zeros_like(moments.mu)), *rest)

    return optax.GradientTransformation(init, tx.update)


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
    Row(
        "radam",
        gradtx.radam,
        optax.radam,
        {
            "learning_rate": 0.2,
            "b1": 0.5,
            "b2": 0.99,
            "eps": 1e-2,
            "eps_root": 1e-2,
            "threshold": 4.5,
            "nesterov": True,
        },
        {"learning_rate": 0.1},
        {name: {"threshold": 4.5} for name in ("b2", "eps", "eps_root")},  # five steps do not reach 5
    ),
    Row(
        "radam_nesterov",
        gradtx.radam,
        optax.radam,
        {"b1": 0.5, "threshold": 4.5},
        {"learning_rate": 0.1, "nesterov": True},
    ),
    Row(
        "adamax",
        gradtx.adamax,
        optax.adamax,
        {"learning_rate": 0.2, "b1": 0.5, "b2": 0.5, "eps": 1e-2},
        {"learning_rate": 0.1},
    ),
    Row(
        "adamaxw",
        gradtx.adamaxw,
        optax.adamaxw,
        {"learning_rate": 0.2, "b1": 0.5, "b2": 0.5, "eps": 1e-2, "weight_decay": 0.2, "mask": matrices_only},
        {"learning_rate": 0.1, "weight_decay": 0.1},
    ),
    Row(
        "adabelief",
        gradtx.adabelief,
        optax.adabelief,
        {"learning_rate": 0.2, "b1": 0.5, "b2": 0.9, "eps": 1e-2, "eps_root": 1e-2, "nesterov": True},
        {"learning_rate": 0.1},
    ),
    Row(
        "yogi",
        gradtx.yogi,
        _yogi,
        {"learning_rate": 0.2, "b1": 0.5, "b2": 0.9, "eps": 1e-2},
        {"learning_rate": 0.1},
    ),
]
