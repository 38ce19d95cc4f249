"""Stages that round parameters, behind the shortest optimizer."""

import jax.numpy as jnp

import gradtx
from rows.row import Row


def _behind_sgd(stage):
    return lambda learning_rate=0.1, **kw: gradtx.chain(gradtx.sgd(learning_rate), stage(**kw))


def _row(name, stage, arguments, **base):
    return Row(name, _behind_sgd(stage), None, {"learning_rate": 0.2, **arguments}, base, dtype=jnp.bfloat16)


ROWS = [
    _row("stochastic_rounding", gradtx.stochastic_rounding, {"seed": 1}),
    _row("compensated", gradtx.compensated, {"dtype": "float32"}),
    _row("master_weights", gradtx.master_weights, {"bits": 24}),
    _row("master_weights_32", gradtx.master_weights, {"bits": None}, bits=32),
    _row("master_weights_24", gradtx.master_weights, {"bits": 32}, bits=24),
]
