"""Optimizers for noisy losses."""

import optax
from reference.polyak import VALUE

import gradtx
from rows.row import Row


def _with_value(tx):
    return optax.GradientTransformationExtraArgs(
        tx.init, lambda u, s, p=None, *, value=VALUE: tx.update(u, s, p, value=value)
    )


OPTIMIZERS = [
    Row(
        "polyak_sgd",
        gradtx.polyak_sgd,
        lambda **kw: _with_value(optax.polyak_sgd(**kw)),
        {"max_learning_rate": 0.01, "scaling": 0.5, "f_min": 1.0, "eps": 1.0, "variant": "sps+"},
        needs={"variant": {"f_min": VALUE + 1}},
        keywords={"value": VALUE},
        joint=True,
    ),
]
PRIMITIVES = [  # noise has no oracle: test_stochastic.py looks at its distribution
    Row(
        "noisy_sgd",
        gradtx.noisy_sgd,
        None,
        {"learning_rate": 0.2, "eta": 0.1, "gamma": 2.0, "key": 1, "seed": 2},
        {"learning_rate": 0.1},
        noise="noise does not vanish with the gradient",
    ),
    Row(
        "add_noise",
        gradtx.add_noise,
        None,
        {"eta": 0.1, "gamma": 2.0, "key": 1, "seed": 2},
        {"eta": 0.5, "gamma": 0.5},
        noise="noise does not vanish with the gradient",
    ),
]
