"""Sophia: momentum divided by the diagonal of the Hessian."""

from __future__ import annotations

from typing import Any

from gradtx._core.chain import chain
from gradtx._core.stages import Stage
from gradtx._primitives.bias_correction import bias_correction
from gradtx._primitives.hessians import hutchinson_estimator_diag_hessian
from gradtx._primitives.moments import ema_first_moment
from gradtx._primitives.scaling import scale_by_learning_rate
from gradtx._primitives.weight_decay import decoupled_weight_decay
from gradtx._storing import stored
from gradtx._wrappers.curvature import divide_by_curvature

HUTCHINSON = hutchinson_estimator_diag_hessian()


def sophia(
    learning_rate: Any,
    b1: Any = 0.965,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-4,
    weight_decay_mask: Any = None,
    gamma: Any = 0.01,
    clip_threshold: Any = 1.0,
    update_interval: int = 10,
    hessian_diagonal_fn: Any = HUTCHINSON,
    mu_dtype: Any = None,
    verbose: bool = False,
    print_win_rate_every_n_steps: int = 0,
    *,
    storage: Any = None,
) -> Stage:
    r"""Sophia: a moving average of the gradient, divided by one of the Hessian's diagonal, clipped, and weight decay.

    By default `update` needs the loss as a function of the parameters alone: `update(grads, state, params,
    obj_fn=lambda params: loss(params, batch))`. Over several devices, let it average over them.

    Args:
        learning_rate: a number or a schedule.
        b1: the decay of the first moment, in [0, 1), may be a schedule.
        b2: the decay of the average of the curvature, in [0, 1), for each of its updates.
        eps: the smallest curvature, >= 0.
        weight_decay: decoupled, >= 0, a number or a schedule.
        weight_decay_mask: which leaves decay, as for `adamw`.
        gamma: what the curvature is multiplied by; the larger, the fewer elements are clipped.
        clip_threshold: the largest element of an update before the learning rate; None does not clip.
        update_interval: the steps from one estimate of the curvature to the next, an int >= 1.
        hessian_diagonal_fn: a transformation, gradtx's or Optax's, that gives an estimate of the Hessian's diagonal.
        mu_dtype: the dtype in which the first moment is stored; None is float32.
        verbose: whether to print the share of elements that are not clipped.
        print_win_rate_every_n_steps: after how many steps each, if `verbose`; 0: never.
        storage: how the state is kept, as in `with_storage`; None: float32.

    Returns:
        `chain(divide_by_curvature(chain(ema_first_moment(b1), bias_correction()), hessian_diagonal_fn, ...),
        decoupled_weight_decay(weight_decay), scale_by_learning_rate(learning_rate))`.

    Source:
        Liu et al., "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training",
        arXiv:2305.14342, Algorithm 3; the corrected first moment as in Optax.
    """
    every = print_win_rate_every_n_steps if verbose else 0
    direction = chain(ema_first_moment(b1, mu_dtype), bias_correction())
    return stored(
        chain(
            divide_by_curvature(direction, hessian_diagonal_fn, b2, eps, gamma, clip_threshold, update_interval, every),
            decoupled_weight_decay(weight_decay, weight_decay_mask),
            scale_by_learning_rate(learning_rate),
        ),
        storage,
    )
