"""Optimizers that keep a second sequence of parameters."""

import jax
import jax.numpy as jnp
import optax

import gradtx
from rows.row import Row


def _lookahead(learning_rate, sync_period, slow_step_size, reset_state=False):
    fast = gradtx.sgd(learning_rate, momentum=0.9)
    return gradtx.lookahead(fast, sync_period, slow_step_size, reset_state)


def _optax_lookahead(learning_rate, **keywords):
    """Optax's pair of parameters in the state, as here."""
    tx = optax.lookahead(optax.sgd(learning_rate, momentum=0.9), **keywords)

    def init(params):
        return tx.init(optax.LookaheadParams.init_synced(params)), params

    def update(updates, state, params):
        inner, slow = state
        updates, inner = tx.update(updates, inner, optax.LookaheadParams(fast=params, slow=slow))
        return updates.fast, (inner, jax.tree.map(jnp.add, slow, updates.slow))

    return optax.GradientTransformation(init, update)


DIFFERENCE = "an update leads from the parameter to a point kept in float32: it is the difference of the two"

ROWS = [
    Row(
        "lookahead",
        _lookahead,
        _optax_lookahead,
        {"learning_rate": 0.2, "sync_period": 5, "slow_step_size": 0.2, "reset_state": True},
        {"learning_rate": 0.1, "sync_period": 2, "slow_step_size": 0.5},
        {"slow_step_size": {"sync_period": 5}},
        to_parameter=DIFFERENCE,
    ),
]
