"""Sharpness-aware minimization."""

import optax

import gradtx
from rows.row import Row
from rows.sequences import DIFFERENCE


def _sam(learning_rate, rho, **keywords):
    climb = gradtx.chain(gradtx.normalize(), gradtx.sgd(rho, momentum=0.9))
    return gradtx.chain(gradtx.sam(gradtx.sgd(learning_rate, momentum=0.9), climb, **keywords))


def _optax_sam(learning_rate, rho, **keywords):
    climb = optax.chain(optax.contrib.normalize(), optax.sgd(rho, momentum=0.9))
    return optax.contrib.sam(optax.sgd(learning_rate, momentum=0.9), climb, **keywords)


PRIMITIVES = [Row("normalize", gradtx.normalize, optax.contrib.normalize, {}, joint=True)]
OPTIMIZERS = [
    Row(
        "sam",
        _sam,
        _optax_sam,
        {"learning_rate": 0.2, "rho": 0.2, "sync_period": 5, "reset_state": False},
        {"learning_rate": 0.1, "rho": 0.05, "sync_period": 2},
        {"learning_rate": {"sync_period": 5}, "reset_state": {"sync_period": 3}},
        joint=True,
        to_parameter=DIFFERENCE,
        steps_of_three=1,
    ),
]
