"""THE table: every primitive and optimizer, as the contract tests and the cross-checks see it.

To add an optimizer, add a row; the contracts of test_contracts.py then hold it to everything the others keep.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import optax

import gradtx


@dataclasses.dataclass(frozen=True)
class Row:
    """One transformation.

    Attributes:
        name: unique, and the pytest id.
        make: builds it; keyword arguments override the defaults below.
        optax: builds Optax's same transformation from the same keywords, or None where it has none.
        arguments: every argument with a value that must make a difference to 5 steps (the sensitivity test).
        base: the keywords of the ordinary instance.
        needs: keyword arguments that an argument's sensitivity presupposes: `{argument: {other: value}}`.
    """

    name: str
    make: Callable[..., Any]
    optax: Callable[..., Any] | None
    arguments: dict[str, Any]
    base: dict[str, Any] = dataclasses.field(default_factory=dict)
    needs: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def build(self, **changes: Any) -> Any:
        """The transformation with some arguments changed."""
        return self.make(**{**self.base, **changes})

    def build_optax(self, **changes: Any) -> Any:
        """Optax's transformation with the same arguments."""
        assert self.optax is not None
        return self.optax(**{**self.base, **changes})


def _even_names(path: str, leaf: Any) -> bool:
    return path.endswith("matrix")


def _matrix_only(params: Any) -> Any:
    import jax

    return jax.tree.map(lambda p: p.ndim == 2, params)


OPTIMIZERS = [
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
        {"decay": 0.5, "initial_scale": 0.5, "momentum": 0.5, "bias_correction": True},
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
    Row("adam_nesterov", gradtx.adam, optax.adam, {"b1": 0.5}, {"learning_rate": 0.1, "nesterov": True}),
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
            "mask": _matrix_only,
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

PRIMITIVES = [
    Row("ema_first_moment", gradtx.ema_first_moment, None, {"b1": 0.5, "dtype": "bfloat16"}),
    Row(
        "ema_second_moment",
        lambda **kw: gradtx.chain(gradtx.ema_second_moment(**kw), gradtx.scale_by_rms()),
        None,
        {"b2": 0.5, "initial": 0.5},
    ),
    Row(
        "ema_centered_moment",
        lambda **kw: gradtx.chain(gradtx.ema_centered_moment(**kw), gradtx.scale_by_rms(1e-3)),
        None,
        {"decay": 0.5, "initial": 0.5},
    ),
    Row(
        "sum_of_squares",
        lambda **kw: gradtx.chain(gradtx.sum_of_squares(**kw), gradtx.scale_by_rms()),
        None,
        {"initial": 0.5},
    ),
    Row("bias_correction", lambda: gradtx.chain(gradtx.ema_first_moment(), gradtx.bias_correction()), None, {}),
    Row(
        "scale_by_rms",
        lambda **kw: gradtx.chain(gradtx.ema_second_moment(), gradtx.scale_by_rms(**kw)),
        None,
        {"eps": 1e-2, "eps_root": 1e-2},
    ),
    Row("trace", gradtx.trace, optax.trace, {"decay": 0.5, "accumulator_dtype": "bfloat16"}, {"decay": 0.9}),
    Row("nesterov", lambda: gradtx.chain(gradtx.trace(0.9), gradtx.nesterov()), lambda: optax.trace(0.9, True), {}),
    Row(
        "decoupled_weight_decay",
        gradtx.decoupled_weight_decay,
        optax.add_decayed_weights,
        {"weight_decay": 0.2, "mask": _even_names},
        {"weight_decay": 0.1},
    ),
    Row(
        "add_decayed_weights",
        gradtx.add_decayed_weights,
        optax.add_decayed_weights,
        {"weight_decay": 0.2, "mask": _matrix_only},
        {"weight_decay": 0.1},
    ),
    Row("scale", gradtx.scale, optax.scale, {"step_size": 0.2}, {"step_size": 0.1}),
    Row(
        "scale_by_learning_rate",
        gradtx.scale_by_learning_rate,
        optax.scale_by_learning_rate,
        {"learning_rate": 0.2, "flip_sign": False},
        {"learning_rate": 0.1},
    ),
    Row(
        "scale_by_schedule",
        gradtx.scale_by_schedule,
        optax.scale_by_schedule,
        {"step_size_fn": gradtx.schedules.linear_schedule(0.1, 1.0, 3)},
        {"step_size_fn": gradtx.schedules.linear_schedule(0.1, 1.0, 5)},
    ),
    Row("clip", gradtx.clip, optax.clip, {"max_delta": 0.1}, {"max_delta": 0.5}),
    Row(
        "clip_by_global_norm",
        gradtx.clip_by_global_norm,
        optax.clip_by_global_norm,
        {"max_norm": 0.1},
        {"max_norm": 0.5},
    ),
    Row("identity", gradtx.identity, optax.identity, {}),
    Row(
        "scope",
        lambda **kw: gradtx.chain(gradtx.adam(0.1), gradtx.scope(gradtx.ema_first_moment(**kw))),
        None,
        {"b1": 0.5},
    ),
]

ZOO = OPTIMIZERS + PRIMITIVES
BY_NAME = {row.name: row for row in ZOO}
assert len(BY_NAME) == len(ZOO)
