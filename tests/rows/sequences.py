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


def _around_adamw(learning_rate, **keywords):
    return gradtx.schedule_free(gradtx.adamw(learning_rate, b1=0.0, weight_decay=0.1), learning_rate, **keywords)


def _optax_around_adamw(learning_rate, **keywords):
    """Optax evaluates the schedule of the weights one step ahead of that of the updates."""
    behind = (lambda count: learning_rate(count - 1)) if callable(learning_rate) else learning_rate
    base = optax.adamw(learning_rate, b1=0.0, weight_decay=0.1)
    return optax.contrib.schedule_free(base, behind, **keywords)


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
    Row(
        "schedule_free",
        _around_adamw,
        _optax_around_adamw,
        {"learning_rate": 0.2, "b1": 0.5, "weight_lr_power": 0.0, "state_dtype": "bfloat16"},
        {"learning_rate": gradtx.schedules.linear_schedule(0.0, 0.1, 4)},
        to_parameter=DIFFERENCE,
    ),
    Row(
        "schedule_free_sgd",
        gradtx.schedule_free_sgd,
        optax.contrib.schedule_free_sgd,
        {
            "learning_rate": 0.2,
            "warmup_steps": 3,
            "b1": 0.5,
            "weight_decay": 0.1,
            "weight_lr_power": 1.0,
            "state_dtype": "bfloat16",
        },
        {"learning_rate": 0.1},
        {"weight_lr_power": {"warmup_steps": 5}},
        to_parameter=DIFFERENCE,
    ),
    Row(
        "schedule_free_adamw",
        gradtx.schedule_free_adamw,
        optax.contrib.schedule_free_adamw,
        {
            "learning_rate": 0.2,
            "warmup_steps": 3,
            "b1": 0.5,
            "b2": 0.9,
            "eps": 1e-2,
            "weight_decay": 0.1,
            "weight_lr_power": 1.0,
            "state_dtype": "bfloat16",
        },
        {"learning_rate": 0.1},
        {"weight_lr_power": {"warmup_steps": 5}},
        to_parameter=DIFFERENCE,
    ),
]
