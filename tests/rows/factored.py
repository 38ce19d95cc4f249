"""Optimizers that keep the second moment of a matrix in less than a matrix."""

import jax
import jax.numpy as jnp
import optax

import gradtx
from rows.row import Row, matrices_only


def _decay(step, exponent):
    return 1 - jnp.asarray(step + 1, float) ** -exponent  # Optax's own is float32 in float64, too


def _optax_adafactor(  # Optax's adafactor with that decay; test_factored.py has the original
    learning_rate,
    min_dim_size_to_factor=128,
    weight_decay_rate=None,
    weight_decay_mask=None,
):
    return optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=min_dim_size_to_factor, decay_rate_fn=_decay),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_learning_rate(learning_rate, flip_sign=False),
        optax.scale_by_param_block_rms(),
        optax.add_decayed_weights(weight_decay_rate or 0.0, weight_decay_mask),
        optax.scale(-1),
    )


def _flat_without_axes(tx):
    """Optax's SM3 knows neither scalars nor empty matrices: both become vectors."""

    def flat(tree):
        return jax.tree.map(lambda x: x if x.ndim and x.size else x.reshape(-1), tree)

    def update(updates, state, params=None):
        new, state = tx.update(flat(updates), state, params)
        return jax.tree.map(lambda u, g: u.reshape(g.shape), new, updates), state

    return optax.GradientTransformation(lambda params: tx.init(flat(params)), update)


OPTIMIZERS = [
    Row(
        "adafactor",
        gradtx.adafactor,
        _optax_adafactor,
        {
            "learning_rate": 0.2,
            "min_dim_size_to_factor": 5,
            "decay_rate": 0.5,
            "decay_offset": 2,
            "multiply_by_parameter_scale": False,
            "clipping_threshold": 0.5,
            "momentum": 0.5,
            "dtype_momentum": "bfloat16",
            "weight_decay_rate": 0.1,
            "eps": 1e-2,
            "factored": False,
            "weight_decay_mask": matrices_only,
        },
        {"learning_rate": 0.1, "min_dim_size_to_factor": 3},
        {"dtype_momentum": {"momentum": 0.9}, "weight_decay_mask": {"weight_decay_rate": 0.1}},
        shape=(3, 4),
    ),
    Row(
        "novograd",
        gradtx.novograd,
        optax.novograd,
        {"learning_rate": 0.2, "b1": 0.5, "b2": 0.9, "eps": 1e-2, "eps_root": 1e-2, "weight_decay": 0.2},
        {"learning_rate": 0.1, "weight_decay": 0.1},
    ),
    Row(
        "sm3",
        gradtx.sm3,
        lambda **kw: _flat_without_axes(optax.sm3(**kw)),
        {"learning_rate": 0.2, "momentum": 0.5},
        {"learning_rate": 0.1},
        no_complex="Optax refuses them",
        shape=(3, 4),
    ),
]
PRIMITIVES = [
    Row(
        "scale_by_factored_rms",
        gradtx.scale_by_factored_rms,
        lambda **kw: optax.scale_by_factored_rms(**{"decay_rate_fn": _decay, **kw}),
        {
            "factored": False,
            "decay_rate": 0.5,
            "min_dim_size_to_factor": 5,
            "epsilon": 1e-2,
        },
        {"min_dim_size_to_factor": 3},
    ),
    Row(
        "scale_by_sm3",
        gradtx.scale_by_sm3,
        lambda **kw: _flat_without_axes(optax.scale_by_sm3(**kw)),
        {"b1": 0.5, "b2": 0.9, "eps": 1e-2},
        no_complex="Optax refuses them",
    ),
]
