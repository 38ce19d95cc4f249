"""Wrappers around a chain."""

import jax
import numpy as np
import optax

import gradtx
from rows.row import Row


def _multi_steps(learning_rate, every_k):
    widest = jax.dtypes.canonicalize_dtype(np.float64)
    steps = optax.MultiSteps(optax.adamw(learning_rate), every_k, accumulator_dtype=widest)
    return optax.GradientTransformationExtraArgs(steps.init, steps.update)


def _overflowing(**scaling):
    """Scaled so far down that the second gradient overflows when it is unscaled."""
    spike = gradtx.schedules.piecewise_constant_schedule(1.0, {1: 2.0**100, 2: 2.0**-100})
    inside = gradtx.dynamic_loss_scale(gradtx.sgd(0.1), 2.0**-40, min_scale=2.0**-41, **scaling)
    return gradtx.chain(gradtx.scale_by_schedule(spike), inside)


def _min_scale(min_scale):
    spike = gradtx.schedules.piecewise_constant_schedule(1.0, {1: 2.0**100, 2: 2.0**-100})
    inside = gradtx.dynamic_loss_scale(gradtx.sgd(0.1), 2.0**-40, min_scale=min_scale)
    return gradtx.chain(gradtx.scale_by_schedule(spike), inside)


ROWS = [
    Row(
        "accumulate_gradients",
        lambda learning_rate, every_k: gradtx.accumulate_gradients(gradtx.adamw(learning_rate), every_k),
        _multi_steps,
        {"learning_rate": 0.2, "every_k": 5},
        {"learning_rate": 0.1, "every_k": 3},
        {"learning_rate": {"every_k": 5}},
        no_complex="Optax's accumulator drops imaginary parts",
        steps_of_three=1,
    ),
    Row(
        "accumulate_gradients_1",
        lambda learning_rate: gradtx.accumulate_gradients(gradtx.sgd(learning_rate), 1),
        lambda learning_rate: optax.sgd(learning_rate),
        {"learning_rate": 0.2},
        {"learning_rate": 0.1},
    ),
    Row(
        "skip_nonfinite",
        lambda learning_rate: gradtx.skip_nonfinite(gradtx.adamw(learning_rate)),
        lambda learning_rate: optax.apply_if_finite(optax.adamw(learning_rate), 3),
        {"learning_rate": 0.2},
        {"learning_rate": 0.1},
    ),
    Row(
        "dynamic_loss_scale",
        lambda **kw: gradtx.dynamic_loss_scale(gradtx.sgd(0.1), **kw),
        None,
        {"initial_scale": 8.0, "growth_interval": 2, "growth_factor": 4.0, "max_scale": 3.0},
        {"initial_scale": 2.0},
        {"growth_factor": {"growth_interval": 2}, "max_scale": {"growth_interval": 2}},
    ),
    Row("dynamic_loss_scale_overflow", _overflowing, None, {"backoff_factor": 0.75}, steps_of_three=2),
    Row(
        "dynamic_loss_scale_minimum",
        _min_scale,
        None,
        {"min_scale": 2.0**-40},
        {"min_scale": 2.0**-41},
        steps_of_three=2,
    ),
    Row(
        "restart_every",
        lambda learning_rate, period: gradtx.restart_every(gradtx.sgd(learning_rate, momentum=0.9), period),
        None,
        {"learning_rate": 0.2, "period": 2},
        {"learning_rate": 0.1, "period": 3},
        steps_of_three=0,
    ),
    Row(
        "average_parameters",
        lambda learning_rate: gradtx.chain(gradtx.sgd(learning_rate), gradtx.average_parameters(0.9)),
        optax.sgd,
        {"learning_rate": 0.2},
        {"learning_rate": 0.1},
    ),
]
