"""Optimizers of matrices."""

import jax
import optax

import gradtx
from rows.row import Row


def nowhere(params):
    return jax.tree.map(lambda p: False, params)


def _optax_muon(muon_weight_dimension_numbers=None, **keywords):
    def axes(params):  # Optax divides by the rows of an empty matrix
        return jax.tree.map(lambda p: optax.contrib.MuonDimensionNumbers() if p.ndim == 2 and p.size else None, params)

    return optax.contrib.muon(muon_weight_dimension_numbers=axes, **keywords)


OPTIMIZERS = [
    Row(
        "muon",
        gradtx.muon,
        _optax_muon,
        {
            "learning_rate": 0.2,
            "ns_coeffs": "dion",
            "ns_steps": 3,
            "beta": 0.5,
            "eps": 0.5,
            "weight_decay": 0.2,
            "weight_decay_mask": nowhere,
            "mu_dtype": "bfloat16",
            "nesterov": False,
            "adaptive": True,
            "preconditioning": "schatten",
            "adam_b1": 0.5,
            "adam_b2": 0.9,
            "adam_eps_root": 1e-2,
            "adam_weight_decay": 0.2,
            "adam_learning_rate": 0.2,
            "muon_weight_dimension_numbers": {},
            "consistent_rms": 0.2,
            "adam_paths": ("**/matrix",),
            "ns_dtype": "bfloat16",
        },
        {"learning_rate": 0.1},
        {"weight_decay_mask": {"weight_decay": 0.1}},
        shape=(3, 4),
        mixes=True,
    ),
    Row(
        "soap",
        gradtx.soap,
        None,
        {
            "learning_rate": 0.2,
            "b1": 0.5,
            "b2": 0.8,
            "shampoo_beta": 0.5,
            "eps": 0.5,
            "weight_decay": 0.2,
            "precondition_frequency": 2,
            "max_precond_dim": 3,
            "mask": nowhere,
            "mu_dtype": "bfloat16",
            "dimension_numbers": {},
            "adam_paths": ("**/matrix",),
            "precondition_1d": True,
        },
        {"learning_rate": 0.1},
        {"shampoo_beta": {"precondition_frequency": 2}},
        shape=(3, 4),
        mixes=True,
    ),
    Row(
        "kron",
        gradtx.kron,
        None,
        {
            "learning_rate": 0.2,
            "b1": 0.5,
            "weight_decay": 0.2,
            "weight_decay_mask": nowhere,
            "preconditioner_update_probability": 0.3,
            "max_size_triangular": 3,
            "min_ndim_triangular": 3,
            "memory_save_mode": "one_diag",
            "momentum_into_precond_update": False,
            "precond_lr": 0.2,
            "precond_init_scale": 0.5,
            "mu_dtype": "bfloat16",
            "seed": 1,
            "dimension_numbers": {},
        },
        {"learning_rate": 0.1},
        {"weight_decay_mask": {"weight_decay": 0.1}},
        shape=(3, 4),
        mixes=True,
    ),
]
PRIMITIVES = [
    Row(
        "orthogonalize",
        lambda **kw: gradtx.by_path({gradtx.matrices(): gradtx.orthogonalize(**kw), "**": "frozen"}),
        None,
        {
            "ns_coeffs": ((3.0, -3.0, 1.0), (2.0, -1.5, 0.5)),
            "ns_steps": 3,
            "eps": 0.5,
            "preconditioning": "aol",
            "dtype": "bfloat16",
        },
    ),
    Row(
        "to_eigenbasis",
        lambda **kw: gradtx.chain(
            gradtx.to_eigenbasis(**kw), gradtx.ema_second_moment(0.9), gradtx.scale_by_rms(), gradtx.from_eigenbasis()
        ),
        None,
        {
            "beta": 0.5,
            "every": 2,
            "max_dim": 3,
            "mask": nowhere,
            "merge": True,
        },
        needs={"beta": {"every": 1}},
    ),
    Row(
        "scale_by_kron",
        gradtx.scale_by_kron,
        None,
        {
            "update_probability": 0.3,
            "max_size_triangular": 3,
            "min_ndim_triangular": 3,
            "memory_save_mode": "all_diag",
            "precond_lr": 0.2,
            "precond_init_scale": 0.5,
            "seed": 1,
            "vectors": True,
        },
    ),
]
